"""Exercise 5.3, shares and the balance loss: one test for each idea, on numbers that can be checked by hand."""

import numpy as np
from compare import assert_close

from tiny.training import backward as book

RNG = np.random.default_rng(53)
ROUGH = 1e-2  # Coarse numbers have a test of their own, the last.


def both(logits, expert_ids):
    """The loss and the shares."""
    return book.load_balancing(np.array(logits, np.float32), np.array(expert_ids))


def test_shares_are_of_all_choices():
    """Every expert is chosen by somebody."""
    _, shares = both(np.zeros((2, 3)), [[0, 1], [2, 1]])
    assert_close(shares, [1 / 4, 2 / 4, 1 / 4], ROUGH, name="shares of three experts in two choices of two tokens")
    _, shares = both(np.zeros((2, 4)), [[0, 1, 2], [2, 3, 1]])
    assert_close(shares, [1 / 6, 2 / 6, 2 / 6, 1 / 6], ROUGH, name="shares of four experts in three choices of two")


def test_unused_experts_are_listed():
    _, shares = both(np.zeros((2, 4)), [[2], [1]])
    assert_close(shares, [0, 1 / 2, 1 / 2, 0], ROUGH, name="shares where two of four experts are chosen")


def test_an_even_load_costs_K():
    for K, ids in ((1, [[0], [1], [2], [3]]), (2, [[0, 1], [2, 3], [1, 0], [3, 2]])):
        loss, _ = both(np.zeros((4, 4)), ids)
        assert_close(loss, K, ROUGH, name=f"loss of an even load with K = {K}")


def test_probabilities_are_of_all_experts():
    """Probabilities of 3/5, 1/5, 1/5 and of 1/5, 3/5, 1/5; both tokens choose experts 0 and 1."""
    high = np.log(3)
    loss, _ = both([[high, 0, 0], [0, high, 0]], [[0, 1], [1, 0]])
    assert_close(loss, 3 * (2 / 5 + 2 / 5), ROUGH, name="loss for two tokens, each 3/5 sure")
    loss, _ = both([[high, 0, 0], [high, 0, 0]], [[0], [0]])
    assert_close(loss, 3 * 3 / 5, ROUGH, name="loss where both choose expert 0, each 3/5 sure")
    loss, _ = both([[9, 0], [1, 0]], [[0], [0]])
    assert_close(loss, 1 / (1 + np.exp(-9)) + 1 / (1 + np.exp(-1)), ROUGH, name="loss of a sure and a less sure token")


def test_large_logits_stay_numbers():
    with np.errstate(all="ignore"):
        loss, _ = both([[800, 0], [0, 800]], [[0], [1]])
    assert_close(loss, 1, ROUGH, name="loss where two tokens are sure, one of each expert")


def test_logits_are_left_alone():
    logits, ids = np.array([[1, 2, 3], [3, 1, 0]], np.float32), np.array([[2, 1], [0, 1]])
    book.load_balancing(logits, ids)
    assert_close(logits, [[1, 2, 3], [3, 1, 0]], 0.0, name="logits afterwards")
    assert_close(ids, [[2, 1], [0, 1]], 0.0, name="expert_ids afterwards")


def test_digits_are_kept():
    logits, ids = RNG.standard_normal((7, 5)).astype(np.float32), np.array([RNG.permutation(5)[:2] for _ in range(7)])
    exponentials = np.exp(logits.astype(float))
    mean = (exponentials / exponentials.sum(axis=1, keepdims=True)).mean(axis=0)
    exact = 5 * sum((ids == e).sum() / 7 * mean[e] for e in range(5))
    assert_close(both(logits, ids)[0], exact, 2e-6, name="loss of seven tokens")
