"""The grouped product of the experts, through the emulator, against NumPy: tiles, SwiGLU, the weighted sum."""

import numpy as np
import pytest
from compare import Different, assert_close
from emulator_case import needs_compiler, run_in_all_modes

from kernels import experts as host
from kernels import grouped as kernel
from kernels.cases import kernels_of
from kernels.emulator import Report
from kernels.int8 import dequantise_rows, quantise_rows
from kernels.launch import Cuda, Emulator
from kernels.signature import HERE
from kernels.storage import to_store
from tests.kernels.test_kernels_experts import TOLERANCE
from tests.kernels.test_kernels_experts import case as exact_case
from tests.kernels.test_kernels_linear import BF16, FLOAT
from tests.kernels.test_kernels_linear_prompt import Named
from tests.kernels.test_launch import pretended  # noqa: F401
from tiny import experts as book

INT8 = np.dtype(np.int8)
FORMS = [*((version, precision, dtype) for version in ("v1", "v2") for precision, dtype in (
    ("float32", FLOAT), ("float32", BF16), ("bfloat16", BF16), ("float32", INT8), ("bfloat16", INT8))),
    ("v3", "bfloat16", BF16), ("v3", "bfloat16", INT8)]
# T, E, K, D, F: one token; ragged rows; two tiles of an expert; more experts than tokens; an expert for each choice.
CASES = [(1, 8, 2, 64, 96), (31, 4, 3, 33, 70), (200, 3, 2, 136, 72), (5, 16, 1, 24, 40), (20, 2, 2, 40, 132)]


def case(T, E, K, D, F, precision="float32", dtype=FLOAT):
    """Arguments of `experts`, and what the book gives; scales of int8 matrices come last, or None."""
    x, expert_ids, expert_weights, *w = exact_case(T, E, K, D, F, precision, FLOAT if dtype == INT8 else dtype)
    scales = None
    if dtype == INT8:
        parts = [[quantise_rows(matrix) for matrix in matrices] for matrices in w]
        w, scales = ([[part[n] for part in matrices] for matrices in parts] for n in (0, 1))
        exact = [[dequantise_rows(*part) for part in matrices] for matrices in parts]
    else:
        exact = w
    return (x, expert_ids, expert_weights, *w), scales, exact


def run(launcher, arguments, scales, precision, version):
    return host.experts(launcher, *arguments, precision, f"grouped_{version}", scales)


def quick(forms):
    """Forms of which only one for each version and type of weights is quick; .ci/run has the others."""
    few = (FORMS[0], FORMS[5], FORMS[9], *FORMS[-2:])
    return [pytest.param(*form, marks=[] if form in few else pytest.mark.thorough) for form in forms]


@needs_compiler
@pytest.mark.parametrize("version, precision, dtype", quick(FORMS))
def test_against_numpy(version, precision, dtype):
    launcher = Emulator()
    for sizes in CASES:
        arguments, scales, exact = case(*sizes, precision, dtype)
        y = run(launcher, arguments, scales, precision, version)
        assert_close(y, book.experts(*arguments[:3], *exact), TOLERANCE[precision], name=f"experts {sizes}")


@needs_compiler
@pytest.mark.parametrize("version, precision, dtype", quick(FORMS))
def test_one_expert_for_every_token(version, precision, dtype):
    launcher = Emulator()
    for sizes in ((150, 1, 1, 136, 72), (19, 1, 1, 33, 70)):
        (x, _, _, *w), scales, exact = case(*sizes, precision, dtype)
        scales = scales and tuple(scale for scale, in scales)
        y = host.feed_forward(launcher, x, *(matrix for matrix, in w), precision, f"grouped_{version}", scales)
        expected = book.feed_forward(x, *(matrix for matrix, in exact))
        assert_close(y, expected, TOLERANCE[precision], name=f"feed_forward {sizes}")


@needs_compiler
@pytest.mark.parametrize("version, precision, dtype", quick([FORMS[0], FORMS[5], FORMS[7], *FORMS[-2:]]))
def test_all_modes_give_equal_bits(version, precision, dtype):
    for sizes in CASES[1:3]:
        arguments, scales, _ = case(*sizes, precision, dtype)
        run_in_all_modes(lambda launcher: run(launcher, arguments, scales, precision, version))  # noqa: B023


