"""The command `serve`: open a model, listen, and answer until Ctrl-C or SIGTERM."""

import argparse
import logging
import signal
import socket
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import tiny
from tiny.config import TinyError
from tiny.mixtral import Mixtral
from tiny.serve.ask import PATHS
from tiny.serve.limits import address_of
from tiny.system.reading import read_file
from tiny.tools import session
from tiny.tools.terminal import Parser, check_numbers, note

EXTRA = ("starlette", "uvicorn")


def main(argv: list[str] | None = None) -> None:
    """The command `serve`. It prints the address, which clients take as their base, on standard output."""
    args = build_parser().parse_args(argv)
    check_numbers(args, {"port": (0, 65535), "queue": (1, 10_000), "seconds": (0.1, 1e6)})
    args.token = read_token(args)
    need_extra()
    with listen(args.host, args.port) as listener:
        model = session.open_model(args)
        session.load_weights(model, 1, memory=args.memory)
        serve(args, model, listener)


def need_extra() -> None:
    """Raise TinyError if a package is missing without which nothing can be served."""
    if lacking := [package for package in EXTRA if find_spec(package) is None]:
        raise TinyError(f"The server needs {' and '.join(EXTRA)}, and {lacking[0]} is not installed.",
                        "Install the extra: pip install -e '.[serve]', or make .venv/serve.")


def build_parser() -> argparse.ArgumentParser:
    """The options of the command."""
    parser = Parser(prog="python -m tiny serve", description="Serve one model to clients of OpenAI's interface.",
                    epilog=f"Paths: {', '.join(PATHS)}.")
    option = parser.add_argument
    option("--model", default="tiny-mixtral", metavar="DIR", help="a folder, or the name of an embedded model, "
           f"{' or '.join(tiny.EMBEDDED)}; default: %(default)s")
    option("--port", type=int, default=8000, metavar="N", help="0 takes a free one; default: %(default)s")
    option("--host", default="127.0.0.1", metavar="H", help="another than this machine's own needs --token")
    option("--token", type=Path, metavar="FILE", help="holds the token T of each request: Authorization: Bearer T")
    option("--queue", type=int, default=64, metavar="N", help="requests that may wait; default: %(default)s")
    option("--seconds", type=float, default=600, metavar="S", help="how long one may compute; default: %(default)s")
    option("--weights", choices=("auto", "mapped", "streamed", "resident"), default="auto", help="default: what fits")
    option("--memory", type=float, metavar="GB", help="for streamed weights; default: most of what is free")
    option("--precision", choices=("float32", "bfloat16"), default="float32", help="default: %(default)s")
    option("--cache", choices=("float32", "bfloat16"), help="how keys and values are kept; default: as the precision")
    option("--debug", action="store_true", help="show where an error happened")
    return parser


def read_token(args: argparse.Namespace) -> str | None:
    """The token, from its file: what stands in a command, every process of this machine can read.

    Raises:  TinyError for one that no header can carry, and for a server for others without one
    """
    if args.token is None:
        if is_loopback(args.host):
            return None
        raise TinyError(f"--host {args.host} lets other machines ask, and there is no --token.",
                        "Give --token FILE with a secret in it, or leave --host out.")
    token = read_file(args.token, 1 << 16).decode("utf-8", "replace").strip()
    if not token or not (token.isascii() and token.isprintable() and " " not in token):
        raise TinyError(f"{args.token}: the token is empty, or holds a space or a character that is not ASCII.",
                        "Write nothing but the token into its file, in letters and digits.")
    return token


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    address = address_of(host)
    return host == "localhost" or address is not None and address.is_loopback


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens. Raises TinyError for an address that is taken, or not of this machine."""
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.create_server(address, family=family, backlog=128, dualstack_ipv6=family == socket.AF_INET6)
        # Inherited by every connection. Else an answer in two packets waits 40 ms for the client's acknowledgement.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listener
    except OSError as error:
        raise TinyError(f"Cannot listen at {host}, port {port}: {error.strerror or error}.",
                        "Use --port 0 for a free port, and an address of this machine.") from None


def serve(args: argparse.Namespace, model: Mixtral, listener: socket.socket) -> None:
    """Answer requests until a signal comes. Then what is computed ends within a token."""
    from tiny.serve.app import build

    name, hosts = Path(args.model).name, (args.host, socket.gethostname().lower())
    run_server(lambda worker: build(model, name, worker, hosts, args.token), listener, args.host,
               lambda url: note(f"{args.model} answers; Ctrl-C ends it"), args.debug, args.queue, args.seconds)


def run_server(build: Callable, listener: socket.socket, host: str, started: Callable[[str], None], debug: bool,
               waiting: int = 64, seconds: float = 3600) -> None:
    """Serve the app that `build` makes for a worker, until a signal comes. The address goes to standard output.

    started: told the address, once requests are answered
    waiting and seconds: as `Worker` has them
    """
    import uvicorn

    from tiny.serve.connection import configure
    from tiny.serve.worker import Worker

    heard: set[int] = set()

    class Server(uvicorn.Server):
        """uvicorn waits for answers to be complete; this lets them end first. It says where it listens."""

        async def startup(self, sockets: Any = None) -> None:
            await super().startup(sockets)
            url = f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"
            print(url, flush=True)
            started(url)

        def handle_exit(self, number: int, frame: Any) -> None:
            heard.add(number)
            worker.stop()
            super().handle_exit(number, frame)

    if not debug:  # Clients that break off, and requests that are no HTTP, are no news.
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    worker = Worker(waiting, seconds)
    try:
        server = Server(configure(build(worker), debug))
        # uvicorn hears SIGINT and SIGTERM by itself. An exception in the midst of its loop could leave a task for ever.
        if (hangup := signal.getsignal(signal.SIGHUP)) != signal.SIG_IGN:
            signal.signal(signal.SIGHUP, server.handle_exit)
        server.run([listener])
        if signal.SIGHUP in heard:
            signal.signal(signal.SIGHUP, hangup)
            signal.raise_signal(signal.SIGHUP)
    finally:
        worker.stop()
        worker.thread.join()
