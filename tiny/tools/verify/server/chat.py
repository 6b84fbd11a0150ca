"""Which chat template does a server use? Its own answers tell, and nothing but /v1/chat/completions is needed.

The server answers chats, always with the likeliest token. Each answer is then forced through our model behind the ids
of every template that we know: behind the right ids our log-probabilities are those of the server. The number of prompt
tokens, which servers count, has to fit as well. Read `repeat.py` next.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from tiny.mixtral import Mixtral
from tiny.sampling import log_softmax
from tiny.tekken import TekkenTokenizer
from tiny.tools.verify.server.answers import Answer, by_ids, names_of, read_answer
from tiny.tools.verify.server.connect import Refused, Server
from tiny.tools.verify.server.decide import CLIP, Evidence, Seen, deviation, name_of, weigh
from tiny.tools.verify.server.probe import CHAT
from tiny.tools.verify.server.templates import MARKS, Template, encode, templates_of, write

RIGHT = "the model's own template"
REMEDY = ("Start the server with the template that came with the model: vLLM, transformers and llama.cpp take a file "
          "(--chat-template, --chat-template-file), llama-cpp-python --chat_format; or write the ids yourself.")
LENGTH, TOP = 12, 10  # tokens of an answer, and likeliest tokens of each that are asked for
GAP = 0.05  # nats below the likeliest token, on average: what text alone may show; q4_0 shows 0.028 (29 Nov 2026)
ALIKE = 0.5  # what a template with as many prompt tokens may leave of the deviation; the right one leaves rounding
QUESTIONS = ("Say these words again: drink stone", "Sort the numbers: 42 7 19", "What is 12 plus 5?",
             "Reverse the words: apple river moon", "Repeat the words: cat house", "Turn around: bread lamp")
BRIEF = "Answer with one line."


def turns(*texts: str, system: str | None = None) -> list[dict]:
    """A chat: the user speaks first, then both in turn."""
    said = [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(texts)]
    return [{"role": "system", "content": system}] * (system is not None) + said


CHATS = (*map(turns, QUESTIONS[:4]), turns(QUESTIONS[4], "cat house", QUESTIONS[5]),
         turns(QUESTIONS[5], "lamp bread", QUESTIONS[2], "17", QUESTIONS[4]), turns(QUESTIONS[1], system=BRIEF),
         turns(QUESTIONS[4], "cat house", QUESTIONS[0], system=BRIEF))


class Chat(NamedTuple):
    """One chat, and what was answered."""

    messages: list[dict]
    answer: Answer


class ChatVerdict(NamedTuple):
    """Which template a server uses: its name, RIGHT, or None.

    state: "healthy", "faulty" or "cannot tell"; words, remedy and notes: for the report
    deviation: the mean from the model's own template, in nats; counts: prompt tokens of the server, and ours
    """

    state: str
    template: str | None
    words: str
    remedy: str
    notes: list[str]
    deviation: float
    counts: tuple[list[int | None], list[int]]


def check_chat(server: Server, body: dict[str, Any], model: Mixtral, bound: float) -> ChatVerdict:
    """Ask for all chats, and find the template that the answers follow.

    body: the fields of every request, as the name of the model and the parameters of sampling
    bound: how far a healthy server may be from the reference, in nats

    Raises:  TinyError if there is no connection, or an answer of another form
    """
    names, chats, refused, body = names_of(model), [], [], by_ids(server, body)
    for messages in CHATS:
        asked = {"messages": messages, "max_tokens": LENGTH, "logprobs": True, "top_logprobs": TOP}
        try:
            said = server.post(CHAT, body | asked)
        except Refused as error:
            refused.append(error.cause)
            continue
        chats.append(Chat(messages, read_answer(said, names, LENGTH)))
    notes = sorted({note for chat in chats for note in chat.answer.notes})
    notes += [f"{len(refused)} of {len(CHATS)} chats were refused: {refused[0]}"] if refused else []
    if not chats:
        return ChatVerdict("cannot tell", None, "no chat was answered", "Look into the log of the server.", notes,
                           np.nan, ([], []))
    found = decide(model, chats, bound, notes)
    return by_kind(model, chats, bound, found) if found.state == "faulty" and found.template is None else found


def by_kind(model: Mixtral, chats: list[Chat], bound: float, found: ChatVerdict) -> ChatVerdict:
    """The same verdict with a line for each kind of chat: a template may be right for one question, and no further."""
    kinds: dict[str, list[Chat]] = {}
    for chat in chats:
        roles = {message["role"] for message in chat.messages}
        kinds.setdefault("with a system prompt" if "system" in roles else "with an earlier answer"
                         if "assistant" in roles else "one question", []).append(chat)
    lines = [f"{kind}: {one.template or 'none that is known'}"
             for kind, some in kinds.items() for one in [decide(model, some, bound, [])]]
    return found._replace(notes=found.notes + lines)


def decide(model: Mixtral, chats: list[Chat], bound: float, notes: list[str]) -> ChatVerdict:
    """The verdict on chats that were answered: the model's own template first, then all others if it does not fit."""
    ask = by_logprobs if all(chat.answer.ids for chat in chats) else by_text
    counted = [chat.answer.counted for chat in chats]
    own = [model.tokenizer.encode_chat(chat.messages)[0] for chat in chats]
    name, mean, healthy, limit = ask(model, chats, own, bound, counted)
    said = ChatVerdict("healthy", RIGHT, f"{mean:.4f} nats from {RIGHT}, limit {limit:.4f}", "", notes, mean,
                       (counted, [len(ids) for ids in own]))
    if healthy and fit(counted, own):
        return said
    if name is not None:
        return said._replace(state="faulty", template=name, remedy=REMEDY, words=(
            f"the template is not the model's: {name} ({counts_in_words(counted, own)})"))
    if not fit(counted, own):
        return said._replace(state="faulty", template=None, remedy=REMEDY, words=(
            f"the template is not the model's, and none of those known here: {counts_in_words(counted, own)}"))
    return said._replace(state="cannot tell", template=None, words=(
        f"{mean:.4f} nats from {RIGHT}, limit {limit:.4f}, and no other fits; the numbers of tokens do"),
        remedy="Mend what the other checks found first.")


