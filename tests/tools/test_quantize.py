"""The command `quantize`: the numbers of the kernels' int8, to the bit; what it costs; nothing half-written, ever.

tests/verify/test_quantised.py has transformers read what is written here.
"""

import json
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
from compare import Different, assert_close
from oracles import ROOT
from small import random_tensors, sizes, vision_sizes, write_hf, write_mistral
from small_quantised import quantised_tensors, write_quantised

import tiny
from kernels.int8 import Int8Weights
from tiny.__main__ import main
from tiny.config import TinyError
from tiny.files.checkpoint import open_checkpoint
from tiny.files.packed.array import Packed, form_of
from tiny.files.weights import expected_shapes
from tiny.tools import quantize
from tiny.training.text import data

CONFIG = sizes((3, 2), dim=26, hidden_dim=30)  # no multiples of the four numbers of a word
TENSORS = random_tensors(CONFIG)
FIRST = "layers.0.feed_forward.experts.1.w1.weight"


def call(capsys, *words):
    status = main([str(word) for word in words])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def check_numbers(folder, weights, kept=()):
    """What was written is what the kernels' int8 makes of the same weights, and the rest is as it was."""
    expected, tensors = Int8Weights(weights), open_checkpoint(folder).tensors
    assert tensors.keys() == set(weights)
    for name in weights:
        packed = name in expected.parts and name not in kept
        assert isinstance(tensors[name], Packed) == packed, name
        wanted = expected[name] if packed else weights[name]
        assert form_of(tensors[name]) == ("int8" if packed else str(wanted.dtype))
        assert_close(np.asarray(tensors[name]).reshape(wanted.shape), np.asarray(wanted), 0.0, name=name)


@pytest.mark.parametrize("source, keep", [("tiny-mixtral", ()), ("tiny-pixtral", ()),
                                          ("tiny-pixtral", ("output.weight",)), ("hf", ()), ("shards", ())])
def test_read_back_the_numbers_are_those_of_the_kernels(tmp_path, capsys, source, keep):
    folder = {"hf": lambda: write_hf(tmp_path / "a", CONFIG, TENSORS),
              "shards": lambda: write_hf(tmp_path / "a", CONFIG, TENSORS, shards=3)}.get(source, lambda: source)()
    options = ("--keep", "output") if keep else ()
    status, out, _ = call(capsys, "quantize", folder, tmp_path / "out", *options)
    assert status == 0
    plain = tiny.load(folder, weights="mapped")
    weights = {name: np.asarray(plain.weights[name]).reshape(shape) for name, shape in expected_shapes(
        plain.config).items()}
    check_numbers(tmp_path / "out", weights, keep)
    assert ("output.weight" in out.partition("kept as they are")[2]) == bool(keep)
    model = tiny.load(tmp_path / "out")
    if source.startswith("tiny"):
        tokens = tiny.generate(model, model.tokenizer.encode("Once"), max_tokens=3, stop_at_eos=False)
        assert len(list(tokens)) == 3 and "on a text of" in out
        assert ("experts changed" in out) == (source == "tiny-mixtral")


def shifted(tensors, name):
    found = original(tensors, name)
    return found | {"packed": (found["packed"].view(np.uint8) - np.uint8(128)).view(np.int32)}


def next_row(tensors, name):
    found = original(tensors, name)
    return found | {"scale": np.roll(found["scale"], 1, axis=0)}


def other_end(tensors, name):
    found = original(tensors, name)
    return found | {"packed": found["packed"].byteswap()}


original = quantize.Quantised.rounded


@pytest.mark.parametrize("mistake", [shifted, next_row, other_end])
def test_mistakes_are_seen(tmp_path, capsys, monkeypatch, mistake):
    monkeypatch.setattr(quantize.Quantised, "rounded", mistake)
    folder = write_mistral(tmp_path / "a", CONFIG, TENSORS)
    assert call(capsys, "quantize", folder, tmp_path / "out")[0] == 0
    with pytest.raises(Different):
        check_numbers(tmp_path / "out", TENSORS)


