"""tiny/tools/streaming.py: what the commands say of streamed weights, and how they end."""

import io
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
from oracles import GOLDEN, ROOT
from small import params, raw_file, sizes

import tiny
from tiny.__main__ import main
from tiny.config import TinyError
from tiny.files.weights import expected_shapes
from tiny.system.direct import DirectReader, Refused
from tiny.tools import streaming
from tutorial.pages.streaming_record import control_group

MODEL = GOLDEN / "mixtral-a" / "hf"


@pytest.fixture(autouse=True)
def direct_reads():
    try:
        DirectReader(map(str, MODEL.glob("*.safetensors")))
    except Refused as error:
        pytest.skip(f"Where this repository is, {error}.")


def run(capsys, *more):
    status = main(["generate", "--model", str(MODEL), "--prompt", "One day", "--max-tokens", "6", *more])
    return status, *capsys.readouterr()


def test_json(capsys):
    status, out, err = run(capsys, "--weights", "streamed", "--memory", "0.0002", "--json")
    _, mapped, _ = run(capsys, "--weights", "mapped", "--json")
    said, expected = json.loads(out), json.loads(mapped)
    assert status == 0 and said["weights"] == "streamed" and expected["weights"] == "mapped"
    assert said["ids"] == expected["ids"] and said["logprobs"] == expected["logprobs"]
    assert type(said["bytes_read"]) is int and said["bytes_read"] > 1_000_000
    assert said["disk_bytes_per_second"] > 0 and type(said["major_page_faults"]) is int
    assert "bytes_read" not in expected and type(expected["major_page_faults"]) is int


def test_what_is_said_before(capsys):
    """The numbers by hand: with 0.0002 GB something is read for each token, with all memory nothing is."""
    status, out, err = run(capsys, "--weights", "streamed", "--memory", "0.0002")
    weights = tiny.load(MODEL, weights="streamed").weights
    weights.allow(200_000)
    kept = sum(weights.tensors[name].nbytes for name in weights.shelf.kept)
    every = sum(x.nbytes for name, x in weights.tensors.items() if ".experts." not in name and "tok_" not in name)
    chosen = 3 * 2 * 3 * 2 * 72 * 48  # layers, experts, matrices, bytes, sizes
    match = re.search(r"note: a token reads about ([\d.]+) kB from disk, ([\d.]+) s at this disk's [\d.]+ [kMG]?B/s "
                      r"\(measured\); ([\d.]+) kB that every token needs stay in memory\n", err)
    assert status == 0 and match, err
    assert float(match[1]) == round((every - kept + chosen) / 1000, 1) and float(match[3]) == round(kept / 1000, 1)
    status, _, err = run(capsys, "--weights", "streamed")
    assert status == 0 and "note: all weights stay in memory after their first use\n" in err
    status, _, err = run(capsys, "--weights", "streamed", "--memory", "0.0006")
    assert re.search(r"every token needs stay in memory, and \d\d% of the experts", err), err
    status, _, err = run(capsys, "--weights", "streamed", "--memory", "0.0001")
    assert status == 0 and "; no weights stay in memory\n" in err, err


@pytest.mark.parametrize("memory", ["0.00001", "1e9", "0", "-1", "nan", "inf"])
def test_memory_that_cannot_be(capsys, memory):
    status, out, err = run(capsys, "--weights", "streamed", f"--memory={memory}")
    assert status == 2 and out == "" and err.splitlines()[-2].startswith("error: ") and "--memory" in err
    assert err.splitlines()[-1].startswith("remedy: ")


