"""The kernels of the experts against the NumPy function: every version, storage and ragged size, on the emulator."""

from collections.abc import Sequence
from functools import partial

import ml_dtypes
import numpy as np
import pytest
from compare import Different, assert_close
from emulator_case import needs_compiler, run_in_all_modes

from kernels import experts as host
from kernels.emulator import Module
from kernels.experts import VERSIONS, experts, feed_forward, floor, make_tables, run_experts
from kernels.int8 import dequantise_rows, quantise_rows
from kernels.launch import Emulator
from kernels.signature import HERE
from tiny import experts as book

pytestmark = needs_compiler
FLOAT, BF16 = np.dtype(np.float32), np.dtype(ml_dtypes.bfloat16)
STORAGES = [("float32", FLOAT), ("float32", BF16), ("bfloat16", BF16), ("bfloat16", FLOAT)]
INT8 = np.dtype(np.int8)
# Measured over the cases below: 1.2e-6 in float32; 0.014 with bfloat16 storage, of outputs up to 3.
TOLERANCE = {"float32": 5e-6, "bfloat16": 0.06}
# T, E, K, D, F: rows of whole, aligned 16 bytes; ragged ones; an expert for each token; more tokens than any block.
CASES = [(1, 8, 2, 64, 96), (1, 4, 3, 33, 70), (31, 4, 1, 10, 28), (33, 8, 3, 40, 24), (257, 8, 1, 8, 8),
         (2, 8, 2, 264, 136)]


