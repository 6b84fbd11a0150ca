"""A prompt with images, read in several passes: the numbers of one pass, wherever it is cut."""

import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from compare import assert_close
from oracles import Oracle
from small import BREAK, END, IMAGE, image_tokens, random_images, random_tensors, sizes, vision_sizes
from tolerances import MODEL, PIXTRAL

import tiny
from tests.book.test_oracle_pixtral import images_of
from tests.mutants.passes import PASS_MUTANTS
from tests.mutants.vision import Sight
from tiny.config import TinyError
from tiny.generate import prefill
from tiny.patch_embed import patches
from tiny.pixtral import ImageRows, Pixtral
from tiny.tools.bench.context import SEES
from tiny.tools.synthetic import RandomTensors

GENERATE = sys.modules["tiny.generate"]
GRIDS = [(3, 2), (1, 1), (2, 4)]
IMAGES = random_images(*GRIDS)
IDS = np.array([1, 3, *image_tokens(3, 2), 20, 21, *image_tokens(1, 1), *image_tokens(2, 4), 4])


class Watched(Pixtral):
    """Keeps what goes into the first layer, and how many images are encoded at a time, of every pass."""

    def __init__(self, *arguments, **fields):
        super().__init__(*arguments, **fields)
        self.embedded, self.together, self.lengths = [], [], []

    def embed(self, ids, images, run):
        self.embedded.append(super().embed(ids, images, run))
        self.lengths.append(list(run.lengths))
        return self.embedded[-1]

    def encode(self, images, run):
        if not isinstance(images, ImageRows):
            self.together.append(len(images))
        return super().encode(images, run)


def watched(moe=None, **fields):
    config = sizes(moe, vision=vision_sizes(), max_seq_len=2000)
    return Watched(config, random_tensors(config), **fields)


def read(model, prompts, images):
    """Logits after the last tokens, and the cache."""
    cache = model.new_cache([len(ids) for ids in prompts])
    return prefill(model, prompts, images, cache)[0], cache


@pytest.fixture(scope="module")
def rows():
    """The vectors of the tokens, made of one image at a time by hand."""
    model = watched()
    x = model.weights["tok_embeddings.weight"][IDS].astype(np.float32)
    features = []
    for grid, image in zip(GRIDS, IMAGES):
        trace = {}
        model(image_tokens(*grid), [image], trace=trace)
        features.append(trace["projector"])
    x[IDS == IMAGE] = np.concatenate(features)
    return x


@pytest.mark.parametrize("moe", [None, (4, 2)], ids=["dense", "experts"])
@pytest.mark.parametrize("cut", range(1, len(IDS) + 1))
def test_a_boundary_at_every_token(cut, moe, rows, monkeypatch):
    """Inside an image, on a break, between two images: each row of [IMG] gets its own patch, to the bit."""
    monkeypatch.setattr(GENERATE, "PREFILL", cut)
    model = watched(moe)
    (logits,), cache = read(model, [IDS], IMAGES)
    assert [len(x) for x in model.embedded] == [min(cut, len(IDS) - start) for start in range(0, len(IDS), cut)]
    if moe is None:
        assert_close(np.concatenate(model.embedded), rows, 0.0, name="embed")
    assert model.together == [1, 1, 1], "images are encoded one at a time, each once"
    assert_close(logits, watched(moe)(IDS, IMAGES)[-1], MODEL["logits"], name="logits")
    assert cache.lengths == [len(IDS)]


def test_the_boundaries_are_of_all_kinds():
    """What the parameters of the test above stand for: the token after a boundary, and the one before."""
    kinds = {(before, after) for before, after in zip(IDS, IDS[1:]) if {before, after} & {IMAGE, BREAK, END}}
    assert {(IMAGE, IMAGE), (IMAGE, BREAK), (BREAK, IMAGE), (END, IMAGE)} <= kinds


def by_rows(function):
    """An operation that computes each row by itself, so that no BLAS can add in another order for other rows."""
    return lambda x, *more: np.concatenate([function(x[n : n + 1], *more) for n in range(len(x))])


