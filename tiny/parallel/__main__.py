"""The command line, `python -m tiny.parallel --ranks N COMMAND`: a command of `python -m tiny`, run by several ranks.

It starts the ranks by mpiexec; started by an mpiexec itself (on several machines, say), it is one of them. All ranks
run the same command, and only rank 0 writes. Between passes a rank that fails says so to the others, and all end
together; within a pass the others wait in MPI, so it ends them.
"""

import argparse
import importlib
import io
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import tiny.__main__ as commands
from tiny import parallel
from tiny.config import TinyError
from tiny.mixtral import Mixtral
from tiny.parallel.cost import bytes_sent
from tiny.parallel.launch import DONE, hello, launch, own_rank, say
from tiny.parallel.ranks import Ranks, Together
from tiny.parallel.shards import SPLITS
from tiny.tools import session
from tiny.tools.memory import amount
from tiny.tools.terminal import Parser, explain, note, one_line, program

COMMANDS = ("generate", "describe", "verify")
TEXTS = ("prompt", "question")  # options for which - is standard input
MOST = 4096  # ranks


def main(argv: list[str] | None = None) -> int:
    """Run one command on several ranks; return the exit status."""
    argv = sys.argv[1:] if argv is None else list(argv)
    options, args = read_arguments(argv)
    if own_rank() is not None:
        if options.watched:
            say(hello())
        return OneProcess(options, args, argv).run()
    own = [sys.executable, "-m", "tiny.parallel", "--watched", *argv]
    return launch(own, options.ranks, args.debug, reads=reads_input(args))


def read_arguments(argv: Sequence[str]) -> tuple[argparse.Namespace, argparse.Namespace]:
    """The options of this command, and those of the command that the ranks run. Raises TinyError."""
    parser = Parser(prog="python -m tiny.parallel", description="Run a command of python -m tiny on several ranks.")
    parser.add_argument("--ranks", type=int, required=True, metavar="N", help="processes, at least 1")
    parser.add_argument("--split", choices=SPLITS, default="experts",
                        help="experts: whole experts, the numbers of one process to the bit; all: heads and rows of "
                             "everything; default: %(default)s")
    parser.add_argument("--watched", action="store_true", help=argparse.SUPPRESS)  # the ranks say when they are done
    parser.add_argument("command", type=str, metavar="COMMAND", nargs=argparse.REMAINDER,
                        help=f"{', '.join(COMMANDS)}, with its options as for python -m tiny")
    options = parser.parse_args(argv)
    if not 1 <= options.ranks <= MOST:
        raise TinyError(f"--ranks is {options.ranks}.", f"Use a number from 1 to {MOST:,}.")
    if options.command[:1] == ["verify"] and options.split == "all":
        raise TinyError("verify compares single operations, and with --split all no rank has a whole one.",
                        "Use --split experts, or one process: python -m tiny verify.")
    if options.command[:1] not in [[name] for name in COMMANDS] or options.command[:2] in (
            ["verify", "dump"], ["verify", "results"]):
        raise TinyError(f"{' '.join(options.command[:2]) or 'Nothing'} is no command that several ranks can run.",
                        "Use generate, describe or verify check.")
    args = commands.build_parser().parse_args(options.command)
    args.debug = args.debug or "--debug" in argv
    if getattr(args, "device", "cpu") != "cpu" and args.kernels is None:
        raise TinyError("Without names, the kernels keep all arrays on the device, where MPI does not reach them.",
                        "Name them: --kernels rms_norm,route,experts, say.")
    return options, args


def reads_input(args: argparse.Namespace) -> bool:
    """Whether a text is to come from standard input."""
    return any(getattr(args, name, None) == "-" for name in TEXTS)


class OneProcess:
    """One rank's run of a command."""

    def __init__(self, options: argparse.Namespace, args: argparse.Namespace, argv: list[str]) -> None:
        self.options, self.args, self.ranks = options, args, Ranks()
        self.model: Any = None
        self.alike = [word for word in argv if word != "--watched"]

    def run(self) -> int:
        """Run the command; return the status of rank 0, and 0 for the others, which are silent."""
        if self.ranks.rank:
            sys.stdout = sys.stderr = open(os.devnull, "w", encoding="utf-8")
        try:
            status = self.work()
            sys.stdout.flush()
            self.ranks.meet()
            if self.options.watched and self.ranks.rank == 0:
                say(DONE)
            return status * (self.ranks.rank == 0)
        except Together:
            if self.ranks.rank == 0:
                raise
            return 0
        except BaseException as error:
            return self.fail(error)

    def work(self) -> int:
        """The command itself, with a model of which every rank has a part."""
        if self.ranks.size != self.options.ranks:
            raise Together(f"--ranks is {self.options.ranks}, and MPI started {self.ranks.size}.",
                           "Give mpiexec -n and --ranks the same number.")
        self.ranks.agree({"their arguments": self.alike}, "Start every rank with the same command.")
        args = self.args
        if reads_input(args):  # mpiexec gives it to rank 0
            text = sys.stdin.read(session.LONGEST_TEXT + 1) if self.ranks.rank == 0 else None
            sys.stdin = io.StringIO(self.ranks.tell(text)[0])
        if "temperature" in args:
            session.check_options(args)
            args.seed = self.ranks.tell(session.choose_seed(args))[0]
        if self.ranks.rank:
            args.patches = args.plot = None  # pictures that rank 0 writes
        args.load = self.load
        command = importlib.import_module(f"tiny.tools.{args.command}")
        return command.main(args) or 0

    def load(self, folder: str | Path, **options: Any) -> Mixtral:
        """What the command opens its model with; says what this rank holds and sends."""
        if getattr(self.args, "device", "cpu") != "cpu":
            options["ops"] = commands.choose_loader(self.args)(folder, **options | {"weights": "mapped"}).ops
        model: Any = parallel.load(folder, self.ranks, self.options.split, **options)
        if model.weights.mode == "streamed" and self.args.memory is None:
            self.args.memory = model.weights.shelf.limit / 1e9  # a share: other ranks of this machine take theirs
        self.model, size = model, self.ranks.size
        held = sum(tensor.nbytes for tensor in model.weights.tensors.values())
        sent = bytes_sent(model.whole, size, self.options.split, 1, 1)
        note(f"{size} rank{'s' * (size > 1)}, {amount(held)} of weights each, {amount(sent)} sent for a token")
        return model

    def fail(self, error: BaseException) -> int:
        """End all ranks because this one failed: together, if the others can be asked, or else by force."""
        if self.args.debug:
            traceback.print_exception(error, file=sys.__stderr__)
        own = isinstance(error, (BrokenPipeError, KeyboardInterrupt))  # they have a status of their own
        if isinstance(error, SystemExit) or not isinstance(error, Exception):
            code = getattr(error, "code", type(error).__name__)
            told = TinyError(f"The program of this rank was ended, with status {code}.", "--debug shows where.")
        else:
            told = TinyError(*explain(error))
        # Between passes verify runs single operations, in which others wait too; what they raise is no TinyError.
        if getattr(self.model, "inside", False) or (self.args.command == "verify" and not isinstance(error, TinyError)):
            self.abort(told)
        try:
            self.ranks.meet(told)
        except Together as joint:
            if self.ranks.rank == 0:
                raise (error if own else joint) from None
        return 0

    def abort(self, told: TinyError) -> NoReturn:
        """Say the error and end all ranks."""
        say(f"error: rank {self.ranks.rank}: {one_line(told.cause)}\nremedy: {one_line(told.remedy)}")
        self.ranks.comm.Abort(2)
        raise SystemExit(2)


if __name__ == "__main__":
    program(main)
