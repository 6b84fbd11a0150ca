"""Conversions between the released layouts: every byte there and back, all forms of files of torch.save, refusals."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from compare import assert_close
from oracles import GOLDEN, ROOT, Oracle
from tolerances import ORACLE
from torch_files import torch_file

import tiny
from tests.tools.test_cli import call, fails
from tiny.config import Config, MoeConfig
from tiny.files.safetensors import read_safetensors
from tiny.system.whole import whole_folder
from tiny.tools import convert
from tiny.tools.convert.torch_checkpoint import open_torch
from tiny.tools.synthetic import RandomTensors

NAMES = ("mixtral-a", "mixtral-b", "pixtral-a")
E, F, D, V = 8, 72, 48, 509  # of mixtral-a
CONSOLIDATED = "consolidated.safetensors"


def stored(folder: Path) -> dict[str, np.ndarray]:
    tensors: dict[str, np.ndarray] = {}
    for path in folder.glob("*.safetensors"):
        tensors |= read_safetensors(path)
    return tensors


def same(one: dict, other: dict) -> None:
    assert one.keys() == other.keys()
    for name, x in one.items():
        assert (x.dtype, x.shape, x.tobytes()) == (other[name].dtype, other[name].shape, other[name].tobytes()), name


# ---- between Mistral's layout and Hugging Face's

@pytest.mark.parametrize("name", NAMES)
def test_there_and_back(capsys, tmp_path, name):
    """What each conversion writes is what others stored, and the way back ends where it began."""
    mistral, hf = GOLDEN / name / "mistral", GOLDEN / name / "hf"
    call(capsys, "convert", mistral, tmp_path / "hf", "--to", "hf", "--shard-size", 0.0003)
    same(stored(tmp_path / "hf"), stored(hf))
    for source, out in ((hf, "one"), (tmp_path / "hf", "two")):
        call(capsys, "convert", source, tmp_path / out)
        assert (tmp_path / out / CONSOLIDATED).read_bytes() == (mistral / CONSOLIDATED).read_bytes()
    assert tiny.load(tmp_path / "two").config == tiny.load(mistral).config
    assert tiny.load(tmp_path / "one").config == tiny.load(hf).config == tiny.load(tmp_path / "one").config
    call(capsys, "convert", tmp_path / "one", tmp_path / "three", "--to", "hf")
    same(stored(tmp_path / "three"), stored(hf))


@pytest.mark.parametrize("name", NAMES[1:])
@pytest.mark.parametrize("to", ["mistral", "hf"])
def test_golden_logits(capsys, tmp_path, name, to):
    oracle = Oracle(name)
    call(capsys, "convert", oracle.folder / ("hf" if to == "mistral" else "mistral"), tmp_path / "out", "--to", to)
    model = tiny.load(tmp_path / "out")
    case, info = next((case, info) for case, info in oracle.cases.items() if not info.get("images"))
    arrays = oracle.arrays(case)
    logits = model(info["ids"])[arrays["logits_positions"]]
    assert_close(logits, arrays["logits"], ORACLE["logits"], name=f"{name} {case}")


def test_shards(capsys, tmp_path):
    """No file is larger than asked for, all are filled, and the index says where each tensor is."""
    call(capsys, "convert", GOLDEN / "mixtral-a/mistral", tmp_path / "out", "--to", "hf", "--shard-size", 0.0001)
    index = json.loads((tmp_path / "out/model.safetensors.index.json").read_text())
    files = sorted((tmp_path / "out").glob("*.safetensors"))
    sizes = [sum(x.nbytes for x in read_safetensors(path).values()) for path in files]
    assert len(files) >= 7 and max(sizes) <= 100_000 and min(sizes[:-1]) > 80_000
    assert [path.name for path in files] == [f"model-{n:05}-of-{len(files):05}.safetensors"
                                             for n in range(1, len(files) + 1)]
    assert index["metadata"] == {"total_size": sum(sizes)}
    assert index["weight_map"] == {name: path.name for path in files for name in read_safetensors(path)}
    for path in files:  # without this, transformers before version 5 reads no file
        assert b'{"__metadata__":{"format":"pt"}' in path.read_bytes()[:60]


def test_the_same_layout_again(capsys, tmp_path):
    """Other shards, and every other file as it was."""
    hf = GOLDEN / "mixtral-a/hf"
    call(capsys, "convert", hf, tmp_path / "hf", "--to", "hf")
    assert sorted(path.name for path in (tmp_path / "hf").iterdir()) == [
        "config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer.model",
        "tokenizer_config.json"]
    same(stored(tmp_path / "hf"), stored(hf))
    for name in ("config.json", "generation_config.json", "tokenizer.model"):
        assert (tmp_path / "hf" / name).read_bytes() == (hf / name).read_bytes()
    call(capsys, "convert", "tiny-mixtral", tmp_path / "tiny")
    for name in ("params.json", "tokenizer.model", "README.md"):
        assert (tmp_path / "tiny" / name).read_bytes() == (tiny.CHECKPOINTS / "tiny-mixtral" / name).read_bytes()
    same(stored(tmp_path / "tiny"), stored(tiny.CHECKPOINTS / "tiny-mixtral"))


def test_what_is_not_kept_is_said(capsys, tmp_path):
    source = Path(shutil.copytree(GOLDEN / "mixtral-a/hf", tmp_path / "source"))
    (source / "consolidated.00.pt").write_bytes(b"")
    (source / "more").mkdir()
    _, notes, _ = call(capsys, "convert", source, tmp_path / "out")
    assert "note: not copied: consolidated.00.pt, more" in notes
    lost = next(line for line in notes if line.startswith("note: not in params.json: "))
    assert "router_aux_loss_coef" in lost and "transformers_version" in lost
    assert "rope_theta" not in lost and "hidden_size" not in lost
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "params.json", CONSOLIDATED, "tokenizer.model", "generation_config.json"}
    _, notes, _ = call(capsys, "convert", tmp_path / "out", tmp_path / "back", "--to", "hf")
    assert not [line for line in notes if "not " in line]


# ---- files of torch.save

HF_KEYS = {"hidden_size": D, "num_hidden_layers": 3, "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 10,
           "intermediate_size": F, "rms_norm_eps": 1e-5, "rope_theta": 1e6, "num_local_experts": E, "vocab_size": V}
WEIGHTS = {name: np.array(x) for name, x in read_safetensors(GOLDEN / "mixtral-a/mistral" / CONSOLIDATED).items()}
ENDS = ("tok_embeddings.weight", "norm.weight", "output.weight")


def stack(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The experts of each layer as three matrices, w2 transposed."""
    out = {name.replace("feed_forward.gate", "block_sparse_moe.gate"): x for name, x in tensors.items()
           if ".experts." not in name}
    for layer in {name.split(".")[1] for name in tensors if name.startswith("layers")}:
        for w in ("w1", "w2", "w3"):
            experts = [tensors[f"layers.{layer}.feed_forward.experts.{e}.{w}.weight"] for e in range(E)]
            out[f"layers.{layer}.block_sparse_moe.{w}"] = np.concatenate([x.T if w == "w2" else x for x in experts])
    return out


