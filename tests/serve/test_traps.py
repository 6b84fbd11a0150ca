"""Nine traps of real clients, each met once: what goes wrong is silent there, so it is tested here."""

import http.client
import json
import re
import socket
import struct

import pytest

import tiny
from tests.serve import planted
from tests.serve.served import eventually, inside, running, user


@pytest.mark.parametrize("name", ["mixtral", "pixtral"])
def test_1_bos_and_eos_are_tokenised_by_their_strings(name, request):
    """lm_eval asks so for their ids; the ids of the letters would spoil its numbers without a word."""
    server, tokenizer = request.getfixturevalue(name), tiny.load(f"tiny-{name}").tokenizer
    info = server.ask("/tokenizer_info")[1]
    for string, id in ((info["bos_token"], tokenizer.bos_id), (info["eos_token"], tokenizer.eos_id)):
        assert server.ask("/tokenize", {"prompt": string, "add_special_tokens": False})[1]["tokens"] == [id]
        literal = server.ask("/tokenize", {"prompt": f"a{string}", "add_special_tokens": False})[1]["tokens"]
        assert id not in literal and len(literal) > 2
    assert info["chat_template"] is None, "no text makes a chat here, so a template would give wrong ids"


def test_2_an_echo_has_every_token(mixtral):
    """With one entry lm_eval reports chance."""
    for prompt in ([[1, 5, 9, 30]], [[1, 5], [7, 8, 9]]):
        for choice, ids in zip(mixtral.complete(prompt, echo=True, logprobs=1, max_tokens=1)["choices"], prompt):
            assert {len(values) for values in choice["logprobs"].values()} == {len(ids) + 1}


def test_3_bos_is_added_to_texts_unless_it_is_refused(mixtral):
    counts = [mixtral.complete("One day", max_tokens=1, add_special_tokens=flag)["usage"]["prompt_tokens"]
              for flag in (True, False)]
    assert counts[0] == counts[1] + 1
    assert mixtral.complete("One day", max_tokens=1)["usage"]["prompt_tokens"] == counts[0]


def test_4_ids_are_taken_as_they_are_and_the_log_says_so_once():
    with running() as server:
        for _ in range(3):
            assert server.complete([[300, 301]], max_tokens=1)["usage"]["prompt_tokens"] == 2
        assert server.said().count("without BOS") == 1


def test_5_health_has_no_body(mixtral):
    """mistral-evals waits two minutes on any other body than nothing or {"status": "OK"}."""
    assert mixtral.raw("/health")[0] == 200 and mixtral.raw("/health")[2] == b""


def test_6_the_address_is_one_that_clients_take(mixtral):
    assert re.match(r"^http.*:\d+$", mixtral.url)


@pytest.mark.parametrize(("fault", "words"), [("out_of_memory", "13 GB"), ("unforeseen", "a fault of this program")])
def test_7_a_fault_is_json_too(fault, words):
    with inside(planted.Planted(before=getattr(planted, fault))) as (client, _):
        status, reply = client.ask("/v1/completions", {"prompt": "x"})
        assert status == 500 and words in reply["error"]["message"] and reply["error"]["remedy"]
        status, events = client.ask("/v1/completions", {"prompt": ["x"], "stream": True})
        assert status == 500, "nothing was sent yet"


def test_7_a_fault_in_a_stream_is_an_event(mixtral):
    calls = iter([None, None])

    def later():
        if next(calls, 1):
            planted.unforeseen()

    with inside(planted.Planted(before=later)) as (client, _):
        status, events = client.ask("/v1/completions", {"prompt": "x", "stream": True})
        assert status == 200 and events[-1]["error"]["code"] == 500 and "choices" in events[0]


def test_7_damaged_weights_are_no_fault_of_the_client():
    with inside(planted.Planted(after=planted.with_nan)) as (client, _):
        for fields in ({}, {"echo": True, "logprobs": 1, "max_tokens": 0}):
            status, reply = client.ask("/v1/completions", {"prompt": "x", **fields})
            assert status == 500 and "NaN" in reply["error"]["cause"]


def reset(connection):
    """Close a connection as a killed client does."""
    connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


@pytest.mark.parametrize("leave", [http.client.HTTPConnection.close, reset])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("more", [b"", b"\r\n", b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"])
def test_8_and_9_a_client_that_leaves_ends_its_work_within_a_token(leave, stream, more, capfd):
    gate = planted.Gate()
    model = planted.Planted(before=gate)
    with inside(model) as (client, worker):
        connection = http.client.HTTPConnection("127.0.0.1", client.port, timeout=50)
        fields = {"prompt": "One", "max_tokens": 500, "stream": stream}
        connection.request("POST", "/v1/completions", json.dumps(fields))
        gate.passes.release()
        gate.passes.release()
        assert eventually(lambda: model.calls == 3)  # The third one waits.
        job = worker.current
        connection.sock.sendall(more)
        leave(connection)
        assert eventually(job.left.is_set)
        gate.open()
        assert eventually(lambda: worker.current is None)
        assert model.calls == 3
        assert client.complete("One", max_tokens=1)["choices"]
    assert capfd.readouterr().err == ""


def test_8_clients_that_reset_leave_no_traceback(mixtral):
    before = mixtral.said()
    for _ in range(20):
        connection = http.client.HTTPConnection("127.0.0.1", mixtral.port, timeout=50)
        connection.request("POST", "/v1/chat/completions", json.dumps({"messages": user("x"), "stream": True}))
        reset(connection)
    assert mixtral.chat("x", max_tokens=1)["choices"]
    assert mixtral.said() == before


def test_minus_infinity_is_a_number(mixtral):
    """JSON has none; it is -9999, as vLLM writes it."""
    with inside(planted.Planted(after=planted.far_apart)) as (client, _):
        (choice,) = client.complete("Once upon a time", echo=True, logprobs=3, max_tokens=0)["choices"]
        found = choice["logprobs"]["token_logprobs"][1:]
        assert min(found) == -9999 and max(found) <= 0
