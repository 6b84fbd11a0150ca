"""The chapters' code and exercises, put in place from the sources.

    python -m tutorial.pages.chapters            write them into tutorial/0*.md
    python -m tutorial.pages.chapters --check    exit with 1 if they are not up to date

Between `<!-- begin tiny/rope.py:rope -->` and `<!-- end tiny/rope.py:rope -->` stands the source of that function,
with `#2` behind the name its step (2), both below a link to their place. `exercise 4.2` in a marker is the exercise.
"""

import re
import textwrap
from pathlib import Path

from tiny.config import TinyError
from tiny.tools.markdown import refresh
from tiny.tools.terminal import Parser, program
from tutorial.make_coursework import load_exercises, named_steps
from tutorial.source import ROOT, source_of

FOLDER = ROOT / "tutorial"
PART = re.compile(r"^<!-- begin (.*) -->\n.*?^<!-- end \1 -->$", re.M | re.S)
COMMAND = "python -m tutorial.pages.chapters"


def chapters() -> list[Path]:
    """The chapters, in order."""
    return sorted(FOLDER.glob("[0-9][0-9]_*.md"))


def build(text: str) -> str:
    """A chapter with every part as it should be.

    Raises:  ValueError for a reference that leads nowhere, or a marker without its partner
    """
    markers = re.findall(r"^.*<!-- (?:begin|end) .*$", text, re.M)
    if len(markers) != 2 * len(PART.findall(text)):
        raise ValueError(f"These markers must come in pairs, each alone on its line: {', '.join(markers)}.")
    return PART.sub(lambda part: f"<!-- begin {part[1]} -->\n{include(part[1])}\n<!-- end {part[1]} -->", text)


def by_hand(text: str) -> str:
    """A chapter without its generated parts."""
    return PART.sub("", text)


def include(reference: str) -> str:
    """What stands between two markers."""
    if reference.startswith("exercise "):
        return exercise(reference.removeprefix("exercise "))
    source = source_of(reference)
    language = "cpp" if source.path.endswith((".cu", ".cuh")) else "python"
    return f"[{source.place}](../{source.path}#L{source.first})\n\n```{language}\n{source.text}\n```"


def exercise(number: str) -> str:
    """One exercise: what to write, where, for how many points, and how to test it."""
    known = {entry.id: entry for entry in load_exercises()}
    if number not in known:
        raise ValueError(f"There is no exercise {number}. Those of exercises.toml are {', '.join(known)}.")
    entry = known[number]
    text = (f"**Exercise {number}: {entry.title}** ({entry.points} points). In `student/{entry.file}`, which `make "
            f"student` writes, put your {named_steps(entry)} of `{entry.name}` in the "
            f"place of the `{'#error' if entry.is_kernel else 'NotImplementedError'}`, and try it:")
    where = f"from student.{entry.file.removesuffix('.py')} import {entry.name.partition('.')[0]}"
    yours = "" if entry.is_kernel else f"\n\nYours in Python, started in this folder: `{where}`."
    return (f"{textwrap.fill(text, 120, break_on_hyphens=False, break_long_words=False)}\n\n```\n"
            f"make try EX={number}\n```{yours}")


def main(argv: list[str] | None = None) -> int:
    """Write or check all chapters; return the exit status."""
    parser = Parser(prog=COMMAND, description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; 1 if something would change")
    check, status = parser.parse_args(argv).check, 0
    for path in chapters():
        try:
            text = build(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise TinyError(f"{path.name}: {error}", "Mend the marker, or the reference in it.") from error
        status = max(status, refresh(path, text, check, COMMAND))
    return status


if __name__ == "__main__":
    program(main)