def layer(n: int) -> dict[str, np.ndarray]:
    return {name: x for name, x in WEIGHTS.items() if name.startswith(f"layers.{n}.")}


def ends() -> dict[str, np.ndarray]:
    return {name: WEIGHTS[name] for name in ENDS}


def slices(axis: int) -> list[dict[str, np.ndarray]]:
    """Three files; embeddings and output lie in uneven parts, as they are joined along an axis."""
    cuts = {name: np.split(WEIGHTS[name], [7, 20], axis) for name in (ENDS[0], ENDS[2])}
    return [stack(layer(n)) | {name: np.ascontiguousarray(parts[n]) for name, parts in cuts.items()}
            | {ENDS[1]: WEIGHTS[ENDS[1]]} for n in range(3)]


FORMS = {
    "one file, experts apart": ("consolidated.00.pth", [WEIGHTS]),
    "one file, stacked": ("consolidated.00.pt", [stack(WEIGHTS)]),
    "copies of the ends": ("consolidated.{:02}.pt", [stack(layer(n)) | ends() for n in range(3)]),
    "ends in one file": ("consolidated.{:02}.pt", [layer(2) | layer(0), ends(), stack(layer(1))]),
    "parts, by words": ("consolidated.{:02}.pt", slices(0)),
    "parts, by columns": ("consolidated.{:02}.pt", slices(1)),
    "experts apart, other name": ("consolidated.00.pth", [{
        name.replace("feed_forward", "block_sparse_moe"): x for name, x in WEIGHTS.items()}]),
}


