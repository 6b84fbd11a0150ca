"""The tiny Pixtral checkpoint in the released formats, and what the two references compute with it."""

from functools import lru_cache

import numpy as np
import pytest
from compare import assert_close
from oracles import GOLDEN, Oracle
from tolerances import PIXTRAL

import tiny
from tiny.rope import rope_table

LAYOUTS, MODES = ("mistral", "hf"), ("mapped", "resident")
GREEDY = 16
ORACLE = Oracle("pixtral-a")
PIXELS = dict(np.load(GOLDEN / "images" / "preprocess.npz"))
CASES = {case: info["image_shapes"] for case, info in ORACLE.cases.items()}
LAYERS, VISION_LAYERS = 3, 3
LANGUAGE = {"embed", "k", "v", "attn", "layer", "norm", "logits"}
VISION = {"patch_conv", "vision_ln_pre", "vision_attn", "vision_layer", "projector"}


@lru_cache(maxsize=8)
def load(layout, mode="mapped", precision="float32"):
    return tiny.load(ORACLE.folder / layout, weights=mode, precision=precision)


@pytest.fixture(params=[(layout, mode) for layout in LAYOUTS for mode in MODES], ids="-".join)
def model(request):
    return load(*request.param)


def kind(name):
    return name[:-2] if name[-2:].isdigit() else name


def ids_of(case):
    return ORACLE.cases[case]["ids"]


def names_of(case):
    return ORACLE.cases[case].get("images", [])


def images_of(case):
    """The pixels that went into the references, as mistral-common prepared them."""
    return [PIXELS[f"{name}/mistral"] for name in names_of(case)]


def check_trace(model, case, stored, images):
    """Compare every array of a case that the trace has too; return their names, with numbers of layers."""
    trace, compared = {}, set()
    logits = model(ids_of(case), images=images, trace=trace)
    assert_close(logits, trace["logits"], 0.0, name="returned logits")
    for key in sorted(set(stored) & set(trace)):
        actual = trace[key][stored["logits_positions"]] if key == "logits" else trace[key]
        exact = key == "embed" and not images
        assert_close(actual, stored[key], PIXTRAL["embed of text" if exact else kind(key)], name=f"{case} {key}")
        compared.add(key)
    return compared


def test_the_cases():
    assert [len(shapes) for shapes in CASES.values()] == [0, 1, 2, 3]
    for case, shapes in CASES.items():
        assert [list(pixels.shape) for pixels in images_of(case)] == shapes


@pytest.mark.parametrize("case", CASES)
def test_every_array_of_mistrals_own_code(model, case):
    compared = check_trace(model, case, ORACLE.arrays(case), images_of(case))
    assert set(map(kind, compared)) == (LANGUAGE | VISION if CASES[case] else LANGUAGE)
    assert {f"layer{n:02}" for n in range(LAYERS)} <= compared
    assert not CASES[case] or {f"vision_layer{n:02}" for n in range(VISION_LAYERS)} <= compared


@pytest.mark.parametrize("case", CASES)
def test_every_array_of_transformers(model, case):
    stored = {key.split("/", 1)[1]: x for key, x in ORACLE.hf.items() if key.startswith(case + "/")}
    compared = check_trace(model, case, stored, images_of(case))
    assert compared == ({"norm", "logits", "projector"} if CASES[case] else {"norm", "logits"})


@pytest.mark.parametrize("case", CASES)
def test_greedy_tokens(model, case):
    info, images = ORACLE.cases[case], images_of(case)
    tokens = list(tiny.generate(model, info["ids"], images, max_tokens=GREEDY, stop_at_eos=False))
    assert [token.id for token in tokens] == info["greedy_tokens"]
    assert info["greedy_tokens"] == ORACLE.arrays(case)["greedy_tokens"].tolist()
    assert info["greedy_tokens"] == ORACLE.hf[f"{case}/greedy_tokens"].tolist()
    assert all(token.experts is None for token in tokens)


@pytest.mark.parametrize("case", CASES)
def test_text_of_the_greedy_tokens(case):
    info, model = ORACLE.cases[case], load("mistral")
    tokens = list(tiny.generate(model, info["ids"], images_of(case), max_tokens=GREEDY, stop_at_eos=False))
    assert "".join(token.text for token in tokens) == model.tokenizer.decode(info["greedy_tokens"])
    assert model.tokenizer.decode(info["greedy_tokens"]) == info["greedy_text"]


