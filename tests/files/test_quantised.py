"""Quantised checkpoints: the numbers of those who made the formats, to the bit; what is not read is refused by name."""

import json

import ml_dtypes
import numpy as np
import pytest
import small_quantised
from compare import Different, assert_close
from oracles import GOLDEN
from small import (
    file_bytes,
    hf_tensors,
    image_tokens,
    random_images,
    random_tensors,
    sizes,
    vision_sizes,
    write_mistral,
)
from small_quantised import KINDS, is_kept, quantised_tensors, write_quantised

import tiny
from tiny.__main__ import main
from tiny.config import TinyError
from tiny.files.checkpoint import open_checkpoint
from tiny.files.packed import columns, compressed, unpack
from tiny.files.packed.array import Packed, form_of
from tiny.files.packed.quantised import pack_tensors, read_method
from tiny.files.weights import halves_to_pairs, head_dim_of
from tiny.tools.verify import dump

SIZES = {"dim": 32, "head_dim": 8, "hidden_dim": 48, "n_heads": 4}
CONFIG, DENSE = sizes((3, 2), **SIZES), sizes(None, **SIZES)
SEES = sizes(None, vision=vision_sizes(), **SIZES)
TENSORS = random_tensors(CONFIG)
IDS = [1, 5, 7, 9, 30]
STORED = np.load(GOLDEN / "quantised.npz")
CASES = list(dict.fromkeys(key.partition("/")[0] for key in STORED))
HEAD = "model.layers.0.self_attn.v_proj."
EXPERT = "model.layers.1.block_sparse_moe.experts.2.w2."


# ---- numbers

def packed_case(name):
    """A stored case as a packed matrix, the numbers it stands for, and the bytes that are stored."""
    found = {f"a.{key.partition('/')[2]}": STORED[key] for key in STORED if key.startswith(f"{name}/")}
    config, exact = json.loads(str(found.pop("a.config"))), found.pop("a.matrix")
    found = {key: x.view(ml_dtypes.float8_e4m3fn) if x.dtype == np.uint8 else x for key, x in found.items()}
    method = read_method({"quantization_config": config}, GOLDEN / "config.json", lambda note: None)
    return pack_tensors(found, method, GOLDEN)["a.weight"], exact, sum(x.nbytes for x in found.values())


def check_case(name):
    packed, exact, nbytes = packed_case(name)
    assert (packed.shape, packed.nbytes) == (exact.shape, nbytes)
    pairs, views = (halves_to_pairs(x, 8) for x in (packed, exact))
    for got, expected in ((packed[:], exact), (packed[5:17:2], exact[5:17:2]), (packed[[9, 3, 3]], exact[[9, 3, 3]]),
                          (packed[7], exact[7]), (pairs[1:3], views[1:3])):
        assert got.dtype == np.float32
        assert_close(got, expected, 0.0, name=name)
    assert packed[3:3].shape == (0, exact.shape[1])


@pytest.mark.parametrize("name", CASES)
def test_numbers_are_those_of_who_made_the_format(name):
    """To the bit: compressed-tensors 0.20.1, AutoAWQ 88e4c76, GPTQModel f4c327a; tests/verify/packed_reference.py."""
    check_case(name)


def high_first(words, bits):
    raw = np.ascontiguousarray(words).view(np.uint8)
    shifts = np.arange(8 - bits, -1, -bits, dtype=np.uint8)
    return (raw[..., None] >> shifts & (1 << bits) - 1).reshape(*raw.shape[:-1], -1)


def next_scale(whole, scale, zero=None, groups=None):
    return unpack.scaled(whole, np.roll(scale, 1, axis=-1), zero, groups)


def no_zero(whole, scale, zero=None, groups=None):
    return unpack.scaled(whole, scale, None if zero is None else np.full_like(zero, 8), groups)


def no_groups(whole, scale, zero=None, groups=None):
    return unpack.scaled(whole, scale, zero)


