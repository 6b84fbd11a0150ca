"""The kernels of the experts against the NumPy function: every version, storage and ragged size, on the emulator."""

from collections.abc import Sequence
from functools import partial

import ml_dtypes
import numpy as np
import pytest
from compare import assert_close
from emulator_case import needs_compiler, run_in_all_modes

from kernels.emulator import Module
from kernels.experts import VERSIONS, experts, floor, launch
from kernels.launch import Emulator
from tiny import experts as book

pytestmark = needs_compiler
FLOAT, BF16 = np.dtype(np.float32), np.dtype(ml_dtypes.bfloat16)
STORAGES = [("float32", FLOAT), ("float32", BF16), ("bfloat16", BF16), ("bfloat16", FLOAT)]
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
    launcher = Emulator(check=True)
    out = launcher.empty(x.shape, np.float32)
    launch(launcher, version, (x, expert_ids.astype(np.int32), expert_weights), tables, out, 40, 24)
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
    with pytest.raises(ValueError, match="v1, v2 and v3; got 'v4'"):
        experts(Emulator(), x, expert_ids, expert_weights, *w, version="v4")
    wide = [np.zeros((42000, 1), np.float32)], [np.zeros((1, 42000), np.float32)], [np.zeros((42000, 1), np.float32)]
    with pytest.raises(ValueError, match="bytes in shared memory.*use v2 or v3"):
        experts(Emulator(), x[:1, :1], np.zeros((1, 1), int), expert_weights[:1, :1], *(m * 1 for m in wide),
                version="v1")


def test_floor():
    """One token of Mixtral 8x7B, with two of eight experts: 705 MB of bfloat16, 705 million operations."""
    moved, flop = floor(T=1, K=2, D=4096, F=14336, used=2)
    assert moved == 2 * 3 * 4096 * 14336 * 2 + 2 * 4096 * 2 + 8 * 2 and flop == 2 * 6 * 4096 * 14336
