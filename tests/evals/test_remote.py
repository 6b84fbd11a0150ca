"""A server may say anything: what comes back is an answer, or a failure with its cause, and never an exception."""

import json
import socket
import threading
import time

import pytest
from small_evals import chat_reply, picture_bytes, scripted_server

from tiny.config import TinyError
from tiny.evals.clients import LONGEST_WAIT, WAITS, Failed, Reply, ask
from tiny.evals.items import Request
from tiny.evals.remote import LARGEST_REPLY, Server, url

REQUEST = Request("one", [{"role": "user", "content": [{"type": "text", "text": "Why?"}]}], 7, [["a"]])


def asked(script, request=REQUEST, tries=3, folder=None, images="original", timeout=30.0, token=None):
    """What asking a scripted server gives, how often it was asked, what it saw, and the waits between."""
    waits = []
    with scripted_server(script) as (address, seen):
        client = url(Server(address, token, timeout), "scripted", folder, images)
        reply, count = ask(client, request, tries, waits.append)
    return reply, count, seen, waits


def test_the_body_is_that_of_mistral_evals(tmp_path):
    """Its fields in its order, and not one more; the picture comes as it lies in the folder."""
    (tmp_path / "images").mkdir()
    (tmp_path / "images/a.png").write_bytes(picture_bytes("red"))
    content = [{"type": "image", "image": "images/a.png"}, {"type": "text", "text": "Why?"}]
    request = Request("one", [{"role": "user", "content": content}, {"role": "assistant", "content": "So."},
                              {"role": "user", "content": [{"type": "text", "text": "And?"}]}], 7, [["a"]])
    reply, count, seen, _ = asked(lambda body, n: "Because.", request, folder=tmp_path)
    assert reply == Reply("Because.", "stop") and count == 1
    ((path, body, headers, raw),) = seen
    assert path == "/v1/chat/completions" and "Authorization" not in headers
    assert list(body) == ["temperature", "max_tokens", "messages", "model"]
    assert body["max_tokens"] == 7 and body["temperature"] == 0.0 and body["model"] == "scripted"
    assert raw == json.dumps(body).encode(), "as the library requests writes it"
    image, text = body["messages"][0]["content"]
    assert list(image) == ["type", "image_url"] and image["image_url"]["url"].startswith("data:image/png;base64,iVBOR")
    assert text == {"type": "text", "text": "Why?"} and body["messages"][1] == {"role": "assistant", "content": "So."}


def test_another_model_than_was_asked_is_seen(capsys):
    for model, expected in ((None, None), ("scripted", None), ("scripted-2", "scripted-2"), (["a"], "['a']")):
        reply, _, _, _ = asked(lambda body, n, model=model: chat_reply("Yes.") | {"model": model})
        assert reply == Reply("Yes.", "stop", expected)
        assert (f"note: scripted was asked for, and {expected} answers" in capsys.readouterr().err) == bool(expected)


def test_a_request_that_fails_for_a_while_is_answered():
    said = [(503, {"error": {"message": "warming up"}}, {}), (429, {"error": "slow"}, {"Retry-After": "7"}), "Now."]
    reply, count, seen, waits = asked(lambda body, n: said[n])
    assert reply.text == "Now." and count == len(seen) == 3 and waits == [WAITS[0], 7.0]


