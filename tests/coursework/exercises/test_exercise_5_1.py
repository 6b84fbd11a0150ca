"""Exercise 5.1, choose the experts and weigh them: one test for each idea, on logits that can be checked by hand."""

import numpy as np
from compare import assert_close, assert_dtype
from tolerances import OPS

from tiny import router as book

LOGITS = [[1, 3, 2, 5], [0, -2, -1, -3]]  # The two best are 2 apart, with falling ids, and 1 apart, with rising ids.
SHARES = [[1 / (1 + np.exp(-gap)), 1 / (1 + np.exp(gap))] for gap in (2, 1)]
MANY = [0, 1, 1, 0, 2] * 8  # Short rows may be sorted stably by luck; a row of 40 is not.


def routed(logits, K=2):
    """Experts and weights for tokens whose logits are given: x is the identity."""
    logits = np.array(logits, np.float32)
    return book.route(np.eye(len(logits), dtype=np.float32), np.ascontiguousarray(logits.T), K)[1:]


def test_each_token_by_itself():
    together = routed(LOGITS)[0]
    for n, logits in enumerate(LOGITS):
        assert_close(together[n : n + 1], routed([logits])[0], 0.0, name=f"experts of token {n} among others")


def test_the_largest_are_chosen():
    experts = np.sort(routed(LOGITS)[0], axis=1)
    assert_close(experts, [[1, 3], [0, 2]], 0.0, name=f"experts, sorted, for logits {LOGITS}")


def test_the_larger_comes_first():
    assert_close(routed(LOGITS)[0], [[3, 1], [0, 2]], 0.0, name=f"experts for logits {LOGITS}")


def test_K_is_an_argument():
    for K in (1, 3):
        experts, weights = routed(LOGITS, K)
        assert_close(experts, [[3, 1, 2][:K], [0, 2, 1][:K]], 0.0, name=f"experts for K = {K}")
        assert_close(weights.shape, (2, K), 0.0, name=f"shape of the weights for K = {K}")


def test_equal_logits_keep_their_order():
    logits = [[5, 5, 5, 5], [1, 5, 5, 5]]
    assert_close(routed(logits)[0], [[0, 1], [1, 2]], 0.0, name=f"experts for logits {logits}")
    ids = sorted(range(40), key=lambda e: (-MANY[e], e))[:24]
    assert_close(routed([MANY], 24)[0], [ids], 0.0, name="24 experts of 40 with logits 0, 1, 1, 0, 2, 0, 1, 1, ...")


def test_weights_add_up_to_one():
    assert_close(routed(LOGITS)[1].sum(axis=1), [1, 1], OPS["route"], name=f"sums of weights for logits {LOGITS}")


def test_each_weight_belongs_to_its_expert():
    assert_close(routed(LOGITS)[1], SHARES, OPS["route"], name=f"weights for logits {LOGITS}")


def test_logits_come_back_as_they_were():
    logits = np.float32(LOGITS)
    back = book.route(np.eye(2, dtype=np.float32), np.ascontiguousarray(logits.T), 2)[0]
    assert_close(back, logits, 0.0, name="the logits that are returned")


def test_answers_are_of_their_types():
    logits, experts, weights = book.route(np.eye(2, dtype=np.float32), np.ones((4, 2), np.float32), 2)
    assert_dtype(logits, np.float32, "type of the logits")
    assert_dtype(experts, np.integer, "type of the experts' ids")
    assert_dtype(weights, np.float32, "type of the weights")
