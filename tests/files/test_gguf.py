"""GGUF files of the embedded models: the same arrays, the same ids, the same logits; in both namings, and in parts."""

import warnings

import numpy as np
import pytest
import small
from compare import assert_close
from fetch_tokenizer import MIXTRAL, PIXTRAL, find_released
from gguf_files import (
    gguf_bytes,
    model_keys,
    model_tensors,
    numbers_of,
    q8_0,
    sentencepiece_keys,
    tekken_keys,
    write_mmproj,
    write_model,
)
from texts import texts
from tolerances import MODEL

import tiny
from tiny.files.packed import gguf_names
from tiny.files.packed.array import Packed
from tiny.files.packed.blocks import KINDS, PLAIN
from tiny.files.weights import Weights, pairs_to_halves

IDS = [1, 402, 1411, 66, 977, 300, 1208]
WIDE = small.sizes(moe=(3, 2), dim=256, hidden_dim=256, head_dim=64, n_heads=4, vocab_size=300)  # rows of whole blocks


@pytest.fixture(scope="module")
def mixtral():
    return tiny.load("tiny-mixtral")


@pytest.fixture(scope="module")
def pixtral():
    return tiny.load("tiny-pixtral")


def stored_form(x, kind):
    """What a type keeps of numbers, computed here."""
    if kind in PLAIN:
        return x.astype(PLAIN[kind]).astype(np.float32)
    blocks = q8_0(x)
    return (blocks[:, 2:].view(np.int8) * blocks[:, :2].view(np.float16).astype(np.float32)).reshape(x.shape)


@pytest.mark.parametrize("merged", [True, False], ids=["merged", "one by one"])
@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0"])
def test_the_arrays_are_those_that_were_written(mixtral, tmp_path, kind, merged):
    model = tiny.load(write_model(tmp_path / "model.gguf", mixtral, kind, merged), weights="mapped")
    assert model.config == mixtral.config and model.checkpoint.layout == "gguf"
    for name, x in numbers_of(mixtral).items():
        plain = x.ndim == 1 or name.endswith("feed_forward.gate.weight")
        wanted = stored_form(x, "F32" if x.ndim == 1 or merged and plain else "F16" if plain else kind)
        found = model.weights.tensors[name]
        table = name == "tok_embeddings.weight"  # which asks whether its file is whole
        assert isinstance(found, np.ndarray if not table and (kind in PLAIN or plain) else Packed), name
        assert_close(np.asarray(found, np.float32), wanted, 0, name=name)
    kept = {name: np.asarray(x, np.float32) for name, x in model.weights.tensors.items()}
    assert_close(model(IDS), tiny.Mixtral(model.config, kept)(IDS), MODEL["logits"])


def test_the_ids_are_those_of_the_embedded_tokenizers(mixtral, pixtral, tmp_path):
    for model in (mixtral, pixtral):
        own = tiny.load_tokenizer(write_model(tmp_path / "model.gguf", model))
        for text in texts():
            assert own.encode(text) == model.tokenizer.encode(text), repr(text)
            assert own.decode(own.encode(text)) == model.tokenizer.decode(model.tokenizer.encode(text)), repr(text)
        assert (own.bos_id, own.eos_id, own.vocab_size) == (1, 2, model.config.vocab_size)
        assert own.pieces(range(own.vocab_size)) == model.tokenizer.pieces(range(own.vocab_size))


@pytest.mark.parametrize("name", [MIXTRAL, PIXTRAL])
def test_the_ids_are_those_of_the_released_tokenizers(tmp_path, name):
    released = find_released(name)
    if released is None:
        pytest.skip("The released tokenizer is not here; `make dev-data` fetches it.")
    wanted = tiny.load_tokenizer(released)
    keys = tekken_keys(wanted) | {"tokenizer.ggml.pre": ("str", "pixtral")} if name == PIXTRAL else sentencepiece_keys(
        wanted._model, [("<|im_end|>", 3), ("[PAD32001]", 5)])
    (tmp_path / "model.gguf").write_bytes(gguf_bytes(keys, {}))
    own = tiny.load_tokenizer(tmp_path / "model.gguf")
    assert (own.vocab_size, own.bos_id, own.eos_id) == (wanted.vocab_size, wanted.bos_id, wanted.eos_id)
    assert own.pieces(range(own.vocab_size)) == wanted.pieces(range(own.vocab_size))
    for text in texts():
        ids = wanted.encode(text)
        assert own.encode(text) == ids and own.decode(ids) == wanted.decode(ids), repr(text)
    turn = [{"role": "user", "content": "Hello"}]
    assert own.encode_chat(turn) == wanted.encode_chat(turn)


