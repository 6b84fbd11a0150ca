"""Build the chapters: `python -m tutorial.build` writes them to tutorial/built/, with code and exercises in place.

A line `{{ tiny/rope.py:rope }}` becomes the source of that function as it stands, `{{ tiny/rope.py:rope#2 }}` its step
(2), both headed by their place; `{{ exercise 3.1 }}` becomes the exercise. With `--check` nothing is written: the exit
status is 1 if a reference leads nowhere.
"""

import argparse
import re
import sys
from pathlib import Path

from tutorial.make_coursework import load_exercises
from tutorial.source import ROOT, source_of

FOLDER = ROOT / "tutorial"
BUILT = FOLDER / "built"
INCLUDE = re.compile(r"^\{\{ (.*) \}\}$", re.M)
LINK = re.compile(r"\]\(([^)\s]+)\)")


def chapters() -> list[Path]:
    """The sources of the chapters, in order."""
    return sorted(FOLDER.glob("[0-9][0-9]_*.md"))


def build(text: str) -> str:
    """A chapter as it is read. Raises ValueError for a reference that leads nowhere."""
    return INCLUDE.sub(lambda match: include(match[1]), relink(text))


def include(reference: str) -> str:
    """What stands in the place of one reference."""
    if reference.startswith("exercise "):
        return exercise(reference.removeprefix("exercise "))
    source = source_of(reference)
    return f"[{source.place}](../../{source.path}#L{source.first})\n\n```python\n{source.text}\n```"


def exercise(number: str) -> str:
    """One exercise: what to write, where, for how many points, and how to test it."""
    known = {entry.id: entry for entry in load_exercises()}
    if number not in known:
        raise ValueError(f"There is no exercise {number}. Those of exercises.toml are {', '.join(known)}.")
    entry = known[number]
    first, last = entry.steps[0], entry.steps[-1]
    named = {0: f"step ({first})", 1: f"steps ({first}) and ({last})"}
    steps = named.get(last - first, f"steps ({first}) to ({last})")
    return (f"**Exercise {number}: {entry.title}** ({entry.points} points). `make student` writes the folder "
            f"`student/` once. In `student/{entry.file}`, put your {steps} of `{entry.name}` in the place of the "
            f"`NotImplementedError`, and test with\n\n```\n"
            f".venv/bin/python -m pytest --impl student --exercise {number}\n```")


def relink(text: str) -> str:
    """The same text one folder deeper: links to files go up once more, those to other chapters stay."""
    def deeper(match: re.Match) -> str:
        target = match[1]
        stays = re.match(r"https?:|#|mailto:|\d\d_\w+\.md", target)
        return match[0] if stays else f"](../{target})"

    return LINK.sub(deeper, text)


def main(argv: list[str] | None = None) -> int:
    """Build all chapters; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tutorial.build", description="Build the chapters of the tutorial.")
    parser.add_argument("--check", action="store_true", help="write nothing; 1 if a reference leads nowhere")
    args = parser.parse_args(argv)
    status = 0
    for path in chapters():
        try:
            text = build(path.read_text(encoding="utf-8"))
        except ValueError as error:
            print(f"{path.name}: {error}", file=sys.stderr)
            status = 1
            continue
        if not args.check:
            BUILT.mkdir(exist_ok=True)
            (BUILT / path.name).write_text(text, encoding="utf-8")
            print(f"{(BUILT / path.name).relative_to(ROOT)}: {len(text.split()):,} words with code")
    return status


if __name__ == "__main__":
    sys.exit(main())
