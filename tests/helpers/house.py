"""What the tests of the house share: which files are the book, the programs and the pages, and how they are read.

The book is the flat modules of `tiny` without its command line, and its appendix `tiny/files/`. Under it lies
`tiny/system/`, which keeps the rules of the book, as `tiny/files/streamed/` does. What is measured here is what the
pages print.
"""

import ast
from functools import cache

from oracles import ROOT

from tutorial.pages import measure

SYSTEM_ORDER = [f"system.{name}" for name in measure.system()]
ORDER = [*measure.reading_order(), *(f"files.{name}" for name in measure.appendix())]
BOOK = {measure.module_of(path).removeprefix("tiny.").replace("tiny", "__init__"): path for path in measure.book()}
SYSTEM = {measure.module_of(path).removeprefix("tiny."): path for path in sorted((ROOT / "tiny/system").glob("*.py"))}
STREAMED = {measure.module_of(path).removeprefix("tiny."): path
            for path in sorted((ROOT / "tiny/files/streamed").glob("*.py"))}
HELD = BOOK | SYSTEM | STREAMED  # what is held to the rules of the book
PROGRAMS = sorted(path for folder in ("tiny", "kernels", "tests", "tutorial/pages", "tutorial/site")
                  for path in (ROOT / folder).rglob("*.py"))
SOURCES = [path for path in (ROOT / "kernels").rglob("*.*") if path.suffix in (".cu", ".cuh", ".cpp", ".h", ".md")]
TEXTS = sorted(path for path in [*ROOT.glob("*.*"), *ROOT.glob("Makefile"), *(ROOT / ".ci").glob("*"), *PROGRAMS,
                                 *SOURCES, *(ROOT / "tests/golden").glob("*.md"), *(ROOT / "tiny").rglob("*.md")]
               if path.is_file() and path.name != ".git")


@cache
def parsed(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def functions(path):
    """Yield (qualified name, node) of the functions and methods that a file offers; names with _ are not offered."""
    def visit(node, prefix):
        for child in node.body:
            if isinstance(child, (ast.FunctionDef, ast.ClassDef)) and not child.name.startswith("_"):
                yield prefix + child.name, child
                if isinstance(child, ast.ClassDef):
                    yield from visit(child, f"{prefix}{child.name}.")
    yield from visit(parsed(path), "")


def calls(path):
    """Yield (dotted name, node) of every call of a file."""
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def place(path, node):
    return f"{path.relative_to(ROOT)}:{node.lineno}"


def imports(tree):
    """Yield the modules that a tree imports: of `tiny`, by full name; of others, the first part."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide where an arrow points"
            names = [f"tiny.{alias.name}" for alias in node.names] if node.module == "tiny" else [node.module]
        else:
            continue
        for name in names:
            parts = name.split(".")
            yield ".".join(parts[: 1 if parts[0] != "tiny" else 3 if parts[1:2] in (["files"], ["system"]) else 2])