@pytest.mark.parametrize("case", CASES)
def test_cached_decode(model, case):
    info, stored, ids = ORACLE.cases[case], ORACLE.arrays(case), ids_of(case)
    cache = model.new_cache(len(ids) + GREEDY)
    rows = [model(ids, images=images_of(case), cache=cache, last_only=True)]
    rows += [model([token], cache=cache) for token in info["greedy_tokens"][:-1]]
    rows = np.concatenate(rows)
    assert_close(rows, stored["greedy_logits"], PIXTRAL["logits"], name=f"{case} greedy_logits")
    assert rows.argmax(axis=1).tolist() == info["greedy_tokens"]
    for name, held in (("k00", cache.keys), ("v00", cache.values)):
        assert_close(held[0, : len(ids)], stored[name], PIXTRAL[name[0]], name=f"{name} of the cache")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_batch_of_prompts_with_no_one_two_and_three_images(layout):
    model, cases = load(layout), list(CASES)
    for order in (cases, cases[::-1]):
        images = [pixels for case in order for pixels in images_of(case)]
        texts = tiny.generate_batch(model, [ids_of(case) for case in order], images, max_tokens=GREEDY,
                                    stop_at_eos=False)
        for case, text in zip(order, texts):
            assert [token.id for token in text] == ORACLE.cases[case]["greedy_tokens"]
            alone = tiny.generate(model, ids_of(case), images_of(case), max_tokens=GREEDY, stop_at_eos=False)
            assert_close([token.logprob for token in text], [token.logprob for token in alone], PIXTRAL["logprobs"],
                         name=f"{case} logprobs")
        # All prompts in one packed pass.
        logits = model(np.concatenate([ids_of(case) for case in order]), images,
                       lengths=[len(ids_of(case)) for case in order], last_only=True)
        first = [ORACLE.arrays(case)["greedy_logits"][0] for case in order]
        assert_close(logits, first, PIXTRAL["logits"], name="packed logits")


@pytest.mark.parametrize("case", [case for case in CASES if CASES[case]])
def test_from_the_files_of_the_images(case):
    """The same through our own preprocessing: paths are as good as pixels."""
    model = load("mistral")
    paths = [GOLDEN / "images" / f"{name}.png" for name in names_of(case)]
    vision = model.config.vision
    pixels = [tiny.preprocess(path, vision.patch_size, vision.max_image_size) for path in paths]
    compared = check_trace(model, case, ORACLE.arrays(case), pixels)
    assert {"projector", "embed", "logits"} <= compared
    assert_close(model(ids_of(case), paths), model(ids_of(case), pixels), 0.0, name="paths against pixels")
    tokens = tiny.generate(model, ids_of(case), list(map(str, paths)), max_tokens=GREEDY, stop_at_eos=False)
    assert [token.id for token in tokens] == ORACLE.cases[case]["greedy_tokens"]


def test_the_order_of_images_counts():
    """Two images of one size: each in the other's place is a valid prompt, and another one."""
    model, ids = load("mistral"), ids_of("one_image")
    (first,) = images_of("one_image")
    second = first[:, ::-1, ::-1].copy()
    start, stop = 2, 2 + 5 * (7 + 1)  # of the image's tokens
    prompt = ids[:stop] + ids[start:stop] + ids[stop:]
    logits = {name: model(prompt, images, last_only=True)
              for name, images in (("12", [first, second]), ("21", [second, first]), ("11", [first, first]))}
    for one, other in (("12", "21"), ("12", "11"), ("21", "11")):
        assert np.abs(logits[one] - logits[other]).max() > 0.1
    trace = {"12": {}, "21": {}}
    for name, images in (("12", [first, second]), ("21", [second, first])):
        model(prompt, images, trace=trace[name])
    swapped = np.concatenate([trace["21"]["projector"][35:], trace["21"]["projector"][:35]])
    assert_close(trace["12"]["projector"], swapped, PIXTRAL["projector"], name="projector")
    at = np.flatnonzero(np.array(prompt) == 10)
    assert_close(trace["12"]["embed"][at], trace["12"]["projector"], 0.0, name="rows of the patches, in order")


