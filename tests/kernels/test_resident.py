"""The resident model: a step as a recorded graph, batches and chunks, int8, other orders, and mistakes that must show.

`test_kernel_models.py` compares its traced arrays with the oracles.
"""

import inspect
import sys
from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from compare import assert_close
from emulator_case import needs_compiler
from oracles import GOLDEN
from tolerances import ORACLE, PIXTRAL

import kernels
import kernels.ops
import tiny
from kernels import grouped, resident
from kernels.device.ops import DeviceOps, Whole
from kernels.graph import Graph
from kernels.int8 import int8_model
from kernels.launch import Cuda, Emulator, poison
from kernels.positions import advance
from kernels.writing import write
from tests.book.test_oracle_pixtral import ORACLE as PIXTRAL_ORACLE
from tests.book.test_oracle_pixtral import images_of
from tests.kernels.test_kernel_models import kind, relative
from tests.kernels.test_launch import pretended  # noqa: F401
from tiny.config import TinyError
from tiny.generate import ExpertTrace, prefill

pytestmark = needs_compiler
MODEL = GOLDEN / "mixtral-a" / "mistral"
# Two texts of unequal length, of which the first ends two tokens before the second: (ids of each, or None).
TEXTS = ([1, 20, 7, 33, 5, 9, 40, 12, 3, 8], [1, 50, 4, 17, 60, 11, 2, 25])
PROMPTS, TOGETHER = (6, 3), 3
# float32 with the matrices of int8: the order of additions, as in the book's tolerance.
INT8 = ORACLE["logits"]
BFLOAT16 = 0.04  # root mean square of the error, as a share; measured: 0.022 at most, of the logits


def through(model) -> list[np.ndarray]:
    """Read two prompts packed, write some tokens of both, then of the second alone. The logits of every pass."""
    cache = model.new_cache([12, 40])
    first, second = (text[:n] for text, n in zip(TEXTS, PROMPTS))
    prompt = model(first + second, cache=cache, lengths=list(PROMPTS), last_only=True)
    both = [model([text[start + n] for text, start in zip(TEXTS, PROMPTS)], cache=cache, lengths=[1, 1])
            for n in range(TOGETHER)]
    part = cache.subset([1])
    return [prompt, *both, *[model([token], cache=part) for token in TEXTS[1][PROMPTS[1] + TOGETHER :]]]


def compare(model, expected: list[np.ndarray], atol: float = ORACLE["logits"]) -> None:
    for n, (actual, want) in enumerate(zip(through(model), expected, strict=True)):
        assert_close(actual, want, atol, name=f"logits of pass {n}")


@pytest.fixture(scope="module")
def book():
    return through(tiny.load(MODEL))


@pytest.fixture(scope="module")
def book_int8():
    return through(int8_model(tiny.load(MODEL, weights="mapped")))


def equal_bits(actual: list[np.ndarray], expected: list[np.ndarray], what: str) -> None:
    for n, (one, other) in enumerate(zip(actual, expected, strict=True)):
        assert one.tobytes() == other.tobytes(), f"pass {n} has other bits {what}"


# ---- the model

def test_the_operations_are_those_of_the_seam():
    for name in tiny.ops.__all__:
        ours, books = (list(inspect.signature(getattr(ops, name)).parameters) for ops in (DeviceOps, tiny.ops))
        assert [key.rstrip("_") for key in ours[1:]] == books, name


def test_prompts_steps_and_parts_of_a_cache(book):
    compare(kernels.load(MODEL, device="emulator"), book)


def test_int8_is_numpys_int8(book_int8):
    model = kernels.load(MODEL, device="emulator", weights="int8")
    assert isinstance(model.weights["output.weight"], Whole) and model.weights.mode == "int8"
    compare(model, book_int8, INT8)


def test_a_step_is_recorded_once_and_replays_what_would_be_computed():
    """Replays find poison where they compute, and give the bits of the same step through the operations one by one."""
    recorded, live = (kernels.load(MODEL, device="emulator", precision="bfloat16") for _ in range(2))
    caches = [model.new_cache(30) for model in (recorded, live)]
    for model, cache in zip((recorded, live), caches):
        model(TEXTS[0][:4], cache=cache)
    graphs = []
    for token in TEXTS[0][4:]:
        experts, trace = ExpertTrace(), {}
        actual = recorded([token], cache=caches[0], trace=experts)
        expected = live([token], cache=caches[1], trace=trace)
        assert actual.tobytes() == expected.tobytes()
        assert_close(np.array(experts.layers), np.array([trace[f"experts{n:02}"] for n in range(3)]), 0.0)
        graph = caches[0].steps[1].graph
        poison(graph.arena.block.view(np.float32)), poison(graph.kept.block.view(np.float32))
        graphs.append(graph)
    assert len(set(map(id, graphs))) == 1 and caches[1].steps[1].graph is None
    assert recorded.ops.launcher is recorded.ops.kept is caches[0].steps[1].launcher


