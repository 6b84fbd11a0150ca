"""Does a server give the same numbers when it has seen a prompt before, and when it works on several at once?

One long prompt that no earlier run has sent is asked; then seven others that begin like it, each alone; then the first
one again, when its keys and values may come from the server's cache; then all eight at once. Differences up to rounding
are fair, because other shapes add in another order. Larger ones are faults of the cache or of batches. The server is
only compared with itself, so a wrong model or template does not matter here. Read `report.py` next.
"""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import takewhile
from typing import Any, NamedTuple

import numpy as np

from tiny.mixtral import Mixtral
from tiny.tools.verify.server.answers import Answer, by_ids, names_of, read_answer
from tiny.tools.verify.server.connect import Refused, Server
from tiny.tools.verify.server.decide import CLIP
from tiny.tools.verify.server.probe import CHAT, COMPLETIONS
from tiny.tools.verify.server.rows import text_of

AT_ONCE, LENGTH, TOP = 8, 8, 10  # requests at once, tokens of an answer, likeliest tokens of each
ROUNDED = 2  # both answers are rounded, where a bound is about one that is not
LONGEST = 300  # tokens of a prompt: vLLM on a CPU keeps blocks of 128, and only whole ones
BEGINNING = "Say it again. Say it again. Say it"  # words that come again
WORDS = """apple river moon stone bread lamp cat house green field early seven drink small horse window letter garden
story water table morning bridge button""".split()
DEFAULTS = ("a request without sampling parameters gets numbers with the server's own ones in them: {:.4f} nats from "
            "those of temperature 1 without penalties")
CHOICE = "at temperature 0, with no other parameter in the request, it writes other tokens: a default of the server"


class RepeatVerdict(NamedTuple):
    """What repeating showed. state: "healthy", "faulty" or "cannot tell"; words and remedy: for the report

    cache, batch: differences in nats, from a cold answer to a warm one, and the largest from alone to eight at once
    """

    state: str
    words: str
    remedy: str
    cache: float
    batch: float


def check_repeat(server: Server, body: dict[str, Any], model: Mixtral, bound: float) -> RepeatVerdict:
    """Ask cold, warm and at once; judge the differences.

    body: the fields of every request; bound: what rounding may do, in nats

    Raises:  TinyError if there is no connection, or an answer of another form
    """
    names, body = names_of(model), by_ids(server, body)
    asked = [body | request for request in requests(model, time.time_ns() % 1_000_000)]

    def answer(request: dict[str, Any]) -> Answer:
        return read_answer(server.post(CHAT, request), names, LENGTH)

    try:
        cold = answer(asked[0])
        alone = [cold, *map(answer, asked[1:])]
        warm = answer(asked[0])
        with ThreadPoolExecutor(AT_ONCE) as pool:
            together = list(pool.map(answer, asked))
    except Refused as error:
        return RepeatVerdict("cannot tell", f"a request was refused: {error.cause}", error.remedy, np.nan, np.nan)
    return judge(cold, warm, alone, together, bound)


def judge(cold: Answer, warm: Answer, alone: Sequence[Answer], together: Sequence[Answer],
          bound: float) -> RepeatVerdict:
    """The verdict on answers."""
    if not all(one.ids for one in (cold, warm, *alone, *together)):
        pairs = [(cold, warm), *zip(alone, together)]
        different = sum(before.text != after.text for before, after in pairs)
        return RepeatVerdict("cannot tell", f"{different} of {len(pairs)} answers changed when they were asked again; "
                             "without log-probabilities that can be rounding", "", np.nan, np.nan)
    cache, each = difference(cold, warm), [difference(*pair) for pair in zip(alone, together)]
    batch = max(each)
    limit = ROUNDED * bound
    words = f"cold to warm {cache:.4f} nats, alone to {AT_ONCE} at once {batch:.4f}, limit {limit:.4f}"
    if cache > limit:
        return RepeatVerdict("faulty", f"the cache of prompts changes the numbers: {words}", "Switch it off and report "
                             "it: vLLM --no-enable-prefix-caching, llama.cpp cache_prompt false.", cache, batch)
    if batch > limit:
        return RepeatVerdict("faulty", f"requests at the same time change each other's numbers: {words}", "Let it take "
                             "one at a time, and report it: vLLM --max-num-seqs 1, llama.cpp --parallel 1.", cache,
                             batch)
    return RepeatVerdict("healthy", words, "", cache, batch)


