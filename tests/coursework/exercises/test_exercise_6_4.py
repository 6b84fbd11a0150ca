"""Exercise 6.4, top-p: one test for each idea. Every draw has a generator of its own; draws are counted."""

import numpy as np
from compare import assert_close

from tiny import sampling as book

RNG = np.random.default_rng(64)
DRAWS = 200  # The rarest token that is asked for has a share of a tenth: 200 draws miss it once in 10^9 runs.
SHARES = [1 / 8, 1 / 2, 1 / 8, 1 / 4]  # so that a token's rank is not its id


def logits_of(shares):
    return np.log(np.array(shares)).astype(np.float32)


def drawn(logits, temperature=1.0, top_p=1.0, draws=DRAWS):
    """How often each token is drawn. Shapes:  (V,) -> (V,)."""
    seeds = RNG.integers(1 << 32, size=draws)
    ids = [book.sample(np.float32(logits), temperature, top_p, np.random.default_rng(seed)) for seed in seeds]
    return np.bincount(ids, minlength=len(logits))


def seen(*args, **kwargs):
    """The ids that are ever drawn."""
    return np.flatnonzero(drawn(*args, **kwargs)).tolist()


def only(found, expected, name):
    """Require that these tokens are drawn, and no others."""
    assert found == expected, f"{name}: got {found}, expected {expected}"


def test_the_likeliest_come_first():
    """Without the token that crosses top-p there would still be one: that has a test of its own."""
    found = seen(logits_of([0.2, 0.2, 0.2, 0.4]), top_p=0.45)
    assert 3 in found, f"tokens drawn of shares 0.2, 0.2, 0.2, 0.4 with top-p 0.45: got {found}, expected 3 among them"


def test_no_more_than_needed_are_kept():
    unwanted = drawn(logits_of(SHARES), top_p=0.6)[[0, 2]].sum()
    assert_close(unwanted, 0, 0.0, name="draws of the two tokens of share 1/8, where 1/2 and 1/4 hold top-p 0.6")
    unwanted = drawn(logits_of([0.13, 0.7, 0.1, 0.07]), top_p=0.75)[[2, 3]].sum()
    assert_close(unwanted, 0, 0.0, name="draws of the last two tokens of shares 0.13, 0.7, 0.1, 0.07, top-p 0.75")


def test_the_token_that_crosses_is_kept():
    only(seen(logits_of(SHARES), top_p=0.6), [1, 3], "tokens drawn with top-p 0.6")
    only(seen(logits_of(SHARES), top_p=0.3), [1], "tokens drawn with top-p 0.3")


def test_top_p_of_one_keeps_all():
    only(seen(logits_of(SHARES)), [0, 1, 2, 3], "tokens drawn with top-p 1")
    only(seen(np.zeros(4)), [0, 1, 2, 3], "tokens drawn of four equal ones with top-p 1")


def test_what_is_kept_shares_all_draws():
    """Of 1/2 and 1/4 the first gets two draws of three. Five standard deviations are allowed."""
    counts = drawn(logits_of(SHARES), top_p=0.6, draws=600)
    assert_close(counts[1] / 600, 2 / 3, 5 * (2 / 9 / 600) ** 0.5, name="share of the first of two tokens kept")


def test_a_low_temperature_sharpens():
    counts = drawn(logits_of([0.2, 0.8]), temperature=0.25)  # 1 to 256
    assert counts[0] < DRAWS / 10, (f"draws of a token of share 0.2 at temperature 0.25: got {counts[0]} of {DRAWS}, "
                                    f"expected fewer than {DRAWS // 10}")


def test_the_temperature_comes_before_the_cut():
    """Shares 0.6, 0.3 and 0.1 at temperature 4 are nearly equal: 0.40, 0.34, 0.26."""
    only(seen(logits_of([0.6, 0.3, 0.1]), temperature=4.0, top_p=0.55), [0, 1],
         "tokens drawn of shares 0.6, 0.3 and 0.1, temperature 4, top-p 0.55")


def test_equal_ones_keep_their_order():
    """Forty equal tokens: behind the twentieth there are 20 / 40, which is more than 0.49."""
    last = max(seen(np.zeros(40), top_p=0.49))
    assert last < 20, f"the last token drawn of 40 equal ones with top-p 0.49: got {last}, expected at most 19"


def test_large_logits_stay_numbers():
    try:
        found = seen([900, 20, 899], temperature=0.5, draws=100)
    except ValueError as error:  # rng.choice says so where a probability is NaN.
        raise AssertionError(f"tokens drawn of logits near 900: got none ({error}), expected [0, 2]") from None
    only(found, [0, 2], "tokens drawn of logits near 900")


def test_the_generator_decides():
    logits = RNG.standard_normal(50).astype(np.float32)
    first, again = ([book.sample(logits, 1.0, 0.9, np.random.default_rng(seed)) for seed in range(20)] for _ in "ab")
    assert_close(again, first, 0.0, name="twenty draws, repeated with generators of the same seeds")
    ids = {int(book.sample(np.zeros(4, np.float32), 1.0, 0.9, np.random.default_rng(seed))) for seed in range(20)}
    assert len(ids) > 1, f"tokens drawn of four equal ones by generators of 20 seeds: got {sorted(ids)} only"


def test_arguments_are_left_alone():
    logits = np.array([3, 1, 2], np.float32)
    book.sample(logits, 0.7, 0.9, np.random.default_rng(1))
    assert_close(logits, [3, 1, 2], 0.0, name="logits afterwards")