def test_memory_for_weights_of_another_kind(capsys):
    status, _, err = run(capsys, "--weights", "mapped", "--memory", "1")
    assert status == 2 and "error: --memory does nothing for weights that are mapped." in err


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_sees_which_layer_is_at_work(capsys, monkeypatch):
    monkeypatch.setattr(streaming, "PATIENCE", -1)
    monkeypatch.setattr(streaming, "STEP", 0)
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    status, out, _ = run(capsys, "--weights", "streamed", "--memory", "0.0002")
    shown = re.findall(r"\x1b7\x1b\[\?7l (\[layer \d of 3, [\d.]+ [kM]B read\])\x1b\[K\x1b\[\?7h\x1b8",
                       screen.getvalue())
    assert status == 0 and len(shown) == 3 * 6 and [text[7] for text in shown[:3]] == ["1", "2", "3"]
    assert screen.getvalue().count("\x1b8\x1b[K") == 6, "taken away after each pass"
    monkeypatch.undo()
    status, again, err = run(capsys, "--weights", "streamed", "--memory", "0.0002")
    assert again == out and "\x1b" not in err


SLOW = """
import os, sys, time
real = os.preadv
def slow(*arguments):
    time.sleep(0.05)
    return real(*arguments)
os.preadv = slow
from tiny.__main__ import main
from tiny.tools.terminal import program
program(main)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_it_within_a_second(number):
    """Every read takes 50 ms here: what was planned would take several seconds."""
    command = [sys.executable, "-c", SLOW, "generate", "--model", MODEL, "--prompt", "One day", "--weights", "streamed",
               "--memory", "0.0001", "--max-tokens", "200"]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        lines = [process.stderr.readline() for _ in range(2)]
        assert "reads about" in lines[-1], lines
        time.sleep(0.3)
        start = time.monotonic()
        process.send_signal(number)
        _, rest = process.communicate(timeout=30)
    assert time.monotonic() - start < 1 and process.returncode == (130 if number == signal.SIGINT else 143)
    assert rest == ""


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A Mixtral of 176 million parameters whose file is all holes: 360 MB long, it takes no room."""
    folder = tmp_path_factory.mktemp("large")
    config = sizes((8, 2), dim=512, hidden_dim=1792, n_layers=8, n_heads=8, n_kv_heads=2, head_dim=64, vocab_size=2048)
    header, position = {}, 0
    for name, shape in expected_shapes(config).items():
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [position, position + 2 * math.prod(shape)]}
        position += 2 * math.prod(shape)
    (folder / "params.json").write_text(json.dumps(params(config)))
    shutil.copy(tiny.model_folder("tiny-mixtral") / "tokenizer.model", folder)
    with open(folder / "consolidated.safetensors", "wb") as file:
        file.write(raw_file(header))
        file.truncate(file.tell() + position)
    return folder


def in_group(limit, folder, *options):
    """Run `generate` in a control group of so many bytes; also the most that the group took."""
    command = [sys.executable, "-m", "tiny", "generate", "--model", str(folder), "--prompt", "One day", "--max-tokens",
               "3", *options]
    try:
        with control_group(limit) as (group, peak):
            done = subprocess.run(["sh", "-c", f'echo $$ > {group}/cgroup.procs; exec "$@"', "sh", *command], cwd=ROOT,
                                  capture_output=True, text=True, timeout=100,
                                  env=os.environ | {"OPENBLAS_NUM_THREADS": "1"})
            return done, int(peak.read_text())
    except TinyError as error:
        pytest.skip(f"{error.cause} It takes root, and groups of version 1, or of version 2 with memory.")


def test_in_a_control_group(large):
    """Less memory than weights: by itself it takes streamed and lives; what cannot fit is said in two lines."""
    done, peak = in_group(250_000_000, large)
    assert done.returncode == 0, (done.returncode, done.stderr)
    assert "weights streamed" in done.stderr and "a token reads about" in done.stderr and peak <= 250_000_000
    for limit, mode in ((250_000_000, "resident"), (130_000_000, "streamed")):
        done, _ = in_group(limit, large, "--weights", mode)
        lines = [line for line in done.stderr.splitlines() if not line.startswith("note: ")]
        assert done.returncode == 2 and len(lines) == 2, (done.returncode, done.stderr)
        assert f"weights {mode} needs" in lines[0] and "are free" in lines[0] and lines[1].startswith("remedy: ")