def case(T, E, K, D, F, precision="float32", dtype=FLOAT, seed=0):
    """Arguments of `experts`; under bfloat16 the activations are bfloat16 numbers, as a model's are there."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((T, D)).astype(np.float32)
    x = x if precision == "float32" else x.astype(BF16).astype(np.float32)
    expert_ids = np.array([rng.permutation(E)[:K] for _ in range(T)])
    matrices = [[(rng.standard_normal(shape) / np.sqrt(shape[1])).astype(dtype) for _ in range(E)]
                for shape in ((F, D), (D, F), (F, D))]
    return x, expert_ids, rng.random((T, K)).astype(np.float32), *matrices


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("precision, dtype", STORAGES)
def test_against_numpy(version, precision, dtype):
    launcher = Emulator()
    for sizes in CASES if (precision, dtype) != STORAGES[3] else CASES[:2]:
        arguments = case(*sizes, precision, dtype)
        y = experts(launcher, *arguments, precision, version)
        assert y.dtype == np.float32
        assert_close(y, book.experts(*arguments), TOLERANCE[precision], name=f"experts {sizes}")


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("precision, dtype", STORAGES[:3])
def test_all_modes_give_equal_bits(version, precision, dtype):
    for sizes in CASES[:3]:
        arguments = case(*sizes, precision, dtype)
        run_in_all_modes(lambda launcher: experts(launcher, *arguments, precision, version))  # noqa: B023


@pytest.mark.parametrize("version", VERSIONS)
def test_the_experts_of_a_token_are_added_in_ascending_index(version):
    x, expert_ids, expert_weights, *w = case(*CASES[3])
    y = experts(Emulator(), x, expert_ids, expert_weights, *w, version=version)
    turned = experts(Emulator(), x, expert_ids[:, ::-1], expert_weights[:, ::-1], *w, version=version)
    assert_close(turned, y, 0.0, name="the choices in another order")


def int8_case(T, E, K, D, F, precision="float32", seed=0):
    """Arguments of `experts` with int8, its scales, and what the book makes of the numbers that they stand for."""
    x, expert_ids, expert_weights, *matrices = case(T, E, K, D, F, precision, seed=seed)
    parts = [[quantise_rows(matrix) for matrix in kind] for kind in matrices]
    whole, scales = ([[part[n] for part in kind] for kind in parts] for n in range(2))
    expected = book.experts(x, expert_ids, expert_weights, *([dequantise_rows(*part) for part in kind]
                                                             for kind in parts))
    return (x, expert_ids, expert_weights, *whole), tuple(scales), expected


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("precision", TOLERANCE)
def test_int8_against_numpy(version, precision):
    for sizes in CASES if precision == "float32" else (*CASES[:2], CASES[5]):
        arguments, scales, expected = int8_case(*sizes, precision)
        y = experts(Emulator(), *arguments, precision, version, scales)
        assert_close(y, expected, TOLERANCE[precision], name=f"experts {sizes} in int8")


@pytest.mark.parametrize("version", VERSIONS)
def test_int8_in_all_modes(version):
    for sizes in ((2, 8, 2, 272, 144), (2, 4, 3, 33, 70)):
        arguments, scales, _ = int8_case(*sizes)
        run_in_all_modes(lambda launcher: experts(launcher, *arguments, "float32", version, scales))  # noqa: B023


@pytest.mark.parametrize("split", [2, pytest.param(4, marks=pytest.mark.thorough), 8])
def test_any_number_of_warps_may_share_a_row(monkeypatch, split):
    """Whole rows of which every warp has a part, rows that end before some warps begin, and ragged ones."""
    monkeypatch.setattr(host, "split_of", lambda N, D, width: split)
    for sizes in ((2, 4, 2, 24, 2080), (1, 4, 2, 21, 48), (2, 4, 3, 33, 70)):
        arguments = case(*sizes, dtype=BF16)
        y = run_in_all_modes(lambda launcher: experts(launcher, *arguments))[0]  # noqa: B023
        assert_close(y, book.experts(*arguments), TOLERANCE["float32"], name=f"experts {sizes}, {split} warps")
        arguments, scales, expected = int8_case(*sizes)
        y = experts(Emulator(), *arguments, scales=scales)
        assert_close(y, expected, TOLERANCE["float32"], name=f"experts {sizes} in int8, {split} warps")


def test_a_token_has_the_same_bits_alone_and_among_others():
    """By one version; many tokens have another one, which adds in another order."""
    x, expert_ids, expert_weights, *w = case(5, 4, 2, 40, 1040)
    together = experts(Emulator(), x, expert_ids, expert_weights, *w, version="v4")
    for token in range(5):
        one = slice(token, token + 1)
        alone = experts(Emulator(), x[one], expert_ids[one], expert_weights[one], *w, version="v4")
        assert_close(alone, together[one], 0.0, name=f"token {token}")


@pytest.mark.parametrize("version", [*(pytest.param(version, marks=pytest.mark.thorough) for version in VERSIONS[:-1]),
                                     VERSIONS[-1]])
def test_the_network_of_a_dense_layer(version):
    for D, F in ((64, 96), (33, 70)):
        x, _, _, w1, w2, w3 = case(3, 1, 1, D, F)
        y = run_in_all_modes(lambda launcher: feed_forward(launcher, x, w1[0], w2[0], w3[0],  # noqa: B023
                                                           version=version))[0]
        assert_close(y, book.feed_forward(x, w1[0], w2[0], w3[0]), TOLERANCE["float32"], name="feed_forward")
        (x, _, _, w1, w2, w3), scales, expected = int8_case(3, 1, 1, D, F)
        y = feed_forward(Emulator(), x, w1[0], w2[0], w3[0], version=version, scales=tuple(s[0] for s in scales))
        w = [dequantise_rows(whole[0], scale[0]) for whole, scale in zip((w1, w2, w3), scales)]
        assert_close(y, book.feed_forward(x, *w), TOLERANCE["float32"], name="feed_forward in int8")


class Strict(Emulator):
    """A launcher after load: it launches and makes new arrays, and nothing else."""

    def put(self, array):
        raise AssertionError("something is uploaded")

    table = get = put


@pytest.mark.parametrize("precision", TOLERANCE)
def test_arrays_on_the_device_are_taken_and_given_as_they_are(precision):
    """What a resident model calls: tables made once, x in its stored type, and the answer in the same."""
    arguments, scales, expected = int8_case(*CASES[5], precision)
    x, expert_ids, expert_weights, *w = arguments
    tables = make_tables(Emulator(), [*w, *scales])
    x = x.astype(BF16 if precision == "bfloat16" else FLOAT)
    y = run_experts(Strict(), x, expert_ids.astype(np.int32), expert_weights, tables)
    assert y.dtype == x.dtype and tables.scaled
    assert_close(y.astype(np.float32), expected, TOLERANCE[precision], name="experts")
    assert_close(y.astype(np.float32), experts(Emulator(), *arguments, precision, scales=scales), 0.0, name="wrapped")
    one = make_tables(Emulator(), [arrays[:1] for arrays in (*w, *scales)])
    y = run_experts(Strict(), x, None, None, one)
    w, scales = [whole[0] for whole in w], [scale[0] for scale in scales]
    assert_close(y.astype(np.float32), feed_forward(Emulator(), arguments[0], *w, precision, scales=tuple(scales)), 0.0,
                 name="without ids")


# ---- mistakes

def check_host(function):
    """Small cases that a wrong host side, or wrong arguments, cannot pass."""
    for sizes in ((2, 4, 2, 48, 2096), (2, 4, 2, 33, 70)):
        arguments, scales, expected = int8_case(*sizes)
        y = function(Emulator(), *arguments, scales=scales)
        assert_close(y, expected, TOLERANCE["float32"], name="experts")


def other_scales(change):
    """The host function, with other scales than those of the matrices."""
    return lambda *arguments, scales: experts(*arguments, scales=tuple(change(list(scales))))


MISTAKES = {
    "the scale of the next row": other_scales(lambda all_of: [[np.roll(s, 1) for s in kind] for kind in all_of]),
    "the scale of another expert": other_scales(lambda all_of: [kind[::-1] for kind in all_of]),
    "the scales of w1 for w3": other_scales(lambda all_of: [all_of[0], all_of[1], all_of[0]]),
    "no scales for w2": other_scales(lambda all_of: [all_of[0], [np.ones_like(s) for s in all_of[1]], all_of[2]])}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_with_scales_are_refused(mistake):
    check_host(experts)
    with pytest.raises(Different):
        check_host(MISTAKES[mistake])


SOURCE_MISTAKES = {
    "a warp's share begins at its own lane only": ("warp % SPLIT * 32 + lane", "lane"),
    "one part of a split row is forgotten": ("part < SPLIT", "part < SPLIT - 1"),
    "the last row is left out": ("written >= D", "written >= D - 1"),
    "the scale of the next row": ("scale[row]", "scale[row + 1 - 2 * (row & 1)]"),
    "w3 has the scales of w1": ("scaled(branch, s3, row)", "scaled(branch, s1, row)"),
    "whole numbers without their sign": (" ^ 0x80808080u", ""),
    "a lower expert behind a higher one is left out": ("(found < 0 || expert < least)", "found < 0"),
    "the weight of the first choice": ("return DENSE ? 1.0f : expert_weights[pair];",
                                       "return DENSE ? 1.0f : expert_weights[pair / 2 * 2];"),
    "the hidden state of the first choice": ("hidden + pair * F, F, warp", "hidden + token * K * F, F, warp")}


@pytest.mark.parametrize("mistake", SOURCE_MISTAKES)
def test_mistakes_in_the_source_are_refused(mistake, tmp_path, monkeypatch):
    """A kernel with one of them, in a folder of its own, against the same comparison."""
    right, spoilt = SOURCE_MISTAKES[mistake]
    found = 0
    for file in ("experts.cu", "swiglu.cuh", "numbers.cuh", "ptx.cuh"):
        text = (HERE / file).read_text(encoding="utf-8")
        found += text.count(right)
        (tmp_path / file).write_text(text.replace(right, spoilt), encoding="utf-8")
    assert found == 1
    monkeypatch.setattr(host, "FILE", str(tmp_path / "experts.cu"))
    monkeypatch.setattr(host, "split_of", lambda N, D, width: 4)
    with pytest.raises(Different):
        check_host(experts)


# ---- costs, refusals

class Profiler(Emulator):
    """An emulator that counts what the accesses would cost."""

    def load(self, path, kernel, defines):
        self.module = self.modules.setdefault((path, defines), Module(path, defines=defines, profile=True))
        return partial(self.module.launch, kernel)


def loads_and_efficiency(version):
    """16-byte loads of warps, and the share of the moved bytes that is used, over all accesses of global memory."""
    T, E, K, D, F = 1, 4, 2, 256, 512
    profiler = Profiler()
    experts(profiler, *case(T, E, K, D, F, "bfloat16", BF16), "bfloat16", version)
    rows = [row for row in profiler.module.profile() if row.memory == "global"]
    used = sum(row.ideal for row in rows) / sum(row.work for row in rows)
    return sum(row.requests for row in rows if row.bytes == 16), used


def test_profile():
    """What each version says that it saves: v2 uses all bytes that move, v3 shares the loads of x among its rows."""
    pairs, D, F, numbers = 2, 256, 512, 32 * 8  # one load of a warp is 32 lanes of 8 bfloat16
    loads, used = loads_and_efficiency("v1")
    assert loads == 0 and used < 0.12
    loads, used = loads_and_efficiency("v2")
    assert loads == pairs * D * F // numbers * (3 + 2) and used > 0.98, "x, w1, w3 for each row, then hidden, w2"
    loads, used = loads_and_efficiency("v3")
    assert loads == pairs * D * F // numbers * (5 + 3) // 2 and used > 0.98, "one of x for two rows, one of hidden"
    assert loads_and_efficiency("v4") == (loads, used), "the same loads, of which more are under way"


class Guarded(Sequence):
    """Matrices of which some must not even be asked for."""

    def __init__(self, matrices, allowed):
        self.matrices, self.allowed = matrices, allowed

    def __len__(self):
        return len(self.matrices)

    def __getitem__(self, e):
        assert e in self.allowed, f"expert {e} has no tokens, but its weights were looked up"
        return self.matrices[e]


def few_experts(used):
    x, _, expert_weights, *w = case(31, 8, 1, 24, 40)
    expert_ids = np.random.default_rng(1).choice(used, (31, 1))
    return x, expert_ids, expert_weights, w


@pytest.mark.parametrize("used", [[3], [0, 7], [1, 2, 6]])
def test_an_expert_without_tokens_is_not_looked_up(used):
    x, expert_ids, expert_weights, w = few_experts(used)
    y = experts(Emulator(), x, expert_ids, expert_weights, *(Guarded(matrices, used) for matrices in w))
    assert_close(y, book.experts(x, expert_ids, expert_weights, *w), TOLERANCE["float32"], name="experts")


@pytest.mark.parametrize("version", VERSIONS)
def test_an_expert_without_tokens_is_not_read(version):
    """The others' pointers lead to a single number: checked mode would report any read behind it."""
    x, expert_ids, expert_weights, w = few_experts([1, 2, 6])
    small = np.full((1, 1), np.nan, np.float32)
    tables = [[matrices[e] if e in (1, 2, 6) else small for e in range(8)] for matrices in w]
    # The kernels take the types from the first matrix, and the sizes from these arguments.
    out = run_experts(Emulator(check=True), x, expert_ids.astype(np.int32), expert_weights,
                      host.Tables(*tables, *tables, D=24, F=40), version)
    assert_close(out, book.experts(x, expert_ids, expert_weights, *w), TOLERANCE["float32"], name="experts")


