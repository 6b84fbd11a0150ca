"""The changes that were tried: each computes what was computed before it, and a record keeps what others found."""

import json

import numpy as np
import pytest
from compare import Different, assert_close

from tutorial.pages import records, reference
from tutorial.pages.tried import Change, Sizes, case, products
from tutorial.pages.tried import __main__ as tried

SMALL = Sizes(hidden=48, width=32, copies=2, keys=640, layers=1)
SAME = 4e-6  # of the largest number; 8.5e-7 measured, 2026-11-30


def check(change):
    for found in change.cases(SMALL):
        before, after = np.array(found.before()), np.array(found.after())
        assert_close(after, before, SAME * float(np.abs(before).max()), name=f"{change.what}, {found.label}")


@pytest.mark.parametrize("change", tried.CHANGES, ids=lambda change: change.what)
def test_a_change_computes_the_same(change):
    check(change)


def test_a_change_that_computes_something_else_is_found():
    def cases(sizes):
        yield case("the wrong order", products.linear, lambda x, weight: products.in_pairs(x[:, ::-1], weight),
                   np.ones((3, 32), np.float32) * np.arange(32, dtype=np.float32),
                   products.matrices(8, 32, 1, products.BFLOAT16)[0])

    with pytest.raises(Different):
        check(Change("a mistake", "no", cases))


def test_the_record_is_written_and_shown(tmp_path, monkeypatch, capsys):
    """A child measures; the columns of other machines stay, one of this machine is replaced."""
    change = next(change for change in products.CHANGES if change.what.startswith("few bfloat16 tokens"))
    monkeypatch.setattr(tried, "EXPERT", SMALL)
    monkeypatch.setattr(tried, "CHANGES", [change])
    monkeypatch.setattr("sys.argv", ["tried", "--child", "--rounds=2"])
    tried.main()
    child = json.loads(capsys.readouterr().out)
    assert list(child["gains"]) == [change.what] and child["gains"][change.what]["2 tokens"] > 0

    monkeypatch.setattr(records, "RECORDS", tmp_path)
    monkeypatch.setattr(tried, "machine", lambda: "M, 2 cores")
    monkeypatch.setattr(tried, "run_child", lambda command, threads: child | {
        "kernel": "AVX2" if command[0] == "env" else "AVX512", "other_cores": 0.123})
    monkeypatch.setattr("sys.argv", ["tried"])
    other = {"date": "2026-01-02", "machine": "N", "kernel": "K", "gains": {change.what: "x2"}, "by_hand": True}
    old = other | {"machine": "M, 2 cores", "kernel": "AVX512"}
    records.keep("tried.json", {"columns": [old, other]})
    tried.main()
    columns = records.record("tried.json")["columns"]
    assert columns[-1] == other and old not in columns
    assert columns[0]["kernel"] == "AVX512" and columns[0]["gains"] == child["gains"]
    block = reference.PAGES["speed.md"]["tried"]()
    assert "* 2026-01-02; N; K, read off by hand\n" in block
    row = next(line for line in block.splitlines() if line.startswith(f"| {change.what} |"))
    assert "(2 tokens) |" in row and row.endswith(f"| x2 | {change.kept} |")
