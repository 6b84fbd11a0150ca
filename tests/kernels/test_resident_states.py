"""What a resident model keeps between calls: after interruptions, in copies and threads, and what it refuses."""

import copy
import threading
from dataclasses import replace

import numpy as np
import pytest
import small
from compare import assert_close
from emulator_case import needs_compiler
from oracles import GOLDEN
from tolerances import ORACLE

import kernels
import tiny
from kernels.launch import Emulator
from kernels.resident import DeviceWeights, check_sizes, load
from kernels.writing import write
from tiny.config import TinyError
from tiny.mixtral import Mixtral

pytestmark = needs_compiler
MODEL = GOLDEN / "mixtral-a" / "mistral"
TEXTS = ([1, 20, 7, 33, 5, 9, 12], [1, 50, 4, 17, 60, 11])
TURNS = ([0], [1], [0, 1], [0, 1], [0], [1])  # which texts go on by one token


class Breaking(Emulator):
    """An emulator that is interrupted, as by Control-C, before the n-th thing that it does from now on."""

    left = 0

    def count(self):
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt

    def call(self, *launch):
        self.count()
        super().call(*launch)

    def write(self, array, numbers):
        self.count()
        super().write(array, numbers)

    def fetch(self, arrays):
        self.count()
        return super().fetch(arrays)


def prompts_of(model):
    """A cache with the first tokens of two texts."""
    cache = model.new_cache([9, 9])
    model(TEXTS[0][:3] + TEXTS[1][:2], cache=cache, lengths=[3, 2], last_only=True)
    return cache


def through(model, cache, turn=lambda n, run: run()) -> list[np.ndarray]:
    """The logits of all turns. turn(n, run) may run one otherwise: run(texts) are its logits for some of the texts."""
    logits, at = [], [3, 2]
    for n, going in enumerate(TURNS):
        def run(texts=going):
            part = cache.subset(texts)
            return model([TEXTS[text][at[text]] for text in texts], cache=part, lengths=[1] * len(texts))
        logits.append(turn(n, run))
        for text in going:
            at[text] += 1
    return logits


@pytest.fixture(scope="module")
def book():
    model = tiny.load(MODEL)
    return through(model, prompts_of(model))


def compare(actual, expected):
    for n, (one, other) in enumerate(zip(actual, expected, strict=True)):
        assert_close(one, other, ORACLE["logits"], name=f"turn {n}")


# ---- after an interruption

# Turn 2 is the first step of both texts: 12 launches bring their places, then ids are written, the step is run, and
# recorded. Turn 3 replays it.
@pytest.mark.parametrize("broken, left", [(2, 5), (2, 13), (2, 14), (2, 40), (3, 1), (3, 2), (3, 30), (5, 3)])
def test_an_interrupted_step_leaves_nothing_behind(book, broken, left):
    """The texts of that turn go on one by one, as other steps; then the step that was interrupted runs again."""
    model = load(MODEL, Breaking())
    cache = prompts_of(model)

    def turn(n, run):
        if n != broken:
            return run()
        lengths, model.ops.launcher.left = cache.lengths, left
        with pytest.raises(KeyboardInterrupt):
            run()
        assert cache.lengths == lengths and model.ops.launcher is model.ops.kept
        return np.concatenate([run([text]) for text in TURNS[n]])

    compare(through(model, cache, turn), book)


def test_after_an_interrupted_choice_ids_are_asked_for():
    model = load(MODEL, Breaking())
    cache = model.new_cache(9)
    expected = model.choose(cache, [1])[0].tolist() + [model.choose(cache)[0].item() for _ in range(3)]
    cache = model.new_cache(9)
    first, second = model.choose(cache, [1])[0].item(), model.choose(cache)[0].item()
    for left in (1, 9, 20):
        model.ops.launcher.left = left
        with pytest.raises(KeyboardInterrupt):
            model.choose(cache, [second])
        with pytest.raises(ValueError, match="choose expects ids"):
            model.choose(cache)
    assert [first, second, model.choose(cache, [second])[0].item(), model.choose(cache)[0].item()] == expected


