"""Pages: what is generated is not stale, links lead somewhere, and the commands of the README work."""

import importlib
import inspect
import re

import pytest
from oracles import ROOT

import tiny
from tests.mutants.model import MUTANTS
from tiny.tools import markdown
from tutorial.pages import __main__ as pages
from tutorial.pages import readme

PAGES = sorted(path for path in ROOT.rglob("*.md") if not {".venv", "runs", "student"} & set(path.parts))


def test_every_generated_page_is_up_to_date():
    assert pages.main(["--check"]) == 0, "run make pages"


def test_pages_are_readable_where_people_meet_them():
    """A chapter or page is read on GitHub as it is stored: nothing in it waits to be replaced."""
    for path in PAGES:
        assert not re.search(r"\{\{.*\}\}", path.read_text(encoding="utf-8")), path


def test_mutants_are_counted_right():
    names = [f"tests.mutants.{path.stem}" for path in (ROOT / "tests/mutants").glob("*.py")]
    lists = [value for name in names for key, value in vars(importlib.import_module(name)).items()
             if key.isupper() and isinstance(value, dict)]
    assert readme.count_mutants() == sum(map(len, lists)) >= len(MUTANTS) + 12


def test_records_of_test_runs(tmp_path, monkeypatch):
    """Counts, reasons of skips, and recorded properties come out of pytest's report as they went in."""
    report = tmp_path / "report.xml"
    report.write_text("""<testsuites><testsuite tests="5" skipped="2" failures="1" errors="0" time="1.25"
        timestamp="2026-01-02T03:04:05"><testcase><skipped message="No file." /></testcase>
        <testcase><skipped message="No file." /></testcase><testcase><properties>
        <property name="version torch" value="2.0" /><property name="largest error" value="1e-5" /></properties>
        </testcase></testsuite></testsuites>""", encoding="utf-8")
    monkeypatch.setattr(readme, "RECORDS", tmp_path)
    readme.record_tests(report)
    assert readme.record("tests.json") == {"date": "2026-01-02", "passed": 2, "skipped": 2, "failed": 1,
                                           "seconds": 1.2, "skips": {"No file.": 2}}
    assert "2 passed, 2 skipped, 1 failed in 1 s (2026-01-02). Skipped: 2 × \"No file.\"" in readme.counts_block()
    readme.record_verify(report)
    block = readme.verify_block()
    assert block.startswith("2026-01-02") and "torch 2.0" in block and "| largest error | 1e-5 |" in block


def test_blocks_of_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(readme, "RECORDS", tmp_path)
    monkeypatch.setattr(readme, "CARD", tmp_path / "card.json")
    assert "ot measured yet" in readme.bench_block() and "being trained" in readme.model_block()
    row = {"what": "prefill of 512 tokens", "value": 123.4, "unit": "tokens/s", "note": "median of 5"}
    readme.keep("bench.json", {"date": "2026-01-02", "machine": "M", "kernel": "K", "versions": {"numpy": "2.4"},
                               "threads": {"2": {"rows": [row]}, "1": {"rows": [row | {"value": 1234567}]}}})
    block = readme.bench_block()
    assert block.startswith("2026-01-02; M; K; numpy 2.4.\n\n1 thread:") and "2 threads:" in block
    assert "| prefill of 512 tokens | 1,234,567 tokens/s | median of 5 |" in block and "| 123 tokens/s |" in block
    with pytest.raises(tiny.TinyError, match="has 0 parts MAP"):
        markdown.fill("no parts", readme.BLOCKS)


def test_the_readme_is_short():
    """What is written by hand, that is."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(re.sub(r"<!-- begin (\w+) -->.*?<!-- end \1 -->", "", text, flags=re.S).splitlines()) < 150


def test_links():
    for path in PAGES:
        for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8")):
            if not re.match(r"https?:|#|mailto:", target):
                assert (path.parent / target.partition("#")[0]).exists(), f"{path.name} links to {target}"


def test_commands_of_the_readme():
    """Every `make` target and every command that the README names is there."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    assert {"demo", "test", "train"} <= set(re.findall(r"(?:^|`)make ([a-z-]+)", text, re.M)) <= targets
    commands = set(re.findall(r"-m tiny (\w+)", text))
    assert {"chat", "memory", "generate"} <= commands and all(map(readme.is_command, commands))


def test_the_code_of_the_readme_runs():
    block = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.S)[1]
    names = {}
    exec(inspect.cleandoc(block).replace("tiny-mixtral", str(ROOT / "tests/golden/mixtral-a/mistral")), names)
    assert names["logits"].shape[1] == names["model"].config.vocab_size and "layer00" in names["trace"]


def test_tolerances_of_the_readme_are_those_of_the_tests():
    """Every number in the tolerance column of the evidence table stands in tolerances.py or in the row's test file."""
    rows = re.findall(r"^\| (.*) \|$", (ROOT / "README.md").read_text(encoding="utf-8"), re.M)
    rows = [row.split(" | ") for row in rows]
    first = next(n for n, row in enumerate(rows) if row[0] == "claim")
    checked = 0
    for row in rows[first + 2:]:
        if len(row) != len(rows[first]):
            break
        files = [ROOT / target for target in re.findall(r"\]\(([^)]+)\)", row[-1])]
        text = "".join(path.read_text(encoding="utf-8") for path in [*files, ROOT / "tests/helpers/tolerances.py"])
        assert files, f"{row[0]}: no test file"
        for number in re.findall(r"\d[\d.]*e-\d+", row[3]):
            assert re.search(rf"(?<![\d.]){re.escape(number)}\b", text), f"{row[0]}: {number} is not in {files}"
            checked += 1
    assert checked >= 5
