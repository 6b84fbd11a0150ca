"""A server that gives texts only: how far below its likeliest token does our reference see what was written?

Greedy words of a healthy server are the reference's own choice, or nearly. That finds a fault and does not name it, and
a fault that changes no choice, as a temperature, stays unseen.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from tiny.config import TinyError
from tiny.tools.verify.server.connect import Server
from tiny.tools.verify.server.probe import CHAT, Way
from tiny.tools.verify.server.rows import text_of

WRITTEN = 64  # tokens that are asked for behind a beginning
# nats: what rounding may do to the mean at least. The words of healthy servers of 8 bits and more were 0.0011 below on
# 7,182 tokens, those of faulty ones 0.0137 and more; on a few hundred tokens own rounding is a matter of few choices.
FLOOR = 0.002
BEGINNING = 40  # tokens of a beginning: so many lie between two of them in a text


class Written(NamedTuple):
    """A beginning, and what the server wrote behind it. ids: of both; start: how many are the beginning's"""

    ids: list[int]
    start: int


def write(server: Server, way: Way, model: Any, texts: Sequence[Sequence[int]], least: int) -> list[Written]:
    """Have the server go on behind beginnings of texts, until it wrote enough tokens or there are no more beginnings.

    Raises:  TinyError if it writes no text, or serves chats only
    """
    if way.form.path == CHAT:
        raise TinyError("The server gives texts of chats only, and no log-probabilities.",
                        "Start it so that it gives log-probabilities, or serves /v1/completions.")
    found: list[Written] = []
    tokenizer = model.tokenizer
    for ids in texts:
        for place in range(BEGINNING, len(ids), BEGINNING):
            if sum(len(one.ids) - one.start for one in found) >= least:
                return found
            beginning = tokenizer.decode(ids[max(1, place - 2 * BEGINNING) : place])
            own = [tokenizer.bos_id, *tokenizer.encode(beginning)]
            answer = server.post(way.form.path, way.form.body(beginning, way.name, WRITTEN))
            said = text_of(answer)
            if said is None:
                raise TinyError("The server sent no text.", "Look into its log.")
            whole = [tokenizer.bos_id, *tokenizer.encode(beginning + said)][: model.config.max_seq_len]
            # The last token may have been cut; and where both join, two tokens may have become one.
            if whole[: len(own)] == own and len(whole) > len(own) + 1:
                found.append(Written(whole[:-1], len(own)))
    return found


def gaps(written: Sequence[Written], logprobs: Sequence[np.ndarray]) -> np.ndarray:
    """By how much each written token is less likely than the likeliest. Shapes:  (T, V) each -> (N,) nats."""
    return joined(below(rows[one.start - 1 : len(one.ids) - 1], np.array(one.ids[one.start :]))
                  for one, rows in zip(written, logprobs))


def own_gaps(written: Sequence[Written], plain: Sequence[np.ndarray], rounded: Sequence[np.ndarray]) -> np.ndarray:
    """The same for what the reference itself would choose if it were rounded. Shapes:  -> (N,) nats."""
    def one_text(one: Written, rows: np.ndarray, others: np.ndarray) -> np.ndarray:
        at = slice(one.start - 1, len(one.ids) - 1)
        return below(rows[at], np.nanargmax(others[at], axis=1))

    return joined(one_text(*text) for text in zip(written, plain, rounded))


def below(rows: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """How far tokens are below the likeliest; one that was not kept is as far as the last that was, at least.

    Shapes:  rows (N, V), NaN for what was not kept, chosen (N,) -> (N,) nats
    """
    values = rows[np.arange(len(rows)), chosen]
    return np.nanmax(rows, axis=1) - np.where(np.isnan(values), np.nanmin(rows, axis=1), values)


def joined(found: Iterable[np.ndarray]) -> np.ndarray:
    """Numbers of several texts in a row. Shapes:  (n,) each -> (N,)."""
    return np.concatenate([np.zeros(0), *found])