@pytest.mark.parametrize("kind", KINDS)
def test_packed_is_unpacked(tmp_path, kind):
    """Each type of blocks, mapped, resident, and from arrays that were unpacked before: the same logits, to the bit."""
    source = tiny.Mixtral(WIDE, small.random_tensors(WIDE, dtype=np.float32))
    path = tmp_path / "model.gguf"
    path.write_bytes(gguf_bytes(model_keys(WIDE, {}), model_tensors(source, kind)))
    mapped, resident = (tiny.load(path, weights=mode) for mode in ("mapped", "resident"))
    assert {x.kind for x in mapped.weights.tensors.values() if isinstance(x, Packed)} == {kind}
    ids = np.arange(5, 45)
    logits = mapped(ids)
    assert np.isfinite(logits).all() and np.ptp(logits) > 0.1
    assert_close(resident(ids), logits, 0)
    kept = {name: np.asarray(x, np.float32) for name, x in mapped.weights.tensors.items()}
    assert_close(tiny.Mixtral(WIDE, Weights(kept, "mapped"))(ids), logits, 0)
    for T in (1, 2, 5, 8, 9, 16):  # few tokens go another way through numerics.product
        assert_close(resident(ids[:T]), mapped(ids[:T]), 0)
    assert isinstance(resident.weights.tensors["layers.0.attention.wq.weight"], np.ndarray)
    assert isinstance(resident.weights.tensors["tok_embeddings.weight"], Packed), "its rows are only looked up"


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0"])
def test_streamed_is_mapped(mixtral, tmp_path, kind):
    """Read past the page cache, with room for a part of the experts only, and unpacked from the buffers: the same."""
    path = write_model(tmp_path / "model.gguf", mixtral, kind)
    mapped, streamed = (tiny.load(path, weights=mode) for mode in ("mapped", "streamed"))
    if streamed.weights.mode != "streamed":
        pytest.skip("Direct reads are refused by the disk of the tests' folder.")
    streamed.weights.allow(2 * streamed.weights.least)
    for _ in range(2):
        assert_close(streamed(IDS), mapped(IDS), 0)
    assert isinstance(streamed.weights["output.weight"], Packed if kind == "Q8_0" else np.ndarray)
    assert streamed.weights.reader.bytes_read > 0


def test_a_split_is_one_model(mixtral, tmp_path):
    tensors = model_tensors(mixtral, "BF16")
    names, keys = list(tensors), model_keys(mixtral.config, {})
    for n in range(3):
        part = {name: tensors[name] for name in names[n::3]}
        split = {"split.no": ("u16", n), "split.count": ("u16", 3), "split.tensors.count": ("i32", len(tensors))}
        (tmp_path / f"m-{n + 1:05}-of-00003.gguf").write_bytes(gguf_bytes((keys if n == 0 else {}) | split, part))
    wanted = mixtral(IDS)
    for path in (tmp_path, tmp_path / "m-00001-of-00003.gguf", tmp_path / "m-00002-of-00003.gguf"):
        model = tiny.load(path)
        assert len(model.checkpoint.files) == 3
        assert_close(model(IDS), wanted, 0)


@pytest.mark.parametrize("kind", ["F32", "Q8_0"])
def test_pixtral_finds_its_encoder(pixtral, tmp_path, kind):
    write_model(tmp_path / "pixtral.gguf", pixtral)
    write_mmproj(tmp_path / "mmproj-pixtral.gguf", pixtral, kind)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        model = tiny.load(tmp_path)
    assert model.config == pixtral.config and len(model.checkpoint.files) == 2
    for name, x in numbers_of(pixtral).items():
        wide = name.startswith("vision_") and x.ndim == 2
        assert_close(np.asarray(model.weights.tensors[name]), stored_form(x, kind if wide else "F32"), 0, name=name)
    assert (model.tokenizer.patch_size, model.tokenizer.max_image_size) == (8, 96)