def test_pixtral_with_two_images():
    plain = tiny.load("tiny-pixtral")
    rng = np.random.default_rng(5)
    tokens, size = plain.tokenizer, plain.config.vision.patch_size
    images = [rng.standard_normal((3, rows * size, columns * size), dtype=np.float32)
              for columns, rows in ((3, 2), (2, 1))]
    ids = [tokens.bos_id, *tokens.image_tokens(3, 2), *tokens.encode("and"), *tokens.image_tokens(2, 1),
           *tokens.encode("are")]
    model = kernels.load("tiny-pixtral", device="emulator")
    caches = [one.new_cache(len(ids) + 3) for one in (model, plain)]
    for n, more in enumerate([ids, tokens.encode("two")[:1], [3]]):
        actual, expected = (one(more, () if n else images, cache=cache) for one, cache in zip((model, plain), caches))
        assert_close(actual, expected, ORACLE["logits"], name=f"pass {n}")


def test_images_in_passes(monkeypatch):
    """An image that a pass cuts goes on in the next one; two begin in one pass."""
    monkeypatch.setattr(sys.modules["tiny.generate"], "PREFILL", 20)
    model, case = kernels.load(PIXTRAL_ORACLE.folder / "mistral", device="emulator"), "two_images"
    ids = np.array(PIXTRAL_ORACLE.cases[case]["ids"])
    (logits,), _ = prefill(model, [ids], images_of(case), model.new_cache(len(ids)))
    assert_close(logits, PIXTRAL_ORACLE.arrays(case)["greedy_logits"][0], PIXTRAL["logits"], name="logits")


@pytest.mark.parametrize("weights", ["auto", pytest.param("int8", marks=pytest.mark.thorough)])
def test_images_in_int8_and_in_bfloat16(weights):
    """Against NumPy with the same weights: float32 to the book's tolerance, bfloat16 within a share."""
    folder, case = PIXTRAL_ORACLE.folder / "mistral", "one_image"
    plain, traces = tiny.load(folder, weights="mapped"), [{}, {}, {}]
    models = [int8_model(plain) if weights == "int8" else plain,
              *[kernels.load(folder, device="emulator", precision=precision, weights=weights)
                for precision in ("float32", "bfloat16")]]
    for model, trace in zip(models, traces):
        model(PIXTRAL_ORACLE.cases[case]["ids"], images_of(case), trace=trace)
    for name in ("vision_layer01", "projector", "embed", "layer02", "norm", "logits"):
        expected, exact, rounded = (trace[name] for trace in traces)
        assert_close(exact, expected, PIXTRAL[kind(name)], name=name)
        assert_close(relative(rounded, expected), 0.0, BFLOAT16, name=f"{name} in bfloat16")


def test_a_batch_and_chunks_are_as_alone(book):
    """Each text by itself, its prompt in parts, has the logits that it has beside another, to the bit: few tokens."""
    model = kernels.load(MODEL, device="emulator")
    together = through(model)
    cache = model.new_cache(40)
    for start, stop in ((0, 2), (2, 3)):
        row = model(TEXTS[1][start:stop], cache=cache, last_only=True)
    rows = [row, *[model([token], cache=cache) for token in TEXTS[1][3:]]]
    expected = [together[0][1:], *[row[1:] for row in together[1 : 1 + TOGETHER]], *together[1 + TOGETHER :]]
    for n, (actual, want) in enumerate(zip(rows, expected, strict=True)):
        assert_close(actual, want, ORACLE["logits"], name=f"pass {n}")


def test_greedy_batches_are_the_books():
    prompts = [TEXTS[0][:7], TEXTS[1][:2], TEXTS[1][:5]]
    texts = [[[token.id for token in text] for text in
              tiny.generate_batch(model, prompts, max_tokens=5, stop_at_eos=False)]
             for model in (tiny.load(MODEL), kernels.load(MODEL, device="emulator"))]
    assert texts[0] == texts[1]


# ---- tokens that are chosen on the device

@pytest.mark.parametrize("options", [{}, {"temperature": 1.3, "top_p": 0.9, "seed": 3},
                                     {"temperature": 0.8, "seed": 4}],
                         ids=["greedy", "top_p", "temperature"])
