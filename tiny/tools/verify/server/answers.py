"""What the answer to a chat says: its tokens, and what is odd about their log-probabilities. Read `chat.py` next."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from tiny.config import TinyError
from tiny.mixtral import Mixtral
from tiny.tools.verify.server.connect import Refused, Server
from tiny.tools.verify.server.names import Names
from tiny.tools.verify.server.probe import CHAT
from tiny.tools.verify.server.rows import Row, count_of, rows_of, text_of

UNSORTED = ("its likeliest tokens are not sorted, the likeliest first: they are sorted here, but a program that trusts "
            "their order is misled")
NOT_WRITTEN = ("its log-probabilities name tokens that it did not write: the likeliest ones, which it wrote, are taken "
               "for them")
NOT_GREEDY = "at temperature 0 it wrote a token that is not the likeliest: something else changes its choice"


class Answer(NamedTuple):
    """One answer. text: what was written; ids: its tokens, up to the first one that is not known; top, logprobs: the
    likeliest tokens of each, falling, with natural logarithms; counted: the server's prompt tokens, or None
    notes: what is odd
    """

    text: str
    ids: list[int]
    top: list[list[int]]
    logprobs: list[list[float]]
    counted: int | None
    notes: list[str]


def names_of(model: Mixtral) -> Names:
    """The names of a model's tokens."""
    return Names(model.tokenizer, model.config.vocab_size)


def by_ids(server: Server, body: dict[str, Any]) -> dict[str, Any]:
    """The fields of a request with the wish that tokens are named by their ids, as vLLM and `tiny serve` can.

    Raises:  TinyError if there is no connection
    """
    asked = body | {"return_tokens_as_token_ids": True}
    try:
        server.post(CHAT, asked | {"messages": [{"role": "user", "content": "1"}], "max_tokens": 1, "logprobs": True})
    except Refused:
        return body
    return asked


def read_answer(found: Mapping[str, Any], names: Names, most: int) -> Answer:
    """Read an answer of /v1/chat/completions, which may hold anything.

    most: tokens that were asked for; more are not read

    Raises:  TinyError for an answer of another form
    """
    text, rows = text_of(found), rows_of(found)[1][:most]
    if text is None and not rows:
        raise TinyError("The answer to a chat holds no text.", "Look into the log of the server.")
    text, tops = text or "", [known(row, names) for row in rows]
    named, best = [names.written(row.token) for row in rows], [next(iter(top), None) for top in tops]
    likeliest = named != best and None not in best and spell(names.tokenizer, best) == text.strip()
    differ = any(None not in pair and pair[0] != pair[1] for pair in zip(named, best))
    notes = [NOT_WRITTEN if likeliest else NOT_GREEDY] if differ else []
    notes += [] if all(row.ordered for row in rows) else [UNSORTED]
    ids = best if likeliest else named
    clear = next((n for n, (id, top) in enumerate(zip(ids, tops)) if id is None or not top), len(ids))
    return Answer(text, [id for id in ids[:clear] if id is not None], [list(top) for top in tops[:clear]],
                  [list(top.values()) for top in tops[:clear]], count_of(found), notes)


def known(row: Row, names: Names) -> dict[int, float]:
    """The likeliest tokens of a row that can be told, falling; the token itself if there is no list."""
    found: dict[int, float] = {}
    for name, value in row.top or ([] if row.logprob is None else [(row.token, row.logprob)]):
        if (id := names.written(name)) is not None:
            found.setdefault(id, value)
    return found


def spell(tokenizer: Any, ids: list) -> str:
    """The text of tokens, without the spaces at its ends."""
    return tokenizer.decode(ids).strip()
