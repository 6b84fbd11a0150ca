"""Build the site: lay out the pages, let Sphinx write them, check the result. What is wrong names a file and a line."""

import io
import re
import shutil
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.util.docutils import docutils_namespace, patch_docutils

from tutorial.site.check import check, line_of
from tutorial.site.stage import FILES, stage

HERE = Path(__file__).parent
SETTINGS = {
    "project": "Mixtral and Pixtral from scratch",
    "html_title": "Mixtral and Pixtral from scratch",
    "extensions": ["myst_parser", "tutorial.site.formulas"],
    "html_theme": "furo",
    "html_math_renderer": "katex",
    "html_static_path": [str(HERE / "static")],
    "html_favicon": str(HERE / "static/icon.svg"),  # a host is asked for one
    "html_css_files": ["katex/katex.min.css", "site.css"],
    "html_extra_path": [FILES],
    "exclude_patterns": [FILES],
    "myst_enable_extensions": ["dollarmath"],
    "myst_heading_anchors": 6,
    "myst_all_links_external": True,  # stage.py made them links of the site, and check.py follows each
    "smartquotes": False,  # quotes and -- stay as the source has them
    "suppress_warnings": ["toc.not_included"],  # pages of code are reached by links
    "html_show_search_summary": False,  # a summary is fetched, which a page from a file system may not
    "html_copy_source": False,
    "html_show_copyright": False,
    "html_use_index": False,
}


def build(root: Path, folder: Path) -> list[str]:
    """Write the site of a repository to folder/html; return what is wrong with it."""
    pages, site = folder / "pages", folder / "html"
    shutil.rmtree(site, ignore_errors=True)
    made = stage(root, pages)
    (pages / FILES).mkdir(exist_ok=True)
    said = io.StringIO()
    with patch_docutils(), docutils_namespace():
        app = Sphinx(pages, None, site, folder / "trees", "html", SETTINGS, status=None, warning=said, freshenv=True)
        app.build(force_all=True)
    warnings = [placed(line, root, pages, made) for line in said.getvalue().splitlines() if line.strip()]
    return warnings + check(root, site, made)


def placed(line: str, root: Path, pages: Path, made: dict[str, Path]) -> str:
    """A warning of Sphinx with the file of the repository in place of the page made of it."""
    match = re.match(rf"{re.escape(str(pages))}/(.*)\.md:(\d+)?(.*)", re.sub(r"\x1b\[[0-9;]*m", "", line))
    if not match or match[1] not in made:
        return line
    source, number = made[match[1]], match[2] or "1"
    if source.suffix == ".ipynb":  # written as a script, whose lines are others
        text = (pages / f"{match[1]}.md").read_text(encoding="utf-8").splitlines()[int(number) - 1]
        source, number = line_of(root, source, text)
    return f"{source}:{number}{match[3]}"
