"""A file of code, or a folder, as a page: an anchor on each line, as `#L21` on the pages of a code host."""

import html
from pathlib import Path

from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import TextLexer, get_lexer_for_filename
from pygments.util import ClassNotFound

# Not searched: a word of the tutorial would be found in each file that uses it.
PAGE = "---\nnosearch: true\n---\n# {}\n\n```````{{raw}} html\n{}\n```````\n"


def code_page(name: str, text: str) -> str:
    """A file as a page with numbered lines."""
    try:
        lexer = get_lexer_for_filename(Path(name).name, stripnl=False)
    except ClassNotFound:
        lexer = TextLexer(stripnl=False)
    lines = highlight(text, lexer, HtmlFormatter(nowrap=True)).splitlines()
    rows = "\n".join(f'<span class="line" id="L{number}"><a class="number" href="#L{number}">{number}</a>{line}</span>'
                     for number, line in enumerate(lines, 1))
    return PAGE.format(title(name), f'<div class="highlight source"><pre>{rows}\n</pre></div>')


def folder_page(name: str, names: list[str], linked: set[str]) -> str:
    """What is in a folder that has no page of its own; some of it with links."""
    rows = "\n".join("<li>" + (f'<a href="{Path(name).name}/{child}.html">{html.escape(child)}</a>' if child in linked
                               else html.escape(child)) + "</li>" for child in names)
    return PAGE.format(title(f"{name}/"), f"<ul>\n{rows}\n</ul>")


def title(name: str) -> str:
    """A name as the words of a heading: nothing in it is a mark of Markdown."""
    return "".join(f"\\{letter}" if letter in "_*`[]<>$#" else letter for letter in name)
