"""Real processes that talk by MPI: the bits of one process, and what is said when a rank ends badly."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from compare import assert_close
from oracles import ROOT
from small import random_tensors, sizes, write_mistral

from tiny.config import TinyError
from tiny.parallel.launch import find_mpiexec

HERE = Path(__file__).parent
WITHIN = 5.0  # seconds in which all ranks end after one did
try:
    MPIEXEC, MISSING = find_mpiexec(), ""
except TinyError as error:
    MPIEXEC, MISSING = "", str(error)
# Ranks wait by asking again and again, so two runs at once on few cores would stand in each other's way.
pytestmark = [pytest.mark.xdist_group("parallel/mpi"),
              pytest.mark.skipif(not MPIEXEC, reason=f"Several processes need the extra `parallel`: {MISSING}")]


def run(*command, timeout=60, **options):
    """A program, its status, its output, and the lines of its standard error."""
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run([*map(str, command)], cwd=ROOT, env=environment, capture_output=True, text=True,
                          timeout=timeout, **{"stdin": subprocess.DEVNULL} | options)
    return done.returncode, done.stdout, done.stderr.splitlines()


def tiny_parallel(*arguments, **options):
    return run(sys.executable, "-m", "tiny.parallel", *arguments, **options)


@pytest.mark.parametrize("size", [2, pytest.param(4, marks=pytest.mark.thorough)])
def test_the_bits_of_one_process(size):
    status, out, errors = run(MPIEXEC, "-n", size, sys.executable, "-m", "mpi4py", HERE / "case.py")
    assert status == 0, errors
    every = json.loads(out)
    assert len(every) == size and all(said["collectives"] for said in every)
    for said in every:
        assert len(said["experts"]) == 6 and all(said["experts"].values()), said
    if size == 2:
        assert all(0 < said["pixtral"] <= 2e-5 for said in every)


def test_the_command_generates_what_one_process_does():
    words = ["generate", "--prompt", "Tom had a red ball", "--max-tokens", 8, "--json"]
    status, out, errors = tiny_parallel("--ranks", 2, *words)
    assert status == 0 and [line.split(":")[0] for line in errors] == ["note"] * len(errors)
    assert errors[0] == "note: 2 ranks, 4.60 MB of weights each, 4.10 kB sent for a token"
    many, one = json.loads(out), json.loads(run(sys.executable, "-m", "tiny", *words)[1])
    for field in ("prompt_ids", "ids", "text", "logprobs", "stop", "weights"):
        assert many[field] == one[field], field
    tokens = len(one["prompt_ids"]) + 7
    assert many["bytes_sent"] == many["bytes_by_formula"] == 4 * 2 * tokens * 128 * 4
    assert many["ranks"] == 2 and many["calls"] == {"rows": 8 * 4} and sum(many["bytes_received_by_rank"])
    assert {row["split"] for row in many["eight_machines"]} == {"experts"}, "8 ranks cannot share 2 KV heads"


def test_who_watches_a_terminal_sees_notes_before_the_text():
    master, slave = os.openpty()
    process = subprocess.Popen([sys.executable, "-m", "tiny.parallel", "--ranks", "1", "generate", "--prompt", "Tom",
                                "--max-tokens", "1000", "--model", "tiny-mixtral"], cwd=ROOT, stderr=slave,
                               stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    os.close(slave)
    assert os.read(master, 6) == b"note: " and process.poll() is None
    process.terminate()
    process.communicate(timeout=WITHIN + 10)
    os.close(master)


def test_the_command_describes_images_and_reads_a_question():
    image = "tests/golden/images/astronaut_97x75.png"
    words = ["describe", image, image, "--question", "-", "--max-tokens", 4]
    status, out, errors = tiny_parallel("--ranks", 2, "--split", "all", *words, stdin=None, input="What is this?\n")
    assert status == 0, errors
    one = run(sys.executable, "-m", "tiny", *words, stdin=None, input="What is this?\n")[1]
    assert out == one and out.count("12 x 10 patches") == 2, "only rank 0 writes"


@pytest.mark.thorough
@pytest.mark.parametrize("kernels, error", [("rms_norm,route", 0.0), ("rope,experts", 1e-5)])
def test_the_kernels_of_the_emulator_under_it(kernels, error):
    """The kernel of the experts adds a token's answers without rounding in between; measured 5.8e-7 (2026-11-30)."""
    if not shutil.which("g++"):
        pytest.skip("The emulator needs g++.")
    words = ["generate", "--prompt", "x", "--max-tokens", 2, "--json", "--device", "emulator", "--kernels", kernels]
    status, out, errors = tiny_parallel("--ranks", 2, *words)
    assert status == 0, errors
    many, one = json.loads(out), json.loads(run(sys.executable, "-m", "tiny", *words)[1])
    assert set(many["kernels"]) == set(one["kernels"]) == set(kernels.split(",")) and many["ids"] == one["ids"]
    assert_close(np.array(many["logprobs"]), np.array(one["logprobs"]), atol=error, name="logprobs")


# ---- a rank ends badly: all end, and the first line of the error names it