def operations_by_rows():
    linear = by_rows(tiny.ops.linear)
    return SimpleNamespace(**{name: getattr(tiny.ops, name) for name in tiny.ops.__all__} | {
        "linear": linear, "feed_forward": by_rows(tiny.ops.feed_forward), "adapter": by_rows(tiny.ops.adapter),
        "patch_embed": lambda images, weight, precision: np.concatenate(
            [linear(patches(image, 4), weight.reshape(len(weight), -1), precision) for image in images])})


def row_alone_is_row_of_many(model):
    """Whether this machine's BLAS computes a row of a product alike, whatever other rows the product has.

    The AVX-512 kernel of OpenBLAS does from 64 rows on, in whole tiles of 16; its AVX2 kernel does not.
    """
    rng = np.random.default_rng(0)
    for columns, inner in {weight.shape for weight in model.weights.values() if weight.ndim == 2}:
        x, w = rng.standard_normal((448, inner), np.float32), rng.standard_normal((columns, inner), np.float32)
        for order in "CF":  # feed_forward puts the columns of its answers side by side
            many, few = np.empty((448, columns), np.float32, order), np.empty((64, columns), np.float32, order)
            np.matmul(x, w.T, out=many)
            if not all(np.array_equal(many[n : n + 64], np.matmul(x[n : n + 64], w.T, out=few)) for n in (0, 64, 384)):
                return False
    return True


@pytest.mark.parametrize("rows_apart", [True, False], ids=["each row by itself", "products of BLAS"])
@pytest.mark.parametrize("lead, around", [(2, (END, IMAGE)), (6, (IMAGE, IMAGE)), (11, (IMAGE, BREAK)),
                                          (10, (BREAK, IMAGE))], ids=["between", "inside", "before a break", "after"])
def test_the_bits_of_one_pass(lead, around, rows_apart, monkeypatch):
    """Three images of 126, 144 and 72 tokens after some words, in passes of 64 tokens; alone and in a batch."""
    vision = vision_sizes(max_image_size=64, hidden_size=64, num_attention_heads=2, num_hidden_layers=1)
    config = sizes(None, vision=vision, max_seq_len=2000, dim=64, n_layers=1, n_heads=4, head_dim=16,
                   n_kv_heads=2)
    tensors = {name: x.astype(np.float32) for name, x in random_tensors(config).items()}
    model = Pixtral(config, tensors, ops=operations_by_rows() if rows_apart else tiny.ops)
    if not rows_apart and not row_alone_is_row_of_many(model):
        pytest.skip("this BLAS adds in another order if a product has other rows: passes agree to a tolerance only")
    grids = [(8, 14), (8, 16), (8, 8)]
    ids = np.array([1] * lead + [token for grid in grids for token in image_tokens(*grid)])
    ids = np.append(ids, [3] * (-len(ids) % 64))
    assert around in {(ids[n - 1], ids[n]) for n in range(64, len(ids), 64)}
    images, whole = random_images(*grids), model.new_cache(len(ids))
    expected = model(ids, images, cache=whole, last_only=True)[0]
    monkeypatch.setattr(GENERATE, "PREFILL", 64)
    (logits,), cache = read(model, [ids], images)
    assert_close(logits, expected, 0.0, name="logits")
    assert_close(cache.keys, whole.keys, 0.0, name="keys")
    assert_close(cache.values, whole.values, 0.0, name="values")
    _, cache = read(model, [np.full(90, 4), ids, np.full(30, 5)], images)
    assert_close(cache.keys[:, 90 : 90 + len(ids)], whole.keys, 0.0, name="keys in a batch")


