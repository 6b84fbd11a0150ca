"""Checkpoints in both layouts: which files are taken, which tensors are required, and in which order of rows."""

import json

import ml_dtypes
import numpy as np
import pytest
from compare import assert_close
from small import file_bytes, hf_tensors, random_tensors, raw_file, sizes, write_hf, write_mistral

import tiny
from tiny import weights as module
from tiny.config import TinyError
from tiny.safetensors import read_safetensors, save_safetensors
from tiny.weights import (
    Weights,
    choose_mode,
    expected_shapes,
    find_files,
    free_memory,
    halves_to_pairs,
    hf_name,
    open_tensors,
    pairs_to_halves,
)

CONFIG = sizes(n_layers=1, moe=(2, 1))
TENSORS = random_tensors(CONFIG)


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
    assert find_files(mistral) == ("mistral", [mistral / "consolidated.safetensors"])
    (mistral / "params.json").rename(mistral / "params.old")
    assert find_files(mistral)[0] == "hf"


def test_several_consolidated_files(mistral):
    (mistral / "consolidated.safetensors").unlink()
    names = list(TENSORS)
    for n in range(2):
        (mistral / f"consolidated.{n:02}.safetensors").write_bytes(file_bytes({k: TENSORS[k] for k in names[n::2]}))
    assert len(find_files(mistral)[1]) == 2
    assert_close(tiny.load(mistral)([1, 2]), tiny.Mixtral(CONFIG, TENSORS)([1, 2]), 0.0)


def test_tensors_are_views_of_the_files(mistral, hf):
    for folder in (mistral, hf):
        layout, files = find_files(folder)
        tensors = open_tensors(layout, files, CONFIG)
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
                         (lambda t, key: t.update({key: t[key].reshape(-1)[:0]}), "no proper shape")):
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
    assert choose_mode("mapped", TENSORS) == "mapped" and choose_mode("resident", TENSORS) == "resident"
    needed = 4 * sum(x.size for x in TENSORS.values())
    for free, expected in ((2 * needed, "resident"), (2 * needed - 1, "mapped"), (0, "mapped")):
        monkeypatch.setattr(module, "free_memory", lambda free=free: free)
        assert choose_mode("auto", TENSORS) == tiny.load(mistral).weights.mode == expected
    for bad in ("", "Mapped", None, 3):
        with pytest.raises(TinyError, match="auto"):
            choose_mode(bad, TENSORS)
    assert 2**20 < free_memory() < 2**50


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


def test_an_unknown_name_is_a_key_error():
    with pytest.raises(KeyError):
        Weights(dict(TENSORS), "mapped")["nothing"]


def test_a_checkpoint_written_by_the_book_loads(tmp_path):
    folder = write_mistral(tmp_path / "model", CONFIG, TENSORS)
    before = tiny.load(folder)([1, 2, 3])
    save_safetensors(folder / "consolidated.safetensors", TENSORS)
    assert_close(tiny.load(folder)([1, 2, 3]), before, 0.0)
