"""Reads past the page cache: parts of files, by several threads, into memory of this process.

Where files are larger than memory, the page cache drops what was just read to make room for what comes next. A direct
read (O_DIRECT) goes from the disk into our own buffer, and a few of them at a time reach the disk's full rate. Its
rule: buffer, place in the file and length are multiples of a page. Read `hub.py` next.
"""

import ctypes
import mmap
import os
import re
import threading
import time
import weakref
from bisect import bisect
from collections import deque
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.array_utils import byte_bounds

from tiny.config import TinyError
from tiny.system.free_memory import read

PAGE = mmap.PAGESIZE
# Bytes of one read, and reads at a time. With 8 threads a virtual disk was no faster than with 4.
PIECE, THREADS = 4 << 20, 4
# A line of /proc/self/maps: begin and end in memory, rights, place in the file, device, inode, path.
MAPPED = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) \S+ ([0-9a-f]+) \S+ [1-9]\d* +(/.*)$", re.M)


class Refused(Exception):
    """Direct reads do not work here; the message says why."""


class Span(NamedTuple):
    """Where an array is: in which file, from which byte on, and how many bytes it has."""

    path: str
    start: int
    size: int


class Arrival:
    """A span on its way into a buffer.

    what: its name, for messages; left: pieces still to come; buffer: pages, in which the span begins at `skip`
    """

    def __init__(self, what: str, span: Span, buffer: mmap.mmap):
        self.what, self.span, self.buffer, self.skip = what, span, buffer, span.start % PAGE
        self.left, self.over = len(range(0, self.skip + span.size, PIECE)), threading.Event()
        self.error: Exception | None = None

    def fail(self, error: Exception) -> None:
        """Let whoever waits have an error, the first that came."""
        self.error = self.error or error
        self.over.set()


class DirectReader:
    """Files that are read directly. Its threads live while there is something to read.

    bytes_read: so far; seconds: in which at least one read was under way. It is Refused where the system, or the disk
    of one of the files, has no direct reads.
    """

    def __init__(self, paths: Iterable[str]):
        self.files: dict[str, tuple[int, int]] = {}
        self.lock, self.jobs, self.running = threading.Lock(), deque[tuple[Arrival, int]](), 0
        self.bytes_read, self.busy, self.since = 0, 0.0, 0.0
        opened = ExitStack()
        weakref.finalize(self, opened.close)
        try:
            for path in paths:
                file = os.open(path, os.O_RDONLY | os.O_DIRECT)
                opened.callback(os.close, file)
                self.files[path] = file, os.fstat(file).st_size
        except (OSError, AttributeError) as error:  # macOS and Windows have no such flag
            reason = getattr(error, "strerror", None) or "this system has none"
            raise Refused(f"direct reads are refused here ({reason})") from None

    @property
    def seconds(self) -> float:
        """Seconds in which something was read."""
        with self.lock:
            return self.busy + (time.perf_counter() - self.since if self.running else 0.0)

    def read(self, what: str, span: Span, buffer: mmap.mmap) -> Arrival:
        """Begin to read a span into a buffer of `pages_for` its size; `wait` says when it is there."""
        arrival = Arrival(what, span, buffer)
        with self.lock:
            self.jobs.extend((arrival, place) for place in range(0, arrival.skip + span.size, PIECE))
        self.start_threads()
        return arrival

    def start_threads(self) -> None:
        """As many as there is work for. A thread counts itself, so that Ctrl-C in here leaves no wrong number."""
        for _ in range(min(THREADS - self.running, len(self.jobs))):
            threading.Thread(target=self.work, name="direct read", daemon=True).start()

    def wait(self, arrival: Arrival) -> None:
        """Wait until all of a span is there. Raises TinyError if it could not be read."""
        self.start_threads()
        arrival.over.wait()
        if arrival.error:
            raise arrival.error

    def stop(self) -> None:
        """Give up what was not begun; who waits for it gets an error."""
        with self.lock:
            jobs, self.jobs = self.jobs, deque()
        for arrival, _ in jobs:
            arrival.fail(TinyError(f"Reading {arrival.what} was stopped.", "Ask for it again."))

    def work(self) -> None:
        """What a thread does: one piece after another, until none is left."""
        with self.lock:
            self.since = self.since if self.running else time.perf_counter()
            self.running += 1
        while True:
            with self.lock:
                if not self.jobs:
                    self.running -= 1
                    self.busy += 0.0 if self.running else time.perf_counter() - self.since
                    return
                arrival, place = self.jobs.popleft()
            try:
                count = 0 if arrival.error else self.read_piece(arrival, place)
            except Exception as error:
                count = 0
                arrival.fail(error)
            with self.lock:
                self.bytes_read += count
                arrival.left -= 1
                if not arrival.left:
                    arrival.over.set()

    def read_piece(self, arrival: Arrival, place: int) -> int:
        """Read one piece of a span; return its bytes. An error names tensor and file."""
        what, span, whole = arrival.what, arrival.span, arrival.skip + arrival.span.size
        file, size = self.files[span.path]
        at, count = span.start - arrival.skip + place, 0
        due = min(PIECE, whole - place)  # The rest of the last page belongs to others, or lies behind the file's end.
        with memoryview(arrival.buffer)[place : min(place + PIECE, whole_pages(whole))] as piece:
            while count < due:
                try:
                    got = os.preadv(file, [piece[count:]], at + count)
                except OSError as error:
                    raise TinyError(f"{span.path}: tensor {what} cannot be read at byte {at + count:,}: "
                                    f"{error.strerror}.", "Check the disk, and fetch the file again.") from None
                count += got
                if count < due and (not got or got % PAGE):
                    now = os.fstat(file).st_size
                    why = f"the file has {now:,} bytes and had {size:,}" if now != size else (
                        f"{count:,} bytes came of {due:,}")
                    raise TinyError(f"{span.path}: tensor {what} cannot be read whole: {why}.",
                                    "Leave the file alone while a model reads it, and fetch it again.")
        return count


