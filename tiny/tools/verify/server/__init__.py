"""Is what a server serves the right model? If not, what is wrong with it?"""

import argparse

from tiny.config import TinyError


def main(args: argparse.Namespace) -> int:
    """Verify one server; return the exit status."""
    raise TinyError("verify server is not there yet.", "Use verify check.")
