"""The book measured: its modules in reading order, what each says of itself, and its lines of code."""

import ast
import io
import re
import tokenize
from pathlib import Path

import tiny

ROOT = Path(__file__).parents[2]
SILENT = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENCODING,
          tokenize.ENDMARKER}


def parts() -> list[list[str]]:
    """The modules of the book in reading order, in its four parts, as the docstring of `tiny` lists them."""
    listed = re.search(r"in reading order: ([\w,;\s]+)\.", tiny.__doc__ or "")
    return [re.findall(r"\w+", part) for part in listed[1].split(";")] if listed else []


def reading_order() -> list[str]:
    """The modules of the book in reading order."""
    return [name for part in parts() for name in part]


def starred() -> list[str]:
    """The six modules to read with one hour."""
    listed = re.search(r"With one hour, read ([\w,\s]+)\.", tiny.__doc__ or "")
    return [name for name in re.findall(r"\w+", listed[1]) if name != "and"] if listed else []


def appendix() -> list[str]:
    """The modules of the book's appendix, `tiny/files/`, in reading order, as the docstring of `tiny` lists them."""
    listed = re.search(r"appendix is the folder `files/`: ([\w,\s]+)\.", tiny.__doc__ or "")
    return re.findall(r"\w+", listed[1]) if listed else []


def system() -> list[str]:
    """The modules of `tiny/system/`, below the appendix, in reading order, as the docstring of `tiny` lists them."""
    listed = re.search(r"what lies below is in `system/`: ([\w,\s]+)\.", tiny.__doc__ or "")
    return re.findall(r"\w+", listed[1]) if listed else []


def book() -> list[Path]:
    """The files of the book: the flat modules of `tiny` in reading order, its front page, and its appendix."""
    names = *reading_order(), "__init__", *(f"files/{name}" for name in ("__init__", *appendix()))
    return [ROOT / f"tiny/{name}.py" for name in names]


def first_sentence(path: Path) -> str:
    """The first sentence of a module's docstring, in one line."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return re.split(r"(?<=[.:])\s*\n\n|(?<=\.)\s", text + "\n\n")[0].replace("\n", " ").strip()


def code_lines(source: str) -> set[int]:
    """Numbers of the lines that hold code: not blank, not a comment, not part of a docstring."""
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in SILENT:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            lines.difference_update(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    return lines


def function_lengths(path: Path) -> dict[str, int]:
    """The lines of code of every function and method of a file, by qualified name."""
    source = path.read_text(encoding="utf-8")
    lines, lengths = code_lines(source), {}

    def visit(node: ast.AST, prefix: str) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef):
                lengths[prefix + child.name] = len(lines & set(range(child.lineno, (child.end_lineno or 0) + 1)))
            name = getattr(child, "name", None)
            visit(child, f"{prefix}{name}." if isinstance(name, str) else prefix)

    visit(ast.parse(source), "")
    return lengths


def lines_of(path: Path) -> int:
    """The lines of code of a file."""
    return len(code_lines(path.read_text(encoding="utf-8")))


def module_of(path: Path) -> str:
    """The dotted name of a file of this repository."""
    return path.relative_to(ROOT).as_posix().removesuffix(".py").removesuffix("/__init__").replace("/", ".")
