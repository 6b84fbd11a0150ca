"""How much a request may bring, and how a refusal is written. Nothing here needs more than the core packages.

Nothing here or in `guard.py` knows a model: another page that is served from this machine can stand behind both.
"""

import json
from functools import partial
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

from tiny.config import TinyError
from tiny.tools.terminal import one_line

HEADER_BYTES, HEADER_FIELDS = 32 << 10, 100
BODY_BYTES = 32 << 20
ALL_BYTES = 256 << 20  # bodies of all requests that are being read or answered
SMALL_BYTES = 64 << 10  # a body that always finds room
CONNECTIONS = 256
IDLE = 30  # seconds that a connection may be without a request
PATIENCE = 30.0  # seconds that a header, a body, or a client that does not read its answer may take
STALL = 5.0  # seconds without a byte of a large body, and by how much one may be late against an even pace
DRAIN = 1.0  # seconds without a byte after which the rest of a refused body is not read any more
NAMES = {400: "BadRequestError", 401: "AuthenticationError", 403: "PermissionDeniedError", 404: "NotFoundError",
         405: "MethodNotAllowedError", 408: "RequestTimeoutError", 413: "RequestTooLargeError",
         421: "MisdirectedRequestError", 429: "RateLimitError", 431: "RequestTooLargeError",
         500: "InternalServerError", 503: "ServiceUnavailableError", 504: "TimeoutError"}


class Left(Exception):
    """The client has left: nobody waits for the answer any more."""


class Refusal(TinyError):
    """An error of a request, with its HTTP status and, if there is one, the field that is wrong."""

    def __init__(self, status: int, cause: str, remedy: str, param: str | None = None):
        super().__init__(cause, remedy)
        self.status, self.param = status, param


wrong = partial(Refusal, 400)
ENDING = Refusal(503, "The server is about to end.", "Ask again when it has been started again.")


def address_of(name: str) -> IPv4Address | IPv6Address | None:
    """A name as the address in digits that it is, which no name server can change; None if it is another."""
    try:
        return ip_address(name)
    except ValueError:
        return None


def dumps(value: Any) -> bytes:
    """JSON in ASCII, so that no character can break a client; NaN and infinity are refused, not written."""
    return json.dumps(value, allow_nan=False).encode("ascii")


def error_body(error: Refusal) -> dict:
    """An error in the shape that clients of OpenAI and vLLM read, with cause and remedy also by themselves."""
    cause, remedy = one_line(error.cause), one_line(error.remedy)
    return {"error": {"message": f"{cause} {remedy}", "type": NAMES.get(error.status, "Error"), "param": error.param,
                      "code": error.status, "cause": cause, "remedy": remedy}}
