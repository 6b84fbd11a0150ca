"""Which log-probabilities a server gives, and by which way: asked once, with a prompt of a few tokens."""

from typing import Any, NamedTuple

from tiny.tools.verify.server.connect import Server


class Way(NamedTuple):
    """How a server is asked for log-probabilities.

    kind: "prompt" (all of a prompt), "echo" (the same, as OpenAI had it), "prefixes" (one generated token for each
          prefix), "chat" (generated tokens), "text" (none at all)
    ids: a prompt may be token ids; path: where; name: of the model; engine: what the server seems to be
    """

    kind: str
    ids: bool
    path: str
    name: str
    engine: str


def probe(server: Server, model: Any) -> Way:
    """Find the best way that a server offers."""
    raise NotImplementedError
