"""What `make demo` prints: `python -m tutorial.pages.demo_record` runs it and keeps its text, for the README.

A test runs the demonstration again and finds the same text.
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


def demo_text() -> str:
    """What the demonstration prints, without its speed and the commands that it proposes."""
    with tempfile.TemporaryDirectory() as folder:  # its pictures go there
        command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r}); sys.argv[0] = 'tiny'; "
                                         "from tiny.__main__ import main; sys.exit(main(['demo']))"]
        text = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout
    return re.sub(r"^speed: .*\n\n?", "", text.partition("\nFour things to try")[0], flags=re.M)


def main() -> None:
    """Run the demonstration and keep its text."""
    parser = Parser(prog="python -m tutorial.pages.demo_record", description=main.__doc__)
    parser.parse_args()
    write_whole(RECORD, demo_text())


if __name__ == "__main__":
    program(main)
