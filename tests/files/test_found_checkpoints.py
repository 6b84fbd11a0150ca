"""Checkpoints as people have them: other names, stacked experts, added tokens, stale files; right, or named for what
they are.
"""

import itertools
import json

import numpy as np
import pytest
from compare import assert_close
from small import (
    file_bytes,
    hf_tensors,
    image_tokens,
    params,
    random_images,
    random_tensors,
    sizes,
    vision_sizes,
    write_hf,
    write_mistral,
)

import tiny
from tiny.config import TinyError
from tiny.files.checkpoint import open_checkpoint
from tiny.files.hf_names import LLAVA_FORMS, find_places
from tiny.files.safetensors import read_safetensors
from tiny.files.weights import expected_shapes
from tiny.tekken import SPECIAL_TOKENS

CONFIG = sizes((3, 2))
TENSORS = random_tensors(CONFIG)
DENSE = sizes(None)
DENSE_TENSORS = random_tensors(DENSE)
SEES = sizes(None, vision=vision_sizes())
SEES_TENSORS = random_tensors(SEES)
IDS = [1, 5, 7, 9, 30]


def refused(folder, *words, never=()):
    with pytest.raises(TinyError) as caught:
        tiny.load(folder)
    text = str(caught.value).lower()
    for word in words:
        assert word.lower() in text, text
    assert not [word for word in never if word.lower() in text], text
    assert caught.value.remedy


def hf_folder(folder, config, tensors, rename=lambda name: name):
    """A checkpoint in HF's layout with other names."""
    write_hf(folder, config, tensors)
    stored = {rename(name): x for name, x in hf_tensors(config, tensors).items()}
    (folder / "model.safetensors").write_bytes(file_bytes(stored))
    return folder


def stacked(tensors, layer=0):
    """Names and tensors of HF's layout with the experts of a layer in two stacks, as transformers 5 has them."""
    stored, block = dict(tensors), f"model.layers.{layer}."
    w1, w2, w3 = ([stored.pop(f"{block}block_sparse_moe.experts.{e}.w{n}.weight") for e in range(3)] for n in (1, 2, 3))
    stored[f"{block}mlp.experts.gate_up_proj"] = np.stack([np.concatenate(pair) for pair in zip(w1, w3)])
    stored[f"{block}mlp.experts.down_proj"] = np.stack(w2)
    stored[f"{block}mlp.gate.weight"] = stored.pop(f"{block}block_sparse_moe.gate.weight")
    return stored


def stacked_folder(folder):
    write_hf(folder, CONFIG, TENSORS)
    stored = hf_tensors(CONFIG, TENSORS)
    for layer in range(CONFIG.n_layers):
        stored = stacked(stored, layer)
    (folder / "model.safetensors").write_bytes(file_bytes(stored))
    return folder, stored


# ---- names

FORMS = list(itertools.product(*LLAVA_FORMS.values()))


@pytest.mark.parametrize("language, output, encoder, adapter", FORMS)
def test_the_prefix_of_each_part_is_settled_alone(tmp_path, language, output, encoder, adapter):
    def rename(name):
        for old, new in (("language_model.model.", language), ("language_model.lm_head.", output),
                         ("vision_tower.", encoder), ("multi_modal_projector.", adapter)):
            if name.startswith(old):
                return new + name.removeprefix(old)
        raise AssertionError(name)
    model = tiny.load(hf_folder(tmp_path / "m", SEES, SEES_TENSORS, rename), weights="resident")
    for name, x in SEES_TENSORS.items():
        assert_close(model.weights[name], x, 0.0, name=name)
    assert model.checkpoint.places["norm.weight"].name == f"{language}norm.weight"
    if language == FORMS[-1][0]:
        expected = tiny.Pixtral(SEES, SEES_TENSORS)([1, *image_tokens(2, 1)], random_images((2, 1)))
        assert_close(model([1, *image_tokens(2, 1)], random_images((2, 1))), expected, 1e-5)


@pytest.mark.parametrize("config, tensors", [(CONFIG, TENSORS), (DENSE, DENSE_TENSORS)])
def test_names_without_their_first_word(tmp_path, config, tensors):
    folder = hf_folder(tmp_path / "m", config, tensors, lambda name: name.removeprefix("model."))
    assert_close(tiny.load(folder)(IDS), tiny.Mixtral(config, tensors)(IDS), 1e-5)


