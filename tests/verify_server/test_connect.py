"""Whatever a server does: an answer, or cause and remedy in two lines with status 2, and soon."""

import json
import time
from contextlib import suppress

import pytest

from tests.verify_server.fake_servers import Hostile, running
from tiny.__main__ import main
from tiny.config import TinyError
from tiny.tools.verify.server.connect import Limits, Refused, Server, Silent

LISTED = {"object": "list", "data": [{"id": "fake"}]}
OK = b"HTTP/1.1 200 OK\r\n"
HEAD = OK + b"Content-Type: application/json\r\n"


def endless(wfile, over):
    """A stream of numbers without an end."""
    with suppress(OSError):
        wfile.write(HEAD + b"\r\n{\"choices\": [")
        while not over.is_set():
            wfile.write(b"1.0, " * 20_000)


def dripping(wfile, over):
    """A blank now and then, so that no single read waits long."""
    with suppress(OSError):
        wfile.write(OK + b"Connection: close\r\n\r\n")
        while not over.wait(0.02):
            wfile.write(b" ")
            wfile.flush()


# what the server says to everything, words of the cause, words of the remedy
ANSWERS = {
    "HTML": ((200, b"<html>Hello</html>", {}), "did not send JSON but '<html>Hello</html>'", "address"),
    "half an answer": (HEAD + b"Content-Length: 99\r\n\r\n{\"choices\": [", "broke the connection", "log"),
    "no HTTP": (b"SSH-2.0-OpenSSH_9\r\n", "broke the connection", "log"),
    "nothing": (b"", "broke the connection", "log"),
    "NaN": ((200, b'{"choices": [NaN]}', {}), "NaN is no number", "address"),
    "infinity": ((200, b'{"choices": [1e999]}', {}), "too large for a number", "address"),
    "depth": ((200, b"[" * 100_000, {}), "nested too deeply", "address"),
    "no object": ((200, [1, 2], {}), "sent no JSON object but '[1, 2]'", "address"),
    "redirect": ((302, {}, {"Location": "http://127.0.0.1:9/v1"}), "points to http://127.0.0.1:9/v1", "no redirect"),
    "a token is wanted": ((401, {"error": {"message": "who?"}}, {}), "answered 401 Unauthorized: who?", "--token FILE"),
    "out of order": ((500, {"error": "broken"}, {}), "answered 500 Internal Server Error: broken", "log of the server"),
    "a drip": (dripping, "did not answer within 0.5 s", "--timeout"),
    "a hang": (None, "did not answer within 0.5 s", "--timeout"),
    "an endless stream": (endless, "more than 1,000,000 bytes", "log")}


@pytest.mark.parametrize("kind", ANSWERS)
def test_hostile_servers_cost_two_lines(kind, capsys, monkeypatch):
    """Of the whole command: nothing is computed, nothing hangs, no traceback, and the status is 2."""
    said, cause, remedy = ANSWERS[kind]
    monkeypatch.setattr("tiny.tools.verify.server.connect.Limits.__new__.__defaults__", (600.0, 1_000_000))
    start = time.monotonic()
    with running(Hostile(said)) as url:
        status = main(["verify", "server", url, "--model", "tiny-mixtral", "--timeout", "0.5"])
    out, err = capsys.readouterr()
    lines = [line for line in err.splitlines() if not line.startswith("note: ")]
    assert status == 2 and out == "" and len(lines) == 2, err
    assert lines[0].startswith("error: ") and cause in lines[0]
    assert lines[1].startswith("remedy: ") and remedy in lines[1]
    assert time.monotonic() - start < 30


def test_a_server_that_is_not_there():
    with pytest.raises(Silent, match="cannot be reached") as caught:
        Server("http://127.0.0.1:9").get("/v1/models")
    assert caught.value.remedy.startswith("Start the server")


def test_a_refusal_has_its_status():
    with running(Hostile((404, {"detail": "none"}, {}))) as url, pytest.raises(Refused, match="404") as caught:
        Server(url).post("/v1/completions", {})
    assert caught.value.status == 404


def test_the_key_is_sent_and_never_shown(tmp_path):
    (tmp_path / "key").write_text("secret-1\n")
    hostile = Hostile((403, {"error": "no"}, {}), LISTED)
    with running(hostile) as url:
        with pytest.raises(TinyError) as caught:
            Server(url, "secret-1").post("/x", {})
        status = main(["verify", "server", url, "--model", "tiny-mixtral", "--token", str(tmp_path / "key")])
    assert "secret" not in str(caught.value) and status == 2
    assert {headers["Authorization"] for _, _, headers in hostile.seen} == {"Bearer secret-1"}


def test_the_limits_are_those_that_were_given():
    with running(Hostile((200, json.dumps({"a": "x" * 2000}).encode(), {}))) as url:
        assert len(Server(url).post("/x", {})["a"]) == 2000
        with pytest.raises(TinyError, match="more than 1,000 bytes"):
            Server(url, limits=Limits(5, 1000)).post("/x", {})


def test_fields_that_a_server_refuses_by_name_are_left_out():
    """transformers serve refuses every name that it does not know; what asks for nothing need not be sent."""
    sent = []

    class Strict(Server):
        def call(self, method, path, body):
            sent.append(set(body))
            if unknown := {"top_k", "repeat_penalty", "prompt_logprobs"} & set(body):
                raise Refused(f"Unexpected fields in the request: {unknown}", "", 422)
            return {}

    strict = Strict("http://127.0.0.1:1")
    assert strict.post("/v1/completions", {"prompt": "a", "top_k": 0, "repeat_penalty": 1.0}) == {}
    assert strict.post("/v1/completions", {"prompt": "a", "top_k": 0}) == {}
    assert sent == [{"prompt", "top_k", "repeat_penalty"}, {"prompt"}, {"prompt"}]
    with pytest.raises(Refused, match="prompt_logprobs"):
        strict.post("/v1/completions", {"prompt": "a", "prompt_logprobs": 5})
