"""Many clients, slow ones, and those that want too much at once."""

import http.client
import json
import socket
import threading
import time
from contextlib import suppress
from functools import partial

import numpy as np
import pytest
from PIL import Image

from tests.serve import planted
from tests.serve.served import data_url, eventually, inside, user
from tiny.serve import limits


def at_once(calls):
    """The results of calls that run side by side."""
    found = [None] * len(calls)

    def run(number):
        found[number] = calls[number]()

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def test_eight_clients_at_once_get_what_each_gets_alone(pixtral):
    rng = np.random.default_rng(5)
    images = [Image.fromarray(rng.integers(0, 255, (40 + 16 * n, 50, 3), np.uint8)) for n in range(4)]
    questions = [[{"type": "image_url", "image_url": {"url": data_url(image)}}, {"type": "text", "text": "what is it?"}]
                 for image in images] + ["hello", "a red square", "how many?", "x"]

    def ask(question, number, stream):
        reply = pixtral.chat(question, max_tokens=40, temperature=1.0, seed=number, logprobs=True, stream=stream)
        parts = [choice for event in (reply if stream else [reply]) for choice in event["choices"]]
        return [one for part in parts if part["logprobs"] for one in part["logprobs"]["content"]]

    alone = [ask(question, number, False) for number, question in enumerate(questions)]
    for stream in (False, True):
        together = at_once([partial(ask, question, number, stream) for number, question in enumerate(questions)])
        assert together == alone


def post(client, **fields):
    """A request that nobody reads yet."""
    connection = http.client.HTTPConnection("127.0.0.1", client.port, timeout=50)
    connection.request("POST", "/v1/completions", json.dumps({"prompt": "One", "max_tokens": 2} | fields))
    return connection


def test_a_full_queue_says_when_to_come_again():
    gate = planted.Gate()
    with inside(planted.Planted(before=gate), waiting=3) as (client, worker):
        first = post(client)
        assert eventually(gate.reached.is_set)
        others = [post(client) for _ in range(3)]
        assert eventually(lambda: len(worker.waiting) == 3)
        status, headers, body = client.raw("/v1/completions", {"prompt": "One"})
        assert status == 429 and int(headers["retry-after"]) > 0
        assert json.loads(body)["error"]["type"] == "RateLimitError"
        assert client.raw("/health")[0] == 200, "what needs no computation is answered"
        others.pop().close()  # One that leaves makes room.
        assert eventually(lambda: len(worker.waiting) == 2)
        others.append(post(client))
        gate.open()
        for connection in (first, *others):
            assert connection.getresponse().status == 200
            connection.close()


def test_time_is_limited():
    with inside(planted.Planted(before=lambda: time.sleep(0.02)), seconds=1.0) as (client, _):
        status, reply = client.ask("/v1/completions", {"prompt": "One", "max_tokens": 500, "temperature": 0})
        assert status == 504 and "--seconds" in reply["error"]["remedy"]
        status, events = client.ask("/v1/completions", {"prompt": "One", "max_tokens": 500, "stream": True})
        assert status == 200 and events[-1]["error"]["code"] == 504
        assert client.complete("One", max_tokens=1)["choices"]


def test_work_ends_with_the_server():
    gate = planted.Gate()
    with inside(planted.Planted(before=gate)) as (client, worker):
        connections = [post(client, max_tokens=500), post(client)]
        assert eventually(gate.reached.is_set) and eventually(lambda: len(worker.waiting) == 1)
        worker.stop()
        gate.open()
        assert [connection.getresponse().status for connection in connections] == [503, 503]
        assert client.ask("/v1/completions", {"prompt": "x"})[0] == 429


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(limits, "PATIENCE", 0.5)


POST = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n"