@pytest.mark.parametrize("block", ["mlp.", "block_sparse_moe."])
def test_blocks_of_experts_by_their_new_name(tmp_path, block):
    for part in ("gate", "experts"):
        folder = hf_folder(tmp_path / part, CONFIG, TENSORS,
                           lambda name, part=part: name.replace(f"block_sparse_moe.{part}", f"{block}{part}"))
        assert_close(tiny.load(folder)(IDS), tiny.Mixtral(CONFIG, TENSORS)(IDS), 1e-5)


@pytest.mark.parametrize("mode", ["mapped", "resident"])
def test_stacked_experts(tmp_path, mode):
    folder, stored = stacked_folder(tmp_path / "m")
    model = tiny.load(folder, weights=mode)
    assert_close(model(IDS), tiny.Mixtral(CONFIG, TENSORS)(IDS), 1e-5)
    tensors = open_checkpoint(folder).tensors
    for name, x in TENSORS.items():
        assert not tensors[name].flags.owndata, "nothing is copied"
        assert_close(tensors[name].reshape(x.shape), x, 0.0, name=name)
    places = find_places("hf", CONFIG, expected_shapes(CONFIG), stored)
    assert {place.name for place in places.values()} == set(stored)
    assert places["layers.1.feed_forward.experts.2.w3.weight"] == (
        "model.layers.1.mlp.experts.gate_up_proj", (2, slice(28, 56)), (3, 56, 24))


DOWN, UP = "model.layers.1.mlp.experts.down_proj", "model.layers.0.mlp.experts.gate_up_proj"


@pytest.mark.parametrize("change, words", [
    (lambda t: t.update({DOWN: t[DOWN][:2]}), (f"{DOWN} is (2, 24, 28)",)),
    (lambda t: t.update({UP: t[UP].swapaxes(1, 2).copy()}), (f"{UP} is (3, 24, 56)",)),
    (lambda t: t.pop("model.layers.1.mlp.experts.gate_up_proj"), ("lacks", "layers.1.mlp.experts.gate_up_proj")),
    (lambda t: t.pop("model.layers.0.mlp.gate.weight"), ("lacks", "gate.weight")),
    (lambda t: t.update({"model.layers.0.mlp.experts.0.w1.weight": np.ones((28, 24), np.float32)}), ("has not",))])
def test_stacks_that_do_not_fit(tmp_path, change, words):
    folder, stored = stacked_folder(tmp_path / "m")
    change(stored)
    (folder / "model.safetensors").write_bytes(file_bytes(stored))
    refused(folder, *words)


@pytest.mark.parametrize("rename, words", [
    (lambda name: f"base_model.model.{name}", ("under another name: base_model.model.model.embed_tokens", "adapter")),
    (lambda name: f"_orig_mod.{name}", ("under another name", "_orig_mod.model")),
    (lambda name: f"module.{name}", ("under another name: module.model.",)),
    (lambda name: name.replace("model.norm", "model.final_norm"), ("lacks the tensor model.norm.weight",))])
def test_tensors_that_are_there_under_other_names(tmp_path, rename, words):
    refused(hf_folder(tmp_path / "m", CONFIG, TENSORS, rename), *words,
            never=("fetch",) if "under" in words[0] else ())


def test_weights_of_one_layout_under_the_configuration_of_the_other(tmp_path):
    folder = write_hf(tmp_path / "a", CONFIG, TENSORS)
    (folder / "model.safetensors").write_bytes(file_bytes(TENSORS))
    refused(folder, "names of the other layout", never=("fetch",))
    folder = write_mistral(tmp_path / "b", CONFIG, TENSORS)
    (folder / "consolidated.safetensors").write_bytes(file_bytes(hf_tensors(CONFIG, TENSORS)))
    refused(folder, "names of the other layout", never=("fetch",))


@pytest.mark.parametrize("head, words", [(None, ("output head", "embedding model")),
                                         ("score.weight", ("output head", "reward model", "score.weight")),
                                         ("v_head.summary.weight", ("output head", "v_head"))])
