"""The process that runs one function of one submission. Nothing in here decides about points.

It answers calls on its standard input and output, one message for each (messages.py); what the submission prints goes
elsewhere. It is started by `isolated.py` with one argument, a JSON text with the fields of `Job`.
"""

import importlib
import importlib.util
import json
import os
import resource
import shutil
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType

import numpy as np

from tutorial.grader import doors
from tutorial.grader.messages import Reader, Unsendable, pack

LARGEST = 1 << 20  # bytes of a file that it may write


@dataclass(frozen=True)
class Job:
    """What to run: the copy of `file` from the folder `source`, in the folder `home`, under these limits."""

    source: str
    home: str
    file: str
    module: str
    name: str
    seconds: int
    megabytes: int
    readable: list[str]
    hidden: list[str]
    others: list[str]  # functions of the same file that are other exercises


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


def load(path: str) -> ModuleType:
    """A submission's file as a module."""
    name = f"submission_{os.path.basename(path).removesuffix('.py')}"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def main() -> None:
    """Run the job that is the only argument."""
    serve(Job(**json.loads(sys.argv.pop())))


def serve(job: Job) -> None:
    """Answer calls until the input ends. The process never ends by itself: at its end Python takes its hooks away."""
    tell, reader, channel = channels()

    def ask(message: dict) -> dict:
        tell(message)
        return reader.message()

    warnings.formatwarning = warning_line
    file = shutil.copy(f"{job.source}/{job.file}", f"{job.home}/{job.file}")
    book = importlib.import_module(job.module)
    for kind, limit in (("AS", job.megabytes << 20), ("CPU", job.seconds), ("FSIZE", LARGEST), ("CORE", 0)):
        resource.setrlimit(getattr(resource, "RLIMIT_" + kind), (limit, limit))
    doors.take_functions()
    importlib.import_module("tutorial.grader.guard").watch(channel, file, job.home, job.readable, job.hidden,
                                                            (*doors.MODULES, doors.STARTER))
    try:
        module = load(file)
        function: object = part_of(module, job.name)
        for name in job.others:
            owner, _, last = name.rpartition(".")
            setattr(part_of(module, owner), last, part_of(book, name))
        tell({"ready": True})
    except BaseException as error:  # Also SystemExit: whatever it is, the grader is told and goes on.
        tell(failure(error, file))
        os._exit(1)
    while True:
        call = reader.message()
        try:
            tell(answer(function, module, call, ask))
        except BaseException as error:
            tell(failure(error, file))


def warning_line(message: Warning | str, category: type[Warning], filename: str, lineno: int, line=None) -> str:
    """A warning in one line, without the folder: a student knows the file by its name."""
    return f"{os.path.basename(filename)}:{lineno}: {category.__name__}: {message}\n"


def channels() -> tuple[Callable[[dict], None], Reader, int]:
    """How to send and receive messages, and where they go; then prints go to the standard error, and input is empty."""
    ours, source, leave = os.dup(1), os.dup(0), os._exit
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
                leave(0)
            parts.append(part)
            n -= len(part)
        return b"".join(parts)

    return tell, Reader(take, make), ours


def part_of(module: object, name: str) -> object:
    """A function of a module, a method of its class, or the module itself for an empty name."""
    for part in filter(None, name.split(".")):
        module = getattr(module, part)
    return module


def make(kind: str, parts: list) -> object:
    """What a call holds besides plain values: sets, generators, modules and functions of the book, objects of its."""
    if kind in ("set", "frozenset"):
        return {"set": set, "frozenset": frozenset}[kind](parts)
    if kind == "generator":
        generator = np.random.Generator(getattr(np.random, parts[0])())
        generator.bit_generator.state = parts[1]
        return generator
    module, _, name = parts[0].partition(":")
    found = part_of(importlib.import_module(module), name)
    if kind == "object":
        found = object.__new__(found)
        vars(found).update(parts[1])
    return found


def answer(function: Callable, module: ModuleType, call: dict, ask: Callable[[dict], dict]) -> dict:
    """Call the function; give its result, which arrays it changed, those it may write, and what became of the object
    it is a method of.
    """
    args = [Remote(ask, name, call["away"][name]) if name in call["away"] else value
            for name, value in zip(call["names"], call["args"])]
    before = [value.copy() if isinstance(value, np.ndarray) else None for value in args]
    owner = rebuild(module, call["owner"]) if isinstance(call["owner"], dict) else call["owner"]
    result = function(*([] if owner is None else [owner]), *args)
    changed = [n for n, (old, new) in enumerate(zip(before, args))
               if old is not None and old.tobytes() != new.tobytes()]
    written = {name: value for name, value in zip(call["names"], args) if name in call["written"]}
    return {"result": result, "changed": changed, "written": written,
            "owner": state(owner) if isinstance(call["owner"], dict) else None}


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


def failure(error: BaseException, file: str) -> dict:
    """An exception as a message: its kind, its words, and the submission's last line that it came from."""
    line, trace = 0, error.__traceback__
    if isinstance(error, SyntaxError) and error.filename == file:
        line = error.lineno or 0
    while trace:
        if trace.tb_frame.f_code.co_filename == file:
            line = trace.tb_lineno
        trace = trace.tb_next
    # The nearest kind that everybody has: the name of a class is the submission's to choose.
    kind = next(one.__name__ for one in type(error).__mro__ if one.__module__ == "builtins")
    try:
        text = str(error)[:500]
    except Exception:
        text = ""
    return {"raised": "Unsendable" if type(error) is Unsendable else kind, "text": text, "line": line}