@pytest.mark.parametrize("how, where, words", [
    ("kill", "within", "was ended from outside: Killed (signal 9)"), ("raise", "within", "ValueError: this went wrong"),
    ("exit", "between", "ended, with status 3"), *(pytest.param(*rest, marks=pytest.mark.thorough) for rest in (
        ("vanish", "within", "ended without a word"), ("early", "within", "ended without a word"),
        ("raise", "between", "ValueError: this went wrong"), ("exit", "within", "ended, with status 3"),
        ("term", "within", "ended, with status 143"), ("kill", "between", "Killed (signal 9)"),
        ("segv", "within", "Segmentation fault")))])
def test_a_rank_that_ends_badly_ends_all_and_is_named(how, where, words, tmp_path):
    status, out, errors = run(sys.executable, HERE / "dying.py", how, where, tmp_path / "when", "--watched", "--ranks",
                              2, "generate", "--prompt", "Tom had a red ball", "--max-tokens", 400)
    seconds = time.time() - float((tmp_path / "when").read_text())
    assert status == 2 and len(errors) == 2, errors
    assert errors[0].startswith("error: rank 1") and words in errors[0] and errors[1].startswith("remedy: ")
    assert seconds < WITHIN


def test_ranks_with_other_folders_or_arguments_are_told_so(tmp_path):
    config = sizes((4, 2))
    for name, seed in (("a", 0), ("b", 1)):
        write_mistral(tmp_path / name, config, random_tensors(config, seed))
    said = []
    for one, other in (("a", "b"), ("a", "c")):
        program = ("import sys; from tiny.tools.terminal import program; import tiny.parallel; "
                   f"ranks = tiny.parallel.Ranks(); folder = [{one!r}, {other!r}][ranks.rank]; "
                   "program(lambda: tiny.parallel.load(f'{sys.argv[1]}/{folder}', ranks) and 0)")
        status, _, errors = run(MPIEXEC, "-n", 2, sys.executable, "-m", "mpi4py", "-c", program, tmp_path)
        assert status == 2
        said += sorted({line for line in errors if line.startswith("error:")})
    assert said[0] == "error: Rank 1 differs from rank 0 in the weights." and said[1].startswith("error: rank 1: ")
    words = ["--ranks", "2", "generate", "--prompt"]
    status, out, errors = run(MPIEXEC, "-n", 1, sys.executable, "-m", "tiny.parallel", *words, "a", ":",
                              "-n", 1, sys.executable, "-m", "tiny.parallel", *words, "b")
    assert (status, out) == (2, "") and errors[:2] == ["error: Rank 1 differs from rank 0 in their arguments.",
                                                       "remedy: Start every rank with the same command."]


# ---- bad input

@pytest.mark.parametrize("arguments, words", [
    ("--ranks 3 generate --prompt x", "3 ranks cannot share 8 experts"),
    pytest.param("--ranks 4 --split all generate --prompt x", "4 ranks cannot share 2 KV heads",
                 marks=pytest.mark.thorough)])
def test_what_cannot_be_shared_is_said_once(arguments, words):
    status, out, errors = tiny_parallel(*arguments.split())
    assert (status, out) == (2, "") and [line.split(":")[0] for line in errors] == ["error", "remedy"]
    assert words in errors[0]


def test_another_number_of_ranks_than_mpi_started():
    status, _, errors = run(MPIEXEC, "-n", 1, sys.executable, "-m", "tiny.parallel", "--ranks", 2, "generate",
                            "--prompt", "x")
    assert status == 2 and errors[0] == "error: --ranks is 2, and MPI started 1."


@pytest.mark.thorough
def test_a_closed_pipe_ends_all_quietly():
    command = f"'{sys.executable}' -m tiny.parallel --ranks 2 generate --prompt Once --max-tokens 300 | head -c 5"
    status, out, errors = run("bash", "-c", command + "; exit ${PIPESTATUS[0]}")
    assert status == 141 and len(out) == 5 and not any(line.startswith("error:") for line in errors), errors


def test_a_run_that_is_stopped_leaves_no_process():
    process = subprocess.Popen([sys.executable, "-m", "tiny.parallel", "--ranks", "2", "generate", "--prompt", "Once",
                                "--max-tokens", "100000", "--temperature", "1", "--seed", "1", "--model",
                                "tiny-mixtral"], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.read(1)
    started = children_of(process.pid)
    process.terminate()
    _, errors = process.communicate(timeout=WITHIN + 10)
    assert process.returncode == 143 and b"error:" not in errors
    assert len(started) >= 3, "mpiexec and two ranks"
    end = time.monotonic() + WITHIN
    while (left := [pid for pid in started if alive(pid)]) and time.monotonic() < end:
        time.sleep(0.05)
    assert not left


def alive(pid):
    """Whether a process runs; one that nobody has waited for yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def children_of(pid):
    """The processes below a process, by their numbers."""
    above = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            above[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:  # it ended
            continue
    found = [pid]
    for one in found:
        found += [child for child, parent in above.items() if parent == one]
    return found[1:]
