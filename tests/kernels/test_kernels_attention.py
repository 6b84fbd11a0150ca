"""The attention kernels in the emulator, against the NumPy function on the same stored numbers."""

import ml_dtypes
import numpy as np
import pytest
from compare import assert_close
from emulator_case import Emulator, needs_compiler, run_in_all_modes

from kernels import attention as host
from tiny.attention import attention

# Measured: float32 1.2e-6 where values are at most 4. With bfloat16, rounding the result takes up to 2**-8 of it; on
# top of that v1 and v2 are off as float32, and v3, which rounds the weights, by 3.2e-3.
FLOAT32, HALF_STEP, ROUNDED_WEIGHTS = 5e-6, 2.0**-8, 1e-2
CASES = {  # lengths, earlier keys of each sequence, H, G, causal
    "one key": ([1], [0], 2, 1, True),
    "T = 31": ([31], [0], 2, 2, True),
    "T = 257": ([257], [0], 2, 1, True),
    "cache": ([33, 1, 20], [31, 64, 0], 4, 2, True),
    "wide group": ([5, 40], [60, 0], 4, 1, True),
    "images": ([33, 70, 1], [0, 0, 0], 2, 2, False),
}
CONFIGURATIONS = [("float32", 10, "v1"), ("float32", 10, "v2"), ("bfloat16", 12, "v3"), ("bfloat16", 80, "v2"),
                  ("bfloat16", 80, "v3"), ("bfloat16", 128, "v1"), ("bfloat16", 128, "v3")]


def packed(lengths, pasts, H, G, d, gap=3, seed=0):
    """Queries, keys, values and spans; keys and values that belong to no sequence are NaN."""
    rng, spans, start = np.random.default_rng(seed), [], gap
    for length, past in zip(lengths, pasts):
        spans.append((start, start + past + length))
        start += past + length + gap
    keys, values = np.full((2, start, G, d), np.nan, np.float32)
    for first, stop in spans:
        keys[first:stop], values[first:stop] = rng.standard_normal((2, stop - first, G, d))
    return rng.standard_normal((sum(lengths), H, d)).astype(np.float32), keys, values, spans


def expect(actual, q, keys, values, lengths, spans, causal, precision, version):
    """Compare with the NumPy function, which gets the numbers as they are stored."""
    if precision == "bfloat16":
        q, keys, values = (x.astype(ml_dtypes.bfloat16).astype(np.float32) for x in (q, keys, values))
    expected = attention(q, keys, values, lengths, spans, causal)
    atol, rtol = ROUNDED_WEIGHTS if version == "v3" else FLOAT32, HALF_STEP * (precision == "bfloat16")
    assert actual.dtype == np.float32
    return assert_close(actual, expected, atol, rtol, name=f"attention {version} {precision}")


@needs_compiler
@pytest.mark.parametrize("precision, d, version", CONFIGURATIONS)
def test_all_modes(precision, d, version):
    past = 5 if version == "v1" else 130  # up to three tiles of keys for v3; v1 knows no tiles
    lengths, pasts, H, G, causal = [18, 1, 33], [past, 33, 0], 4, 2, True
    q, keys, values, spans = packed(lengths, pasts, H, G, d)
    out, = run_in_all_modes(lambda launcher: host.attention_prefill(launcher, q, keys, values, lengths, spans, causal,
                                                                    precision, version))
    expect(out, q, keys, values, lengths, spans, causal, precision, version)


@needs_compiler
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("precision, d, version", CONFIGURATIONS)
def test_cases(case, precision, d, version):
    lengths, pasts, H, G, causal = CASES[case]
    q, keys, values, spans = packed(lengths, pasts, H, G, d)
    out = host.attention_prefill(Emulator(), q, keys, values, lengths, spans, causal, precision, version)
    expect(out, q, keys, values, lengths, spans, causal, precision, version)