# ---- threads, copies, other weights

def test_threads_take_turns(book):
    """Two models on one launcher, each with a cache in two threads, of which one reads prompts while others record."""
    models = [kernels.load(MODEL, device="emulator") for _ in range(2)]
    found: dict[int, list] = {}

    def work(n):
        found[n] = through(models[n % 2], prompts_of(models[n % 2]))
    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for n in range(4):
        compare(found[n], book)


def test_a_copied_cache_goes_on_by_itself(book):
    model = kernels.load(MODEL, device="emulator")
    cache = prompts_of(model)
    copied = copy.deepcopy(cache)
    compare(through(model, cache), book)
    assert copied.lengths == [3, 2]
    compare(through(model, copied), book)


def test_a_copy_of_a_model_has_its_own_weights():
    """Each runs with its own ones, in the same cache too, where a step was recorded with the other's."""
    plain = tiny.load(MODEL)
    changed = {name: np.array(plain.weights[name]) for name in plain.weights}
    for name in changed:
        if "w2" in name or name == "output.weight":
            changed[name] = np.roll(changed[name], 1, axis=0)
    books = plain, Mixtral(plain.config, changed)
    first = kernels.load(MODEL, device="emulator")
    second = copy.copy(first)
    caches = first.new_cache(20), plain.new_cache(20)
    for token in range(6):
        second.weights = second.weights if token else DeviceWeights(changed, first.ops.launcher, "float32", None)
        for ours, theirs in zip((first, second), books):
            actual, expected = (model([token], cache=cache) for model, cache in zip((ours, theirs), caches))
            assert_close(actual, expected, ORACLE["logits"], name=f"token {token}")


# ---- arguments

@pytest.mark.parametrize("make", [lambda ids: np.repeat(np.array(ids, np.int32), 2)[::2],
                                  lambda ids: np.array([0, *ids], np.int32)[1:],
                                  lambda ids: np.array(ids, np.uint64), lambda ids: np.array(ids, ">i4"),
                                  lambda ids: np.frombuffer(np.array(ids, np.uint8).tobytes(), np.uint8)],
                         ids=["gaps", "shifted", "uint64", "big-endian", "read-only"])
def test_ids_as_they_come(make):
    model, plain = kernels.load(MODEL, device="emulator"), tiny.load(MODEL)
    caches = model.new_cache(9), plain.new_cache(9)
    for ids in (TEXTS[0][:4], TEXTS[0][4:5]):
        actual, expected = (one(make(ids), cache=cache) for one, cache in zip((model, plain), caches))
        assert_close(actual, expected, ORACLE["logits"], name=f"{len(ids)} ids")


def test_biases_are_rounded_as_the_other_weights_are():
    """weights="bfloat16" is the checkpoint in bfloat16, all of it."""
    bias, launcher = np.array([1.001], np.float32), Emulator()
    found = DeviceWeights({"output.weight": bias[None], "vision_language_adapter.w_in.bias": bias}, launcher, "float32",
                          "bfloat16")["vision_language_adapter.w_in.bias"]
    assert found.dtype == np.float32 and found == np.float32(1)


def test_damaged_weights_in_int8_are_two_lines():
    weights = {"output.weight": np.array([[1, np.nan]], np.float32)}
    with pytest.raises(TinyError, match="output.weight cannot be stored as int8"):
        DeviceWeights(weights, Emulator(), "float32", "int8")["output.weight"]


@pytest.mark.parametrize("words, sizes", [
    ("65 experts; the kernels take at most 64", {"moe": (65, 2)}),
    ("33 experts for each token", {"moe": (64, 33)}),
    ("16,386 numbers in a vector", {"dim": 16386}),
    ("16,777,217 tokens in its vocabulary", {"vocab_size": (1 << 24) + 1}),
    ("1,048,577 positions", {"max_seq_len": (1 << 20) + 1}),
    ("9 to a KV head", {"n_heads": 9, "n_kv_heads": 1}),
    ("The decoder has heads of 130 columns", {"head_dim": 130})])
