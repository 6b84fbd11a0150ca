"""The fuzzer itself: every fault that was ever found stays gone, and each kind of fault would be seen."""

import base64
import hashlib
import itertools
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from oracles import ROOT

from tests.fuzz import engine
from tests.fuzz import shrink as shrinking
from tests.fuzz.__main__ import main
from tests.fuzz.engine import Target, Wrong, input_of, judge, run
from tests.fuzz.shrink import shrink
from tests.fuzz.targets import TARGETS
from tests.fuzz.targets.arrays import HOW, changed, dump
from tiny.config import TinyError
from tiny.tools.verify import check

CORPUS = sorted(path for path in (ROOT / "tests/fuzz/corpus").rglob("*") if path.is_file())
BEGINNING = 40  # inputs of each target, at most, and seconds of it
ACCEPTED = {"read", "run", "compared", "differs", "written", "rewritten", "ran"}


def fixed(name: str, data: bytes) -> Target:
    """A target that makes one input only."""
    return Target(name, lambda rng: data, TARGETS[name].run)


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_corpus(path):
    """Files that once were faults, in a child of their own: a crash would end the tests."""
    tally = run(fixed(path.parent.name, path.read_bytes()), 0, 0, 1)
    assert tally.inputs == 1 and not tally.faults, tally.faults


def test_the_corpus_is_small():
    assert {path.parent.name for path in CORPUS} <= set(TARGETS)
    assert sum(path.stat().st_size for path in CORPUS) < 300_000


@pytest.mark.parametrize("name", TARGETS)
def test_the_first_inputs_of_each_target(name):
    tally = run(TARGETS[name], 1, 0, BEGINNING, 3)
    assert tally.inputs and not tally.faults, tally.faults


@pytest.mark.parametrize("name", [name for name in TARGETS if name not in ("checkpoint", "command", "npz", "verdict")])
def test_each_target_has_inputs_that_are_accepted(name):
    """An oracle that is never asked says nothing."""
    tally = run(TARGETS[name], 2, 0, 400, 20)
    assert set(tally.outcomes) & ACCEPTED, tally.outcomes


def test_the_unchanged_file_is_the_same(tmp_path):
    """What the target `verdict` changes has the verdict SAME before, in whole and with --partial or without."""
    import numpy as np
    for name in ("ours", "theirs"):
        np.savez(tmp_path / f"{name}.npz", **dump())
    assert check.check(str(tmp_path / "ours.npz"), tmp_path / "theirs.npz").status == 0
    np.savez(tmp_path / "theirs.npz", **changed("logits", "moved", 5))
    assert check.check(str(tmp_path / "ours.npz"), tmp_path / "theirs.npz").status == 1


def test_every_reader_has_its_share():
    """Of a million inputs, at least ten thousand."""
    assert min(target.share for target in TARGETS.values()) / sum(t.share for t in TARGETS.values()) > 0.01


@pytest.mark.parametrize("how", HOW)
def test_each_change_of_an_array_costs_the_verdict(how, tmp_path):
    for name in ("logits", "layer01", "experts00", "k01"):
        data = json.dumps([name, how, 2]).encode()
        assert judge(TARGETS["verdict"], data, tmp_path) in ("differs", "refused")


# ---- every kind of fault is seen

def misbehaves(data: bytes, folder: Path) -> str:
    match data:
        case b"exception":
            return {}["no such key"]
        case b"wrong":
            raise Wrong("the result is another one")
        case b"signal":
            os.kill(os.getpid(), 11)
        case b"loop":
            while True:
                pass
        case b"sleep":
            time.sleep(100)
        case b"memory":
            return str(len(bytearray(b"x") * 1_200_000_000))[:0] + "read"
        case b"two lines":
            raise TinyError("One line\nand another.", "Nothing.")
        case b"no remedy":
            raise TinyError("One line.", "")
        case b"refused":
            raise TinyError("It is damaged.", "Repair it.")
    return "read"


@pytest.mark.parametrize("kind, words", [
    ("exception", "KeyError"), ("wrong", "Wrong: the result is another one"), ("signal", "SIGSEGV"),
    ("loop", "more than 0.5 seconds"), ("sleep", "sleeps for 2 seconds"), ("memory", "more than 1 GB, then read"),
    ("two lines", "not one line of cause"), ("no remedy", "not one line of cause")])
def test_a_fault_is_seen_and_the_run_goes_on(kind, words, monkeypatch):
    monkeypatch.setattr(engine, "SECONDS", 0.5 if kind == "loop" else 10)
    monkeypatch.setattr(engine, "PATIENCE", 2 if kind == "sleep" else 60)
    target = Target("planted", lambda rng: rng.choice((b"refused", b"right", kind.encode())), misbehaves)
    inputs = [input_of(target, 3, n) for n in range(8)]
    tally = run(target, 3, 0, 8)
    (fault, found), = tally.faults.items()
    assert words in fault and found == {"first": inputs.index(kind.encode()), "count": inputs.count(kind.encode())}
    assert tally.inputs == 8 and tally.outcomes.get("refused", 0) == inputs.count(b"refused") > 0


