"""Intervals hold the true value as often as they promise. Oracles: Wilson's formula by root finding, and simulation."""

import numpy as np
import pytest
from compare import assert_close

from tiny.evals import intervals
from tiny.evals.intervals import Z, bootstrap, interval, macro, paired, told_apart, wilson

RUNS = 2000
COVERED = (0.93, 0.97)
COUNTS = (18, 30, 90)
PLAIN, HIDDEN = 0.86, 0.90  # what a plain bootstrap covers, and ours if a run may have none of what matters


def share_covered(found, truth):
    """The share of intervals that hold the truth."""
    return np.mean([one.low <= truth <= one.high for one in found])


def conversations(rng, count=92):
    """Ratings like MM-MT-Bench's: one to four turns a conversation, which share how hard they are; their clusters."""
    turns = rng.choice([1, 2, 3, 4], count, p=[69 / 92, 18 / 92, 4 / 92, 1 / 92])
    which = np.repeat(np.arange(count), turns)
    ratings = np.clip(np.round(6 + rng.normal(0, 2, count)[which] + rng.normal(0, 1, len(which))), 1, 10)
    return ratings, [f"c{n}" for n in which]


def turns_of(rng, count, most):
    """The conversation of each turn: like MM-MT-Bench's, most have one; or 1 to 4 are as frequent."""
    often = [69 / 92, 18 / 92, 4 / 92, 1 / 92] if most == "one" else [0.25] * 4
    return np.repeat(np.arange(count), rng.choice([1, 2, 3, 4], count, p=often))


LEVELS = {"top": lambda rng, count: 10 - rng.exponential(2.0, count),
          "ceiling": lambda rng, count: 10.4 - rng.gamma(0.6, 2.5, count),
          "bottom": lambda rng, count: 1 + rng.exponential(2.0, count),
          "two kinds": lambda rng, count: np.where(rng.random(count) < 0.8, 8.5, 3.0) + rng.normal(0, 0.6, count),
          "middle": lambda rng, count: rng.normal(6, 2, count)}


def skewed_ratings(rng, count, shape, most):
    """Ratings that crowd as the shape says; turns of a conversation differ by a point. And their conversations."""
    which = turns_of(rng, count, most)
    return np.clip(np.round(LEVELS[shape](rng, count)[which] + rng.normal(0, 1, len(which))), 1, 10), which


def two_runs(rng, count, shape, most):
    """The ratings of two runs on the same skewed conversations. The second is a little worse on all, or much worse on
    some, in all their turns, where it else says the same; or it fails in one conversation of seven.
    """
    first, which = skewed_ratings(rng, count, "top", most)
    worse = {"all": 0.5, "some": np.where(rng.random(count) < 0.3, rng.exponential(2.0, count), 0.0)[which],
             "fails": np.where(rng.random(count) < 1 / 7, 5.0, 0.0)[which]}[shape]
    noise = rng.normal(0, 1, len(which)) if shape != "some" else 0.0
    return first, np.clip(np.round(first - worse + noise), 1, 10), which


def rated(rng, count, *kind):
    """The interval of one run, and the interval of the difference of two."""
    if kind[0] in LEVELS:
        ratings, which = skewed_ratings(rng, count, *kind)
        return bootstrap(ratings, list(which), 1, 10)
    first, second, which = two_runs(rng, count, *kind)
    return paired(first, second, list(which), 1, 10)


def covered(count, *kind):
    """In how many of many simulated runs the interval holds the mean of a very large one."""
    rng, truth = np.random.default_rng(count), rated_truth(*kind)
    return share_covered([rated(rng, count, *kind) for _ in range(RUNS)], truth)


def rated_truth(*kind):
    """The mean over very many conversations: of ratings, or of differences."""
    found = (skewed_ratings if kind[0] in LEVELS else two_runs)(np.random.default_rng(0), 400_000, *kind)
    return (found[0] if kind[0] in LEVELS else found[1] - found[0]).mean()


EVERY = [(count, shape, most) for count in COUNTS for shape in (*LEVELS, "all", "some")
         for most in ("one", "many")]
QUICK = [(18, "ceiling", "many"), (30, "top", "one"), (18, "some", "one")]


@pytest.mark.parametrize("kind", [one if one in QUICK else pytest.param(one, marks=pytest.mark.thorough)
                                  for one in EVERY], ids=str)
