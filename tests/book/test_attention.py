"""Grouped-query attention over packed sequences, against one query and one head at a time in float64."""

import math

import numpy as np
import pytest
from compare import assert_close
from tolerances import OPS

from tiny import attention as module
from tiny.attention import QUERIES, attention

RNG = np.random.default_rng(3)


def normal(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def loops(q, keys, values, lengths, spans, causal):
    q, keys, values = (x.astype(float) for x in (q, keys, values))
    out, first = np.zeros(q.shape), 0
    H, G = q.shape[1], keys.shape[1]
    for length, (start, stop) in zip(lengths, spans):
        for n in range(length):
            end = stop - length + n + 1 if causal else stop
            for h in range(H):
                g = h // (H // G)
                scores = keys[start:end, g] @ q[first + n, h] / math.sqrt(q.shape[2])
                weights = np.exp(scores - scores.max())
                out[first + n, h] = weights / math.fsum(weights) @ values[start:end, g]
        first += length
    return out


def check(lengths, pasts, H, G, d, causal, gap=0):
    """Sequences with some keys already in the cache, and `gap` rows that belong to nobody between them."""
    spans, start = [], gap
    for length, past in zip(lengths, pasts):
        spans.append((start, start + past + length))
        start += past + length + gap
    q, keys, values = normal(sum(lengths), H, d), normal(start, G, d), normal(start, G, d)
    y = attention(q, keys, values, lengths, spans, causal)
    assert y.dtype == np.float32 and y.shape == q.shape
    assert_close(y, loops(q, keys, values, lengths, spans, causal), OPS["attention"], name="attention")


@pytest.mark.parametrize("T", [1, 2, 31, QUERIES - 1, QUERIES, QUERIES + 1, 130])
@pytest.mark.parametrize("causal", [True, False])
def test_one_sequence(T, causal):
    check([T], [0], 2, 1, 10, causal)


@pytest.mark.parametrize("H, G, d", [(4, 4, 10), (4, 2, 32), (6, 2, 2), (1, 1, 10), (6, 1, 10), (8, 2, 10)])
@pytest.mark.parametrize("causal", [True, False])
def test_groups(H, G, d, causal):
    check([3, 1, 9], [0, 0, 0], H, G, d, causal)


@pytest.mark.parametrize("lengths, pasts", [([1], [64]), ([1], [130]), ([65], [3]), ([64, 66], [1, 0]),
                                            ([5, 1, 70], [0, 9, 2]), ([1, 1, 1], [0, 31, 64])])
@pytest.mark.parametrize("causal", [True, False])
def test_with_earlier_keys(lengths, pasts, causal):
    check(lengths, pasts, 2, 1, 10, causal, gap=3)


@pytest.mark.slow
@pytest.mark.parametrize("scores", [1, 2 * 150 * 70, 1 << 20])
def test_blocks_of_images(scores, monkeypatch):
    """Blocks of 64 queries, of 70, and of as many as there are; each sequence has its own."""
    monkeypatch.setattr(module, "SCORES", scores)
    check([150, 1, 64, 65], [0, 0, 0, 0], 4, 2, 10, causal=False, gap=2)


def test_packed_equals_separate():
    lengths, stops = [1, 65, 2], [1, 66, 68]
    spans = list(zip([0, *stops], stops))
    q, keys, values = normal(68, 4, 10), normal(68, 2, 10), normal(68, 2, 10)
    packed = attention(q, keys, values, lengths, spans)
    for start, stop in spans:
        alone = attention(q[start:stop], keys[start:stop], values[start:stop], [stop - start], [(0, stop - start)])
        assert_close(packed[start:stop], alone, OPS["attention"])


@pytest.mark.parametrize("poison", [np.nan, np.inf, 1e30])
def test_what_must_not_be_seen_is_never_read(poison):
    """Rows of other sequences, and rows beyond the span, may hold anything: an untouched cache does."""
    q, keys, values = normal(70, 2, 10), normal(90, 1, 10), normal(90, 1, 10)
    clean = attention(q, keys, values, [70], [(5, 80)])
    keys[:5] = values[:5] = keys[80:] = values[80:] = poison
    assert_close(attention(q, keys, values, [70], [(5, 80)]), clean, 0.0)


@pytest.mark.parametrize("poison", [1e4, -1e4])
def test_the_future_does_not_count(poison):
    q, keys, values = normal(130, 2, 10), normal(130, 1, 10), normal(130, 1, 10)
    clean = attention(q, keys, values, [130], [(0, 130)])
    keys[70:], values[70:] = poison, poison
    dirty = attention(q, keys, values, [130], [(0, 130)])
    assert_close(dirty[:70], clean[:70], OPS["attention"])
    assert np.abs(dirty[70:] - clean[70:]).max() > 1


def test_large_scores_stay_finite():
    q, keys, values = 1e4 * normal(5, 2, 10), 1e4 * normal(5, 1, 10), normal(5, 1, 10)
    y = attention(q, keys, values, [5], [(0, 5)])
    assert np.isfinite(y).all() and np.abs(y).max() <= np.abs(values).max() * (1 + 1e-6)


def test_equal_keys_average_the_values():
    values = normal(4, 1, 10)
    y = attention(normal(4, 1, 10), np.ones((4, 1, 10), np.float32), values, [4], [(0, 4)])
    assert_close(y[:, 0], [values[: n + 1, 0].mean(axis=0, dtype=float) for n in range(4)], OPS["attention"])


@pytest.mark.parametrize("lengths, spans", [
    ([3], [(0, 3)]), ([5], [(0, 3)]), ([4], []), ([4, 0], [(0, 4), (4, 4)]), ([4], [(0, 9)]), ([4], [(-1, 4)]),
    ([4], [(2, 5)]), ([2, 2], [(0, 2)]), ([], []), ([4], [(4, 0)]), ([5, -1], [(0, 5), (5, 5)])])
def test_refuses(lengths, spans):
    with pytest.raises(ValueError, match="attention expects|argument is empty"):
        attention(normal(4, 2, 10), normal(8, 1, 10), normal(8, 1, 10), lengths, spans)
