"""Requests that no honest client sends: an answer in JSON with cause and remedy, and the model answers afterwards."""

import base64
import json
import os
import socket
import time
from pathlib import Path

import pytest
from PIL import Image

from tests.serve import hostile
from tests.serve.served import data_url, user

MANY = 200


def refused(status, reply, wanted=(400,)):
    """An error in the shape that clients read, with cause and remedy."""
    assert status in wanted, (status, reply)
    error = reply["error"]
    assert set(error) == {"message", "type", "param", "code", "cause", "remedy"} and error["code"] == status
    assert error["message"] == f"{error['cause']} {error['remedy']}" and error["cause"][-1] in ".!?"
    assert len(error["message"]) < 2500 and error["type"].endswith("Error")


def threads(server):
    return len(os.listdir(f"/proc/{server.process.pid}/task"))


@pytest.fixture(scope="module", autouse=True)
def whole(mixtral, pixtral):
    """Before and after all: the same answers, the same number of threads, and nobody waits."""
    def state(server):
        return [choice["text"] for choice in server.complete("One day", max_tokens=8)["choices"]], threads(server)

    before = state(mixtral), state(pixtral)
    yield
    assert (state(mixtral), state(pixtral)) == before


CASES = [*hostile.fields(), *hostile.changing(), *hostile.ids()]


@pytest.mark.parametrize(("path", "body"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_a_field_is_refused_by_name(mixtral, path, body):
    refused(*mixtral.ask(path, body))


@pytest.mark.parametrize(("path", "body"), [case[1:] for case in hostile.bodies()],
                         ids=[case[0] for case in hostile.bodies()])
def test_a_body_that_is_no_request(mixtral, path, body):
    refused(*mixtral.ask(path, body))


@pytest.mark.parametrize(("path", "body", "status"), [case[1:] for case in hostile.large()],
                         ids=[case[0] for case in hostile.large()])
def test_what_would_take_much_memory_or_time(mixtral, path, body, status):
    refused(*mixtral.ask(path, body), (status,))


@pytest.mark.parametrize("messages", [case[1] for case in hostile.images()], ids=[case[0] for case in hostile.images()])
def test_a_picture_that_is_none(pixtral, messages):
    refused(*pixtral.ask(hostile.CHAT, {"messages": messages, "max_tokens": 2}))


def test_a_picture_for_a_model_of_text(mixtral):
    status, reply = mixtral.ask(hostile.CHAT, {"messages": user([hostile.picture()])})
    refused(status, reply)
    assert "vision encoder" in reply["error"]["remedy"]


WORDS = [
    (hostile.TEXT, {"prompt": [1, 1.0]}, "prompt[1] is 1.0, no token id. Give whole numbers only."),
    (hostile.TEXT, {"prompt": [[1], [2, True]]}, "prompt[1][1] is true, no token id."),
    (hostile.TEXT, {"prompt": [[]]}, "prompt[0] is an empty list of ids."),
    (hostile.TEXT, {"prompt": "x", "seed": -1}, "seed is -1. Give a whole number of at least 0, with up to 18 digits."),
    (hostile.TEXT, {"prompt": "x", "temperature": 2e6}, "Give a number from 0 to 1,000,000."),
    (hostile.TEXT, {"prompt": "\udfff"}, "surrogate"),
    (hostile.TEXT, b'{"prompt": "\xff"}', "The body is not JSON: the bytes from 12 on are no UTF-8."),
    (hostile.TEXT, hostile.DEEP, "The body is not JSON: it is nested too deeply."),
    (hostile.TEXT, b'{"seed": ' + b"9" * 5000 + b"}", "a number has more than 1000 digits"),
    ("/nowhere", {}, "There are GET /health, "),
    (hostile.CHAT, {"messages": user(["a"])}, 'messages[0].content[0] is a text. Give {"type": "text", "text": ...}'),
    (hostile.CHAT, {"messages": [*user("x"), {"role": "assistant", "content": "y"}]}, 'set "prefix": true'),
    (hostile.CHAT, {"messages": [{"role": "assistant", "content": "y", "prefix": "yes"}]}, "true or false"),
    (hostile.CHAT, {"messages": [{"role": "user", "content": "x"}, {"role": "x", "content": "x"}]}, "messages[1] ")]


@pytest.mark.parametrize(("path", "body", "words"), WORDS, ids=[words for _, _, words in WORDS])
def test_words_are_those_of_the_client(mixtral, path, body, words):
    """An error tells of JSON and counts as JSON does, from 0; nothing in it is Python."""
    status, reply = mixtral.ask(path, body)
    refused(status, reply, (400, 404))
    assert words in reply["error"]["message"]


def test_words_about_pictures(pixtral):
    """Each says which picture it is about, and param where it stands."""
    good, url = hostile.picture(), data_url(Image.new("RGB", (64, 64), "red"))
    noise = base64.b64encode(base64.b64decode(url.partition(",")[2])[:-30]).decode()
    cut = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + noise}}
    system = [{"role": "system", "content": [good]}, *user("x")]
    for messages, words in ((user([good, cut]), "messages[0].content[1]"), (system, "image"),
                            (user([{"type": "image_url", "image_url": "data:application/pdf;base64,aGVsbG8="}]),
                             "no image in base64"),
                            (user([{"type": "image_url", "image_url": hostile.url(hostile.png(4001, 4000))}]),
                             "4001 x 4000 = 16,004,000 pixels"),
                            (user([{"type": "image_url", "image_url": hostile.url(hostile.png(60_000, 60_000))}]),
                             "far more pixels")):
        status, reply = pixtral.ask(hostile.CHAT, {"messages": messages, "max_tokens": 1})
        refused(status, reply)
        assert words in reply["error"]["message"] and reply["error"]["param"] == "messages"


