"""The choice of a token as kernels, through the emulator, against NumPy: many random rows, ties, and borders.

Where NumPy and the kernels choose differently, the test shows that a border between two tokens, or top_p, is within
rounding: sums of NumPy's, one after another, are off by some 1e-16 for each token; the kernels' sums are exact.
"""

import ml_dtypes
import numpy as np
import pytest
from compare import Different, assert_close
from emulator_case import needs_compiler, run_in_all_modes

from kernels import positions
from kernels import sample as kernel
from kernels.cases import kernels_of
from kernels.cases.tokens import Drawn, expect_sample
from kernels.launch import Emulator
from kernels.signature import HERE
from tests.kernels.test_kernels_experts import Profiler
from tiny.sampling import log_softmax, sample

VERSIONS = kernel.VERSIONS
# Of a logarithm of probability: computed in float64, rounded to float32 once. They are up to 20 here; measured 4.0e-7.
LOGPROB = 2e-6
BORDER = 1e-13  # of all probabilities; measured 4.5e-17 over the cases below


@pytest.fixture
def few_threads(monkeypatch):
    """Bins, and threads, of a block: 32 of each are emulated sooner than 512, and part ranges more often."""
    monkeypatch.setattr(kernel, "BIN_BITS", 5)


@pytest.fixture
def two_warps(monkeypatch):
    """The fewest bins with which warps need each other's sums."""
    monkeypatch.setattr(kernel, "BIN_BITS", 6)


def rows(B, V, kind="normal", seed=0):
    """Logits, and a random number for each row."""
    rng = np.random.default_rng([B, V, seed, len(kind)])
    logits = (3 * rng.standard_normal((B, V))).astype(np.float32)
    logits = {"normal": logits, "stored": logits.astype(ml_dtypes.bfloat16).astype(np.float32),
              "equal": np.full_like(logits, 1.5), "three": rng.integers(0, 3, (B, V)).astype(np.float32),
              "wide": logits * 1000, "close": 1 + logits * np.float32(1e-6), "small": logits * np.float32(1e-30)}[kind]
    return logits, rng.random(B)


def border(row, temperature, top_p, number, found, expected):
    """How far, of all probabilities, the decision is from a border at which either token would be right.

    Shapes:  row (V,)
    """
    p = np.exp((row - row.max()).astype(np.float64) / temperature).astype(np.longdouble)
    order = np.argsort(-p, kind="stable")
    sums = np.cumsum(p[order]) / p.sum()
    cuts = [n for n in range(len(row)) if n + 1 == len(row) or sums[n] > top_p - BORDER]
    near = abs(sums - top_p).min() if top_p < 1 else np.inf
    places = {int(token): n for n, token in enumerate(order)}
    a, b = sorted((places[found], places[expected]))
    draws = [min(abs(sums[n] - number * sums[cut]) for n in range(a, b)) for cut in cuts[:2]]
    return float(min(near, *draws))


def compare(logits, temperature, top_p, draws, version, precision="float32", launcher=None):
    """Require NumPy's tokens, or the neighbour at a border; return how many rows are at one."""
    ids, logprobs = kernel.sample(launcher or Emulator(), logits, temperature, top_p, draws, precision, version)
    expected, _ = expect_sample(logits.astype(np.float32), temperature, top_p, draws)
    assert ids.dtype == np.int32 and logprobs.dtype == np.float32
    odd = np.flatnonzero(ids != expected)
    for n in odd:
        choice = int(ids[n]), int(expected[n])
        if choice[0] not in range(logits.shape[1]) or border(logits[n], temperature, top_p, draws[n], *choice) > BORDER:
            assert_close(ids[n : n + 1], expected[n : n + 1], 0, name=f"token of row {n}")
    wanted = log_softmax(logits.astype(np.float32))[np.arange(len(ids)), ids]
    assert_close(logprobs, wanted, LOGPROB, name="log-probability")
    return len(odd)


@needs_compiler
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("kind", ["normal", "stored", "equal", "three", "wide", "close", "small"])
def test_random_rows(version, kind, few_threads):
    """No row is at a border by chance, but for equal logits: there a multiple of 1 / V may be top_p."""
    for B, V, temperature, top_p in ((30, 33, 0.8, 0.9), (12, 70, 1.0, 1.0), (12, 130, 1.7, 0.31)):
        logits, draws = rows(B, V, kind)
        assert compare(logits, temperature, top_p, draws, version) == 0


