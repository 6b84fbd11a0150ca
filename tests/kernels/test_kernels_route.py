"""The router as kernels, through the emulator, against the NumPy function: choices, ties, and the sorting by expert."""

import ml_dtypes
import numpy as np
import pytest
from compare import assert_close
from emulator_case import needs_compiler, run_in_all_modes

from kernels import route as kernel
from tiny.numerics import round_to
from tiny.router import route

BFLOAT16, VERSIONS = ml_dtypes.bfloat16, ["v1", "v2", "v3"]
STORAGE = [("float32", np.float32), ("float32", BFLOAT16), ("bfloat16", BFLOAT16), ("bfloat16", np.float32)]
# Logits of standard deviation 1, up to 130 columns, and 4,096 of them. Measured: 1.3e-6 and 5.5e-6 (v1; 1.4e-6 v2 and
# v3), weights 3.6e-7 and 1.2e-6. Choices are compared where the next logit is further away than twice the first bound.
LOGITS, WEIGHTS = {130: 5e-6, 4096: 2e-5}, {130: 1.5e-6, 4096: 5e-6}


@pytest.fixture(params=VERSIONS)
def version(request, monkeypatch):
    """Each version, as compiled for many tokens: the third with several for a warp, also where tokens are few."""
    monkeypatch.setattr(kernel, "FEW_TOKENS", 0)
    return request.param


def case(T, D, E, dtype=np.float32):
    rng = np.random.default_rng([T, D, E])
    return rng.standard_normal((T, D)).astype(np.float32), (rng.standard_normal((E, D)) / np.sqrt(D)).astype(dtype)


def compare(version, T, D, E, K, precision="float32", dtype=np.float32):
    x, gate = case(T, D, E, dtype)
    result = run_in_all_modes(lambda launcher: kernel.route(launcher, x, gate, K, precision, version))
    expected = route(round_to(x, precision), gate, K)
    assert [array.dtype for array in result] == [np.float32, np.int64, np.float32]
    bound = LOGITS[130 if D <= 130 else 4096]
    ordered = -np.sort(-expected[0], axis=1)[:, : K + 1]
    clear = (ordered[:, :-1] - ordered[:, 1:] > 2 * bound).all(axis=1)
    assert clear.mean() > 0.97, "nearly every token must count"
    assert_close(result[0], expected[0], bound, name="logits")
    assert_close(result[1][clear], expected[1][clear], 0.0, name="expert_ids")
    assert_close(result[2], expected[2], WEIGHTS[130 if D <= 130 else 4096], name="expert_weights")


@needs_compiler
@pytest.mark.parametrize("precision, dtype", STORAGE)
@pytest.mark.parametrize("T, D, K", [(1, 64, 2), (31, 50, 1), (33, 130, 3), (257, 8, 8)])
def test_against_numpy(version, precision, dtype, T, D, K):
    compare(version, T, D, 8, K, precision, dtype)


@needs_compiler
@pytest.mark.parametrize("T, D, E, K", [(6, 4096, 8, 2), (257, 48, 4, 2), (33, 30, 4, 3), (35, 64, 64, 3),
                                        (3, 20, 64, 32)])
def test_widths_and_numbers_of_experts(version, T, D, E, K):
    compare(version, T, D, E, K)


@needs_compiler
def test_the_first_version_takes_any_number_of_experts():
    compare("v1", 5, 20, 70, 40)


@needs_compiler
@pytest.mark.parametrize("K", [1, 2, 3, 8])
def test_exact_ties_go_to_the_lower_index(version, K):
    """Small integers add up exactly in any order, and equal rows of the gate give equal logits: all is NumPy's."""
    rng = np.random.default_rng(5)
    x, gate = rng.integers(-3, 4, (33, 24)).astype(np.float32), rng.integers(-3, 4, (8, 24)).astype(np.float32)
    gate[1], gate[5], gate[7] = gate[0], gate[2], gate[2]
    result = run_in_all_modes(lambda launcher: kernel.route(launcher, x, gate, K, version=version))
    expected = route(x, gate, K)
    assert_close(result[0], expected[0], 0.0, name="logits")
    assert_close(result[1], expected[1], 0.0, name="expert_ids")
    assert_close(result[2], expected[2], WEIGHTS[130], name="expert_weights")


NAN, INF = np.nan, np.inf


@needs_compiler
@pytest.mark.parametrize("logits", [
    [5, 5, 5, 5, 5, 5, 5, 5], [0, 0, 0, 0, 0, 0, 0, 0],
    [-9, -3, -7, -5, -3, -8, -9, -4], [-1, -1, -2, -1, -2, -1, -1, -3],
    [-1e4, -3e4, -2e4, -4e4, -5e4, -6e4, -7e4, -8e4], [3e38, 1, 3e38, 2, 0, -3e38, 1, 1],
    [0, -0.0, 0, -0.0, -1, -1, -1, -1], [-0.0, 0, -1, -1, -1, -1, -1, -1],
    [1, NAN, 3, 2, NAN, 0, -1, -2], [NAN, 1, NAN, NAN, NAN, NAN, NAN, NAN], [NAN] * 8,
    [NAN, -INF, NAN, -INF, 1, NAN, NAN, NAN], [1, INF, 2, INF, 0, 0, 0, 0], [-INF] * 8,
    [INF, NAN, 1, 0, 0, 0, 0, 0]])