def test_small_and_skewed_runs_are_covered(kind):
    assert COVERED[0] <= covered(*kind) <= COVERED[1]


@pytest.mark.thorough
def test_what_small_runs_do_not_see_no_interval_holds():
    """One run of 18 conversations in sixteen has none of the failures. Of 90 each has some."""
    assert round(covered(18, "fails", "one"), 2) == HIDDEN
    assert COVERED[0] <= covered(90, "fails", "one") <= COVERED[1]


def test_the_classic_intervals_do_not_cover_small_and_skewed_runs(monkeypatch):
    """Two planted mistakes: a bootstrap of nothing but the ratings that are there, and a straight Student's t."""
    monkeypatch.setattr(intervals, "FLAT", 1e9)
    assert covered(18, "some", "one") < 0.9

    def draw(rng, count):
        ratings, which = skewed_ratings(rng, count, "ceiling", "many")
        return ratings, list(which)

    found = invented_nothing(monkeypatch, draw, np.random.default_rng(18), 18)
    share = share_covered(found, rated_truth("ceiling", "many"))
    assert abs(share - PLAIN) < 0.015


@pytest.mark.parametrize(("right", "asked"), [(0, 20), (20, 20), (7, 20), (52, 100), (818, 1000)])
def test_wilson_is_where_the_normal_test_turns(right, asked):
    """The ends are the shares p for which the observed one is Z standard errors of p away, found by halving."""
    share = right / asked

    def end(low, high, sign):
        for _ in range(200):
            p = (low + high) / 2
            outside = sign * (share - p) > Z * np.sqrt(p * (1 - p) / asked)
            low, high = (p, high) if outside == (sign > 0) else (low, p)
        return low

    expected = [share, end(0, share, 1), end(share, 1, -1)]
    assert_close(np.array(wilson(right, asked)), np.array(expected), 1e-12)


@pytest.mark.parametrize(("share", "asked"), [(0.52, 900), (0.2, 168), (0.9, 72)])
def test_wilson_covers(share, asked):
    right = np.random.default_rng(1).binomial(asked, share, RUNS)
    assert COVERED[0] <= share_covered([wilson(int(n), asked) for n in right], share) <= COVERED[1]


def test_the_bootstrap_covers_graded_scores():
    """VQA match of 168 answers: thirds."""
    rng, chances = np.random.default_rng(2), [0.3, 0.1, 0.1, 0.5]
    names = list(map(str, range(168)))
    found = [bootstrap(rng.choice([0, 1 / 3, 2 / 3, 1], 168, p=chances), names)
             for _ in range(RUNS)]
    assert COVERED[0] <= share_covered(found, 0.1 / 3 + 0.2 / 3 + 0.5) <= COVERED[1]


def test_the_bootstrap_covers_conversations_and_one_by_turns_does_not():
    """The mistake is planted: turns drawn as if each were a conversation of its own give intervals that are too short.
    In the second part conversations have four turns, as a benchmark of long ones would.
    """
    rng = np.random.default_rng(3)
    drawn = [conversations(rng) for _ in range(RUNS)]
    truth = np.concatenate([ratings for ratings, _ in drawn]).mean()
    found = [bootstrap(ratings, names, 1, 10) for ratings, names in drawn]
    assert COVERED[0] <= share_covered(found, truth) <= COVERED[1]
    long = [np.clip(5 + np.repeat(rng.normal(0, 2, 60), 4) + rng.normal(0, 1, 240), 1, 10) for _ in range(400)]
    truth = np.mean(long)
    whole = [bootstrap(ratings, list(np.repeat(np.arange(60), 4).astype(str)), 1, 10) for ratings in long]
    single = [bootstrap(ratings, list(map(str, range(240))), 1, 10) for ratings in long]
    assert share_covered(whole, truth) > 0.91 and share_covered(single, truth) < 0.8


@pytest.mark.parametrize(("count", "least"), [(1, 0.97), (5, 0.95), *(
    pytest.param(*one, marks=pytest.mark.thorough) for one in ((2, 0.97), (3, 0.97), (9, 0.93)))])
