"""The tutorial as a site: `python -m tutorial.site` writes plain files to runs/site/html, which any browser opens."""

import sys
from pathlib import Path

from tiny.config import TinyError
from tiny.tools.terminal import Parser, program
from tutorial.source import ROOT

FOLDER = Path("runs/site")


def main(argv: list[str] | None = None) -> int:
    """Write the site; return 1 if something in it is wrong."""
    parser = Parser(prog="python -m tutorial.site", description=(__doc__ or "").partition(":")[0] + ".")
    parser.add_argument("--debug", action="store_true", help="show where an unexpected error happens")
    parser.parse_args(argv)
    try:
        from tutorial.site.build import build
    except ImportError as error:
        raise TinyError(f"The site needs the package {error.name}, which is not installed.",
                        "Run `make site`, which installs it.") from None
    wrong = build(ROOT, ROOT / FOLDER)
    for line in wrong:
        print(line, file=sys.stderr)
    if not wrong:
        print(f"The site is written: open {FOLDER / 'html/index.html'} in a browser.")
    return int(bool(wrong))


if __name__ == "__main__":
    program(main)
