"""The weights between patches: against the book's attention, and what is refused."""

import numpy as np
import pytest
from compare import assert_close
from tolerances import OPS

from tiny.attention import attention
from tiny.tools.looking import image_weights

RNG = np.random.default_rng(8)


@pytest.mark.parametrize("lengths", [[5], [1, 4, 2], [3, 3], [1] * 6])
def test_weights_times_values_are_attention(lengths):
    N, stops = sum(lengths), np.cumsum(lengths).tolist()
    q, k, v = (RNG.standard_normal((N, 1, 8)).astype(np.float32) for _ in range(3))
    expected = attention(q, k, v, lengths, list(zip([0, *stops], stops)), causal=False)[:, 0]
    weights = image_weights(q[:, 0], k[:, 0], lengths)
    assert weights.dtype == np.float32 and weights.shape == (N, N)
    assert_close(weights @ v[:, 0], expected, OPS["attention"], name="answers")


@pytest.mark.parametrize("lengths", [[2, 2], [], [5, 0], [6, -1]])
def test_lengths_add_up_to_the_patches(lengths):
    x = np.ones((5, 4), np.float32)
    with pytest.raises(ValueError, match="lengths of at least 1 that add up to the patches; got"):
        image_weights(x, x, lengths)


def test_a_query_and_a_key_for_each_patch():
    x = np.ones((5, 4), np.float32)
    with pytest.raises(ValueError, match=r"a query and a key for each patch.*k \(4, 4\)"):
        image_weights(x, x[1:], [5])
    for wrong in (x.astype(np.float64), x[None]):
        with pytest.raises(ValueError, match="image_weights"):
            image_weights(wrong, x, [5])
        with pytest.raises(ValueError, match="image_weights"):
            image_weights(x, wrong, [5])
