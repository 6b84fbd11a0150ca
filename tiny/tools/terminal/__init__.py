"""What every program here does at its edges: streams, signals, errors in two lines, and text that is safe to print."""

import argparse
import ctypes
import io
import mmap
import os
import signal
import sys
import traceback
import unicodedata
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn, TextIO

from tiny.config import TinyError
from tiny.system.direct import mapped_files

MEMORY = "Use --weights mapped, a shorter prompt, or fewer tokens."
# Line and paragraph separators, and the marks that turn the direction of writing: with control characters, all that can
# make a line look like another one.
UNSAFE = set("\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


class Parser(argparse.ArgumentParser):
    """A parser whose errors are TinyErrors: one line of cause, one of remedy.

    An argument may be empty only with type=str, as a prompt: an empty name of a file would be the folder we are in.
    """

    def __init__(self, *arguments: Any, **options: Any):
        super().__init__(*arguments, **options)
        self.register("type", None, not_empty)
        self.register("type", Path, lambda text: Path(not_empty(text)))

    def add_subparsers(self, **options: Any) -> Any:
        """Commands, each with a parser of its own: it judges the arguments that come behind its name."""
        commands = super().add_subparsers(**options)
        commands.type = str
        return commands

    def error(self, message: str) -> NoReturn:
        raise TinyError(message[0].upper() + message[1:] + ".", f"See {self.prog} --help.")


def not_empty(text: str) -> str:
    """The text of an argument, unless there is none; a shell makes that of a variable that is not set."""
    if not text:
        raise argparse.ArgumentTypeError("it is empty")
    return text


def check_numbers(options: argparse.Namespace, limits: Mapping[str, tuple[float, float]]) -> None:
    """Check options by name against the least and the most that each takes; one that was not given is None.

    Raises:  TinyError for a number outside of its limits; NaN is outside of all
    """
    for name, (least, most) in limits.items():
        given = getattr(options, name)
        for value in given if isinstance(given, list) else [given]:
            if value is not None and not least <= value <= most:
                raise TinyError(f"--{name.replace('_', '-')} is {value}.",
                                f"Use a number from {in_full(least)} to {in_full(most)}.")


def in_full(number: float) -> str:
    """A limit as it is typed: a whole number with all of its digits."""
    return f"{number:,}" if isinstance(number, int) else f"{number:g}"


def program(main: Callable[[], int | None]) -> NoReturn:
    """Run a program and end with its status. SIGTERM and SIGHUP end it as Ctrl-C does: nothing half-written stays."""
    open_streams()
    _handler = catch_bus_error()  # which must live as long as the process
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_DFL:  # nohup, for one, lets SIGHUP be ignored
            signal.signal(number, lambda number, _: sys.exit(128 + number))
    sys.exit(guarded(main, "--debug" in sys.argv))


def catch_bus_error() -> object:
    """Say it in two lines if a mapped file is cut while it is used: the system then ends a process without a word.

    A handler of Python's own would never run, because the processor comes back to the same instruction.
    """
    def end(_: int) -> None:
        try:
            say_cut_files()
        finally:
            os._exit(2)
    try:
        handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(end)
        ctypes.CDLL(None).signal(signal.SIGBUS, handler)
    except (AttributeError, OSError, TypeError):  # Windows
        return None
    return handler


def say_cut_files() -> None:
    """Name the mapped files that end before what is mapped of them."""
    cut = [path for begin, end, offset, path in mapped_files()
           if os.path.isfile(path) and os.path.getsize(path) <= offset + end - begin - mmap.PAGESIZE]
    text = (f"error: {one_line(', '.join(cut) or 'A mapped file')} was cut, or cannot be read, while it was used.\n"
            "remedy: Leave the files of a model alone while it runs; check the disk, and fetch them again.\n")
    os.write(2, text.encode("utf-8", "replace"))


def open_streams() -> None:
    """Text is UTF-8 whatever the locale says; a stream that is closed leads nowhere.

    Bytes of the input that are not UTF-8 become half surrogates, which `as_text` refuses where the text is used.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # It takes the lowest free number, which is this one.
    sys.stdin = sys.stdin or open(0, encoding="utf-8", closefd=False)
    sys.stdout = sys.stdout or open(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = sys.stderr or open(2, "w", encoding="utf-8", closefd=False)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding=None if stream.isatty() else "utf-8", errors="backslashreplace")
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(encoding="utf-8", errors="surrogateescape")


def guarded(work: Callable[[], int | None], debug: bool = False, memory: str = MEMORY) -> int:
    """The exit status of some work: its own, 2 after an error, 130 after Ctrl-C, 141 after a closed pipe.

    memory: the remedy where memory runs out
    """
    try:
        status = work() or 0
        sys.stdout.flush()
        return status
    except SystemExit as stop:  # --help has printed its text, or a signal came
        return int(stop.code or 0)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        silence(sys.stdout)
        return 141
    except Exception as error:
        tell(error, debug, memory)
        return 2


def tell(error: Exception, debug: bool, memory: str) -> None:
    """Say an error in two lines on standard error, after what was printed before it."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            silence(stream)
    if debug:
        traceback.print_exc()
    try:
        for label, line in zip(("error", "remedy"), explain(error, memory)):
            say(f"{label}: {one_line(line)}")
    except OSError:  # Nobody reads it, and there is no other place to say so.
        silence(sys.stderr)


def silence(stream: TextIO) -> None:
    """Let a stream that failed lead nowhere: what is in its buffer would fail again when Python ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def explain(error: Exception, memory: str = MEMORY) -> tuple[str, str]:
    """Cause and remedy of any error."""
    if isinstance(error, TinyError):
        return error.cause, error.remedy
    if isinstance(error, MemoryError):
        return f"Memory ran out{': ' * bool(str(error))}{error}.", memory
    if isinstance(error, UnicodeDecodeError):
        return f"The input is not UTF-8 text: {error}.", "Convert it, for example with iconv."
    if isinstance(error, OSError):
        what = f"{error.filename}: {error.strerror}" if error.filename and error.strerror else error.strerror or error
        return f"{what}.", "Check the path, its permissions, and the space left."
    return f"{type(error).__name__}: {error}", "This is unexpected: --debug shows where it happened."


def note(text: str) -> None:
    """Tell the user something beside the text, on standard error."""
    say(f"note: {one_line(text)}")


def say(line: str) -> None:
    """Write a line to standard error in one piece: print may write its end apart, and other processes write there."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def clean(text: str, keep: str = "") -> str:
    """Text whose control characters are U+FFFD: names in files, and texts of models, can hold anything."""
    return "".join(c if c in keep or not (unicodedata.category(c) == "Cc" or c in UNSAFE) else "\ufffd" for c in text)


def printable(text: str) -> str:
    """Text of several lines without control characters, which could command a terminal."""
    return clean(text, keep="\n\t")


def one_line(text: object, limit: int = 1000) -> str:
    """Anything as one line that is safe to print, in a message or as a cell of a table."""
    line = clean(" ".join(str(text).split("\n")))
    return line if len(line) <= limit else line[:limit] + " ..."


def as_text(raw: str, what: str) -> str:
    """What a user typed, or a file holds, as text: without a byte order mark, with \\n for Windows' line ends.

    Raises:  TinyError for bytes that are not UTF-8
    """
    try:
        data = raw.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # It never was bytes; whoever takes text refuses it.
        return raw
    try:
        return data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        kind = "UTF-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "LATIN1"
        raise TinyError(f"{what} is not UTF-8 text: it has the byte 0x{data[error.start]:02X} at place {error.start}.",
                        f"Convert it: iconv -f {kind} -t UTF-8 FILE, and - in place of a text reads standard "
                        "input.") from None
