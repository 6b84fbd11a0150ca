"""The pages and notebooks of a student's archive: what they name is there, and what they show has a hole.

A page loses the folded answers of exercises, and every item or paragraph that sends its reader to a page or a command
that the archive has not. Line numbers are those of the files with holes.
"""

import difflib
import json
import re
from collections.abc import Callable, Mapping
from pathlib import PurePosixPath

from tutorial.make_coursework import Exercise
from tutorial.pack.answers import hole_of
from tutorial.pages.chapters import PART
from tutorial.source import ROOT, source_of

DETAILS = re.compile(r"^<details>.*?^</details>\n\n?", re.M | re.S)
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")
ITEM = re.compile(r"^(?:[*-]|\d+\.) .*\n?(?:^ +\S.*\n?)*", re.M)
PARAGRAPH = re.compile(r"^(?![*#|<>$ -]|\d+\.).+\n(?:^(?![*#|<>$ -]|\d+\.).+\n?)*", re.M)
FENCE = re.compile(r"^ *```.*?^ *```$", re.M | re.S)
COMMAND = re.compile(r"`make ([a-z-]+)")
MODULE = re.compile(r"`python -m ((?:tiny|tutorial|kernels|notebooks|tests)[\w.]*)")
TEST = re.compile(r"\btests/[\w/]+\.\w+")
PLACE = re.compile(r"\b((?:tiny|kernels|tutorial)/[\w/]+\.(?:py|cuh?)):(\d+)\b")
TEST_IT = re.compile(r"^((?:# )?)\* \*\*Test it:\*\* `(\S+ -m pytest) ([^`]*)`\.\n(?:\1  .*\n)*", re.M)

Files = Mapping[str, bytes]


def line_map(old: str, new: str) -> Callable[[int], int]:
    """Where a line of a whole file is in the one with holes; a line that is gone is where its hole begins."""
    matcher = difflib.SequenceMatcher(None, old.splitlines(), new.splitlines(), autojunk=False)
    blocks = [block for block in matcher.get_matching_blocks() if block.size]

    def moved(line: int) -> int:
        block = next((b for b in reversed(blocks) if b.a < line), None)
        return block.b + min(line - block.a, block.size + 1) if block else line
    return moved