@needs_compiler
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("temperature", [0.0, 1e-300, 1e-3, 30.0, 1e6, 1e30])
def test_temperatures(version, temperature, few_threads):
    for kind in ("normal", "three"):
        logits, draws = rows(15, 40, kind)
        assert compare(logits, temperature, 0.613, draws, version) == 0


@needs_compiler
@pytest.mark.parametrize("version", VERSIONS[1:])
def test_rows_of_many_tokens(version):
    """As the kernels are launched, 512 threads; a row of two parts, and one that does not begin at 16 bytes."""
    for precision, dtype in (("float32", np.float32), ("bfloat16", ml_dtypes.bfloat16)):
        logits, draws = rows(3, 1101)
        assert compare(logits.astype(dtype), 0.9, 0.95, draws, version, precision) == 0


@needs_compiler
@pytest.mark.thorough
@pytest.mark.parametrize("V", [32000, 131072])
def test_whole_vocabularies(V):
    for kind in ("normal", "stored"):
        logits, draws = rows(6, V, kind)
        for temperature, top_p in ((1.0, 1.0), (0.7, 0.9), (3.0, 0.999)):
            assert compare(logits, temperature, top_p, draws, "v3") == 0


@needs_compiler
@pytest.mark.thorough
def test_ten_thousand_rows(few_threads):
    found = [compare(*rows_with_options(1000, 64, seed), "v3") for seed in range(10)]
    assert sum(found) == 0


def rows_with_options(B, V, seed):
    """Random rows with a random temperature and top_p."""
    rng = np.random.default_rng(seed)
    logits, draws = rows(B, V, ["normal", "stored", "three"][seed % 3], seed)
    return logits, float(rng.choice([0.3, 0.8, 1.0, 2.0])), float(rng.uniform(0.05, 1)), draws


@needs_compiler
@pytest.mark.parametrize("version", VERSIONS)
def test_at_a_border_one_of_its_two_sides_comes(version, few_threads):
    """Random numbers on the very borders of NumPy's sums, and the doubles beside them: nothing but a neighbour."""
    logits, _ = rows(1, 20)
    p = np.exp((logits[0] - logits[0].max()).astype(np.float64))
    sums = np.cumsum(np.sort(p / p.sum())[::-1])[:-1]
    draws = np.concatenate([sums, np.nextafter(sums, 0), np.nextafter(sums, 1)])
    many = np.repeat(logits, len(draws), axis=0)
    at_border = compare(many, 1.0, 1.0, draws, version)
    assert at_border < len(draws), "most fall as NumPy's do"
    aside = compare(many, 1.0, 1.0, np.concatenate([sums - 1e-12, sums + 1e-12, sums]), version)
    assert aside <= len(sums), "a trillionth aside, all do"


@needs_compiler
def test_top_p_that_a_sum_meets_exactly(few_threads):
    """Ten equal logits: three probabilities of a tenth are 0.3 for the kernel, which keeps the fourth token as top_p
    says; NumPy's sum of three is above 0.3 by rounding. With a power of two nothing is rounded, and all agree."""
    draws = np.linspace(0, 1, 64, endpoint=False)
    assert 0.1 + 0.1 + 0.1 > 0.3
    for version in VERSIONS[1:]:
        assert compare(np.zeros((64, 10), np.float32), 1.0, 0.3, draws, version) > 0
        assert compare(np.zeros((64, 8), np.float32), 1.0, 0.5, draws, version) == 0


@needs_compiler
@pytest.mark.parametrize("version", VERSIONS)
def test_the_ends_of_the_random_numbers(version, few_threads):
    """0 gives the likeliest token; the largest double below 1 gives the last one that is kept, and never one behind."""
    for kind, V in (("normal", 9), ("equal", 13), ("normal", 1), ("three", 40)):
        logits, _ = rows(2, V, kind)
        for top_p in (1.0, 0.5, 1e-9):
            assert compare(logits, 1.0, top_p, np.array([0.0, np.nextafter(1.0, 0.0)]), version) == 0


@needs_compiler
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_not_finite_give_no_token(version, temperature, few_threads):
    logits, draws = rows(5, 40)
    logits[0, 3], logits[1, 39], logits[2, 0], logits[4, 7] = np.nan, np.inf, -np.inf, -0.0
    ids, logprobs = kernel.sample(Emulator(check=True), logits, temperature, 0.9, draws, version=version)
    assert ids[:3].tolist() == [-1] * 3 and np.isnan(logprobs[:3]).all() and (ids[3:] >= 0).all()