def test_few_conversations_promise_no_more_than_they_hold(count, least, monkeypatch):
    """Ratings as above, and such as are 2 or 9 by the conversation. The mistake is planted: draws alone, of which those
    of one conversation have no width.
    """
    rng = np.random.default_rng(count)
    for draw in (conversations, halves):
        truth = draw(rng, 10**5)[0].mean()
        found = [bootstrap(*draw(rng, count), 1, 10) for _ in range(RUNS)]
        assert share_covered(found, truth) >= least
        if count == 1:
            assert min(one.high - one.low for one in found) > 7
    monkeypatch.setattr(intervals, "FEW", 0)
    assert share_covered(invented_nothing(monkeypatch, draw, rng, count), truth) < 0.935


def invented_nothing(monkeypatch, draw, rng, count):
    """Intervals of a bootstrap that knows of nothing but what is there."""
    monkeypatch.setattr(intervals, "INVENTED", 0.0)
    intervals.kept_draws.cache_clear()
    found = [bootstrap(*draw(rng, count), 1, 10) for _ in range(RUNS)]
    intervals.kept_draws.cache_clear()
    return found


def halves(rng, count):
    """Conversations of one or two turns, half of which are rated about 2 and half about 9."""
    which = np.repeat(np.arange(count), rng.integers(1, 3, count))
    ratings = rng.choice([2.0, 9.0], count)[which] + rng.integers(-1, 2, len(which))
    return ratings, [f"c{n}" for n in which]


def test_one_conversation_tells_little():
    one = bootstrap([2.0, 9.0], ["a", "a"], 1, 10)
    assert one.value == 5.5 and one.low <= 5.5 - 4.5 * Z**2 / (1 + Z**2) and one.high >= 5.5 + 4.5 * Z**2 / (1 + Z**2)
    assert not told_apart(paired([2.0, 9.0], [7.0, 7.0], ["a", "a"], 1, 10))
    lonely = macro([5.0] + [4.0, 6.0] * 20, list(map(str, range(41))), [["a"]] + [["b"]] * 40, 1, 10)
    assert lonely.low < 4 and lonely.high > 6, "a category of one conversation makes the mean over categories unsure"


def test_students_t_against_a_published_table():
    """NIST/SEMATECH e-Handbook of Statistical Methods, table 1.3.6.7.2, column 0.975: half the length of an interval
    of clusters that lean to no side, in standard errors.
    """
    known = {9: 2.262, 11: 2.201, 15: 2.131, 29: 2.045, 59: 2.001, 99: 1.984}
    for free, expected in known.items():
        sums = np.resize([1.0, -1.0], free + 1)
        low, high = intervals.skewed(sums, np.ones(free + 1))
        assert_close(high * np.sqrt(free), expected, 0.004)
        assert_close(low, -high, 1e-12)


def test_halls_transformation_undoes_itself():
    """Oracle: his formula T + lean T^2 / 3 + lean^2 T^3 / 27 + lean / 6 gives Student's t at both ends."""
    sums = np.random.default_rng(9).exponential(size=25)
    pulls = sums - sums.mean()
    error, lean = pulls.std() / np.sqrt(24), (pulls**3).mean() / pulls.std()**3 / 5
    ts = (sums.mean() - np.array(intervals.skewed(sums, np.ones(25)))) / error
    assert_close(ts + lean * ts**2 / 3 + lean**2 * ts**3 / 27 + lean / 6, [2.064, -2.064], 0.002)


def test_the_paired_interval_covers_and_is_shorter():
    """Two planted mistakes: intervals of two separate scores subtracted, and the formula for many differences."""
    rng, found, apart = np.random.default_rng(4), [], []
    for _ in range(RUNS):
        hard = rng.random(120)
        first, second = (hard < 0.5).astype(float), (hard + rng.normal(0, 0.1, 120) < 0.55).astype(float)
        found.append(paired(first, second, list(map(str, range(120)))))
        apart.append([one.high - one.low for one in (found[-1], wilson(int(first.sum()), 120))])
    hard = np.random.default_rng(5).random(10**6)
    truth = (hard + np.random.default_rng(6).normal(0, 0.1, 10**6) < 0.55).mean() - 0.5
    assert COVERED[0] <= share_covered(found, truth) <= COVERED[1]
    gaps = rng.choice([-1.0, 0.0, 1.0], (RUNS, 60), p=[0.02, 0.94, 0.04])
    straight = [one.mean() + one.std(ddof=1) / np.sqrt(60) * Z * np.array([-1, 1]) for one in gaps]
    found = [paired(np.zeros(60), one, list(map(str, range(60)))) for one in gaps]
    assert np.mean([low <= 0.02 <= high for low, high in straight]) < COVERED[0] <= share_covered(found, 0.02)
    paired_width, alone = np.mean(apart, axis=0)
    assert paired_width < alone, "pairing takes out what is hard for both"