def fit(counted: Sequence[int | None], prompts: list[list[int]]) -> bool:
    """Whether the server's numbers of prompt tokens are those of prompts; one that it does not say fits."""
    return all(count is None or count == len(ids) for count, ids in zip(counted, prompts))


def counts_in_words(counted: Sequence[int | None], own: list[list[int]]) -> str:
    """The numbers of prompt tokens, or of the first chats in which they differ."""
    different = [f"{count} for {len(ids)}" for count, ids in zip(counted, own) if count not in (None, len(ids))]
    return f"prompt tokens: {', '.join(different[:3])}" if different else "as many prompt tokens"


def by_logprobs(model: Mixtral, chats: list[Chat], own: list[list[int]], bound: float,
                counted: list[int | None]) -> tuple[str | None, float, bool, float]:
    """The template that explains the log-probabilities of answers, by the rule for faults; the mean from the right
    one; whether that is healthy; the limit.
    """
    seen = seen_of_answers([chat.answer for chat in chats])
    plain = rows_of(model, own, [chat.answer.ids for chat in chats])
    mean = float(np.nanmean(deviation(seen, plain)))
    if mean <= bound and fit(counted, own):
        return None, mean, True, bound
    evidence: dict[str, Evidence] = {}
    near: dict[str, float] = {}
    for template, prompts in written(model, chats):
        if fit(counted, prompts) and prompts != own:
            changed = rows_of(model, prompts, [chat.answer.ids for chat in chats])
            evidence[template.name] = weigh([seen], [plain], [changed])
            near[template.name] = float(np.nanmean(deviation(seen, changed)))
    best = min(near, key=near.__getitem__, default=None)
    if best is not None and near[best] <= bound and (near[best] < ALIKE * mean > ALIKE * bound
                                                     or not fit(counted, own)):
        return best, mean, False, bound  # clear without a rule for noise, on however few tokens
    # another fault, of weights or positions, may look a little like a template that has as many tokens
    clear = {name: one for name, one in evidence.items() if one.left < ALIKE or not fit(counted, own)}
    return name_of(clear, bound / 2), mean, mean <= bound, bound