def test_weights_as_checkpoints_have_them():
    """Half precision, gaps between the numbers, types that differ, and an address that is no multiple of 16 bytes."""
    x, expert_ids, expert_weights, *w = case(3, 4, 2, 32, 48)
    expected = book.experts(x, expert_ids, expert_weights, *w)
    gaps = [[np.repeat(m, 2, axis=1)[:, ::2] for m in w[0]], [np.asfortranarray(m) for m in w[1]], w[2]]
    assert_close(experts(Emulator(), x, expert_ids, expert_weights, *gaps), expected, TOLERANCE["float32"], name="gaps")
    for dtypes in (("float16", "float16", "float16"), (BF16, FLOAT, BF16)):
        mixed = [[m.astype(dtype) for m in matrices] for matrices, dtype in zip(w, dtypes)]
        expected = book.experts(x, expert_ids, expert_weights, *mixed)
        assert_close(experts(Emulator(), x, expert_ids, expert_weights, *mixed), expected, TOLERANCE["float32"],
                     name=f"{dtypes}")


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("dtype", [FLOAT, BF16])
def test_addresses_that_are_no_multiple_of_16(version, dtype):
    x, expert_ids, expert_weights, *w = case(2, 4, 2, 32, 48, dtype=dtype)
    odd = [[np.append(dtype.type(0), m)[1:].reshape(m.shape) for m in matrices] for matrices in w]
    assert all(m.ctypes.data % 16 and m.flags.c_contiguous for matrices in odd for m in matrices)
    y = experts(Emulator(check=True), x, expert_ids, expert_weights, *odd, version=version)
    assert_close(y, book.experts(x, expert_ids, expert_weights, *w), TOLERANCE["float32"], name="odd addresses")


