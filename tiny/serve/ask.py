"""What a completion or a chat asks for: which fields are read, which are refused because they would change numbers, and
which are ignored and named in `warnings` of the answer.
"""

import json
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tiny.serve.fields import LARGEST, flag, number, shown, take, text, token_ids, whole
from tiny.serve.limits import wrong

SEQUENCES = 128  # texts in one answer: prompts times n
WRITTEN = 16384  # tokens that an answer of several texts may have in all
SCORED = 1 << 20  # log-probabilities of the tokens of echoed prompts
STOPS, STOP = 16, 1000  # strings that end a text, and characters of one
TOP = 20  # likeliest tokens beside each

FIELDS = tomllib.loads(Path(__file__).with_name("fields.toml").read_text(encoding="utf-8"))
PATHS, READ, NOTHING = FIELDS["paths"], FIELDS["read"], FIELDS["nothing"]


@dataclass(frozen=True)
class Ask:
    """What a request asks for, beside its prompt. `max_tokens` None is all that the context leaves."""

    max_tokens: int | None
    temperature: float
    top_p: float
    seed: int | None
    n: int
    stop: list[str]
    stream: bool
    usage: bool
    logprobs: int | None
    echo: bool
    bos: bool
    as_ids: bool
    warnings: list[str]


def read(body: dict, chat: bool, model: str) -> Ask:
    """All fields of a request but its prompt. Raises Refusal that names the field that is wrong."""
    warnings = refuse_or_name(body, READ["both"] + READ["chat" if chat else "completion"], model)
    top_p, stream = number(body, "top_p", 1.0, 0, 1), flag(body, "stream")
    if top_p == 0:
        raise wrong("top_p is 0, which leaves no token.", "Give a number above 0 and at most 1.", "top_p")
    limit = whole(body, "max_tokens", None if chat else 16, int(chat), LARGEST)
    if chat:
        limit = whole(body, "max_completion_tokens", limit, 1, LARGEST)
        asked, logprobs = flag(body, "logprobs"), whole(body, "top_logprobs", 0, 0, TOP)
        if logprobs and not asked:
            raise wrong("top_logprobs is given, and logprobs is not true.", "Set logprobs to true.", "top_logprobs")
        logprobs = logprobs if asked else None
    else:
        logprobs = whole(body, "logprobs", None, 0, TOP)
    options = take(body, "stream_options", {}, lambda value: stream and isinstance(value, dict),
                   'Give {"include_usage": true} together with "stream": true.')
    return Ask(limit, number(body, "temperature", 1.0, 0, 1e6), top_p, whole(body, "seed", None, 0, LARGEST),
               whole(body, "n", 1, 1, 16) or 1, stops(body), stream, flag(options, "include_usage"), logprobs,
               flag(body, "echo"), flag(body, "add_special_tokens", True), flag(body, "return_tokens_as_token_ids"),
               warnings)


def refuse_or_name(body: dict, read: list[str], model: str) -> list[str]:
    """Refuse the fields that would change numbers and are not supported; name the others that are not read, and a model
    that is asked for and is another than the one that answers.
    """
    warnings = []
    for name in (name for name in body if name not in read and body[name] is not None):
        if name not in NOTHING:
            warnings.append(f"{name[:80]}: ignored")
        elif not any(same(body[name], value) for value in NOTHING[name]):
            remedy = f"Leave it out, or give {json.dumps(NOTHING[name][0])}." if NOTHING[name] else "Leave it out."
            raise wrong(f"{name} is {shown(body[name])}, which would change the answer and is not supported here.",
                        remedy, name)
    asked = take(body, "model", "", lambda value: isinstance(value, str), "Give a text, or leave it out.")
    if asked not in ("", model):
        warnings.append(f"model: {shown(asked)} is not served here, {model} answers")
    return warnings


def same(value: Any, nothing: Any) -> bool:
    """Whether a value is the one that asks for nothing; true is no number."""
    return value == nothing and isinstance(value, bool) == isinstance(nothing, bool)


def stops(body: dict) -> list[str]:
    """The strings that end a text. Raises Refusal for anything else, an empty one, or too many."""
    def fits(value: Any) -> bool:
        found = value if isinstance(value, list) else [value]
        return len(found) <= STOPS and all(isinstance(stop, str) and 0 < len(stop) <= STOP for stop in found)

    value = take(body, "stop", [], fits, f"Give 1 to {STOPS} texts, each of 1 to {STOP} characters.")
    return value if isinstance(value, list) else [value]


def prompts_of(body: dict, vocab_size: int) -> list[str | list[int]]:
    """The prompts of a completion: a text, ids, or a list of such. Raises Refusal for anything else."""
    value = body.get("prompt")
    if not value and value != "" or not isinstance(value, (str, list)):
        raise wrong(f"prompt is {shown(value)}, which is empty or nothing to complete.",
                    "Give a text, a list of token ids, or a list of such.", "prompt")
    many = isinstance(value, list) and not isinstance(value[0], (int, float))
    prompts, found = value if many else [value], []
    if len(prompts) > SEQUENCES:
        raise wrong(f"prompt has {len(prompts)} entries, and {SEQUENCES} are the most.", "Send fewer.", "prompt")
    for place, one in enumerate(prompts):
        name = f"prompt[{place}]" if many else "prompt"
        if one == []:
            raise wrong(f"{name} is an empty list of ids.", "Give at least one.", "prompt")
        found.append(token_ids(one, vocab_size, name) if isinstance(one, list) else text(one, name))
    return found