def test_what_the_configuration_says(tmp_path, capsys):
    """Every key of a config.json is kept, and one is added; words and shapes are as compressed-tensors has them."""
    source = write_hf(tmp_path / "a", CONFIG, TENSORS, eos_token_id=[2, 5], architectures=["MixtralForCausalLM"])
    assert call(capsys, "quantize", source, tmp_path / "out", "--keep", "output")[0] == 0
    old, new = (json.loads((folder / "config.json").read_text()) for folder in (source, tmp_path / "out"))
    said = new.pop("quantization_config")
    assert new == old and said["ignore"] == ["re:.*lm_head$", "re:.*gate$"]
    assert (said["quant_method"], said["format"]) == ("compressed-tensors", "pack-quantized")
    assert said["config_groups"]["group_0"]["weights"] == {
        "num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel", "dynamic": False}


# ---- what it costs

def test_cost_on_held_out_text(tmp_path, capsys):
    """tiny-mixtral on text that it has not seen, one window of 256 tokens of each kind.

    Measured on 2026-11-30, four windows of each: KL divergence 0.8e-4 (stories) to 9.6e-4 (dictionary), 3.9e-4 on
    average; 99.6 % to 99.8 % of the experts the same.
    """
    assert call(capsys, "quantize", "tiny-mixtral", tmp_path / "out")[0] == 0
    plain, rounded = tiny.load("tiny-mixtral", weights="resident"), tiny.load(tmp_path / "out", weights="resident")
    pieces = data.open_tokenizer((tiny.model_folder("tiny-mixtral") / "tokenizer.model").read_bytes())
    streams = data.build_streams(pieces, data.texts(), {"stories": 30_000, "tasks": 20_000}, True)
    found = []
    for held in data.held_out(streams, pieces).values():
        batch = held.batches[0]
        found.append(quantize.compare_ids(plain, rounded, batch.ids[: batch.lengths[0]].tolist()))
    assert len(found) == 7 and {one.tokens for one in found} >= {256}
    assert np.mean([one.divergence for one in found]) <= 1e-3
    assert min(one.experts for one in found) >= 0.99
    assert_close([one.after for one in found], [one.before for one in found], atol=0.02, name="losses")


def test_a_text_of_ones_own(tmp_path, capsys):
    (tmp_path / "text.txt").write_text("Once upon a time there was a frog. " * 80)
    _, out, _ = call(capsys, "quantize", "tiny-mixtral", tmp_path / "out", "--text", tmp_path / "text.txt")
    assert "on a text of 512 tokens: loss" in out
    line = next(line for line in out.splitlines() if line.startswith("layers.*.attention.wq.weight"))
    assert line.split()[1] == "4" and 0.1 < float(line.split()[6].rstrip("%")) < 2


# ---- rows that are hard

def test_zeros_outliers_and_the_smallest_numbers(tmp_path, capsys):
    weight = TENSORS[FIRST].astype(np.float32)
    smallest = np.float32(np.finfo(np.float32).smallest_subnormal)
    weight[0], weight[1], weight[2, 4], weight[3] = 0, 1e-30, 1e30, [smallest * (n % 3) for n in range(26)]
    folder = write_mistral(tmp_path / "a", CONFIG, TENSORS | {FIRST: weight})
    assert call(capsys, "quantize", folder, tmp_path / "out")[0] == 0
    check_numbers(tmp_path / "out", TENSORS | {FIRST: weight})
    read = np.asarray(open_checkpoint(tmp_path / "out").tensors[FIRST])
    assert_close(read[0], np.zeros(26, np.float32), 0.0, name="zeros")
    assert_close(read[1], np.full(26, 1e-30, np.float32), atol=0.0, rtol=1e-6, name="alike")
    assert_close(read[2, 4], np.float32(1e30), atol=0.0, rtol=1e-6, name="outlier")
    assert np.count_nonzero(read[2]) == 1, "beside an outlier nothing is left"


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_numbers_that_int8_cannot_store(tmp_path, capsys, bad):
    weight = TENSORS[FIRST].copy()
    weight[7, 3] = bad
    folder = write_hf(tmp_path / "a", CONFIG, TENSORS | {FIRST: weight})
    status, _, err = call(capsys, "quantize", folder, tmp_path / "out")
    assert status == 2 and "model.layers.0.block_sparse_moe.experts.1.w1.weight holds NaN or infinity" in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a"]


