"""An executed notebook as a page of Markdown: its cells, what they printed, and their pictures."""

import base64
import json
import re
from pathlib import Path

from tiny.config import TinyError

FENCE = "~" * 12  # longer than any that a cell holds
ENDS = re.compile(r"\x1b\[[0-9;]*m")  # colours of a terminal


def notebook_page(path: Path, pictures: Path) -> str:
    """The Markdown of a notebook; its pictures are written beside the page, in the folder `pictures`.

    Raises:  TinyError if a cell shows something that a page cannot
    """
    parts = []
    for number, cell in enumerate(json.loads(path.read_text(encoding="utf-8"))["cells"], 1):
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"{FENCE}python\n{source}\n{FENCE}")
        for place, output in enumerate(cell.get("outputs", []), 1):
            shown = shown_by(output, pictures / f"{path.stem}_{number}_{place}.png")
            if shown is None:
                raise TinyError(f"{path.name}, cell {number}: it shows {sorted(output.get('data', output))}.",
                                "A page can show printed text, the text of a value, and a PNG.")
            parts.append(shown)
    return "\n\n".join(parts) + "\n"


def shown_by(output: dict, picture: Path) -> str | None:
    """One output as Markdown: a picture with its text as alternative, or lines of text; None if it is neither."""
    data = output.get("data", {})
    text = "".join(output.get("text", data.get("text/plain", "")))
    if drawn := data.get("image/png"):
        picture.parent.mkdir(parents=True, exist_ok=True)
        picture.write_bytes(base64.b64decode("".join(drawn)))
        words = re.sub(r"([\[\]`*_$\\<])", r"\\\1", " ".join(text.split()))
        return f"![{words}]({picture.name})"
    if "text" in output or "text/plain" in data:
        lines = ENDS.sub("", text).rstrip()
        return f"{FENCE}{{code-block}} text\n:class: output\n\n{lines}\n{FENCE}"
    return None