def not_in_order(words, bits, rows, order=None):
    return unpack.across_rows(words, bits, rows)


def other_order(words, bits, rows, order=None):
    return unpack.across_rows(words, bits, rows, (0, 4, 1, 5, 2, 6, 3, 7))


def without_one(words, bits, rows, order=None):
    return unpack.across_rows(words, bits, rows) - 1


@pytest.mark.parametrize("module, function, mistake, name", [
    (compressed, "along_rows", high_first, "int4"), (compressed, "scaled", next_scale, "int4"),
    (compressed, "scaled", no_zero, "int4 uneven"), (compressed, "across_rows", without_one, "int4 uneven"),
    (columns, "along_rows", high_first, "gptq"), (columns, "across_rows", not_in_order, "awq"),
    (columns, "across_rows", other_order, "awq"), (columns, "across_rows", without_one, "gptq"),
    (columns, "scaled", no_groups, "gptq act order"), (columns, "scaled", next_scale, "gptq"),
    (columns, "scaled", no_zero, "awq")])
def test_mistakes_are_seen(monkeypatch, module, function, mistake, name):
    monkeypatch.setattr(module, function, mistake)
    with pytest.raises(Different):
        check_case(name)


# ---- checkpoints

@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("config", [CONFIG, DENSE, SEES], ids=["experts", "dense", "sees"])
def test_a_checkpoint_is_read(tmp_path, name, config):
    """Each matrix is the one stored, in Mistral's order of rows; what is ignored is kept; and the book runs on it."""
    stored, exact = quantised_tensors(config, random_tensors(config), name)
    folder = write_quantised(tmp_path / "m", config, stored, name)
    checkpoint = open_checkpoint(folder)
    for key, place in checkpoint.places.items():
        tensor, expected = checkpoint.tensors[key], exact[place.name]
        assert form_of(tensor) == (str(expected.dtype) if is_kept(place.name) else KINDS[name])
        if key.endswith(("wq.weight", "wk.weight")):
            expected = halves_to_pairs(expected, head_dim_of(key, config))
        assert_close(np.asarray(tensor, np.float32), expected.astype(np.float32), 0.0, name=key)
    data = (folder / "model.safetensors").read_bytes()
    assert sum(x.nbytes for x in checkpoint.tensors.values()) == len(data) - 8 - int.from_bytes(data[:8], "little")
    ids, images = (2 * IDS, []) if config.vision is None else ([1, *image_tokens(4, 3), 5], random_images((4, 3)))
    mapped, resident = (tiny.load(folder, weights=mode) for mode in ("mapped", "resident"))
    logits = resident(ids, images)
    assert_close(mapped(ids, images), logits, 0.0)
    plain = small_quantised.write_quantised(tmp_path / "plain", config, exact, name, quant_method=None)
    (plain / "config.json").write_text(json.dumps({key: value for key, value in json.loads(
        (folder / "config.json").read_text()).items() if key != "quantization_config"}))
    assert_close(logits, tiny.load(plain, weights="resident")(ids, images), 1e-5)
    assert not any(isinstance(resident.weights[key], Packed) for key in resident.weights if "embeddings" not in key)


