"""What a resident model does on the strict device: what it uploads, waits for, allocates and copies back.

The numbers it computes there are those of the same model on the emulator, to the bit, although work lands only when
something waits, and every replay of its graph finds the arrays of the step poisoned.
"""

import contextlib
import sys
from functools import lru_cache

import numpy as np
import pytest
import strict_device
from compare import assert_close
from emulator_case import needs_compiler
from oracles import GOLDEN
from PIL import Image

import kernels
import kernels.ops
import tiny
from kernels import launch
from tests.kernels.test_launch import pretended  # noqa: F401
from tiny.config import TinyError
from tiny.generate import ExpertTrace, prefill

pytestmark = needs_compiler
COUNTS = ("uploads", "downloads", "waits", "allocations", "replays")
INT = 4  # bytes of an id on the device
TEXT = [1, 20, 7, 33, 5, 11, 2, 9]
PICTURES = [((40, 24), "teal"), ((24, 24), "gold")]
CAPACITY, LARGER = 24, 500
FIXTURES = [(f"{name}/{layout}", precision) for name, precision in
            (("mixtral-a", "float32"), ("mixtral-b", "bfloat16"), ("pixtral-a", "float32"))
            for layout in ("mistral", "hf")]
MODELS = [*FIXTURES, ("tiny-mixtral", "bfloat16"), ("tiny-pixtral", "bfloat16")]


@pytest.fixture(autouse=True)
def anew(pretended):  # noqa: F811
    """Launchers of other tests belong to other devices."""
    kernels.ops.device_launcher.cache_clear()
    yield
    kernels.ops.device_launcher.cache_clear()


def folder_of(name):
    return str(GOLDEN / name) if "/" in name else name


@lru_cache(maxsize=2)
def on_emulator(name, precision, weights):
    return kernels.load(folder_of(name), device="emulator", precision=precision, weights=weights)


def prompt_of(name, model) -> tuple[list[int], list[np.ndarray]]:
    """Ids of a prompt, and the pixels of two images if the model is Pixtral."""
    if model.config.vision is None:
        return TEXT, []
    images = [{"type": "image", "image": Image.new("RGB", size, colour)} for size, colour in PICTURES]
    # The fixture in Hugging Face's layout has no tokenizer.
    tokenizer = tiny.load_tokenizer(folder_of("pixtral-a/mistral")) if name.endswith("/hf") else model.tokenizer
    return tokenizer.encode_chat([{"role": "user", "content": [*images, {"type": "text", "text": "?"}]}])


class Counter:
    """What the device counts during a call."""

    def __init__(self, state):
        self.state, self.last = state, {}

    def __call__(self, function, *args, **options):
        before = {name: self.state[name] for name in COUNTS}
        launched = len(self.state["launches"]), len(self.state["cupy"])
        result = function(*args, **options)
        self.last = {name: self.state[name] - before[name] for name in COUNTS}
        self.last["launches"] = len(self.state["launches"]) - launched[0]
        self.last["cupy"] = self.state["cupy"][launched[1]:]
        return result


def same(actual, expected, name):
    assert_close(actual, expected, atol=0, name=name)


def on_device(name, precision, weights="auto"):
    """A model whose weights are on the device already, with what every pass reads beside them."""
    model = kernels.load(folder_of(name), device="cuda", precision=precision, weights=weights)
    for tensor in model.weights:
        model.weights[tensor]
    model.prepare()
    return model


def step_of(model, tokens=1, extra=0):
    """What one more token of each sequence may cost."""
    read = tokens * model.config.vocab_size * (4 if model.precision == "float32" else 2) + extra
    return {"uploads": INT * tokens, "downloads": read, "waits": 1, "allocations": 0, "replays": 1, "launches": 0,
            "cupy": []}


def spoil(state, cache):
    """Every replay from now on finds the arrays of the steps poisoned."""
    graphs = [graph for step in cache.steps.values() for graph in (step.graph, *step.choosing.values()) if graph]
    state["scratch"] = [array for graph in graphs for array in (*graph.arena.arrays, *graph.kept.arrays)]


