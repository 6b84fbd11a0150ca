"""What a score proves: the shares of right answers, seen and blind, with the intervals that chance leaves.

Read this with the table of the card in mind: each cell is a share of right answers among n questions.
"""

import numpy as np

Z = 1.96  # standard deviations that hold 95 per cent of a normal distribution


def blind_score(seen: np.ndarray, blind: np.ndarray) -> np.ndarray:
    """Score the answers to the same questions, with the pictures and blind, and what seeing adds.

    The rows are seen, blind, and seen minus blind. The columns are the share, and the low and the high end of its
    interval of 95 per cent.

    Shapes:  seen (n,), blind (n,), n = questions -> (3, 3)
    Dtypes:  seen and blind bool, whether each answer is right -> float64
    Raises:  ValueError for another dtype or rank, no questions, or not as many blind as seen
    Source:  E. B. Wilson, J. Am. Stat. Assoc. 22 (1927) 209; R. G. Newcombe, Stat. Med. 17 (1998) 873, method 10
    """
    if not seen.dtype == blind.dtype == bool or seen.ndim != 1 or seen.shape != blind.shape or not len(seen):
        raise ValueError("blind_score expects two rows of True and False, one of each for each question; got "
                         f"{seen.dtype} {seen.shape} and {blind.dtype} {blind.shape}.")
    # (1) the shares of right answers
    n, share = len(seen), np.array([seen.mean(), blind.mean()])
    # (2) Wilson's interval of each share
    middle = (share + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z / (1 + Z**2 / n) * np.sqrt(share * (1 - share) / n + Z**2 / (4 * n**2))
    low, high = np.clip(middle - half, 0, 1), np.clip(middle + half, 0, 1)
    # (3) Newcombe's interval of their difference
    below, above = np.hypot(share[0] - low[0], high[1] - share[1]), np.hypot(high[0] - share[0], share[1] - low[1])
    gap = share[0] - share[1]
    return np.array([[share[0], low[0], high[0]], [share[1], low[1], high[1]], [gap, gap - below, gap + above]])