def write(folder: Path, form: str, params: dict | None = HF_KEYS) -> Path:
    folder.mkdir()
    pattern, parts = FORMS[form]
    for n, part in enumerate(parts):
        (folder / pattern.format(n)).write_bytes(torch_file(part, wide=n % 2 == 1))
    shutil.copy(GOLDEN / "mixtral-a/mistral/tokenizer.model", folder)
    if params is None:
        shutil.copy(GOLDEN / "mixtral-a/mistral/params.json", folder)
    else:
        (folder / "params.json").write_text(json.dumps(params))
    return folder


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_torch_files(capsys, tmp_path, form):
    folder = write(tmp_path / "source", form, None if form.startswith("one") else HF_KEYS)
    call(capsys, "convert", folder, tmp_path / "out")
    assert (tmp_path / "out" / CONSOLIDATED).read_bytes() == (GOLDEN / "mixtral-a/mistral" / CONSOLIDATED).read_bytes()
    model = tiny.load(tmp_path / "out")
    assert model.config == tiny.load(GOLDEN / "mixtral-a/mistral").config and model.tokenizer
    if form == "copies of the ends":
        call(capsys, "convert", folder, tmp_path / "hf", "--to", "hf")
        same(stored(tmp_path / "hf"), stored(GOLDEN / "mixtral-a/hf"))


def test_params_json_is_kept_as_it_is(capsys, tmp_path):
    call(capsys, "convert", write(tmp_path / "source", "one file, experts apart", None), tmp_path / "out")
    assert (tmp_path / "out/params.json").read_bytes() == (GOLDEN / "mixtral-a/mistral/params.json").read_bytes()


def test_config_json_beside_torch_files(capsys, tmp_path):
    folder = write(tmp_path / "source", "one file, stacked")
    (folder / "params.json").unlink()
    shutil.copy(GOLDEN / "mixtral-a/hf/config.json", folder)
    call(capsys, "convert", folder, tmp_path / "out", "--to", "hf")
    same(stored(tmp_path / "out"), stored(GOLDEN / "mixtral-a/hf"))


def test_which_layout_is_read(capsys, tmp_path):
    """Mistral's safetensors, then HF's, then files of torch.save; or the one that is asked for."""
    folder = write(tmp_path / "source", "one file, stacked", None)
    for path in (GOLDEN / "mixtral-a/hf").iterdir():
        shutil.copy(path, folder)
    said = [call(capsys, "convert", folder, tmp_path / f"out{n}", *more)[1][0]
            for n, more in enumerate([(), ("--from", "torch")])]
    shutil.copy(GOLDEN / "mixtral-a/mistral" / CONSOLIDATED, folder)
    said += [call(capsys, "convert", folder, tmp_path / f"out{n}", *more)[1][0]
             for n, more in ((2, ()), (3, ("--from", "hf")), (4, ("--from", "torch")))]
    order = [re.search(r": (HF|Mistral|files of torch)", line)[1] for line in said]
    assert order == ["HF", "files of torch", "Mistral", "HF", "files of torch"]
    files = {(tmp_path / f"out{n}" / CONSOLIDATED).read_bytes() for n in range(5)}
    assert files == {(GOLDEN / "mixtral-a/mistral" / CONSOLIDATED).read_bytes()}
    for source, wanted in (("mistral", "hf"), ("hf", "mistral"), ("hf", "torch")):
        fails(capsys, ["convert", GOLDEN / "mixtral-a" / source, tmp_path / "no", "--from", wanted], "hold")