def check_steps(state, name, precision, weights="auto"):
    model, twin = (load(name, precision, weights) for load in (on_device, on_emulator))
    ids, pixels = prompt_of(name, model)
    count, steps = Counter(state), []
    for prompt, images, capacity in ((ids, pixels, CAPACITY), (TEXT, [], LARGER)):
        cache, other = (one.new_cache(len(prompt) + capacity) for one in (model, twin))
        logits = count(model, prompt, images=images, cache=cache, last_only=True)
        check_prefill(count.last, prompt, images, precision, logits)
        same(logits, twin(prompt, images=images, cache=other, last_only=True), f"{capacity}: prompt")
        for n in range(3):  # the first is recorded
            logits = count(model, [5 + n], cache=cache, last_only=True)
            same(logits, twin([5 + n], cache=other, last_only=True), f"{capacity}: step {n}")
            spoil(state, cache)
        steps.append(count.last)
        steps.append(check_chosen(state, (model, twin), (cache, other)))
        state["scratch"] = []
    chosen = {**step_of(model), "uploads": 0, "downloads": 8}
    assert steps == [step_of(model), chosen] * 2, "whatever the capacity"


def check_chosen(state, models, caches, **how):
    """Steps that choose their tokens on the device; what the last one counts."""
    count, ids = Counter(state), np.full(len(caches[0].slots), 3)
    for n in range(4):  # the first is recorded, and gets the ids; the others run what was chosen
        found, expected = (count(model.choose, cache, None if n else ids, used=[n] * len(ids), **how)
                           for model, cache in zip(models, caches))
        for name, mine, other in zip(("ids", "logprobs"), found, expected):
            same(mine, other, f"{name} of choice {n}")
        spoil(state, caches[0])
        if n == 3:
            count(models[0].choose, caches[0], None, used=[4] * len(ids), **how)
    return count.last


def check_prefill(counted, ids, pixels, precision, logits):
    """Ids and pixels in the stored type are uploaded, and nothing else; one wait; no kernel of CuPy's own."""
    numbers = sum(image.size for image in pixels)
    assert counted["uploads"] == INT * len(ids) + numbers * (4 if precision == "float32" else 2)
    assert counted["waits"] == 1 and counted["downloads"] <= logits.nbytes and counted["cupy"] == []


def test_images_in_passes(pretended, monkeypatch):  # noqa: F811
    """Pixels and ids are uploaded once each; of CuPy's own only what joins the rows of two images to one array."""
    monkeypatch.setattr(sys.modules["tiny.generate"], "PREFILL", 16)
    name, precision = FIXTURES[4]
    model, twin = on_device(name, precision), on_emulator(name, precision, "auto")
    (ids, pixels), count = prompt_of(name, model), Counter(pretended)
    logits, expected = (count(prefill, one, [np.array(ids)], pixels, one.new_cache(len(ids)))[0][0]
                        for one in (model, twin))
    same(logits, expected, "logits")
    count(prefill, model, [np.array(ids)], pixels, model.new_cache(len(ids)))
    passes = -(-len(ids) // 16)
    assert count.last["uploads"] == INT * len(ids) + 4 * sum(image.size for image in pixels)
    assert count.last["waits"] >= passes > 1 and set(count.last["cupy"]) <= {"concatenate"}


def marked(cases, quick):
    return [pytest.param(*case, id="-".join(case).replace("/", "-"),
                         marks=() if case in quick else pytest.mark.thorough) for case in cases]


@pytest.mark.parametrize("name, precision", marked(MODELS, FIXTURES[::4]))
def test_one_more_token(pretended, name, precision):  # noqa: F811
    """It uploads its id, allocates nothing, waits once, and copies back the logits that the caller asked for."""
    check_steps(pretended, name, precision)


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["mixtral-a/mistral", "pixtral-a/hf"])
def test_one_more_token_with_weights_in_int8(pretended, name):  # noqa: F811
    check_steps(pretended, name, "bfloat16", "int8")


def test_several_sequences_and_their_experts(pretended):  # noqa: F811
    """Two ids, one wait; the experts' ids come back with the logits. One that has ended does not hold up the other."""
    name, precision = FIXTURES[0]
    model, twin = on_device(name, precision), on_emulator(name, precision, "auto")
    count, caches = Counter(pretended), [one.new_cache([12, 12]) for one in (model, twin)]
    for one, cache in zip((model, twin), caches):
        one([*TEXT[:5], *TEXT[:3]], lengths=[5, 3], cache=cache, last_only=True)
    for n, going in enumerate([[0, 1], [0, 1], [0, 1], [1], [1], [0], [0, 1]]):
        ids, traces = [5 + n, 9 + n][: len(going)], [ExpertTrace(), ExpertTrace()]
        logits = count(model, ids, lengths=[1] * len(going), cache=caches[0].subset(going), last_only=True,
                       trace=traces[0])
        expected = twin(ids, lengths=[1] * len(going), cache=caches[1].subset(going), last_only=True, trace=traces[1])
        same(logits, expected, f"step {n}")
        same(np.array(traces[0].layers), np.array(traces[1].layers), f"experts of step {n}")
        if n in (2, 4):
            routers = count.last["downloads"] - step_of(model, len(going))["downloads"]
            assert 0 < routers < 4096 and count.last == step_of(model, len(going), routers)
        if n == 5:  # another sequence takes this step: launches bring its place
            assert count.last.pop("launches") > 0
            assert {**count.last, "launches": 0} == step_of(model, len(going), routers)
        spoil(pretended, caches[0])


