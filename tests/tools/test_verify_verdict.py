"""`verify check` says SAME only if enough was compared: of a file with any array spoiled it never does."""

import json
import os
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from oracles import GOLDEN

import tiny
from tiny.__main__ import main
from tiny.tools.verify import file as dump_file
from tiny.tools.verify.check import check
from tiny.tools.verify.dump import fingerprint
from tiny.tools.verify.names import ARRAY, kind, layer_of

DUMPS = GOLDEN / "verify"
CHECKPOINTS = {"mixtral-a": GOLDEN / "mixtral-a/mistral", "mixtral-b": GOLDEN / "mixtral-b/hf",
               "pixtral-a": GOLDEN / "pixtral-a/mistral"}


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    """For each checkpoint a whole file, as another implementation of the same model would write it."""
    return {name: write_own(tmp_path_factory.mktemp(name) / "whole.npz", folder)
            for name, folder in CHECKPOINTS.items()}


def write_own(path: Path, folder: Path) -> Path:
    """What this code computes, as a file of the format."""
    model = tiny.load(folder)
    random = np.random.default_rng(0)
    pictures = [random.integers(0, 255, size, np.uint8) for size in ((20, 30, 3), (33, 17, 3))] * bool(
        model.config.vision)
    arrays: dict = {f"image{n}": x for n, x in enumerate(pictures)}
    ids = [1, *random.integers(3, model.config.vocab_size, 11).tolist()]
    prompt = None
    if pictures:
        from PIL import Image
        content = [*({"type": "image", "image": Image.fromarray(x)} for x in pictures), {"type": "text", "text": "Hi"}]
        ids, pixels = model.tokenizer.encode_chat([{"role": "user", "content": content}])
        prompt, size = "Hi", model.config.vision.patch_size
        arrays |= {f"pixels{n}": x for n, x in enumerate(pixels)}
        arrays["grids"] = np.array([(x.shape[2] // size, x.shape[1] // size) for x in pixels])
    trace: dict = {}
    logits = model(ids, images=[arrays[f"pixels{n}"] for n in range(len(pictures))], trace=trace)
    arrays |= {name: x for name, x in trace.items() if ARRAY.fullmatch(name)}
    tokens, gaps = [], []
    for _ in range(3):
        second, best = np.sort(logits[-1])[-2:]
        tokens.append(int(logits[-1].argmax()))
        gaps.append(best - second)
        logits = model([*ids, *tokens], images=[arrays[f"pixels{n}"] for n in range(len(pictures))])
    arrays |= {"ids": np.array(ids), "greedy_tokens": np.array(tokens), "greedy_gaps": np.array(gaps, np.float32)}
    record = {"format": dump_file.FORMAT, "precision": "float32", "implementation": "other", "chat": bool(pictures),
              "fingerprint": fingerprint(model.checkpoint.tensors), "prompt": prompt,
              "images": [f"{n}.png" for n in range(len(pictures))]}
    dump_file.save(path, record, arrays)
    return path


def spoiled(name: str, x: np.ndarray) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """Everything that may happen to one array: what, and the arrays that take its place."""
    yield "removed", {}
    yield "renamed", {f"model_{name}": x}
    yield "renamed to another layer", {f"{name}00": x}
    yield "without its last row", {name: x[:-1]}
    yield "flattened", {name: x.reshape(-1)}
    yield "with another axis", {name: x[..., None]}
    yield "transposed", {name: np.ascontiguousarray(x.T)}
    random = np.random.default_rng(len(name))
    at = tuple(random.integers(0, size) for size in x.shape)
    for what, value in (("one number more", x[at] + 1 if x.dtype.kind in "iu" else x[at] + 0.1 * np.abs(x).max() + 0.1),
                        ("NaN", np.nan), ("infinity", np.inf), ("minus infinity", -np.inf)):
        if x.dtype.kind == "f" or what == "one number more":
            other = x.copy()
            other[at] = value
            yield what, {name: other}
    if x.dtype.kind == "f":
        yield "twice as large", {name: 2 * x}
        yield "of halves", {name: x.astype(np.float16)}


def verdict(ours: str, path: Path) -> str:
    """The verdict on a file; a refusal is one, too."""
    try:
        report = check(ours, path)
    except tiny.TinyError:
        return "refused"
    assert (report.status == 0) == (report.verdict == "same"), report.verdict
    return report.verdict


@pytest.mark.parametrize("against", ["model", "file"])
@pytest.mark.parametrize("name", CHECKPOINTS)
def test_no_spoiled_array_is_ever_the_same(name, against, files, tmp_path):
    whole, ours = files[name], str(CHECKPOINTS[name] if against == "model" else files[name])
    assert verdict(ours, whole) == "same"
    dump, path = dump_file.read(whole), tmp_path / "spoiled.npz"
    arrays = dump.inputs | dump.arrays
    last = max(layer_of(key) or 0 for key in dump.arrays if not key.startswith("vision_"))
    random, record, passed = np.random.default_rng(0), np.array(json.dumps(dump.record)), []
    for key, x in arrays.items():
        if ARRAY.fullmatch(key) and layer_of(key) not in (None, last):
            continue
        ways = list(spoiled(key, x))
        for n in {0, int(random.integers(len(ways)))}:  # Each array is removed, and spoiled in one other way.
            what, others = ways[n]
            np.savez(path, record=record, **{k: y for k, y in arrays.items() if k != key} | others)
            if verdict(ours, path) == "same" and not within_tolerance(x, others.get(key)):
                passed.append(f"{key} {what}")
    assert not passed


def within_tolerance(x: np.ndarray, other: np.ndarray | None) -> bool:
    """Whether nothing changed: a square that is its own transpose, or a lead of a greedy token, to a hundredth."""
    return other is not None and other.shape == x.shape and bool((np.abs(x - other) <= 0.009 * (x.ndim == 1)).all())


# ---- what a whole file is

def kept(files, tmp_path: Path, name: str, keep, record: dict | None = None, **arrays) -> Path:
    """A whole file with only those arrays of the trace that `keep` wants."""
    dump = dump_file.read(files[name])
    others = dump.inputs | {key: x for key, x in dump.arrays.items() if keep(key)} | arrays
    np.savez(tmp_path / "kept.npz", record=np.array(json.dumps(dump.record | (record or {}))), **others)
    return tmp_path / "kept.npz"


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_logits_and_one_array_of_every_layer_are_enough(name, files, tmp_path):
    for part in ("layer", "attn", "k"):
        wanted = {"logits", part, f"vision_{part}"}
        report = check(str(CHECKPOINTS[name]), kept(files, tmp_path, name, lambda key, w=wanted: kind(key) in w))
        assert (report.verdict, report.status) == ("same", 0), f"{part}: {report.gaps}"


@pytest.mark.parametrize("keep, words", [
    (lambda key: False, "missing: logits, layer 0, layer 1"),
    (lambda key: key != "logits", "missing: logits"),
    (lambda key: not key.endswith("01"), "missing: layer 1"),
    (lambda key: key != "v01", "missing: v01"),
    (lambda key: key != "embed", "missing: embed"), (lambda key: key != "norm", "missing: norm"),
    (lambda key: key in ("logits", "layer00"), "missing: layer 1")])
def test_what_is_missing_costs_the_verdict_and_partial_says_so(keep, words, files, tmp_path, capsys):
    path, ours = kept(files, tmp_path, "mixtral-a", keep), str(CHECKPOINTS["mixtral-a"])
    assert main(["verify", "check", ours, str(path)]) == 1
    out = capsys.readouterr().out
    assert "UNPROVEN" in out and words in out and "SAME" not in out
    nothing = not any(map(keep, dump_file.read(files["mixtral-a"]).arrays))
    assert main(["verify", "check", ours, str(path), "--partial"]) == int(nothing)
    out = capsys.readouterr().out
    assert words in out and ("SAME     in part, as asked for with --partial" in out) != nothing


def test_another_checkpoint_costs_the_verdict(files, tmp_path):
    """An expert that no token of the prompt visits differs: only the fingerprint knows."""
    path = kept(files, tmp_path, "mixtral-a", lambda key: True, {"fingerprint": "0" * 64})
    report = check(str(CHECKPOINTS["mixtral-a"]), path)
    assert (report.verdict, report.status) == ("unproven", 1) and "another checkpoint" in str(report.gaps.sentences())
    assert check(str(CHECKPOINTS["mixtral-a"]), path, partial=True).verdict == "same in part"


def test_arrays_of_one_file_only_are_named(files, tmp_path, capsys):
    path = kept(files, tmp_path, "mixtral-a", lambda key: key == "embed")
    for pair in ([path, files["mixtral-a"]], [files["mixtral-a"], path]):
        assert main(["verify", "check", *map(str, pair)]) == 1
        out = capsys.readouterr().out
        assert "in one file only: attn00, attn01" in out and "UNPROVEN" in out
    assert main(["verify", "check", str(path), str(path)]) == 1
    assert "missing: logits" in capsys.readouterr().out


def test_files_whose_every_array_has_another_shape(files, tmp_path, capsys):
    dump = dump_file.read(files["mixtral-a"])
    others = {key: x[..., :-1] * 7 + 3 for key, x in dump.arrays.items() if kind(key) != "experts"}
    path = kept(files, tmp_path, "mixtral-a", lambda key: False, **others)
    for ours in (files["mixtral-a"], CHECKPOINTS["mixtral-a"]):
        assert main(["verify", "check", str(ours), str(path)]) == 1
        out = capsys.readouterr().out
        assert "DIFFERS  shapes: embed is" in out and "SAME" not in out and "to the bit" not in out


def test_a_dump_of_some_layers_is_partial_for_two_files_too(files, tmp_path):
    path = kept(files, tmp_path, "mixtral-a", lambda key: True, {"layers": [0, 1]})
    assert check(str(path), path).verdict == "unproven"


def test_experts_without_logits_of_the_router_are_not_judged(files, tmp_path):
    path = kept(files, tmp_path, "mixtral-a", lambda key: kind(key) != "router_logits")
    report = check(str(CHECKPOINTS["mixtral-a"]), path)
    assert report.verdict == "unproven" and report.gaps.not_judged == ["experts00", "experts01", "experts02"]


# ---- files from anywhere

def crafted(path: Path, dump: dump_file.Dump, **members: bytes) -> Path:
    """A file with some members of chosen bytes."""
    np.savez(path, record=np.array(json.dumps(dump.record)), ids=dump.ids)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return path


def header(text: str, version: int = 1, length: int | None = None) -> bytes:
    """The bytes in front of an array: magic, length and text."""
    data = text.encode().ljust(117) + b"\n"
    size = len(data) if length is None else length
    return b"\x93NUMPY" + bytes([version, 0]) + size.to_bytes(2 * version, "little") + data


GOOD = "{'descr': '<f4', 'fortran_order': False, 'shape': (12, 64), }"
DAMAGED = {
    "an open bracket": header("{'descr': '<f4', 'fortran_order': False, 'shape': (12, 64"),
    "a text that never ends": header('''{'descr': """<f4'''),
    "not a dictionary": header("[1, 2]"), "no shape": header("{'descr': '<f4', 'fortran_order': False}"),
    "a shape of letters": header(GOOD.replace("(12, 64)", "'ab'")),
    "a shape below zero": header(GOOD.replace("12", "-12")), "70 axes": header(GOOD.replace("12, 64", "1, " * 70)),
    "an unknown type": header(GOOD.replace("<f4", "<q9")), "an object": header(GOOD.replace("<f4", "|O")),
    "a type of no size": header(GOOD.replace("<f4", "<U0")), "deep brackets": header("(" * 100 + ")" * 100),
    "a size beyond all": header(GOOD.replace("12", "9" * 40)), "an endless header": header(GOOD, 2, 2**31),
    "a version of its own": header(GOOD, 7), "other magic": b"\x93NUMPX" + header(GOOD)[6:], "nothing": b"",
    "too few numbers": header(GOOD) + bytes(8), "too many numbers": header(GOOD) + bytes(12 * 64 * 4 + 1)}


@pytest.mark.parametrize("what", DAMAGED)
def test_damaged_arrays_end_in_two_lines(what, files, tmp_path, capsys):
    path = crafted(tmp_path / "x.npz", dump_file.read(files["mixtral-a"]), layer00=DAMAGED[what])
    for ours in (CHECKPOINTS["mixtral-a"], files["mixtral-a"]):
        assert main(["verify", "check", str(ours), str(path)]) == 2
        lines = capsys.readouterr().err.splitlines()
        assert [line.split(":")[0] for line in lines] == ["error", "remedy"] and "layer00" in lines[0]
        assert "unexpected" not in lines[1]


def test_every_changed_byte_of_the_archive_ends_in_two_lines_or_a_verdict(files, tmp_path):
    whole, path, random = files["mixtral-b"].read_bytes(), tmp_path / "x.npz", np.random.default_rng(3)
    for _ in range(60):
        data = bytearray(whole)
        for at in random.integers(0, len(data), 3):
            data[at] = random.integers(0, 256)
        path.write_bytes(data)
        assert verdict(str(files["mixtral-b"]), path) != "same" or dump_file.read(path).unknown == []


@pytest.mark.parametrize("code", [0x110000, 0xFFFFFFFF])
def test_a_record_with_characters_beyond_unicode(code, files, tmp_path, capsys):
    text = np.array(json.dumps({"format": dump_file.FORMAT, "precision": "float32", "model": "x"}))
    letters = np.frombuffer(text.tobytes(), np.uint32).copy()
    letters[-3] = code
    np.savez(tmp_path / "x.npz", record=np.frombuffer(letters.tobytes(), text.dtype).reshape(()), ids=np.arange(3))
    assert main(["verify", "check", str(CHECKPOINTS["mixtral-a"]), str(tmp_path / "x.npz")]) == 2
    assert "beyond the last of Unicode" in capsys.readouterr().err


@pytest.mark.parametrize("experts", [np.array([0, 9]), np.array([0, -1]), np.array([2, 2])])
def test_numbers_that_are_no_experts(experts, files, tmp_path, capsys):
    path = kept(files, tmp_path, "mixtral-a", lambda key: True, experts00=np.tile(experts, (12, 1)))
    for ours in (CHECKPOINTS["mixtral-a"], files["mixtral-a"]):
        assert main(["verify", "check", str(ours), str(path)]) == 2
        assert "experts00 holds" in capsys.readouterr().err


def test_what_is_not_compared_is_not_unpacked(files, tmp_path, monkeypatch):
    """Bombs: gigabytes of zeros under a name that nobody knows, or in another shape than the model's."""
    big = np.zeros((3000, 4000), np.float32)
    path = kept(files, tmp_path, "mixtral-a", lambda key: key != "layer00", bomb=big, layer00=big)
    unpacked, read_array = [], dump_file.read_array
    monkeypatch.setattr(dump_file, "read_array", lambda path, opened, header: (
        unpacked.append(header.member.filename), read_array(path, opened, header))[1])
    report = check(str(CHECKPOINTS["mixtral-a"]), path)
    assert report.verdict == "differs" and report.gaps.unknown == ["bomb"] and "layer00 is" in report.misshapen[0]
    assert check(str(files["mixtral-a"]), path).verdict == "differs"
    assert "ids.npy" in unpacked and not {"bomb.npy", "layer00.npy"} & set(unpacked)


@pytest.mark.parametrize("arrays, words", [
    ({"ids": np.ones(2**21, np.int64)}, "too many numbers"),
    ({"ids": np.ones(2**19, np.int64)}, "the context of the model"),
    ({"pixels0": np.zeros((3, 4096, 4096), np.float32)}, "possible here"),
    ({"pixels0": np.zeros((3, 16, 16), np.float64)}, "float32"),
    ({"image0": np.zeros((8, 8, 4), np.uint8)}, "uint8"), ({"image0": np.zeros((8, 8, 3), np.int32)}, "uint8"),
    ({"image0": np.zeros((8, 8, 3), np.uint8)}, "image and pixels are 1 and 0"),
    ({"greedy_gaps": np.zeros(3, np.float32), "greedy_tokens": np.zeros(4, np.int64)}, "greedy_gaps"),
    ({"greedy_tokens": np.array([10**6])}, "not in the vocabulary")])
def test_inputs_larger_than_a_model_can_need_are_refused(arrays, words, files, tmp_path, capsys):
    dump = dump_file.read(files["mixtral-a"])
    inputs = {key: x for key, x in dump.inputs.items() if not key.startswith("greedy")}
    np.savez_compressed(tmp_path / "x.npz", record=np.array(json.dumps(dump.record)), **inputs | arrays)
    assert main(["verify", "check", str(CHECKPOINTS["mixtral-a"]), str(tmp_path / "x.npz")]) == 2
    assert words in capsys.readouterr().err


def test_what_is_no_file_is_not_waited_for(tmp_path, capsys):
    os.mkfifo(tmp_path / "x.npz")
    assert main(["verify", "check", str(CHECKPOINTS["mixtral-a"]), str(tmp_path / "x.npz")]) == 2
    assert "is not a file" in capsys.readouterr().err


def test_warnings_of_a_configuration_are_repeated(files, tmp_path, capsys):
    for path in CHECKPOINTS["mixtral-a"].iterdir():
        shutil.copy(path, tmp_path / path.name)
    values = json.loads((tmp_path / "params.json").read_text(encoding="utf-8"))
    (tmp_path / "params.json").write_text(json.dumps(values | {"some_\x1bkey": 3}), encoding="utf-8")
    assert main(["verify", "check", str(tmp_path), str(files["mixtral-a"])]) == 0
    out = capsys.readouterr().out
    assert "SAME" in out and "note " in out and r"some_\x1bkey" in out and "\x1b" not in out
