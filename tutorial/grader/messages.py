"""Messages between the tests and the process that runs a submission: plain values and arrays, never pickled.

Only calls hold more, for the tests make them: objects and functions of the book, named by their module, and generators
of random numbers. A reader that is given no way to make them refuses them.

A message is the length of a JSON text and of the bytes that follow it, that text, and the bytes of the arrays that it
mentions. The reader trusts nothing: whatever bytes come, it gives a dictionary or raises ValueError.
"""

import json
import struct
import types
from collections.abc import Callable, Mapping

import ml_dtypes
import numpy as np

LONGEST = 1 << 28  # bytes of a message
HEAD = 1 << 22  # bytes of its JSON text, which takes many times that when it is read
AXES = 64  # of an array; NumPy has no more
DTYPES = {dtype.name: dtype for dtype in map(np.dtype, (
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64",
    "longdouble", ml_dtypes.bfloat16))}


class Unsendable(TypeError):
    """A value that no message can hold."""


class Reader:
    """Reads whole messages; `fill(n)` gives the next n bytes, `make(kind, parts)` what a call alone may hold."""

    def __init__(self, fill: Callable[[int], bytes], make: Callable[[str, list], object] | None = None):
        self.fill, self.make = fill, make

    def message(self) -> dict:
        """The next message, with arrays in place of what mentions them. Raises ValueError for anything else."""
        head, body = struct.unpack("<QQ", self.fill(16))
        if head > HEAD or body > LONGEST:
            raise ValueError(f"a message of {head + body} bytes")
        text, data = self.fill(head), self.fill(body)
        try:
            return decode(json.loads(text), data, self.make)
        except RecursionError:
            raise ValueError("a message of too many levels") from None


def pack(message: dict, call: bool = False) -> bytes:
    """A message as bytes; a call may hold what is the book's. Raises Unsendable."""
    buffers: list[bytes] = []
    head = json.dumps(encode(message, buffers, call)).encode()
    body = b"".join(buffers)
    return struct.pack("<QQ", len(head), len(body)) + head + body


def encode(value: object, buffers: list[bytes], call: bool = False) -> object:
    """Plain values as they are in JSON; arrays, tuples and tables tagged, the bytes of arrays aside."""
    if isinstance(value, np.ndarray | np.generic):
        array = np.asarray(value)
        if array.dtype not in DTYPES.values():
            raise Unsendable(f"an array of {array.dtype}")
        buffers.append(array.tobytes())
        return {"array": [array.dtype.name, list(array.shape), isinstance(value, np.generic)]}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return {"list" if isinstance(value, list) else "tuple": [encode(v, buffers, call) for v in value]}
    if isinstance(value, bytes):
        return {"bytes": value.decode("latin-1")}
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {"dict": {key: encode(v, buffers, call) for key, v in value.items()}}
    if isinstance(value, Mapping) and (call or isinstance(value, dict)):
        return {"items": [[encode(key, buffers, call), encode(v, buffers, call)] for key, v in value.items()]}
    kind, parts = of_the_book(value) if call else ("", [])
    if not kind:
        raise Unsendable(f"a {type(value).__name__}")
    return {"of the book": [kind, [encode(part, buffers, call) for part in parts]]}


def of_the_book(value: object) -> tuple[str, list]:
    """What a call may hold besides plain values: its kind and its parts, or an empty kind."""
    if isinstance(value, set | frozenset):
        return type(value).__name__, sorted(value)
    if isinstance(value, np.random.Generator):
        return "generator", [type(value.bit_generator).__name__, value.bit_generator.state]
    owner = value if isinstance(value, types.FunctionType) else type(value)
    name = value.__name__ if isinstance(value, types.ModuleType) else f"{owner.__module__}:{owner.__qualname__}"
    if not name.startswith("tiny."):
        return "", []
    return ("named", [name]) if isinstance(value, types.ModuleType | types.FunctionType) else (
        "object", [name, vars(value)])


def decode(tree: object, body: bytes, make: Callable[[str, list], object] | None = None) -> dict:
    """The opposite of encode. Raises ValueError for a tree that encode does not make, or bytes that do not fit."""
    at = 0

    def array(tag: object) -> np.ndarray | np.generic:
        nonlocal at
        match tag:
            case [str(name), list(shape), bool(scalar)] if name in DTYPES and len(shape) <= AXES:
                pass
            case _:
                raise ValueError("an array that is not described as one")
        size = DTYPES[name].itemsize
        for n in shape:
            if type(n) is not int or not 0 <= n <= LONGEST:
                raise ValueError("an array that is not described as one")
            size *= n
        if at + size > len(body) or scalar and shape:
            raise ValueError(f"an array of {size} bytes in {len(body)}")
        found = np.frombuffer(body[at : at + size], DTYPES[name]).reshape(shape).copy()
        at += size
        return found[()] if scalar else found

    def visit(tree: object) -> object:
        match tree:
            case None | bool() | int() | float() | str():
                return tree
            case {"array": tag, **rest} if not rest:
                return array(tag)
            case {"dict": dict(items), **rest} if not rest:
                return {key: visit(value) for key, value in items.items()}
            case {"list": list(items), **rest} if not rest:
                return [visit(value) for value in items]
            case {"tuple": list(items), **rest} if not rest:
                return tuple(visit(value) for value in items)
            case {"bytes": str(text), **rest} if not rest and all(ord(one) < 256 for one in text):
                return text.encode("latin-1")
            case {"items": list(items), **rest} if not rest:
                return table(items)
            case {"of the book": [str(kind), list(items)], **rest} if not rest and make is not None:
                return make(kind, [visit(value) for value in items])
        raise ValueError("a value that no message holds")

    def table(items: list) -> dict:
        found = {}
        for item in items:
            match item:
                case [key, value] if isinstance(key := visit(key), str | bytes | int):
                    found[key] = visit(value)
                case _:
                    raise ValueError("a value that no message holds")
        return found

    message = visit(tree)
    if not isinstance(message, dict) or at != len(body):
        raise ValueError("a message that is no dictionary, or has bytes that no array uses")
    return message
