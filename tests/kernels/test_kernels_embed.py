"""What a model reads before its layers, as kernels: rows by ids, patches among words, angles, the next position."""

import ml_dtypes
import numpy as np
import pytest
from compare import Different, assert_close
from emulator_case import needs_compiler, run_in_all_modes

from kernels import embed, positions, splice
from kernels.cases import kernels_of
from kernels.cases.tokens import book_advance
from kernels.launch import Emulator
from kernels.signature import HERE
from tests.kernels.test_kernels_experts import Profiler
from tiny.adapter import splice as book_splice
from tiny.kv_cache import KVCache
from tiny.rope import rope_table
from tiny.rope_2d import patch_positions, rope_2d_table

STORES = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16}
IMAGE = 10
# Rows are copied, and angles rounded once from float64: nothing may differ.
EXACT = 0.0


def table(V, D, dtype, seed=0):
    return np.random.default_rng([V, D, seed]).standard_normal((V, D)).astype(dtype)


def shifted(array):
    """The same numbers, one number past a multiple of 16 bytes."""
    room = np.empty(array.size + 1, array.dtype)[1:].reshape(array.shape)
    room[...] = array
    return room


# ---- rows by ids

@needs_compiler
@pytest.mark.parametrize("version", embed.VERSIONS)
@pytest.mark.parametrize("precision", STORES)
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16, np.float16])
def test_rows_of_a_table(version, precision, dtype):
    for T, V, D in ((1, 1, 1), (7, 5, 264), (3, 9, 77), (2, 4, 2052), (40, 3, 12)):
        weights, ids = table(V, D, dtype), np.random.default_rng(T).integers(0, V, T)
        rows, = run_in_all_modes(lambda launcher: embed.embed(
            launcher, ids, weights, precision, version))  # noqa: B023
        expected = weights[ids].astype(STORES[precision]).astype(np.float32)
        assert rows.dtype == np.float32
        assert_close(rows, expected, EXACT, name=f"embed {T, V, D}")


@needs_compiler
def test_rows_that_begin_between_sixteen_bytes():
    for dtype in STORES.values():
        weights, ids = shifted(table(5, 16, dtype)), np.array([4, 0], np.int32)
        for precision in STORES:
            rows, = run_in_all_modes(lambda launcher: embed.run_embed(
                launcher, ids, weights, precision))  # noqa: B023
            assert rows.dtype == STORES[precision]
            assert_close(rows, weights[ids].astype(rows.dtype), EXACT, name="shifted")
    assert embed.embed(Emulator(), ids[:0], weights).shape == (0, 16)


# ---- patches among words

def prompt(T, D, precision, seed=0):
    """Text, ids of which some are [IMG], and a row for each of those."""
    rng = np.random.default_rng([T, D, seed])
    ids = rng.integers(IMAGE - 1, IMAGE + 2, T)
    return table(T, D, STORES[precision]), ids, table(int((ids == IMAGE).sum()), D, STORES[precision], 1)


@needs_compiler
@pytest.mark.parametrize("version", splice.VERSIONS)
@pytest.mark.parametrize("precision", STORES)
@pytest.mark.parametrize("T, D", [(1, 1), (33, 64), (70, 9), (2100, 3)])
def test_patches_take_the_rows_of_their_tokens(version, precision, T, D):
    text, ids, features = prompt(T, D, precision)
    before = text.tobytes()
    out, = run_in_all_modes(lambda launcher: splice.splice(launcher, text, ids, features, IMAGE, precision, version))
    expected = book_splice(text.astype(np.float32), ids, features.astype(np.float32), IMAGE)
    assert_close(out, expected, EXACT, name="splice")
    assert text.tobytes() == before, "the text is another array"


