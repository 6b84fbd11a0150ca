"""GGUF against llama.cpp: logits and ids of the embedded model, and files that llama.cpp itself quantised.

The cache of llama.cpp is float32 here: by default it is float16, which alone moves the logits by 6.5e-3. Files that are
packed are not compared by logits, because llama.cpp rounds the activations too: their numbers are, bit by bit, and
llama.cpp runs a file with these numbers in float32.
"""

import ctypes
from importlib.metadata import version

import numpy as np
import pytest
import small
from compare import assert_close
from gguf_files import gguf_bytes, model_keys, model_tensors, sentencepiece_keys, write_model
from texts import texts

import tiny
from tiny.files.packed.array import Packed, form_of
from tiny.files.packed.gguf import read_gguf
from tiny.files.weights import Weights

llama_cpp = pytest.importorskip("llama_cpp", reason="This needs llama-cpp-python, which pip compiles.")
gguf = pytest.importorskip("gguf", reason="This needs the package gguf (the verify extra).")
pytestmark = pytest.mark.verify

TOLERANCE = 5e-5  # measured: see tutorial/reference/evidence.md
MIXES = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K_S", "Q4_K_M", "Q5_K_S", "Q5_K_M", "Q6_K")
WIDE = small.sizes(moe=(8, 2), dim=256, hidden_dim=512, head_dim=64, n_heads=4, vocab_size=512, max_seq_len=256)


def opened(path):
    return llama_cpp.Llama(str(path), n_ctx=256, n_batch=256, logits_all=True, verbose=False, type_k=0, type_v=0,
                           flash_attn=False, n_threads=1, n_threads_batch=1)


def logits_of(path, ids):
    model = opened(path)
    model.eval(ids)
    return np.array(model.scores[: len(ids)])


@pytest.fixture(scope="module")
def mixtral():
    return tiny.load("tiny-mixtral")


@pytest.fixture(autouse=True)
def versions(record_property):
    for name, package in (("llama-cpp-python", "llama-cpp-python"), ("gguf", "gguf"), ("numpy", "numpy")):
        record_property(f"version {name}", version(package))


def test_logits(mixtral, tmp_path, record_property):
    path = write_model(tmp_path / "model.gguf", mixtral)
    ids = [1, *mixtral.tokenizer.encode("Once upon a time there was a little girl who lived near the forest")]
    error = np.abs(logits_of(path, ids) - tiny.load(path)(ids)).max()
    record_property("tiny-mixtral as float32", f"largest error {error:.1e}")
    assert error <= TOLERANCE
    with pytest.raises(ValueError, match="Failed to load model"):  # the names of 2023 are read here, and not there
        opened(write_model(tmp_path / "old.gguf", mixtral, merged=False))


def test_ids(mixtral, tmp_path, record_property):
    theirs = opened(write_model(tmp_path / "model.gguf", mixtral))
    asked = [text for text in texts() if text and "\0" not in text]
    differ = [text for text in asked
              if theirs.tokenize(text.encode(), add_bos=False) != mixtral.tokenizer.encode(text)]
    record_property("texts with the ids of llama.cpp", f"{len(asked) - len(differ)} of {len(asked)}")
    assert len(asked) > 400 and not differ


def quantised(source, target, name):
    options = llama_cpp.llama_model_quantize_default_params()
    options.nthread, options.ftype = 1, getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{name}")
    assert llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(options)) == 0


@pytest.mark.parametrize("name", MIXES)
def test_files_that_llama_cpp_quantised(mixtral, tmp_path, record_property, name):
    """Every number is that of the package gguf; and llama.cpp, given these in float32, has our logits."""
    model = tiny.Mixtral(WIDE, small.random_tensors(WIDE, dtype=np.float32))
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces += ["\u2581", *(f"t{n}" for n in range(len(pieces) + 1, WIDE.vocab_size))]
    kinds = [2, 3, 3] + [6] * 256 + [1] * (WIDE.vocab_size - 259)
    tokenizer = sentencepiece_keys(mixtral.tokenizer._model) | {
        "tokenizer.ggml.tokens": ("[str]", pieces), "tokenizer.ggml.token_type": ("[i32]", kinds),
        "tokenizer.ggml.scores": ("[f32]", [-float(n) for n in range(len(pieces))])}
    source, path = tmp_path / "source.gguf", tmp_path / "model.gguf"
    source.write_bytes(gguf_bytes(model_keys(WIDE, tokenizer), model_tensors(model, "F32")))
    quantised(source, path, name)
    _, tensors = read_gguf(path)
    for theirs in gguf.GGUFReader(path).tensors:
        wanted = gguf.dequantize(theirs.data, theirs.tensor_type)
        ours = np.asarray(tensors[theirs.name], np.float32)
        assert (ours.view(np.uint32).ravel() == np.ascontiguousarray(wanted).view(np.uint32).ravel()).all(), theirs.name
    mapped, resident = (tiny.load(path, weights=mode) for mode in ("mapped", "resident"))
    ids = [1, *range(259, 299)]
    assert_close(resident(ids), mapped(ids), 0.0)
    forms = ", ".join(sorted({form_of(tensor) for tensor in tensors.values()}))
    assert any(isinstance(tensor, Packed) for tensor in tensors.values())
    numbers = {key: np.asarray(x, np.float32) for key, x in mapped.weights.tensors.items()}
    unpacked = tmp_path / "unpacked.gguf"
    unpacked.write_bytes(gguf_bytes(model_keys(WIDE, tokenizer), model_tensors(
        tiny.Mixtral(WIDE, Weights(numbers, "mapped")), "F32")))
    ours = mapped(ids)
    error = np.abs(logits_of(unpacked, ids) - ours).max()
    record_property(f"{name}, with {forms}", f"every number; largest error {error:.1e}")
    assert error <= TOLERANCE