# ---- what is refused

@pytest.mark.parametrize("name", ["fp8", "int8", "int4", "awq"])
def test_a_quantised_source_is_refused(tmp_path, capsys, name):
    config = sizes((3, 2), dim=32, head_dim=8, hidden_dim=48, n_heads=4)
    stored, _ = quantised_tensors(config, random_tensors(config), name)
    folder = write_quantised(tmp_path / "a", config, stored, name)
    status, _, err = call(capsys, "quantize", folder, tmp_path / "out")
    assert status == 2 and f"is quantised already: {name}" in err and "rounded twice" in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a"]


def test_a_gguf_file_is_refused(tmp_path, capsys):
    (tmp_path / "a.gguf").write_bytes(b"GGUF" + bytes(20))
    status, _, err = call(capsys, "quantize", tmp_path / "a.gguf", tmp_path / "out")
    assert status == 2 and "is a GGUF file" in err and "convert" in err


@pytest.mark.parametrize("words, said", [
    (("tiny-mixtral", "taken"), "exists"), (("tiny-mixtral", "no/where"), "is not a folder"),
    (("gone", "out"), "is not a folder"), (("taken", "out"), "holds neither"),
    (("tiny-mixtral", "out", "--text", "gone.txt"), "does not exist"),
    (("tiny-mixtral", "out", "--text", "taken"), "is a folder"),
    (("tiny-mixtral", "out", "--text", "empty"), "is empty"),
    (("tiny-mixtral", "out", "--keep", "gate"), "invalid choice")])
def test_what_is_refused(tmp_path, capsys, monkeypatch, words, said):
    (tmp_path / "taken").mkdir()
    (tmp_path / "empty").write_text("\n")
    monkeypatch.chdir(tmp_path)
    try:
        status, _, err = call(capsys, "quantize", *words)
    except SystemExit as error:
        status, err = error.code, capsys.readouterr().err
    assert status == 2 and said in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "taken"]


def test_without_a_tokenizer_nothing_is_compared(tmp_path, capsys):
    seeing = sizes(None, vision=vision_sizes())
    folder = write_mistral(tmp_path / "a", seeing, random_tensors(seeing))
    status, out, err = call(capsys, "quantize", folder, tmp_path / "out")
    assert status == 0 and "no tokenizer" in err and "on a text" not in out
    check_numbers(tmp_path / "out", random_tensors(seeing))


def test_a_disk_that_is_full(tmp_path, capsys, monkeypatch):
    def full(*_, **__):
        raise TinyError("full", "x")
    monkeypatch.setattr(quantize, "check_space", full)
    assert call(capsys, "quantize", "tiny-mixtral", tmp_path / "out")[0] == 2
    assert not list(tmp_path.iterdir())


MEASURE = """
import sys
import tiny.tools.quantize
from tiny.__main__ import main
from tiny.tools.session import peak_memory

before = peak_memory()
assert main(["quantize", sys.argv[1], sys.argv[2]]) == 0
print(peak_memory() - before)
"""


@pytest.mark.thorough
def test_memory_is_that_of_the_largest_tensor(tmp_path):
    """A model of 430 MB whose largest matrix has 16 MB takes at most 100 MB over the start."""
    config = sizes((8, 2), dim=1024, hidden_dim=4096, head_dim=64, n_heads=8, n_kv_heads=4, vocab_size=8192)
    rng = np.random.default_rng(0)
    shapes = expected_shapes(config)
    zeros = {name: np.zeros(shape, ml_dtypes.bfloat16) for name, shape in shapes.items()}
    zeros[FIRST][:] = rng.standard_normal(shapes[FIRST])
    folder = write_mistral(tmp_path / "a", config, zeros)
    done = subprocess.run([sys.executable, "-c", MEASURE, folder, tmp_path / "out"], cwd=ROOT, capture_output=True,
                          text=True, check=True)
    assert 4e6 < int(done.stdout.splitlines()[-1]) <= 100e6, done.stdout
