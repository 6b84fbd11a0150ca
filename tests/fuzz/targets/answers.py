"""Target: what servers answer to `verify server`. Read of it are tokens of the vocabulary and log-probabilities."""

import json
import random
from functools import cache
from pathlib import Path

import numpy as np

import tiny
from tests.fuzz import mutate
from tests.fuzz.engine import Target, Wrong
from tiny.tools.http_request import strict_json
from tiny.tools.verify.server.collect import Collector
from tiny.tools.verify.server.connect import Server
from tiny.tools.verify.server.names import Names
from tiny.tools.verify.server.probe import FORMS, Way
from tiny.tools.verify.server.rows import count_of, rows_of, text_of

TOP = [{"id": 300, "token": " the", "logprob": -0.5}, {"token": "?", "logprob": -1},
       {"token": "\u2581a", "logprob": -2.5}]
LISTS = {"tokens": ["token_id:5", "x"], "token_logprobs": [None, -1.5], "top_logprobs": [None, {"x": -1.5, " a": -3}]}
SHAPES = ({"logprobs": LISTS, "text": " the"}, {"logprobs": {"content": [TOP[0] | {"top_logprobs": TOP}] * 3}},
          {"prompt_logprobs": [None, {"5": {"logprob": -1.0, "rank": 1}, "7": {"logprob": -2}}], "logprobs": None},
          {"message": {"content": "yes"}, "logprobs": {"content": TOP}})
NUMBERS = (*mutate.ODD, 0.5, -0.0, -9999, -1e308, 2048, -1, True, "token_id:2048", "token_id:7", [TOP[1]] * 300)


@cache
def names() -> Names:
    """The names of tiny-mixtral's tokens."""
    return Names(tiny.load("tiny-mixtral").tokenizer, 2048)


def make_answer(rng: random.Random) -> bytes:
    answer = {"choices": [rng.choice(SHAPES)], "usage": {"prompt_tokens": 5}}
    if rng.random() < 0.2:
        answer = {"content": " the", "completion_probabilities": [TOP[0] | {"top_logprobs": TOP}]}
    text = mutate.text_of(rng, mutate.json_of(rng, answer, NUMBERS))
    return text.replace(b"-1.5", rng.choice((b"NaN", b"-Infinity", b"1e999", b"-1.5", b"-1.5")))


def run_answer(data: bytes, folder: Path) -> str:
    try:
        answer = strict_json(data)
    except ValueError:
        return "refused"
    if not isinstance(answer, dict):
        return "refused"
    json.dumps([text_of(answer), count_of(answer)])
    prompt, rows = rows_of(answer)
    seen = Collector(Server("http://127.0.0.1:9"), Way(FORMS[1], "", ""), names()).seen([1, 5, 7], (prompt + rows)[:3])
    said = ~np.isnan(seen.logprobs)
    if ((seen.top < 0) == said).any() or seen.top.max() >= 2048 or (seen.logprobs[said] > 0).any() or (
            np.diff(np.where(said, seen.logprobs, -np.inf)[:, :3]) > 0).any() or (seen.following > 0).any():
        raise Wrong("tokens outside the vocabulary, or no falling log-probabilities")
    return "read" if said.any() else "nothing"


TARGETS = [Target("answer", make_answer, run_answer, 0.3)]