def test_commands_show_forms_and_stored_bytes(tmp_path, capsys):
    stored, _ = quantised_tensors(CONFIG, TENSORS, "int4")
    folder = write_quantised(tmp_path / "m", CONFIG, stored, "int4")
    assert main(["inspect", str(folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(".experts.*.w1.weight" in line and "(48, 32)" in line and " int4/16 " in line for line in lines)
    nbytes = sum(x.nbytes for x in stored.values())
    assert any(line.endswith(f"{nbytes:,} bytes") for line in lines)
    assert main(["memory", str(folder)]) == 0
    out = capsys.readouterr().out
    assert f"{nbytes:,} bytes   bfloat16, int4/16, in 1 file" in out
    matrices = sum(x.size for key, x in TENSORS.items() if "embeddings" not in key)
    assert f"{4 * matrices:,} bytes   resident only" in out


@pytest.mark.parametrize("key", ["quantization", "quantization_config"])
def test_a_checkpoint_in_mistrals_layout(tmp_path, key):
    """params.json says it, tensors have Mistral's names, and rows are in Mistral's order."""
    stored, exact = {}, {}
    for name, x in TENSORS.items():
        exact[name] = x
        if ".experts." in name or "attention.w" in name:
            fields, exact[name] = small_quantised.quantised("int4", x)
            stored |= {name.removesuffix("weight") + field: part for field, part in fields.items()}
        else:
            stored[name] = x
    said = small_quantised.quantization_config("int4") | {"ignore": ["output", "re:.*gate"]}
    folder = write_mistral(tmp_path / "m", CONFIG, TENSORS, **{key: said})
    (folder / "consolidated.safetensors").write_bytes(file_bytes(stored))
    assert_close(tiny.load(folder)(IDS), tiny.Mixtral(CONFIG, exact)(IDS), 1e-5)
    write_mistral(tmp_path / "m", CONFIG, TENSORS, **{key: {"qformat_weight": "fp8_e4m3", "qscheme_act": "TENSOR"}})
    refused(folder, key, "fp8_e4m3")


def test_a_fingerprint_is_that_of_what_is_packed(tmp_path):
    found = set()
    for name in ("int8", "int4"):
        stored, _ = quantised_tensors(CONFIG, TENSORS, name)
        folder = write_quantised(tmp_path / name, CONFIG, stored, name)
        found.add(dump.fingerprint_of(folder, [folder / "model.safetensors"]))
        assert dump.fingerprint(open_checkpoint(folder).tensors) in found
    assert len(found) == 2 and None not in found


@pytest.mark.parametrize("name", ["int8", "gptq"])
def test_convert_unpacks(tmp_path, capsys, name):
    """In both layouts the numbers are those that were packed, and nothing says that they are."""
    stored, _ = quantised_tensors(CONFIG, TENSORS, name)
    folder = write_quantised(tmp_path / "m", CONFIG, stored, name)
    expected = open_checkpoint(folder).tensors
    for layout in ("mistral", "hf"):
        assert main(["convert", str(folder), str(tmp_path / layout), "--to", layout]) == 0
        found = open_checkpoint(tmp_path / layout).tensors
        for key, tensor in found.items():
            assert not isinstance(tensor, Packed)
            wanted = np.asarray(expected[key])
            assert_close(np.asarray(tensor).reshape(-1), wanted.reshape(-1), 0.0, name=key)
    assert "quantization" not in capsys.readouterr().err
    said = json.loads((tmp_path / "hf/config.json").read_text())
    assert said == {key: value for key, value in json.loads((folder / "config.json").read_text()).items()
                    if key != "quantization_config"}


# ---- what is not read

def refused(folder, *words):
    with pytest.raises(TinyError) as caught:
        tiny.load(folder)
    for word in words:
        assert word.lower() in str(caught.value).lower(), str(caught.value)
    assert len(str(caught.value).splitlines()) == 2, str(caught.value)


WEIGHTS = small_quantised.quantization_config("int8")["config_groups"]["group_0"]


def group(**changed):
    return {"config_groups": {"group_0": WEIGHTS | changed}}


def weights(**changed):
    return group(weights=WEIGHTS["weights"] | changed)


@pytest.mark.parametrize("changed, words", [
    ({"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}, ("bitsandbytes", "nf4")),
    ({"quant_method": None, "config_groups": None, "load_in_4bit": True}, ("bitsandbytes",)),
    ({"quant_method": "exl2"}, ("exl2",)), ({"quant_method": "mxfp4"}, ("mxfp4",)), ({"quant_method": "hqq"}, ("hqq",)),
    ({"quant_method": 7}, ("by 7",)), ({"quant_method": ["awq"]}, ("['awq']",)), ({"quant_method": {}}, ("{}",)),
    ({"format": "nvfp4-pack-quantized"}, ("nvfp4-pack-quantized",)), ({"format": "marlin-24"}, ("marlin-24",)),
    ({"format": None}, ("format None",)), ({"format": []}, ("format []",)), ({"format": "dense"}, ("dense",)),
    ({"sparsity_config": {"format": "sparse-24-bitmask"}}, ("sparsity", "sparse-24-bitmask")),
    ({"kv_cache_scheme": {"num_bits": 8}}, ("kv_cache_scheme",)),
    ({"transform_config": {"a": 1}}, ("transform_config",)),
    ({"config_groups": None}, ("config_groups",)), ({"config_groups": {"W4A16": ["Linear"]}}, ("config_groups",)),
    (group(input_activations={"num_bits": 8, "dynamic": False}), ("input_activations", "statically")),
    (group(input_activations={"num_bits": 4, "dynamic": "local"}), ("input_activations", "statically")),
    (group(input_activations=True), ("input_activations",)),
    (group(output_activations={"num_bits": 8}), ("output_activations",)), (group(weights=None), ("weights None",)),
    (group(targets="Linear"), ("names of modules",)), (group(targets=[7]), ("names of modules",)),
    (group(targets=["re:(a+)+$"]), ("pattern", "(a+)+$")), (group(targets=["re:.*.*.*.*x"]), ("pattern",)),
    (group(targets=["re:["]), ("pattern",)), (group(targets=["re:a{9}"]), ("pattern",)),
    (group(targets=["re:[z-a]"]), ("pattern",)), (group(targets=["re:a**"]), ("pattern",)),
    (group(targets=["re:a"] * 65), ("65 patterns",)), (group(targets=["re:" + "a" * 999]), ("pattern",)),
    (group(targets=["re:.*experts.*"]), ("leaves", "self_attn", "quantised")),
    ({"ignore": ["re:.*v_proj"]}, ("leaves", HEAD[:-1])), ({"ignore": [EXPERT[:-1]]}, ("leaves", EXPERT[:-1])),
    (weights(strategy="block", block_structure=[128, 128]), ("strategy 'block'",)),
    (weights(strategy="tensor_group"), ("tensor_group",)), (weights(strategy=[]), ("strategy []",)),
    (weights(num_bits=3), ("3 bits",)), (weights(num_bits="8"), ("'8' bits",)),
    (weights(num_bits=True), ("True bits",)),
    (weights(type="float"), ("'float' of 8 bits", "pack-quantized")), (weights(type="float", num_bits=4), ("4 bits",)),
    (weights(type=None), ("None of 8 bits",)), (weights(dynamic=True), ("dynamic",)),
    (weights(actorder="sideways"), ("actorder",)), (weights(symmetric="no"), ("symmetric",)),
    (weights(strategy="group"), ("group_size None",)), (weights(strategy="group", group_size=0), ("group_size 0",)),
    (weights(strategy="group", group_size=-1), ("group_size -1",)),
    (weights(strategy="group", group_size=2**70), ("make no groups of 1",)),
    (weights(strategy="group", group_size=7), ("make no groups of 7",)), (weights(symmetric=False), ("zero points",)),
    (weights(num_bits=4), ("its words are",))])
def test_what_is_not_read_is_named(tmp_path, changed, words):
    stored, _ = quantised_tensors(CONFIG, TENSORS, "int8")
    refused(write_quantised(tmp_path / "m", CONFIG, stored, "int8", **changed), *words)


@pytest.mark.parametrize("name, changed, words", [
    ("awq", {"bits": 8}, ("bits", "8")), ("awq", {"version": "gemv"}, ("gemv",)), ("awq", {"group_size": 5}, ("of 5",)),
    ("awq", {"group_size": 0}, ("group_size",)), ("awq", {"group_size": 32}, ("scales are",)),
    ("gptq", {"bits": 3}, ("3 bits",)), ("gptq", {"bits": 8}, ("does not fit",)),
    ("gptq", {"checkpoint_format": "marlin"}, ("marlin",)), ("gptq", {"is_marlin_format": True}, ("is_marlin_format",)),
    ("gptq", {"dynamic": {"+:.*": {"bits": 8}}}, ("dynamic",)), ("gptq", {"group_size": 32}, ("does not fit",)),
    ("gptq", {"group_size": None}, ("group_size",))])
def test_what_is_not_read_of_awq_and_gptq_is_named(tmp_path, name, changed, words):
    stored, _ = quantised_tensors(CONFIG, TENSORS, name)
    refused(write_quantised(tmp_path / "m", CONFIG, stored, name, **changed), *words)


@pytest.mark.parametrize("name, field, change, words", [
    ("int8", "weight_packed", None, ("weight_packed",)), ("int8", "weight_scale", None, ("weight_scale",)),
    ("int8", "weight_shape", None, ("weight_shape",)),
    ("int8", "weight_shape", lambda x: x[::-1].copy(), ("its words are",)),
    ("int8", "weight_shape", lambda x: x * -1, ("its words are",)),
    ("int8", "weight_shape", lambda x: np.array([x[0], 2**60]), ("its words are",)),
    ("int8", "weight_packed", lambda x: x.astype(np.int64), ("no words of int32",)),
    ("int8", "weight_packed", lambda x: x[0], ("two axes",)), ("int8", "weight_packed", lambda x: x[:0], ("two axes",)),
    ("int8", "weight_packed", lambda x: x[:, 1:].copy(), ("its words are",)),
    ("int8", "weight_scale", lambda x: x[1:], ("scales are",)),
    ("int8", "weight_scale", lambda x: x.astype(np.float32).view(np.int32), ("float type",)),
    ("int8 bytes", "weight", lambda x: x.astype(np.int32), ("its weights are int32",)),
    ("int8 bytes", "weight", lambda x: x.view(ml_dtypes.float8_e4m3fn), ("its weights are float8",)),
    ("fp8", "weight", lambda x: x.view(np.int8), ("its weights are int8",)),
    ("fp8", "weight_scale", None, ("weight_scale",)),
    ("int4 uneven", "weight_zero_point", None, ("zero points",)),
    ("int4 uneven", "weight_zero_point", lambda x: x[:-1], ("zero points are",)),
    ("int4", "weight_g_idx", lambda x: np.arange(48, dtype=np.int32), ("groups of its columns",)),
    ("int4", "weight_zero_point", lambda x: np.zeros((4, 3), np.int32), ("zero points",)),
    ("awq", "qzeros", None, ("no qzeros",)), ("awq", "scales", lambda x: x[:, 1:].copy(), ("scales are",)),
    ("awq", "qweight", lambda x: x.astype(np.int64), ("int64",)),
    ("awq", "qweight", lambda x: x[:16], ("does not fit",)),
    ("gptq", "g_idx", lambda x: x + 1, ("groups of its columns",)), ("gptq", "g_idx", lambda x: -x, ("groups of",)),
    ("gptq", "g_idx", lambda x: x[1:], ("groups of",)), ("gptq", "bias", lambda x: x + 1, ("bias",)),
    ("gptq", "qweight", lambda x: x[:1], ("does not fit",))])
def test_tensors_that_do_not_fit_are_named(tmp_path, name, field, change, words):
    stored, _ = quantised_tensors(CONFIG, TENSORS, name)
    old = stored.pop(EXPERT + field, None)
    if change is not None:
        stored[EXPERT + field] = change(old)
    refused(write_quantised(tmp_path / "m", CONFIG, stored, name), EXPERT[:-1], *words)


def test_a_quantised_tensor_of_another_shape(tmp_path):
    stored, _ = quantised_tensors(CONFIG, TENSORS, "int8")
    for field in ("weight_packed", "weight_scale"):
        stored[EXPERT + field] = stored[EXPERT + field][:16].copy()
    stored[EXPERT + "weight_shape"] = np.array([16, 48])
    refused(write_quantised(tmp_path / "m", CONFIG, stored, "int8"), EXPERT + "weight", "(16, 48)", "(32, 48)")


def test_quantised_tensors_without_a_word_in_the_configuration(tmp_path):
    stored, _ = quantised_tensors(CONFIG, TENSORS, "fp8")
    folder = write_quantised(tmp_path / "m", CONFIG, stored, "fp8")
    said = json.loads((folder / "config.json").read_text())
    del said["quantization_config"]
    (folder / "config.json").write_text(json.dumps(said))
    refused(folder, "F8_E4M3", "quantised weights if the configuration says how")
    (folder / "config.json").write_text(json.dumps(said | {
        "quantization_config": small_quantised.quantization_config("int8"),
        "compression_config": small_quantised.quantization_config("fp8")}))
    refused(folder, "twice")
    stored["model.norm.weight"] = np.ones(32, np.int8)
    refused(write_quantised(tmp_path / "n", CONFIG, stored, "fp8"), "model.norm")


def test_weights_that_are_plain_although_the_configuration_is_quantised(tmp_path):
    """What is stored plainly is what it is: so are modules that a list leaves out under another name."""
    folder = tmp_path / "m"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(small_quantised.hf_config(
        CONFIG, quantization_config=small_quantised.quantization_config("int8"))))
    (folder / "model.safetensors").write_bytes(file_bytes(hf_tensors(CONFIG, TENSORS)))
    assert_close(tiny.load(folder)(IDS), tiny.Mixtral(CONFIG, TENSORS)(IDS), 1e-5)


def test_engines_that_round_activations_are_noted(tmp_path):
    stored, _ = quantised_tensors(CONFIG, TENSORS, "int8")
    folder = write_quantised(tmp_path / "m", CONFIG, stored, "int8", **group(input_activations={
        "num_bits": 8, "type": "int", "dynamic": True, "strategy": "token"}))
    with pytest.warns(UserWarning, match="engines round activations, too"):
        assert len(tiny.load(folder).checkpoint.notes) == 1


def test_groups_of_modules_have_their_own_scheme(tmp_path):
    """The first group that names a module; the name of a class, a name, a pattern."""
    stored, exact = quantised_tensors(CONFIG, TENSORS, "int8")
    fp8, numbers = quantised_tensors(CONFIG, TENSORS, "fp8")
    stored = {key: x for key, x in stored.items() if "self_attn" not in key}
    stored |= {key: x for key, x in fp8.items() if "self_attn" in key}
    attention = small_quantised.quantization_config("fp8")["config_groups"]["group_0"]
    names = [r"re:model\.layers\.[0-9]+.self_attn.(q|k|v)_proj$",
             *(f"model.layers.{n}.self_attn.o_proj" for n in range(2))]
    changed = {"format": "mixed-precision", "config_groups": {
        "a": attention | {"targets": names, "format": "float-quantized"}, "b": WEIGHTS | {"format": "pack-quantized"}}}
    folder = write_quantised(tmp_path / "m", CONFIG, stored, "int8", **changed)
    checkpoint = open_checkpoint(folder)
    for key, place in checkpoint.places.items():
        if "attention.wv" in key or "attention.wo" in key:
            assert_close(np.asarray(checkpoint.tensors[key]), numbers[place.name], 0.0, name=key)
        elif "experts" in key:
            assert_close(np.asarray(checkpoint.tensors[key]), exact[place.name], 0.0, name=key)
    assert {form_of(x) for x in checkpoint.tensors.values()} == {"bfloat16", "fp8", "int8"}
