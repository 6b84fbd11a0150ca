"""Files from anywhere: of plausible size, JSON of one object, numbers in bounds, and what a file is that is another.

What is wrong with a file is said when it is read, and as what it is. Read `keys.py` next.
"""

import json
import re
import stat
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tiny.config import TinyError

Note = Callable[[str], None]
LARGEST_JSON = 16 << 20  # bytes; the index of a model of 100,000 tensors has 10 MB
# What files are whose names promise something else, by how they begin.
FOREIGN = {b"version https://git-lfs": "a pointer of Git LFS, which stands for a file that was not fetched",
           b"<!doctype": "a web page", b"<html": "a web page", b"<?xml": "a web page or other XML",
           b"pk\x03\x04": "a ZIP archive, as torch.save writes", b"\x80\x02": "a pickle, as torch.save writes",
           b"gguf": "a GGUF file", b"\x1f\x8b": "compressed by gzip"}


def warn(text: str) -> None:
    """A note for whoever called the library; the command line prints it."""
    warnings.warn(text, stacklevel=4)


def read_file(path: Path, most: int) -> bytes:
    """Read a file that has at most `most` bytes.

    Raises:  TinyError if it is missing, a link to nothing, no plain file, unreadable, larger, foreign, or empty
    """
    try:
        check_plain(path, most)
        with open(path, "rb", buffering=0) as file:
            data = file.read()
    except FileNotFoundError:
        raise missing(path) from None
    except OSError as error:
        raise unreadable(path, error) from None
    check_foreign(path, data)
    if not data:
        raise TinyError(f"{path} is empty.", "Fetch it again, from the same release as the other files.")
    return data


def check_plain(path: Path, most: int | None = None) -> None:
    """Before a file is opened: a pipe would wait for ever, and a device never ends.

    Raises:  TinyError if this is no plain file, or has more than `most` bytes; OSError if it is not there
    """
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        what = "a folder" if stat.S_ISDIR(found.st_mode) else "a pipe or a device"
        raise TinyError(f"{path} is {what}, not a file.",
                        "Give the path of a file; what comes from a pipe, save to one first.")
    if most is not None and found.st_size > most:
        raise TinyError(f"{path} has more than {most:,} bytes, too many for what it should be.", "Fetch it again.")


def missing(path: Path) -> TinyError:
    """The error for a file that is not there."""
    if path.is_symlink():
        return TinyError(f"{path} is a link to a file that is not there.",
                         "Fetch the model again, or copy the folder with what its links point to: cp -rL.")
    return TinyError(f"{path} does not exist.", "Point at the folder that holds the released files.")


def unreadable(path: Path, error: OSError) -> TinyError:
    """The error for a file that is there and cannot be read."""
    return TinyError(f"{path} cannot be read: {error.strerror}.", "Check the file and its permissions.")


def check_foreign(path: Path, data: bytes) -> None:
    """Raise TinyError if a file is what its name does not promise; data are its first bytes, or all."""
    start = data[:64].lstrip().lower()
    what = None
    if start.startswith(tuple(FOREIGN)):
        what = next(what for sign, what in FOREIGN.items() if start.startswith(sign))
    if re.fullmatch(rb"[\w.~-]*(/[\w.~-]+)+", data[:400]):  # as Git writes links where there are none
        what = f"the text of a link, {data[:99].decode()}, in place of the file"
    if what is not None:
        raise TinyError(f"{path} is {what}.", "Fetch the file itself: git lfs pull, or hf download OWNER/NAME."
                        if "web" in what or "LFS" in what else "Fetch the file of the release.")


def read_json(path: Path) -> dict:
    """Read one JSON object. Raises TinyError as `read_file`, or for broken JSON, a key twice, or no object."""
    return parse_object(read_file(path, LARGEST_JSON), path)


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object of its keys and values, for `json`, which itself keeps the last of two equal keys.

    Raises:  KeyError for a key that is there twice
    """
    found = dict(pairs)
    if len(found) != len(pairs):
        raise KeyError(next(key for n, (key, _) in enumerate(pairs) if key in dict(pairs[:n])))
    return found


DECODER = json.JSONDecoder(object_pairs_hook=unique)


def parse_object(data: bytes, path: Path, twice: bool = False) -> dict:
    """Make a JSON object of the bytes of a file; with `twice` the last of two equal keys counts, which is faster.

    Raises:  TinyError for broken JSON, a key twice, or no object
    """
    try:
        text = data.decode(json.detect_encoding(data))
        value = json.loads(text) if twice else DECODER.decode(text)
    except KeyError as error:
        raise TinyError(f"{path} has the key {error} twice.", "Keep the one that is right.") from None
    except (ValueError, RecursionError) as error:
        raise TinyError(f"{path} is not valid JSON: {error}.", "Fetch the file again; it may be cut short.") from None
    if not isinstance(value, dict):
        raise TinyError(f"{path} holds a {type(value).__name__}, not a JSON object.", "Fetch the file again.")
    return value


def section(config: dict, key: str, path: Path) -> dict:
    """Return an object inside a configuration. Raises TinyError if it is missing, or something else."""
    if not isinstance(config.get(key), dict):
        raise TinyError(f"{path} has no object {key!r}.", "Use the file of the release.")
    return config[key]


def number(mapping: dict, key: str, path: Path | str, kind: type[int] | type[float] = int,
           default: float | None = None, most: int = 1 << 20) -> Any:
    """Return mapping[key], a positive number; kind int allows whole ones only, up to `most`.

    Raises:  TinyError that names the key and the file, if it is missing without a default, or is anything else
    """
    value = mapping.get(key) if isinstance(mapping, dict) else None
    value = default if value is None else value
    most = most if kind is int else 1 << 40
    if value is None:
        raise TinyError(f"{path} has no {key!r}.", "Sizes are never assumed: use the file of the release.")
    if not isinstance(value, (int, kind)) or isinstance(value, bool) or not 0 < value <= most:
        raise TinyError(f"{path}: {key} is {short(value)}.",
                        f"It must be a positive {'whole ' * (kind is int)}number, at most {most:,}.")
    return kind(value)


def short(value: Any) -> str:
    """A value of a file in a message."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