def test_sizes_that_kernels_have_no_room_for(words, sizes):
    """Said when the model is opened, by its configuration; not by an operation in its midst."""
    check_sizes(small.sizes(**{"moe": (64, 32), "dim": 16384, "vocab_size": 1 << 24, "max_seq_len": 1 << 20,
                               "head_dim": 128, "n_heads": 8, "n_kv_heads": 1}))
    with pytest.raises(TinyError, match=words) as caught:
        check_sizes(small.sizes(**sizes))
    assert caught.value.remedy == "Use --device cpu."


DRAWS = np.full((2, 3), 0.4)


@pytest.mark.parametrize("error, words, options", [
    (ValueError, "choose expects draws", {"temperature": 0.5}),
    (ValueError, "choose expects draws", {"temperature": 0.5, "draws": DRAWS.astype(np.float32)}),
    (ValueError, "choose expects draws", {"temperature": 0.5, "draws": DRAWS.tolist()}),
    (ValueError, r"random numbers \(2, M\)", {"temperature": 0.5, "draws": DRAWS[:1]}),
    (ValueError, r"fewer than M; got \(2, 3\) and \[3, 0\]", {"temperature": 0.5, "draws": DRAWS, "used": [3, 0]}),
    (ValueError, r"\(2, 3\) and \[-1, 0\]", {"temperature": 0.5, "draws": DRAWS, "used": [-1, 0]}),
    (ValueError, "one for each of 2 sequences", {"used": [1]}),
    (TinyError, "The temperature is nan", {"temperature": float("nan")}),
    (TinyError, "The temperature is -1", {"temperature": -1}),
    (TinyError, "top_p is 0.0", {"temperature": 0.5, "top_p": 0.0, "draws": DRAWS})])
def test_what_a_choice_refuses(error, words, options):
    """Also when such a step is recorded already: its graph reads random numbers that were used."""
    model = kernels.load(MODEL, device="emulator")
    cache = model.new_cache([9, 9])
    model.choose(cache, [1, 2], 0.5, draws=DRAWS, used=np.array([0, 1]))
    with pytest.raises(error, match=words):
        model.choose(cache, [3, 4], **options)
    assert cache.lengths == [1, 1]


def test_a_choice_refuses_the_cache_of_another_model():
    for other in (tiny.load(MODEL), kernels.load(MODEL, device="emulator")):
        with pytest.raises(TinyError, match="of another model"):
            kernels.load(MODEL, device="emulator").choose(other.new_cache(9), [1])


def test_no_prompts_and_more_tokens_than_the_context_has():
    model = kernels.load(MODEL, device="emulator")
    assert write(model, []) == tiny.generate_batch(model, []) == []
    model.config = replace(model.config, max_seq_len=5)
    (ids, _), = write(model, [[1, 2, 3]], max_tokens=1 << 60, temperature=1.0, seed=0, stop_at_eos=False)
    assert len(ids) == 2


def test_a_damaged_place_is_named_when_another_text_has_ended(monkeypatch):
    """All prompts run again, with the images of all: those of a text that ended belong to it."""
    model = kernels.load(MODEL, device="emulator")
    seen = []
    monkeypatch.setattr("kernels.writing.not_finite", lambda model, ids, images, lengths: seen.append(
        (list(ids), lengths)) or TinyError("cause", "remedy"))
    right = model.choose
    monkeypatch.setattr(model, "choose", lambda *options: (np.array([-1]), right(*options)[1]))
    first = write(kernels.load(MODEL, device="emulator"), [[1, 2, 3]], max_tokens=1)[0][0]
    model.config = replace(model.config, end_ids=frozenset(first))
    with pytest.raises(TinyError, match="cause"):
        write(model, [[1, 2, 3], [1, 5]], max_tokens=4)
    (ids, lengths), = seen
    assert lengths == [3, 3] and ids[:5] == [1, 2, 3, 1, 5]
