"""The process that runs one function of one submission. Nothing in here decides about points.

It is started by `isolated.py` with `python -I worker.py TREE FOLDER FILE NAME MEGABYTES SECONDS`: TREE holds a copy of
the book with holes, FOLDER a copy of the submission. It answers calls on its standard input and output, one message
for each; what the submission prints goes elsewhere. A message is the length of a JSON text, that text, and the bytes
of the arrays that it mentions. Nothing is ever unpickled, on either side.
"""

import importlib.util
import json
import os
import resource
import struct
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

import ml_dtypes
import numpy as np

LONGEST = 1 << 28  # bytes of a message
KINDS = "biuf"  # arrays of booleans, integers and floats; bfloat16 besides
# What a submission has no reason to do; besides, files are opened for writing in FOLDER only.
FORBIDDEN = ("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.chmod", "os.chown", "os.link", "os.symlink",
             "os.truncate", "os.kill", "os.killpg", "os.fork", "os.forkpty", "os.exec", "os.posix_spawn", "os.spawn",
             "os.system", "shutil.", "subprocess.", "socket.", "ctypes.", "pty.", "signal.", "resource.setrlimit",
             "sqlite3.", "urllib.", "webbrowser.", "mmap.")


class Unsendable(TypeError):
    """A value that no message can hold."""


class Reader:
    """Reads whole messages; `fill(n)` gives the next n bytes."""

    def __init__(self, fill: Callable[[int], bytes]):
        self.fill = fill

    def message(self) -> dict:
        """The next message, with arrays in place of what mentions them."""
        head, body = struct.unpack("<QQ", self.fill(16))
        if head + body > LONGEST:
            raise ValueError(f"a message of {head + body} bytes")
        tree = json.loads(self.fill(head))
        return decode(tree, self.fill(body))


def pack(message: dict) -> bytes:
    """A message as bytes."""
    buffers: list[bytes] = []
    head = json.dumps(encode(message, buffers)).encode()
    body = b"".join(buffers)
    return struct.pack("<QQ", len(head), len(body)) + head + body


def encode(value: object, buffers: list[bytes]) -> object:
    """Plain values as they are in JSON; arrays, tuples and tables tagged, the bytes of arrays aside."""
    if value is None or isinstance(value, bool | int | float | str):
        return value if not isinstance(value, np.generic) else encode(np.asarray(value), buffers)
    if isinstance(value, np.ndarray | np.generic):
        array = np.asarray(value)
        if array.dtype.kind not in KINDS and array.dtype != ml_dtypes.bfloat16:
            raise Unsendable(f"an array of {array.dtype}")
        buffers.append(array.tobytes())
        return {"array": [array.dtype.name, list(array.shape), isinstance(value, np.generic)]}
    if isinstance(value, list | tuple):
        return {type(value).__name__ if type(value) in (list, tuple) else "tuple": [encode(v, buffers) for v in value]}
    if isinstance(value, dict):
        return {"dict": {str(key): encode(v, buffers) for key, v in value.items()}}
    raise Unsendable(f"a {type(value).__name__}")


def decode(tree: object, body: bytes) -> dict:
    """The opposite of encode; raises ValueError where the bytes are not as many as the arrays need."""
    at = 0

    def visit(tree):
        nonlocal at
        if not isinstance(tree, dict):
            return tree
        ((kind, value),) = tree.items()
        if kind == "array":
            dtype, shape, scalar = np.dtype(str(value[0])), tuple(int(n) for n in value[1]), value[2]
            size = int(np.prod(shape, dtype=object)) * dtype.itemsize
            if dtype.hasobject or min(shape, default=0) < 0 or at + size > len(body):
                raise ValueError(f"an array {shape} of {dtype} in {len(body)} bytes")
            array = np.frombuffer(body[at : at + size], dtype).reshape(shape).copy()
            at += size
            return array[()] if scalar else array
        if kind == "dict":
            return {key: visit(v) for key, v in value.items()}
        return {"list": list, "tuple": tuple}[kind](visit(v) for v in value)

    message = visit(tree)
    if not isinstance(message, dict) or at != len(body):
        raise ValueError("a message that is no dictionary, or has bytes that no array uses")
    return message


class Remote(Sequence):
    """A sequence in the other process: an element is asked for when it is used."""

    def __init__(self, ask: Callable[[dict], dict], name: str, length: int):
        self.ask, self.name, self.length = ask, name, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index):
        answer = self.ask({"get": self.name, "index": int(index)})
        if "error" in answer:
            raise IndexError(answer["error"])
        return answer["value"]