@needs_compiler
@pytest.mark.parametrize("version", splice.VERSIONS)
def test_a_prompt_of_text_and_one_of_patches(version):
    text, features = table(37, 8, np.float32), table(37, 8, np.float32, 1)
    words, = run_in_all_modes(lambda launcher: splice.splice(
        launcher, text, np.full(37, IMAGE + 1), features[:0], IMAGE, version=version))
    assert_close(words, text, EXACT, name="text alone")
    images, = run_in_all_modes(lambda launcher: splice.splice(
        launcher, shifted(text), np.full(37, IMAGE), shifted(features), IMAGE, version=version))
    assert_close(images, features, EXACT, name="patches alone")


# ---- angles

@needs_compiler
@pytest.mark.parametrize("d, theta", [(128, 1e6), (64, 1e9), (2, 1e4), (10, 0.5)])
def test_angles_are_numpys_to_the_last_bit(d, theta):
    """Every thousandth position up to the farthest, the first ones, and those where a quarter of a circle is near."""
    near = np.rint(np.arange(1, 2000, 7) * np.pi / 2).astype(np.int64)
    places = np.concatenate([np.arange(70), near, np.arange(0, positions.FARTHEST, 997), [positions.FARTHEST]])
    found = run_in_all_modes(lambda launcher: positions.rope_table(launcher, places, d, theta))
    for name, actual, expected in zip(("cos", "sin"), found, rope_table(places, d, theta), strict=True):
        assert actual.dtype == np.float32
        assert_close(actual, expected, EXACT, name=name)


@needs_compiler
@pytest.mark.thorough
def test_angles_of_every_position_of_a_release():
    """131,072 positions of 64 pairs: of the 16.8 million numbers none differs from NumPy's."""
    launcher, different = Emulator(), 0
    for places in np.array_split(np.arange(131072, dtype=np.int32), 8):
        found, expected = positions.rope_table(launcher, places, 128, 1e6), rope_table(places, 128, 1e6)
        different += sum(int((actual != wanted).sum()) for actual, wanted in zip(found, expected))
    assert different == 0


@needs_compiler
@pytest.mark.parametrize("grids", [[(1, 1)], [(3, 2), (1, 5), (64, 3)]])
@pytest.mark.parametrize("d", [4, 64, 132])
def test_angles_of_patches(grids, d):
    found = run_in_all_modes(lambda launcher: positions.rope_2d_table(launcher, grids, d, 1e4))
    for actual, expected in zip(found, rope_2d_table(patch_positions(grids), d, 1e4), strict=True):
        assert_close(actual, expected, EXACT, name=f"angles of {grids}")


# ---- the next token

@needs_compiler
def test_a_step_leaves_what_the_cache_of_numpy_has():
    """Three sequences write tokens; the second ends after the first of them."""
    cache = KVCache(1, 1, 2, [6, 4, 9])
    cache.advance([2, 3, 5])
    starts = np.array([slot.start for slot in cache.slots], np.int32)
    lengths = np.array(cache.lengths, np.int32)
    rows, used = starts + lengths, np.zeros(3, np.int32)
    spans = np.stack([starts, rows + 1], axis=1)
    places, launcher = lengths.copy(), Emulator(check=True)
    for going in ([1, 1, 1], [1, 0, 7], [1, 0, 1]):
        alive = [n for n in range(3) if going[n]]
        part, row = cache.subset(alive), np.zeros((len(alive), 1, 2), np.float32)
        wanted = part.append(0, row, row, [1] * len(alive))
        assert [tuple(spans[n]) for n in alive] == wanted
        assert [rows[n] + 1 for n in alive] == [stop for _, stop in wanted]
        assert places[alive].tolist() == part.lengths
        part.advance([1] * len(alive))
        positions.advance(launcher, np.array(going, np.int32), places, rows, spans, used)
    assert used.tolist() == [3, 1, 3] and spans[:, 0].tolist() == starts.tolist()


@needs_compiler
def test_a_step_of_many_sequences():
    rng = np.random.default_rng(5)
    given = [rng.integers(0, 2, 300).astype(np.int32), *(rng.integers(0, 99, shape).astype(np.int32)
                                                         for shape in ((300,), (300,), (300, 2), (300,)))]
    expected = book_advance(*given)

    def run(launcher):
        state = [array.copy() for array in given]
        positions.advance(launcher, *state)
        return tuple(state[1:])

    for actual, wanted in zip(run_in_all_modes(run), expected, strict=True):
        assert_close(actual, wanted, EXACT, name="state")


