"""Exercise 5.1, choose the experts and weigh them: one test for each idea, on logits that can be checked by hand."""

import numpy as np
from compare import assert_close
from tolerances import OPS

from tiny import router as book

LOGITS = [[1, 4, 2, 3], [0, -2, -1, -3]]
SHARES = [1 / (1 + np.exp(-1)), 1 / (1 + np.exp(1))]  # of two experts whose logits are 1 apart


def routed(logits, K=2):
    """Experts and weights for tokens whose logits are given: x is the identity."""
    logits = np.array(logits, np.float32)
    return book.route(np.eye(len(logits), dtype=np.float32), np.ascontiguousarray(logits.T), K)[1:]


def test_the_largest_are_chosen():
    experts = np.sort(routed(LOGITS)[0], axis=1)
    assert_close(experts, [[1, 3], [0, 2]], 0.0, name=f"experts, sorted, for logits {LOGITS}")


def test_the_larger_comes_first():
    assert_close(routed(LOGITS)[0], [[1, 3], [0, 2]], 0.0, name=f"experts for logits {LOGITS}")


def test_equal_logits_keep_their_order():
    logits = [[5, 5, 5, 5], [1, 5, 5, 5]]
    assert_close(routed(logits)[0], [[0, 1], [1, 2]], 0.0, name=f"experts for logits {logits}")


def test_weights_add_up_to_one():
    assert_close(routed(LOGITS)[1].sum(axis=1), [1, 1], OPS["route"], name=f"sums of weights for logits {LOGITS}")


def test_each_weight_belongs_to_its_expert():
    assert_close(routed(LOGITS)[1], [SHARES, SHARES], OPS["route"], name=f"weights for logits {LOGITS}")