@pytest.mark.parametrize(("script", "words", "count"), [
    (lambda body, n: (500, {"error": {"message": "out of order"}}, {}), "500 Internal Server Error: out of order", 3),
    (lambda body, n: (500, b"<html>no</html>", {}), "'<html>no</html>'", 3),
    (lambda body, n: (400, {"error": {"message": "too long"}}, {}), "400 Bad Request: too long", 1),
    (lambda body, n: (422, {"detail": "no image"}, {}), "422 Unprocessable Entity: no image", 1),
    (lambda body, n: (200, b"<html>", {}), "did not send JSON but '<html>'", 3),
    (lambda body, n: (200, b"", {}), "did not send JSON but nothing", 3),
    (lambda body, n: {"choices": []}, "no choices[0].message.content", 1),
    (lambda body, n: {"choices": [{"message": {"content": 7}}]}, "message.content that is text, but 7", 1),
    (lambda body, n: {"choices": [{"message": {}}]}, "but a message without it", 1),
    (lambda body, n: [], "no choices[0].message.content", 1),
    (lambda body, n: b"", "broke the connection", 3),
    (lambda body, n: b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{", "broke the connection", 3),
    (lambda body, n: b"not HTTP at all\r\n\r\n", "broke the connection", 3),
    (lambda body, n: (200, b"[" * 100_000, {}), "did not send JSON", 3)])
def test_what_a_failure_says(script, words, count):
    reply, tries, seen, _ = asked(script)
    assert isinstance(reply, str) and words in reply, reply
    assert tries == len(seen) == count


def test_an_answer_of_null_is_empty_and_a_cut_one_says_so():
    assert asked(lambda body, n: chat_reply(None, "length"))[0] == Reply("", "length")


def test_a_server_that_hangs_is_left():
    start = time.monotonic()
    reply, count, _, _ = asked(lambda body, n: None, tries=2, timeout=0.3)
    assert "did not answer within 0.3 s" in reply and count == 2
    assert time.monotonic() - start < 20


@pytest.mark.parametrize("head", ["HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\n",
                                  "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 1000000\r\n\r\n",
                                  "HTTP/1.1 200 OK\r\nX-More: "])
def test_a_server_that_sends_a_byte_now_and_then_is_left(head):
    """A time limit for each byte would never end this; the one for the whole answer does, however it is sent."""
    over = threading.Event()

    def drip(listener):
        connection, _ = listener.accept()
        with connection:
            connection.sendall(head.encode())
            while not over.wait(0.05):
                try:
                    connection.sendall(b" ")
                except OSError:
                    return

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=drip, args=(listener,), daemon=True)
        thread.start()
        client = url(Server(f"http://127.0.0.1:{listener.getsockname()[1]}", timeout=0.5), "x", None, "original")
        reply, _ = ask(client, REQUEST, 1)
        over.set()
        thread.join()
    assert "did not answer within 0.5 s" in reply


def test_an_answer_without_end_is_refused(monkeypatch):
    monkeypatch.setattr("tiny.evals.remote.LARGEST_REPLY", 1000)
    assert LARGEST_REPLY > 1000 and "more than 1,000 bytes" in asked(lambda body, n: "x" * 2000)[0]


@pytest.mark.parametrize("status", [301, 401, 403, 404])
def test_what_every_request_would_meet_ends_the_run(status):
    with pytest.raises(TinyError, match=f"answered {status}") as caught:
        asked(lambda body, n: (status, {"error": {"message": "no"}}, {"Location": "http://127.0.0.1:1/"}))
    assert "token" in caught.value.remedy


def test_a_server_that_is_gone_ends_the_run():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    waits = []
    with pytest.raises(TinyError, match="cannot be reached: Connection refused, 3 times") as caught:
        ask(url(Server(f"http://127.0.0.1:{port}"), "x", None, "original"), REQUEST, 3, waits.append)
    assert waits == list(WAITS[:2]) and "same command" in caught.value.remedy


def test_the_token_is_sent_and_never_shown():
    _, _, seen, _ = asked(lambda body, n: "Yes.", token="secret-1")
    assert seen[0][2]["Authorization"] == "Bearer secret-1"
    with pytest.raises(TinyError) as caught:
        asked(lambda body, n: (401, {"error": "who?"}, {}), token="secret-1")
    assert "secret" not in str(caught.value)


def test_nobody_waits_for_an_hour(capsys):
    waits = []
    assert asked(lambda body, n: (429, {}, {"Retry-After": "99999"}))[3] == [LONGEST_WAIT] * 2
    assert capsys.readouterr().err.count("429 Too Many Requests: {}; asked again in 60 s") == 2, "nor in silence"
    assert ask(lambda request: (_ for _ in ()).throw(Failed("no", again=True)), REQUEST, 5, waits.append)[1] == 5
    assert waits == [1.5, 3.0, 6.0, 6.0]


@pytest.mark.parametrize("address", ["127.0.0.1:8000", "ftp://host", "http://", "http://a b", "http://host:x",
                                     "http://host?q=1", "http://host/#x", "http://host:99999", "http://h\n", ""])
def test_what_is_no_address(address):
    with pytest.raises(TinyError, match="not the address of a server"):
        Server(address)


def test_a_password_in_an_address_is_refused():
    with pytest.raises(TinyError, match="would be recorded") as caught:
        Server("http://me:secret@host")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("token", ["", "two words", "line\nX-Other: 1", "caf\u00e9"])
def test_what_is_no_token(token):
    with pytest.raises(TinyError, match="no header can hold"):
        Server("http://host", token)


@pytest.mark.parametrize("address", ["http://host:8000", "http://host:8000/", "http://host:8000/v1",
                                     "http://host:8000/v1/", "http://host:8000/v1/chat/completions"])
def test_all_usual_forms_of_an_address_mean_the_same(address):
    server = Server(address)
    assert (server.address, server.where.path, server.where.port) == ("http://host:8000", "", 8000)
    assert Server("https://host/api/v1").address == "https://host/api"


def test_a_server_with_several_models_wants_a_name(monkeypatch):
    server = Server("http://host")
    monkeypatch.setattr(server, "call", lambda *_: {"data": [{"id": "a"}, {"id": "b"}]})
    with pytest.raises(TinyError, match="lists 2 models: a, b") as caught:
        server.only_model()
    assert "--name" in caught.value.remedy
    monkeypatch.setattr(server, "call", lambda *_: ["odd"])
    with pytest.raises(TinyError, match="lists 0 models"):
        server.only_model()
