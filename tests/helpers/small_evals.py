"""Small benchmarks for tests, and servers that say what a test wrote for them."""

import io
import json
import os
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from PIL import Image

from tiny.__main__ import main
from tiny.evals.items import Item, write_items
from tiny.evals.tasks import find_task

COLOURS = ("red", "green", "blue", "white", "black")


def command_ends(arguments):
    """Run a command in a process of its own, whose exit status is the command's."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.exit(main(arguments))


def picture_bytes(colour, size=(40, 24), kind="PNG"):
    """A picture of one colour with a darker corner, as a file of this format."""
    image = Image.new("RGB", size, colour)
    image.paste((10, 20, 30), (0, 0, size[0] // 4, size[1] // 4))
    out = io.BytesIO()
    image.save(out, format=kind)
    return out.getvalue()


def small_items(folder, task="chartqa", count=12):
    """Write a folder of items of a task, each with a picture; the right answer to item N is "aN". Of mm_mt_bench every
    third item has two turns.
    """
    rows = []
    for n in range(count):
        kind = ("PNG", "JPEG")[n % 2]
        data = picture_bytes(COLOURS[n % 5], (40 + n, 24), kind)
        name, text = f"images/{n}.{kind.lower()}", f"What is {n}?"
        first = {"role": "user", "content": [{"type": "image", "image": name}, {"type": "text", "text": text}]}
        if task == "mm_mt_bench":
            more = [{"role": "assistant", "content": f"It is a{n}."},
                    {"role": "user", "content": [{"type": "text", "text": f"And after {n}?"}]}] if n % 3 == 0 else []
            right = [f"It is a{n}.", "More."][: 1 + bool(more)]
            item = Item(f"item{n}", [first, *more], right, ("charts", "tables")[n % 2])
        else:
            item = Item(f"item{n}", [first], [[f"a{n}"]])
        rows.append((item, {name: data}))
    write_items(folder, find_task(task), rows)
    return folder


def chat_reply(text, reason="stop"):
    """The body of a chat completion."""
    return {"choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": reason}],
            "usage": {"prompt_tokens": 10, "completion_tokens": 3, "total_tokens": 13}}


@contextmanager
def scripted_server(script):
    """A server on a free port; gives its address and the list of (path, body, headers) that came.

    script: called with the body of each chat completion and its number from 0. It returns a text, a whole body, a
    status with a body and headers, bytes to send as they are, or None, which hangs until the server ends.
    """
    seen, over, lock = [], threading.Event(), threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_GET(self):
            self.answer(200, {"object": "list", "data": [{"id": "scripted"}]}, {})

        def do_POST(self):
            raw = self.rfile.read(int(self.headers["Content-Length"]))
            with lock:
                number = len(seen)
                seen.append((self.path, json.loads(raw), dict(self.headers), raw))
            said = script(json.loads(raw), number)
            if said is None:
                over.wait(60)
            elif isinstance(said, bytes):
                self.wfile.write(said)
            elif isinstance(said, tuple):
                self.answer(*said)
            else:
                self.answer(200, chat_reply(said) if isinstance(said, str) else said, {})

        def answer(self, status, body, headers):
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            headers = {"Content-Length": str(len(data)), "Content-Type": "application/json"} | headers
            for name, value in headers.items():
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
        yield f"http://127.0.0.1:{server.server_port}", seen
    finally:
        over.set()
        server.shutdown()
        server.server_close()
        thread.join()


def last_text(body):
    """The last text of a request."""
    content = body["messages"][-1]["content"]
    return content if isinstance(content, str) else content[-1]["text"]
