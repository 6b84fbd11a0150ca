"""The keys of a JSON object, each with a meaning: read, harmless, refused by name, or unknown and noted.

A table in a TOML file says which; `tiny/files/keys.toml` has those of models. Read `whole.py` next.
"""

import tomllib
from pathlib import Path
from typing import NamedTuple

from tiny.config import TinyError
from tiny.system.reading import Note, short, warn


class Keys(NamedTuple):
    """The keys of one kind of JSON object: the known ones, those that must be off, those that take some values only."""

    known: frozenset[str]
    off: frozenset[str]
    only: dict[str, list]


def read_keys(path: Path) -> dict[str, Keys]:
    """The tables of a TOML file, with the keys of the table that one names under `also`."""
    tables = tomllib.loads(path.read_text(encoding="utf-8"))
    found = {}
    for name, table in tables.items():
        read, harmless, off = (f"{table.get(kind, '')} {tables.get(table.get('also'), {}).get(kind, '')}".split()
                               for kind in ("read", "harmless", "off"))
        only = table.get("only", {})
        found[name] = Keys(frozenset([*read, *harmless, *off, *only]), frozenset(off), only)
    return found


def check_keys(mapping: dict, keys: Keys, place: Path | str, remedy: str, note: Note = warn) -> None:
    """Go through all keys of an object: refuse what is not computed here by its name, and note what is not known.

    Raises:  TinyError that names a key with a value that changes what is computed
    """
    for key, computed in not_computed(mapping, keys).items():
        raise TinyError(f"{place} sets {key} = {short(mapping[key])}; this code computes {computed}.", remedy)
    unknown = sorted(short(key)[1:-1] for key in mapping.keys() - keys.known if mapping[key] is not None)
    if unknown:
        note(f"{Path(place).name}: keys that are not read: {', '.join(unknown[:9])}. If they change what the model "
             "computes, the results are wrong")


def not_computed(mapping: dict, keys: Keys) -> dict[str, str]:
    """The keys that ask for something else than is computed here, and what is computed."""
    found: dict[str, str] = {}
    for key in sorted(mapping.keys() & (keys.off | keys.only.keys())):
        value, right = mapping[key], keys.only.get(key)
        if right is None:
            off = not value or isinstance(value, dict) and value.get("enable", value.get("enabled")) is False
            found |= {} if off else {key: "models without it"}
        elif value not in (*right, None):
            found[key] = f"{right[0]!r} only"
    return found
