"""Markdown: tables, and the generated parts of a page, each between `<!-- begin NAME -->` and `<!-- end NAME -->`."""

import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from tiny.config import TinyError
from tiny.system.whole import write_whole


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, ["---"] * len(header), *rows])


def fill(text: str, blocks: Mapping[str, Callable[[], str]], page: str = "README.md") -> str:
    """The text of a page with every generated part replaced."""
    for name, block in blocks.items():
        pattern = re.compile(rf"(<!-- begin {name} -->\n).*?(<!-- end {name} -->)", re.S)
        found = pattern.findall(text)
        if len(found) != 1:
            raise TinyError(f"{page} has {len(found)} parts {name}.",
                            f"Put <!-- begin {name} --> and <!-- end {name} --> once, each on its own line.")
        start, end = found[0]
        text = pattern.sub((start + block() + "\n" + end).replace("\\", r"\\"), text)
    return text


def refresh_parts(pages: Mapping[Path, Mapping[str, Callable[[], str]]], root: Path, check: bool, command: str) -> int:
    """Write or check the generated parts of some pages, which are named from the root in messages; the exit status."""
    texts = {path: fill(path.read_text(encoding="utf-8"), blocks, path.relative_to(root).as_posix())
             for path, blocks in pages.items()}
    return max(refresh(path, text, check, command) for path, text in texts.items())


def refresh(path: Path, new: str, check: bool, command: str) -> int:
    """Write a generated text, or only check it; returns the exit status."""
    old = path.read_text(encoding="utf-8") if path.exists() else ""
    if check and new != old:
        print(f"{path.name} is not up to date: run {command}", file=sys.stderr)
        return 1
    if new != old:
        write_whole(path, new)
    return 0
