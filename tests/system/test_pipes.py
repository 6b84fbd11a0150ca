"""Pipes, devices and files without an end in place of a file: every reader refuses them at once."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from oracles import GOLDEN, ROOT

import tiny
from kernels.emulator import values
from tests.tools.test_cli import fails
from tiny.config import TinyError
from tiny.files.safetensors import read_safetensors
from tiny.system.pictures import open_image
from tiny.system.reading import check_plain, read_json
from tiny.tools.convert.torch_file import read_torch_file
from tiny.tools.verify import file
from tiny.training.run_state import load_state, read_log
from tutorial.pages import records

READERS = {
    "weights": read_safetensors, "JSON": read_json, "torch": read_torch_file, "picture": open_image,
    "tokenizer": tiny.load_tokenizer, "array": lambda path: values.read_values([str(path)], 0),
    "state": lambda path: load_state(path, {"step": np.array(1)}, "id"), "model": tiny.load,
    "dump": file.read, "any file": check_plain}


@pytest.fixture(params=["pipe", "zero", "null", "link to zero"])
def odd(request, tmp_path):
    """A path that is no file; the name is that of an array, which the emulator asks for."""
    path = tmp_path / "x.npy"
    if request.param == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/null" if request.param == "null" else "/dev/zero")
    return path


@pytest.mark.parametrize("reader", READERS)
def test_readers(reader, odd):
    with pytest.raises(TinyError):
        READERS[reader](odd)


@pytest.mark.parametrize("words", [
    ["inspect", "{}"], ["generate", "--model", "{}", "--prompt", "x"], ["describe", "{}"], ["routing", "{}"],
    ["generate", "--prompt", "x", "--image", "{}"], ["verify", "check", "tiny-mixtral", "{}"],
    ["verify", "check", "{}", str(GOLDEN / "verify/tiny-mixtral.npz")], ["verify", "results", "{}"],
    ["tokenize", "--model", "{}", "x"], ["memory", "{}"], ["convert", "{}", "out"]], ids=" ".join)
def test_commands(words, odd, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fails(capsys, [word.format(odd) for word in words], "")


@pytest.mark.parametrize("name", ["consolidated.safetensors", "params.json", "tokenizer.model"])
def test_a_file_of_a_model(name, odd, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    for path in (GOLDEN / "mixtral-b/mistral").iterdir():
        (folder / path.name).symlink_to(odd if path.name == name else path)
    with pytest.raises(TinyError):
        model = tiny.load(folder)
        model.tokenizer.encode("x")


def test_programs(odd):
    """What reads a file before it imports much, in a process of its own: none waits."""
    for words in (["kernels.emulator", odd], ["kernels.emulator", ROOT / "kernels/rope.cu", "rope", "--arg", odd],
                  ["tutorial.pages.records", odd], ["tutorial.grader", odd]):
        done = subprocess.run([sys.executable, "-m", *map(str, words)], cwd=ROOT, capture_output=True, text=True,
                              timeout=60, stdin=subprocess.DEVNULL)
        assert done.returncode == 2 and done.stderr.count("\n") == 2, (words, done.stderr)


def test_a_log_that_is_a_pipe_has_no_lines(odd):
    assert read_log(odd) == []


@pytest.mark.parametrize("words", [["generate", "--prompt", "-"], ["tokenize", "-"], ["chat"]], ids=" ".join)
def test_standard_input_without_an_end(words):
    with open("/dev/zero", "rb") as zero:
        done = subprocess.run([sys.executable, "-m", "tiny", *words], cwd=ROOT, stdin=zero, capture_output=True,
                              text=True, timeout=120)
    lines = [line for line in done.stderr.splitlines() if line.startswith(("error: ", "remedy: "))]
    assert done.returncode == 2 and len(lines) == 2 and "16,777,216 characters" in lines[0], done.stderr


@pytest.mark.parametrize("words", [["kernels.emulator", "{}"], ["tiny", "routing", "{}"], ["tiny", "inspect", "{}"],
                                   ["tiny", "verify", "results", "{}"]], ids=" ".join)
def test_a_file_of_a_terabyte(words, tmp_path):
    """It takes no space on the disk."""
    path = tmp_path / "x.cu"
    path.touch()
    os.truncate(path, 10**12)
    done = subprocess.run([sys.executable, "-m", *(word.format(path) for word in words)], cwd=ROOT, capture_output=True,
                          text=True, timeout=60)
    assert done.returncode == 2 and done.stderr.startswith("error: "), done.stderr


def test_plain_files_and_folders(tmp_path):
    (tmp_path / "a").write_bytes(b"12345")
    (tmp_path / "link").symlink_to("a")
    for path in (tmp_path / "a", tmp_path / "link"):
        check_plain(path)
        check_plain(path, 5)
        with pytest.raises(TinyError, match="more than 4 bytes"):
            check_plain(path, 4)
    with pytest.raises(TinyError, match="is a folder, not a file"):
        check_plain(tmp_path)
    with pytest.raises(FileNotFoundError):
        check_plain(Path(tmp_path / "none"))
    assert records.LARGEST_JSON > 2**20