def test_logits_of_all_kinds(version, logits):
    """The choice is that of a stable sort of the negated logits: -0 equals 0, NaN comes after -infinity."""
    x, gate = np.ones((1, 1), np.float32), np.array(logits, np.float32)[:, None]
    for K in (1, 2, 3):
        result = run_in_all_modes(lambda launcher, K=K: kernel.route(launcher, x, gate, K, version=version))
        with np.errstate(invalid="ignore"):
            expected = route(x, gate, K)
        assert_close(result[0], expected[0], 0.0, name="logits")
        assert_close(result[1], expected[1], 0.0, name="expert_ids")
        assert_close(result[2], expected[2], WEIGHTS[130], name="expert_weights")


@needs_compiler
def test_several_tokens_for_a_warp_change_no_bit(monkeypatch):
    """Few tokens or many, and aligned or not: a token's sums have one order."""
    x, gate = case(35, 64, 8)
    storage = np.empty(x.size + 1, np.float32)
    storage[1:] = x.ravel()
    shifted = storage[1:].reshape(x.shape)
    runs = [run_in_all_modes(lambda launcher, x=x: kernel.route(launcher, x, gate, 2, version="v2"))
            for x in (x, shifted)]
    for few in (0, 512):
        monkeypatch.setattr(kernel, "FEW_TOKENS", few)
        runs.append(run_in_all_modes(lambda launcher: kernel.route(launcher, x, gate, 2)))
    for other in runs[1:]:
        for name, array, expected in zip(("logits", "expert_ids", "expert_weights"), other, runs[0]):
            assert_close(array, expected, 0.0, name=name)


@needs_compiler
@pytest.mark.parametrize("E", [8, 64])
@pytest.mark.parametrize("T, K", [(1, 2), (31, 3), (257, 1), (256, 2), (257, 2), (700, 2)])
def test_pairs_are_sorted_by_expert(E, T, K):
    """Expert 2 gets no token; the order is that of a stable sort."""
    expert_ids = np.random.default_rng([E, T, K]).integers(0, E, (T, K))
    expert_ids[expert_ids == 2] = E - 1
    check_groups(expert_ids, E)


@needs_compiler
def test_without_tokens_no_expert_has_any():
    check_groups(np.zeros((0, 2), np.int64), 8)


@needs_compiler
def test_all_tokens_to_one_expert():
    check_groups(np.full((300, 2), 7), 8)
    check_groups(np.zeros((300, 2), np.int32), 8)


def check_groups(expert_ids, E):
    counts, offsets, order = run_in_all_modes(lambda launcher: kernel.group_by_expert(launcher, expert_ids, E))
    assert counts.dtype == offsets.dtype == order.dtype == np.int32
    expected = np.bincount(expert_ids.ravel(), minlength=E)
    assert counts.tolist() == expected.tolist() and offsets.tolist() == [0, *np.cumsum(expected)]
    assert order.tolist() == np.argsort(expert_ids.ravel(), kind="stable").tolist()


@pytest.mark.parametrize("version", VERSIONS)
def test_refuses(version):
    x, gate = case(2, 4, 4)
    for K in (0, -1, 5):
        with pytest.raises(ValueError, match=f"between 1 and 4 experts per token; got {K}"):
            kernel.route(None, x, gate, K, version=version)
    with pytest.raises(ValueError, match="The last axes must agree"):
        kernel.route(None, x, gate[:, :3], 2, version=version)


def test_refuses_what_registers_do_not_hold():
    for E, K in ((65, 2), (64, 33)):
        with pytest.raises(ValueError, match=f'got {E} and {K}. Use version "v1"'):
            kernel.route(None, *case(2, 4, E), K)
    with pytest.raises(ValueError, match="v1, v2 and v3; got 'v4'"):
        kernel.route(None, *case(2, 4, 8), 2, version="v4")
    for E in (0, 65):
        with pytest.raises(ValueError, match=f"between 1 and 64 experts; got {E}"):
            kernel.group_by_expert(None, np.zeros((2, 2), np.int64), E)


def test_floor():
    """4,096 tokens of Mixtral in bfloat16: 32 MiB of x, 64 KiB of gate, and 12 numbers of 4 bytes for each token."""
    assert kernel.floor(4096, 4096, 8, 2, "bfloat16", 2) == ((32 << 20) + (64 << 10) + 4096 * 48, 2 * 4096 * 4096 * 8)
