"""The command `explore`: open one model or both embedded ones, and serve the page until Ctrl-C."""

import argparse
import webbrowser
from pathlib import Path

import tiny
from tiny.mixtral import Mixtral
from tiny.serve.command import listen, need_extra, run_server
from tiny.tools import session
from tiny.tools.terminal import Parser, check_numbers, note

HOST = "127.0.0.1"  # and never another: the page is for the person at this machine


def main(argv: list[str] | None = None) -> None:
    """The command `explore`. It prints the address of the page on standard output."""
    args = build_parser().parse_args(argv)
    check_numbers(args, {"port": (0, 65535)})
    need_extra()
    with listen(HOST, args.port) as listener:
        models = open_models(args)

        def started(url: str) -> None:
            note(f"open this page in a browser: it looks into {' and '.join(models)}; Ctrl-C ends it")
            if args.open and not webbrowser.open(url):
                note("no browser could be opened from here")

        from tiny.serve.explore.app import build

        run_server(lambda worker: build(models, worker), listener, HOST, started, args.debug)


def open_models(args: argparse.Namespace) -> dict[str, Mixtral]:
    """The model that was asked for, or both embedded ones, by the names that the page shows and a cell can load."""
    found = {}
    for name in [args.model] if args.model else tiny.EMBEDDED:
        model = session.open_model(argparse.Namespace(**vars(args) | {"model": name}))
        session.load_weights(model, 1)
        found[str(Path(name)) if name not in tiny.EMBEDDED else name] = model
    return found


def build_parser() -> argparse.ArgumentParser:
    """The options of the command."""
    parser = Parser(prog="python -m tiny explore", description="Look inside a model: a page in the browser that shows "
                    "routers, attention, the next token, and what happens if one operation is changed.")
    option = parser.add_argument
    option("--model", metavar="DIR", help="a folder, or the name of an embedded model; default: "
           f"{' and '.join(tiny.EMBEDDED)}")
    option("--port", type=int, default=8000, metavar="N", help="0 takes a free one; default: %(default)s")
    option("--open", action="store_true", help="open the page in the browser")
    option("--weights", choices=("auto", "mapped", "streamed", "resident"), default="auto", help="default: what fits")
    option("--precision", choices=("float32", "bfloat16"), default="float32", help="default: %(default)s")
    option("--debug", action="store_true", help="show where an error happened")
    return parser
