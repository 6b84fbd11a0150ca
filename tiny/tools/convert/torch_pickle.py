"""A machine for pickles that imports nothing: it knows numbers, texts, tuples, lists, dicts, and a few names.

A pickle is a program. Python's own machine fetches any function that the program names, and calls it. In this one a
name must be in a short list, and the reader handles a call, because it knows what each name of the list means.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass

DEEPEST = 1 << 16  # values on the stack, and marks; Python writes a dict in portions of a thousand entries
MOST_MEMO = 1 << 20
LONGEST = 4096  # bytes of one text


class NotTensors(ValueError):
    """A pickle that wants more than tensors: it names something else, or makes other objects."""


@dataclass(frozen=True)
class Name:
    """A function or class that the pickle names; nothing of that name is looked up anywhere."""

    text: str


class Machine:
    """One run over a pickle of protocol 2, as torch.save writes it.

    names:    the names that it may contain, "module name"
    call:     what to do for a call: (name, arguments) -> value
    storage:  what stands for a persistent id, which is how torch names a record beside the pickle
    """

    def __init__(self, data: bytes, names: frozenset[str], call: Callable, storage: Callable):
        self.data, self.names, self.call, self.storage = data, names, call, storage
        self.position = 0
        self.stack: list = []
        self.marks: list[int] = []
        self.memo: dict[int, object] = {}

    def run(self):
        """The value that the pickle builds. Raises ValueError with the reason if it is damaged, or wants more."""
        while (code := self.take(1)) != b".":
            if code in OBJECTS:
                raise NotTensors(f"its pickle makes other objects (opcode {code!r}); nothing of it was run")
            if code not in STEPS:
                raise ValueError(f"its pickle has the opcode {code!r} at byte {self.position - 1}, which pickles of "
                                 "tensors do not have")
            STEPS[code](self)
            if max(len(self.stack), len(self.marks)) > DEEPEST or len(self.memo) > MOST_MEMO:
                raise ValueError("its pickle keeps too many values at once")
        value = self.pop()
        if self.stack or self.marks or self.position != len(self.data):
            raise ValueError("its pickle does not end where its value is complete")
        return value

    def take(self, count: int) -> bytes:
        """The next bytes of the program."""
        self.position += count
        if self.position > len(self.data):
            raise ValueError("its pickle is cut short")
        return self.data[self.position - count:self.position]

    def number(self, form: str) -> int:
        """The next number, in a form of `struct`."""
        return struct.unpack("<" + form, self.take(struct.calcsize("<" + form)))[0]

    def push(self, value) -> None:
        self.stack.append(value)

    def pop(self):
        """The topmost value above the last mark."""
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise ValueError("its pickle takes more values than it made")
        return self.stack.pop()

    def top(self):
        """The same, left where it is."""
        value = self.pop()
        self.push(value)
        return value

    def pop_mark(self) -> list:
        """All values above the last mark."""
        if not self.marks:
            raise ValueError("its pickle takes a mark that it did not make")
        start = self.marks.pop()
        values = self.stack[start:]
        del self.stack[start:]
        return values

    def tuple_of(self, count: int) -> None:
        values = [self.pop() for _ in range(count)]
        self.push(tuple(reversed(values)))

    def get(self, form: str) -> None:
        index = self.number(form)
        if index not in self.memo:
            raise ValueError(f"its pickle recalls value {index}, which it did not keep")
        self.push(self.memo[index])

    def put(self, form: str) -> None:
        self.memo[self.number(form)] = self.top()

    def text(self) -> None:
        length = self.number("I")
        if length > LONGEST:
            raise ValueError(f"its pickle has a text of {length:,} bytes")
        self.push(self.take(length).decode("utf-8"))

    def long(self) -> None:
        length = self.number("B")
        if length > 9:
            raise ValueError(f"its pickle has a number of {length} bytes")
        self.push(int.from_bytes(self.take(length), "little", signed=True))

    def name(self) -> None:
        """A name is two lines of text."""
        end = self.data.find(b"\n", self.data.find(b"\n", self.position, self.position + 200) + 1, self.position + 400)
        if end < self.position:
            raise ValueError("its pickle is cut short in a name")
        text = self.take(end + 1 - self.position).decode("utf-8", "backslashreplace")[:-1].replace("\n", " ")
        if text not in self.names:
            raise NotTensors(f"its pickle names {text.replace(' ', '.')!r}, which is no part of a tensor that is read "
                             "here; nothing of it was run")
        self.push(Name(text))

    def reduce(self) -> None:
        arguments, function = self.pop(), self.pop()
        if not isinstance(function, Name) or not isinstance(arguments, tuple):
            raise NotTensors("its pickle calls something that is not a function; nothing of it was run")
        self.push(self.call(function.text, arguments))

    def set_items(self, values: list) -> None:
        target = self.top()
        if not isinstance(target, dict) or len(values) % 2:
            raise ValueError("its pickle puts items into something that is not a dict")
        for key, value in zip(values[::2], values[1::2]):
            if not isinstance(key, str):
                raise ValueError("its pickle has a key that is not a text")
            if key in target:
                raise ValueError(f"the name {key!r} stands twice in its pickle")
            target[key] = value

    def append(self, values: list) -> None:
        target = self.top()
        if not isinstance(target, list):
            raise ValueError("its pickle appends to something that is not a list")
        target += values

    def set_item(self) -> None:
        value, key = self.pop(), self.pop()
        self.set_items([key, value])

    def build(self) -> None:
        """torch gives the dict of a module an attribute `_metadata`: versions of its parts. It is left out."""
        state = self.pop()
        if not isinstance(self.top(), dict) or not isinstance(state, dict):
            raise NotTensors("its pickle sets the state of an object; nothing of it was run")


def protocol(machine: Machine) -> None:
    if machine.number("B") > 3:
        raise ValueError("its pickle has a later protocol than torch.save writes")


# Opcodes that make or find objects in other ways than GLOBAL and REDUCE.
OBJECTS = {b"i", b"o", b"\x81", b"\x92", b"\x93", b"\x82", b"\x83", b"\x84", b"P"}
# Source: Python's pickletools, which says what each opcode does.
STEPS: dict[bytes, Callable[[Machine], None]] = {
    b"\x80": protocol,
    b"(": lambda m: m.marks.append(len(m.stack)),
    b"N": lambda m: m.push(None), b"\x88": lambda m: m.push(True), b"\x89": lambda m: m.push(False),
    b"J": lambda m: m.push(m.number("i")), b"K": lambda m: m.push(m.number("B")), b"M": lambda m: m.push(m.number("H")),
    b"\x8a": Machine.long, b"X": Machine.text,
    b")": lambda m: m.push(()), b"t": lambda m: m.push(tuple(m.pop_mark())),
    b"\x85": lambda m: m.tuple_of(1), b"\x86": lambda m: m.tuple_of(2), b"\x87": lambda m: m.tuple_of(3),
    b"]": lambda m: m.push([]), b"a": lambda m: m.append([m.pop()]), b"e": lambda m: m.append(m.pop_mark()),
    b"}": lambda m: m.push({}), b"s": Machine.set_item, b"u": lambda m: m.set_items(m.pop_mark()),
    b"q": lambda m: m.put("B"), b"r": lambda m: m.put("I"), b"h": lambda m: m.get("B"), b"j": lambda m: m.get("I"),
    b"c": Machine.name, b"R": Machine.reduce, b"b": Machine.build, b"Q": lambda m: m.push(m.storage(m.pop())),
}
