"""An extension of Sphinx: formulas are typeset by KaTeX when the site is built, so a page needs no script for them.

A formula that KaTeX refuses is a warning with its place, and a warning fails the build.
"""

import re
import shutil
from functools import cache
from pathlib import Path

from docutils import nodes
from py_mini_racer import JSEvalException, MiniRacer
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.writers.html5 import HTML5Translator

KATEX = Path(__file__).parent / "vendor/katex"
OLD_FONTS = re.compile(r',url\([^)]*\.(?:woff|ttf)\) format\("\w+"\)')


@cache
def engine() -> MiniRacer:
    """KaTeX in an engine of JavaScript."""
    racer = MiniRacer()
    racer.eval((KATEX / "katex.min.js").read_text(encoding="utf-8"))
    return racer


def typeset(formula: str, display: bool) -> str:
    """A formula as HTML with MathML beside it, which screen readers read.

    Raises:  ValueError if KaTeX refuses it, or would warn
    """
    try:
        return engine().call("katex.renderToString", formula,
                             {"displayMode": display, "throwOnError": True, "strict": "error"})
    except JSEvalException as error:
        reason = str(error).partition("\n")[0].rpartition("Error: ")[2]
        raise ValueError(f"{reason} In the formula: {' '.join(formula.split())}") from None


def write(translator: HTML5Translator, node: nodes.math | nodes.math_block) -> None:
    """Write one formula into the page."""
    display = isinstance(node, nodes.math_block)
    try:
        made = typeset(node.astext(), display)
    except ValueError as error:
        logging.getLogger(__name__).warning("%s", error, location=node)
    else:
        translator.body.append(f'<div class="formula">{made}</div>' if display else made)
    raise nodes.SkipNode


def anchors(app: Sphinx, doctree: nodes.document) -> None:
    """Give each heading the anchor that the pages of a code host give it, beside that of Sphinx."""
    for section in doctree.findall(nodes.section):
        slug = section.get("slug")
        if slug and slug not in section["ids"]:
            section["ids"].append(slug)


def copy_katex(app: Sphinx, failure: Exception | None) -> None:
    """Put KaTeX's style and fonts beside the pages: of a font's three forms woff2, which every browser takes."""
    if failure is None:
        place = Path(app.outdir) / "_static/katex"
        shutil.copytree(KATEX, place, ignore=shutil.ignore_patterns("*.js", "README.md"), dirs_exist_ok=True)
        style = place / "katex.min.css"
        style.write_text(OLD_FONTS.sub("", style.read_text(encoding="utf-8")), encoding="utf-8")


def setup(app: Sphinx) -> dict:
    app.add_html_math_renderer("katex", (write, None), (write, None))
    app.connect("doctree-read", anchors)
    app.connect("build-finished", copy_katex)
    return {"parallel_read_safe": True}
