"""What the demonstrations print: `python -m tutorial.pages.demo_record` runs them and keeps their texts, that of
`make demo` for the README and that of `evals demo` for the page on scores.

Tests run the demonstrations again and find the same texts.
"""

import re
import subprocess
import sys
import tempfile

from tiny.system.whole import write_whole
from tiny.tools.terminal import Parser, program
from tutorial.pages.measure import ROOT
from tutorial.pages.records import RECORDS

RECORD = RECORDS / "demo.txt"
EVALS_RECORD = RECORDS / "evals_demo.txt"


def demo_text() -> str:
    """What the demonstration prints, without its speed and the commands that it proposes."""
    text = printed("demo")
    return re.sub(r"^speed: .*\n\n?", "", text.partition("\nFour things to try")[0], flags=re.M)


def evals_text() -> str:
    """What the demonstration of the evaluations prints, without its time."""
    return re.sub(r" per cent\. \d+ s$", " per cent.", printed("evals", "demo"), flags=re.M)


def printed(*command: str) -> str:
    """What a command prints in a process of its own, whose files are thrown away."""
    with tempfile.TemporaryDirectory() as folder:  # its pictures go there
        program = (f"import sys; sys.path.insert(0, {str(ROOT)!r}); sys.argv[0] = 'tiny'; "
                   f"from tiny.__main__ import main; sys.exit(main({list(command)}))")
        return subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True,
                              check=True).stdout


def main() -> None:
    """Run the demonstrations and keep their texts."""
    parser = Parser(prog="python -m tutorial.pages.demo_record", description=main.__doc__)
    parser.parse_args()
    write_whole(RECORD, demo_text())
    write_whole(EVALS_RECORD, evals_text())


if __name__ == "__main__":
    program(main)
