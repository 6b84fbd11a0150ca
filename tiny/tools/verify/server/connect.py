"""The server that is verified: asked for JSON, within limits, and believed in nothing.

Whatever it sends is an answer, or an error of two lines. Read `probe.py` next.
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from tiny.config import TinyError
from tiny.tools.http_request import (
    NoAnswer,
    check_token,
    message_of,
    read_address,
    request,
    shown,
    strict_json,
)
from tiny.tools.terminal import one_line

CHECK = "Check the address, and that nothing else listens there."


class Limits(NamedTuple):
    """What one answer may take: seconds in all, and bytes. A model on a CPU is slow."""

    seconds: float = 600.0
    size: int = 64 << 20


LIMITS = Limits()
# Fields that only say that nothing is changed, by the names of some servers; others refuse names that they do not know.
NEEDLESS = frozenset(("top_k", "min_p", "repetition_penalty", "repeat_penalty", "presence_penalty",
                      "frequency_penalty", "seed"))


class Refused(TinyError):
    """The server answered with another status than 200: it does not offer this, or not like this."""

    def __init__(self, cause: str, remedy: str, status: int):
        super().__init__(cause, remedy)
        self.status = status


class Silent(TinyError):
    """Nobody was there, or no answer came in time: every other request would wait as long."""


class Server:
    """A server by its address. key: what goes behind "Bearer"; it is sent, and written nowhere

    requests: how many were sent; unknown: fields of sampling that it refuses by name, and that it is not sent again
    """

    def __init__(self, url: str, key: str | None = None, limits: Limits = LIMITS):
        self.where, self.key, self.limits, self.requests = read_address(url), check_token(key), limits, 0
        self.unknown: set[str] = set()

    def get(self, path: str) -> dict[str, Any]:
        """The JSON object at a path. Raises as `post`."""
        return self.call("GET", path, None)

    def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Send a JSON object; return the one that is answered.

        Raises:  Refused for another status than 200, redirects too; Silent if there is no answer; TinyError for one
                 that is broken off, or no JSON object
        """
        body = {name: value for name, value in body.items() if name not in self.unknown}
        try:
            return self.call("POST", path, body)
        except Refused as error:
            named = {name for name in re.findall(r"\w+", error.cause) if name in NEEDLESS and name in body}
            if error.status not in (400, 422) or not named:
                raise
        self.unknown |= named
        return self.post(path, body)

    def call(self, method: str, path: str, body: Mapping[str, Any] | None) -> dict[str, Any]:
        """Send one request; return the JSON object of its answer. Raises as `post`."""
        self.requests += 1
        where = f"{self.where.text}{path}"
        try:
            answer = request(self.where, method, path, body, self.key, *self.limits)
        except NoAnswer as error:
            kind = Silent if error.gone or error.late else TinyError
            raise kind(f"{error.cause}.", "Start the server, and check its address." if error.gone else
                       "Look into the log of the server; --timeout gives it more seconds for an answer.") from None
        if answer.status != 200:
            raise refusal(where, answer.status, f"{one_line(answer.reason, 80)}: {message_of(answer.data)}",
                          answer.headers.get("location"))
        try:
            found = strict_json(answer.data)
        except ValueError as error:
            raise TinyError(f"{where} did not send JSON but {shown(answer.data)}: {one_line(error, 200)}.",
                            CHECK) from None
        if not isinstance(found, dict):
            raise TinyError(f"{where} sent no JSON object but {shown(answer.data)}.", CHECK)
        return found


def refusal(where: str, status: int, words: str, location: str | None) -> Refused:
    """What another status than 200 means for whoever runs this."""
    remedy = CHECK
    if 300 <= status < 400:
        words += f", and points to {one_line(location, 200)}" if location else ""
        remedy = "Give the address at which it serves itself: no redirect is followed."
    elif status in (401, 403):
        remedy = "Give the server's token: --token FILE, a file that holds nothing else."
    elif status >= 500 or status == 429:
        remedy = "Look into the log of the server."
    return Refused(f"{where} answered {status} {words}.", remedy, status)
