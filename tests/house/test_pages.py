"""Pages: what is generated is not stale, links lead somewhere, and the commands of the README work."""

import inspect
import re

from oracles import ROOT

from tutorial.pages import __main__ as pages
from tutorial.pages import readme

PAGES = sorted(path for path in ROOT.rglob("*.md") if not {".venv", "runs", "student"} & set(path.parts))


def test_every_generated_page_is_up_to_date():
    assert pages.main(["--check"]) == 0, "run make pages"


def test_pages_are_readable_where_people_meet_them():
    """A chapter or page is read on GitHub as it is stored: nothing in it waits to be replaced."""
    for path in PAGES:
        assert not re.search(r"\{\{.*\}\}", path.read_text(encoding="utf-8")), path


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
