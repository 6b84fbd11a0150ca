"""The writers of generated pages: what they count, and what they read from records."""

import pytest

import tiny
from tiny.tools import markdown
from tutorial.pages import measure, readme, records, reference, security, versions_record


def test_lines_of_code_are_counted_right():
    source = '"""Title.\n\nMore."""\n\nimport os  # why\n\n# a remark\ndef f(x):\n    """Say."""\n    return (x,\n\n' \
             '            """a\n\nb""")\n'
    assert measure.code_lines(source) == {5, 8, 10, 12, 13, 14}


def test_a_page_without_its_part_is_refused():
    with pytest.raises(tiny.TinyError, match="has 0 parts demo"):
        markdown.fill("no parts", readme.PAGES["README.md"])


def test_a_run_against_torch_is_recorded(tmp_path, monkeypatch):
    """Recorded properties come out of pytest's report as they went in; counts of tests are not kept."""
    report = tmp_path / "report.xml"
    report.write_text("""<testsuites><testsuite tests="5" skipped="2" failures="1" errors="0" time="1.25"
        timestamp="2026-01-02T03:04:05"><testcase><properties>
        <property name="version torch" value="2.0" /><property name="largest error" value="1e-5" /></properties>
        </testcase></testsuite></testsuites>""", encoding="utf-8")
    monkeypatch.setattr(records, "RECORDS", tmp_path)
    records.record_verify(report)
    block = reference.PAGES["evidence.md"]["verify"]()
    assert block.startswith("2026-01-02") and "torch 2.0" in block and "| largest error | 1e-5 |" in block
    assert block.count("\n|") == 3


def test_the_page_of_a_benchmark(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "RECORDS", tmp_path)
    bench_block = reference.PAGES["speed.md"]["bench"]
    assert bench_block() == "Not recorded yet: `python -m tiny bench --save` measures it."
    row = {"what": "prefill of 512 tokens", "value": 123.4, "unit": "tokens/s", "note": "median of 5"}
    records.keep("bench.json", {"date": "2026-01-02", "machine": "M", "kernel": "K", "versions": {"numpy": "2.4"},
                                "threads": {"2": {"rows": [row]}, "1": {"rows": [row | {"value": 1234567}]}}})
    block = bench_block()
    assert block.startswith("2026-01-02; M; K; numpy 2.4.\n\n1 thread:") and "2 threads:" in block
    assert "| prefill of 512 tokens | 1,234,567 tokens/s | median of 5 |" in block and "| 123 tokens/s |" in block


def test_lower_limits_are_what_the_oldest_run_installs():
    oldest, newest = versions_record.requirements(True), versions_record.requirements(False)
    assert oldest.keys() == newest.keys() >= {"numpy", "pillow", "sentencepiece"}
    for name, wanted in oldest.items():
        assert newest[name].startswith(wanted.replace("==", ">=")) and "<" not in wanted


def test_a_run_with_other_packages_is_recorded(tmp_path, monkeypatch):
    report = tmp_path / "report.xml"
    report.write_text('<testsuites><testsuite tests="9" skipped="3" failures="1" errors="1" /></testsuites>')
    assert versions_record.counts(report) == {"passed": 4, "skipped": 3, "failed": 2}
    listed = [{"name": "ml-dtypes", "version": "0.5.0"}, {"name": "Pillow", "version": "12.3.0"}]
    versions = versions_record.versions_of(listed, {"pillow": "pillow==12.3", "ml_dtypes": "ml_dtypes==0.5"})
    assert versions == {"pillow": "12.3.0", "ml_dtypes": "0.5.0"}
    monkeypatch.setattr(records, "RECORDS", tmp_path)
    versions_block = reference.PAGES["evidence.md"]["versions"]
    assert "Not recorded yet" in versions_block()
    run = {"date": "2026-01-02", "machine": "M", "python": "3.11", "versions": versions, "tests": ["tests/book"],
           "passed": 1234, "skipped": 3, "failed": 0}
    records.keep("versions.json", {"oldest": run, "newest": run | {"failed": 5}})
    block = versions_block()
    assert "| pillow | 12.3.0 | 12.3.0 |" in block and "| failed | 0 | 5 |" in block and "| passed | 1,234 |" in block


def test_reasons_of_lower_limits_are_shown():
    block = security.versions_block()
    assert "| `pillow>=12.3` | older" in block and "| `sentencepiece>=0.2.3` | " in block
