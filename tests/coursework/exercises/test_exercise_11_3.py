"""Exercise 11.3, the online softmax: one test for each idea. The emulator runs attention_decode_v2, which calls it.

With eight columns, 64 readers of two lanes share out the keys, four to each at a time: so 256 keys are a round, and a
reader with keys of two rounds is called twice. Two heads share the keys.
"""

import ml_dtypes
import numpy as np
from compare import assert_close
from emulator_case import needs_compiler

from tutorial.grader import emulated

pytestmark = needs_compiler
RNG = np.random.default_rng(113)
D, ROUND = 8, 256
ROUGH = 1e-2  # Coarse numbers have a test of their own, the last.
DEFINES = (f"HEAD_DIM={D}", "GROUP=2")


def totals_of(first, second, order="forward", store=np.float32):
    """The kernel on keys that have these scores for the two heads: the values (S, D), and what the kernel wrote,
    sums of weighted values (2, D), highest scores (2,) and sums of weights (2,).
    """
    scores = np.array([first, second], np.float64)
    S, name = scores.shape[1], "float" if store is np.float32 else "__nv_bfloat16"
    keys, values = np.zeros((S, 1, D), store), RNG.standard_normal((S, 1, D), np.float32).astype(store)
    keys[:, 0, :2] = scores.T
    q = np.zeros((1, 2, D), store)
    q[0, 0, 0] = q[0, 1, 1] = D**0.5
    arguments = [q, keys, values, np.array([[0, S]], np.int32), np.full((1, 1, 2, D), np.nan, np.float32),
                 np.full((1, 1, 2, 2), np.nan, np.float32), np.int32(1)]
    *_, partial, peaks = emulated.run("kernels/attention_decode.cu", "attention_decode_v2", (1, 1, 1), (128,),
                                      arguments, (f"STORE={name}", *DEFINES), order)
    return values[:, 0].astype(float), partial[0, 0], *peaks[0, 0].T


def softmax_of(first, second, order="forward", store=np.float32):
    """The kernel on keys that have these scores for the two heads, and float64: averages (2, D) and the logarithms (2,)
    of the sums of exp(score), of both.
    """
    values, total, peak, sum_ = totals_of(first, second, order, store)
    scores = np.array([first, second], np.float64)
    highest = scores.max(axis=1, keepdims=True)
    weights = np.exp(scores - highest)
    expected = weights @ values / weights.sum(axis=1, keepdims=True)
    with np.errstate(all="ignore"):
        got, sums = total / sum_[:, None], peak + np.log(sum_)
    return got, expected, sums, highest[:, 0] + np.log(weights.sum(axis=1))


def compare(first, second, what):
    """First the sums of the weights, then the averages."""
    got, expected, sums, expected_sums = softmax_of(first, second)
    assert_close(sums, expected_sums, ROUGH, name=f"logarithm of the sum of exp(score), {what}")
    assert_close(got, expected, ROUGH, name=f"average of the values, {what}")


def test_nothing_is_reported():
    """Every access is checked; what the emulator reports ends the test."""
    try:
        softmax_of(np.zeros(20), np.zeros(20), "checked")
    except emulated.Reported as report:
        raise emulated.Reported(f"got a report of the emulator: {report}") from None


def test_no_exponent_is_above_0():
    """The highest score of before is NEVER at first: the wrong difference to it is infinite."""
    _, total, _, sum_ = totals_of(np.zeros(40), np.zeros(40))
    for found, what in ((sum_, "weights"), (total, "weighted values")):
        assert_close(np.where(np.isfinite(found), 0, found), np.zeros(found.shape), 0.0,
                     name=f"sums of {what}, with 0 for all finite ones")


def test_every_weight_is_added():
    _, _, sums, expected = softmax_of(np.zeros(40), np.zeros(40))
    assert_close(sums, expected, ROUGH, name="logarithm of the sum of exp(score), of 40 equal scores")


def test_equal_scores_give_the_mean():
    compare(np.zeros(40), np.zeros(40), "of 40 equal scores")


def test_weights_are_exponentials():
    scores = RNG.standard_normal(ROUND)
    compare(scores, scores, "of one round of keys")


def test_each_head_has_its_own():
    compare(RNG.standard_normal(ROUND), 9 + 2 * RNG.standard_normal(ROUND), "of heads with other scores")


def test_large_scores_do_not_overflow():
    compare(1000 + RNG.standard_normal(100), -1000 + RNG.standard_normal(100), "of scores near 1000 and -1000")


def test_the_highest_may_be_any_key():
    """Four readers of four keys each: one key is far above the others, in each reader another one."""
    scores = np.zeros(64)
    scores[[0, 17, 34, 51]] = 200
    compare(scores, scores - 300, "of four scores of 200 among zeros")


def test_the_sum_of_before_shrinks():
    rising = np.repeat([0.0, 3.0], ROUND)
    _, _, sums, expected = softmax_of(rising, rising / 2)
    assert_close(sums, expected, ROUGH, name="logarithm of the sum of exp(score), higher in the second round")


def test_the_values_of_before_shrink():
    rising = np.repeat([0.0, 3.0], ROUND)
    got, expected, _, _ = softmax_of(rising, rising / 2)
    assert_close(got, expected, ROUGH, name="average of the values, scores higher in the second round")


def test_the_highest_score_is_kept():
    falling = np.repeat([200.0, 0.0], ROUND)
    compare(falling, falling - 100, "of scores far lower in the second round")


def test_every_column_counts():
    """A lane has four columns of float, and eight of bfloat16."""
    got, expected, _, _ = softmax_of(np.zeros(40), np.zeros(40), store=ml_dtypes.bfloat16)
    assert_close(got, expected, ROUGH, name="average of the values, of 40 equal scores, in bfloat16")


def test_digits_are_kept():
    scores = RNG.standard_normal((2, 2 * ROUND))
    got, expected, _, _ = softmax_of(*scores)
    assert_close(got, expected, 2e-6, name="average of 512 values")