def test_the_means_of_groups_against_a_slow_bootstrap():
    """Oracle: the same with another generator, by hand: a weight for each conversation, and in each group half a
    conversation at either end of the scale, as long as those of the group are on average.
    """
    rng = np.random.default_rng(7)
    ratings, names = conversations(rng, 40)
    groups = [[f"kind {int(name[1:]) % 3}", f"turn {n % 2}"] for n, name in enumerate(names)]
    labels = {label for one in groups for label in one}
    inside = {label: [n for n, one in enumerate(groups) if label in one] for label in labels}
    length = {label: len(places) / len({names[n] for n in places}) for label, places in inside.items()}

    def mean_of(weight, ends):
        means = []
        for label, places in inside.items():
            low, high = (length[label] * ends(label) for _ in range(2))
            each = [weight[names[n]] for n in places]
            means.append((sum(w * ratings[n] for w, n in zip(each, places)) + low * 1 + high * 10)
                         / (sum(each) + low + high))
        return np.mean(means)

    drawn = [mean_of(dict(zip(dict.fromkeys(names), rng.exponential(size=40))), lambda _: rng.gamma(0.5))
             for _ in range(4000)]
    found = macro(ratings, names, groups, 1, 10)
    assert_close(found.value, mean_of(dict.fromkeys(names, 1.0), lambda _: 0.0), 1e-12)
    assert_close([found.low, found.high], np.quantile(drawn, (0.025, 0.975)), 0.06)
    assert_close(bootstrap(ratings, names, 1, 10), macro(ratings, names, [["one"]] * len(names), 1, 10), 1e-12)


def test_equal_values_leave_room_for_others():
    assert bootstrap([7.0] * 92, list(map(str, range(92))), 1, 10).low < 7
    one = bootstrap([0.5], ["a"])
    assert one.low < 0.2 and one.high > 0.8, "one answer proves little"
    assert not told_apart(paired([1.0, 0.0], [1.0, 0.0], ["a", "b"]))


def test_conversations_that_agree_though_their_turns_do_not():
    names = [f"c{n // 2}" for n in range(40)]
    assert not told_apart(paired([5.0] * 40, [6.0, 4.5] * 20, names, 1, 10))
    near = bootstrap([9.991] * 39 + [9.99], list(map(str, range(40))), 1, 10)
    assert near.low < near.value <= near.high


def test_equal_values_are_treated_as_wilson_does():
    assert_close(np.array(bootstrap([1.0] * 5, list("abcde"))), np.array(wilson(5, 5)), 1e-12)
    assert_close(np.array(bootstrap([0.0] * 9, list("abcdefghi"))), np.array(wilson(0, 9)), 1e-12)


def test_wilson_for_zero_and_one_the_bootstrap_for_the_rest():
    names = list(map(str, range(30)))
    assert interval([1.0] * 20 + [0.0] * 10, names) == wilson(20, 30)
    assert interval([1.0] * 20 + [1 / 3] * 10, names) == bootstrap([1.0] * 20 + [1 / 3] * 10, names)
    assert interval([1.0] * 20 + [0.0] * 10, ["a"] * 15 + names[:15]) != wilson(20, 30)


def test_blocks_of_draws_do_not_matter(monkeypatch):
    values, names = np.random.default_rng(8).random(40), list(map(str, range(40)))
    whole = bootstrap(values, names)
    monkeypatch.setattr(intervals, "BLOCK", 400)
    assert_close(bootstrap(values, names), whole, 1e-12)


@pytest.mark.parametrize("wrong", [lambda: wilson(3, 2), lambda: wilson(0, 0), lambda: wilson(-1, 2),
                                   lambda: bootstrap([], []), lambda: bootstrap([0.5], ["a", "b"]),
                                   lambda: bootstrap([1.5], ["a"]), lambda: bootstrap([float("nan")], ["a"]),
                                   lambda: paired([1.0], [1.0, 0.0], ["a"])])
def test_what_has_no_interval_is_refused(wrong):
    with pytest.raises(ValueError, match="expects"):
        wrong()
