"""The writer of the README's blocks: what it counts, and what it reads from records."""

import pytest

import tiny
from tiny.tools import markdown
from tutorial.pages import readme


def test_lines_of_code_are_counted_right():
    source = '"""Title.\n\nMore."""\n\nimport os  # why\n\n# a remark\ndef f(x):\n    """Say."""\n    return (x,\n\n' \
             '            """a\n\nb""")\n'
    assert readme.code_lines(source) == {5, 8, 10, 12, 13, 14}


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
