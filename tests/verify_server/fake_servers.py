"""Servers in a thread of the test, one for each dialect, that compute with a model of ours, right or wrong on purpose.
"""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np

from tiny.tools.verify.server.names import Names


class Refuse(Exception):
    """An answer with another status than 200."""

    def __init__(self, status, message="no"):
        super().__init__(message)
        self.status, self.message = status, message


class Fake:
    """What all dialects share.

    say(ids) -> log-probabilities (T, V) after each id; read(text) -> the ids that the server makes of a text
    texts: those that will be asked in prefixes; each is computed once
    """

    owner = None

    def __init__(self, model, say, read=None, texts=()):
        self.model, self.say, self.tokenizer = model, say, model.tokenizer
        self.read = read or (lambda text: [1, *model.tokenizer.encode(text)])
        self.texts, self.known, self.seen = [list(map(int, ids)) for ids in texts], {}, []
        self.names = Names(model.tokenizer, model.config.vocab_size)

    def rows(self, ids):
        """Log-probabilities after each of some ids, from the longest text that begins with them."""
        key = next((tuple(text) for text in self.texts if text[: len(ids)] == ids), tuple(ids))
        if key not in self.known:
            self.known[key] = self.say(list(key))
        return self.known[key][: len(ids)]

    def ids_of(self, prompt):
        """The ids of a prompt. Text is read as this server reads it."""
        return self.read(prompt) if isinstance(prompt, str) else self.take_ids(prompt)

    def take_ids(self, prompt):
        return prompt

    def write(self, ids, tokens):
        """Greedy tokens behind a prompt, and the rows from which they were taken."""
        written, rows = [], []
        for _ in range(tokens):
            rows.append(self.rows([*ids, *written])[-1])
            written.append(int(np.nanargmax(rows[-1])))
            if written[-1] == self.tokenizer.eos_id:
                return written[:-1], rows[:-1]
        return written, rows

    def best(self, row, count):
        """The likeliest tokens of a row, falling."""
        return [(int(id), float(row[id])) for id in np.argsort(-np.nan_to_num(row, nan=-np.inf))[:count]]

    def text(self, id):
        """What one token reads like inside of a text; bytes of no character read like nothing."""
        return self.tokenizer.decode([*self.names.before, id])[self.names.start :].replace("\ufffd", "")

    def models(self):
        return {"object": "list", "data": [{"id": "fake", "object": "model"} | (
            {"owned_by": self.owner} if self.owner else {})]}

    def answer(self, path, body):
        """The answer to a request, by the name of its path."""
        find = {"/v1/completions": self.complete, "/v1/chat/completions": self.chat, "/completion": self.native}
        if path not in find:
            raise Refuse(404, "no such path")
        return find[path](body)

    def native(self, body):
        raise Refuse(404)

    def chat(self, body):
        raise Refuse(404)

    def complete(self, body):
        ids = self.ids_of(body["prompt"])
        if not ids:
            raise Refuse(400, "the prompt is empty")
        written, _ = self.write(ids, min(body["max_tokens"], 64))
        return self.completion(ids, written, None)

    def completion(self, ids, written, logprobs, **more):
        return {"choices": [{"index": 0, "text": self.tokenizer.decode([1, *ids, *written])[
            len(self.tokenizer.decode([1, *ids])) :], "logprobs": logprobs, **more}],
            "usage": {"prompt_tokens": len(ids), "completion_tokens": len(written)}}


class VLLM(Fake):
    """prompt_logprobs: for each token of the prompt an object by ids, the token itself first."""

    owner = "vllm"

    def complete(self, body):
        ids = self.ids_of(body["prompt"])
        if "prompt_logprobs" not in body:
            return super().complete(body | {"max_tokens": 1})
        rows, found = self.rows(ids), [None]
        for row, id in zip(rows, ids[1:]):
            entries = {id: float(row[id])} | dict(self.best(row, body["prompt_logprobs"]))
            found.append({str(key): {"logprob": value, "rank": int((row > value).sum()) + 1, "decoded_token": "?"}
                          for key, value in entries.items()})
        return self.completion(ids, [int(rows[-1].argmax())], None, prompt_logprobs=found)


class LlamaCpp(Fake):
    """Ids as a prompt and n_probs on a path of its own; `echo` is ignored without a word."""

    owner = "llamacpp"

    def native(self, body):
        row = self.rows(self.ids_of(body["prompt"]))[-1]
        top = [{"id": id, "token": self.text(id), "bytes": [], "logprob": value}
               for id, value in self.best(row, body["n_probs"])]
        return {"content": top[0]["token"], "completion_probabilities": [top[0] | {"top_logprobs": top}]}


