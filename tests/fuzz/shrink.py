"""A smaller input with the same fault: arguments dropped, values made plain, bytes removed and zeroed."""

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

from tests.fuzz.engine import Target, run
from tests.fuzz.mutate import places

SECONDS = 20.0  # for one input
PLAIN = (None, 0, "", [], {})


def shrink(target: Target, data: bytes, fault: str, seconds: float = SECONDS) -> bytes:
    """The smallest input that is found in this time and has the same fault. Each is tried in a child of its own."""
    until = time.monotonic() + seconds

    def same(smaller: bytes) -> bool:
        """Whether this input has the fault, too; never, when the time is over."""
        left = until - time.monotonic()
        return left > 0 and fault in run(Target(target.name, lambda rng: smaller, target.run), 0, 0, 1, left).faults

    before = None
    while data != before and time.monotonic() < until:
        before = data
        data = by_values(data, same)
        data = by_bytes(data, same)
    return data


def by_values(data: bytes, same: Callable[[bytes], bool]) -> bytes:
    """Of JSON, as command lines and chats are: parts that are not needed are dropped, or become plain."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return data
    start = 0
    while True:
        for number, smaller in simpler(value, start):
            text = json.dumps(smaller).encode("utf-8", "surrogatepass")
            if len(text) < len(data) and same(text):
                value, data, start = smaller, text, number
                break
        else:
            return data


def simpler(value: Any, start: int) -> Iterator[tuple[int, Any]]:
    """Numbered copies of a JSON value, each with one part dropped or made plain; those before `start` were in vain."""
    changes = [(path, new) for path in places(value) if path for new in (..., *PLAIN)]
    for number, (path, new) in enumerate(changes[start:], start):
        copied = json.loads(json.dumps(value))
        parent = copied
        for key in path[:-1]:
            parent = parent[key]
        if new is ...:
            del parent[path[-1]]
        else:
            parent[path[-1]] = new
        yield number, copied


def by_bytes(data: bytes, same: Callable[[bytes], bool]) -> bytes:
    """Pieces of half the length, a quarter, down to a byte, are removed; then those that are left become zeros."""
    for filling in (b"", b"\0"):
        size = max(1, len(data) // 2)
        while size:
            at = 0
            while at < len(data):
                piece = data[at : at + size]
                smaller = data[:at] + filling * len(piece) + data[at + size :]
                if smaller != data and same(smaller):
                    data = smaller
                    at += len(piece) * len(filling)
                else:
                    at += size
            size //= 2
    return data
