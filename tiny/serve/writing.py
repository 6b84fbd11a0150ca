"""Tokens, one after another, with all that an answer says of each: its text, its probability, and the likeliest ones.

It is `tiny.generate` with four things more: prompts that are scored and echoed, the likeliest tokens beside each, texts
that end where one of some strings begins, and an end within a token when the client leaves.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from tiny.config import Ids, Images
from tiny.generate import PREFILL, not_finite
from tiny.mixtral import Mixtral
from tiny.sampling import log_softmax, sample
from tiny.serve.ask import Ask
from tiny.serve.limits import Refusal
from tiny.serve.worker import Job

LEAST = -9999.0  # JSON has no infinity; vLLM writes the same number


class Step(NamedTuple):
    """One token of an answer.

    text:    what it adds; the texts joined are the text of the answer
    logprob: natural log of its probability under the raw logits; None of the first token of a prompt, or if not asked
    top:     the likeliest ids there, in falling order, each with the same
    end:     whether it is one that ends texts
    """

    id: int
    text: str
    logprob: float | None = None
    top: list[tuple[int, float]] | None = None
    end: bool = False


class Ready(NamedTuple):
    """Steps that will not change any more. The last one of a text has a reason, and the string that ended it."""

    steps: list[Step]
    written: int = 0
    reason: str | None = None
    stop: str | None = None


def score(logits: np.ndarray | None, id: int, ask: Ask) -> tuple[float | None, list[tuple[int, float]] | None]:
    """The log-probability of a token and of the likeliest ones, equal ones by lower id. Shapes:  logits (V,)"""
    if logits is None or ask.logprobs is None:
        return None, None
    scores = np.maximum(log_softmax(logits), LEAST)
    order = np.argsort(-scores, kind="stable")[: ask.logprobs].tolist() if ask.logprobs else []
    return float(scores[id]), [(one, float(scores[one])) for one in order]


def write(model: Mixtral, ids: Sequence[int], images: Sequence, room: int, ask: Ask, seed: int | None, chat: bool,
          job: Job) -> Iterator[Step]:
    """Yield the tokens of the prompt, if they are echoed, and up to `room` new ones; the token that ends a text too.

    The text of a completion goes on where the prompt ends, that of a chat begins anew, as `tiny.generate` has it.

    Raises:  Refusal for logits that are not finite; whatever the job's check raises
    """
    stream, rng, ids = model.tokenizer.stream(), np.random.default_rng(seed), list(ids)
    end_ids = {model.tokenizer.eos_id} | model.config.end_ids
    cache = model.new_cache(len(ids) + max(room, 1))
    scored = ask.echo and ask.logprobs is not None
    row = None
    # (1) read the prompt; score its tokens if they are asked for
    seen = model.look(np.array(ids), images)
    for start in range(0, len(ids) if room or scored else 0, PREFILL):
        piece = ids[start : start + PREFILL]
        rows = model(piece, images=seen, cache=cache, last_only=not scored, trace=job)
        check_finite(rows, model, ids, images)
        if scored:
            for place, id in enumerate(piece):
                last = not room and start + place == len(ids) - 1
                yield Step(id, stream.push(id) + (stream.finish() if last else ""), *score(row, id, ask))
                row = rows[place]
        row = rows[-1]
    if not scored and not chat:
        read = [stream.push(id) for id in ids]
        if ask.echo:
            rest = stream.finish() if not room else ""
            yield from map(Step, ids, [*read[:-1], read[-1] + rest])
    # (2) write
    for left in range(room, 0, -1):
        assert row is not None
        id = sample(row, ask.temperature, ask.top_p, rng)
        ended = id in end_ids
        text = "" if ended else stream.push(id)
        yield Step(id, text + (stream.finish() if ended or left == 1 else ""), *score(row, id, ask), ended)
        if ended:
            return
        if left > 1:
            row = model([id], cache=cache, last_only=True, trace=job)[-1]
            check_finite(row, model, ids, ())


def check_finite(rows: np.ndarray, model: Mixtral, ids: Ids, images: Images) -> None:
    """Refuse logits that are not finite: not the request is wrong, but the weights are."""
    if not np.isfinite(rows).all():
        error = not_finite(model, ids, images, None)
        raise Refusal(500, error.cause, error.remedy)


class Cut:
    """Ends a text before the first of some strings, and holds back the tokens that may be the beginning of one."""

    def __init__(self, stops: Sequence[str]):
        self.stops, self.held = stops, []  # type: ignore[var-annotated]

    def push(self, step: Step, last: bool) -> tuple[list[Step], str | None]:
        """The steps that are certain now, and the string that was found. A step is cut where the string begins."""
        self.held.append(step)
        place, stop = first(self.stops, "".join(held.text for held in self.held), last)
        ready: list[Step] = []
        while self.held and (len(self.held[0].text) <= place if stop is None else place > 0):
            step = self.held.pop(0)
            ready.append(step._replace(text=step.text[:place]))
            place -= len(step.text)
        return ready, stop


def first(stops: Sequence[str], text: str, last: bool) -> tuple[int, str | None]:
    """Where the first string begins, and which it is; else how much of the text can be no beginning of one."""
    for place in range(len(text) if stops else 0):
        for stop in stops:
            if text.startswith(stop, place):
                return place, stop
        if not last and any(stop.startswith(text[place:]) for stop in stops):
            return place, None
    return len(text), None


def answer(model: Mixtral, ids: Sequence[int], images: Sequence, room: int, ask: Ask, seed: int | None, chat: bool,
           job: Job) -> Iterator[Ready]:
    """Yield what is ready of one text, and at its end the reason: "stop" or "length"."""
    cut, echoed, written = Cut(ask.stop), len(ids) if ask.echo else 0, 0
    for number, step in enumerate(write(model, ids, images, room, ask, seed, chat, job)):
        if number < echoed:
            yield Ready([step])
            continue
        written += 1
        ready, stop = cut.push(step, step.end or written == room)
        if stop is not None or step.end:
            yield Ready(ready, written, "stop", stop)
            return
        yield Ready(ready)
    yield Ready([], written, "length")