@pytest.mark.parametrize("version", VERSIONS)
def test_gates_that_overflow_the_exponential(version):
    x, expert_ids, expert_weights, *w = case(3, 4, 2, 32, 48)
    x *= 400
    y = experts(Emulator(), x, expert_ids, expert_weights, *w, version=version)
    expected = book.experts(x, expert_ids, expert_weights, *w)
    assert_close(y, expected, 2e-6 * float(np.abs(expected).max()), name="experts")


def test_no_tokens():
    x, expert_ids, expert_weights, *w = case(2, 4, 2, 8, 8)
    assert experts(Emulator(), x[:0], expert_ids[:0], expert_weights[:0], *w).shape == (0, 8)


@pytest.mark.parametrize("ids, weights", [((3, 2), (3, 1)), ((2, 2), (2, 2)), ((4, 2), (4, 2)), ((3,), (3, 1))])
def test_refuses_what_the_book_refuses(ids, weights):
    x, _, _, *w = case(3, 2, 2, 8, 8)
    said = []
    for function in (book.experts, lambda *arguments: experts(Emulator(), *arguments)):
        with pytest.raises(ValueError, match="experts expects") as caught:
            function(x, np.zeros(ids, int), np.zeros(weights, np.float32), *w)
        said.append(str(caught.value))
    assert said[0] == said[1]


