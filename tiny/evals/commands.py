"""The command `evals`: the published protocols, from a data set to a report.

    python -m tiny evals import chartqa DOWNLOADED ITEMS
    python -m tiny evals run chartqa ITEMS --model DIR --out RUN
    python -m tiny evals judge RUN --judge URL      (mm_mt_bench alone)
    python -m tiny evals score RUN

Read `demo.py` next.
"""

import argparse
import json
import tomllib
from pathlib import Path
from typing import Any

from tiny.config import TinyError
from tiny.evals import demo, figures, judge, report, run, run_folder, scores
from tiny.evals.hub import import_task
from tiny.evals.items import find_image, image_names, read_items
from tiny.evals.run_folder import read_run
from tiny.evals.standing import counted, in_words, whole
from tiny.evals.tasks import TASKS, find_task
from tiny.system.pictures import open_image
from tiny.system.whole import write_whole
from tiny.tools.plots import write_figure
from tiny.tools.terminal import Parser, note


def list_tasks(args: argparse.Namespace) -> None:
    """The command `list`."""
    rows = [[task.name, task.datasets[0], task.split, str(task.max_tokens or ""),
             ", ".join(task.metrics) or "rated by a judge"] for task in TASKS.values()]
    print(report.plain((["task", "data set on the Hub", "split", "new tokens", "measures"], rows)))


def import_command(args: argparse.Namespace) -> None:
    """The command `import`."""
    count = import_task(find_task(args.task), args.path, args.out, args.shots)
    print(f"{counted(count, 'item')} of {args.task} in {args.out}")


def check(args: argparse.Namespace) -> None:
    """The command `check`: read every item, and decode every picture once."""
    task, items = read_items(args.folder)
    names = {name for item in items for name in image_names(item.messages)}
    for name in sorted(names):
        open_image(find_image(args.folder, name))
    turns = sum(len(item.references) or 1 for item in items)
    print(f"{counted(len(items), 'item')} of {task.name}, {counted(turns, 'request')}, "
          f"{counted(len(names), 'picture')}, all sound")


def check_whole(found: list[dict[str, Any]]) -> None:
    """With --strict scores have to be of everything that was asked."""
    lacking = [f"{report.title(one)}: {in_words(stand)}" for one in found
               for stand in one["standing"].values() if not whole(stand)]
    if lacking:
        raise TinyError(f"Not everything was answered{' and rated' * ('rated' in lacking[0])}: {lacking[0]}.",
                        "Go on with the run (--again if requests failed) or the judge, or leave --strict out.")


def show(found: list[dict[str, Any]], args: argparse.Namespace, beside: bool = False) -> None:
    """Print scores as a table or as JSON."""
    if getattr(args, "strict", False):
        check_whole(found)
    print(json.dumps({"runs": found}, indent=1) if args.json else report.document(found, apart=beside).rstrip("\n"))


def score(args: argparse.Namespace) -> None:
    """The command `score`."""
    run, levels = read_run(args.run), range(4) if args.level == "all" else [int(args.level)]
    show([scores.score_run(run, levels, args.blind and read_run(args.blind))], args)
    if args.items:
        write_whole(args.run / "items.csv", report.items_table(run))
        note(f"written to {args.run}: items.csv")


def judge_command(args: argparse.Namespace) -> None:
    """The command `judge`."""
    judge.command(args)
    show([scores.score_run(read_run(args.run))], args)


def report_command(args: argparse.Namespace) -> None:
    """The command `report`: all runs in one table; report.md, report.json and pictures go to the folder of the first. A
    blind run stands beside the seeing run that it belongs to, not by itself.
    """
    heads = {folder: run_folder.read_head(folder) for folder in args.runs}
    blind = {folder: next((other for other, head in heads.items() if scores.belongs(heads[folder], head)), None)
             for folder in heads}
    found = [scores.score_run(read_run(folder), blind=other and read_run(other)) for folder, other in blind.items()
             if folder not in blind.values()]
    show(found, args, beside=True)
    folder = args.runs[0]
    drawn = {f"{draw.__name__}.png": draw(found) for draw in (figures.bars, figures.radar, figures.stairs) if args.png}
    if lacking := [name for name, figure in drawn.items() if figure is None]:
        note(f"not drawn: {', '.join(lacking)}; a radar needs three tasks, stairs a task with levels")
    drawn = {name: figure for name, figure in drawn.items() if figure is not None}
    for name, figure in drawn.items():
        write_figure(folder / name, figure, dpi=120)
    write_whole(folder / "report.json", json.dumps({"runs": found}, indent=1) + "\n")
    write_whole(folder / "report.md", report.document(found, "markdown", list(drawn)))
    note(f"written to {folder}: {', '.join(['report.md', 'report.json', *drawn])}")


def diff(args: argparse.Namespace) -> None:
    """The command `diff`: what one run has more than another on the same questions."""
    runs = read_run(args.first), read_run(args.second)
    rows = scores.difference(*runs)
    found = [scores.summary(run) for run in runs]
    if args.strict:
        check_whole(found)
    print(json.dumps({"rows": rows}, indent=1) if args.json else report.difference_document(found, rows))


WORK = {"list": list_tasks, "import": import_command, "check": check, "run": run.command, "judge": judge_command,
        "score": score, "report": report_command, "diff": diff, "demo": demo.main}
TYPES = {"path": Path, "int": int, "float": float}


def main(argv: list[str]) -> int:
    """Run the command; returns the exit status. What each command takes stands in `commands.toml`."""
    parser = Parser(prog="python -m tiny evals", description=__doc__.rpartition("\n\n")[0],
                    formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    table = tomllib.loads(Path(__file__).with_name("commands.toml").read_text(encoding="utf-8"))
    for name, work in WORK.items():
        says = table[name]
        what = says["what"]
        added = commands.add_parser(name, help=what, description=what[0].upper() + what[1:] + ".",
                                    epilog=says.get("more"), formatter_class=argparse.RawDescriptionHelpFormatter)
        added.set_defaults(work=work)
        for argument in [*says["takes"], "--debug"]:
            details = says.get(argument, table["arguments"].get(argument))
            kind = {"type": TYPES[details["type"]]} if "type" in details else {}
            added.add_argument(argument, **details | kind)
    args = parser.parse_args(argv)
    args.work(args)
    return 0
