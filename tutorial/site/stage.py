"""Lay out the pages for Sphinx: chapters, notebooks, reference, and a page for each file that one of them links to.

The pages lie as in the repository, so a link needs no more than another ending: `../tiny/rope.py#L35` becomes
`../tiny/rope.py.html#L35`. Lines stay where they are, so a fault is told with the file and line of its source.
"""

import shutil
from pathlib import Path

from tutorial.site.code import code_page, folder_page
from tutorial.site.links import Link, links, relink
from tutorial.site.notebook import notebook_page
from tutorial.site.recorded import write_recorded

FRONT = Path("README.md")
# The table of contents, in order; a page stands where it is named first.
CONTENTS = {
    "Chapters": ("tutorial/README.md", "tutorial/[0-9][0-9]_*.md"),
    "Notebooks": ("notebooks/README.md", "notebooks/[0-9][0-9]_*.ipynb"),
    "Reference": ("tutorial/glossary.md", "tutorial/reference/*.md", "tutorial/*.md"),
    "The code": ("tiny/README.md", "kernels/README.md", "kernels/*.md", "tests/README.md"),
    "The project": ("CONTRIBUTING.md", "RESULTS.md", "CHANGELOG.md", "SECURITY.md"),
}
PICTURES = (".png", ".svg", ".jpg", ".gif")
LISTED = (".py", ".cu", ".cuh", ".h", ".cpp", ".toml")  # files that the page of a folder links to
FILES = "_files"  # copied to the site as they are
EXPLORE = Path("tiny/tools/explore/page/index.html")  # a link to it leads to two recorded runs


def contents(root: Path) -> dict[str, list[Path]]:
    """The pages of the table of contents, by section."""
    sections: dict[str, list[Path]] = {}
    taken: set[Path] = set()
    for section, patterns in CONTENTS.items():
        every = [path.relative_to(root) for pattern in patterns for path in sorted(root.glob(pattern))]
        sections[section] = [path for path in dict.fromkeys(every) if path not in taken]
        taken |= set(every)
    return sections


def page_of(source: Path) -> Path:
    """The page of a file or folder, without its last ending: Sphinx writes it as `.html`, and reads it as `.md`."""
    if source == FRONT:
        return Path("index")
    return source.with_suffix("") if source.suffix == ".md" else source


def source_of_link(page: Path, link: Link, root: Path) -> Path | None:
    """The file or folder that a link leads to, from the top of the repository; None if there is none.

    A folder with a README.md is read there. Hidden files, and those outside of the repository, are no part of the site.
    """
    path = (root / page.parent / link.target).resolve()
    if not path.exists() or not path.is_relative_to(root.resolve()):
        return None
    source = path.relative_to(root.resolve())
    if any(part.startswith(".") for part in source.parts):
        return None
    return source / "README.md" if (path / "README.md").is_file() else source


def text_of(path: Path) -> str | None:
    """The text of a file, or None if it is not text."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return None


def stage(root: Path, pages: Path) -> dict[str, Path]:
    """Write all pages into the folder `pages`; return for each page, as `tiny/rope.py`, its file of the repository."""
    shutil.rmtree(pages, ignore_errors=True)
    sections = contents(root)
    waiting = [FRONT, *(path for section in sections.values() for path in section)]
    made: dict[str, Path] = {}
    while waiting:
        source = waiting.pop()
        if source.suffix not in PICTURES and page_of(source).as_posix() not in made:
            made[page_of(source).as_posix()] = source
            waiting += write_page(source, root, pages)
    with open(pages / "index.md", "a", encoding="utf-8") as file:
        for section, found in sections.items():
            names = "\n".join(page_of(path).as_posix() for path in found)
            file.write(f"\n```{{toctree}}\n:hidden:\n:caption: {section}\n\n{names}\n```\n")
    return made


def write_page(source: Path, root: Path, pages: Path) -> list[Path]:
    """Write the page of one file or folder; return the files that it links to."""
    path, page = root / source, pages / f"{page_of(source)}.md"
    page.parent.mkdir(parents=True, exist_ok=True)
    if source == EXPLORE:
        write_recorded(pages / FILES / "explore")
        return []
    if path.is_dir():
        names = sorted(child.name for child in path.iterdir() if child.name[0] not in "._" or child.suffix == ".py")
        listed = [name for name in names if name.endswith(LISTED)]
        page.write_text(folder_page(source.as_posix(), names, set(listed)), encoding="utf-8")
        return [source / name for name in listed]
    text = notebook_page(path, page.parent) if source.suffix == ".ipynb" else text_of(path)
    if text is None:
        copy(path, pages / FILES / source)
        return []
    if source.suffix not in (".md", ".ipynb"):
        page.write_text(code_page(source.as_posix(), text), encoding="utf-8")
        return []
    targets = {link: source_of_link(source, link, root) for link in links(text)}
    for link, target in targets.items():
        if target and target.suffix in PICTURES:
            copy(root / target, (pages if link.picture else pages / FILES) / target)
    page.write_text(relink(text, lambda link: new_target(source, link, targets[link], root)), encoding="utf-8")
    return [target for target in targets.values() if target]


def new_target(source: Path, link: Link, target: Path | None, root: Path) -> str:
    """What a link of a page is in the site. One that leads nowhere stays: the check of the finished site tells it."""
    if target is None or target.suffix in PICTURES or (root / target).is_file() and text_of(root / target) is None:
        return link.target + link.anchor
    up = "../" * (len(page_of(source).parts) - 1)
    if target == EXPLORE:
        return f"{up}explore/index.html"
    return f"{up}{page_of(target).as_posix()}.html{link.anchor}"


def copy(path: Path, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, place)