@pytest.mark.parametrize(("name", "words"), [
    ("TLS", "speaks http, not https"), ("no host", "The header Host is missing, or comes twice."),
    ("two hosts", "The header Host is missing, or comes twice."), ("no host in 1.0", "The header Host is missing."),
    ("two lengths", "Content-Length"), ("unknown coding", "Transfer-Encoding"), ("no HTTP", "no HTTP request")])
def test_words_about_the_header(mixtral, name, words):
    assert words in json.loads(send(mixtral, hostile.raw()[name][0]).partition(b"\r\n\r\n")[2])["error"]["cause"]


def send(server, data, close=False):
    """Send bytes as they are; return what comes back until the server closes, or an answer is complete."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=50) as wire:
        try:
            wire.sendall(data)
            if close:
                wire.shutdown(socket.SHUT_WR)
            found = b""
            while b"\r\n\r\n" not in found or len(found.split(b"\r\n\r\n", 1)[1]) < length(found):
                part = wire.recv(65536)
                if not part:
                    break
                found += part
        except (ConnectionResetError, BrokenPipeError):
            pass
    return found


def length(found):
    """What the answer says of its length."""
    head = found.split(b"\r\n\r\n", 1)[0].lower()
    return int(head.partition(b"content-length: ")[2].split(b"\r\n")[0] or 0)


@pytest.mark.parametrize("name", hostile.raw())
def test_bytes_on_the_wire(mixtral, name):
    data, statuses = hostile.raw()[name]
    found = send(mixtral, data)
    head, _, body = found.partition(b"\r\n\r\n")
    status = int(head.split()[1])
    assert status in statuses, found[:500]
    assert b"access-control" not in head.lower() and b"server:" not in head.lower()
    if status >= 400:
        refused(status, json.loads(body), statuses)


POST = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize("data", [b"", b"G", b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n",
                                  POST + b"Content-Length: 50\r\n\r\n{", POST + CHUNKED + b"5"])
def test_a_client_that_stops_in_the_middle(mixtral, data):
    assert send(mixtral, data, close=True) == b""


def test_a_client_that_ends_its_own_half_has_left(mixtral):
    """TCP cannot tell it from one that is gone, whose work must end."""
    body = b'{"prompt": "hello", "max_tokens": 500, "temperature": 2}'
    assert send(mixtral, POST + b"Content-Length: %d\r\n\r\n" % len(body) + body, close=True) == b""


def test_chunks_of_one_byte_are_a_body(mixtral):
    body = b'{"prompt": "hello", "max_tokens": 1}'
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"
    found = send(mixtral, POST + CHUNKED + chunks)
    assert found.startswith(b"HTTP/1.1 200") and json.loads(found.partition(b"\r\n\r\n")[2])["choices"]


def test_a_body_above_the_limit_in_chunks(mixtral):
    chunk = b"100000\r\n" + b" " * (1 << 20) + b"\r\n"
    found = send(mixtral, POST + CHUNKED + chunk * 33)
    assert found == b"" or found.startswith(b"HTTP/1.1 413")  # The client may still be sending when it is closed.


def test_two_requests_at_once_on_one_connection(mixtral):
    one = b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with socket.create_connection(("127.0.0.1", mixtral.port), timeout=50) as wire:
        wire.sendall(one * 2)
        found = b""
        while found.count(b"HTTP/1.1 200") < 2:
            part = wire.recv(65536)
            assert part, found
            found += part


def test_other_clients_are_answered_while_one_is_slow(mixtral):
    with socket.create_connection(("127.0.0.1", mixtral.port), timeout=50) as slow:
        slow.sendall(POST + b"Content-Length: 100\r\n\r\n{")
        assert mixtral.complete("hello", max_tokens=1)["choices"]


def test_there_are_many_of_them():
    assert len(CASES) + sum(len(list(cases())) for cases in (hostile.bodies, hostile.images, hostile.raw)) > MANY


def test_nothing_stays_open(mixtral):
    """After all this only what belongs to the server is open."""
    for _ in range(200):
        links = [os.readlink(path) for path in Path(f"/proc/{mixtral.process.pid}/fd").iterdir() if path.is_symlink()]
        sockets = [link for link in links if link.startswith("socket:")]
        if len(sockets) <= 4:
            return
        time.sleep(0.05)
    raise AssertionError(f"{len(sockets)} sockets are open")