@needs_compiler
@pytest.mark.parametrize("version", VERSIONS)
def test_of_equal_logits_the_lower_id(version, few_threads):
    logits = np.array([[-1, 2, 0.5, 2], [0.0, -0.0, -3, -7], [-0.0, 0.0, -3, -7]], np.float32)
    ids, logprobs = kernel.sample(Emulator(), logits, version=version)
    assert ids.tolist() == [1, 0, 0]
    assert_close(logprobs, log_softmax(logits)[np.arange(3), ids], LOGPROB, name="log-probability")


@needs_compiler
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_all_modes_give_equal_bits(version, precision, monkeypatch):
    monkeypatch.setattr(kernel, "BIN_BITS", 6)
    for temperature, V in ((0.9, 67), (0.5, 1030), (0.0, 67)):
        logits, draws = rows(2 if V < 100 else 1, V, "stored")
        run_in_all_modes(lambda launcher: kernel.sample(
            launcher, logits, temperature, 0.3, draws, precision, version))  # noqa: B023


@needs_compiler
@pytest.mark.parametrize("bits", [5, 6, 7, 8, 9])
def test_any_number_of_bins(bits, monkeypatch):
    monkeypatch.setattr(kernel, "BIN_BITS", bits)
    for kind in ("normal", "close"):
        logits, draws = rows(5, 90, kind)
        assert compare(logits, 1.0, 0.8, draws, "v3") == 0


@needs_compiler
def test_narrower_quarters_for_larger_vocabularies(monkeypatch, few_threads):
    sizes = (1, 32000, 1 << 17, (1 << 17) + 1, 1 << 18, 1 << 24)
    assert [kernel.mass_bits(V) for V in sizes] == [15, 15, 15, 14, 14, 8]
    monkeypatch.setattr(kernel, "mass_bits", lambda V: 11)
    logits, draws = rows(20, 90)
    assert compare(logits, 1.0, 0.8, draws, "v2") == 0


@needs_compiler
def test_the_same_seed_writes_the_same_text(few_threads):
    """Three sequences of twelve tokens, whose random numbers lie on the device; the second ends after its fifth."""
    launcher, steps, B, V = Emulator(), 12, 3, 50
    draws = np.stack([np.random.default_rng(7).random(steps)] * B)
    state = [np.zeros(shape, np.int32) for shape in ((B,), (B,), (B, 2))]
    used, ids, logprobs = np.zeros(B, np.int32), np.empty(B, np.int32), np.empty(B, np.float32)
    generators = [np.random.default_rng(7) for _ in range(B)]
    for step in range(steps):
        logits, _ = rows(B, V, seed=step)
        going = np.array([1, step < 5, 1], np.int32)
        kernel.run_sample(launcher, logits, ids, logprobs, 0.9, 0.95, draws, used)
        for n in np.flatnonzero(going):
            assert ids[n] == sample(logits[n], 0.9, 0.95, generators[n])
        positions.advance(launcher, going, *state, used)
    assert used.tolist() == [steps, 5, steps]


# ---- mistakes

def check_sample():
    """Rows that a wrong kernel cannot pass: a spread, ties, tokens far behind the first bins, a row of two parts."""
    for B, V, kind, temperature, top_p in ((30, 70, "normal", 1.0, 0.8), (30, 40, "three", 1.0, 0.7),
                                           (30, 40, "normal", 40.0, 1.0), (12, 40, "wide", 900.0, 1.0),
                                           (4, 1090, "stored", 1.0, 1.0)):
        logits, draws = rows(B, V, kind)
        compare(logits, temperature, top_p, draws, "v3")
    logits, draws = rows(8, 1090)
    compare(logits, 0.0, 1.0, draws, "v3")
    # One token has nearly all of the probability; the numbers drawn are those of the others, 18 octaves below.
    logits = logits / 8 - 12.5
    logits[:, 700] = 0
    compare(logits.astype(np.float32), 1.0, 1.0, np.linspace(0.997, 0.9999, 8), "v3")


