"""Check the finished site: every link and picture leads somewhere, and no page asks another host for anything."""

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from posixpath import dirname, normpath
from urllib.parse import unquote, urlsplit

LOADS = {("script", "src"), ("img", "src"), ("link", "href"), ("source", "srcset"), ("iframe", "src")}


class Page(HTMLParser):
    """What a page links to, what it loads, and the anchors that it has."""

    def __init__(self, text: str):
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[tuple[str, bool]] = []  # target, and whether it is loaded with the page
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id" or (tag, name) == ("a", "name"):
                self.anchors.add(value or "")
            elif name in ("href", "src", "srcset") and value:
                self.links.append((value, (tag, name) in LOADS))


def check(root: Path, site: Path, made: dict[str, Path]) -> list[str]:
    """Every fault of the pages, with the file and the line that it comes from."""
    pages = {path.relative_to(site).as_posix(): Page(path.read_text(encoding="utf-8"))
             for path in sorted(site.rglob("*.html"))}
    wrong = [told(root, made, name, target, reason) for name, page in pages.items()
             for target, reason in faults(site, name, page, pages)]
    return list(dict.fromkeys(wrong)) + [fault for path in sorted(site.rglob("*.css")) for fault in styles(path, site)]


def faults(site: Path, name: str, page: Page, pages: dict[str, Page]) -> Iterator[tuple[str, str]]:
    """What is wrong with the links of one page."""
    for target, loaded in page.links:
        parts = urlsplit(target)
        if parts.scheme == "data":
            continue
        if parts.scheme or parts.netloc:
            if loaded or parts.scheme not in ("http", "https", "mailto"):
                yield target, "is of another host; a page loads nothing from elsewhere"
            continue
        place = normpath(f"{dirname(name)}/{unquote(parts.path)}").lstrip("/") if parts.path else name
        if not (site / place).is_file():
            yield target, "leads nowhere"
        elif parts.fragment and place in pages and unquote(parts.fragment) not in pages[place].anchors:
            yield target, f"leads to a page without the place #{unquote(parts.fragment)}"


def told(root: Path, made: dict[str, Path], name: str, target: str, reason: str) -> str:
    """A fault with the file and line of its source. A link that the site has otherwise is found by its last part."""
    source = made.get(name.removesuffix(".html"))
    if source is None or not (root / source).is_file():
        return f"The page {name}: the link {target} {reason}."
    path, mark, anchor = target.rpartition("/")[2].partition("#")
    written = path.removesuffix(".html")
    place, line = line_of(root, source, target, f"{written}{mark}{anchor}", f"{written}.md{mark}{anchor}")
    return f"{place}:{line}: the link {target} {reason}."


def line_of(root: Path, source: Path, *texts: str) -> tuple[Path, int]:
    """The line of a source where the first of some texts that it has stands; a notebook's source is its script."""
    script = source.with_suffix(".py")
    if source.suffix == ".ipynb" and (root / script).is_file():
        source = script
    lines = (root / source).read_text(encoding="utf-8").splitlines()
    return source, next((number for text in texts for number, line in enumerate(lines, 1) if text in line), 1)


def styles(path: Path, site: Path) -> Iterator[str]:
    """What a style sheet loads, from another host or from nowhere."""
    for target in re.findall(r"url\(['\"]?([^'\")]+)", path.read_text(encoding="utf-8")):
        if not target.startswith(("data:", "#")) and not (path.parent / target.partition("#")[0]).is_file():
            yield f"The style {path.relative_to(site)}: {target} leads nowhere."