def test_packed_images_give_what_each_gives_alone():
    model, names = load("mistral"), [name for name in PIXELS if name.endswith("/mistral")]
    images, prompt, alone = [PIXELS[name] for name in names], [], []
    for pixels in images:
        columns, rows = pixels.shape[2] // 16, pixels.shape[1] // 16
        ids, trace = (([10] * columns + [12]) * rows)[:-1] + [13], {}
        model(ids, [pixels], trace=trace)
        prompt += ids
        alone.append(trace["projector"])
    trace = {}
    model(prompt, images, trace=trace)
    assert len(images) == 7
    assert_close(trace["projector"], np.concatenate(alone), PIXTRAL["alone"], name="seven images in one prompt")


def test_rope_tables():
    config = load("mistral").config
    for name, table in zip(("cos", "sin"), rope_table(np.arange(64), config.head_dim, config.rope_theta)):
        assert_close(table, ORACLE.mistral[f"rope/{name}"], PIXTRAL["rope"], name=name)
        assert_close(np.concatenate([table, table], axis=1), ORACLE.hf[f"rope/{name}"], PIXTRAL["rope"], name=name)


def test_the_trace_holds_the_documented_arrays(model):
    c, v, ids = model.config, model.config.vision, ids_of("two_images")
    T, N = len(ids), 51
    shapes = {"embed": (T, c.dim), "norm": (T, c.dim), "logits": (T, c.vocab_size), "projector": (N, c.dim),
              "patch_conv": (N, v.hidden_size), "vision_ln_pre": (N, v.hidden_size)}
    for n in range(c.n_layers):
        shapes |= {f"q{n:02}": (T, c.n_heads, c.head_dim), f"k{n:02}": (T, c.n_kv_heads, c.head_dim),
                   f"v{n:02}": (T, c.n_kv_heads, c.head_dim), f"attn{n:02}": (T, c.dim), f"layer{n:02}": (T, c.dim)}
    for n in range(v.num_hidden_layers):
        shapes |= {f"vision_{x}{n:02}": (N, v.num_attention_heads, v.head_dim) for x in "qkv"}
        shapes |= {f"vision_{x}{n:02}": (N, v.hidden_size) for x in ("attn", "layer")}
    trace = {}
    model(ids, images_of("two_images"), trace=trace)
    assert {name: x.shape for name, x in trace.items()} == shapes
    assert all(type(x) is np.ndarray and x.dtype == np.float32 for x in trace.values())
    kept = {name: x.copy() for name, x in trace.items()}
    model(ids_of("odd_modes"), images_of("odd_modes"), trace={})
    for name, x in kept.items():
        assert_close(trace[name], x, 0.0, name=f"{name} after another call")


def test_the_references_are_not_degenerate():
    for case, shapes in CASES.items():
        stored = ORACLE.arrays(case)
        assert 1.5 < stored["logits"].std() < 3
        assert all(np.isfinite(x).all() and x.std() > 0.02 for x in stored.values() if x.dtype == np.float32)
        assert len(set(stored["greedy_tokens"].tolist())) > GREEDY / 2
        for name in ("layer00", "attn01", "norm", *(("projector", "vision_layer02") if shapes else ())):
            assert stored[name].std(axis=0).min() > 0.1, name
        top = np.sort(stored["greedy_logits"], axis=1)
        assert (top[:, -1] - top[:, -2]).min() > 100 * PIXTRAL["logits"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_bfloat16_has_the_bits_of_transformers(layout):
    """Three of the four cases are equal in every bit; in the other one torch adds in another order than BLAS does."""
    model, stored, equal = load(layout, precision="bfloat16"), np.load(ORACLE.folder / "golden_bf16.npz"), []
    for case in CASES:
        logits = model(ids_of(case), images_of(case))[stored[f"{case}/hf_logits_positions"]]
        equal.append(logits.tobytes() == stored[f"{case}/hf_logits"].astype(np.float32).tobytes())
        assert_close(logits, stored[f"{case}/hf_logits"], PIXTRAL["bfloat16"], name=case)
    assert sum(equal) >= 3, f"{sum(equal)} of 4 cases have transformers' bits: {equal}"
