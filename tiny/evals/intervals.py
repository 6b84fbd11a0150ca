"""How far chance alone moves a score: an interval of 95 per cent for every number that a report prints.

A run asks some questions of the many that could be asked. Other questions of the same kind would have given another
score; the interval says how far away. Read `run_folder.py` next.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

Z = 1.96  # standard deviations that hold 95 per cent of a normal distribution
SEED = 20261129  # the draws of the bootstrap are always the same, so that a report can be repeated to the last digit
DRAWS = 2000
BLOCK = 1 << 22  # numbers drawn at a time, a bound on memory
INVENTED = 0.5  # of a cluster, at either end of the scale
FLAT = 1e-6  # a lean that bends nothing
TINY = 1e-12  # a spread of conversations that is none
FEW = 10  # clusters; fewer can be alike by chance, and drawing them again shows no others


class Interval(NamedTuple):
    """A score with the low and the high end of its interval."""

    value: float
    low: float
    high: float


def wilson(right: int, asked: int) -> Interval:
    """The share of right answers, with Wilson's interval. It never leaves 0 to 1, and 0 of 20 is not "exactly 0".

    Raises:  ValueError if nothing was asked, or more were right than asked
    Source:  E. B. Wilson, J. Am. Stat. Assoc. 22 (1927) 209
    """
    if not 0 <= right <= asked or not asked:
        raise ValueError(f"wilson expects right answers among at least one that was asked; got {right} of {asked}.")
    share = right / asked
    middle = (share + Z**2 / (2 * asked)) / (1 + Z**2 / asked)
    half = Z / (1 + Z**2 / asked) * np.sqrt(share * (1 - share) / asked + Z**2 / (4 * asked**2))
    return Interval(share, max(0.0, float(middle - half)), min(1.0, float(middle + half)))


def bootstrap(values: Sequence[float] | np.ndarray, clusters: Sequence[str], least: float = 0.0,
              most: float = 1.0) -> Interval:
    """The mean of graded scores, with the interval of a bootstrap of whole clusters.

    Turns of one conversation rise and fall together: four of them tell less than four conversations do. So each draw
    gives a random weight to a conversation, with all its turns (Rubin's bootstrap, which is smoother than drawing some
    of them twice).

    Ratings crowd at one end of their scale, and a small run has none of the rare ones at the other. The draws alone do
    not know of these, and would hold the truth 86 times in 100. So half a conversation is invented at either end of the
    scale, as Jeffreys' prior does for shares.

    With fewer than FEW clusters, or where all values are equal, the interval also leaves room for the share of other
    values that could have been missed by chance, as Wilson's does: of one conversation that is four fifths of the scale
    on either side. Below FEW it holds the truth more often than 95 times in 100, not less.

    clusters: the name of each value's cluster; least, most: the ends of the scale
    Raises:  ValueError if there are no values, not as many clusters, or a value off the scale
    Source:  D. B. Rubin, Ann. Stat. 9 (1981) 130; for the ends of a scale D. L. Banks, Biometrika 75 (1988) 673
    """
    return macro(values, clusters, [("all",)] * len(clusters), least, most)


def macro(values: Sequence[float] | np.ndarray, clusters: Sequence[str], groups: Sequence[Sequence[str]],
          least: float = 0.0, most: float = 1.0) -> Interval:
    """The mean of the means of groups, where each value is in one or more groups, and its interval as `bootstrap` has
    it. Raises ValueError as `bootstrap`.
    """
    sums, sizes = added_up(values, clusters, groups, least, most)
    counts, centres = (sizes > 0).sum(axis=0), sums.sum(axis=0) / sizes.sum(axis=0)
    typical = sizes.sum(axis=0) / counts
    # (1) the mean of each draw: of what there is, and of halves of clusters at the ends of the scale
    means = []
    for weights, invented in (kept_draws if len(sizes) * DRAWS <= BLOCK else draws)(*sizes.shape):
        total = weights @ sums + (least * invented[:, 0] + most * invented[:, 1]) * typical
        means.append((total / (weights @ sizes + invented.sum(axis=1) * typical)).mean(axis=1))
    low, high = np.quantile(np.concatenate(means), (0.025, 0.975))
    # (2) the room for what was missed, in groups of few clusters or if there is no other value
    missed = np.where((counts < FEW) | (np.min(values) == np.max(values)), Z**2 / (counts + Z**2), 0.0)
    mean, lowest, highest = (one.mean() for one in (
        centres, centres - missed * (centres - least), centres + missed * (most - centres)))
    return Interval(float(mean), float(min(low, lowest, mean)), float(max(high, highest, mean)))


def added_up(values: Sequence[float] | np.ndarray, clusters: Sequence[str], groups: Sequence[Sequence[str]],
             least: float, most: float) -> np.ndarray:
    """The sum of the values of each cluster in each group, and their number. Shapes:  -> (2, clusters, groups)"""
    scores = np.asarray(values, np.float64)
    if not len(scores) or len(scores) != len(clusters) or not ((scores >= least) & (scores <= most)).all():
        raise ValueError(f"bootstrap expects at least one value from {least:g} to {most:g}, and a cluster for each; "
                         f"got {len(scores)} and {len(clusters)}.")
    places = {name: n for n, name in enumerate(dict.fromkeys(clusters))}
    labels = {label: n for n, label in enumerate(sorted({label for one in groups for label in one}))}
    found = np.zeros((2, len(places), len(labels)), np.float64)
    where = [(places[cluster], labels[label], n) for n, (cluster, one) in enumerate(zip(clusters, groups))
             for label in one]
    rows, columns, numbers = np.array(where).T
    np.add.at(found[0], (rows, columns), scores[numbers])
    np.add.at(found[1], (rows, columns), 1.0)
    return found


@lru_cache(maxsize=4)
def kept_draws(count: int, groups: int) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
    """The draws of few clusters: they are the same for every score of a report, because the seed is."""
    return tuple(draws(count, groups))


def draws(count: int, groups: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Weights of clusters, 1 on average, and those of what is invented, in blocks.

    Shapes:  -> (b, count), (b, 2, groups), b = draws of a block
    """
    rng, rows = np.random.default_rng(SEED), max(1, BLOCK // count)
    invented = rng.standard_gamma(INVENTED, (DRAWS, 2, groups))
    for first in range(0, DRAWS, rows):
        some = invented[first : first + rows]
        yield rng.standard_exponential((len(some), count)), some


def interval(values: Sequence[float], clusters: Sequence[str], least: float = 0.0, most: float = 1.0) -> Interval:
    """Wilson's interval if every value is 0 or 1 and a cluster of its own, else the bootstrap's."""
    if (least, most) == (0, 1) and set(values) <= {0.0, 1.0} and len(set(clusters)) == len(values):
        return wilson(int(sum(values)), len(values))
    return bootstrap(values, clusters, least, most)


def paired(first: Sequence[float], second: Sequence[float], clusters: Sequence[str], least: float = 0.0,
           most: float = 1.0) -> Interval:
    """How much more the second run scores on the same questions. What is hard for both cancels out, which two separate
    intervals cannot see.

    Scores from 0 to 1 mostly agree, and what a few that do not say of themselves is too sure. The bootstrap puts that
    right by the half of a pair that it invents for each side. Ratings differ by little of their scale, and such a pair
    would say more than they do: see `skewed`.

    least, most: the ends of the scale of both runs
    Raises:  ValueError as `bootstrap`, or if the runs have not as many values
    """
    if len(first) != len(second):
        raise ValueError(f"paired expects two scores for each question; got {len(first)} and {len(second)}.")
    gaps, width = np.subtract(second, first), most - least
    drawn = bootstrap(gaps, clusters, -width, width)
    sums, sizes = added_up(gaps, clusters, [("all",)] * len(clusters), -width, width)[..., 0]
    if width == 1 or len(sums) < FEW or np.ptp(sums / sizes) < TINY:
        return drawn
    low, high = skewed(sums, sizes)
    return Interval(drawn.value, max(-width, low), min(width, high))


def skewed(sums: np.ndarray, sizes: np.ndarray) -> tuple[float, float]:
    """The ends of the interval of a mean over clusters, by Student's t, which is bent as far as the clusters lean to
    one side: a second model that fails now and then makes a few large differences among many small ones.

    Shapes:  sums (clusters,), sizes (clusters,)
    Source:  P. Hall, J. R. Stat. Soc. B 54 (1992) 221, its first transformation; the t by the expansion of R. A.
             Fisher, E. A. Cornish, Technometrics 2 (1960) 209, to 0.003 from ten clusters on
    """
    mean, free = sums.sum() / sizes.sum(), len(sums) - 1
    pulls = (sums - mean * sizes) / sizes.mean()  # of each cluster on the mean, times their number
    spread = np.sqrt((pulls**2).mean())
    lean = (pulls**3).mean() / spread**3 / np.sqrt(len(sums))
    student = Z + (Z**3 + Z) / (4 * free) + (5 * Z**5 + 16 * Z**3 + 3 * Z) / (96 * free**2)
    ends = np.array([student, -student])
    bent = 3 / lean * (np.cbrt(1 + lean * (ends - lean / 6)) - 1) if abs(lean) > FLAT else ends
    low, high = mean - bent * spread / np.sqrt(free)
    return float(low), float(high)


def told_apart(difference: Interval) -> bool:
    """Whether a difference is more than chance: zero lies outside of its interval."""
    return not difference.low <= 0 <= difference.high
