"""The generated parts of README.md and CONTRIBUTING.md: a piece of the demonstration's output, the router, a docstring.

    python -m tutorial.pages.readme            write them
    python -m tutorial.pages.readme --check    exit with 1 if they are not up to date
"""

import ast

from tiny.tools.markdown import refresh_parts
from tiny.tools.terminal import Parser, program
from tutorial.pages.demo_record import RECORD
from tutorial.pages.measure import ROOT, book, lines_of
from tutorial.source import source_of

COMMAND = "python -m tutorial.pages.readme"
ROUTER = "tiny/router.py:route"


def fenced(text: str, language: str = "") -> str:
    """Text as a block of code."""
    return f"```{language}\n{text}\n```"


def demo_block(lines: int = 5) -> str:
    """The beginning of the story that the demonstration writes, and what it says about its first picture."""
    text = RECORD.read_text(encoding="utf-8")
    story = text[text.index("--- A story"):].splitlines()[: 1 + lines]
    picture = text[text.index("--- Two pictures"):].splitlines()
    rows = [line for line in picture[2:] if line.startswith("  ")][:3]
    return fenced("\n".join([*story, "...", picture[0], *rows, "...", picture[-2]]))


def router_block() -> str:
    """The router: its signature, and its three steps."""
    source = source_of(ROUTER)
    node = ast.parse(source.text).body[0]
    assert isinstance(node, ast.FunctionDef)
    lines = source.text.splitlines()
    head, steps = lines[: node.body[0].lineno - 1], source_of(f"{ROUTER}#1-3").first - source.first
    return fenced("\n".join([*head, *lines[steps:]]), "python")


def size_block() -> str:
    """How long the book is."""
    return (f"All of it is {sum(map(lines_of, book())):,} lines of code in {len(book())} files; "
            "[tiny/README.md](tiny/README.md) is the map, in reading order.")


def grammar_block() -> str:
    """A whole function of the book, whose docstring has every field."""
    return fenced(source_of("tiny/rms_norm.py:rms_norm").text, "python")


PAGES = {"README.md": {"demo": demo_block, "router": router_block, "size": size_block},
         "CONTRIBUTING.md": {"grammar": grammar_block}}


def main(argv: list[str] | None = None) -> int:
    """Write or check the generated parts; return the exit status."""
    parser = Parser(prog=COMMAND, description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; 1 if something would change")
    pages = {ROOT / name: blocks for name, blocks in PAGES.items()}
    return refresh_parts(pages, ROOT, parser.parse_args(argv).check, COMMAND)


if __name__ == "__main__":
    program(main)
