"""Files and folders written whole or not at all: whatever happens, a name is absent, old and whole, or new and whole.

Linux has files without a name (O_TMPFILE): such a file gets its name when it is whole, and nothing is left of a process
that is killed before. Elsewhere, and for the moment in which a new file takes the place of an old one, it is called
NAME.XXXXXXXX.part. Its writer holds a lock on it; what nobody holds any more, the next write of NAME removes.

Read `free_memory.py` next.
"""

import contextlib
import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

STREAM = re.compile("/dev/(?:std|fd/)(out|err|[0-9]+)")  # what a shell has opened, perhaps a plain file
PART = ".{}.part"  # what is behind the name of something unfinished, with eight hexadecimal digits


def write_whole(path: str | Path, content: str | bytes | Callable[[BinaryIO], object]) -> None:
    """Write a file, and give it its name once it is on the disk. A function gets the open file to write to.

    A link stays a link, to a new file. What is no plain file, as /dev/stdout, is written to directly.

    Raises:  OSError, also for a pipe that nobody reads
    """
    data = content.encode() if isinstance(content, str) else content
    write = data if callable(data) else lambda file: file.write(data)
    if STREAM.fullmatch(str(path)) or os.path.exists(path) and not os.path.isfile(path):
        with open(path, "wb", opener=open_pipe) as pipe:
            write(pipe)
        return
    path = Path(path).resolve()
    unfinished(path)
    part = part_of(path)
    try:
        with open_unnamed(path.parent) or open_named(part) as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
            if isinstance(file.name, int) and give_name(file, path, part):
                return
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def open_pipe(path: str, flags: int) -> int:
    """Open a stream, a pipe or a device; a pipe without a reader is an error at once."""
    if stream := STREAM.fullmatch(path):
        return os.dup({"out": 1, "err": 2}.get(stream[1]) or int(stream[1]))
    number = os.open(path, (flags | os.O_NONBLOCK) & ~os.O_CREAT)
    os.set_blocking(number, True)
    return number


def open_unnamed(folder: Path) -> BinaryIO | None:
    """A new file without a name, locked; None where the system or the disk has no such files."""
    try:
        number = os.open(folder, os.O_TMPFILE | os.O_RDWR, 0o666)
    except (OSError, AttributeError):
        return None
    file = os.fdopen(number, "w+b")
    if not os.path.exists(f"/proc/self/fd/{number}"):
        file.close()
        return None
    lock(number)
    return file


def open_named(part: Path) -> BinaryIO:
    """A new file of this name, locked. Another writer may have taken it for a leftover before that: then once more."""
    while True:
        file = open(part, "xb")
        lock(file.fileno(), wait=True)
        if part.exists():
            return file
        file.close()


def give_name(file: BinaryIO, path: Path, part: Path) -> bool:
    """Give a file without a name its own, if that is free, else the name `part`; True if it has its own.

    Where that is refused, as in some containers, a copy gets the name `part`.
    """
    for name in (path, part):
        try:
            # A folder of the source is named although it is not used: without one, Python links to the link in /proc.
            os.link(f"/proc/self/fd/{file.fileno()}", name, src_dir_fd=file.fileno(), follow_symlinks=True)
            return name == path
        except FileExistsError:
            continue
        except OSError:
            break
    file.seek(0)
    with open_named(part) as copy:
        shutil.copyfileobj(file, copy)
        copy.flush()
        os.fsync(copy.fileno())
    return False


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A new folder to fill, which gets the name `path` at the end, or is removed if anything is raised.

    Raises:  BlockingIOError if another process fills one for this name, OSError if the name is taken at the end
    """
    if unfinished(path):
        raise BlockingIOError(f"{path} is being written")
    part = part_of(path)
    part.mkdir()
    number = os.open(part, os.O_RDONLY)
    try:
        lock(number)
        yield part
        os.rename(part, path)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    finally:
        os.close(number)


def part_of(path: Path) -> Path:
    """A name for something unfinished that is to become `path`."""
    return path.with_name(path.name + PART.format(secrets.token_hex(4)))


def unfinished(path: Path) -> list[Path]:
    """What other processes are writing for this name just now. What dead ones have left is removed."""
    pattern = re.compile(re.escape(path.name) + PART.format("[0-9a-f]{8}"))
    busy = []
    for part in path.parent.iterdir() if path.parent.is_dir() else ():
        if not pattern.fullmatch(part.name) or part.is_symlink():
            continue
        with contextlib.suppress(OSError):  # It may have got its name meanwhile.
            number = os.open(part, os.O_RDONLY | os.O_NONBLOCK)
            try:
                if not lock(number):
                    busy.append(part)
                elif part.is_dir():
                    shutil.rmtree(part, ignore_errors=True)
                else:
                    part.unlink()
            finally:
                os.close(number)
    return busy


def lock(number: int, wait: bool = False) -> bool:
    """Lock an open file until it is closed; False if another holds it, or the disk knows no locks."""
    try:
        fcntl.flock(number, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        return False
    return True
