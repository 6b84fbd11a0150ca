"""Two columns: each operation in NumPy, and the first version of its kernel, aligned by their numbered steps.

    python -m tutorial.pages.side_by_side            write side_by_side.md, from the sources
    python -m tutorial.pages.side_by_side --check    exit with 1 if it is not what the sources say
"""

import ast
import html
import re
import textwrap
from dataclasses import dataclass
from pathlib import Path

from tiny.tools.markdown import refresh
from tiny.tools.terminal import Parser, program

HERE = Path(__file__).parents[2] / "kernels"
PAGE = HERE / "side_by_side.md"
TAG = re.compile(r"^\s*(?:#|//) (\(\d+\) .*)$")
SOURCE = re.compile(r"^// NumPy: (\S+)((?: \w+)+)$", re.M)
INTRODUCTION = """# Side by side

Every operation that runs as a kernel: on the left the NumPy function, which says what is meant, on the right the first
version of its kernel, which does the same loop for loop. Rows are aligned by the numbered steps, which both sides have
word for word. This page is made from the sources by `python -m tutorial.pages.side_by_side`; the later versions,
and what each of them costs and saves, stand in the same `.cu` files.
"""


@dataclass(frozen=True)
class Part:
    """Lines of a source from one numbered step to the next; the lines before the first step have the tag ""."""

    tag: str
    line: int
    text: str


def kernel_files() -> list[Path]:
    """The kernels that stand beside a NumPy function."""
    return [path for path in sorted(HERE.glob("*.cu")) if SOURCE.search(path.read_text(encoding="utf-8"))]


def numpy_functions(path: Path) -> list[tuple[Path, str]]:
    """The file and the names of the NumPy functions that a kernel's first version stands for."""
    named = SOURCE.search(path.read_text(encoding="utf-8"))
    if named is None:
        raise ValueError(f"{path.name} expects a line `// NumPy: FILE FUNCTION ...` near its top.")
    return [(HERE.parent / named[1], name) for name in named[2].split()]


def split(lines: list[str], first: int) -> list[Part]:
    """Cut lines at the numbered steps; first: the number of the first line in its file."""
    starts = [i for i, line in enumerate(lines) if TAG.match(line)]
    cuts = [0, *starts, len(lines)]
    found = []
    for start, stop in zip(cuts, cuts[1:]):
        tag = TAG.match(lines[start]) if start < len(lines) else None
        if start < stop:
            found.append(Part(tag[1] if tag else "", first + start, "\n".join(lines[start:stop])))
    return found


def numpy_parts(path: Path, name: str) -> list[Part]:
    """The parts of a Python function, without its docstring."""
    source = path.read_text(encoding="utf-8")
    node = next(node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef) and node.name == name)
    lines, body = source.splitlines(), node.body[1:] if ast.get_docstring(node) else node.body
    before, first = node.body[0].lineno - 1, min(n for n in range(node.body[0].end_lineno or 0, body[0].lineno)
                                                 if lines[n].strip())
    head = split(lines[node.lineno - 1 : before], node.lineno)
    rest = split(lines[first : node.end_lineno], first + 1)
    if rest and not rest[0].tag:
        return [Part("", head[0].line, head[0].text + "\n" + rest[0].text), *rest[1:]]
    return [*head, *rest]


def kernel_parts(path: Path) -> list[Part]:
    """The parts of all functions of a file that belong to version 1, in the order of the file."""
    lines = path.read_text(encoding="utf-8").splitlines()
    found: list[Part] = []
    for start, line in enumerate(lines):
        head = " ".join(lines[start : start + 3])
        if re.match(r"(?:extern|__device__|template)\b", line) and re.search(r"^[^;{]*?\w+_v1\w*\(", head):
            stop = next(n for n in range(start, len(lines)) if lines[n] == "}") + 1
            found += split(lines[start:stop], start + 1)
    return found


def cell(path: Path, parts: list[Part], language: str) -> str:
    """One cell of the table: where it stands, and its lines."""
    blocks = [f"<sub>{path.relative_to(HERE.parent).as_posix()}:{part.line}</sub>\n<pre lang=\"{language}\">\n"
              f"{html.escape(textwrap.dedent(part.text), quote=False)}\n</pre>" for part in parts]
    return "<td valign=\"top\">\n\n" + "\n".join(blocks) + "\n\n</td>"


def rows(path: Path) -> list[tuple[str, list[tuple[Path, Part]], list[Part]]]:
    """(tag, parts in NumPy, parts in the kernel) in the order of the NumPy functions, the lines before the steps first.

    Raises:  ValueError if a step of the NumPy functions is missing in the kernel, or the other way round
    """
    kernel = kernel_parts(path)
    left = [(file, part) for file, name in numpy_functions(path) for part in numpy_parts(file, name)]
    tags = list(dict.fromkeys(part.tag for _, part in left))
    if set(tags) - {""} != {part.tag for part in kernel} - {""}:
        raise ValueError(f"{path.name}: its version 1 and the NumPy function have other steps: "
                         f"{sorted(set(tags) ^ {part.tag for part in kernel})}")
    return [(tag, [(file, part) for file, part in left if part.tag == tag],
             [part for part in kernel if part.tag == tag]) for tag in tags]


def page() -> str:
    """The page as Markdown."""
    sections = [INTRODUCTION]
    for path in kernel_files():
        sections.append(f"## {path.stem}\n\n<table>\n<tr><th>NumPy</th><th>CUDA, version 1</th></tr>")
        for _, left, right in rows(path):
            numpy_cell = cell(left[0][0], [part for _, part in left], "python")
            sections.append(f"<tr>\n{numpy_cell}\n{cell(path, right, 'cuda')}\n</tr>")
        sections.append("</table>\n")
    return "\n".join(sections)


def main(argv: list[str] | None = None) -> int:
    """Write or check the page; return the exit status."""
    parser = Parser(prog="python -m tutorial.pages.side_by_side", description=__doc__)
    parser.add_argument("--check", action="store_true")
    return refresh(PAGE, page(), parser.parse_args(argv).check, "python -m tutorial.pages.side_by_side")


if __name__ == "__main__":
    program(main)