def rewrite(folder: Path, n: int, change) -> None:
    """Write one file of the form "copies of the ends" again, changed."""
    tensors = dict(FORMS["copies of the ends"][1][n])
    change(tensors)
    (folder / f"consolidated.{n:02}.pt").write_bytes(torch_file(tensors))


def spoil(x: np.ndarray) -> np.ndarray:
    """One bit of the last number is another."""
    out = x.copy()
    out.reshape(-1).view(np.uint16)[-1] ^= 1
    return out


@pytest.mark.parametrize("change, names", [
    (lambda t: t.update({ENDS[0]: spoil(t[ENDS[0]])}), ("tok_embeddings.weight is not the same",)),
    (lambda t: t.update({ENDS[1]: t[ENDS[1]].astype(np.float32)}), ("norm.weight is not the same",)),
    (lambda t: t.update({ENDS[2]: t[ENDS[2]][1:]}), ("output.weight is",)),
    (lambda t: t.pop("layers.1.block_sparse_moe.w2"), ("lacks the tensor layers.1.feed_forward.experts.0.w2.weight",)),
    (lambda t: t.update({"layers.1.block_sparse_moe.w2": t["layers.1.block_sparse_moe.w2"][1:]}),
     ("layers.1.block_sparse_moe.w2 is (575, 48)",)),
    (lambda t: t.update({"layers.7.more": t[ENDS[1]]}), ("layers.7.more",)),
    (lambda t: t.update({"layers.1.feed_forward.gate.weight": t["layers.1.block_sparse_moe.gate.weight"]}),
     ("gate.weight under two names",)),
], ids=["copies differ", "copies of two types", "short copy", "missing", "short stack", "extra", "two names"])
def test_torch_files_that_do_not_go_together(capsys, tmp_path, change, names):
    folder = write(tmp_path / "source", "copies of the ends")
    rewrite(folder, 1, change)
    fails(capsys, ["convert", folder, tmp_path / "out"], *names)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_more_that_is_wrong_with_torch_files(capsys, tmp_path):
    folder = write(tmp_path / "source", "copies of the ends")
    command = ["convert", folder, tmp_path / "out"]
    (folder / "consolidated.02.pt").rename(tmp_path / "kept")
    fails(capsys, command, "lacks the tensor layers.2", "in its 2 files")
    shutil.copy(tmp_path / "kept", folder / "consolidated.02.pth")
    fails(capsys, command, "as .pt and as .pth")
    (folder / "consolidated.02.pth").unlink()
    (folder / "consolidated.02.pt").write_bytes((tmp_path / "kept").read_bytes()[:-100])
    fails(capsys, command, "consolidated.02.pt is not a whole file of tensors")
    for key in ("rope_theta", "num_local_experts", "hidden_size"):
        (folder / "params.json").write_text(json.dumps({k: v for k, v in HF_KEYS.items() if k != key}))
        fails(capsys, command, "params.json", *([key] if key != "hidden_size" else ["dim"]))


# ---- what is refused, and what is left behind

def test_refusals(capsys, tmp_path, monkeypatch):
    source = GOLDEN / "mixtral-b/mistral"
    (tmp_path / "there").mkdir()
    fails(capsys, ["convert", source, tmp_path / "there"], "there exists")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    fails(capsys, ["convert", source, tmp_path / "link"], "link exists")
    fails(capsys, ["convert", source, tmp_path / "no/out"], "no is not a folder")
    fails(capsys, ["convert", tmp_path / "nothing", tmp_path / "out"], "nothing is not a folder")
    fails(capsys, ["convert", tmp_path / "there", tmp_path / "out"], "holds neither")
    fails(capsys, ["convert", source, tmp_path / "out", "--shard-size", "0"], "--shard-size is 0.0")
    fails(capsys, ["convert", source, tmp_path / "out", "--to", "gguf"], "gguf")
    with contextlib.suppress(KeyboardInterrupt), whole_folder(tmp_path / "out"):
        fails(capsys, ["convert", source, tmp_path / "out"], "out is being written by another conversion")
        raise KeyboardInterrupt
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10**6, 10**6 - 7, 7))
    fails(capsys, ["convert", source, tmp_path / "out"], "free, the copy needs")
    assert {path.name for path in tmp_path.iterdir()} == {"there", "link"}