@pytest.mark.thorough
def test_the_bits_of_two_large_images():
    """Of 1024 x 1024 pixels, in passes of the real length: 8,323 tokens through a narrow Pixtral."""
    config = replace(SEES, n_layers=2, vision=replace(SEES.vision, num_hidden_layers=2))
    model = Pixtral(config, {name: x.astype(np.float32) for name, x in RandomTensors(config, 0).items()})
    if not row_alone_is_row_of_many(model):
        pytest.skip("this BLAS adds in another order if a product has other rows: passes agree to a tolerance only")
    vision = config.vision
    image = ([vision.image_token_id] * 64 + [12]) * 63 + [vision.image_token_id] * 64 + [13]
    ids, images = np.array([1, *image, *image, 5, 7]), random_images((64, 64), (64, 64), patch_size=16)
    whole = model.new_cache(len(ids))
    expected = model(ids, images, cache=whole, last_only=True)[0]
    (logits,), cache = read(model, [ids], images)
    assert_close(logits, expected, 0.0, name="logits")
    assert_close(cache.keys, whole.keys, 0.0, name="keys")
    assert_close(cache.values, whole.values, 0.0, name="values")


def test_a_batch_in_passes(monkeypatch):
    """Prompts share a pass if they fit whole; a long one is cut at multiples of its own, as alone."""
    prompts = [IDS, np.array([5, 6]), np.array([1, *image_tokens(2, 4)]), np.array([1, *image_tokens(3, 2), 9])]
    images = [*IMAGES, IMAGES[2], IMAGES[0]]
    monkeypatch.setattr(GENERATE, "PREFILL", 12)
    model = watched()
    logits, _ = read(model, prompts, images)
    assert model.lengths == [[12], [12], [3, 2], [12], [1, 10]] and len(IDS) == 27
    for ids, some, found in zip(prompts, [IMAGES, [], IMAGES[2:], IMAGES[:1]], logits):
        assert_close(found, watched()(ids, some)[-1], MODEL["logits"], name="logits")
    assert model.together == [1] * 5


def test_no_prompts_and_no_images():
    assert read(watched(), [], [])[0] == []
    model = watched()
    assert_close(read(model, [np.array([1, 5])], [])[0][0], model([1, 5], last_only=True)[0], 0.0)
    assert model.together == []


def test_images_are_checked_once_for_all_passes(monkeypatch):
    monkeypatch.setattr(GENERATE, "PREFILL", 5)
    for images, words in (([], "15 .IMG. tokens in 7 rows"), (IMAGES[:2], "have 7 patches"),
                          (IMAGES[::-1], "in this order"), ("a.png", "one str")):
        model = watched()
        with pytest.raises(TinyError, match=words):
            next(tiny.generate(model, IDS, images))
        assert model.embedded == [], "nothing was computed"


def test_tokens_that_look_was_not_given():
    model = watched()
    images = model.look(IDS, IMAGES)
    model(IDS, images, cache=model.new_cache(99))
    with pytest.raises(TinyError, match="pass has 6 .IMG. tokens, the images have 0 rows left") as caught:
        model(image_tokens(3, 2), images)
    assert caught.value.remedy


# ---- mistakes

ORACLE = Oracle("pixtral-a")
SIZES = (3, 7, 16)  # tokens of a pass


def errors(subject, case, monkeypatch):
    """The largest error of the logits after the prompt, against mistral-inference, as a share of the tolerance."""
    found, info, model = [], ORACLE.cases[case], subject.model(subject.config, subject.weights, ops=subject.ops)
    for size in SIZES:
        monkeypatch.setattr(GENERATE, "PREFILL", size)
        try:
            (logits,), _ = read(model, [np.array(info["ids"])], images_of(case))
        except (ValueError, IndexError):
            found.append(np.inf)
            continue
        found.append(np.abs(logits - ORACLE.arrays(case)["greedy_logits"][0]).max() / PIXTRAL["logits"])
    return found


@pytest.fixture(scope="module")
def parts():
    model = tiny.load(ORACLE.folder / "mistral", weights="resident")
    return model.config, dict(model.weights)


@pytest.mark.parametrize("case", ["one_image", "two_images"])
def test_passes_agree_with_mistral_inference(parts, case, monkeypatch):
    assert max(errors(Sight(*parts), case, monkeypatch)) <= 1


@pytest.mark.parametrize("name", PASS_MUTANTS)
def test_mistakes_of_passes_are_refused(name, parts, monkeypatch):
    subject = Sight(*parts)
    PASS_MUTANTS[name](subject)
    found = errors(subject, "two_images", monkeypatch)
    print(name, found)
    assert min(found) > 4, f"{name}: {found} times the tolerance"
