"""Answers in the shapes that clients of OpenAI and vLLM read, whole or as a stream of chunks."""

import time
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

from tiny.mixtral import Mixtral
from tiny.serve.ask import SCORED, SEQUENCES, WRITTEN, Ask
from tiny.serve.limits import dumps, wrong
from tiny.serve.worker import Job
from tiny.serve.writing import Step, answer

Prompts = Sequence[tuple[list[int], Sequence, int]]  # ids, pictures, and how many tokens may be written


class Names(dict[int, str]):
    """What a token is called where it is not part of a text: as it reads inside of one, or, if it has no text of its
    own there, as the vocabulary writes it.
    """

    def __init__(self, tokenizer: Any):
        super().__init__()
        self.tokenizer, self.before = tokenizer, tokenizer.encode("a")

    def __missing__(self, id: int) -> str:
        text = self.tokenizer.decode([*self.before, id])[len(self.tokenizer.decode(self.before)) :]
        self[id] = text if text and "\ufffd" not in text else self.tokenizer.pieces([id])[0]
        return self[id]


def event(value: Any) -> bytes:
    """One event of a stream."""
    return b"data: " + dumps(value) + b"\n\n"


def noted(warnings: list[str]) -> dict:
    """The field for what an answer does not keep to, each once, if there is something."""
    return {"warnings": list(dict.fromkeys(warnings))[:100]} if warnings else {}


def chat_logprobs(steps: Sequence[Step], ask: Ask, names: Names) -> dict | None:
    """The tokens of a chat answer; bytes are those that a token adds to the text."""
    def entry(id: int, text: str, logprob: float | None) -> dict:
        return {"token": f"token_id:{id}" if ask.as_ids else text, "logprob": logprob, "bytes": [*text.encode()]}

    if ask.logprobs is None:
        return None
    return {"content": [entry(step.id, step.text, step.logprob) | {"top_logprobs": [
        entry(id, step.text if id == step.id else names[id], logprob) for id, logprob in step.top or ()]}
        for step in steps], "refusal": None}


def text_logprobs(steps: Sequence[Step], offset: int, ask: Ask, names: Names) -> dict | None:
    """The tokens of a completion in four lists of one length; `offset` is where the first begins in the text.

    Two tokens can read alike. Then the one that stands there has the name, else the likelier one; the other one is
    called by its id, so that no number is lost: lm_eval looks whether the largest one is that of the token itself.
    """
    if ask.logprobs is None:
        return None
    tokens, offsets, tops = [], [], []
    for step in steps:
        own = f"token_id:{step.id}" if ask.as_ids else step.text
        tokens.append(own)
        offsets.append(offset)
        offset += len(step.text)
        top: dict[str, float | None] = {}
        for id, logprob in step.top or ():
            name = own if id == step.id else names[id]
            alike = id != step.id and (ask.as_ids or name == own or name in top)
            top[f"token_id:{id}" if alike else name] = logprob
        top.setdefault(own, step.logprob)
        tops.append(None if step.logprob is None else top)
    return {"tokens": tokens, "token_logprobs": [step.logprob for step in steps], "top_logprobs": tops,
            "text_offset": offsets}


def check_size(prompts: Prompts, ask: Ask) -> None:
    """Refuse an answer that would take minutes, or hundreds of megabytes, before it is begun."""
    texts, room = len(prompts) * ask.n, sum(room for _, _, room in prompts) * ask.n
    if texts > 1 and (texts > SEQUENCES or room > WRITTEN):
        raise wrong(f"{texts} texts of {room} tokens in all are too many; {SEQUENCES} and {WRITTEN} are the most.",
                    "Ask for fewer texts at once, or set max_tokens.", "max_tokens")
    scored = sum(len(ids) for ids, _, _ in prompts) * ask.n * ((ask.logprobs or 0) + 1)
    if ask.echo and ask.logprobs is not None and scored > SCORED:
        raise wrong(f"{scored} log-probabilities are asked for; {SCORED} are the most.",
                    "Send fewer prompts at once, or a smaller logprobs.", "logprobs")


def reply(model: Mixtral, name: str, names: Names, prompts: Prompts, ask: Ask, chat: bool, job: Job) -> Iterator[bytes]:
    """Compute an answer: one JSON body, or the events of a stream."""
    check_size(prompts, ask)
    kind = "chat.completion" if chat else "text_completion"
    head = {"id": f"{'chatcmpl' if chat else 'cmpl'}-{uuid.uuid4().hex}",
            "object": kind + ".chunk" * (chat and ask.stream), "created": int(time.time()), "model": name}
    first = noted(ask.warnings)  # of a stream only the first event has them
    unknown = {"usage": None} if ask.usage else {}
    choices, written = [], 0
    for index in range(len(prompts) * ask.n):
        ids, images, room = prompts[index // ask.n]
        seed = None if ask.seed is None else ask.seed + index % ask.n
        if ask.stream and chat:
            start = {"delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
            yield event(head | {"choices": [{"index": index, **start}]} | unknown | first)
            first = {}
        steps: list[Step] = []
        offset = 0
        for ready in answer(model, ids, images, room, ask, seed, chat, job):
            steps += ready.steps
            written += ready.written
            ending = {"finish_reason": ready.reason, "stop_reason": ready.stop}
            if ask.stream and (ready.reason or any(step.text or ask.logprobs is not None for step in steps)):
                yield event(head | {"choices": [{"index": index, **part(steps, offset, ask, names, chat), **ending}]}
                            | unknown | first)
                offset, steps, first = offset + sum(len(step.text) for step in steps), [], {}
        if not ask.stream:
            choices.append({"index": index, **part(steps, 0, ask, names, chat), **ending})
    read = sum(len(ids) for ids, _, _ in prompts)
    usage = {"usage": {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}}
    if not ask.stream:
        yield dumps(head | {"choices": choices} | usage | first)
    elif ask.usage:
        yield event(head | {"choices": []} | usage)


def part(steps: Sequence[Step], offset: int, ask: Ask, names: Names, chat: bool) -> dict:
    """Some steps as a part of a choice: all of them in a body, those that are new in a stream."""
    said = "".join(step.text for step in steps)
    if not chat:
        return {"text": said, "logprobs": text_logprobs(steps, offset, ask, names)}
    content: dict = {"delta": {"content": said}} if ask.stream else {
        "message": {"role": "assistant", "content": said}}
    return content | {"logprobs": chat_logprobs(steps, ask, names)}