def test_pixtral_sees(pixtral, tmp_path):
    write_model(tmp_path / "pixtral.gguf", pixtral)
    write_mmproj(tmp_path / "mmproj-pixtral.gguf", pixtral)
    image = np.random.default_rng(0).standard_normal((3, 16, 24)).astype(np.float32)
    ids = [1, 3, *([10] * 3 + [12]), *([10] * 3 + [13]), 200, 4]
    assert_close(tiny.load(tmp_path)(ids, [image]), pixtral(ids, [image]), 0)
    (tmp_path / "mmproj-pixtral.gguf").unlink()
    model = tiny.load(tmp_path)
    assert type(model) is tiny.Mixtral and len(model([1, 300])) == 2, "without its encoder it is a text model"


def written_by_the_package(gguf, path, keys, tensors, **options):
    """The same keys and tensors through GGUFWriter."""
    writer = gguf.GGUFWriter(path, "llama", **options)
    for key, (kind, content) in keys.items():
        if key == "general.architecture":
            continue
        if kind.startswith("["):
            inner = {"[str]": "STRING", "[f32]": "FLOAT32", "[i32]": "INT32"}[kind]
            writer.add_key_value(key, content, gguf.GGUFValueType.ARRAY, gguf.GGUFValueType[inner])
        else:
            kinds = {"str": "STRING", "u32": "UINT32", "f32": "FLOAT32", "bool": "BOOL"}
            writer.add_key_value(key, content, gguf.GGUFValueType[kinds[kind]])
    for name, (kind, shape, data) in tensors.items():
        quantised = gguf.GGMLQuantizationType[kind]
        rows = np.frombuffer(data, np.uint8).reshape(*shape[:-1], -1)
        plain = kind in ("F32", "F16")
        writer.add_tensor(name, rows.view(PLAIN[kind]).reshape(shape) if plain else rows, raw_dtype=quantised)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0"])
def test_the_package_writes_the_same_file(mixtral, tmp_path, kind):
    """What these tests read is what llama.cpp's converter writes; and a split as it makes one."""
    gguf = pytest.importorskip("gguf", reason="The package gguf is not here; the dev extra brings it.")
    keys = model_keys(mixtral.config, sentencepiece_keys(mixtral.tokenizer._model))
    tensors = model_tensors(mixtral, kind)
    written_by_the_package(gguf, tmp_path / "whole.gguf", keys, tensors)
    assert (tmp_path / "whole.gguf").read_bytes() == gguf_bytes(keys, tensors)
    (tmp_path / "split").mkdir()
    written_by_the_package(gguf, tmp_path / "split/m.gguf", keys, tensors, split_max_tensors=20)
    model = tiny.load(tmp_path / "split")
    assert len(model.checkpoint.files) == 3
    assert_close(model(IDS), tiny.load(tmp_path / "whole.gguf")(IDS), 0)


@pytest.mark.parametrize(("name", "mistake"), [
    ("gate and up", {"feed_forward.w1": "ffn_up", "feed_forward.w3": "ffn_gate"}),
    ("down turned round", {"feed_forward.w2": "ffn_gate"}), ("keys and values", {"attention.wk": "attn_v",
                                                                               "attention.wv": "attn_k"})])
def test_exchanged_names_are_seen(mixtral, tmp_path, monkeypatch, name, mistake):
    path = write_model(tmp_path / "model.gguf", mixtral)
    monkeypatch.setattr(gguf_names, "NAMES", gguf_names.NAMES | mistake)
    with pytest.raises(AssertionError if name != "down turned round" else tiny.TinyError):
        assert_close(tiny.load(path)(IDS), mixtral(IDS), 0)


def test_rows_in_the_order_of_hugging_face_are_seen(mixtral, tmp_path):
    """A writer that forgot to turn them: no key says so, but the logits do."""
    weights = dict(mixtral.weights.tensors)
    for name in [name for name in weights if name.endswith((".wq.weight", ".wk.weight"))]:
        weights[name] = pairs_to_halves(np.asarray(weights[name], np.float32), mixtral.config.head_dim)
    path = write_model(tmp_path / "model.gguf", tiny.Mixtral(mixtral.config, weights))
    assert np.abs(tiny.load(path)(IDS) - mixtral(IDS)).max() > 1
