"""GGUF files that lie, lack something, or ask for what is not computed: two lines each, and the file is named."""

import shutil
import struct
import subprocess
import sys

import numpy as np
import pytest
import small
from gguf_files import (
    gguf_bytes,
    model_keys,
    model_tensors,
    special,
    stored,
    text,
    value,
    write_mmproj,
    write_model,
)
from oracles import ROOT

import tiny
from tiny.config import TinyError

CONFIG = small.sizes(n_layers=1, moe=(2, 1))
KEYS = model_keys(CONFIG, {})
TENSORS = model_tensors(tiny.Mixtral(CONFIG, small.random_tensors(CONFIG)), "F32")
GOOD = gguf_bytes(KEYS, TENSORS)
NORM = "blk.0.attn_norm.weight"
ARRAY = struct.pack("<IIQ", 9, 9, 1)


def header(tensors=0, keys=0, rest=b"", version=3):
    return b"GGUF" + struct.pack("<IQQ", version, tensors, keys) + rest


def tensor(name, shape, kind=0, offset=0):
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


def changed(**keys):
    """The good file with keys of the model set, or left out."""
    names = {(f"llama.{key}" if key.startswith(("rope", "att", "exp", "emb", "blo", "con", "voc", "fee")) else
              f"general.{key}").replace("__", "."): content for key, content in keys.items()}
    return gguf_bytes({key: content for key, content in (KEYS | names).items() if content is not None}, TENSORS)


def with_tensor(name, entry):
    return gguf_bytes(KEYS, {key: x for key, x in (TENSORS | {name: entry}).items() if x is not None})


