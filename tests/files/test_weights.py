"""Checkpoints in both layouts: which files are taken, which tensors are required, and in which order of rows."""

import json
import re
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from compare import assert_close
from small import (
    file_bytes,
    hf_tensors,
    image_tokens,
    random_images,
    random_tensors,
    raw_file,
    sizes,
    vision_sizes,
    write_hf,
    write_mistral,
)
from tolerances import MODEL

import tiny
from tiny.config import TinyError
from tiny.files.checkpoint import find_layout, open_checkpoint, weight_files
from tiny.files.hf_names import HF_LLAVA, Prefixes, find_naming, hf_name, hf_prefixes
from tiny.files.safetensors import read_safetensors
from tiny.files.weights import (
    Weights,
    expected_shapes,
    halves_to_pairs,
    head_dim_of,
    pairs_to_halves,
)
from tiny.system import free_memory as module
from tiny.system.free_memory import choose_mode
from tiny.training.saving import save_safetensors

CONFIG = sizes(n_layers=1, moe=(2, 1))
TENSORS = random_tensors(CONFIG)
PIXTRAL = sizes(None, n_layers=1, vision=vision_sizes())
PIXTRAL_TENSORS = random_tensors(PIXTRAL)


@pytest.fixture
def mistral(tmp_path):
    return write_mistral(tmp_path / "mistral", CONFIG, TENSORS)


@pytest.fixture
def hf(tmp_path):
    return write_hf(tmp_path / "hf", CONFIG, TENSORS, shards=3)


def refused(folder, *words):
    with pytest.raises(TinyError) as caught:
        tiny.load(folder)
    assert caught.value.cause and caught.value.remedy
    for word in words:
        assert word in str(caught.value), str(caught.value)


def test_folders(tmp_path):
    refused(tmp_path / "nowhere", "nowhere is not a folder")
    (tmp_path / "file").write_text("x")
    refused(tmp_path / "file", "is not a folder")
    empty = tmp_path / "empty"
    empty.mkdir()
    refused(empty, "found: nothing")
    (empty / "notes.txt").write_text("x")
    (empty / "consolidated.00.pt").write_bytes(b"\x80\x02")
    refused(empty, "consolidated.00.pt, notes.txt")
    (empty / "params.json").write_text("{}")
    refused(empty, "holds neither")
    (empty / "config.json").write_text("{}")
    refused(empty, "holds neither")


def test_both_layouts_in_one_folder(tmp_path, mistral, hf):
    for path in hf.iterdir():
        path.rename(mistral / path.name)
    assert find_layout(mistral) == "mistral"
    assert weight_files(mistral, "mistral") == [mistral / "consolidated.safetensors"]
    assert len(weight_files(mistral, "hf")) == 3 and open_checkpoint(mistral, "hf").layout == "hf"
    (mistral / "params.json").rename(mistral / "params.old")
    assert find_layout(mistral) == "hf"


def test_several_consolidated_files(mistral):
    (mistral / "consolidated.safetensors").unlink()
    names = list(TENSORS)
    for n in range(2):
        (mistral / f"consolidated.{n:02}.safetensors").write_bytes(file_bytes({k: TENSORS[k] for k in names[n::2]}))
    assert len(weight_files(mistral, "mistral")) == 2
    assert_close(tiny.load(mistral, weights="mapped")([1, 2]), tiny.Mixtral(CONFIG, TENSORS)([1, 2]), 0.0)


def test_tensors_are_views_of_the_files(mistral, hf):
    for folder in (mistral, hf):
        checkpoint = open_checkpoint(folder)
        layout, tensors = checkpoint.layout, checkpoint.tensors
        assert set(tensors) == set(expected_shapes(CONFIG)) == set(TENSORS)
        for name, x in tensors.items():
            assert not x.flags.writeable and not x.flags.owndata and x.dtype == ml_dtypes.bfloat16
            assert_close(x.reshape(TENSORS[name].shape), TENSORS[name], 0.0, name=f"{layout} {name}")


def test_names_of_hf():
    assert sorted(map(hf_name, TENSORS)) == sorted(hf_tensors(CONFIG, TENSORS))
    dense = random_tensors(sizes(None))
    assert sorted(map(hf_name, dense)) == sorted(hf_tensors(sizes(None), dense))