def whole_pages(size: int) -> int:
    """A number of bytes, rounded up to whole pages."""
    return -(-size // PAGE) * PAGE


def pages_for(size: int) -> int:
    """The size of a buffer that holds so many bytes of a file, wherever they begin in their first page."""
    return whole_pages(size) + PAGE


def mapped_files() -> list[tuple[int, int, int, str]]:
    """What Linux has mapped for this process: where it begins and ends in memory, its place in a file, and which."""
    return sorted((int(begin, 16), int(end, 16), int(offset, 16), path)
                  for begin, end, offset, path in MAPPED.findall(read("/proc/self/maps")))


def find_spans(arrays: Mapping[str, Any]) -> dict[str, Span]:
    """Where views of mapped files are in these files. Other arrays are Refused."""
    maps = mapped_files() or [(0, 0, 0, "")]
    spans = {}
    for name, array in arrays.items():
        low, high = byte_bounds(array) if isinstance(array, np.ndarray) else (0, 0)
        begin, end, offset, path = maps[max(0, bisect(maps, low, key=itemgetter(0)) - 1)]
        if not begin <= low < end or high - low != array.nbytes:
            raise Refused(f"{name} is no plain part of a file, or the system does not say of which")
        spans[name] = Span(path, offset + low - begin, array.nbytes)
    return spans


def check_direct(reader: DirectReader, arrays: Mapping[str, np.ndarray], spans: Mapping[str, Span]) -> None:
    """Read a page of each file, and compare it with the same page in memory. What does not work is Refused."""
    for name, span in {span.path: (name, span) for name, span in spans.items()}.values():
        size = min(span.size, PAGE)
        arrival = reader.read(name, span._replace(size=size), mmap.mmap(-1, pages_for(size)))
        try:
            reader.wait(arrival)
        except TinyError as error:
            raise Refused(error.cause) from None
        low = byte_bounds(arrays[name])[0]
        if arrival.buffer[arrival.skip : arrival.skip + size] != ctypes.string_at(low, size):
            raise Refused(f"{span.path} is another file than the one that was mapped")
