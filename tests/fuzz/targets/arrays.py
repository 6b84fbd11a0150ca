"""Targets: .npz files for verify, .npy files and values for the emulator, the trainer's state, grader messages."""

import io
import json
import random
import struct
from functools import cache
from pathlib import Path

import numpy as np
from oracles import GOLDEN

from kernels.emulator import values
from tests.fuzz import mutate
from tests.fuzz.engine import Target, Wrong
from tiny.tools.terminal import one_line
from tiny.tools.verify import check, file, printed
from tiny.training.run_state import load_state
from tutorial.grader.messages import Reader, Unsendable, pack

DESCR = ("'<f4'", "'|O'", "'<U9'", "'>f4'", "'<f8'", "'|V2'", "'<i8'", "()", "[('a','<f4')]", "[]", "('<f4',(2,))",
         "'<m8[s]'", "'|b1'", "'<c8'", "1", "None", "'f4,f4'", "'|S0'", "'<U0'", "''", "'<f16'", "'<u1'", "'|V0'",
         "{'names':['a']}", "'<f4" + "," * 50 + "'", "('',)", "[()]")
SHAPES = ("(2,)", "()", "(0,)", "(-1,)", "(1<<62,)", "(2**40,)", "(9223372036854775807,)", "(3,4)", "(1.5,)", "('a',)",
          "None", "[2]", "(True,)", "(2,2,2,2,2,2,2,2)", "(" + "1," * 70 + ")", "(" * 90 + ")" * 90, "-" * 3000 + "1")


def npy(array: np.ndarray | np.generic) -> bytes:
    """The bytes of a .npy file."""
    out = io.BytesIO()
    np.lib.format.write_array(out, np.asarray(array), allow_pickle=False)
    return out.getvalue()


def odd_npy(rng: random.Random) -> bytes:
    """A .npy file of which the header promises something else than what follows."""
    text = (f"{{'descr': {rng.choice(DESCR)}, 'fortran_order': {rng.choice(('False', 'True', '1', 'None'))}, "
            f"'shape': {rng.choice(SHAPES)}, }}").encode()
    text = mutate.bytes_of(rng, text, 2) if rng.random() < 0.2 else text
    version = rng.choice((1, 1, 1, 2, 3, 0, 9))
    size = struct.pack("<H" if version == 1 else "<I", len(text))
    return b"\x93NUMPY" + bytes([version, 0]) + size + text + bytes(rng.choice((0, 8, 16, 64)))


def odd_array(rng: random.Random) -> np.ndarray:
    """An array that is probably not what belongs there."""
    return rng.choice((np.zeros(0, np.int64), np.full(3, np.nan, np.float32), np.arange(4), np.array([-1, 2]),
                       np.array(5), np.zeros((2, 2), np.uint64) + 2**63, np.array("x"),
                       np.ones((1, 1, 1), np.float16), np.array([True]), np.float32([np.inf] * 24),
                       np.array([2**31 - 1]), np.arange(300)))


# ---- files for verify check: what is read is what np.load reads, and nothing but the same file is the same

@cache
def dump() -> dict[str, np.ndarray]:
    """The arrays of a stored file that SAME needs, of two layers, three tokens, a few columns: it is read often."""
    rows, found = np.array([0, 7, 14]), {}
    with np.load(GOLDEN / "verify/tiny-mixtral.npz") as stored:
        for name in stored.files:
            if name.endswith(("02", "03")):
                continue
            if name.startswith(("record", "ids", "greedy", "k", "v")):
                found[name] = stored[name]
            elif name.startswith(("embed", "layer", "logits", "experts", "router_logits")):
                found[name] = np.ascontiguousarray(stored[name][rows][:, :32])
    return found | {"positions": rows}


@cache
def dump_records() -> dict[str, bytes]:
    return {f"{name}.npy": npy(array) for name, array in dump().items()}


@cache
def base(folder: Path) -> Path:
    """The stored file, written where a child may read it."""
    np.savez(folder / "base.npz", **dump())
    return folder / "base.npz"