def test_a_seed_gives_the_text_that_the_book_writes(options):
    """Three texts, of which one ends before the others; and the probability of each token."""
    prompts = [TEXTS[0][:5], TEXTS[1][:2], TEXTS[1][:6]]
    plain = tiny.load(MODEL)
    expected = tiny.generate_batch(plain, prompts, max_tokens=8, stop_at_eos=False, **options)
    plain.config = replace(plain.config, end_ids=frozenset({expected[1][3].id}))
    expected = tiny.generate_batch(plain, prompts, max_tokens=8, **options)
    assert len(set(map(len, expected))) > 1
    model = kernels.load(MODEL, device="emulator")
    model.config = plain.config
    for text, (ids, logprobs) in zip(expected, write(model, prompts, max_tokens=8, **options), strict=True):
        assert ids == [token.id for token in text]
        assert_close(np.array(logprobs), np.array([token.logprob for token in text]), ORACLE["logprobs"])


@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_a_step_that_chooses_copies_back_a_token_and_its_probability(temperature, pretended, monkeypatch):  # noqa: F811
    monkeypatch.setattr(kernels.ops, "device_launcher", {"cuda": Cuda(poisoned=True)}.__getitem__)
    model = kernels.load(MODEL, device="cuda", precision="bfloat16")
    cache, draws = model.new_cache([30, 9]), np.random.default_rng(0).random((2, 9))
    model(TEXTS[0][:4] + TEXTS[1][:2], cache=cache, lengths=[4, 2], last_only=True)
    model.choose(cache, [3, 4], temperature, draws=draws)
    for n in (1, 2, 3):
        pretended.update(uploads=0, downloads=0, waits=0, allocations=0)
        ids, logprobs = model.choose(cache, None, temperature, draws=draws, used=[n, n])
        assert [pretended[key] for key in ("uploads", "downloads", "waits", "allocations")] == [0, 2 * 8, 1, 0]
        assert ids.min() >= 0 and np.isfinite(logprobs).all()
    with pytest.raises(ValueError, match="choose expects ids"):
        model.choose(cache.subset([1]))


def test_damaged_weights_are_named_where_they_are():
    model = kernels.load(MODEL, device="emulator")
    model.weights["layers.1.attention.wo.weight"]
    model.weights.arrays["layers.1.attention.wo.weight"] = np.full_like(model.weights["layers.1.attention.wo.weight"],
                                                                        np.nan)
    with pytest.raises(TinyError, match="first appears in 'layer01'"):
        write(model, [TEXTS[0][:3]])


@pytest.mark.thorough
@pytest.mark.parametrize("precision, weights", [("float32", "auto"), ("bfloat16", "bfloat16"), ("bfloat16", "int8")])
def test_equal_bits_in_other_orders_and_nothing_to_report(precision, weights):
    results = [through(kernels.load(MODEL, launcher, precision=precision, weights=weights)) for launcher in
               (Emulator(), Emulator(order="reverse"), Emulator(order="random:3"), Emulator(check=True))]
    for name, result in zip(("in reverse", "at random", "when checked"), results[1:]):
        equal_bits(result, results[0], name)


# ---- mistakes

def stale(which: int):
    """The step moves a copy of one of its arrays on, so that the graph reads the old numbers again."""
    def spoil(patch):
        def wrong(launcher, going, *arrays):
            copies = list(arrays)
            copies[which] = arrays[which].copy()
            advance(launcher, going, *copies)
        patch.setattr(resident, "advance", wrong)
    return spoil


def rows_one_too_far(patch):
    """Keys and values of a prompt lie one row after their place; the last of each text is overwritten later."""
    right = DeviceOps.append
    patch.setattr(DeviceOps, "append", lambda self, k, v, rows, *cache: right(
        self, k, v, rows + np.int32(1) if len(rows) > 2 else rows, *cache))


def scale_of_the_next_row(patch):
    right = resident.Whole
    patch.setattr(resident, "Whole", lambda whole, scale: right(whole, np.roll(scale, 1)))


def sum_without_weights(patch):
    right = DeviceOps.experts
    patch.setattr(DeviceOps, "experts", lambda self, x, ids, weights, *rest: right(
        self, x, ids, np.full_like(weights, 0.5), *rest))


