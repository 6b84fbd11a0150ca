"""A server of chats in this process, right or wrong on purpose: what `post` gets is what one would send over HTTP."""

import threading
import time

import numpy as np

from tiny.sampling import log_softmax
from tiny.tools.verify.server.connect import Refused
from tiny.tools.verify.server.templates import write


class ChatServer:
    """Answers /v1/chat/completions with a model's likeliest tokens.

    template: one in the place of the model's own; naming: "id", "text" or "none" for no log-probabilities at all
    unsorted: lists are not sorted and their first entry is called the token, as mlx-lm does it; noise: of the numbers,
    in nats; forgets: tokens at the start that a prompt loses when it comes for the second time; mixes: whether requests
    at the same time get the numbers of another; temperature, penalty: of requests that name none; strict: refuses
    system prompts
    """

    def __init__(self, model, template=None, naming="id", unsorted=False, noise=0.0, forgets=0, mixes=False,
                 temperature=1.0, penalty=1.0, strict=False):
        self.model, self.template, self.naming, self.unsorted = model, template, naming, unsorted
        self.noise, self.forgets, self.mixes, self.temperature, self.strict = noise, forgets, mixes, temperature, strict
        self.penalty = penalty
        self.random, self.seen, self.now, self.lock = np.random.default_rng(0), set(), [], threading.Lock()

    def post(self, path, body):
        """Answer one request."""
        if path == "/v1/completions":
            return self.complete(body)
        assert path == "/v1/chat/completions"
        if self.strict and body["messages"][0]["role"] == "system":
            raise Refused("Only user and assistant roles are supported!", "Leave it out.", 400)
        ids, read = self.prompt(body["messages"]), self.prompt(body["messages"])
        with self.lock:
            self.now.append(read)
            first = self.now[0]
            again = tuple(ids) in self.seen
            self.seen.add(tuple(ids))
        if self.mixes:
            time.sleep(0.02)  # so long others find it there
            read = first
        if again:
            read = read[self.forgets:]
        rows = self.generate(read, body["max_tokens"], 1.0 if "temperature" in body else self.temperature)
        with self.lock:
            self.now.remove(ids)
        return self.answer(ids, rows)

    def complete(self, body):
        """Go on with a text; what was written already becomes less likely by the penalty."""
        ids, penalty = [1, *self.model.tokenizer.encode(body["prompt"])], body.get("repetition_penalty", self.penalty)
        start = len(ids)
        for _ in range(body["max_tokens"]):
            row = log_softmax(self.model(ids)[-1])
            row[list(set(ids))] *= penalty
            ids.append(int(row.argmax()))
        return {"choices": [{"text": self.model.tokenizer.decode(ids[start:])}], "usage": {"prompt_tokens": start}}

    def prompt(self, messages):
        """The ids that the model reads."""
        tokenizer = self.model.tokenizer
        return (tokenizer.encode_chat(messages)[0] if self.template is None else
                write(self.template, messages, tokenizer))

    def generate(self, ids, count, temperature):
        """Log-probabilities behind the prompt, and behind each token that is written."""
        cache, rows = self.model.new_cache(len(ids) + count), []
        logits = self.model(ids, cache=cache, last_only=True)
        for _ in range(count):
            row = log_softmax(logits[0] / temperature)
            rows.append(row + self.noise * self.random.standard_normal(len(row)))
            best = int(rows[-1].argmax())
            if best == self.model.tokenizer.eos_id:
                break
            logits = self.model([best], cache=cache, last_only=True)
        return rows

    def entry(self, id, value):
        """A token as the server names it."""
        text = self.model.tokenizer.pieces([id])[0].replace("\u2581", " ")
        return {"token": text, "logprob": min(float(value), 0.0)} | ({"id": id} if self.naming == "id" else {})

    def answer(self, ids, rows):
        """The JSON object."""
        content = []
        for row in rows:
            order = np.argsort(-row)[:10].tolist()
            order = order[1:] + order[:1] if self.unsorted else order
            listed = [self.entry(id, row[id]) for id in order]
            content.append(listed[0] | {"top_logprobs": listed})
        text = self.model.tokenizer.decode([int(row.argmax()) for row in rows])
        logprobs = None if self.naming == "none" else {"content": content}
        return {"choices": [{"message": {"role": "assistant", "content": text}, "logprobs": logprobs}],
                "usage": {"prompt_tokens": len(ids)}}
