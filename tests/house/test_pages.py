"""Pages: what is generated is not stale, links lead somewhere, and the README keeps what it promises."""

import doctest
import json
import os
import re
import shlex
import shutil
import subprocess
import sys

import pytest
from oracles import ROOT
from packaging.requirements import Requirement

from tutorial.pages import __main__ as pages
from tutorial.pages import measure, records
from tutorial.source import source_of

README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = sorted(path for path in ROOT.rglob("*.md")
               if not {".venv", "runs", "student", ".pytest_cache"} & set(path.relative_to(ROOT).parts))
# The folders that people browse; those of the book and of the kernels hold more than an order of reading.
FOLDERS = ("kernels/cases", "kernels/device", "kernels/emulator", "kernels/gpu", "kernels/predict", "kernels/ptx",
           "notebooks", "tests", "tests/golden",
           "tiny/checkpoints", "tiny/evals", "tiny/files", "tiny/parallel", "tiny/serve", "tiny/system",
           "tiny/tools", "tiny/training",
           "tutorial", "tutorial/drawings", "tutorial/own_run", "tutorial/pack", "tutorial/pages", "tutorial/reference",
           "tutorial/site")
# What a checkpoint of the release stands for when a command of the README is run.
RELEASED = ROOT / "tests/golden/mixtral-a/mistral"


def commands():
    """Every command of the README, without its comment."""
    lines = "\n".join(re.findall(r"```sh\n(.*?)```", README, re.S)).splitlines()
    return [line.partition("#")[0].strip() for line in lines if line.strip()]


def recipe(target):
    """What the Makefile runs for a target."""
    text = (ROOT / "Makefile").read_text(encoding="utf-8").replace("$(PY)", ".venv/bin/python")
    return re.search(rf"^{target}:.*\n\t(.*)$", text, re.M)[1]


def requirements(name):
    """The packages that a file lists."""
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    return [Requirement(line) for line in (line.partition("#")[0].strip() for line in lines) if line]


def test_every_target_of_the_makefile_can_be_made():
    """What a target needs is a file here, or has a rule of its own."""
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    rules = dict(re.findall(r"^([\w./-]+):(?!=)([^#\n]*)", text, re.M))
    needed = {name for names in rules.values() for name in names.split()}
    assert len(needed) > 5 and {name for name in needed if name not in rules and not (ROOT / name).exists()} == set()


# ---- generated pages

def test_every_generated_page_is_up_to_date():
    assert pages.main(["--check"]) == 0, "run make pages"


def test_pages_are_readable_where_people_meet_them():
    """A chapter or page is read on GitHub as it is stored: nothing in it waits to be replaced."""
    for path in PAGES:
        assert not re.search(r"\{\{.*\}\}", path.read_text(encoding="utf-8")), path


def test_the_map_has_every_module_once_in_tables_of_ten_rows():
    text = (ROOT / "tiny/README.md").read_text(encoding="utf-8")
    numbers = [int(n) for n in re.findall(r"^\| (\d+)\*? \|", text, re.M)]
    assert numbers == [*range(1, 1 + len(measure.reading_order()) + len(measure.appendix()))]
    assert len(measure.parts()) == 4 and len(re.findall(r"^\| \d+\* \|", text, re.M)) == len(measure.starred()) == 6


@pytest.mark.parametrize("page", ["README.md", "tiny/README.md"])
def test_tables_of_a_front_page_are_small(page):
    """At most ten rows, no cell above 120 characters; of a link counts what is shown."""
    text = (ROOT / page).read_text(encoding="utf-8")
    for rows in re.findall(r"(?:^\|.*\|\n)+", text, re.M):
        assert len(rows.splitlines()) <= 12, rows
        for cell in re.sub(r"\]\([^)]*\)", "]", rows).replace("\n", "").split("|"):
            assert len(cell) <= 120, cell