CASES = {
    "empty": (b"", "whole GGUF file"),
    "four bytes": (b"GGUF", "whole GGUF file"),
    "magic": (b"GGML" + GOOD[4:], "whole GGUF file"),
    "web page": (b"<!doctype html>" + bytes(40), "is a web page"),
    "version 1": (header(version=1), "version 1"),
    "version 4": (header(version=4), "version 4"),
    "version 0": (header(version=0), "version 0"),
    "big-endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian"),
    "2^63 keys": (header(0, 1 << 63), "claims 9,223,372,036,854,775,808 keys"),
    "2^63 tensors": (header(1 << 63), "claims 9,223,372,036,854,775,808 tensors"),
    "a million keys": (header(0, 10**6, bytes(2 * 10**6)), "claims 1,000,000 keys"),
    "text of 2^40": (header(0, 1, struct.pack("<Q", 1 << 40)), "claims 1,099,511,627,776 bytes of a text"),
    "text in an array": (header(0, 1, text("a") + struct.pack("<IIQQ", 9, 8, 1, 1 << 40) + bytes(8)), "a text ends"),
    "array of 2^40": (header(0, 1, text("a") + struct.pack("<IIQ", 9, 4, 1 << 40)), "numbers"),
    "array of numbers": (header(0, 1, text("a") + struct.pack("<IIQ", 9, 10, 4) + bytes(8)), "wants 32 more"),
    "array of arrays": (header(0, 1, text("a") + ARRAY + ARRAY), "array of arrays"),
    "array of type 99": (header(0, 1, text("a") + struct.pack("<IIQ", 9, 99, 1) + bytes(9)), "array of type 99"),
    "type of a value": (header(0, 1, text("a") + struct.pack("<I", 13) + bytes(9)), "a value is of type 13"),
    "key twice": (header(0, 2, 2 * (text("a") + value("u32", 1))), "the key 'a' stands there twice"),
    "key of two lines": (header(0, 1, text("a\nb") + value("u32", 1)), r"'a\\nb' stands there twice, or is no name"),
    "tensor twice": (header(2, 0, 2 * tensor("a", [1])), "the tensor 'a' stands there twice"),
    "five axes": (header(1, 0, tensor("a", [1] * 5)), "5 axes"),
    "no axis": (header(1, 0, tensor("a", [])), "0 axes"),
    "empty tensor": (header(1, 0, tensor("a", [4, 0])), r"a tensor is \(0, 4\)"),
    "2^63 numbers": (header(1, 0, tensor("a", [1 << 63])), "a tensor is"),
    "product overflows": (header(1, 0, tensor("a", [1 << 33, 1 << 31]) + bytes(64)), "claims"),
    "beyond the end": (header(1, 0, tensor("a", [8], offset=32) + bytes(64)), "claims 32 bytes"),
    "offset of 2^63": (header(1, 0, tensor("a", [8], offset=1 << 63) + bytes(64)), "claims 32 bytes"),
    "not aligned": (header(1, 0, tensor("a", [1], offset=4) + bytes(64)), "multiples of 32"),
    "one over another": (header(2, 0, tensor("a", [16]) + tensor("b", [8], offset=32) + bytes(160)),
                         "tensor b begins inside tensor a"),
    "alignment": (changed(alignment=("u32", 24)), "general.alignment is 24"),
    "alignment 0": (changed(alignment=("u32", 0)), "general.alignment is 0"),
    "alignment as text": (changed(alignment=("str", "32")), "general.alignment is '32'"),
    "not whole blocks": (header(1, 0, tensor("a", [33, 2], 8) + bytes(640)), "whole blocks of 32"),
    "a vector of blocks": (header(1, 0, tensor("a", [256], 12) + bytes(640)), "whole blocks of 256"),
    "IQ2_XXS": (header(1, 0, tensor("a", [256, 1], 16)), "tensor a is of type IQ2_XXS"),
    "Q2_K": (header(1, 0, tensor("a", [256, 1], 10)), "tensor a is of type Q2_K"),
    "Q3_K": (header(1, 0, tensor("a", [256, 1], 11)), "tensor a is of type Q3_K"),
    "MXFP4": (header(1, 0, tensor("a", [256, 1], 39)), "tensor a is of type MXFP4"),
    "type 77": (header(1, 0, tensor("a", [256, 1], 77)), "tensor a is of type number 77"),
    "cut in the header": (GOOD[:300], "wants|claims"),
    "cut in a tensor": (GOOD[:-64], "claims"),
    "another architecture": (changed(architecture=("str", "qwen2")), "architecture 'qwen2'"),
    "no architecture": (changed(architecture=None), "architecture None"),
    "blocks of another version": (changed(quantization_version=("u32", 1)), "version 1 of the types of blocks"),
    "an adapter": (changed(type=("str", "adapter")), "holds a 'adapter'"),
    "mmproj as the model": (changed(architecture=("str", "clip")), "is the encoder of a model"),
    "no theta": (changed(rope__freq_base=None), "has no 'rope.freq_base'"),
    "no epsilon": (changed(attention__layer_norm_rms_epsilon=None), "has no 'attention.layer_norm_rms_epsilon'"),
    "no layers": (changed(block_count=("u32", 0)), "block_count is 0"),
    "sizes as text": (changed(embedding_length=("str", "24")), "embedding_length is '24'"),
    "heads by layer": (changed(attention__head_count_kv=("[u32]", [2])), r"head_count_kv is \[2\]"),
    "scaled positions": (changed(rope__scaling__type=("str", "yarn")), "sets rope.scaling.type = 'yarn'"),
    "a factor": (changed(rope__scaling__factor=("f32", 4.0)), "sets rope.scaling.factor = 4.0"),
    "a sliding window": (changed(attention__sliding_window=("u32", 4096)), "sets attention.sliding_window = 4096"),
    "half of a head turned": (changed(rope__dimension_count=("u32", 4)), "sets rope.dimension_count = 4"),
    "sigmoid of the router": (changed(expert_gating_func=("u32", 2)), "sets expert_gating_func = 2"),
    "a shared expert": (changed(expert_shared_count=("u32", 1)), "sets expert_shared_count = 1"),
    "more used than there": (changed(expert_used_count=("u32", 3)), "3 experts per token of 2"),
    "no vocabulary": (changed(vocab_size=None), "has no 'vocab_size'"),
    "lost tensor": (with_tensor(NORM, None), f"lacks the tensor {NORM}"),
    "lost output": (with_tensor("output.weight", None), "lacks the tensor output.weight, the output head"),
    "one tensor more": (with_tensor("blk.0.attn_q.bias", stored(np.zeros(4), "F32")), "blk.0.attn_q.bias"),
    "frequencies": (with_tensor("rope_freqs.weight", stored(np.zeros(4), "F32")), "scales RoPE"),
    "misshapen": (with_tensor(NORM, stored(np.zeros(7), "F32")), rf"tensor {NORM} is \(7,\)"),
    "misshapen stack": (with_tensor("blk.0.ffn_up_exps.weight", stored(np.zeros((3, 28, 24)), "F32")),
                        r"ffn_up_exps.weight is \(3, 28, 24\)"),
    "split without its name": (gguf_bytes(KEYS | {"split.count": ("u16", 3)}, TENSORS), "is file 0 of 3"),
}