# ---- mistakes, costs, refusals

def check_rows():
    ids, weights = np.array([3, 0, 2]), table(4, 72, np.float32)
    assert_close(embed.embed(Emulator(), ids, weights), weights[ids], EXACT, name="embed")


def check_splice():
    text, ids, features = prompt(1100, 8, "float32")
    assert_close(splice.splice(Emulator(), text, ids, features, IMAGE), book_splice(text, ids, features, IMAGE), EXACT,
                 name="splice")


def check_angles():
    places = np.array([0, 1, 2, 3, 5, 40000, 103993, 131071])  # 103,993 is nearly a multiple of pi
    for actual, expected in zip(positions.rope_table(Emulator(), places, 8, 1e4), rope_table(places, 8, 1e4)):
        assert_close(actual, expected, EXACT, name="angles")


def check_patches():
    grids = [(3, 2), (2, 4)]
    found = positions.rope_2d_table(Emulator(), grids, 8, 1e4)
    for actual, expected in zip(found, rope_2d_table(patch_positions(grids), 8, 1e4)):
        assert_close(actual, expected, EXACT, name="angles of patches")


def check_step():
    given = [np.array(values, np.int32) for values in
             ([1, 0, 2], [4, 5, 6], [7, 8, 9], [[0, 1], [2, 3], [4, 5]], [0] * 3)]
    expected = book_advance(*given)
    positions.advance(Emulator(), *given)
    for actual, wanted in zip(given[1:], expected):
        assert_close(actual, wanted, EXACT, name="state")


SOURCE_MISTAKES = {
    "a row of the table by the token's place": (embed, "table + (size_t)ids[blockIdx.x] * D + i, D",
                                                "table + (size_t)blockIdx.x * D + i, D", check_rows),
    "patches counted with this one": (splice, "images & ((1u << lane) - 1)", "images & ((2u << lane) - 1)",
                                      check_splice),
    "patches of other warps forgotten": (splice, "if (other < warp) row += of_warps[other];", "", check_splice),
    "patches of earlier rounds forgotten": (splice, "before += of_warps[other];", "", check_splice),
    "words where patches belong": (splice, "row < 0 ? text", "true ? text", check_splice),
    "angles in float": (positions, "cos_sin(positions[blockIdx.x] * frequency)",
                        "cos_sin((float)(positions[blockIdx.x] * frequency))", check_angles),
    "a quarter of a circle as one double": (positions, "fma(-n, PI_2_REST, fma(-n, PI_2, angle))",
                                            "fma(-n, PI_2, angle)", check_angles),
    "sine of the wrong sign": (positions, "quarter & 2 ? -turned_sin", "quarter & 1 ? -turned_sin", check_angles),
    "row and column the other way round": (positions, "? patch / columns : patch % columns",
                                           "? patch % columns : patch / columns", check_patches),
    "the second image begins at the first": (positions, "(first + patch) * pairs + pair] = turn.x",
                                             "patch * pairs + pair] = turn.x", check_patches),
    "ended sequences go on": (positions, "n >= B || !going[n]", "n >= B", check_step),
    "what attention sees does not grow": (positions, "spans[2 * n + 1]++;", "spans[2 * n]++;", check_step),
    "rows stand still": (positions, "  rows[n]++;\n", "", check_step),
    "random numbers come again": (positions, "  used[n]++;\n", "", check_step)}


@needs_compiler
@pytest.mark.parametrize("mistake", SOURCE_MISTAKES)
def test_mistakes_in_a_source_are_refused(mistake, tmp_path, monkeypatch):
    module, right, spoilt, check = SOURCE_MISTAKES[mistake]
    check()
    text = (HERE / module.FILE).read_text(encoding="utf-8")
    assert text.count(right) == 1
    (tmp_path / module.FILE).write_text(text.replace(right, spoilt), encoding="utf-8")
    monkeypatch.setattr(module, "FILE", str(tmp_path / module.FILE))
    with pytest.raises(Different):
        check()


