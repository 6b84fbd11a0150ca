"""Every step of every command that writes may fail: what is there afterwards is old and whole, or new and whole."""

import ast
import contextlib
import os
import sys

import pytest
from house import parsed
from oracles import ROOT

from tests.fuzz import faults
from tests.fuzz.engine import Wrong
from tests.fuzz.writers import WRITERS, Writer
from tiny.system import whole
from tiny.system.whole import whole_folder, write_whole

KINDS = tuple(faults.KINDS)
# In every kind and way; of the others `python -m tests.fuzz.faults` does that.
THOROUGH = ("state", "pages", "cubin", "evals run")
STEPS = 4  # of the shortest command, at least
# Commands of many steps, or whose steps take long.
LONG = ("cases", "grader", "records", "verify server", "card of tiny-pixtral", "convert a GGUF file", "convert to hf",
        "quantize", "streams")
HELPERS = ("write_whole", "whole_folder", "write_figure")


@pytest.fixture(autouse=True)
def quiet(capfd):
    """What the commands print."""


@pytest.mark.slow
@pytest.mark.parametrize("name", WRITERS)
def test_each_step_of_a_writing_command_may_fail(name):
    """One step in three, or in ten of a long command, in the four kinds by turns."""
    assert faults.inject(name, KINDS, old=True, named=False, every=10 if name in LONG else 3) >= STEPS


@pytest.mark.parametrize("old, named", [(False, False), pytest.param(True, False, marks=pytest.mark.thorough),
                                        pytest.param(False, True, marks=pytest.mark.thorough), (True, True)])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", THOROUGH)
def test_in_every_kind_and_way(name, kind, old, named):
    assert faults.inject(name, (kind,), old, named) >= STEPS


@pytest.mark.parametrize("named", [False, True])
def test_a_whole_folder(named, monkeypatch):
    """Two files in a folder, as `convert` writes it."""
    def write(out):
        with whole_folder(out / "copy") as part:
            for name in "ab":
                write_whole(part / name, name * 20_000)

    monkeypatch.setitem(faults.WRITERS, "planted", Writer(write, folder=True))
    for kind in KINDS:
        assert faults.inject("planted", (kind,), False, named) > 8


# ---- nothing that writes is left out

def places(path):
    """The functions of a file that call one of the helpers, as file:function; lambdas count as their function."""
    found = set()

    def visit(node, function):
        function = node.name if isinstance(node, ast.FunctionDef) else function
        if isinstance(node, ast.Call) and ast.unparse(node.func) in HELPERS:
            found.add(f"{path.relative_to(ROOT).as_posix()}:{function}")
        for child in ast.iter_child_nodes(node):
            visit(child, function)
    visit(parsed(path), "")
    return found


def test_every_call_of_the_helper_is_under_test(tmp_path):
    """Commands are run, and which functions they write from is what the source says."""
    helpers = {whole.write_whole.__code__, whole.whole_folder.__wrapped__.__code__,
               sys.modules["tiny.tools.plots"].write_figure.__code__}
    called = set()

    def watch(frame, event, argument):
        if event != "call" or frame.f_code not in helpers:
            return
        caller = frame.f_back
        while caller.f_code.co_filename == contextlib.__file__:
            caller = caller.f_back
        called.add(f"{os.path.relpath(caller.f_code.co_filename, ROOT)}:{caller.f_code.co_name}")

    for n, writer in enumerate(WRITERS.values()):
        (tmp_path / str(n)).mkdir()
        sys.setprofile(watch)
        try:
            writer.run(tmp_path / str(n))
        finally:
            sys.setprofile(None)
    wanted = set().union(*(places(path) for folder in ("tiny", "kernels", "tutorial", "notebooks")
                           for path in (ROOT / folder).rglob("*.py")), places(ROOT / "tests/fuzz/__main__.py"))
    assert wanted - called == set(), "tests/fuzz/writers.py has a command for each"
    assert len(wanted) > 30


# ---- what is wrong is seen

def in_place(out):
    (out / "a").write_bytes(b"new" * 5000)


def leaves_a_part(out):
    (out / "a.part").write_bytes(b"new")
    (out / "a.part").rename(out / "a")


def removes_first(out):
    """Between the removal and the new name there is nothing to be seen, which may be; after a failure, too."""
    (out / "a").unlink(missing_ok=True)
    write_whole(out / "a", b"new")
    (out / "a").rename(out / "b")
    (out / "b").rename(out / "a")


def half_a_folder(out):
    (out / "copy").mkdir(exist_ok=True)
    for name in "ab":
        write_whole(out / "copy" / name, b"new")


def says_that_all_is_well(out):
    with contextlib.suppress(OSError):
        write_whole(out / "a", b"new" * 5000)


@pytest.mark.parametrize("write, words, kinds", [
    (in_place, "neither old nor new", KINDS[:1]), (in_place, "neither old nor new", KINDS[3:]),
    (leaves_a_part, "leaves a.part", KINDS[:1]), (removes_first, "neither old nor new", KINDS[3:]),
    (says_that_all_is_well, "ends in status 0", KINDS[:1]), (half_a_folder, "a part of the folder", KINDS[:1]),
    (lambda out: {}["x"], "'x'", KINDS)],
    ids=["in place", "in place, killed", "a part", "another name", "silent", "folder", "error"])
def test_a_command_that_writes_in_another_way_is_seen(write, words, kinds, monkeypatch):
    monkeypatch.setitem(faults.WRITERS, "planted", Writer(write, folder=write is half_a_folder))
    with pytest.raises((Wrong, KeyError), match=words):
        faults.inject("planted", kinds, old=True, named=False)


def test_a_leftover_that_nobody_removes_is_seen(monkeypatch):
    """If the next write removed nothing, what a killed process leaves would stay."""
    monkeypatch.setitem(faults.WRITERS, "planted", Writer(lambda out: write_whole(out / "a", b"new" * 5000)))
    monkeypatch.setattr(whole, "unfinished", lambda path: [])
    with pytest.raises(Wrong, match="the same command again leaves something else"):
        faults.inject("planted", ("SIGKILL",), old=False, named=True)
