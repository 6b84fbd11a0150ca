"""The tests with the oldest and with the newest packages that requirements.txt allows.

    python -m tutorial.pages.versions_record [FOLDER ...]     test and write records/versions.json, for evidence.md

Each runs in its own environment, which is removed afterwards; pip fetches the packages. Without folders the tests
of the book, of its files and of what is between them and the machine run: most of the packages are used there.
"""

import json
import re
import subprocess
import sys
import tempfile
import time
import venv
import xml.etree.ElementTree
from pathlib import Path

from tiny.tools.machine import cpu_name
from tiny.tools.terminal import Parser, program
from tutorial.pages.measure import ROOT
from tutorial.pages.records import keep

TESTS = ["tests/book", "tests/files", "tests/system"]


def requirements(oldest: bool) -> dict[str, str]:
    """What to install, by the name of the package: as in requirements.txt, or its lower limits exactly."""
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    wanted = [line.partition("#")[0].strip() for line in lines]
    found = {re.split(r"[<>=]", line)[0]: line for line in wanted if line}
    return {name: re.sub(r">=([\d.]+).*", r"==\1", line) if oldest else line for name, line in found.items()}


def test_with(packages: dict[str, str], tests: list[str]) -> dict:
    """Install the packages into a new environment and run the tests there; return what the record keeps."""
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        python, report = str(Path(folder) / "bin/python"), Path(folder) / "report.xml"
        pip = [python, "-m", "pip", "--disable-pip-version-check"]
        subprocess.run([*pip, "install", "--quiet", *packages.values()], check=True)
        subprocess.run([python, "-m", "pytest", "-p", "no:cacheprovider", "-m", "not verify and not slow",
                        f"--junitxml={report}", *tests], cwd=ROOT)
        listed = json.loads(subprocess.run([*pip, "list", "--format=json"], check=True, capture_output=True).stdout)
        return {"date": time.strftime("%Y-%m-%d"), "machine": cpu_name(), "python": sys.version.split()[0],
                "versions": versions_of(listed, packages), "tests": tests, **counts(report)}


def versions_of(listed: list[dict[str, str]], packages: dict[str, str]) -> dict[str, str]:
    """The versions of some packages, from pip's list, which may spell a name with another dash."""
    found = {entry["name"].lower().replace("-", "_"): entry["version"] for entry in listed}
    return {name: found[name.lower().replace("-", "_")] for name in packages}


def counts(report: Path) -> dict[str, int]:
    """How many tests of a JUnit report passed, were skipped and failed."""
    suite = xml.etree.ElementTree.parse(report).getroot().find("testsuite")
    assert suite is not None, f"{report} holds no test suite"
    total, skipped, failures, errors = (int(suite.get(name, 0)) for name in ("tests", "skipped", "failures", "errors"))
    return {"passed": total - skipped - failures - errors, "skipped": skipped, "failed": failures + errors}


def main() -> int:
    """Test with both, keep the record, and return 1 if a test failed."""
    parser = Parser(prog="python -m tutorial.pages.versions_record", description=main.__doc__)
    parser.add_argument("tests", nargs="*", metavar="FOLDER", help=f"default: {' '.join(TESTS)}")
    tests = parser.parse_args().tests
    entry = {name: test_with(requirements(name == "oldest"), tests or TESTS) for name in ("oldest", "newest")}
    keep("versions.json", entry)
    return int(any(run["failed"] for run in entry.values()))


if __name__ == "__main__":
    program(main)