def test_refuses():
    x, expert_ids, expert_weights, *w = case(3, 4, 2, 8, 16)
    with pytest.raises(ValueError, match="ids from 0 to 3; got 0 to 4"):
        experts(Emulator(), x, np.array([[0, 4]] * 3), expert_weights, *w)
    with pytest.raises(ValueError, match="feed_forward expects"):
        experts(Emulator(), x, expert_ids, expert_weights, w[0], w[0], w[2])
    with pytest.raises(ValueError, match=r"for x \(T, 7\)"):
        experts(Emulator(), x[:, :7], expert_ids, expert_weights, *w)
    with pytest.raises(ValueError, match="v1, v2, v3 and v4, and grouped_v1 to grouped_v3; got 'v5'"):
        experts(Emulator(), x, expert_ids, expert_weights, *w, version="v5")
    wide = [np.zeros((42000, 1), np.float32)], [np.zeros((1, 42000), np.float32)], [np.zeros((42000, 1), np.float32)]
    with pytest.raises(ValueError, match="bytes in shared memory.*use v2, v3 or v4"):
        experts(Emulator(), x[:1, :1], np.zeros((1, 1), int), expert_weights[:1, :1], *(m * 1 for m in wide),
                version="v1")


def test_refuses_scales_that_do_not_fit():
    (x, expert_ids, expert_weights, *w), scales, _ = int8_case(3, 4, 2, 8, 16)
    arguments = (Emulator(), x, expert_ids, expert_weights)
    with pytest.raises(ValueError, match="a scale for each row of int8 matrices; got none"):
        experts(*arguments, *w)
    with pytest.raises(ValueError, match=r"experts expects w1 \(N, M\) of int8; got \(16, 8\) of float32"):
        experts(*arguments, *([matrix.astype(np.float32) for matrix in kind] for kind in w), scales=scales)
    with pytest.raises(ValueError, match=r"the scales of w1 \(N,\) of float32; got \(16,\) of float64"):
        experts(*arguments, *w, scales=tuple([scale.astype(float) for scale in kind] for kind in scales))
    with pytest.raises(ValueError, match=r"scales \(F,\), \(8,\), \(F,\) for x \(T, 8\); got \(16, 8\)"):
        experts(*arguments, *w, scales=(scales[1], scales[1], scales[1]))
    tables = make_tables(Emulator(), [*w, *scales])
    with pytest.raises(ValueError, match=r"expects x \(T, 8\), and ids and weights \(T, K\); got \(3, 7\)"):
        run_experts(Emulator(), x[:, :7], expert_ids, expert_weights, tables)
    with pytest.raises(ValueError, match=r"got \(3, 8\), \(3, 2\) and \(3, 1\)"):
        run_experts(Emulator(), x, expert_ids, expert_weights[:, :1], tables)


def test_floor():
    """One token of Mixtral 8x7B, with two of eight experts: 705 MB of bfloat16, 705 million operations."""
    moved, flop = floor(T=1, K=2, D=4096, F=14336, used=2)
    assert moved == 2 * 3 * 4096 * 14336 * 2 + 2 * 4096 * 2 + 8 * 2 and flop == 2 * 6 * 4096 * 14336
    moved, _ = floor(T=1, K=2, D=4096, F=14336, used=2, weight=1, scaled=True)
    assert moved == 2 * 3 * 4096 * 14336 + 2 * 4 * (2 * 14336 + 4096) + 2 * 4096 * 2 + 8 * 2
