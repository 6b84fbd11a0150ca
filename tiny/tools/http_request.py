"""One request to a server that may do anything: hang, send without end, break off, or point elsewhere.

A new connection for each request; one time limit for all of it, so that a server which sends a byte now and then cannot
hold a run; so many bytes of an answer, and no more. Nothing else is ever contacted: no proxy, and no address that an
answer names. Evaluations and `verify server` ask their servers with it.
"""

import http.client
import json
import math
import re
import socket
import threading
import time
from contextlib import suppress
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from tiny.config import TinyError
from tiny.tools.terminal import one_line

CONNECT = 30.0  # seconds to reach a server, whatever its answer may take


class Address(NamedTuple):
    """Where a server is: what is in front of /v1, and how to connect. text: all of it in one, to show"""

    secure: bool
    host: str
    port: int | None
    path: str
    text: str


class Answer(NamedTuple):
    """What a server answered: its status with the words behind it, its headers by their small names, and the body."""

    status: int
    reason: str
    headers: dict[str, str]
    data: bytes


class NoAnswer(Exception):
    """A request without an answer. gone: nobody was there; late: the time was up; again: whether asking again may help
    """

    def __init__(self, cause: str, gone: bool = False, late: bool = False, again: bool = True):
        super().__init__(cause)
        self.cause, self.gone, self.late, self.again = cause, gone, late, again


def read_address(address: str) -> Address:
    """Read the address of a server in any of its usual forms. Raises TinyError for anything else."""
    parts = urlsplit(address)
    try:
        wrong = parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0
    except ValueError:
        wrong = True
    if wrong or parts.query or parts.fragment or re.search(r"[\s\x00-\x1f\x7f]", address):
        raise TinyError(f"{one_line(address)} is not the address of a server.",
                        "Write it as http://127.0.0.1:8000 or https://HOST/v1.")
    if parts.username or parts.password:
        raise TinyError("The address holds a name or a password, which would be recorded with the run.",
                        "Write the token into a file, and give it with --token FILE.")
    path = re.sub(r"(/v1)?(/chat/completions)?/*$", "", parts.path)
    return Address(parts.scheme == "https", str(parts.hostname), parts.port, path,
                   f"{parts.scheme}://{parts.netloc}{path}")


def check_token(token: str | None) -> str | None:
    """Return what goes behind "Bearer". Raises TinyError for what no header can hold."""
    if token is not None and not re.fullmatch(r"[\x21-\x7e]+", token):
        raise TinyError("The token has characters that no header can hold, or is empty.",
                        "Write nothing but the token into its file.")
    return token


def request(address: Address, method: str, path: str, body: Any, token: str | None, timeout: float,
            most: int) -> Answer:
    """Send one request, with JSON as its body unless that is None, and read the answer: at most `most` bytes of it.

    timeout: seconds for all of it
    Raises:  NoAnswer, with the address in its cause
    """
    headers = {"Accept": "application/json"} | ({"Content-Type": "application/json"} if body is not None else {})
    headers |= {"Authorization": f"Bearer {token}"} if token else {}
    kind = http.client.HTTPSConnection if address.secure else http.client.HTTPConnection
    link, started = kind(address.host, address.port, timeout=min(CONNECT, timeout)), time.monotonic()
    held: list[socket.socket] = []  # The connection forgets its own when an answer says that it is the last.
    clock = threading.Timer(timeout, cut, [held])  # cuts the connection, whatever the server does
    clock.daemon = True
    clock.start()
    try:
        link.connect()
        held.append(link.sock)
        link.sock.settimeout(timeout)
        link.request(method, address.path + path, None if body is None else json.dumps(body), headers)
        response = link.getresponse()
        data = response.read(most + 1)
        if response.length and len(data) <= most:  # read(n) does not say that the end is missing
            raise http.client.IncompleteRead(data, response.length)
        late = time.monotonic() - started >= timeout  # An answer without a length ends where it is cut.
    except (OSError, ValueError, http.client.HTTPException) as error:  # ValueError: TLS that was cut, names of hosts
        what = "broke the connection" if held else "cannot be reached"
        said = one_line(getattr(error, "strerror", None) or str(error) or type(error).__name__, 200)
        late = bool(held) and time.monotonic() - started >= timeout
        raise NoAnswer(f"{address.text} " + (f"did not answer within {timeout:g} s" if late else f"{what}: {said}"),
                       gone=not held, late=late) from None
    finally:
        clock.cancel()
        link.close()
    if late:
        raise NoAnswer(f"{address.text} did not answer within {timeout:g} s", late=True)
    if len(data) > most:
        raise NoAnswer(f"{address.text} sent more than {most:,} bytes", again=False)
    return Answer(response.status, response.reason, {name.lower(): value for name, value in response.getheaders()},
                  data)


def cut(held: list[socket.socket]) -> None:
    """End a connection from another thread: whoever reads from it gets an error."""
    for sock in held:
        with suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)


def strict_json(data: bytes) -> Any:
    """The value of a text of JSON. Raises ValueError for anything else: NaN, infinity, nesting without end."""
    try:
        return json.loads(data, parse_constant=no_number, parse_float=finite)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def no_number(name: str) -> None:
    """Refuse what Python writes for numbers that JSON does not have."""
    raise ValueError(f"{name} is no number")


def finite(digits: str) -> float:
    """A number, unless it is too large for one."""
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(f"{digits[:40]} is too large for a number")
    return number


def shown(data: bytes) -> str:
    """The beginning of an answer in a message."""
    return repr(one_line(data[:200].decode("utf-8", "replace"), 120)) if data.strip() else "nothing"


def message_of(data: bytes) -> str:
    """What the body of a refusal says: the message of any of the usual forms, or how it begins."""
    try:
        found = strict_json(data)
        for key in ("error", "message", "detail"):
            found = found.get(key, found) if isinstance(found, dict) else found
        return one_line(found, 300).rstrip(".")
    except ValueError:
        return shown(data)
