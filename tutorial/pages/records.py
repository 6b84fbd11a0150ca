"""The records that pages are made from: measurements as JSON in `records/`, and how a page prints them.

    python -m tutorial.pages.records FILE     record a run of tests/verify, which `pytest --junitxml FILE` wrote;
                                              --clients: of tests/verify/clients; --served: of
                                              tests/verify/engines; --gguf, --quantised: of
                                              tests/verify/test_gguf.py, test_quantised.py
"""

import json
import xml.etree.ElementTree
from collections.abc import Callable
from pathlib import Path

from tiny.config import TinyError
from tiny.system.reading import LARGEST_JSON, check_plain
from tiny.system.whole import write_whole
from tiny.tools.machine import cpu_name
from tiny.tools.markdown import table
from tiny.tools.terminal import Parser, program

RECORDS = Path(__file__).parent / "records"


def record(name: str) -> dict:
    """A recorded measurement, or an empty dict if there is none yet."""
    path = RECORDS / name
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def recorded(name: str, block: Callable[[dict], str], how: str) -> Callable[[], str]:
    """A part of a page that a record fills. While there is no such record, the part says how to make it."""
    def part() -> str:
        entry = record(name)
        return block(entry) if entry else f"Not recorded yet: {how}."

    return part


def keep(name: str, entry: dict) -> None:
    """Write a record."""
    RECORDS.mkdir(exist_ok=True)
    write_whole(RECORDS / name, json.dumps(entry, indent=1) + "\n")


def provenance(entry: dict) -> str:
    """Date, machine and versions of a record in one line."""
    versions = ", ".join(f"{name} {version}" for name, version in entry.get("versions", {}).items())
    return "; ".join(part for part in (entry.get("date"), entry.get("machine"), entry.get("kernel"), versions) if part)


def cell(value) -> str:
    """A value as it stands in a table; numbers with three digits or in full."""
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def rows_table(rows: list[dict]) -> str:
    """A table of rows {"what", "value", "unit", "note"}."""
    return table(["what", "measured", "note"], [
        [row["what"], f"{cell(row['value'])} {row.get('unit', '')}".strip(), row.get("note", "")] for row in rows])


def record_verify(report: Path, name: str = "verify.json") -> None:
    """Keep what the tests of a JUnit report recorded as properties: "version NAME", and results by what they are."""
    suite = xml.etree.ElementTree.parse(report).getroot().find("testsuite")
    assert suite is not None, f"{report} holds no test suite"
    found = {entry.get("name", ""): entry.get("value", "") for entry in suite.iter("property")}
    versions = {name.removeprefix("version "): value for name, value in found.items() if name.startswith("version ")}
    rows = [{"what": name, "value": value} for name, value in found.items() if not name.startswith("version ")]
    keep(name, {"date": suite.get("timestamp", "")[:10], "machine": cpu_name(), "versions": versions,
                "rows": rows})


def main() -> None:
    """Record the run that a file describes."""
    parser = Parser(prog="python -m tutorial.pages.records", description="Record a run of tests/verify.")
    parser.add_argument("file", type=Path, metavar="FILE", help="what pytest --junitxml FILE wrote")
    parser.add_argument("--clients", action="store_const", const="clients", dest="of", help="of tests/verify/clients")
    parser.add_argument("--quantised", action="store_const", const="quantised", dest="of",
                        help="of tests/verify/test_quantised.py")
    parser.add_argument("--served", action="store_const", const="served", dest="of", help="of tests/verify/engines")
    parser.add_argument("--gguf", action="store_const", const="gguf", dest="of", help="of tests/verify/test_gguf.py")
    args = parser.parse_args()
    path = args.file
    check_plain(path, LARGEST_JSON)
    try:
        record_verify(path, f"{args.of or 'verify'}.json")
    except (xml.etree.ElementTree.ParseError, AttributeError, AssertionError):
        raise TinyError(f"{path} is not a JUnit report.", "Write it with pytest --junitxml FILE.") from None


if __name__ == "__main__":
    program(main)