@needs_compiler
@pytest.mark.parametrize("version, precision", [("v1", "float32"), ("v2", "float32"), ("v3", "bfloat16")])
def test_a_token_has_the_same_bits_alone_and_whatever_the_order_of_its_experts(version, precision):
    (x, ids, weights, *w), _, _ = case(70, 4, 3, 40, 24, precision, FLOAT if precision == "float32" else BF16)
    launcher = Emulator()
    y = run(launcher, (x, ids, weights, *w), None, precision, version)
    turned = run(launcher, (x, ids[:, ::-1], weights[:, ::-1], *w), None, precision, version)
    assert_close(turned, y, 0.0, name="the choices in another order")
    few = run(launcher, (x[40:43], ids[40:43], weights[40:43], *w), None, precision, version)
    assert_close(few, y[40:43], 0.0, name="three tokens")


@needs_compiler
@pytest.mark.parametrize("version, dtype", [("v2", FLOAT), ("v3", BF16), ("v3", INT8)])
def test_addresses_that_are_no_multiple_of_16(version, dtype):
    precision = "float32" if version == "v2" else "bfloat16"
    (x, ids, weights, *w), scales, exact = case(20, 2, 1, 32, 48, precision, dtype)
    odd = [[np.append(matrix.dtype.type(0), matrix)[1:].reshape(matrix.shape) for matrix in matrices] for matrices in w]
    y = run(Emulator(check=True), (x, ids, weights, *odd), scales, precision, version)
    assert_close(y, book.experts(x, ids, weights, *exact), TOLERANCE[precision], name="odd addresses")


@needs_compiler
@pytest.mark.parametrize("version", kernel.VERSIONS)
def test_an_expert_without_tokens_is_not_read(version):
    """The others' pointers lead to a single number: checked mode would report any read behind it."""
    (x, _, weights, *w), _, exact = case(40, 8, 1, 24, 40, "bfloat16", BF16)
    ids = np.random.default_rng(1).choice([1, 6], (40, 1)).astype(np.int32)
    small = np.full((1, 1), np.nan, BF16)
    used = [[matrices[e] if e in (1, 6) else small for e in range(8)] for matrices in w]
    tables = host.Tables(*used, *used, D=24, F=40)
    y = kernel.run_grouped(Emulator(check=True), x.astype(BF16), ids, weights, tables, version).astype(np.float32)
    assert_close(y, book.experts(x, ids, weights, *exact), TOLERANCE["bfloat16"], name="experts")


@needs_compiler
def test_no_tokens():
    (x, ids, weights, *w), _, _ = case(2, 4, 2, 8, 8)
    assert run(Emulator(), (x[:0], ids[:0], weights[:0], *w), None, "float32", "v2").shape == (0, 8)
    tables = host.make_tables(Emulator(), w)
    assert kernel.run_grouped(Emulator(), x[:0], ids[:0].astype(np.int32), weights[:0], tables).shape == (0, 8)
    y = kernel.run_grouped(Emulator(), x, ids[:, :0].astype(np.int32), weights[:, :0], tables)
    assert_close(y, np.zeros((2, 8), np.float32), 0.0, name="no experts")


def test_the_number_of_tokens_chooses():
    chosen = {}
    for T in (4, 8, 9):
        for precision, dtype in (("float32", FLOAT), ("bfloat16", FLOAT), ("bfloat16", BF16)):
            arguments, _, _ = case(T, 8, 2, 16, 8, precision, dtype)
            launcher = Named()
            host.experts(launcher, *arguments, precision)
            chosen[T, precision, dtype.name] = launcher.names
    assert {name for T in (4, 8) for key, names in chosen.items() if key[0] == T for name in names} == {
        "experts_v4", "experts_v4_down"}
    for dtype, version in (("float32", "v2"), ("bfloat16", "v3")):
        assert chosen[9, "bfloat16", dtype] == ["route_v3_count", "route_v3_place", f"grouped_{version}",
                                                f"grouped_{version}_down", "grouped_v2_add"]
    x, w1, w2, w3 = np.zeros((17, 16), np.float32), *(np.zeros(shape, BF16) for shape in ((8, 16), (16, 8), (8, 16)))
    launcher = Named()
    host.feed_forward(launcher, x, w1, w2, w3, "bfloat16")
    host.feed_forward(launcher, x[:3], w1, w2, w3, "bfloat16")
    host.feed_forward(launcher, x[:2], w1, w2, w3, "bfloat16")
    assert launcher.names == ["grouped_v3", "linear_v5", "grouped_v3", "linear_v3", "experts_v4", "experts_v4_down"]


