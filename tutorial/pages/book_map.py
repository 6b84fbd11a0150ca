"""The map of the book, tiny/README.md: its four parts, its appendix, and the folders beside it, in reading order.

    python -m tutorial.pages.book_map            write it
    python -m tutorial.pages.book_map --check    exit with 1 if it is not up to date

What is said of a module or folder is the first sentence of its docstring.
"""

import statistics

from tiny.tools.markdown import fill, refresh, table
from tiny.tools.terminal import Parser, program
from tutorial.pages.measure import (
    ROOT,
    appendix,
    book,
    first_sentence,
    function_lengths,
    lines_of,
    parts,
    starred,
)

PAGE = ROOT / "tiny/README.md"
NAMES = ("language_model", "text", "seeing", "seeing_text")
COMMAND = "python -m tutorial.pages.book_map"


def rows(names: list[str], first: int) -> str:
    """A table of modules, numbered in reading order."""
    marked = [[f"{n}{'*' * (name in starred())}", f"[{name.rpartition('/')[2]}]({name}.py)",
               first_sentence(ROOT / f"tiny/{name}.py").replace("|", "\\|"), str(lines_of(ROOT / f"tiny/{name}.py"))]
              for n, name in enumerate(names, first)]
    return table(["", "module", "what it is", "lines"], marked)


def part_block(part: int) -> str:
    """The modules of one part; more than ten are two tables: the layers, and what is made of them."""
    names, first = parts()[part], 1 + sum(map(len, parts()[:part]))
    if len(names) <= 10:
        return rows(names, first)
    cut = names.index("decoder")
    return f"{rows(names[:cut], first)}\n\nThe model, from these:\n\n{rows(names[cut:], first + cut)}"


def appendix_block() -> str:
    """The modules of the appendix."""
    return rows([f"files/{name}" for name in appendix()], 1 + sum(map(len, parts())))


def size_block() -> str:
    """The size of the book."""
    lengths = {f"{path.stem}.{name}": n for path in book() for name, n in function_lengths(path).items()}
    longest = max(lengths, key=lambda name: lengths[name])
    return (f"The book has {sum(map(lines_of, book())):,} lines of code, without blank lines, comments and docstrings. "
            f"The median function has {statistics.median(lengths.values()):g} lines, the longest, `{longest}`, "
            f"{lengths[longest]}.")


def main(argv: list[str] | None = None) -> int:
    """Write or check the page; return the exit status."""
    parser = Parser(prog=COMMAND, description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; 1 if something would change")
    blocks = {name: (lambda part=part: part_block(part)) for part, name in enumerate(NAMES)}
    text = fill(PAGE.read_text(encoding="utf-8"), blocks | {"appendix": appendix_block, "size": size_block},
                "tiny/README.md")
    return refresh(PAGE, text, parser.parse_args(argv).check, COMMAND)


if __name__ == "__main__":
    program(main)