SOURCE_MISTAKES = {
    "ties by the higher id": ("== place.tie) id = i + lane;", "== place.count - 1 - place.tie) id = i + lane;"),
    "ties counted from one": ("value(place.before + times(place.units, place.tie + 1)) <= target",
                              "value(place.before + times(place.units, place.tie)) <= target"),
    "top_p is not looked at": ("if (top_p * kept < kept)", "if (top_p * kept < 0)"),
    "the token that passes top_p is left out": ("times(last.units, last.tie + 1)", "times(last.units, last.tie)"),
    "the random number of all, not of what is kept": ("min(random * kept, below)", "random * value(all)"),
    "one random number for all": ("draws[(size_t)n * N + used[n]]);\n  }", "draws[used[n]]);\n  }"),
    "a quarter of the bits is lost": ("for (int k = 0; k < QUARTERS; k++) {",
                                      "for (int k = 0; k < QUARTERS - 1; k++) {"),
    "what is less likely than the bins is lost": ("min(distance(p) >> FIRST_SHIFT, (unsigned long long)(BINS - 1))",
                                                  "(distance(p) >> FIRST_SHIFT & (BINS - 1))"),
    "masses of other warps are forgotten": ("if (other == warp) sum = sum + all;", ""),
    "the temperature is forgotten": ("exp((double)(logit - most) / temperature)", "exp((double)(logit - most))"),
    "the largest of a part for that of the row": ("sums[place] * exp((double)unordered(bests[place] >> 32) - row.most)",
                                                  "sums[place]"),
    "the higher id of equal logits": ("| (NONE - id)", "| id"),
    "a part's last numbers are left out": ("stop = min(V, start + PART);\n  const STORE* own",
                                           "stop = min(V, start + PART) - 1;\n  const STORE* own")}


@needs_compiler
@pytest.mark.parametrize("mistake", SOURCE_MISTAKES)
def test_mistakes_in_the_source_are_refused(mistake, tmp_path, monkeypatch, two_warps):
    right, spoilt = SOURCE_MISTAKES[mistake]
    text = (HERE / kernel.FILE).read_text(encoding="utf-8")
    assert text.count(right) == 1
    if "place.count" in spoilt:  # how many are alike, which the kernel does not keep
        text = text.replace("  int tie;\n};", "  int tie, count;\n};").replace(
            "  int last = bins.count[bin] - 1;", "  int last = bins.count[bin] - 1; place.count = last + 1;")
    (tmp_path / kernel.FILE).write_text(text.replace(right, spoilt), encoding="utf-8")
    monkeypatch.setattr(kernel, "FILE", str(tmp_path / kernel.FILE))
    with pytest.raises(Different):
        check_sample()


@needs_compiler
def test_the_kernel_as_it_stands_has_none(two_warps):
    check_sample()


# ---- costs, refusals

def reads(version, temperature):
    """How often a row is read, from loads of 16 bytes."""
    profiler, V = Profiler(), 4096
    logits, draws = rows(1, V)
    kernel.sample(profiler, logits.astype(ml_dtypes.bfloat16), temperature, 0.5, draws, "bfloat16", version)
    counted = [row for module in profiler.modules.values() for row in module.profile() if row.memory == "global"]
    return sum(row.requests for row in counted if row.bytes == 16) / (V * 2 / (32 * 16))


@needs_compiler
def test_profile():
    """The likeliest takes two reads; a draw three and some more, of one block, for the ranges that are parted again."""
    assert reads("v3", 0.0) == 2 and 3 < reads("v3", 1.0) <= 3 + 5
    assert reads("v2", 0.0) == 2 and 4 < reads("v2", 1.0) <= 4 + 5


def test_the_kernels_are_those_of_the_versions():
    assert kernels_of(kernel.FILE) == ["sample_v1", "sample_v2", "sample_v3_parts", "sample_v3_masses", "sample_v3"]


X, U = np.ones((2, 4), np.float32), np.zeros(2)


@pytest.mark.parametrize("arguments, words", [
    ({"logits": X[0]}, "sample expects logits"), ({"draws": None}, "a random number for each sequence"),
    ({"draws": U.astype(np.float32)}, "draws"), ({"draws": U[:1]}, r"draws \(2, N\)"),
    ({"logits": X[:, :0]}, "V from 1"),
    ({"precision": "int8"}, "'float32' or 'bfloat16'"), ({"version": "v4"}, "v1, v2 and v3; got 'v4'")])
def test_refuses(arguments, words):
    with pytest.raises(ValueError, match=words):
        kernel.sample(Host(), **{"logits": X, "temperature": 1.0, "draws": U, **arguments})


class Host:
    """A launcher that has arrays and launches nothing."""

    def empty(self, shape, dtype):
        return np.empty(shape, dtype)

    def put(self, array):
        return array


def test_random_numbers_come_one_by_one_or_together():
    """Why the numbers of a whole text can be put on the device before it begins."""
    one = np.random.default_rng(3)
    assert [one.random() for _ in range(5)] == np.random.default_rng(3).random(5).tolist()
    assert sample(np.zeros(4, np.float32), 1.0, 1.0, Drawn(0.6)) == 2  # type: ignore[arg-type]


def test_floor():
    assert kernel.floor(2, 100, "bfloat16") == (2 * 100 * 2 + 16, 60 * 200)