def by_text(model: Mixtral, chats: list[Chat], own: list[list[int]], bound: float,
            counted: list[int | None]) -> tuple[str | None, float, bool, float]:
    """The same from the words of answers alone: how far below the likeliest token each one is, on average."""
    forms = [[answer_ids(model, chat.answer, mark) for chat in chats] for mark in ("", MARKS["glue"])]

    def gap(prompts: list[list[int]]) -> float:
        return float(np.mean(np.min([gaps_of(model, prompts, answers) for answers in forms], axis=0)))

    mean = gap(own)
    if mean <= GAP and fit(counted, own):
        return None, mean, True, GAP
    gaps = {template.name: gap(prompts) for template, prompts in written(model, chats)
            if fit(counted, prompts) and prompts != own}
    best = min(gaps, key=gaps.__getitem__, default=None)
    # the words of an answer can have other tokens than it had, so where the numbers of tokens tell, they decide
    clear = best is not None and gaps[best] <= mean / 2 and (gaps[best] <= GAP or not fit(counted, own))
    return best if clear else None, mean, mean <= GAP, GAP


def gaps_of(model: Mixtral, prompts: list[list[int]], answers: list[list[int]]) -> list[float]:
    """How far each answer is below the likeliest tokens, on average, in nats."""
    rows, chosen = rows_of(model, prompts, answers), np.concatenate(answers)
    below = np.minimum(rows.max(axis=1) - rows[np.arange(len(rows)), chosen], CLIP)
    return [float(part.mean()) for part in np.split(below, np.cumsum([len(answer) for answer in answers])[:-1])]


def answer_ids(model: Mixtral, answer: Answer, mark: str) -> list[int]:
    """The tokens of a text. The last of several is left out: a cut answer may end inside of one. No text is the end.

    mark: "", or that of templates for a text that has no space put before it; servers keep or drop that space
    """
    tekken = isinstance(model.tokenizer, TekkenTokenizer)
    ids = encode(mark + (answer.text if tekken else answer.text.strip()), model.tokenizer)
    return ids[:-1] or ids or [model.tokenizer.eos_id]


def written(model: Mixtral, chats: list[Chat]) -> list[tuple[Template, list[list[int]]]]:
    """Every other template, with the ids of all chats."""
    return [(template, [write(template, chat.messages, model.tokenizer) for chat in chats])
            for template in templates_of(model.tokenizer)]


def seen_of_answers(answers: list[Answer]) -> Seen:
    """What the server said, one row for each token of all answers."""
    most = max(len(top) for answer in answers for top in answer.top)
    top, logprobs = [np.array([row + [empty] * (most - len(row)) for answer in answers for row in rows_in(answer)])
                     for rows_in, empty in ((lambda answer: answer.top, -1), (lambda answer: answer.logprobs, np.nan))]
    return Seen(np.zeros(len(top), np.int64), top, logprobs, np.full(len(top), np.nan))


def rows_of(model: Mixtral, prompts: list[list[int]], answers: list[list[int]]) -> np.ndarray:
    """Our log-probabilities of each token of all answers behind their prompts. Shapes:  -> (N, V) float64."""
    whole = [prompt + answer[:-1] for prompt, answer in zip(prompts, answers)]
    lengths = [len(ids) for ids in whole]
    logits = model(np.concatenate(whole).astype(np.int64), lengths=lengths)
    ends = np.cumsum(lengths)
    rows = np.concatenate([np.arange(end - len(answer), end) for end, answer in zip(ends, answers)])
    return log_softmax(logits[rows])