@needs_compiler
@pytest.mark.parametrize("version, dtype", [("v2", FLOAT), ("v3", INT8)])
def test_a_device_is_only_asked_to_launch(pretended, version, dtype):  # noqa: F811
    """Arrays that lie on a device stay there: no copy either way, no wait; another prompt has its own offsets."""
    gpu, precision = Cuda(), "float32" if version == "v2" else "bfloat16"
    (x, ids, weights, *w), scales, exact = case(70, 3, 2, 40, 24, precision, dtype)
    tables = host.make_tables(gpu, [[gpu.put(matrix) for matrix in matrices] for matrices in (*w, *(scales or ()))])
    for turn in (0, 7):
        chosen = np.roll(ids, turn, axis=0)
        placed = [gpu.put(array) for array in (to_store(x, precision), chosen.astype(np.int32), weights)]
        before = dict(pretended)
        y = host.run_experts(gpu, *placed, tables)
        assert {name: pretended[name] - before[name] for name in ("uploads", "downloads", "waits")} == {
            "uploads": 0, "downloads": 0, "waits": 0}
        expected = book.experts(x, chosen, weights, *exact)
        assert_close(gpu.get(y).astype(np.float32), expected, TOLERANCE[precision], name=f"turned by {turn}")


@needs_compiler
@pytest.mark.parametrize("dtype", [BF16, INT8])
def test_blocks_with_twice_the_rows_give_the_same_bits(monkeypatch, dtype):
    arguments, scales, _ = case(31, 4, 3, 33, 70, "bfloat16", dtype)
    expected = run(Emulator(), arguments, scales, "bfloat16", "v3")
    monkeypatch.setattr(kernel, "tile_rows", lambda tiles, rows: 256)
    y = run_in_all_modes(lambda launcher: run(launcher, arguments, scales, "bfloat16", "v3"))[0]
    assert_close(y, expected, 0.0, name="experts")