def test_models_without_an_output_head(tmp_path, head, words):
    stored = hf_tensors(DENSE, DENSE_TENSORS)
    del stored["lm_head.weight"]
    for prefix in ("model.", ""):
        folder = write_hf(tmp_path / f"m{prefix}", DENSE, DENSE_TENSORS)
        more = {head: np.ones((1, 24), np.float32)} if head else {}
        (folder / "model.safetensors").write_bytes(file_bytes(
            {prefix + name.removeprefix("model."): x for name, x in stored.items()} | more))
        refused(folder, *words, never=("fetch",))


def test_an_adapter_in_the_place_of_the_model(tmp_path):
    folder = write_hf(tmp_path / "m", DENSE, DENSE_TENSORS)
    names = [f"base_model.model.model.layers.{n}.self_attn.q_proj.lora_{x}.weight" for n in range(2) for x in "AB"]
    (folder / "model.safetensors").write_bytes(file_bytes(dict.fromkeys(names, np.ones((2, 24), np.float32))))
    refused(folder, "adapter (LoRA)", "merge", never=("fetch",))


def test_constants_of_rotary_positions_are_left_out(tmp_path):
    folder = write_hf(tmp_path / "m", DENSE, DENSE_TENSORS)
    more = {f"model.layers.{n}.self_attn.rotary_emb.{name}": np.ones(5, np.float32)
            for n in range(2) for name in ("inv_freq", "cos_cached", "sin_cached")}
    (folder / "model.safetensors").write_bytes(file_bytes(hf_tensors(DENSE, DENSE_TENSORS) | more))
    assert_close(tiny.load(folder)(IDS), tiny.Mixtral(DENSE, DENSE_TENSORS)(IDS), 1e-5)


def test_experts_as_mlx_stacks_them(tmp_path):
    folder, stored = stacked_folder(tmp_path / "m")
    stored = {name.replace("mlp.experts.", "block_sparse_moe.switch_mlp."): x for name, x in stored.items()}
    (folder / "model.safetensors").write_bytes(file_bytes(stored))
    refused(folder, "switch_mlp", "stacked", never=("fetch",))


def test_tensors_that_were_not_gathered(tmp_path):
    for name in ("model.embed_tokens.weight", "model.layers.1.mlp.up_proj.weight"):
        folder = write_hf(tmp_path / name, DENSE, DENSE_TENSORS)
        stored = hf_tensors(DENSE, DENSE_TENSORS) | {name: np.empty(0, np.float32)}
        (folder / "model.safetensors").write_bytes(file_bytes(stored))
        assert read_safetensors(folder / "model.safetensors")[name].shape == (0,)
        refused(folder, name, "is empty", "ZeRO", never=("whole",))


# ---- files

