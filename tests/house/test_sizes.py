"""The book is short: its files, its functions, all of it, and what is stored beside it."""

import statistics
import subprocess

import pytest
from house import BOOK, HELD, ORDER, SYSTEM, SYSTEM_ORDER
from oracles import ROOT

from tutorial.pages import measure

FILE, FUNCTION, FLAT, APPENDIX, SYSTEM_ROOM = 150, 40, 1317, 652, 764  # lines of code at most
ROOMS = {"tiny/evals": 2146, "tiny/serve": 1026, "tiny/serve/explore": 300, "tiny/tools/explore": 560,
         "tiny/files/packed": 861, "tiny/files/streamed": 213,
         "tiny/parallel": 699}  # lines of code in all
MIB = 1 << 20


def test_the_book_is_the_flat_modules():
    found = {path for folder in ("tiny", "tiny/files") for path in (ROOT / folder).glob("*.py")}
    assert found - {ROOT / "tiny/__main__.py"} == set(BOOK.values())
    assert len(ORDER) == len(set(ORDER)), "the docstring of tiny lists each module once"
    assert sorted(SYSTEM_ORDER) == sorted(SYSTEM.keys() - {"system"}), "and each of tiny/system"


def test_sizes():
    lines = {name: measure.lines_of(path) for name, path in HELD.items()}
    assert {name: n for name, n in lines.items() if n > FILE} == {}, f"a file has at most {FILE} lines of code"
    assert sum(n for name, n in lines.items() if name in BOOK and "." not in name) <= FLAT
    assert sum(n for name, n in lines.items() if name in BOOK and "." in name) <= APPENDIX
    assert sum(n for name, n in lines.items() if name in SYSTEM) <= SYSTEM_ROOM
    lengths = {f"{name}.{function}": n for name, path in HELD.items()
               for function, n in measure.function_lengths(path).items()}
    assert {name: n for name, n in lengths.items() if n > FUNCTION} == {}
    assert statistics.median(lengths.values()) <= 12


@pytest.mark.parametrize(("folder", "most"), ROOMS.items())
def test_sizes_of_other_rooms(folder, most):
    """Evaluation and server are short books of their own."""
    paths = sorted((ROOT / folder).glob("*.py"))
    lines = {path.name: measure.lines_of(path) for path in paths}
    assert sum(lines.values()) <= most and {name: n for name, n in lines.items() if n > FILE} == {}
    lengths = {f"{path.name}: {function}": n for path in paths for function, n in
               measure.function_lengths(path).items()}
    assert {name: n for name, n in lengths.items() if n > FUNCTION} == {}


def test_sizes_of_stored_data():
    folders = [ROOT / name for name in ("tests/golden", "tiny/checkpoints", "tiny/training/corpus")]
    total = sum(path.stat().st_size for folder in folders for path in folder.rglob("*") if path.is_file())
    assert total <= 32 * MIB, f"{total / MIB:.1f} MiB of stored data"


def test_sizes_of_tracked_files():
    if not (ROOT / ".git").exists():
        pytest.skip("This is a copy without its git history, so there is no list of tracked files.")
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    sizes = {name: (ROOT / name).stat().st_size for name in names.split("\0") if name and (ROOT / name).exists()}
    assert sizes and {name: size for name, size in sizes.items() if size > 8 * MIB} == {}
