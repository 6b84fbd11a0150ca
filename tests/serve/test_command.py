"""The command: its address, its signals, who may ask, and what it refuses."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from oracles import GOLDEN, ROOT

import tiny
from tests.serve.served import Server, running
from tests.tools.test_terminal import refused, run
from tiny.serve.ask import PATHS
from tiny.system.direct import DirectReader, Refused


def serve(*options, **more):
    return run("-m", "tiny", "serve", *options, **more)


def test_a_free_port_is_printed():
    with running("--port", "0") as one, running() as other:
        assert one.port != other.port and re.fullmatch(r"http://127\.0\.0\.1:\d+", one.url)


@pytest.mark.parametrize(("number", "wanted"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_signals_end_it_without_a_word(number, wanted, signals_heard):
    server = Server()
    connection = socket.create_connection(("127.0.0.1", server.port))
    body = json.dumps({"prompt": ["a"] * 32, "max_tokens": 500, "temperature": 2}).encode()
    head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body)
    connection.sendall(head + body)
    assert server.raw("/health")[0] == 200
    before = server.said()
    assert server.end(number) == wanted
    found = b""
    while part := connection.recv(65536):
        found += part
    assert found.startswith(b"HTTP/1.1 503") and json.loads(found.partition(b"\r\n\r\n")[2])["error"]["remedy"]
    lines = [line for line in server.said().splitlines() if line not in before.splitlines()]
    assert [line for line in lines if not line.startswith("note: ")] == []
    connection.close()


def test_a_port_that_is_taken():
    with socket.socket() as wire:
        wire.bind(("127.0.0.1", 0))
        wire.listen()
        status, out, err = serve("--port", wire.getsockname()[1])
    assert refused(status, err, "Cannot listen") and out == b""


@pytest.mark.parametrize("options", [["--port", "65536"], ["--port", "-1"], ["--port", "x"], ["--queue", "0"],
                                     ["--seconds", "nan"], ["--memory", "1", "--weights", "mapped"],
                                     ["--memory", "nan", "--weights", "streamed"], ["--memory", "x"],
                                     ["--host", "0.0.0.0"], ["--host", "::"], ["--host", ""],
                                     ["--host", "203.0.113.7"], ["--host", "192.168.1.1"], ["--token", "nowhere"],
                                     ["--token", "."], ["--token", ""], ["--model", "nowhere"], ["more"],
                                     ["--host", "no.such.name.invalid", "--token", "pyproject.toml"]])
def test_options_that_are_refused(options):
    status, out, err = serve("--port", "0", *options)
    assert refused(status, err) and out == b""


@pytest.mark.parametrize("token", ["", "two words", "two\nlines", "ключ", "\0"])
def test_tokens_that_are_refused(token, tmp_path):
    (tmp_path / "token").write_text(token, encoding="utf-8")
    status, out, err = serve("--port", "0", "--token", tmp_path / "token")
    assert refused(status, err) and out == b""


def test_a_wrong_name_and_the_help_tell_what_there_is():
    assert all(name in serve("--model", "tiny-pixtrl")[2].decode() for name in tiny.EMBEDDED)
    said = " ".join(serve("--help")[1].decode().split())
    assert all(words in said for words in (*tiny.EMBEDDED, *PATHS))


def test_streamed_weights_take_the_memory_that_they_are_given():
    model = GOLDEN / "mixtral-a/hf"
    try:
        DirectReader(map(str, model.glob("*.safetensors")))
    except Refused as error:
        pytest.skip(f"Where this repository is, {error}.")
    texts = []
    for options, said in (("--weights mapped", ""), ("--weights streamed", "all weights stay in memory"),
                          ("--weights streamed --memory 0.0002", "a token reads about")):
        with running("--model", model, *options.split()) as server:
            texts.append(server.complete("One day", max_tokens=6)["choices"][0]["text"])
            assert said in server.said()
    assert texts[0] and len(set(texts)) == 1


def test_other_machines_need_the_token(tmp_path):
    """At every address of this machine, and on every path. The token itself is in no list of processes."""
    (tmp_path / "token").write_text("s3cret\n")
    with running("--host", "0.0.0.0", "--token", tmp_path / "token") as server:
        assert b"s3cret" not in Path(f"/proc/{server.process.pid}/cmdline").read_bytes()
        assert server.url.startswith("http://0.0.0.0:")
        for path, body in (("/health", None), ("/v1/models", None), ("/v1/completions", {"prompt": "x"}), ("/x", None)):
            for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "s3cret"},
                            {"Authorization": "Bearer "}, {"Authorization": "Bearer s3cre\u00e9"},
                            {"Authorization": "Basic s3cret"}):
                status, found, _ = server.raw(path, body, headers)
                assert status == 401 and found["www-authenticate"] == "Bearer"
        for given in ("Bearer s3cret", "bearer s3cret", "BEARER  s3cret"):
            assert server.raw("/health", headers={"Authorization": given})[0] == 200
        assert server.ask("/v1/completions", {"prompt": "x"}, {"Authorization": "Bearer s3cret"})[0] == 200
        named = {"Authorization": "Bearer s3cret", "Host": "evil.example"}
        assert server.raw("/health", headers=named)[0] == 421


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:80", "127.0.0.1", "127.0.0.1:9", "[::1]:8000", "[::1]"])
def test_names_of_this_machine(mixtral, host):
    assert mixtral.raw("/health", headers={"Host": host})[0] == 200
    assert mixtral.raw("/health", headers={"Host": host, "Origin": f"http://{host}"})[0] == 200


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "localhost:x", "127.0.0.1:8000:8000",
                                  "[::1", "0x7f.1", "2130706433", "localhost@evil.example", " ", "127.0.0.1/",
                                  "\u00e9"])
def test_other_names_are_refused(mixtral, host):
    status, _ = mixtral.ask("/health", headers={"Host": host.encode("latin-1")})
    assert status in (400, 421)


def test_without_the_extra():
    code = ("import sys; sys.modules['uvicorn'] = None; from tiny.__main__ import main; "
            "sys.exit(main(['serve', '--port', '0']))")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, env=os.environ, timeout=60)
    assert refused(done.returncode, done.stderr, "uvicorn") and done.stdout == b""
    assert b"[serve]" in done.stderr