class LlamaCppPython(Fake):
    """Text only, echoed with log-probabilities by strings, BOS left out, the first token's null."""

    owner = "me"

    def take_ids(self, prompt):
        raise Refuse(500, "validation errors")

    def complete(self, body):
        ids = self.ids_of(body["prompt"])
        rows = self.rows(ids)
        written = [int(rows[-1].argmax())]
        if not body.get("echo"):
            return self.completion(ids, written, None)
        tokens = [*ids[1:], *written]
        tops = [{self.text(one): value for one, value in self.best(row, body["logprobs"])} for row in rows]
        own = [float(row[id]) for row, id in zip(rows, tokens)]
        tops = [top | {self.text(id): value} for top, id, value in zip(tops, tokens, own)]
        return self.completion(ids, written, {
            "tokens": list(map(self.text, tokens)), "token_logprobs": [None, *own[1:]],
            "top_logprobs": [None, *tops[1:]]})


class Mlx(Fake):
    """Text only, and not empty; `logprobs` must be true; the list is not sorted, and the tokens named beside are its
    first.
    """

    def take_ids(self, prompt):
        raise Refuse(404)

    def complete(self, body):
        ids = self.ids_of(body["prompt"])
        if not body["prompt"]:
            return b""  # its handler ends with an error, and the connection with it
        if "logprobs" not in body:
            return super().complete(body)
        if not isinstance(body["logprobs"], bool):
            raise Refuse(400, "logprobs must be of type bool")
        top = self.best(self.rows(ids)[-1], body["top_logprobs"])
        top = top[1:4] + top[:1] + top[4:]
        entries = [{"id": id, "token": self.tokenizer.pieces([id])[0], "logprob": value} for id, value in top]
        return self.completion(ids, [top[0][0]], {"content": [entries[0] | {"top_logprobs": entries}]})


class TextOnly(Fake):
    """No log-probabilities; they may be asked for."""

    def take_ids(self, prompt):
        raise Refuse(400)


class ChatOnly(Fake):
    """Chats with top_logprobs up to 5, and nothing else."""

    def complete(self, body):
        raise Refuse(404)

    def chat(self, body):
        if body.get("top_logprobs", 0) > 5:
            raise Refuse(422, "top_logprobs is more than 5")
        ids, _ = self.tokenizer.encode_chat(body["messages"])
        written, rows = self.write(ids, min(body["max_tokens"], 12))
        content = []
        for id, row in zip(written, rows):
            top = [{"token": self.text(one), "logprob": value} for one, value in self.best(row, 5)]
            content.append({"token": self.text(id), "logprob": float(row[id]), "top_logprobs": top})
        return {"choices": [{"message": {"role": "assistant", "content": self.tokenizer.decode(written)},
                             "logprobs": {"content": content}}], "usage": {"prompt_tokens": len(ids)}}


class Hostile(Fake):
    """Answers every request with the same: bytes as they are, status, body and headers, or None, which hangs."""

    def __init__(self, said, models=None):
        self.said, self.listed, self.seen = said, models, []

    def models(self):
        return self.listed if self.listed is not None else self.said

    def answer(self, path, body):
        return self.said


@contextmanager
def running(fake):
    """A fake server on a free port, by its address."""
    over = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_GET(self):
            self.send(fake.models() if self.path == "/v1/models" else (404, {}, {}))

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            fake.seen.append((self.path, body, dict(self.headers)))
            try:
                self.send(fake.answer(self.path, body))
            except Refuse as refuse:
                self.send((refuse.status, {"error": {"message": refuse.message}}, {}))

        def send(self, said):
            if said is None:
                over.wait(60)
            elif isinstance(said, bytes):
                self.wfile.write(said)
            elif callable(said):
                said(self.wfile, over)
            else:
                status, content, headers = said if isinstance(said, tuple) else (200, said, {})
                data = content if isinstance(content, bytes) else json.dumps(content).encode()
                self.send_response(status)
                for name, value in ({"Content-Length": str(len(data)), "Content-Type": "application/json"} | headers
                                    ).items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_):
            pass  # A client that has gone is what some tests are about.

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        over.set()
        server.shutdown()
        server.server_close()
        thread.join()