@needs_compiler
@pytest.mark.parametrize("precision, d", [("float32", 128), ("bfloat16", 24)])
def test_other_widths(precision, d):
    """The version that ships, for other sizes of a head; of 24 columns, tensor cores take 16 twice."""
    lengths, pasts = [65, 3], [2, 0]
    q, keys, values, spans = packed(lengths, pasts, 2, 1, d)
    out = host.attention(Emulator(), q, keys, values, lengths, spans, precision=precision)
    expect(out, q, keys, values, lengths, spans, True, precision, "v3" if precision == "bfloat16" else "v2")


def with_scores(scores, R, d):
    """Queries and keys that give key s the score scores[s], for every query and head; values from a generator."""
    T, S = len(scores) // 2, len(scores)
    q = np.zeros((T, R, d), np.float32)
    q[:, :, 0] = 2.0
    keys = np.zeros((S, 1, d), np.float32)
    keys[:, 0, 0] = np.array(scores) * d**0.5 / 2
    return q, keys, np.random.default_rng(4).standard_normal((S, 1, d)).astype(np.float32)


@needs_compiler
@pytest.mark.parametrize("scores", [np.linspace(-1e4, 1e4, 130), np.linspace(1e4, -1e4, 130), [-1e30] * 129 + [1e4],
                                    [1e4] + [-1e30] * 129, [-1e30] * 130, [-1e4] * 130, [-1e30] * 70 + [-3e4] * 60],
                         ids=["rising", "falling", "last", "first", "all lowest", "all low", "later"])
@pytest.mark.parametrize("precision, d, R, version", [("float32", 10, 1, "v1"), ("float32", 10, 1, "v2"),
                                                       ("bfloat16", 80, 2, "v3")])
def test_large_scores(scores, precision, d, R, version):
    """Nothing overflows, and every row is an average, whichever key comes first and however low all scores are."""
    q, keys, values = with_scores(scores, R, d)
    T, spans = len(q), [(0, len(keys))]
    out = host.attention_prefill(Emulator(), q, keys, values, [T], spans, True, precision, version)
    expect(out, q, keys, values, [T], spans, True, precision, version)
    version = {"v3": "v2"}.get(version, version)
    out = host.attention_decode(Emulator(), q[:1], keys, values, spans, precision, version, splits=3)
    expect(out, q[:1], keys, values, [1], spans, True, precision, version)


DECODE = [("float32", 10, 1, "v1"), ("float32", 10, 1, "v2"), ("bfloat16", 128, 4, "v1"), ("bfloat16", 128, 4, "v2"),
          ("bfloat16", 80, 2, "v2")]


@needs_compiler
@pytest.mark.parametrize("precision, d, R, version", DECODE)
def test_decode_all_modes(precision, d, R, version):
    """One key, part of a split, just more than one, and a split at the end that is not full."""
    pasts = [0, 30, 32, 200]
    q, keys, values, spans = packed([1] * 4, pasts, 2 * R, 2, d)
    out, = run_in_all_modes(lambda launcher: host.attention_decode(launcher, q, keys, values, spans, precision, version,
                                                                   splits=3))
    expect(out, q, keys, values, [1] * 4, spans, True, precision, version)


@needs_compiler
@pytest.mark.parametrize("splits", [1, 7, None])
@pytest.mark.parametrize("precision, d, R, version", DECODE)
def test_decode_long(splits, precision, d, R, version):
    """Thousands of keys beside a single one; with 7 splits most of the single one's blocks have nothing to do."""
    q, keys, values, spans = packed([1, 1], [2100, 0], R, 1, d)
    out = host.attention_decode(Emulator(), q, keys, values, spans, precision, version, splits)
    expect(out, q, keys, values, [1, 1], spans, True, precision, version)


class Recorder(Emulator):
    """Notes which kernels run."""

    def launch(self, file, kernel, *args, **options):
        self.kernels = [*getattr(self, "kernels", []), kernel]
        super().launch(file, kernel, *args, **options)


