"""Every command that takes a model takes a GGUF file, and a folder with one; `convert` makes safetensors of it."""

import json
from types import SimpleNamespace

import ml_dtypes
import numpy as np
import pytest
from compare import assert_close
from gguf_files import write_mmproj, write_model
from oracles import ROOT

import tiny
from tiny.__main__ import main
from tiny.evals.run_folder import checkpoint_hash
from tiny.files.safetensors import read_safetensors
from tiny.tools.verify.dump import fingerprint

PICTURE = ROOT / "tiny/tools/demo_pictures/picture1.png"
PROMPT = ["--prompt", "Once upon a time", "--max-tokens", "6"]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The embedded Mixtral as float32 and as Q8_0, and the embedded Pixtral with its encoder, in folders."""
    top = tmp_path_factory.mktemp("gguf")
    for name in ("plain", "packed", "sees"):
        (top / name).mkdir()
    pixtral = tiny.load("tiny-pixtral")
    write_mmproj(top / "sees/mmproj.gguf", pixtral)
    return SimpleNamespace(plain=write_model(top / "plain/m.gguf", "tiny-mixtral"), sees=top / "sees",
                           packed=write_model(top / "packed/m.gguf", "tiny-mixtral", "Q8_0", merged=False),
                           pixtral=write_model(top / "sees/p.gguf", pixtral))


def run(capsys, *arguments, status=0):
    assert main([str(argument) for argument in arguments]) == status
    return capsys.readouterr()


@pytest.mark.parametrize("where", ["file", "folder"])
def test_commands_say_what_they_say_of_the_embedded_model(capsys, files, where):
    model = files.plain if where == "file" else files.plain.parent
    for command in (["generate", *PROMPT], ["trace", *PROMPT[:2]], ["tokenize", "Once upon a time"]):
        wanted = run(capsys, *command, "--model", "tiny-mixtral")
        assert run(capsys, *command, "--model", model).out == wanted.out
    out = run(capsys, "verify", "check", model, ROOT / "tests/golden/verify/tiny-mixtral.npz", status=1).out
    assert "UNPROVEN 47 arrays are within their tolerances" in out and "greedy   8 of 8 tokens equal" in out
    assert "other fingerprints" in out, "the same numbers in another type: that is for a person to judge"


def test_describe(capsys, files):
    for model in (files.sees, files.pixtral):
        assert run(capsys, "describe", PICTURE, "--model", model).out == run(capsys, "describe", PICTURE).out


def test_inspect_lists_types_and_sizes(capsys, files):
    out = run(capsys, "inspect", files.packed).out
    assert "layout     GGUF\n" in out and "tokenizer  m.gguf" in out
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert "blk.*.ffn_gate.*.weight 32 x (256, 128) Q8_0 1.11 MB" in lines
    assert "blk.*.ffn_gate_inp.weight 4 x (8, 128) float16 8.19 kB" in lines
    assert out.splitlines()[-3].endswith("tensors, 4,121,088 bytes")
    assert "stored as Q8_0 4.11 MB in 114, float16 8.19 kB in 4, float32 4.61 kB in 9" in out
    assert "float16, float32" in run(capsys, "memory", files.packed).out
    out = run(capsys, "inspect", files.sees, "--all").out
    assert "v.blk.3.ffn_down.weight" in out and "mm.2.bias" in out and "file       mmproj.gguf" in out


def test_what_tells_trainings_apart(files):
    plain, packed = (tiny.load(path).checkpoint for path in (files.plain, files.packed))
    assert checkpoint_hash(plain) != checkpoint_hash(packed) and checkpoint_hash(plain) == checkpoint_hash(plain)


def test_verify_dump_says_what_to_do(capsys, files, tmp_path):
    err = run(capsys, "verify", "dump", files.plain, tmp_path / "out.npz", status=2).err
    assert err.splitlines()[0].endswith("is a GGUF file; transformers would not compute what it holds.")
    assert f"python -m tiny convert {files.plain} OUT --to hf" in err.splitlines()[1]


@pytest.mark.parametrize("to", ["mistral", "hf"])
@pytest.mark.parametrize("dtype", [None, "float32", "bfloat16"])
def test_convert(capsys, files, tmp_path, to, dtype):
    """Packed numbers as float32, every bit; with --dtype all of them in one type, each rounded once."""
    run(capsys, "convert", files.packed, tmp_path / "out", "--to", to, *(["--dtype", dtype] if dtype else []))
    source, model = (tiny.load(path, weights="mapped") for path in (files.packed, tmp_path / "out"))
    assert model.config == source.config
    stored = {x.dtype for file in model.checkpoint.files for x in read_safetensors(file).values()}
    names = {None: {"float32", "float16"}, "float32": {"float32"}, "bfloat16": {"bfloat16"}}
    assert {kind.name for kind in stored} == names[dtype]
    for name, x in source.weights.tensors.items():
        wanted = np.asarray(x, np.float32)
        wanted = wanted.astype(ml_dtypes.bfloat16).astype(np.float32) if dtype == "bfloat16" else wanted
        found = np.asarray(model.weights.tensors[name], np.float32).reshape(wanted.shape)
        assert_close(found, wanted, 0, name=name)
    assert dtype or fingerprint(model.checkpoint.tensors) == fingerprint(source.checkpoint.tensors)
    assert model.tokenizer.encode("Once upon") == source.tokenizer.encode("Once upon")
    assert (tmp_path / "out/tokenizer.json").is_file() == (to == "hf")


def test_convert_a_model_that_sees(capsys, files, tmp_path):
    run(capsys, "convert", files.sees, tmp_path / "out")
    assert json.loads((tmp_path / "out/params.json").read_text())["vision_encoder"]["image_token_id"] == 10
    for model in (files.sees, tmp_path / "out"):
        assert run(capsys, "describe", PICTURE, "--model", model).out == run(capsys, "describe", PICTURE).out


def test_convert_says_what_is_lost(capsys, files, tmp_path):
    path = write_model(tmp_path / "m.gguf", "tiny-mixtral", changes={
        "tokenizer.ggml.eos_token_id": ("u32", 7), "tokenizer.ggml.scores": None})
    err = run(capsys, "convert", path, tmp_path / "out").err
    assert "not in params.json: 7, which also end a text" in err and "no tokenizer: " in err
    assert not (tmp_path / "out/tokenizer.model").exists()
    assert "does not hold" in run(capsys, "convert", path, tmp_path / "other", "--from", "hf", status=2).err
    assert "exists" in run(capsys, "convert", path, tmp_path / "out", status=2).err


def test_a_folder_with_safetensors_and_gguf_is_read_as_safetensors(capsys, tmp_path):
    model = tiny.load("tiny-mixtral")
    for name in ("params.json", "consolidated.safetensors"):
        (tmp_path / name).write_bytes((tiny.model_folder("tiny-mixtral") / name).read_bytes())
    write_model(tmp_path / "m.gguf", model, "Q8_0")
    assert tiny.load(tmp_path).checkpoint.layout == "mistral"
    assert tiny.load(tmp_path / "m.gguf").checkpoint.layout == "gguf"
