"""A server in a process of its own, as a user starts it, and requests to it."""

import base64
import http.client
import io
import json
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager

from oracles import ROOT
from PIL import Image


class Client:
    """Requests to a server at a port of this machine."""

    def __init__(self, port):
        self.port = port


    def ask(self, path, body=None, headers=None, method=None, timeout=60):
        """Status and decoded JSON of one request; a stream comes as the list of its events."""
        status, _, data = self.raw(path, body, headers, method, timeout)
        if data.startswith(b"data: "):
            events = data.decode().split("\n\n")
            assert events[-1] == "" and events[-2] == "data: [DONE]", events[-3:]
            return status, [json.loads(event.removeprefix("data: ")) for event in events[:-2]]
        return status, json.loads(data) if data else None

    def raw(self, path, body=None, headers=None, method=None, timeout=60):
        """Status, headers and bytes of one request; a body that is no bytes is sent as JSON."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        connection.request(method or ("GET" if body is None else "POST"), path, data, headers or {})
        reply = connection.getresponse()
        found = reply.status, dict(reply.getheaders()), reply.read()
        connection.close()
        return found

    def complete(self, prompt, **fields):
        """The answer of /v1/completions, which must be there; greedy if nothing is said."""
        status, reply = self.ask("/v1/completions", {"temperature": 0, "prompt": prompt} | fields)
        assert status == 200, reply
        return reply

    def chat(self, text, **fields):
        """The answer of /v1/chat/completions to one question, which must be there; greedy if nothing is said."""
        status, reply = self.ask("/v1/chat/completions", {"temperature": 0, "messages": user(text)} | fields)
        assert status == 200, reply
        return reply


class Server(Client):
    """A server in a process of its own: where it listens, and what it has written on standard error."""

    def __init__(self, *options):
        self.errors = tempfile.TemporaryFile()
        self.process = subprocess.Popen([sys.executable, "-m", "tiny", "serve", "--port", "0", *map(str, options)],
                                        cwd=ROOT, stdout=subprocess.PIPE, stderr=self.errors)
        self.url = self.process.stdout.readline().decode().strip()
        assert self.url.startswith("http://"), self.said()
        super().__init__(int(self.url.rpartition(":")[2]))

    def said(self):
        """Standard error up to now."""
        self.errors.seek(0)
        return self.errors.read().decode()

    def end(self, number=signal.SIGTERM):
        """Send a signal; the status with which the server ends."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        status = self.process.wait(30)
        self.process.stdout.close()
        return status


@contextmanager
def running(*options):
    """A server for a while. It must end by SIGTERM, and must never have shown a traceback."""
    server = Server(*options)
    try:
        yield server
    finally:
        status, said = server.end(), server.said()
    assert "Traceback" not in said, said
    assert status == 143, (status, said)


@contextmanager
def inside(model, waiting=64, seconds=600):
    """A server in a thread of this process, with a model of ours: (client, its worker)."""
    import uvicorn

    from tiny.serve.app import build
    from tiny.serve.command import listen
    from tiny.serve.connection import configure
    from tiny.serve.worker import Worker

    worker = Worker(waiting, seconds)
    listener = listen("127.0.0.1", 0)
    server = uvicorn.Server(configure(build(model, "planted", worker)))
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    try:
        yield Client(listener.getsockname()[1]), worker
    finally:
        worker.stop()
        getattr(getattr(model, "before", None), "open", lambda: None)()  # A gate would hold the thread for ever.
        server.should_exit = True
        thread.join()
        worker.thread.join()
        listener.close()


def eventually(holds):
    """Wait until something holds, for at most two minutes: a machine may have much else to do."""
    for _ in range(12_000):
        if holds():
            return True
        time.sleep(0.01)
    return False


def user(content):
    """One question as the messages of a request."""
    return [{"role": "user", "content": content}]


def data_url(image, kind="png", **options):
    """A picture as a data URL."""
    out = io.BytesIO()
    image.save(out, format=kind, **options)
    return f"data:image/{kind};base64," + base64.b64encode(out.getvalue()).decode()


def picture(size=(32, 32), colour="red"):
    """A chunk with a plain picture."""
    return {"type": "image_url", "image_url": {"url": data_url(Image.new("RGB", size, colour))}}