def test_a_whole_file_beside_an_index(tmp_path):
    """transformers reads the whole file, whether the shards are there or not."""
    folder = write_hf(tmp_path / "m", CONFIG, TENSORS, shards=2)
    other = random_tensors(CONFIG, seed=1)
    (folder / "model.safetensors").write_bytes(file_bytes(hf_tensors(CONFIG, other)))
    for gone in ("nothing.safetensors", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"):
        (folder / gone).unlink(missing_ok=True)
        with pytest.warns(UserWarning, match="model.safetensors is read, as transformers does"):
            model = tiny.load(folder)
        assert_close(model(IDS), tiny.Mixtral(CONFIG, other)(IDS), 1e-5)
        assert "index.json" in model.checkpoint.notes[0]


def test_other_variants_beside_a_whole_file(tmp_path, recwarn):
    folder = write_hf(tmp_path / "m", CONFIG, TENSORS)
    (folder / "model.fp16.safetensors").write_bytes(file_bytes(hf_tensors(CONFIG, random_tensors(CONFIG, seed=1))))
    assert_close(tiny.load(folder)(IDS), tiny.Mixtral(CONFIG, TENSORS)(IDS), 1e-5)
    assert not recwarn.list


@pytest.mark.parametrize("layout", ["hf", "mistral"])
def test_a_shard_that_is_not_there(tmp_path, layout):
    folder = write_hf(tmp_path / "m", CONFIG, TENSORS, shards=3)
    (folder / "model.safetensors.index.json").unlink()
    if layout == "mistral":
        folder = write_mistral(tmp_path / "n", CONFIG, TENSORS)
        (folder / "consolidated.safetensors").unlink()
        for n in range(3):
            part = {name: TENSORS[name] for name in list(TENSORS)[n::3]}
            (folder / f"consolidated-{n + 1:05}-of-00003.safetensors").write_bytes(file_bytes(part))
    assert_close(tiny.load(folder)(IDS), tiny.Mixtral(CONFIG, TENSORS)(IDS), 1e-5)
    lost = next(folder.glob("*-00002-of-00003.safetensors"))
    lost.unlink()
    refused(folder, f"lacks {lost.name}", "of which there are 3")


def test_links_to_nothing(tmp_path):
    """A snapshot of a cache that was copied without its blobs."""
    folder = tmp_path / "m"
    folder.mkdir()
    for name in ("params.json", "tekken.json", "consolidated.safetensors"):
        (folder / name).symlink_to("../../blobs/none")
    refused(folder, "consolidated.safetensors is a link to a file that is not there", "cp -rL")
    folder = write_hf(tmp_path / "n", CONFIG, TENSORS, shards=2)
    (folder / "model-00002-of-00002.safetensors").unlink()
    (folder / "model-00002-of-00002.safetensors").symlink_to("gone")
    refused(folder, "model-00002-of-00002.safetensors is a link")


def test_an_adapter_beside_the_model(tmp_path):
    folder = write_hf(tmp_path / "m", CONFIG, TENSORS)
    (folder / "adapter_config.json").write_text("{}")
    (folder / "adapter_model.safetensors").write_bytes(b"")
    with pytest.warns(UserWarning, match="adapter_config.json, adapter_model.safetensors"):
        model = tiny.load(folder)
    assert "adapter" in model.checkpoint.notes[0]
    (folder / "model.safetensors").unlink()
    refused(folder, "adapter_config.json", "merge the adapter")


# ---- tokenizers

def with_tokenizer(folder, golden, size, **files):
    """A dense model of some vocabulary with the golden tokenizer of 509 pieces, and JSON files beside it."""
    config = sizes(None, vocab_size=size)
    write_hf(folder, config, random_tensors(config))
    (folder / "tokenizer.model").write_bytes((golden / "mixtral-a/mistral/tokenizer.model").read_bytes())
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


DECODER = {"added_tokens_decoder": {"509": {"content": "<|im_end|>"}, "510": {"content": "<|im_start|>"}}}


@pytest.mark.parametrize("files", [
    {"added_tokens": {"<|im_end|>": 509, "<|im_start|>": 510}}, {"tokenizer_config": DECODER},
    {"added_tokens": {"<|im_end|>": 509, "<|im_start|>": 510, "<s>": 1, "x": 10**6}, "tokenizer_config": DECODER}])
def test_a_tokenizer_with_added_tokens(tmp_path, golden, files):
    with pytest.warns(UserWarning, match=r"509 pieces, the model 511: 2 more, <\|im_end\|>, <\|im_start\|>"):
        model = tiny.load(with_tokenizer(tmp_path / "m", golden, 511, **files))
    tokenizer = model.tokenizer
    ids = tokenizer.encode("Once upon a time")
    assert tokenizer.vocab_size == 511 and tokenizer.pieces([510, 509]) == ["<|im_start|>", "<|im_end|>"]
    assert tokenizer.decode([*ids, 509, 510]) == tokenizer.decode(ids) == "Once upon a time"
    assert max(tokenizer.encode("<|im_end|>")) < 509
    with pytest.raises(TinyError, match="511"):
        tokenizer.decode([511])
    texts = [token.text for token in tiny.generate(model, [1, 509, 510], max_tokens=6)]
    assert len(texts) == 6


def test_a_padded_vocabulary(tmp_path, golden):
    with pytest.warns(UserWarning, match="the model 512: 3 more, without names"):
        tokenizer = tiny.load(with_tokenizer(tmp_path / "m", golden, 512)).tokenizer
    assert tokenizer.pieces([511]) == ["<unused_511>"] and tokenizer.decode([511, 509]) == ""
    stream = tokenizer.stream()
    ids = [511, *tokenizer.encode("día €"), 510, *tokenizer.encode("€")[1:-1], 509, 3]
    assert "".join(map(stream.push, ids)) + stream.finish() == tokenizer.decode(ids)


@pytest.mark.parametrize("size", [508, 40])
def test_a_tokenizer_that_is_too_large(tmp_path, golden, size):
    refused(with_tokenizer(tmp_path / "m", golden, size), f"509 pieces, the model {size}")


@pytest.mark.parametrize("files", [{"added_tokens": []}, {"tokenizer_config": [1]}])
def test_broken_files_of_added_tokens(tmp_path, golden, files):
    refused(with_tokenizer(tmp_path / "m", golden, 511, **files), "not a JSON object")


@pytest.mark.parametrize("files", [
    {"added_tokens": {"a": "x", "b": -1, "c": None, "d": {}, "e": 1e30}}, {"tokenizer_config": {}},
    {"tokenizer_config": {"added_tokens_decoder": {"x": {}, "509": 3, "510": {"content": 4}, "9" * 30: {}}}}])
def test_entries_of_added_tokens_that_say_nothing(tmp_path, golden, files):
    with pytest.warns(UserWarning, match="2 more, without names"):
        tiny.load(with_tokenizer(tmp_path / "m", golden, 511, **files))


def test_a_tokenizer_that_is_a_link_to_nothing(tmp_path):
    folder = write_mistral(tmp_path / "m", CONFIG, TENSORS)
    (folder / "tokenizer.model").symlink_to("../blobs/gone")
    with pytest.warns(UserWarning, match="tokenizer.model is a link to a file that is not there"):
        model = tiny.load(folder)
    with pytest.raises(TinyError, match="no tokenizer"):
        model.tokenizer  # noqa: B018


def pixtral(folder, golden, vision=None, size=1391, image=True):
    """The golden small Pixtral's tokenizer beside random weights."""
    config = sizes(None, vocab_size=size, vision=vision_sizes(image_size=160, max_image_size=160, patch_size=16,
                                                              image_token_id=10))
    write_mistral(folder, config, random_tensors(config))
    fields = params(config)
    fields["vision_encoder"] |= vision or {}
    (folder / "params.json").write_text(json.dumps(fields))
    content = json.loads((golden / "pixtral-a/mistral/tekken.json").read_text())
    if not image:
        content.pop("image")
    (folder / "tekken.json").write_text(json.dumps(content))
    return folder


def test_image_tokens_of_the_configuration_and_of_the_tokenizer(tmp_path, golden, recwarn):
    right = {"image_break_token_id": 12, "image_end_token_id": 13}
    vision = tiny.load(pixtral(tmp_path / "a", golden, right)).config.vision
    assert (vision.image_break_token_id, vision.image_end_token_id) == (12, 13) and not recwarn.list
    for n, (wrong, words) in enumerate((
            ({"image_break_token_id": 14}, ("image_break_token_id is 14", "[IMG_BREAK] is 12")),
            (right | {"image_end_token_id": 15}, ("image_end_token_id is 15", "[IMG_END] is 13")),
            ({"image_token_id": 11}, ("image_token_id is 11", "[IMG] is 10")))):
        refused(pixtral(tmp_path / f"b{n}", golden, wrong), *words)


def test_a_tokenizer_without_an_image_section_beside_a_model_that_sees(tmp_path, golden):
    with pytest.warns(UserWarning, match="says nothing of images"):
        model = tiny.load(pixtral(tmp_path / "m", golden, image=False))
    ids, pixels = model.tokenizer.encode_image(tiny.image.Image.new("RGB", (40, 20)))
    assert pixels.shape == (3, 32, 48) and len(ids) == 8


def test_a_tekken_file_that_is_smaller_than_the_model(tmp_path, golden):
    with pytest.warns(UserWarning, match="1391 pieces, the model 1400: 9 more"):
        tokenizer = tiny.load(pixtral(tmp_path / "m", golden, size=1400)).tokenizer
    ids = [1399, *tokenizer.encode("Hello €"), 1391, 1]
    assert tokenizer.decode(ids) == "Hello €" and tokenizer.pieces([1399, 0]) == ["<unused_1399>", SPECIAL_TOKENS[0]]
    stream = tokenizer.stream()
    assert "".join(map(stream.push, ids)) + stream.finish() == "Hello €"
