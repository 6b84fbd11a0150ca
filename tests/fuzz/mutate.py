"""Changes of bytes, of JSON values and of zip files, drawn from a generator."""

import copy
import io
import json
import random
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

EDGES = (0, 1, 2, 7, 127, 128, 255, 256, 32767, 65535, 2**31 - 1, 2**31, 2**32 - 1, 2**47, 2**62, 2**63 - 1, 2**64 - 1)
ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 3, 8, 10, 2**31, 2**40, 2**63, 10**30, 1.5, -0.0, 1e300, 1e-300, float("nan"),
    float("inf"), "", "x", "\ud800", "\x1b[31m", "a\nb", "NaN", "10", "é", "../x", [], {}, [1], [[]], {"a": 1},
    [1, 2, 3], [0, 0], 2**48, -(2**63))


def bytes_of(rng: random.Random, data: bytes, most: int = 6) -> bytes:
    """One to `most` changes at random places."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3, most))):
        out = out or bytearray(1)
        at, other = rng.randrange(len(out)), rng.randrange(len(out))
        match rng.randrange(9):
            case 0:
                out[at] = rng.randrange(256)
            case 1:
                out[at] ^= 1 << rng.randrange(8)
            case 2:
                size = rng.choice((1, 2, 4, 8))
                edge = rng.choice(EDGES) % 256**size
                out[at : at + size] = edge.to_bytes(size, rng.choice(("little", "big")))
            case 3:
                del out[at : at + rng.choice((1, 2, 4, 8, 16, 64, 1000))]
            case 4:
                out[at:at] = out[other : other + rng.choice((1, 2, 4, 8, 32, 200))]
            case 5:
                del out[at:]
            case 6:
                size = rng.choice((1, 4, 16))
                out[at : at + size] = out[other : other + size]
            case 7:
                out[at:at] = rng.randbytes(rng.choice((1, 4, 16)))
            case _:
                out[at] = (out[at] + rng.choice((-1, 1))) % 256
    return bytes(out)


def places(value: Any, path: tuple = ()) -> list[tuple]:
    """The paths of all parts of a JSON value; of long lists the first 60."""
    found = [path]
    if isinstance(value, dict):
        for key in value:
            found += places(value[key], (*path, key))
    elif isinstance(value, list):
        for n in range(min(len(value), 60)):
            found += places(value[n], (*path, n))
    return found


def json_of(rng: random.Random, value: Any, odd: Sequence[Any] = ODD) -> Any:
    """A copy of a JSON value with one to four of its parts changed, removed, renamed or added."""
    value = copy.deepcopy(value)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        value = change_one(rng, value, odd)
    return value


def change_one(rng: random.Random, value: Any, odd: Sequence[Any]) -> Any:
    """Change one part of a JSON value, in place where that can be."""
    new = copy.deepcopy(rng.choice(odd))
    path = rng.choice(places(value))
    if not path:
        if isinstance(value, dict) and rng.random() < 0.9:
            value[rng.choice(("x", "", "\x1b]0;t\x07", "__metadata__", "\ud800"))] = new
            return value
        return new
    parent = value
    for key in path[:-1]:
        parent = parent[key]
    key, kind = path[-1], rng.randrange(8)
    old = parent[key]
    if kind == 4 and isinstance(old, int | float) and not isinstance(old, bool) and abs(old) < 1e300:
        parent[key] = rng.choice((old + 1, old - 1, old * 2, old / 2, -old, float(old), str(old), old * 10**6))
    elif kind == 5:
        del parent[key]
    elif kind == 6 and isinstance(parent, dict):
        parent[f"{key}{rng.choice(('', '2', chr(0), ' '))}"] = parent.pop(key)
    elif kind == 7 and isinstance(parent, dict):
        parent[key] = copy.deepcopy(parent[rng.choice(list(parent))])
    elif kind == 7:
        parent.insert(key, new)
    else:
        parent[key] = new
    return value


def text_of(rng: random.Random, value: Any) -> bytes:
    """A JSON value as text: plain, with raw characters, with a key twice, or damaged."""
    text = json.dumps(value, ensure_ascii=rng.random() < 0.8).encode("utf-8", "surrogatepass")
    if rng.random() < 0.05 and isinstance(value, dict) and value:
        key = rng.choice(list(value))
        text = text[:-1] + b", " + json.dumps({key: value[key]}).encode("utf-8", "surrogatepass")[1:]
    return bytes_of(rng, text, 3) if rng.random() < 0.2 else text


def archive(rng: random.Random, records: Mapping[str, bytes]) -> bytes:
    """A zip file, some of its records stored or packed in another way."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        for name, data in records.items():
            method = rng.choice((0, 8, 8, 12, 14)) if rng.random() < 0.2 else 8
            file.writestr(zipfile.ZipInfo(name), data, method)
    return out.getvalue()