def load(folder: Path, file: str) -> ModuleType:
    """A submission's file as a module."""
    spec = importlib.util.spec_from_file_location(f"submission_{Path(file).stem}", folder / file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def watch(folder: Path, tell: Callable[[dict], None]) -> None:
    """End this process, after saying why, as soon as it tries what a submission has no reason to do."""
    # Kept here, where the submission's own assignments do not reach.
    forbidden, leave, absolute, decoded = FORBIDDEN, os._exit, os.path.abspath, os.fsdecode
    inside, devnull, writing = str(folder) + os.sep, os.devnull, os.O_WRONLY | os.O_RDWR

    def guard(event: str, args: tuple) -> None:
        if event == "open":
            path, mode, flags = args
            if isinstance(path, int):
                return
            # open() gives a mode, os.open() flags alone.
            writes = any(c in (mode or "") for c in "wax+") or bool((flags or 0) & writing)
            where = absolute(decoded(path))
            if not writes or where.startswith(inside) or where == devnull:
                return
            what = f"open {where} for writing"
        elif event.startswith(forbidden):
            what = f"{event} {', '.join(repr(a)[:80] for a in args if isinstance(a, str | bytes | int))}".strip()
        else:
            return
        try:
            tell({"forbidden": what})
        finally:
            leave(3)

    sys.addaudithook(guard)


def main() -> None:
    """Answer calls until the input ends."""
    tree, folder, file, name, megabytes, seconds = sys.argv[1:]
    tell, reader = channel()

    def ask(message: dict) -> dict:
        tell(message)
        return reader.message()

    sys.path.insert(0, tree)
    importlib.import_module("tiny." + Path(file).stem)
    for kind, limit in (("AS", int(megabytes) << 20), ("CPU", int(seconds)), ("FSIZE", 1 << 20), ("CORE", 0)):
        resource.setrlimit(getattr(resource, "RLIMIT_" + kind), (limit, limit))
    watch(Path(folder), tell)
    try:
        module = load(Path(folder), file)
        function: object = module
        for part in name.split("."):
            function = getattr(function, part)
        tell({"ready": True})
    except BaseException as error:  # Also SystemExit: whatever it is, the grader is told and goes on.
        tell(failure(error))
        return
    while True:
        call = reader.message()
        try:
            tell(answer(function, module, call, ask))
        except BaseException as error:
            tell(failure(error))


def channel() -> tuple[Callable[[dict], None], Reader]:
    """How to send and to receive messages; afterwards prints go to the standard error and there is no input."""
    ours, source = os.dup(1), os.dup(0)
    os.dup2(2, 1)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)

    def tell(message: dict) -> None:
        data = memoryview(pack(message))
        while data:
            data = data[os.write(ours, data) :]

    def take(n: int) -> bytes:
        parts = []
        while n:
            part = os.read(source, min(n, 1 << 20))
            if not part:
                os._exit(0)
            parts.append(part)
            n -= len(part)
        return b"".join(parts)

    return tell, Reader(take)


def answer(function: Callable, module: ModuleType, call: dict, ask: Callable[[dict], dict]) -> dict:
    """Call the function; give its result, which arrays it changed, and what became of the object it is a method of."""
    args = [Remote(ask, *value["remote"]) if isinstance(value, dict) else value for value in call["args"]]
    before = [value.copy() if isinstance(value, np.ndarray) else None for value in args]
    owner = call["owner"] and rebuild(module, call["owner"])
    result = function(*([owner] if owner else []), *args)
    changed = [n for n, (old, new) in enumerate(zip(before, args))
               if old is not None and old.tobytes() != new.tobytes()]
    return {"result": result, "changed": changed, "owner": state(owner) if owner else None}


def rebuild(module: ModuleType, owner: dict) -> object:
    """A cache with the rows and slots of another one. Shapes:  keys, values (L, S, G, d)."""
    cache = object.__new__(module.KVCache)
    cache.keys, cache.values = owner["keys"], owner["values"]
    cache.slots = [module.Slot(*slot) for slot in owner["slots"]]
    return cache


def state(cache) -> dict:
    """What `rebuild` needs to make the same cache elsewhere."""
    return {"keys": cache.keys, "values": cache.values,
            "slots": [(slot.start, slot.capacity, slot.length) for slot in cache.slots]}


def failure(error: BaseException) -> dict:
    """An exception as a message: its kind, its words, and the last line of the submission that it came from."""
    line, trace = 0, error.__traceback__
    while trace:
        if trace.tb_frame.f_globals.get("__name__", "").startswith("submission_"):
            line = trace.tb_lineno
        trace = trace.tb_next
    return {"raised": type(error).__name__, "text": str(error)[:500], "line": line}


if __name__ == "__main__":
    main()