@needs_compiler
def test_which_kernels_run():
    def kernels(lengths, H, causal, precision, version=None):
        launcher, (q, keys, values, spans) = Recorder(), packed(lengths, [5] * len(lengths), H, 1, 10)
        out = host.attention(launcher, q, keys, values, lengths, spans, causal, precision, version)
        expect(out, q, keys, values, lengths, spans, causal, precision, version)
        return launcher.kernels

    decode = ["attention_decode_v2", "attention_decode_v1_combine"]
    assert kernels([1, 1], 1, True, "float32") == decode
    assert kernels([1], 1, True, "float32", "v1") == ["attention_decode_v1", "attention_decode_v1_combine"]
    assert kernels([1], 1, False, "float32") == ["attention_v2"]
    assert kernels([1], 9, True, "float32") == ["attention_v2"]
    assert kernels([1, 2], 1, True, "float32") == ["attention_v2"]


def test_tiles():
    """Queries of one sequence only, never a key ahead of the last of them, longest first."""
    assert host.tiles([5, 1], [(3, 8), (10, 17)], True, 2).tolist() == [[5, 1, 10, 17], [4, 1, 3, 8], [2, 2, 3, 7],
                                                                       [0, 2, 3, 5]]
    assert host.tiles([3], [(2, 5)], False, 2).tolist() == [[0, 2, 2, 5], [2, 1, 2, 5]]


def test_floor():
    assert host.floor([3, 1], [(0, 3), (4, 9)], H=4, G=2, d=10) == (2 * 10 * (4 * 4 + 8 * 2) * 4, 4 * 10 * 4 * (6 + 5))
    assert host.floor([3], [(0, 3)], 1, 1, 2, causal=False, precision="bfloat16") == (2 * 2 * 6 * 2, 4 * 2 * 9)


def test_wrong_shapes():
    def refused(message, q, keys, lengths, spans, version=None, function=host.attention, **options):
        q, keys = np.zeros(q, np.float32), np.zeros(keys, np.float32)
        with pytest.raises(ValueError, match=message):
            function(Emulator(), q, keys, keys, lengths, spans, version=version, **options)

    refused("lengths adding up to 3", (3, 2, 4), (5, 1, 4), [2], [(0, 5)])
    refused("spans inside the 5 keys", (3, 2, 4), (5, 1, 4), [3], [(3, 6)])
    refused("spans inside the 5 keys", (1, 2, 4), (5, 1, 4), [1], [(4, 6)])
    refused("H a multiple of G", (3, 3, 4), (5, 2, 4), [3], [(0, 5)])
    refused("H a multiple of G", (3, 2, 4), (5, 1, 6), [3], [(0, 5)])
    refused("even head_dim up to 128; got 130", (3, 2, 130), (5, 1, 130), [3], [(0, 5)])
    refused("even head_dim up to 128; got 5", (3, 2, 5), (5, 1, 5), [3], [(0, 5)])
    refused("at most 64 heads", (2, 65, 2), (2, 1, 2), [2], [(0, 2)])
    refused("'v3' for float32", (2, 1, 2), (2, 1, 2), [2], [(0, 2)], version="v3")
    refused("'v4' for bfloat16", (2, 1, 2), (2, 1, 2), [2], [(0, 2)], version="v4", precision="bfloat16")
    refused("float16", (2, 1, 2), (2, 1, 2), [2], [(0, 2)], precision="float16")
    refused("at most 12288 keys; got 12300", (2, 1, 2), (12300, 1, 2), [2], [(0, 12300)], version="v1")


def test_wrong_decode():
    def refused(message, H=1, version="v2", splits=None):
        q, keys = np.zeros((1, H, 2), np.float32), np.zeros((12400, 1, 2), np.float32)
        with pytest.raises(ValueError, match=message):
            host.attention_decode(Emulator(), q, keys, keys, [(0, 12400)], "float32", version, splits)

    refused("versions v1 and v2; got 'v3'", version="v3")
    refused("at most 8 heads", H=9)
    refused("Use more splits", version="v1", splits=1)