class Pages:
    """How pages are rewritten, for these files of the archive and these commands of its Makefile."""

    def __init__(self, exercises: list[Exercise], files: Files, moved: Mapping[str, Callable[[int], int]],
                 commands: tuple[str, ...]):
        self.exercises, self.files, self.moved, self.commands = exercises, files, moved, commands

    def page(self, text: str, name: str) -> str:
        """A page of Markdown as a student gets it."""
        text = PART.sub(self.part, DETAILS.sub(self.block, text))
        return self.placed(self.linked(self.without_dead_ends(text, name), name), name)

    def notebook(self, text: str, name: str) -> str:
        """A notebook whose words lead somewhere, and whose listings have the numbers of their lines."""
        book = json.loads(text)
        for cell in book["cells"]:
            if cell["cell_type"] == "markdown":
                cell["source"] = self.words("".join(cell["source"]), name).splitlines(keepends=True)
            for output in cell.get("outputs", []):
                if "text" in output:
                    output["text"] = self.placed("".join(output["text"]), name).splitlines(keepends=True)
        return json.dumps(book, indent=1, ensure_ascii=False) + "\n"

    def words(self, text: str, name: str) -> str:
        """The text of a notebook's cell; of a script, all of it."""
        lines = TEST_IT.sub(self.tests, text if text.endswith("\n") else f"{text}\n").splitlines(keepends=True)
        text = "".join(lines) if text.endswith("\n") else "".join(lines).removesuffix("\n")
        return self.placed(self.linked(text, name), name)

    def tests(self, match: re.Match) -> str:
        """The item "Test it" with those of its files that are there; nothing if there is none."""
        names = [name for name in match[3].split() if name in self.files]
        return f"{match[1]}* **Test it:** `{match[2]} {' '.join(names)}`.\n" if names else ""

    def shown_exercises(self, reference: str) -> list[Exercise]:
        """The exercises whose answer a part of a page shows."""
        if reference.startswith("exercise ") or ".py:" not in reference and ".cu" not in reference:
            return []
        source = source_of(reference, ROOT)
        holes = [(exercise, hole_of(exercise)) for exercise in self.exercises if exercise.path == source.path]
        return [exercise for exercise, (first, last) in holes if first <= source.last and source.first <= last]

    def block(self, match: re.Match) -> str:
        """A folded part of a page, unless it is an answer."""
        return "" if any(self.shown_exercises(part[1]) for part in PART.finditer(match[0])) else match[0]

    def part(self, match: re.Match) -> str:
        """Code that a page shows; of an exercise, its name."""
        ours = self.shown_exercises(match[1])
        if not ours:
            return match[0]
        named = "exercise " if len(ours) == 1 else "exercises "
        return f"Here the book shows `{ours[0].name}`, {named}{' and '.join(e.id for e in ours)}: yours to write."

    def is_there(self, target: str, page: str) -> bool:
        """Whether a link of a page leads to a file or a folder of the archive, or to somewhere else."""
        path = target.partition("#")[0]
        if not path or re.match(r"[a-z]+:", path):
            return True
        parts: list[str] = []
        for piece in (PurePosixPath(page).parent / path).parts:
            parts = parts[:-1] if piece == ".." else [*parts, piece]
        path = "/".join(parts)
        return path in self.files or any(name.startswith(f"{path}/") for name in self.files)

    def is_dead_end(self, text: str, page: str) -> bool:
        """Whether an item or paragraph names a command, program or test that is not there, or leads to such a page."""
        first = LINK.search(text) if ITEM.match(text) else None
        return bool(first and not self.is_there(first[3], page)) or any(
            name not in self.commands for name in COMMAND.findall(text)) or any(
            not self.is_program(name) for name in MODULE.findall(text)) or any(
            name not in self.files for name in TEST.findall(LINK.sub("", text)))

    def is_program(self, module: str) -> bool:
        """Whether the archive has a module that can be run."""
        path = module.replace(".", "/")
        return f"{path}.py" in self.files or f"{path}/__main__.py" in self.files

    def without_dead_ends(self, text: str, page: str) -> str:
        """A page without items and paragraphs that lead nowhere; code that it shows stays."""
        def kept(match: re.Match) -> str:
            return "" if self.is_dead_end(match[0], page) else match[0]

        parts, end = [], 0
        for fence in [*FENCE.finditer(text), None]:
            words = text[end : fence.start()] if fence else text[end:]
            parts += [PARAGRAPH.sub(kept, ITEM.sub(kept, words)), fence[0] if fence else ""]
            end = fence.end() if fence else end
        return re.sub(r"\n{3,}", "\n\n", "".join(parts)).rstrip() + "\n"

    def linked(self, text: str, page: str) -> str:
        """A text whose links lead somewhere; of others the words stay."""
        return LINK.sub(lambda link: link[0] if self.is_there(link[3], page) else link[2], text)

    def placed(self, text: str, page: str) -> str:
        """A text whose line numbers are those of the files with holes."""
        def number(path: str, line: str) -> int:
            return self.moved[path](int(line)) if path in self.moved else int(line)

        def target(match: re.Match) -> str:
            path = (PurePosixPath(page).parent / match[1]).as_posix()
            while "../" in path:
                path = re.sub(r"(?:^|[^/]+/)\.\./", "", path, count=1)
            return f"]({match[1]}#L{number(path, match[2])})"

        text = re.sub(r"\]\(([^)\s#]+)#L(\d+)\)", target, text)
        return PLACE.sub(lambda place: f"{place[1]}:{number(place[1], place[2])}", text)