@pytest.fixture
def ctrl_c_works():
    """What is started in the background of a shell ignores SIGINT, and Python leaves that as it finds it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c_works")
@pytest.mark.parametrize("stop, status", [(lambda: os.kill(os.getpid(), signal.SIGINT), 130),
                                          (lambda: os.truncate("/nowhere", 1), 2), (lambda: sys.exit(143), 143)],
                         ids=["ctrl-c", "error", "sigterm"])
def test_nothing_half_written_stays(capsys, tmp_path, monkeypatch, stop, status):
    seen = []

    def count(size):
        seen.append({path.name for path in tmp_path.iterdir()})
        if len(seen) == 5:
            stop()

    monkeypatch.setattr(convert, "progress", lambda *_: SimpleNamespace(update=count, close=lambda: None))
    assert tiny.__main__.main(["convert", str(GOLDEN / "mixtral-b/hf"), str(tmp_path / "out")]) == status
    (name,) = seen[4]
    assert re.fullmatch("out.[0-9a-f]{8}.part", name) and len(seen) < 8, "it was stopped in the middle"
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    call(capsys, "convert", GOLDEN / "mixtral-b/hf", tmp_path / "out")


PEAK = """import sys
from tiny.__main__ import main
from tiny.tools.session import peak_memory
before = peak_memory()
assert main(sys.argv[1:]) == 0
print("grew", peak_memory() - before)"""


@pytest.mark.skipif(sys.platform != "linux", reason="Only Linux lets a process give pages of a mapped file back.")
def test_memory_stays_small(tmp_path):
    """A model of 90 MB: as many bytes as its largest tensors are held at once, whatever is read and written."""
    config = Config(dim=512, n_layers=5, head_dim=64, hidden_dim=640, n_heads=8, n_kv_heads=2, norm_eps=1e-5,
                    vocab_size=4000, rope_theta=1e6, max_seq_len=99, moe=MoeConfig(8, 2))
    tensors = dict(RandomTensors(config, 0))
    (tmp_path / "source").mkdir()
    (tmp_path / "source/consolidated.00.pth").write_bytes(torch_file(tensors))
    (tmp_path / "source/params.json").write_text(json.dumps(convert.params_json(config)))
    total = sum(x.nbytes for x in tensors.values())
    assert total > 85e6
    for source, out, to in (("source", "hf", "hf"), ("hf", "mistral", "mistral")):
        done = subprocess.run([sys.executable, "-c", PEAK, "convert", tmp_path / source, tmp_path / out, "--to", to],
                              capture_output=True, text=True, cwd=ROOT)
        assert done.returncode == 0, done.stderr
        assert int(done.stdout.split("grew")[1]) < 35e6, done.stdout
    same(stored(tmp_path / "mistral"), tensors)


def test_torch_tensors_by_name(tmp_path):
    """A mapping that gives each tensor a second time, joined if it comes in parts, and lists them all."""
    folder = write(tmp_path / "source", "parts, by columns")
    tensors = open_torch(sorted(folder.glob("*.pt")), tiny.load(GOLDEN / "mixtral-a/mistral").config)
    assert len(tensors) == len(WEIGHTS) and set(tensors) == set(WEIGHTS)
    assert tensors["output.weight"] is not tensors["output.weight"]
    assert not tensors["layers.0.feed_forward.experts.3.w2.weight"].flags.owndata
