"""What the command refuses before it starts anything, and the estimates of cost; none of this needs MPI."""

import sys

import numpy as np
import pytest
from compare import assert_close

from tiny.config import TinyError
from tiny.parallel import __main__ as command
from tiny.parallel import cost, launch, ranks
from tiny.parallel.shards import owner_of
from tiny.tools.releases import MIXTRAL_8X7B, PIXTRAL_12B
from tiny.tools.token_cost import token_cost
from tutorial.pages.records import record


def refused(*arguments):
    """The error of a command that starts nothing."""
    with pytest.raises(TinyError) as found:
        command.main([str(argument) for argument in arguments])
    assert found.value.cause and found.value.remedy and "\n" not in found.value.cause + found.value.remedy
    return found.value


@pytest.mark.parametrize("arguments, words", [
    ("--ranks 0 generate --prompt x", "--ranks is 0"), ("--ranks -3 generate --prompt x", "--ranks is -3"),
    ("--ranks 5000 generate --prompt x", "--ranks is 5000"), ("--ranks two generate --prompt x", "invalid int"),
    ("generate --prompt x", "required: --ranks"), ("--ranks 2", "Nothing is no command"),
    ("--ranks 2 bench", "bench is no command"), ("--ranks 2 verify dump a b", "verify dump is no command"),
    ("--ranks 2 verify results", "no command"), ("--ranks 2 --split all verify check a b", "single operations"),
    ("--ranks 2 --split layers generate --prompt x", "invalid choice"), ("--ranks 2 generate", "--prompt"),
    ("--ranks 2 generate --prompt x --device emulator", "keep all arrays on the device")])
def test_what_is_refused(arguments, words, monkeypatch):
    monkeypatch.setattr(command, "launch", lambda *a, **k: pytest.fail("started"))
    monkeypatch.setattr(command, "own_rank", lambda: None)
    assert words in refused(*arguments.split()).cause


def test_an_empty_prompt_is_a_prompt():
    options, args = command.read_arguments(["--ranks", "2", "--split", "all", "generate", "--prompt", "", "--debug"])
    assert (options.ranks, options.split, args.prompt, args.debug) == (2, "all", "", True)


def test_without_mpi4py(monkeypatch):
    monkeypatch.setattr(launch.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(command, "own_rank", lambda: None)
    error = refused("--ranks", 2, "generate", "--prompt", "x")
    assert "mpi4py is not installed" in error.cause and "make .venv/parallel" in error.remedy
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    with pytest.raises(TinyError, match="mpi4py cannot be imported"):
        ranks.Ranks()


def test_without_mpiexec(monkeypatch, tmp_path):
    monkeypatch.setattr(launch.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(launch.sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(TinyError, match="no mpiexec beside this Python and none on the PATH"):
        launch.find_mpiexec()


# ---- cost: estimates, held against counts made another way

def test_the_busiest_rank():
    # Of the 28 pairs of 8 experts, on 4 ranks of two each: 4 pairs lie on one rank.
    assert_close(np.float64(cost.busiest(8, 2, 4)), np.float64(1 + 4 / 28), atol=1e-12)
    assert cost.busiest(8, 2, 8) == 1 and cost.busiest(8, 2, 1) == 2 and cost.busiest(4, 3, 2) == 2
    assert cost.busiest(64, 8, 4) == 8, "too many choices to count: the most"
    assert [owner_of(e, 8, 4) for e in range(8)] == [0, 0, 1, 1, 2, 2, 3, 3]


@pytest.mark.parametrize("split", ["experts", "all"])
def test_one_machine_reads_all_that_a_token_needs(split):
    read, sent = cost.decode_seconds(MIXTRAL_8X7B, 1, split, cost.NETWORKS[0], cost.CPU)
    moved, _ = token_cost(MIXTRAL_8X7B, 0, 2)
    assert sent == 0
    assert_close(np.float64(read), np.float64(moved / cost.CPU), atol=0.0, rtol=1e-3)
    assert cost.bytes_sent(MIXTRAL_8X7B, 1, split, 100, 1) == 0


def test_eight_machines():
    rows = {(row["split"], row["memory_bytes_per_second"], row["network"]): row["tokens_per_second"]
            for row in cost.eight_machines(MIXTRAL_8X7B)}
    assert len(rows) == 2 * 2 * len(cost.NETWORKS)
    one = {memory: 1 / cost.decode_seconds(MIXTRAL_8X7B, 1, "all", cost.NETWORKS[0], memory)[0]
           for memory in (cost.CPU, cost.GPU)}
    assert all(rows["all", cost.CPU, network.name] > rows["experts", cost.CPU, network.name] > one[cost.CPU]
               for network in cost.NETWORKS), "heads and rows for one reader"
    assert rows["all", cost.GPU, "1 Gb Ethernet"] < one[cost.GPU] < rows["all", cost.GPU, "NVLink with NCCL"]
    assert {row["split"] for row in cost.eight_machines(PIXTRAL_12B)} == {"all"}


def test_the_recorded_memory_of_a_rank():
    """Either split, the recorded run: two ranks need 0.58 of one process at most, four 0.36."""
    entry = record("parallel.json")
    assert entry["date"] and entry["machine"] and entry["kernel"].startswith("OpenBLAS")
    runs = {(run["ranks"], run["split"]): run for run in entry["runs"]}
    whole = runs[1, "experts"]["peak_memory_bytes"][0]
    assert all(len(run["peak_memory_bytes"]) == size for (size, _), run in runs.items())
    assert all(run["prompt_tokens_per_second"] > 0 < run["tokens_per_second"] for run in runs.values())
    for size, most in ((2, 0.58), (4, 0.36)):
        assert all(max(runs[size, split]["peak_memory_bytes"]) <= most * whole for split in ("experts", "all"))
        assert runs[size, "experts"]["bytes_of_a_token"] == (size - 1) * 8 * 2 * 1024 * 4