@pytest.mark.parametrize("heads, d", [(1, 2), (2, 10), (8, 32)])
def test_row_orders(heads, d):
    stored = np.arange(heads * d * 3, dtype=np.float32).reshape(heads * d, 3)
    view = halves_to_pairs(stored, d)
    assert view.shape == (heads, d // 2, 2, 3) and np.shares_memory(view, stored)
    for head in range(heads):
        for i in range(d // 2):
            assert view[head, i, 0, 0] == stored[head * d + i, 0]
            assert view[head, i, 1, 0] == stored[head * d + i + d // 2, 0]
    assert_close(pairs_to_halves(view.reshape(stored.shape), d), stored, 0.0)
    assert_close(halves_to_pairs(pairs_to_halves(stored, d), d).reshape(stored.shape), stored, 0.0)
    assert_close(pairs_to_halves(stored, d).shape, stored.shape, 0.0)


def rewrite(folder, name, change):
    """Change the tensors of one file of a folder."""
    tensors = {key: np.array(x) for key, x in read_safetensors(folder / name).items()}
    change(tensors)
    (folder / name).write_bytes(file_bytes(tensors))


@pytest.mark.parametrize("name", ["norm.weight", "tok_embeddings.weight", "layers.0.attention.wk.weight",
                                  "layers.0.feed_forward.gate.weight", "layers.0.feed_forward.experts.1.w2.weight"])
def test_a_missing_or_misshapen_tensor(mistral, hf, name):
    for change, word in ((lambda t, key: t.pop(key), "lacks"), (lambda t, key: t.update({key: t[key][:-1]}), "is ("),
                         (lambda t, key: t.update({key: t[key][None]}), "is (1,"),
                         (lambda t, key: t.update({key: t[key].reshape(-1)[:0]}), "is empty, (0,)")):
        backup = (mistral / "consolidated.safetensors").read_bytes()
        rewrite(mistral, "consolidated.safetensors", lambda t, change=change: change(t, name))
        refused(mistral, name, word)
        (mistral / "consolidated.safetensors").write_bytes(backup)
        stored = hf_name(name)
        file = json.loads((hf / "model.safetensors.index.json").read_text())["weight_map"][stored]
        backup = (hf / file).read_bytes()
        rewrite(hf, file, lambda t, change=change, stored=stored: change(t, stored))
        refused(hf, stored, word)
        (hf / file).write_bytes(backup)
    tiny.load(mistral), tiny.load(hf)


def test_extra_tensors_and_one_in_two_files(mistral, hf):
    rewrite(mistral, "consolidated.safetensors", lambda t: t.update({"layers.1.extra": np.zeros(3, np.float32)}))
    refused(mistral, "1 tensors that the model has not: layers.1.extra")
    rewrite(hf, "model-00001-of-00003.safetensors", lambda t: t.update({"model.norm.weight": TENSORS["norm.weight"]}))
    rewrite(hf, "model-00002-of-00003.safetensors", lambda t: t.update({"model.norm.weight": TENSORS["norm.weight"]}))
    refused(hf, "holds model.norm.weight once more")


def test_a_constant_of_old_hf_files_is_left_out(hf):
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    rewrite(hf, "model-00001-of-00003.safetensors", lambda t: t.update({name: np.zeros(5, np.float32)}))
    tiny.load(hf)


def test_a_missing_shard(hf):
    (hf / "model-00002-of-00003.safetensors").unlink()
    refused(hf, "lacks model-00002-of-00003.safetensors", "index.json lists")


@pytest.mark.parametrize("text", [
    "", "{", "[]", "{}", '{"weight_map": []}', '{"weight_map": {"a": 3}}', '{"weight_map": {"a": "../x.safetensors"}}',
    '{"weight_map": {"a": "/etc/passwd"}}', '{"weight_map": {"a": "x/y"}}', '{"weight_map": {"a": ".."}}',
    '{"weight_map": {"a": ""}}', '{"weight_map": {"a": "."}}', '{"weight_map": {}}', '{"weight_map": {"a": null}}',
    '{"weight_map": {"a": "config.json"}}', '{"weight_map": {"a": "a\\u0000b"}}',
    '{"weight_map": {"a": "NAME"}}'.replace("NAME", "x" * 300)])
def test_bad_indices(hf, text):
    (hf / "model.safetensors.index.json").write_text(text)
    refused(hf)


def test_damaged_files_in_a_folder(mistral):
    path = mistral / "consolidated.safetensors"
    data = path.read_bytes()
    for bad in (data[:-1], data + b"x", data[:5], b"", raw_file({})):
        path.write_bytes(bad)
        refused(mistral, "Fetch the file")
    path.unlink()
    path.mkdir()
    refused(mistral)


def test_modes(mistral, monkeypatch):
    assert all(choose_mode(mode, TENSORS) == mode for mode in ("mapped", "streamed", "resident"))
    needed, stored = 4 * sum(x.size for x in TENSORS.values()), sum(x.nbytes for x in TENSORS.values())
    for free, expected in ((2 * needed, "resident"), (2 * needed - 1, "mapped"), (stored, "mapped"),
                           (stored - 1, "streamed"), (0, "streamed")):
        monkeypatch.setattr(module, "free_memory", lambda free=free: free)
        assert choose_mode("auto", TENSORS) == tiny.load(mistral).weights.mode == expected
    for bad in ("", "Mapped", None, 3):
        with pytest.raises(TinyError, match="auto"):
            choose_mode(bad, TENSORS)


@pytest.mark.parametrize("layout", ["mistral", "hf"])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_what_each_mode_hands_out(tmp_path, layout, dtype):
    tensors = random_tensors(CONFIG, dtype=dtype)
    folder = (write_mistral if layout == "mistral" else write_hf)(tmp_path / layout, CONFIG, tensors)
    mapped, resident = (tiny.load(folder, weights=mode).weights for mode in ("mapped", "resident"))
    assert len(mapped) == len(TENSORS) and list(mapped) == list(resident)
    for name, x in tensors.items():
        assert mapped[name].dtype == dtype and not mapped[name].flags.owndata
        first = resident[name]
        assert first is resident[name], "converted once and kept"
        assert first.shape == x.shape and first.dtype == (dtype if name.startswith("tok") else np.float32)
        assert_close(first, x, 0.0, name=name)


@pytest.mark.parametrize("part", [lambda x: x, lambda x: x[:, : x.shape[1] // 2] if x.ndim == 2 else x],
                         ids=["whole", "columns"])
def test_resident_weights_leave_no_pages_of_their_file(tmp_path, part):
    """A rank that keeps some columns of a matrix reads all of its pages, and needs none of them any more."""
    if not Path("/proc/self/smaps").exists():
        pytest.skip("This system does not say which pages of a file a process holds.")

    def held():
        found = re.search(rf"{path}\n.*?Rss: +(\d+) kB", Path("/proc/self/smaps").read_text(), re.S)
        return int(found[1]) * 1024

    config = sizes(n_layers=1, moe=(2, 1), vocab_size=4096)
    folder = write_mistral(tmp_path / "model", config, random_tensors(config, dtype=np.float16))
    path = folder / "consolidated.safetensors"
    tensors = {name: part(x) for name, x in open_checkpoint(folder).tensors.items()}
    assert sum(float(x.sum()) for x in tensors.values()) and held() > path.stat().st_size * 0.8, "all of it was read"
    weights = Weights(tensors, "resident")
    assert all(weights[name].dtype == np.float32 for name in weights if not name.startswith("tok"))
    assert held() <= path.stat().st_size / 10


def test_an_unknown_name_is_a_key_error():
    with pytest.raises(KeyError):
        Weights(dict(TENSORS), "mapped")["nothing"]


def test_a_checkpoint_written_by_the_book_loads(tmp_path):
    folder = write_mistral(tmp_path / "model", CONFIG, TENSORS)
    before = tiny.load(folder)([1, 2, 3])
    save_safetensors(folder / "consolidated.safetensors", TENSORS)
    assert_close(tiny.load(folder)([1, 2, 3]), before, 0.0)


# ---- a vision model

@pytest.fixture(params=["mistral", "released", "recent"])
def sees(request, tmp_path):
    """A checkpoint, the file that holds most of it, and how its tensors are named there."""
    folder, kind = tmp_path / request.param, request.param
    if kind == "mistral":
        return write_mistral(folder, PIXTRAL, PIXTRAL_TENSORS), "consolidated.safetensors", lambda name: name
    stored = dict(zip(hf_tensors(PIXTRAL, PIXTRAL_TENSORS, kind == "recent"), PIXTRAL_TENSORS))
    name_of = {ours: theirs for theirs, ours in stored.items()}
    return write_hf(folder, PIXTRAL, PIXTRAL_TENSORS, recent=kind == "recent"), "model.safetensors", name_of.get


def test_names_of_llava():
    """Both forms, and the permutation of both towers, each with its own width of heads."""
    new = Prefixes("model.language_model.", "lm_head.", "model.vision_tower.", "model.multi_modal_projector.")
    for recent, prefixes in ((False, HF_LLAVA), (True, new)):
        stored = hf_tensors(PIXTRAL, PIXTRAL_TENSORS, recent)
        assert [hf_name(name, prefixes) for name in PIXTRAL_TENSORS] == list(stored)
        assert find_naming(PIXTRAL, stored).prefixes == prefixes
    assert hf_prefixes(PIXTRAL) == HF_LLAVA
    names = set(hf_tensors(PIXTRAL, PIXTRAL_TENSORS))
    assert {"language_model.lm_head.weight", "language_model.model.norm.weight", "vision_tower.patch_conv.weight",
            "language_model.model.embed_tokens.weight", "language_model.model.layers.0.mlp.gate_proj.weight",
            "vision_tower.transformer.layers.1.feed_forward.down_proj.weight", "multi_modal_projector.linear_2.bias",
            "vision_tower.transformer.layers.0.attention.q_proj.weight", "vision_tower.ln_pre.weight",
            "vision_tower.transformer.layers.0.attention_norm.weight"} <= names
    assert {name: head_dim_of(name, PIXTRAL) for name in PIXTRAL_TENSORS if name.endswith("wq.weight")} == {
        "layers.0.attention.wq.weight": 10, "vision_encoder.transformer.layers.0.attention.wq.weight": 8,
        "vision_encoder.transformer.layers.1.attention.wq.weight": 8}


def test_the_shapes_of_the_released_model():
    """585 tensors, 12,682,739,712 parameters."""
    config = sizes(None, dim=5120, n_layers=40, head_dim=128, hidden_dim=14336, n_heads=32, n_kv_heads=8,
                   vocab_size=131072, vision=vision_sizes(
                       hidden_size=1024, image_size=1024, patch_size=16, intermediate_size=4096, num_hidden_layers=24,
                       num_attention_heads=16))
    shapes = expected_shapes(config)
    assert len(shapes) == 585 and sum(int(np.prod(shape)) for shape in shapes.values()) == 12_682_739_712


def test_tensors_of_a_model_that_sees_are_views(sees):
    tensors = open_checkpoint(sees[0]).tensors
    assert set(tensors) == set(PIXTRAL_TENSORS)
    for name, x in tensors.items():
        assert not x.flags.writeable and not x.flags.owndata
        assert_close(x.reshape(PIXTRAL_TENSORS[name].shape), PIXTRAL_TENSORS[name], 0.0, name=name)


@pytest.mark.parametrize("mode", ["mapped", "resident"])
def test_both_forms_of_llava_and_mistrals_layout_compute_the_same(sees, mode):
    ids, images = [1, *image_tokens(3, 2), 5, *image_tokens(1, 1)], random_images((3, 2), (1, 1))
    expected = tiny.Pixtral(PIXTRAL, PIXTRAL_TENSORS)(ids, images)
    model = tiny.load(sees[0], weights=mode)
    assert_close(model(ids, images), expected, MODEL["logits"], name="logits")
    for name, x in model.weights.items():
        assert x is model.weights[name] and (mode == "mapped" or name.startswith("tok") or x.dtype == np.float32)
        if mode == "resident":
            assert_close(x, PIXTRAL_TENSORS[name], 0.0, name=name)


def test_several_shards_of_a_model_that_sees(tmp_path):
    for recent in (False, True):
        folder = write_hf(tmp_path / f"{recent}", PIXTRAL, PIXTRAL_TENSORS, shards=4, recent=recent)
        assert len(weight_files(folder, "hf")) == 4
        model = tiny.load(folder, weights="resident")
        for name, x in PIXTRAL_TENSORS.items():
            assert_close(model.weights[name], x, 0.0, name=name)


@pytest.mark.parametrize("name", [
    "vision_encoder.patch_conv.weight", "vision_encoder.ln_pre.weight", "vision_language_adapter.w_in.bias",
    "vision_language_adapter.w_out.weight", "vision_encoder.transformer.layers.1.attention.wk.weight",
    "vision_encoder.transformer.layers.0.feed_forward.w2.weight", "output.weight"])
def test_a_missing_or_misshapen_tensor_of_a_model_that_sees(sees, name):
    folder, file, name_of = sees
    key, backup = name_of(name), (folder / file).read_bytes()
    for change, word in ((lambda t: t.pop(key), "lacks the tensor"), (lambda t: t.update({key: t[key][:-1]}), "is ("),
                         (lambda t: t.update({key: t[key].reshape(1, -1)}), "is (1,")):
        rewrite(folder, file, change)
        refused(folder, key, word)
        (folder / file).write_bytes(backup)
    tiny.load(folder)


def test_a_tensor_too_many_in_a_model_that_sees(sees):
    folder, file, _ = sees
    rewrite(folder, file, lambda t: t.update({"vision_tower.ln_post.weight": np.zeros(3, np.float32)}))
    refused(folder, "1 tensors that the model has not: vision_tower.ln_post.weight")


def test_constants_of_both_towers_are_left_out(sees):
    folder, file, _ = sees
    rewrite(folder, file, lambda t: t.update({f"{part}.inv_freq": np.zeros(5, np.float32) for part in (
        "vision_tower.patch_positional_embedding", "language_model.model.rotary_emb")}))
    tiny.load(folder)


def test_weights_of_a_text_model_under_a_configuration_that_sees(tmp_path):
    text = sizes(None, n_layers=1)
    folder = write_mistral(tmp_path / "a", PIXTRAL, random_tensors(text))
    refused(folder, "lacks the tensor vision_encoder.patch_conv.weight")
    folder = write_mistral(tmp_path / "b", text, PIXTRAL_TENSORS)
    refused(folder, "tensors that the model has not: vision_encoder.ln_pre.weight")
