"""The command `explore`: its address, its signals, and what it refuses."""

import re
import signal
import socket
import subprocess
import sys

import pytest
from oracles import ROOT

from tests.tools.test_terminal import refused, run

pytest.importorskip("starlette", reason="The server needs the extra `serve`, which is not installed.")


def explore(*options):
    return run("-m", "tiny", "explore", *options)


def test_it_prints_its_address_listens_here_only_and_ends_by_ctrl_c():
    process = subprocess.Popen([sys.executable, "-m", "tiny", "explore", "--port", "0", "--model", "tiny-mixtral"],
                               cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    url = process.stdout.readline().strip()
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+", url)
    port = int(url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=10) as wire:
        wire.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
        assert wire.recv(15) == b"HTTP/1.1 200 OK"
    other = next((address[4][0] for address in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)
                  if not address[4][0].startswith("127.")), None)
    if other:
        with pytest.raises(OSError):
            socket.create_connection((other, port), timeout=2)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in said
    assert "open this page in a browser: it looks into tiny-mixtral; Ctrl-C ends it" in said


def test_a_port_that_is_taken():
    with socket.socket() as wire:
        wire.bind(("127.0.0.1", 0))
        wire.listen()
        status, out, err = explore("--port", wire.getsockname()[1])
    assert refused(status, err, "Cannot listen") and out == b""


@pytest.mark.parametrize("options", [["--port", "65536"], ["--model", "nowhere"], ["--host", "0.0.0.0"]])
def test_wrong_options(options):
    status, out, err = explore(*options)
    assert status == 2 and out == b"" and len(err.splitlines()) == 2 and b"Traceback" not in err