@pytest.mark.parametrize("counts", [[0, 0, 5], [128, 0, 0], [129, 1, 1], [1, 1, 1], [127, 129, 256], [300]])
def test_there_are_blocks_for_every_tile(counts):
    """Also for the counts that need most of them."""
    needed = sum(-(-count // kernel.TILE) for count in counts)
    most = kernel.tiles_of("v3", sum(counts), len(counts))
    assert needed <= most <= needed + len(counts)
    assert kernel.tiles_of("v3", 3, 8) == 3 and kernel.tiles_of("v3", 129 + 1 + 1, 3) == 4


def test_the_kernels_are_those_of_the_versions():
    assert set(kernels_of(kernel.FILE)) == {f"grouped_{name}" for name in (
        *kernel.VERSIONS, "v1_down", "v2_down", "v3_down", "v1_add", "v2_add")}


def test_refuses():
    (x, ids, weights, *w), _, _ = case(3, 4, 2, 8, 16)
    for version, words in (("v4", "got 'v4' for float32"), ("v3", "int8, v3; got 'v3' for float32 with float32")):
        with pytest.raises(ValueError, match=words):
            run(Emulator(), (x, ids, weights, *w), None, "float32", version)
    tables = host.make_tables(Named(), w)
    with pytest.raises(ValueError, match=r"expects x \(T, 8\); got \(3, 7\)"):
        kernel.run_grouped(Named(), x[:, :7], ids, weights, tables)
    with pytest.raises(ValueError, match=r"ids and weights \(T, K\) .* got \(3, 2\) and \(3, 1\)"):
        kernel.run_grouped(Named(), x, ids, weights[:, :1], tables)


# ---- mistakes

GATHER = ("x + (size_t)(DENSE ? group.first + i : order[group.first + i] / K) * D; }, group.count,\n"
          "           [=](int row) { return ")
SOURCE_MISTAKES = {
    "answers without their weight": ("scales[i] * expert_weights[pair]", "scales[i]"),
    "the weight of the place": ("scales[i] * expert_weights[pair]", "scales[i] * expert_weights[group.first + at]"),
    "answers go to the place": ("answers + (size_t)pair * D + d", "answers + (size_t)(group.first + at) * D + d"),
    "tokens by place": (GATHER + "interleaved<8>", GATHER.replace("order[group.first + i] / K", "(group.first + i) / K")
                        + "interleaved<8>"),
    "the second tile begins as the first": ("offsets[e] + tile * TILE, left", "offsets[e], left"),
    "every expert before has one tile": ("tile -= (offsets[e + 1] - offsets[e] + TILE - 1) / TILE", "tile -= 1"),
    "a tile has tokens of the next expert": ("min(TILE, left)}", "min(TILE, offsets[E] - first)}"),
    "gate and branch change places": ("(row / EACH % 2 ? w3 : w1)", "(row / EACH % 2 ? w1 : w3)"),
    "the gate without SiLU": ("hidden[m][n][i] = silu(sums[m][2 * n][i] * one[i % 2])",
                              "hidden[m][n][i] = (sums[m][2 * n][i] * one[i % 2])"),
    "the gate's scale for both": ("load_some(s3 + f, F - f", "load_some(s1 + f, F - f"),
    "scales of the first rows": ("load_some(scale + d, D - d", "load_some(scale + d % 32, D - d"),
    "one expert of each token": ("ids[rank] > last && ", "ids[rank] >= last && ")}
QUICK = "answers without their weight"  # the others are for .ci/run


def check_host(launcher, version):
    for dtype in (BF16, INT8):
        for sizes in ((200, 3, 2, 72, 40), (31, 4, 3, 33, 70)):
            arguments, scales, exact = case(*sizes, "bfloat16", dtype)
            y = run(launcher, arguments, scales, "bfloat16", version)
            assert_close(y, book.experts(*arguments[:3], *exact), TOLERANCE["bfloat16"], name=f"experts {sizes}")


@needs_compiler
@pytest.mark.parametrize("mistake", [pytest.param(name, marks=[] if name == QUICK else pytest.mark.thorough)
                                     for name in SOURCE_MISTAKES])
def test_mistakes_in_the_source_are_refused(mistake, tmp_path, monkeypatch):
    """A kernel with one of them, in a folder of its own, against the same comparison, in checked mode."""
    right, spoilt = SOURCE_MISTAKES[mistake]
    found = 0
    for file in ("grouped.cu", "swiglu.cuh", "tile.cuh", "numbers.cuh", "ptx.cuh"):
        text = (HERE / file).read_text(encoding="utf-8")
        found += text.count(right)
        (tmp_path / file).write_text(text.replace(right, spoilt), encoding="utf-8")
    assert found == 1
    monkeypatch.setattr(kernel, "FILE", str(tmp_path / "grouped.cu"))
    with pytest.raises((Different, Report)):
        check_host(Emulator(check=True), "v3")


@needs_compiler
def test_offsets_of_the_last_prompt_are_refused(monkeypatch):
    """Sorted once and never again: right for the first prompt, wrong for the next one."""
    first, _, _ = case(31, 4, 3, 40, 24)
    second = (first[0][::-1].copy(), np.roll(first[1], 7, axis=0), *first[2:])
    sorted_once, launcher = {}, Emulator()

    def check(arguments):
        y = run(launcher, arguments, None, "float32", "v2")
        assert_close(y, book.experts(*arguments), TOLERANCE["float32"], name="experts")

    check(second)
    group = kernel.group_by_expert
    monkeypatch.setattr(kernel, "group_by_expert", lambda *arguments: sorted_once.setdefault(0, group(*arguments)))
    check(first)
    with pytest.raises(Different):
        check(second)