@needs_compiler
def test_profile():
    """Version 2 moves 16 bytes at a time, all of them used; version 1 a number."""
    ids, weights = np.array([1, 3], np.int32), table(4, 2048, ml_dtypes.bfloat16)
    for version, width in (("v1", 2), ("v2", 16)):
        profiler = Profiler()
        embed.run_embed(profiler, ids, weights, "bfloat16", version)
        rows = [row for row in profiler.module.profile() if row.bytes == width]
        assert sum(row.requests for row in rows) == 2 * 2 * 2048 * 2 // (32 * width), version
        assert all(row.efficiency == 1 for row in rows)


def test_kernels_of_the_files():
    assert kernels_of(embed.FILE) == ["embed_v1", "embed_v2"]
    assert kernels_of(splice.FILE) == ["splice_v1", "splice_v2_rows", "splice_v2"]
    assert kernels_of(positions.FILE) == ["rope_table_v1", "rope_2d_table", "advance", "place", "place_tiles"]


IDS, ROWS = np.zeros(2, np.int32), np.ones((3, 4), np.float32)
STATE = {name: IDS for name in ("going", "positions", "rows", "used")} | {"spans": np.zeros((2, 2), np.int32)}


@pytest.mark.parametrize("call, words", [
    (lambda: embed.embed(None, IDS[:, None], ROWS), r"embed expects ids \(T,\)"),
    (lambda: embed.embed(None, IDS.astype(np.float32), ROWS), "whole numbers"),
    (lambda: embed.embed(None, IDS, ROWS[0]), "embed expects table"),
    (lambda: embed.embed(None, IDS, ROWS, "int8"), "'float32' or 'bfloat16'"),
    (lambda: embed.embed(None, IDS, ROWS, version="v3"), "v1 and v2; got 'v3'"),
    (lambda: embed.run_embed(None, IDS.astype(np.int64), ROWS, "float32"), "int32"),
    (lambda: splice.splice(None, ROWS, IDS, ROWS, 1), r"of one dtype; got \(3, 4\)"),
    (lambda: splice.splice(None, ROWS[:2], IDS, ROWS[:, :3], 1), "features"),
    (lambda: splice.run_splice(None, ROWS[:2], IDS, ROWS.astype(ml_dtypes.bfloat16), 1), "bfloat16"),
    (lambda: splice.splice(None, ROWS[:2], IDS, ROWS, 1, version="v3"), "v1 and v2; got 'v3'"),
    (lambda: positions.rope_table(None, IDS, 3, 1e4), "even head_dim"),
    (lambda: positions.rope_table(None, IDS.astype(np.float32), 4, 1e4), "positions"),
    (lambda: positions.run_rope_table(None, IDS, ROWS[0]), "turns"),
    (lambda: positions.run_rope_table(None, IDS, positions.frequencies(4, 1e4), "v2"), "v1; got 'v2'"),
    (lambda: positions.rope_2d_table(None, [(1, 2)], 6, 1e4), "multiple of 4"),
    (lambda: positions.run_rope_2d_table(None, [], positions.frequencies(4, 1e4)), "at least one image"),
    (lambda: positions.run_rope_2d_table(None, [(0, 2)], positions.frequencies(4, 1e4)), "at least one image"),
    (lambda: positions.advance(None, **{**STATE, "rows": IDS[:1]}), r"arrays \(2,\)"),
    (lambda: positions.advance(None, **{**STATE, "spans": STATE["spans"].T[:1]}), "spans"),
    (lambda: positions.advance(None, **{**STATE, "used": IDS.astype(np.int64)}), "used")])
def test_refuses(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_floors():
    assert embed.floor(2, 8, "bfloat16", 2) == (8 + 2 * 8 * 4, 0)
    assert splice.floor(3, 8) == (12 + 2 * 3 * 8 * 4, 0)
    assert positions.floor(2, 128) == (8 + 2 * 64 * 8, 40 * 128)