def refused(call, words):
    """One line of cause with these words, and one of remedy."""
    with pytest.raises(TinyError, match=words) as caught:
        call()
    assert len(str(caught.value).splitlines()) == 2 and caught.value.remedy
    return caught.value


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("case", CASES)
def test_a_damaged_file(tmp_path, case):
    data, words = CASES[case]
    path = tmp_path / "model.gguf"
    path.write_bytes(data)
    assert "model.gguf" in refused(lambda: tiny.load(path), words).cause


def test_the_good_file_is_read(tmp_path):
    """Otherwise the cases above could be refused for anything."""
    for version, align in ((3, 32), (2, 32), (3, 64), (3, 8)):
        path = tmp_path / "model.gguf"
        keys = KEYS | ({} if align == 32 else {"general.alignment": ("u32", align)})
        path.write_bytes(gguf_bytes(keys, TENSORS, version, align))
        assert tiny.load(path).config == CONFIG


def split(folder, count=3, of=3, numbers=None, tensors=None):
    names = list(TENSORS)
    for n in range(count):
        keys = {"split.no": ("u16", (numbers or range(9))[n]), "split.count": ("u16", of),
                "split.tensors.count": ("i32", tensors or len(TENSORS))}
        part = {name: TENSORS[name] for name in names[n::of]}
        (folder / f"m-{n + 1:05}-of-{of:05}.gguf").write_bytes(gguf_bytes((KEYS if n == 0 else {}) | keys, part))


def test_splits(tmp_path):
    split(tmp_path, 2)
    refused(lambda: tiny.load(tmp_path), "lacks m-00003-of-00003.gguf, of which there are 3")
    split(tmp_path, numbers=[0, 2, 1])
    refused(lambda: tiny.load(tmp_path), "it is file 2 of 3, counted from 0; its name says 1 of 3")
    split(tmp_path, tensors=99)
    refused(lambda: tiny.load(tmp_path), "split of 99 tensors; the files hold")
    split(tmp_path)
    (tmp_path / "m-00002-of-00003.gguf").write_bytes((tmp_path / "m-00001-of-00003.gguf").read_bytes())
    refused(lambda: tiny.load(tmp_path), "once more")
    (tmp_path / "other.gguf").write_bytes(GOOD)
    refused(lambda: tiny.load(tmp_path), "holds 2 models in GGUF files")
    refused(lambda: tiny.load(tmp_path / "gone.gguf"), "gone.gguf does not exist")


TOKENS = {"tokenizer.ggml.model": ("str", "llama"),
          "tokenizer.ggml.tokens": ("[str]", ["<unk>", "<s>", "</s>", "a", "b", "ab"]),
          "tokenizer.ggml.scores": ("[f32]", [0, 0, 0, -1, -2, -3]),
          "tokenizer.ggml.token_type": ("[i32]", [2, 3, 3, 1, 1, 1])} | special(1, 2, 0)


