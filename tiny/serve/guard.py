"""The layer around a served app: it checks each request before anybody reads it, and answers every error in JSON."""

import asyncio
import hmac
import random
from contextlib import suppress
from typing import Any

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tiny.config import TinyError
from tiny.serve import limits
from tiny.serve.limits import ENDING, Left, Refusal, dumps, error_body
from tiny.tools.terminal import explain


def refusal_of(error: Exception) -> Refusal:
    """Any error as one that a client can read. What this program did not foresee has status 500."""
    if isinstance(error, Refusal):
        return error
    if isinstance(error, HTTPException):
        return Refusal(error.status_code, "This path does not take this method.", "Use POST to ask, GET to look.")
    status = 400 if isinstance(error, TinyError) else 500
    return Refusal(status, *explain(error, "Send a shorter prompt, or smaller images."))


def failure(error: Exception, close: bool = False) -> Response:
    """The answer to a request that failed; `close` ends the connection behind it."""
    refusal = refusal_of(error)
    headers = {"Connection": "close"} if close else {}
    headers |= {"Retry-After": str(random.randint(1, 5))} if refusal.status in (429, 503) else {}
    headers |= {"WWW-Authenticate": "Bearer"} if refusal.status == 401 else {}
    return Response(dumps(error_body(refusal)), refusal.status, headers, "application/json")


class Body:
    """A request's body on its way in: its bytes are counted, here and among those of all, and its time is limited.

    Room for a large one is kept before it is read. So what begins to come can end: bodies that grow side by side would
    all meet the limit together. One without a length gets the room of the largest, and a small one always finds room.

    Room is for those who use it: a large body has to come as fast as if it took all of its time evenly, and never pause
    for long. Else some clients that announce much and send nothing would keep all others out.
    """

    def __init__(self, guard: "Guard", receive: Receive):
        self.guard, self.receive, self.size, self.held, self.complete = guard, receive, 0, 0, False
        self.began = asyncio.get_running_loop().time()

    def hold(self, size: int) -> None:
        """Keep room for so many bytes. Raises Refusal if they are too many, here or for all."""
        if size > self.guard.body_bytes:
            raise Refusal(413, f"The body has {size} bytes or more, and {self.guard.body_bytes} are the most.",
                          "Send fewer prompts at once, or smaller images.")
        held = self.guard.held + size - self.held
        if limits.SMALL_BYTES < size > self.held and held > limits.ALL_BYTES:
            raise Refusal(429, "The server holds too many large requests.", "Ask again in some seconds.")
        self.guard.held, self.held = held, size

    async def __call__(self) -> Message:
        """The next message of the client; after the body that is that it has left."""
        if self.complete:
            return await self.receive()
        try:
            async with asyncio.timeout_at(self.deadline()):
                message = await self.receive()
        except TimeoutError:
            raise Refusal(408, f"The body came too slowly, {self.size} bytes up to now. A whole one may take "
                          f"{limits.PATIENCE:g} seconds, and a large one may not pause.", "Send it at once.") from None
        self.size, self.complete = self.size + len(message.get("body", b"")), not message.get("more_body", False)
        if self.complete or self.size > self.held:
            most = self.size if self.complete or self.size <= limits.SMALL_BYTES else self.guard.body_bytes
            self.hold(max(self.size, most))
        return message

    def deadline(self) -> float:
        """When the next bytes have to be here."""
        last = self.began + limits.PATIENCE
        if self.held <= limits.SMALL_BYTES:
            return last
        even = self.began + limits.PATIENCE * self.size / self.held
        return min(last, even + limits.STALL, asyncio.get_running_loop().time() + limits.STALL)

    async def drain(self) -> None:
        """Read what a refused client still sends, while it does: many read no answer before they have sent all."""
        self.hold(0)
        with suppress(TimeoutError):
            async with asyncio.timeout(limits.PATIENCE):
                while not self.complete:
                    async with asyncio.timeout(limits.DRAIN):
                        self.complete = not (await self.receive()).get("more_body", False)


class Guard:
    """The outermost layer of a served app: it checks each request, counts its bytes and its time, and answers errors.

    shared: what all requests share; they find it as `request.app`
    names: hosts by which the server may be called, beside loopback ones and addresses in digits; a page of another site
           that points its own name at this machine is thereby refused
    token: if given, each request must bring it
    body_bytes: of one body at most; by default as `limits` says
    """

    def __init__(self, app: ASGIApp, shared: Any, names: tuple[str, ...] = (), token: str | None = None,
                 body_bytes: int | None = None):
        self.app, self.shared, self.names, self.token = app, shared, {"localhost", *names}, token
        self.most = body_bytes
        self.held = 0  # bytes of bodies

    @property
    def body_bytes(self) -> int:
        """Bytes that a body may have."""
        return self.most or limits.BODY_BYTES

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started, body = False, Body(self, receive)

        async def sending(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            headers = Headers(scope=scope)
            path = self.check(headers, scope["path"])
            body.hold(int(headers.get("content-length", "0")))
            await self.app({**scope, "app": self.shared, "path": path}, body, sending)
        except (ClientDisconnect, Left):
            return
        except asyncio.CancelledError:  # The server ends, and has no more patience.
            if not started:
                await failure(ENDING, close=True)(scope, receive, send)
            raise
        except Exception as error:
            if started:  # Half an answer cannot be taken back: the connection is closed.
                raise
            close = not body.complete
            if close:
                await body.drain()
            await failure(error, close)(scope, receive, send)
        finally:
            body.hold(0)

    def check(self, headers: Headers, path: str) -> str:
        """Refuse a request by its header alone. Its path, without the host that an absolute one begins with."""
        size = sum(len(name) + len(value) for name, value in headers.raw)
        if len(headers.raw) > limits.HEADER_FIELDS or size > limits.HEADER_BYTES:
            raise Refusal(431, f"The header has {len(headers.raw)} fields and {size} bytes; {limits.HEADER_FIELDS} and "
                          f"{limits.HEADER_BYTES} are the most.", "Send fewer, and the text in the body.")
        host, origin = headers.get("host", ""), headers.get("origin")
        if path.lower().startswith("http://"):  # RFC 9112: this host counts, and the header does not.
            host, slash, path = path[7:].partition("/")
            path = slash + path
        if not self.known(host):
            raise Refusal(421, f"The request calls this server {host[:80]}." if host else "The header Host is missing.",
                          "Use its address, as 127.0.0.1, or localhost: a web page can point other names here.")
        if origin is not None and origin.partition("://")[2] != host:
            raise Refusal(403, f"The request comes from a page of {origin[:80]}.", "Ask without a web page.")
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if self.token is not None and not (scheme.lower() == "bearer" and hmac.compare_digest(
                given.strip().encode("latin-1"), self.token.encode("latin-1"))):
            raise Refusal(401, "The request does not bring the token of this server.",
                          "Send the header Authorization: Bearer TOKEN, which clients call api_key.")
        return path

    def known(self, host: str) -> bool:
        """Whether a Host header names this server: a known name or an address, with a port or without."""
        name, _, port = host.rpartition(":") if not host.endswith("]") else (host, "", "")
        name = name if port.isdigit() and name else host
        return name.lower() in self.names or bool(limits.address_of(name.removeprefix("[").removesuffix("]")))