def experts_of_the_last_batch(patch):
    """The first choice of a layer's experts for so many tokens is kept for the next ones."""
    right, kept = DeviceOps.route, {}

    def route(self, x, gate, *rest):
        found = right(self, x, gate, *rest)
        return found[0], kept.setdefault((id(gate), len(x)), found[1].copy()), found[2]
    patch.setattr(DeviceOps, "route", route)


def offsets_of_the_last_batch(patch):
    """Where each expert's tokens begin is computed once, and kept for the layers that follow."""
    right, kept = grouped.group_by_expert, []

    def once(*arguments):
        kept[:] = kept or [right(*arguments)]
        return kept[0]
    patch.setattr(grouped, "group_by_expert", once)


def residual_of_the_sum_forgotten(patch):
    """A sum that waits for its norm is taken for the answer alone."""
    patch.setattr(DeviceOps, "add", lambda self, x, y, precision="float32": y)


MUTANTS = {"length_of_the_first_step": stale(2), "angles_of_the_first_position": stale(0),
           "row_of_the_first_step": stale(1), "rows_one_too_far": rows_one_too_far,
           "sum_without_weights": sum_without_weights,
           "experts_of_the_last_batch": experts_of_the_last_batch,
           "offsets_of_the_last_batch": offsets_of_the_last_batch,
           "residual_of_the_sum_forgotten": residual_of_the_sum_forgotten}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mistake_shows_in_the_logits(name, book, monkeypatch):
    MUTANTS[name](monkeypatch)
    with pytest.raises(AssertionError, match="logits of pass"):
        compare(kernels.load(MODEL, device="emulator"), book)


def test_a_scale_of_the_wrong_row_shows(book_int8, monkeypatch):
    scale_of_the_next_row(monkeypatch)
    with pytest.raises(AssertionError, match="logits of pass"):
        compare(kernels.load(MODEL, device="emulator", weights="int8"), book_int8, INT8)


# ---- what a recorded step refuses

@pytest.mark.parametrize("what, step", [
    ("allocates", lambda launcher, first: launcher.empty((2,) if first else (3,), np.float32)),
    ("allocates", lambda launcher, first: first or launcher.empty((2,), np.float32)),
    ("uploads an array", lambda launcher, first: launcher.put(np.ones((2, 4), np.float32)[:, ::2])),
    ("uploads a table", lambda launcher, first: launcher.table([])),
    ("waits", lambda launcher, first: launcher.get(np.ones(2, np.float32))),
    ("compiles", lambda launcher, first: first or launcher.launch("rope.cu", "rope_v1", (1,), (1,), ()))])
def test_a_recorded_step_refuses(what, step):
    calls = []

    def run(launcher):
        calls.append(launcher)
        return step(launcher, len(calls) == 1)
    with pytest.raises(TinyError, match=f"A recorded step {what}") as caught:
        Graph(Emulator(), run)
    assert len(calls) == 2 and "array of the device" in caught.value.remedy


# ---- what is refused when a model is opened

def test_forms_and_heads(monkeypatch):
    with pytest.raises(TinyError, match="on a device") as caught:
        int8_model(kernels.load(MODEL, device="emulator"))
    assert caught.value.remedy == "Load it with weights='int8'."
    with pytest.raises(TinyError, match="weights='int4' is unknown") as caught:
        kernels.load(MODEL, device="emulator", weights="int4")
    assert "'bfloat16', 'int8', or 'auto'" in caught.value.remedy
    monkeypatch.setattr(resident, "GROUP", 1)
    with pytest.raises(TinyError, match="heads of 10 columns, 4 to a KV head") as caught:
        kernels.load(MODEL, device="emulator")
    assert caught.value.remedy == "Use --device cpu."


def test_a_cache_in_another_type_is_refused():
    model = kernels.load(MODEL, device="emulator", precision="bfloat16")
    assert model.new_cache(3).keys.dtype == model.new_cache(3, "bfloat16").keys.dtype == ml_dtypes.bfloat16
    for ask in (lambda: model.new_cache(3, "float32"),
                lambda: kernels.load(MODEL, device="emulator", cache="bfloat16")):
        with pytest.raises(TinyError, match="as all arrays are") as caught:
            ask()
        assert "on the CPU" in caught.value.remedy


def test_the_cache_of_another_model_is_refused():
    model = kernels.load(MODEL, device="emulator")
    for other in (tiny.load(MODEL), kernels.load(MODEL, device="emulator")):
        with pytest.raises(TinyError, match="of another model"):
            model([1, 2, 3], cache=other.new_cache(9))
    with pytest.raises(ValueError, match="those of the model that made the cache"):
        tiny.load(MODEL)([1, 2, 3], cache=model.new_cache(9))