def difference(one: Answer, other: Answer) -> float:
    """The median over positions of the mean |log p - log q| of the tokens that both name, weighted by p, in nats.

    A fault of keys and values moves all positions, an expert that rounding flips only one, but that one far. Answers
    are compared up to the first token in which they differ, that position included: what follows differs rightly.
    """
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one.ids, other.ids)))
    found = []
    for n in range(min(same + 1, len(one.ids), len(other.ids))):
        theirs = dict(zip(other.top[n], other.logprobs[n]))
        pairs = np.array([(p, theirs[id]) for id, p in zip(one.top[n], one.logprobs[n]) if id in theirs]).reshape(-1, 2)
        weights = np.exp(pairs[:, 0])
        # lists of likeliest tokens that share nothing cannot come from one distribution
        found.append(np.average(np.minimum(abs(pairs[:, 0] - pairs[:, 1]), CLIP), weights=weights) if len(pairs)
                     else CLIP)
    return float(np.median(found))


def requests(model: Mixtral, number: int) -> list[dict[str, Any]]:
    """Eight chats with one beginning, as long as the context allows: the question is to say words again.

    number: stands near their beginning, so that others with another one cannot have warmed a cache
    """
    room = min(LONGEST, model.config.max_seq_len - 4 * LENGTH)
    many = [WORDS[(n * n + n // len(WORDS)) % len(WORDS)] for n in range(LONGEST)]
    count = max(n for n in range(LONGEST) if len(model.tokenizer.encode(" ".join(many[:n]))) <= room * 3 // 4)
    found = []
    for each in range(AT_ONCE):
        words = many[: count // 2] + [WORDS[(each + n) % len(WORDS)] for n in range(count - count // 2)]
        found.append({"messages": [{"role": "user", "content": f"Say these words again: {number} {' '.join(words)}"}],
                      "max_tokens": LENGTH, "logprobs": True, "top_logprobs": TOP})
    return found


def check_defaults(server: Server, name: str, body: dict[str, Any], model: Mixtral, bound: float) -> list[str]:
    """What the server does to requests that name no sampling parameters: lines for the report, none if it does nothing.

    Such a request gets the server's defaults, or those of generation_config.json: a temperature, a penalty.

    Raises:  TinyError if there is no connection, or an answer of another form
    """
    names, body = names_of(model), by_ids(server, body)
    extra = {key: body[key] for key in ("return_tokens_as_token_ids",) if key in body}
    request = requests(model, 0)[0] | extra
    notes = []
    try:
        explicit, greedy, bare = (
            read_answer(server.post(CHAT, fields | request), names, LENGTH)
            for fields in (body, named(name) | {"temperature": 0}, named(name)))
    except Refused as error:
        return [f"a request without sampling parameters was refused: {error.cause}"]
    if explicit.ids and bare.ids:
        first = [one._replace(ids=one.ids[:1]) for one in (explicit, bare)]
        if (apart := difference(*first)) > bound:
            notes.append(DEFAULTS.format(apart))
    if explicit.text != greedy.text or chooses_otherwise(server, name, body):
        notes.append(CHOICE)
    return notes


def named(name: str) -> dict[str, Any]:
    """The name of a model as a field of a request; a server without a list of models is asked without one."""
    return {"model": name} if name else {}


def chooses_otherwise(server: Server, name: str, body: dict[str, Any]) -> bool:
    """Whether a text goes on otherwise if only the temperature is given: a penalty shows where words come again.

    Answers to chats are often too certain for that.
    """
    request = {"prompt": BEGINNING, "max_tokens": 6 * LENGTH}
    try:
        explicit, greedy = (text_of(server.post(COMPLETIONS, fields | request))
                            for fields in (body, named(name) | {"temperature": 0}))
    except Refused:
        return False
    return explicit != greedy