def test_several_choices_by_chance(pretended):  # noqa: F811
    """Three sequences with temperature and top-p: random numbers are uploaded once, then 8 bytes of each come back."""
    name, precision = FIXTURES[0]
    models = on_device(name, precision), on_emulator(name, precision, "auto")
    caches = [model.new_cache([12, 12, 12]) for model in models]
    for model, cache in zip(models, caches):
        model(TEXT[:6], lengths=[1, 2, 3], cache=cache, last_only=True)
    draws = np.random.default_rng(2).random((3, 12))
    counted = check_chosen(pretended, models, caches, temperature=0.9, top_p=0.8, draws=draws)
    assert counted == {**step_of(models[0]), "uploads": 0, "downloads": 3 * 8}


def test_a_text_is_the_same_and_each_token_a_replay(pretended):  # noqa: F811
    name, precision = FIXTURES[0]
    model, twin = on_device(name, precision), on_emulator(name, precision, "auto")
    count = Counter(pretended)
    texts = [[(token.id, token.logprob) for token in count(list, tiny.generate(one, TEXT, max_tokens=6,
                                                                               stop_at_eos=False))]
             for one in (model, twin)]
    assert texts[0] == texts[1] and pretended["replays"] == 4, "the prompt, a step that is recorded, and four replays"


@pytest.mark.parametrize("default", ["legacy", "of each thread", "of the caller"])
def test_steps_stay_in_order_on_any_stream(pretended, default):  # noqa: F811
    """CUPY_CUDA_PER_THREAD_DEFAULT_STREAM, or a stream of the caller: graphs wait for ids, and the host for graphs."""
    pretended["ptds"] = default == "of each thread"
    stream = strict_device.Stream(non_blocking=True) if default == "of the caller" else strict_device.Stream.null
    with stream if default == "of the caller" else contextlib.nullcontext():
        check_steps(pretended, *FIXTURES[0])


def test_what_came_back_stays_as_it_was(pretended):  # noqa: F811
    """CUPY_ENABLE_UMP: where host and GPU share memory, CuPy may give the memory itself, which the next step writes."""
    pretended["shared memory"] = True
    model = on_device(*FIXTURES[0])
    cache = model.new_cache(9)
    found = [model.choose(cache, [3] if n == 0 else None) for n in range(4)]
    kept = [(ids.copy(), logprobs.copy()) for ids, logprobs in found]
    model.choose(cache)
    for n, (one, other) in enumerate(zip(found, kept)):
        same(one[0], other[0], f"ids of choice {n}")
        same(one[1], other[1], f"logprobs of choice {n}")
    assert len({float(logprobs[0]) for _, logprobs in kept}) == 4


# ---- mistakes

def without_wait(self, arrays):
    return [self.cupy.asnumpy(array, blocking=False) for array in arrays]


def by_itself(self, run):
    """A graph on a stream that the default one does not wait for."""
    stream = self.cupy.cuda.Stream(non_blocking=True)
    with stream:
        stream.begin_capture()
        run()
        graph = stream.end_capture()
    return lambda: graph.launch(stream)


def not_recorded(self, run):
    return run


def uploading(self, array, numbers):
    """An array that is made anew: the graph reads the one that it was recorded with."""
    array.data = self.put(numbers).data


PLANTED = {"no wait": ("fetch", without_wait, AssertionError, "step 0: 509 NaN"),
           "a stream of its own": ("record", by_itself, AssertionError, "step 1: 509 NaN"),
           "nothing recorded": ("record", not_recorded, TinyError, "A recorded step allocates an array"),
           "ids elsewhere": ("write", uploading, RuntimeError, "cudaErrorIllegalAddress")}


@pytest.mark.parametrize("mistake", PLANTED)
def test_a_planted_mistake_shows(pretended, monkeypatch, mistake):  # noqa: F811
    name, wrong, error, words = PLANTED[mistake]
    monkeypatch.setattr(launch.Cuda, name, wrong)
    with pytest.raises(error, match=words):
        check_steps(pretended, *FIXTURES[0])