def make_npz(rng: random.Random) -> bytes:
    records, kind = dict(dump_records()), rng.randrange(6)
    for name in rng.sample(list(records), len(records) // 2):
        if name not in ("record.npy", "ids.npy", "logits.npy"):
            del records[name]
    if kind == 0:
        return mutate.bytes_of(rng, mutate.archive(rng, records))
    for _ in range(rng.choice((1, 1, 2))):
        name = rng.choice(list(records))
        if kind == 1:
            records[name] = mutate.bytes_of(rng, records[name], 2)
        elif kind == 2:
            records[name] = odd_npy(rng)
        elif kind == 3:
            said = mutate.json_of(rng, json.loads(str(dump()["record"])))
            records["record.npy"] = npy(np.array(json.dumps(said)))
        elif kind == 4:
            more = ("pixels0.npy", "image0.npy", "grids.npy", "pixels٣.npy", "image99.npy", "positions.npy",
                    "../x.npy", "layer99999999999.npy", "q٠٠.npy", "vision_q00.npy", "a\x1b[31m.npy", "experts00.npy",
                    "ids.npy")
            records[rng.choice((*records, *more))] = npy(odd_array(rng))
        else:
            records[rng.choice(("x", "ids", "a.npy", "record.npy.npy", "", "a/b.npy"))] = records.pop(name)
    return mutate.archive(rng, records)


def run_npz(data: bytes, folder: Path) -> str:
    path = folder / "theirs.npz"
    path.write_bytes(data)
    found = file.read(path)
    with np.load(path) as stored:
        for name, array in (found.inputs | found.arrays).items():
            if not np.array_equal(array, stored[name], equal_nan=array.dtype.kind == "f"):
                raise Wrong("an array that np.load reads otherwise")
    report = check.check(str(base(folder)), path)
    text = [one_line(line) for line in printed.lines(report, True)]
    if any(ord(letter) < 32 for line in text for letter in line):
        raise Wrong("control characters in the report")
    if report.status == 0 and not same_as_base(found):
        raise Wrong("SAME of a file that is not the same")
    return "compared"


def same_as_base(found: file.Dump) -> bool:
    """Whether a file has all arrays of the stored one, with about its numbers."""
    arrays = found.inputs | found.arrays
    return all(name in arrays and array.shape == arrays[name].shape
               and np.max(np.abs(np.subtract(arrays[name], array, dtype=np.float64))) <= 0.1
               for name, array in dump().items() if name not in ("record", "greedy_gaps"))


HOW = ("removed", "renamed", "reshaped", "cut", "nan", "moved", "scaled", "rolled", "emptied", "longer", "exchanged",
       "reversed", "huge")


def make_verdict(rng: random.Random) -> bytes:
    """One array of a right file removed, renamed, reshaped or changed. As JSON: what is done to which."""
    name = rng.choice(sorted(set(dump()) - {"record", "greedy_gaps"}))
    return json.dumps([name, rng.choice(HOW), rng.randrange(10**6)]).encode()


def changed(name: str, how: str, place: int) -> dict[str, np.ndarray]:
    """The stored file with one array changed."""
    arrays = dict(dump())
    array = arrays.pop(name)
    flat = array.reshape(-1).copy()
    place %= flat.size
    match how:
        case "renamed":
            arrays[f"{name[:-1]}x"] = array
        case "reshaped":
            arrays[name] = array.reshape(*array.shape, 1)
        case "cut":
            arrays[name] = array[:-1]
        case "nan" | "moved":
            flat[place] = np.nan if how == "nan" and array.dtype.kind == "f" else flat[place] + 100
            arrays[name] = flat.reshape(array.shape)
        case "scaled":
            arrays[name] = (array * 3 + 1).astype(array.dtype)
        case "rolled":
            arrays[name] = np.roll(array, 1, axis=0)
        case "emptied":
            arrays[name] = array[:0]
        case "longer":
            arrays[name] = np.concatenate([array, array[-1:]])
        case "exchanged":
            other = [each for each in sorted(arrays) if arrays[each].shape == array.shape]
            other = other[place % len(other)] if other else name
            arrays[name], arrays[other] = arrays.get(other, array), array
        case "reversed":
            arrays[name] = array[::-1]
        case "huge":
            flat[place] = np.inf if array.dtype.kind == "f" else np.iinfo(array.dtype).max
            arrays[name] = flat.reshape(array.shape)
    return arrays


def run_verdict(data: bytes, folder: Path) -> str:
    name, how, place = json.loads(data)
    arrays = changed(name, how, place)
    if name in arrays and np.array_equal(arrays[name], dump()[name]):
        return "unchanged"
    np.savez(folder / "theirs.npz", **arrays)
    ours, theirs = (base(folder), folder / "theirs.npz")[:: 1 if place // 2 % 2 else -1]
    if check.check(str(ours), theirs).status == 0:
        raise Wrong(f"SAME although {name.rstrip('0123456789')} was {how}")
    return "differs"


# ---- arrays for the emulator

def make_npy(rng: random.Random) -> bytes:
    right = (np.arange(6.0), np.zeros((2, 3), np.float32), np.array(3), np.zeros(4, ">i2"), np.zeros((2, 2), "V2"))
    return odd_npy(rng) if rng.random() < 0.6 else mutate.bytes_of(rng, npy(rng.choice(right)))


def run_npy(data: bytes, folder: Path) -> str:
    path = folder / "a.npy"
    path.write_bytes(data)
    (value,), _ = values.read_values([str(path)], 0)
    theirs = np.load(path, allow_pickle=False)
    if np.asarray(value).tobytes() != np.ascontiguousarray(theirs.astype(theirs.dtype.newbyteorder("="))).tobytes():
        raise Wrong("an array that np.load reads otherwise")
    return "read"


def make_value(rng: random.Random) -> bytes:
    """What stands behind --arg."""
    right = ("float32[64,32]:random", "int32:7", "float32[8]:ones+float32[8]:zeros", "bfloat16[4]:arange",
             "bool[3]:random", "uint64:18446744073709551615", "float16[2]:1e9", "int8[3]:empty")
    text = rng.choice(right)
    if rng.random() < 0.4:
        sizes = ("1", "0", "-1", "99999999999", "1,1,1,1,1,1,1,1", " 3 ", ",", "2" * 30, "1," * 70,
                 "0,99999999999", "٣")
        fills = ("random", "ones", "7", "nan", "inf", "1e400", "0x10", "-1", "1_0", "empty", "arange", "9" * 5000)
        text = f"{rng.choice(sorted(values.DTYPES))}[{rng.choice(sizes)}]:{rng.choice(fills)}"
    data = text.encode()
    return mutate.bytes_of(rng, data, 3) if rng.random() < 0.7 else data


def run_value(data: bytes, folder: Path) -> str:
    text = data.decode("latin1")
    if text.endswith(".npy"):
        return "a file"
    found, unwritten = values.read_values([text], 0)
    for value in found[0] if isinstance(found[0], list) else found:
        if value.dtype not in values.DTYPES.values():
            raise Wrong("a value of a type that is not in the table")
    return "read"


# ---- the state of a training run

STATE = {"identity": np.array("id"), "step": np.array(3), "parameters": np.zeros(5, np.float32),
         "moment1": np.zeros(5, np.float32), "loss": np.array(1.0)}


def make_state(rng: random.Random) -> bytes:
    records, kind = {f"{name}.npy": npy(array) for name, array in STATE.items()}, rng.randrange(4)
    name = rng.choice(list(records))
    if kind == 0:
        return mutate.bytes_of(rng, mutate.archive(rng, records))
    if kind == 1:
        records[name] = odd_npy(rng)
    elif kind == 2:
        records[name] = mutate.bytes_of(rng, records[name], 2)
    elif rng.random() < 0.2:
        return mutate.bytes_of(rng, npy(np.arange(3.0)))
    else:
        records[name] = npy(odd_array(rng))
    return mutate.archive(rng, records)


def run_state(data: bytes, folder: Path) -> str:
    path = folder / "state.npz"
    path.write_bytes(data)
    state = load_state(path, {name: array for name, array in STATE.items() if name != "identity"}, "id")
    with np.load(path, allow_pickle=False) as stored:
        if any(np.asarray(state[name]).tobytes() != stored[name].tobytes() for name in STATE):
            raise Wrong("an array that np.load reads otherwise")
    return "read"


# ---- messages of a process that runs a submission

MESSAGE = {"result": np.arange(6, dtype=np.float32).reshape(2, 3), "changed": [0], "owner": None}


def make_message(rng: random.Random) -> bytes:
    if rng.random() < 0.3:
        return mutate.bytes_of(rng, pack(MESSAGE))
    head = {"dict": {"result": {"array": ["float32", [2, 3], False]}, "changed": {"list": [0]}, "owner": None}}
    odd = (*mutate.ODD, "float64", "O", "S99999999999", "f4,f4", {"array": ["float32", [2**40, 0], True]},
           {"tuple": []}, {"array": ["V8", [1], False]}, "M8[s]", "longdouble", {"array": ["float32", [], True]})
    text = json.dumps(mutate.json_of(rng, head, odd)).encode("utf-8", "surrogatepass")
    return struct.pack("<QQ", len(text), 24) + text + bytes(24)


def run_message(data: bytes, folder: Path) -> str:
    stream = io.BytesIO(data)

    def fill(size: int) -> bytes:
        part = stream.read(size)
        if len(part) < size:
            raise ValueError("the message is cut short")
        return part
    try:
        message = Reader(fill).message()
    except ValueError:
        return "refused"
    try:
        again = io.BytesIO(pack(message))
    except (Unsendable, ValueError):
        raise Wrong("a message that cannot be sent was received") from None
    if repr(Reader(again.read).message()) != repr(message):
        raise Wrong("a message that comes back otherwise")
    return "read"


TARGETS = [Target("npz", make_npz, run_npz, 0.14), Target("verdict", make_verdict, run_verdict, 0.14),
           Target("npy", make_npy, run_npy), Target("value", make_value, run_value),
           Target("state", make_state, run_state), Target("message", make_message, run_message)]