@pytest.mark.parametrize(("change", "words"), [
    ({"model": ("str", "bert")}, "tokenizer of the kind 'bert'"),
    ({"model": ("str", "gpt2"), "pre": ("str", "llama-bpe")}, "'gpt2' that splits text as 'llama-bpe'"),
    ({"model": ("str", "gpt2"), "pre": ("str", "tekken")}, "none of its 6 tokens is the byte zero"),
    ({"token_type": ("[i32]", [2, 3])}, "6 tokens, and no type from 1 to 6"),
    ({"token_type": None}, "no type from 1 to 6"),
    ({"token_type": ("[i32]", [2, 3, 3, 1, 1, -1])}, "no type from 1 to 6"),
    ({"scores": ("[f32]", [-1000.0] * 6)}, "say nothing of the order"),
    ({"scores": None}, "say nothing of the order"),
    ({"bos_token_id": ("u32", 3)}, "the BOS token is 3"),
    ({"bos_token_id": ("i32", -1)}, "the BOS token is -1"),
    ({"tokens": ("[str]", ["<unk>", "<s>", "</s>", "a", "a", "ab"])}, "not a SentencePiece model"),
], ids=str)
def test_tokenizers(tmp_path, change, words):
    keys = TOKENS | {f"tokenizer.ggml.{key}": content for key, content in change.items()}
    path = tmp_path / "model.gguf"
    path.write_bytes(gguf_bytes(KEYS | {key: content for key, content in keys.items() if content}, TENSORS))
    refused(lambda: tiny.load_tokenizer(path), words)
    with pytest.warns(UserWarning, match=f"the tokenizer in the file is not read: .*{words}"):
        model = tiny.load(path)  # which its file cannot be without; the numbers can still be compared
    refused(lambda: model.tokenizer, "no tokenizer")
    shutil.copy(ROOT / "tests/golden/pixtral-a/mistral/tekken.json", tmp_path)
    with pytest.warns(UserWarning, match="is not read"):
        refused(lambda: tiny.load(path), "the tokenizer has 1391 pieces, the model 40")


@pytest.mark.parametrize(("change", "words"), [
    ({"clip.vision.spatial_merge_size": ("u32", 2)}, "sets vision.spatial_merge_size = 2"),
    ({"clip.vision.image_mean": ("[f32]", [0.5, 0.5, 0.5])}, "sets vision.image_mean"),
    ({"clip.vision.image_std": None}, "sets vision.image_std = None"),
    ({"clip.vision.patch_size": ("u32", 7)}, "patches of 7 pixels"),
    ({"clip.vision.block_count": None}, "has no 'vision.block_count'"),
    ({"clip.has_audio_encoder": ("bool", True)}, "sets has_audio_encoder = True"),
], ids=str)
def test_encoders(tmp_path, change, words):
    pixtral = tiny.load("tiny-pixtral")
    write_model(tmp_path / "pixtral.gguf", pixtral)
    write_mmproj(tmp_path / "mmproj.gguf", pixtral, changes=change)
    assert "mmproj.gguf" in refused(lambda: tiny.load(tmp_path), words).cause


def test_encoders_of_other_models(tmp_path):
    pixtral = tiny.load("tiny-pixtral")
    path = write_mmproj(tmp_path / "MMPROJ.gguf", pixtral)
    refused(lambda: tiny.load(tmp_path), "is the encoder of a model, an mmproj file")
    refused(lambda: tiny.load_tokenizer(path), "holds no tokenizer")
    write_model(tmp_path / "pixtral.gguf", pixtral)
    write_mmproj(tmp_path / "other-mmproj.gguf", pixtral)
    refused(lambda: tiny.load(tmp_path), "holds 2 encoders for this model: MMPROJ.gguf, other-mmproj.gguf")
    (tmp_path / "other-mmproj.gguf").unlink()
    write_mmproj(path, pixtral, changes={"clip.projector_type": ("str", "mlp")})
    with pytest.warns(UserWarning, match="MMPROJ.gguf is not read: it is an encoder of type 'mlp' for a width of"):
        assert tiny.load(tmp_path).config.vision is None
    path.write_bytes(b"GGUF")
    refused(lambda: tiny.load(tmp_path), "MMPROJ.gguf is not a whole GGUF file")


CUT = """
import os, sys, tiny
path, kind = sys.argv[1:]
model = tiny.load(path, weights="mapped")
before = model([1, 300])
os.truncate(path, os.path.getsize(path) // 2)
try:
    model([1, 300])
except tiny.TinyError as error:
    print(error)
"""


@pytest.mark.parametrize("kind", ["F32", "Q8_0"])
def test_a_file_that_is_cut_while_it_is_mapped(tmp_path, kind):
    """Reading what is gone would end the process by a signal, so this runs in another one."""
    path = write_model(tmp_path / "model.gguf", "tiny-mixtral", kind)
    size = path.stat().st_size
    done = subprocess.run([sys.executable, "-c", CUT, path, kind], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr, done
    cause, remedy = done.stdout.splitlines()
    assert cause == f"{path} was cut to {size // 2:,} of {size:,} bytes while it was read." and remedy
