"""Links and pictures of a Markdown page, as they stand in its text and outside of its code.

>>> [link.target for link in links("[a](b.md), `[c](d.md)` and [![e](f.png)](g.py#L2)")]
['b.md', 'f.png', 'g.py']
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

# What holds no links: fenced code, code in a line, formulas, comments.
CODE = re.compile(r"^[ ]*(?P<fence>`{3,}|~{3,})[^\n]*\n.*?^[ ]*(?P=fence)[`~]*[ ]*$"
                  r"|(?<!`)(?P<ticks>`+)(?!`)(?:(?!\n\s*\n).)+?(?<!`)(?P=ticks)(?!`)"
                  r"|\$\$.*?\$\$|<!--.*?-->", re.M | re.S)
LINK = re.compile(r"(?P<mark>!?)\[(?P<words>(?:[^\[\]]|\[[^\[\]]*\])*)\]\((?P<target>[^()\s]+)\)")
ELSEWHERE = re.compile(r"[a-z]+:", re.I)


@dataclass(frozen=True)
class Link:
    """A link, or a picture: what it leads to, the part from # on, and where these begin and end in the text."""

    picture: bool
    target: str
    anchor: str
    start: int
    end: int


def links(text: str) -> list[Link]:
    """The links to files of the repository, in order; those to other hosts, or inside the page, are left out."""
    plain = CODE.sub(lambda code: re.sub(r"[^\n]", " ", code[0]), text)
    return list(found(plain, 0, len(plain)))


def found(plain: str, start: int, end: int) -> Iterator[Link]:
    """The links between two places; the words of a link can hold a picture."""
    for match in LINK.finditer(plain, start, end):
        yield from found(plain, *match.span("words"))
        target, mark, anchor = match["target"].partition("#")
        if target and not ELSEWHERE.match(target):
            yield Link(bool(match["mark"]), target, mark + anchor, *match.span("target"))


def relink(text: str, new: Callable[[Link], str]) -> str:
    """The text with each target replaced; lines stay where they are."""
    parts, end = [], 0
    for link in links(text):
        parts += [text[end:link.start], new(link)]
        end = link.end
    return "".join(parts) + text[end:]
