"""What chats show, beside the numbers of texts: the template, the cache, several requests at once, the
defaults, and images where the model sees."""

from collections.abc import Callable
from typing import Any

from tiny.config import TinyError
from tiny.tools.verify.server.chat import check_chat
from tiny.tools.verify.server.connect import Server
from tiny.tools.verify.server.probe import NEUTRAL, Way
from tiny.tools.verify.server.repeat import check_defaults, check_repeat
from tiny.tools.verify.server.report import STATES, Line


def others(server: Server, way: Way, model: Any, bound: float) -> list[Line]:
    """The lines of all checks that need /v1/chat/completions.

    bound: how far a healthy answer may be from the reference, in nats
    """
    body = {"model": way.name, **NEUTRAL} if way.name else dict(NEUTRAL)
    checks: dict[str, Callable[[], Any]] = {
        "chat": lambda: check_chat(server, body, model, bound),
        "repeat": lambda: check_repeat(server, body, model, bound),
        "defaults": lambda: check_defaults(server, way.name, body, model, bound)}
    if model.config.vision is not None:
        # Imported here so that a model of texts needs no imaging library.
        from tiny.tools.verify.server.sight import check_images

        checks["images"] = lambda: check_images(server, body, model, bound, way.engine)
    return [line for name, check in checks.items() for line in lines_of(name, check)]


def lines_of(name: str, check: Callable[[], Any]) -> list[Line]:
    """The verdict of one check and what it notes. Where one cannot be made, that is said, and the others are made."""
    try:
        found = check()
    except TinyError as error:
        return [Line(name, None, f"not checked: {error.cause}")]
    if isinstance(found, list):
        return [Line(name, None, one) for one in found]
    notes = [Line(name, None, one) for one in getattr(found, "notes", [])]
    return [Line(name, STATES[found.state], found.words, found.remedy, found), *notes]
