"""Is what a server serves the right model? If not, what is wrong with it?

Our reference can be wrong on purpose: it is run with each known fault, and the one that the server's log-probabilities
agree with is named. The README of this folder says in which order to read it.
"""

import argparse
from pathlib import Path

from tiny.system.reading import read_file
from tiny.tools import session
from tiny.tools.plots import check_figure_name
from tiny.tools.terminal import check_numbers
from tiny.tools.verify.server import numbers
from tiny.tools.verify.server.connect import Limits, Server
from tiny.tools.verify.server.ids import LONG, check_ids
from tiny.tools.verify.server.measure import limit, measure
from tiny.tools.verify.server.others import others
from tiny.tools.verify.server.probe import probe
from tiny.tools.verify.server.reference import texts
from tiny.tools.verify.server.report import Line, tell


def main(args: argparse.Namespace) -> int:
    """Verify one server; return the exit status: 0 for a healthy one, 1 for a faulty one, 2 if nothing can be told."""
    check_numbers(args, {"tokens": (texts.LEAST, 1 << 20), "timeout": (0.01, 86400)})
    if args.plot:
        check_figure_name(args.plot)
    # (1) the model, the server, and the way to ask it
    model = session.open_model(args)
    known = numbers.served_as(model, args.served_as)
    sizes = texts.lengths(args.tokens, model.config.max_seq_len, args.quick)
    session.load_weights(model, max(sizes))
    server = Server(args.url, token_of(args.token), Limits(args.timeout))
    way = probe(server, model, args.name)
    lines = [Line("way", None, way.words), check_ids(server, way, model, texts.LEAST if args.quick else LONG)]
    # (2) log-probabilities, if the server reads the tokens that are meant, all of them
    found = None
    if lines[-1].good is not False or way.form.ids and "cut" not in (lines[-1].data or {}):
        found, more = measure(args, model, server, way, known, sizes)
        lines += more
    # (3) chats, the same prompt again, and several at once
    if not args.quick:
        lines += others(server, way, model, limit(found))
    return tell(args, server, way, lines, found)


def token_of(file: str | None) -> str | None:
    """The token in a file, which is in no list of processes."""
    return None if file is None else read_file(Path(file), 1 << 16).decode("utf-8", "replace").strip()
