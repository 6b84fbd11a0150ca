"""The command `verify check`: compare this code on a checkpoint, or a file, with what another implementation wrote.

Three phases: gather (gather.py) runs and compares, judge (judge.py) decides what that means, and the rest prints.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import tiny
from tiny.tools.plots import check_figure_name, write_figure
from tiny.tools.terminal import one_line
from tiny.tools.verify import file, printed
from tiny.tools.verify.gather import gather_files, gather_model
from tiny.tools.verify.judge import judge
from tiny.tools.verify.plot import error_by_layer
from tiny.tools.verify.report import Report, as_json


def main(args: argparse.Namespace) -> int:
    """The command `verify check`: a table or JSON, and the exit status."""
    if args.plot:
        check_figure_name(args.plot)
    report = check(args.ours, Path(args.theirs), args.weights, args.partial, getattr(args, "load", tiny.load))
    if args.plot:
        write_figure(args.plot, error_by_layer(report), dpi=110)
    lines = [json.dumps(as_json(report), indent=1)] if args.json else map(one_line, printed.lines(report, args.all))
    print("\n".join(lines))
    return report.status


def check(ours: str, path: Path, weights: str = "auto", partial: bool = False,
          load: Callable = tiny.load) -> Report:
    """Compare a checkpoint, by its folder or name, or a file (.npz) with the file of another implementation."""
    if not ours.endswith(".npz"):
        return judge(gather_model(ours, path, weights, load), partial)
    own, theirs = (file.headers_of(each) for each in (Path(ours), path))
    return judge(gather_files(file.read(Path(ours), other=theirs), file.read(path, other=own)), partial)
