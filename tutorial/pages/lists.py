"""The lists of chapters, exercises and notebooks, from what is there: tutorial/README.md and notebooks/README.md.

    python -m tutorial.pages.lists            write them
    python -m tutorial.pages.lists --check    exit with 1 if they are not up to date
"""

import re
from collections.abc import Sequence
from pathlib import Path

from tiny.tools.markdown import refresh_parts
from tiny.tools.terminal import Parser, program
from tutorial.make_coursework import load_exercises
from tutorial.pages.chapters import chapters
from tutorial.source import ROOT

COMMAND = "python -m tutorial.pages.lists"
NAMES = {"mixtral": "Mixtral", "pixtral": "Pixtral"}


def listed(words: Sequence[str]) -> str:
    """Words as a sentence has them: a, b and c."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def title(path: Path, mark: str) -> str:
    """What a page is called: the subject in its file name, and its heading, which says more; or the heading alone."""
    text = path.read_text(encoding="utf-8")
    heading = re.sub(r"^\d+\. ", "", re.search(rf"^{mark}(.+)$", text, re.M)[1])  # type: ignore[index]
    words = path.stem.split("_")[1:]
    if set(words) <= set(re.findall(r"[a-z]+", heading.lower())):
        return heading
    subject = " ".join(NAMES.get(word, word) for word in words)
    first = re.findall(r"\w+", heading)[0]
    rest = heading[0].lower() + heading[1:] if first[1:].islower() and first not in NAMES.values() else heading
    return f"{subject[0].upper()}{subject[1:]}: {rest}"


def chapter_list() -> str:
    """A line for each chapter, with its exercises; one that is still to come has a line, too."""
    known = load_exercises()
    lines: list[str] = []
    for path in chapters():
        while len(lines) < int(path.name[:2]):
            lines.append(f"* {len(lines)} is not written yet")
        ids = [exercise.id for exercise in known if exercise.chapter == path.name]
        tasks = f", with exercise{'s' * (len(ids) > 1)} {listed(ids)}" if ids else ""
        lines.append(f"* {len(lines)} [{title(path, '# ')}]({path.name}){tasks}")
    return "\n".join(lines)


def notebook_list() -> str:
    """A line for each notebook."""
    scripts = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.py"))
    return "\n".join(f"* {path.name[:2]} [{title(path, '# # ')}]({path.stem}.ipynb)" for path in scripts)


PAGES = {"tutorial/README.md": {"chapters": chapter_list}, "notebooks/README.md": {"notebooks": notebook_list}}


def main(argv: list[str] | None = None) -> int:
    """Write or check the lists; return the exit status."""
    parser = Parser(prog=COMMAND, description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; 1 if something would change")
    pages = {ROOT / name: blocks for name, blocks in PAGES.items()}
    return refresh_parts(pages, ROOT, parser.parse_args(argv).check, COMMAND)


if __name__ == "__main__":
    program(main)
