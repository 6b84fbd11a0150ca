"""How uvicorn is set up here, and one connection: how long it may be silent, and what it answers to what is no HTTP."""

import asyncio
import sys
from typing import Any

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from tiny.serve import limits
from tiny.serve.limits import Refusal, dumps, error_body

# What h11 says of a header, in our words.
WRONG = {"TLS": "These bytes are TLS, and this server speaks http, not https.",
         "Host": "The header Host is missing, or comes twice.", "too long": "The header is too long.",
         "Content-Length": "The header Content-Length is no number, or comes twice.",
         "Transfer-Encoding": "The header Transfer-Encoding is not understood; chunked is."}


def configure(app: ASGIApp, debug: bool = False) -> uvicorn.Config:
    """How uvicorn serves an app here: silently, by HTTP alone, without threads of its own."""
    return uvicorn.Config(app, http=Connection, ws="none", loop="asyncio", lifespan="off", log_config=None,
                          log_level="warning" if debug else "critical", access_log=False, server_header=False,
                          timeout_keep_alive=limits.IDLE, timeout_graceful_shutdown=5,
                          h11_max_incomplete_event_size=limits.HEADER_BYTES)


class Connection(H11Protocol):
    """uvicorn's connection with two patiences that it lacks: for headers, and for clients that do not read.

    If there are too many, the oldest one whose request has not come makes room.

    What is no HTTP at all is answered in JSON, as every other error.
    """

    header: asyncio.TimerHandle | None = None
    reader: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.header = self.loop.call_later(limits.PATIENCE, self.give_up)
        self.since = self.loop.time()
        others = [one for one in self.connections
                  if isinstance(one, Connection) and one is not self and not one.transport.is_closing()]
        if len(others) >= limits.CONNECTIONS:
            if silent := [one for one in others if not one.asked or one.cycle.more_body]:
                min(silent, key=lambda one: one.since).transport.abort()
            else:
                self.refuse(Refusal(503, f"{limits.CONNECTIONS} clients are being answered.", "Ask again later."))

    @property
    def asked(self) -> bool:
        """Whether a request has come and its answer is not complete."""
        return self.cycle is not None and not self.cycle.response_complete

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.asked and not self.cycle.more_body and len(self.conn.trailing_data[0]) <= limits.HEADER_BYTES:
            self.flow.resume_reading()  # uvicorn stops at a next request, and would not see that the client leaves.
        if self.asked and self.header:
            self.header.cancel()
            self.header = None
        elif not self.asked and not self.header:  # The next one has begun.
            self.header = self.loop.call_later(limits.PATIENCE, self.give_up)

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in filter(None, (self.header, self.reader)):
            timer.cancel()
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self.reader = self.reader or self.loop.call_later(limits.PATIENCE, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self.reader:
            self.reader.cancel()
            self.reader = None

    def give_up(self) -> None:
        """The header has not come."""
        self.refuse(Refusal(408, f"The header did not come within {limits.PATIENCE:g} seconds.", "Send it at once."))

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self.pause_writing()

    def send_400_response(self, msg: str) -> None:
        error = "TLS" if self.conn.trailing_data[0].startswith(b"\x16\x03") else str(sys.exception())
        why = next((why for word, why in WRONG.items() if word in error), "This is no HTTP request that can be read.")
        self.refuse(Refusal(400, why, "Use an HTTP/1.1 client, and http:// in its address."))

    def refuse(self, refusal: Refusal) -> None:
        """Answer and close, also where no request could be read."""
        body = dumps(error_body(refusal))
        headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body))), ("Connection", "close")]
        try:
            for event in (h11.Response(status_code=refusal.status, headers=headers), h11.Data(data=body),
                          h11.EndOfMessage()):
                self.transport.write(self.conn.send(event))
            self.transport.close()
            self.pause_writing()
        except h11.LocalProtocolError:  # An answer has begun already.
            self.transport.abort()