@pytest.mark.parametrize("start", [b"", b"GET /health HTTP/1.1\r\nHost: local", POST + b"Content-Length: 9\r\n\r\n{",
                                   b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\nGET /hea"])
def test_slow_clients_are_sent_away(impatient, start):
    """Byte by byte, for ever: in the header, in the body, in the header of a second request."""
    with inside(planted.Planted()) as (client, _), socket.create_connection(("127.0.0.1", client.port), 50) as wire:
        wire.sendall(start)
        found = b""
        wire.settimeout(0.1)
        for _ in range(400):
            try:
                part = wire.recv(65536)
                if not part:
                    break
                found += part
            except TimeoutError:
                if start:
                    wire.sendall(b"a")
            except (ConnectionResetError, BrokenPipeError):
                break
        else:
            raise AssertionError("the connection is open still")
        assert found.count(b"HTTP/1.1 408 ") == 1 and found.count(b"HTTP/1.1") == max(1, start.count(b"GET"))
        assert client.complete("One", max_tokens=1)["choices"]


def test_a_client_that_does_not_read_is_sent_away(impatient):
    with inside(planted.Planted()) as (client, worker), socket.socket() as wire:
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        wire.connect(("127.0.0.1", client.port))
        body = json.dumps({"prompt": [[1] * 500] * 30, "max_tokens": 0, "echo": True, "logprobs": 20}).encode()
        wire.sendall(POST + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        assert eventually(lambda: worker.current is not None) and eventually(lambda: worker.current is None)
        time.sleep(2)
        wire.settimeout(50)
        with pytest.raises(ConnectionResetError):
            while wire.recv(1 << 20):
                pass
            raise ConnectionResetError  # An end before the whole answer is as good; below it is counted.
        assert client.complete("One", max_tokens=1)["choices"]


@pytest.mark.parametrize("start", [b"", b"GET /hea", POST + b"Content-Length: 9\r\n\r\n{"])
def test_silent_connections_make_room(monkeypatch, start):
    monkeypatch.setattr(limits, "CONNECTIONS", 5)
    with inside(planted.Planted()) as (client, _):
        wires = []
        for _ in range(12):
            wires.append(socket.create_connection(("127.0.0.1", client.port), 50))
            wires[-1].sendall(start)
        assert client.raw("/health")[0] == 200
        for wire in wires[:7]:
            with suppress(ConnectionResetError):
                assert wire.recv(100) == b""
        for wire in wires:
            wire.close()


def test_connections_that_are_answered_make_no_room(monkeypatch):
    monkeypatch.setattr(limits, "CONNECTIONS", 5)
    gate = planted.Gate()
    with inside(planted.Planted(before=gate)) as (client, worker):
        asked = [post(client) for _ in range(5)]
        assert eventually(lambda: len(worker.waiting) == 4)
        status, headers, _ = client.raw("/health")
        assert status == 503
        gate.open()
        assert [connection.getresponse().status for connection in asked] == [200] * 5
        for connection in asked:
            connection.close()


def test_bytes_of_all_bodies_are_limited(monkeypatch):
    monkeypatch.setattr(limits, "ALL_BYTES", 1000)
    monkeypatch.setattr(limits, "SMALL_BYTES", 150)
    with inside(planted.Planted()) as (client, _):
        with socket.create_connection(("127.0.0.1", client.port), 50) as wire:
            wire.sendall(POST + b"Content-Length: 950\r\n\r\n" + b" " * 900)
            assert eventually(lambda: client.raw("/tokenize", {"prompt": "x" * 200})[0] == 429)
            assert client.raw("/tokenize", {"prompt": "x" * 100})[0] == 200, "a small one finds room"
            times = {client.raw("/tokenize", {"prompt": "x" * 200})[1]["retry-after"] for _ in range(20)}
            assert len(times) > 1, "clients that come again at the same time meet again"
        assert eventually(lambda: client.raw("/tokenize", {"prompt": "x" * 200})[0] == 200)


@pytest.mark.parametrize("chunked", [False, True])
def test_of_large_bodies_that_come_at_once_some_are_answered(monkeypatch, chunked):
    """Five that grow side by side, and room for two: without room that is kept, each would meet the limit."""
    monkeypatch.setattr(limits, "ALL_BYTES", 1_000_000)
    monkeypatch.setattr(limits, "BODY_BYTES", 450_000)
    body = json.dumps({"prompt": "One", "max_tokens": 1}).encode().ljust(400_000)
    pieces = [body[start : start + 50_000] for start in range(0, len(body), 50_000)]
    head = POST + (b"Transfer-Encoding: chunked\r\n\r\n" if chunked else b"Content-Length: 400000\r\n\r\n")
    gate = planted.Gate()
    with inside(planted.Planted(before=gate)) as (client, worker):
        wires = [socket.create_connection(("127.0.0.1", client.port), 50) for _ in range(5)]
        for piece in [head, *pieces, b""]:
            for wire in wires:
                framed = chunked and piece is not head
                wire.sendall(b"%x\r\n%s\r\n" % (len(piece), piece) if framed else piece)
        assert eventually(lambda: len(worker.waiting) == 1)
        gate.open()
        assert sorted(wire.recv(12) for wire in wires) == [b"HTTP/1.1 200"] * 2 + [b"HTTP/1.1 429"] * 3
        for wire in wires:
            wire.close()
        assert client.complete("One", max_tokens=1)["choices"]


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("sent", [70_000, 300_000])
def test_clients_that_announce_much_and_stall_do_not_keep_others_out(monkeypatch, chunked, sent):
    """Eight with the largest body fill the room for all. They are dropped long before PATIENCE, whatever they sent."""
    for name, value in (("STALL", 2.0), ("BODY_BYTES", 400_000), ("ALL_BYTES", 8 * 400_000)):
        monkeypatch.setattr(limits, name, value)
    with inside(planted.Planted()) as (client, _):
        wires = [socket.create_connection(("127.0.0.1", client.port), 50) for _ in range(8)]
        body = b" " * sent
        for wire in wires:
            wire.sendall(POST + (b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % len(body) if chunked else
                                 b"Content-Length: %d\r\n\r\n" % limits.BODY_BYTES) + body)
        large = json.dumps({"prompt": "x"}).encode().ljust(100_000)
        assert eventually(lambda: client.raw("/tokenize", large)[0] == 429)
        began = time.monotonic()
        assert eventually(lambda: client.raw("/tokenize", large)[0] == 200)
        assert time.monotonic() - began < limits.PATIENCE / 3
        assert [wire.recv(12) for wire in wires] == [b"HTTP/1.1 408"] * 8
        for wire in wires:
            wire.close()


def test_a_large_body_that_trickles_is_dropped_and_an_even_one_is_not(monkeypatch):
    """Both never pause for long; one would need ten times of the time that there is."""
    monkeypatch.setattr(limits, "STALL", 0.5)
    monkeypatch.setattr(limits, "PATIENCE", 3.0)
    large = json.dumps({"prompt": "x"}).encode().ljust(300_000)
    head = b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Length: 300000\r\n\r\n"
    with inside(planted.Planted()) as (client, _):
        for rate, status in ((2_000, b"408"), (15_000, b"200")):
            with socket.create_connection(("127.0.0.1", client.port), 50) as wire, suppress(BrokenPipeError):
                wire.sendall(head)
                for start in range(0, len(large), rate):
                    wire.sendall(large[start : start + rate])
                    time.sleep(0.1)
                    wire.setblocking(False)
                    with suppress(BlockingIOError):
                        if wire.recv(1, socket.MSG_PEEK):
                            break
                    wire.settimeout(50)
                wire.settimeout(50)
                assert wire.recv(12) == b"HTTP/1.1 " + status


def test_a_refused_body_is_read_while_it_comes(monkeypatch):
    """A client that is slow to send gets to read why it was refused."""
    monkeypatch.setattr(limits, "DRAIN", 0.5)
    with inside(planted.Planted()) as (client, _), socket.create_connection(("127.0.0.1", client.port), 50) as wire:
        wire.sendall(POST + b"Content-Length: %d\r\n\r\n" % (40 << 20))
        for _ in range(40):
            time.sleep(0.05)
            wire.sendall(b" " * (1 << 20))
        assert wire.recv(12) == b"HTTP/1.1 413"


@pytest.mark.thorough
def test_memory_stays_flat(pixtral):
    """Requests of every kind in a row; what the process holds after a tenth of them is what it holds at the end."""
    url = data_url(Image.new("RGB", (48, 48), "red"))
    question = user([{"type": "image_url", "image_url": {"url": url}}])
    kinds = [("/v1/completions", {"prompt": "One", "max_tokens": 1, "echo": True, "logprobs": 5}),
             ("/v1/chat/completions", {"messages": question, "max_tokens": 2, "temperature": 0}),
             ("/v1/chat/completions", {"messages": user("x"), "max_tokens": 3, "stream": True}),
             ("/tokenize", {"prompt": "hello"}), ("/v1/completions", {"prompt": 5}), ("/nowhere", {})]

    def held():
        with open(f"/proc/{pixtral.process.pid}/status", encoding="utf-8") as file:
            return int(file.read().split("VmRSS:")[1].split()[0]) / 1024

    sizes = []
    for number in range(1, 2001):
        pixtral.ask(*kinds[number % len(kinds)])
        if number % 200 == 0:
            sizes.append(held())
    assert sizes[-1] - sizes[0] < 5, sizes