def test_links():
    for path in PAGES:
        for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8")):
            if not re.match(r"https?:|#|mailto:", target):
                assert (path.parent / target.partition("#")[0]).exists(), f"{path.name} links to {target}"


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_folder_says_in_which_order_to_read_it(folder):
    text = (ROOT / folder / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 30 and text.startswith("# ")
    assert len(re.findall(r"\]\([^)]+\)", text)) >= 2 and re.search(r"\b(?:[Rr]ead|[Ss]tart)\b", text)


def test_every_browsed_folder_is_listed():
    folders = {path.parent for top in ("tiny", "kernels", "tutorial") for path in ROOT.glob(f"{top}/*/*.py")}
    named = {ROOT / folder for folder in FOLDERS} | {ROOT / "tutorial/grader"}  # TEACHERS.md is its page
    assert folders - named == set()
    assert all((ROOT / folder / "README.md").exists() for folder in ("tiny", "kernels"))


# ---- what developers run

def test_make_help_says_what_every_target_does():
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    phony = set(re.search(r"^\.PHONY: (.*)$", text, re.M)[1].split())
    explained = set(re.findall(r"^([a-z-]+):.*## \w", text, re.M))
    assert phony == explained and {"demo", "test", "check", "pages", "help"} <= phony
    shown = subprocess.run(["make", "-s", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert {line.split()[0] for line in shown.splitlines()} == phony


def test_commands_of_the_pages_exist():
    """Every `make` target that a page names is in the Makefile."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    for path in PAGES:
        named = set(re.findall(r"(?:^|`)make ([a-z-]+)", path.read_text(encoding="utf-8"), re.M))
        assert named <= targets, f"{path.name}: {named - targets}"


def test_the_public_workflow_runs_the_one_script():
    (workflow,) = (ROOT / ".github/workflows").glob("*.yml")
    assert re.findall(r"- run: (.*)", workflow.read_text(encoding="utf-8")) == [".ci/run"]
    forms = {path.stem: path.read_text(encoding="utf-8") for path in (ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml")}
    assert set(forms) == {"bug", "numbers"} and all("python -m tiny --version" in form for form in forms.values())
    assert "verify check DIR OUT.npz --json" in forms["numbers"]


# ---- the README

def test_the_readme_is_one_page():
    assert len(README.splitlines()) <= 130 and len(README.encode()) <= 8 << 10
    assert README.count("![") == 1 and README.index("![") < README.index("```")
    assert not re.search(r"\b\d+ (?:tests?|seconds?|minutes?|s)\b", README)


def test_the_readme_shows_the_router_as_it_is():
    """Its signature and its three steps, word for word, without the docstring and the guard."""
    shown = re.search(r"```python\n(def route.*?)\n```", README, re.S)[1].splitlines()
    lines = source_of("tiny/router.py:route").text.splitlines()
    first = next(n for n, line in enumerate(lines) if "# (1)" in line)
    assert shown[:2] == lines[:2] and shown[2:] == lines[first:] and len(shown) <= 12


@pytest.mark.parametrize("command", commands())
def test_the_commands_of_the_readme_run(command, tmp_path):
    if command == "make demo":
        assert recipe("demo") == ".venv/bin/python -m tiny demo"  # tests/tools/test_demo.py runs it
        return
    if command == "make test":
        assert recipe("test") == ".venv/bin/python -m pytest $(PARALLEL)"  # which is what runs here
        return
    if command.startswith("make "):
        command = f"{recipe(command.removeprefix('make '))} --folder {tmp_path}"
    words = shlex.split(command.replace("DIR", str(RELEASED)))
    if "kernels.emulator" in words and not shutil.which("g++"):
        pytest.skip("The emulator needs g++, which is not installed.")
    assert words[0] == ".venv/bin/python"
    done = subprocess.run([sys.executable, *words[1:]], cwd=ROOT, capture_output=True, text=True, timeout=120,
                          env=os.environ | {"PYTHONPATH": str(ROOT)})
    if "kernels.emulator" in words:
        assert done.returncode == 1 and "out-of-bounds" in done.stdout + done.stderr
    else:
        assert done.returncode == 0, done.stderr
    if "verify" in words:
        assert "SAME" in done.stdout


def test_the_python_of_the_readme_prints_what_it_says():
    block = re.search(r"```python\n(>>> .*?)```", README, re.S)[1]
    said = []
    result = doctest.DocTestRunner(verbose=False).run(
        doctest.DocTestParser().get_doctest(block, {}, "README", "README.md", 0), out=said.append)
    assert result.attempted == 4 and result.failed == 0, "".join(said)


@pytest.mark.parametrize(("page", "numbers"), [("README.md", 8), ("tutorial/reference/evidence.md", 15)])
def test_errors_and_tolerances_of_a_page_are_those_of_the_tests(page, numbers):
    """Every number in a table of evidence is in tolerances.py, in a test file of its row, or in a record of kernels."""
    path, checked = ROOT / page, 0
    rows = re.findall(r"^\| .*\]\(.*test_\w+\.py\).*\|$", path.read_text(encoding="utf-8"), re.M)
    kernels = json.loads((records.RECORDS / "emulator.json").read_text(encoding="utf-8"))["rows"]
    worst = max(row["errors"].get("float32", 0) for row in kernels)
    for row in rows:
        files = [path.parent / target for target in re.findall(r"\]\(([^)]+\.py)\)", row)]
        text = "".join(file.read_text(encoding="utf-8") for file in [*files, ROOT / "tests/helpers/tolerances.py"])
        if "test_kernel" in row:
            text += f" {worst:.1e} " + (ROOT / "kernels/cases/__init__.py").read_text(encoding="utf-8")
        for number in re.findall(r"\d[\d.]*e-\d+", row):
            known = {float(n) for n in re.findall(r"\d[\d.]*e-\d+", text)}
            assert float(number) in known, f"{row}: {number} is in no test"
            checked += 1
    assert len(rows) >= 5 and checked >= numbers


def test_the_layout_of_the_readme_has_every_folder():
    layout = README[README.index("## Layout"): README.index("## Contributing")]
    folders = {path.name for path in ROOT.iterdir() if path.name[0] != "." and list(path.glob("*.md"))}
    assert set(re.findall(r"^\* \[(\w+)\]", layout, re.M)) == folders - {"runs", "student"}


def test_binder_and_colab_get_one_version_of_each_package():
    """Every package of requirements.txt but those of the tests, pinned to a version that it allows."""
    allowed = {need.name: need for need in requirements("requirements.txt")}
    pinned = {need.name: need for need in requirements("binder/requirements.txt")}
    assert pinned.keys() == {name for name in allowed if not name.startswith("pytest")}
    for name, need in pinned.items():
        (version,) = need.specifier
        assert version.operator == "==" and version.version in allowed[name].specifier, need
    assert (ROOT / "binder/runtime.txt").read_text(encoding="utf-8") == "python-3.11\n"
    assert "binder/requirements.txt" in (ROOT / "notebooks/README.md").read_text(encoding="utf-8")