def test_what_is_right_is_no_fault():
    tally = run(Target("planted", lambda rng: b"right", misbehaves), 0, 0, 30)
    assert tally.outcomes == {"read": 30} and not tally.faults


# ---- names of inputs, and the record

PROGRAM = """
import hashlib, sys
sys.path.insert(0, "tests/helpers")
from tests.fuzz.engine import input_of
from tests.fuzz.targets import TARGETS
for name, target in TARGETS.items():
    print(name, hashlib.sha256(b"".join(input_of(target, 5, n) for n in range(3))).hexdigest())
"""


def test_a_name_gives_the_same_bytes_in_another_process():
    found = subprocess.run([sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, check=True,
                           env=os.environ | {"PYTHONHASHSEED": "77"}).stdout
    for name, target in TARGETS.items():
        data = b"".join(input_of(target, 5, n) for n in range(3))
        assert f"{name} {hashlib.sha256(data).hexdigest()}" in found
    assert input_of(TARGETS["chat"], 5, 0) != input_of(TARGETS["chat"], 6, 0)


def test_a_run_goes_on_where_its_record_ends(tmp_path, monkeypatch, capsys):
    record = tmp_path / "record.json"
    for count, total in ((30, 30), (50, 50), (20, 50)):
        monkeypatch.setattr(sys, "argv", ["fuzz", "value", "message", "--count", str(count), "--record", str(record)])
        assert main() == 0
        assert capsys.readouterr().out.endswith(f"{total} inputs, 0 distinct faults\n")
    text = record.read_text()
    assert '"inputs": 50' in text and '"numpy":' in text and '"seed": 0' in text
    monkeypatch.setattr(sys, "argv", ["fuzz", "value", "--seed", "1", "--count", "9", "--record", str(record)])
    with pytest.raises(TinyError, match="is of seed 0"):
        main()


# ---- inputs with a fault are made smaller

def bytes_fault(data: bytes, folder: Path) -> str:
    """A planted fault of two bytes, one behind the other; another, which must not be taken for it."""
    if len(data) < 4:
        raise Wrong("it is short")
    if b"!" in data and b"?" in data[data.index(b"!") :]:
        raise Wrong("the result is another one")
    return "read"


def argument_fault(data: bytes, folder: Path) -> str:
    """A planted crash of one argument with one value."""
    words = json.loads(data)
    if "--seed" in words and words[words.index("--seed") + 1] == "-1":
        os.kill(os.getpid(), 11)
    return "ran"


def test_bytes_are_removed_and_zeroed():
    data = bytes(range(200)) + b"!" + bytes(range(100, 200)) + b"?" + bytes(range(200))
    small = shrink(Target("planted", lambda rng: data, bytes_fault), data, "Wrong: the result is another one")
    assert len(small) == 4 and small.strip(b"\0") in (b"!?", b"!\0?", b"!\0\0?")


def test_arguments_are_dropped():
    data = json.dumps(["generate", "--prompt", "hi" * 50, "--seed", "-1", "--json", {"a": [1, 2, {"b": 3}]}]).encode()
    small = shrink(Target("planted", lambda rng: data, argument_fault), data, "SIGSEGV")
    assert json.loads(small) == ["--seed", "-1"]


def test_making_smaller_has_a_limit_of_time(monkeypatch):
    """By a clock that goes on a second whenever it is read."""
    data, seconds, tried = b"!?" * 5000, itertools.count(), []
    monkeypatch.setattr(shrinking, "time", SimpleNamespace(monotonic=lambda: next(seconds)))
    monkeypatch.setattr(shrinking, "run", lambda *args: tried.append(args) or run(*args))
    small = shrink(Target("planted", lambda rng: data, bytes_fault), data, "Wrong: the result is another one", 15)
    assert 5 < len(tried) < 15 and b"!?" in small and 2 < len(small) < len(data)


def test_a_report_has_the_smaller_input(tmp_path, monkeypatch, capsys):
    target = Target("value", lambda rng: b"....!...?..." + rng.randbytes(2), bytes_fault)
    monkeypatch.setitem(TARGETS, "value", target)
    monkeypatch.setattr(sys, "argv", ["fuzz", "value", "--count", "20", "--record", str(tmp_path / "record.json")])
    assert main() == 1
    assert "made smaller, 4 bytes: b'" in capsys.readouterr().out
    (found,) = json.loads((tmp_path / "record.json").read_text())["targets"]["value"]["faults"].values()
    assert found["count"] == 20 and len(base64.b64decode(found["smallest"])) == 4
