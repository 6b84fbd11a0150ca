"""Values of a JSON request: each is what it should be and within its bounds, or is refused by name.

A field that is null counts as not given.
"""

import json
import re
from collections.abc import Callable
from typing import Any

from tiny.serve.limits import Refusal, wrong

TEXT = 1 << 20  # characters of one text
VALUES = 1 << 20  # commas and brackets of a body: small values in large numbers would take gigabytes
FIELDS = 200
DIGITS = 1000  # of one number
LARGEST = 2**63 - 1


def parse(body: bytes) -> dict:
    """The JSON object of a request.

    Raises:  Refusal for anything else: no JSON, NaN, a key twice, nesting or numbers without end, too many values
    """
    if sum(map(body.count, (b",", b"[", b"{"))) > VALUES:
        raise Refusal(413, f"The body holds more than {VALUES} values.", "Send fewer prompts at once.")
    try:
        said = body.decode("utf-8-sig")
        found = json.loads(said, parse_constant=no_number, parse_int=short, object_pairs_hook=each_once)
        if re.search(r"\\u[dD][89a-fA-F]", said):  # Two halves make a character; one alone breaks whatever writes it.
            json.dumps(found, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        why = ("it is nested too deeply" if isinstance(error, RecursionError) else
               f"the bytes from {error.start} on are no UTF-8" if isinstance(error, UnicodeDecodeError) else
               "a text holds half of a surrogate pair, as \\ud800" if isinstance(error, UnicodeError) else error)
        raise wrong(f"The body is not JSON: {why}.", "Send one JSON object, in UTF-8.") from None
    if not isinstance(found, dict) or len(found) > FIELDS:
        raise wrong(f"The body is {shown(found)}, or has more than {FIELDS} fields.",
                    "Send one JSON object, with a name for each field.")
    return found


def no_number(name: str) -> None:
    """Refuse what Python writes for numbers that JSON does not have."""
    raise ValueError(f"{name} is no number")


def short(digits: str) -> int:
    """A whole number. Python refuses endless ones too, in words about itself."""
    if len(digits) > DIGITS:
        raise ValueError(f"a number has more than {DIGITS} digits")
    return int(digits)


def each_once(pairs: list[tuple[str, Any]]) -> dict:
    """An object whose keys differ: of a key that comes twice, nobody knows which is meant."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key comes twice in one object")
    return found


def shown(value: Any) -> str:
    """A value in a message: short, and a container only by its kind."""
    kinds = {dict: "an object", list: "a list", type(None): "null"}
    return kinds.get(type(value)) or json.dumps(value)[:80]


def take(body: dict, name: str, default: Any, fits: Callable[[Any], bool], remedy: str) -> Any:
    """A field, or its default. Raises Refusal for a value that does not fit."""
    value = body.get(name)
    if value is not None and not fits(value):
        raise wrong(f"{name} is {shown(value)}.", remedy, name)
    return default if value is None else value


def whole(body: dict, name: str, default: int | None, least: int, most: int) -> int | None:
    """A whole number among the fields, or its default. Raises Refusal for anything else, and out of bounds."""
    span = f"of at least {least}, with up to 18 digits" if most == LARGEST else f"from {least} to {most}"
    return take(body, name, default, lambda value: type(value) is int and least <= value <= most,
                f"Give a whole number {span}.")


def number(body: dict, name: str, default: float, least: float, most: float) -> float:
    """A number among the fields, or its default. Raises Refusal for anything else, and out of bounds."""
    return float(take(body, name, default, lambda value: type(value) in (int, float) and least <= value <= most,
                      f"Give a number from {least:g} to {most:,.15g}."))


def flag(body: dict, name: str, default: bool = False) -> bool:
    """True or false among the fields. Raises Refusal for anything else."""
    return take(body, name, default, lambda value: isinstance(value, bool), "Give true or false.")


def text(value: Any, name: str) -> str:
    """A text of a request. Raises Refusal for anything else, and for more than TEXT characters."""
    if not isinstance(value, str) or len(value) > TEXT:
        raise wrong(f"{name} is {shown(value)}.", f"Give a text of up to {TEXT:,} characters.", name)
    return value


def token_ids(value: Any, vocab_size: int, name: str) -> list[int]:
    """Token ids of a request. Raises Refusal for anything else, and for an id that is not in the vocabulary."""
    if not isinstance(value, list):
        raise wrong(f"{name} is {shown(value)}.", "Give a list of token ids.", name)
    for place, id in enumerate(value):
        if type(id) is not int:
            raise wrong(f"{name}[{place}] is {shown(id)}, no token id.", "Give whole numbers only.", name)
        if not 0 <= id < vocab_size:
            raise wrong(f"{name}[{place}] is {shown(id)}, and the vocabulary has 0 to {vocab_size - 1}.",
                        "Use the tokenizer of this model: POST /tokenize.", name)
    return value
