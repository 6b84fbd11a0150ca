"""What servers write of a token: its log-probability and those of the likeliest ones, in four shapes.

All of it is data from anywhere: each number is checked, and what is of another shape is refused. Read `probe.py` next.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from tiny.config import TinyError
from tiny.tools.terminal import one_line

MOST = 1 << 16  # tokens of one answer
ABOVE = 1e-3  # what rounding may add to a log-probability of zero


class Row(NamedTuple):
    """One token of an answer: how it is named, its log-probability, and the likeliest tokens at its place, each with a
    name and a log-probability, the likeliest first. None is what the server did not say.

    ordered: False if the server sent a list in another order
    """

    token: Any
    logprob: float | None
    top: list[tuple[Any, float]]
    ordered: bool = True


def wrong(what: str, value: object) -> TinyError:
    """The error for what is no log-probability, or not where it belongs."""
    return TinyError(f"The server sent {one_line(repr(value), 80)} as {what}.",
                     "Check that this is a server of a language model, and its version.")


def number(value: Any) -> float | None:
    """A log-probability, or None. Raises TinyError for anything else, and for one above zero."""
    if value is None:
        return None
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not -1e30 < value < ABOVE:
        raise wrong("a log-probability", value)
    return min(float(value), 0.0)


def pairs(found: Any) -> tuple[list[tuple[Any, float]], bool]:
    """Names and log-probabilities, the likeliest first, and whether they were sent so. An object has no order."""
    if isinstance(found, Mapping):
        said = [(name, number(value.get("logprob") if isinstance(value, Mapping) else value))
                for name, value in found.items()]
    elif isinstance(found, list):
        said = [(one.get("id", one.get("token")), number(one.get("logprob"))) if isinstance(one, Mapping) else
                wrong_entry(one) for one in found]
    else:
        said = [] if found is None else wrong_entry(found)
    if len(said) > MOST:
        raise wrong("a list of the likeliest tokens", f"{len(said)} tokens")
    known = [(name, value) for name, value in said if value is not None]
    values = [value for _, value in known]
    ordered = isinstance(found, Mapping) or all(a >= b - 1e-6 for a, b in zip(values, values[1:]))
    return sorted(known, key=lambda pair: -pair[1]), ordered


def wrong_entry(value: Any) -> Any:
    """Raise TinyError for an entry that is of no known shape."""
    raise wrong("one of the likeliest tokens", value)


def entry(found: Any) -> Row:
    """A token as chats have it: `token` or `id`, `logprob`, and `top_logprobs`."""
    if not isinstance(found, Mapping):
        raise wrong("a token", found)
    return Row(found.get("id", found.get("token")), number(found.get("logprob")), *pairs(found.get("top_logprobs")))


def of_prompt(found: Sequence[Any]) -> list[Row]:
    """vLLM's prompt_logprobs: for each token of the prompt an object by ids, the token itself among them."""
    rows = []
    for one in found:
        if one is not None and not (isinstance(one, Mapping) and one):
            raise wrong("the log-probabilities of a token", one)
        rows.append(Row(None, None, pairs({f"token_id:{id}": value for id, value in (one or {}).items()})[0]))
    return rows


def of_lists(found: Mapping[str, Any]) -> list[Row]:
    """OpenAI's older form: lists of tokens, of their log-probabilities, and of objects with the likeliest ones."""
    tokens, values, tops = (found.get(name) for name in ("tokens", "token_logprobs", "top_logprobs"))
    if not isinstance(tokens, list) or not isinstance(values, list) or not isinstance(tops or [], list) or not (
            len(tokens) == len(values) == len(tops or values)):
        raise wrong("log-probabilities", found)
    tops = tops or [None] * len(values)
    return [Row(token, number(value), *pairs(top)) for token, value, top in zip(tokens, values, tops)]


def rows_of(answer: Mapping[str, Any]) -> tuple[list[Row], list[Row]]:
    """The tokens of the prompt, and those that were echoed or generated, with their log-probabilities; none if the
    server gives none.

    Raises:  TinyError for what is of no known shape
    """
    choices = answer.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], Mapping) else {}
    prompt = choice.get("prompt_logprobs") or answer.get("prompt_logprobs")
    said = choice.get("logprobs") or answer.get("completion_probabilities")
    if isinstance(said, Mapping) and said.get("content") is not None:
        said = said["content"]
    for found in (prompt, said):
        if isinstance(found, list) and len(found) > MOST:
            raise wrong("tokens", f"{len(found)} of them")
    if not isinstance(prompt or [], list) or not isinstance(said or [], (list, Mapping)):
        raise wrong("log-probabilities", prompt or said)
    rows = of_lists(said) if isinstance(said, Mapping) else [entry(one) for one in said or []]
    return of_prompt(prompt or []), rows


def text_of(answer: Mapping[str, Any]) -> str | None:
    """What was written, of a completion, a chat or llama.cpp's own form; None if there is no text."""
    choices = answer.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], Mapping) else {}
    message = choice.get("message")
    found = message.get("content") if isinstance(message, Mapping) else choice.get("text", answer.get("content"))
    return found if isinstance(found, str) else None


def count_of(answer: Mapping[str, Any], name: str = "prompt_tokens") -> int | None:
    """How many tokens the prompt had, or another number of `usage`; None if the server does not say."""
    usage = answer.get("usage")
    found = usage.get(name) if isinstance(usage, Mapping) else None
    return found if isinstance(found, int) and not isinstance(found, bool) and found >= 0 else None
