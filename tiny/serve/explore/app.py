"""The paths of the page: its files, runs, and what one click asks for. The guard is that of `tiny serve`."""

import gzip
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tiny.mixtral import Mixtral
from tiny.serve import fields
from tiny.serve.explore import asked
from tiny.serve.explore.kept import Explored
from tiny.serve.guard import Guard
from tiny.serve.limits import Refusal, dumps
from tiny.serve.worker import Job, Worker
from tiny.tools.explore import __file__ as folder
from tiny.tools.explore import panels, pictures, rows, runs

PAGE = Path(folder).with_name("page")
KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
HEADERS = {"Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: "
           "blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
           "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Cache-Control": "no-store",
           "Cross-Origin-Resource-Policy": "same-origin", "Cross-Origin-Opener-Policy": "same-origin"}


class Strict:
    """Adds to every answer, also to refusals, the headers that let the page load nothing but its own files."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                more = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
                message = {**message, "headers": [*message.get("headers", []), *more]}
            await send(message)

        await self.app(scope, receive, sending)


def build(models: dict[str, Mixtral], worker: Worker) -> Strict:
    """The app of one model or two, guarded."""
    files = {path.name: path.read_bytes() for path in sorted(PAGE.iterdir()) if path.suffix in KINDS}
    routes = [Route("/" if name == "index.html" else f"/{name}", file(name, data), methods=["GET"])
              for name, data in files.items()]
    routes += [Route("/start", start, methods=["GET"])]
    routes += [Route(f"/{work.__name__}", answer(work), methods=["POST"])
               for work in (run, row, parts, patch, measure, scene, cell)]
    router = Router(routes, redirect_slashes=False, default=nowhere)
    return Strict(Guard(router, Explored(models, worker), body_bytes=asked.BODY_BYTES))


async def nowhere(*call: Any) -> None:
    """Every other path."""
    raise Refusal(404, "There is no such path here.", "Open the page at / .")


def file(name: str, data: bytes) -> Callable:
    """The end of a path that gives one file of the page, which was read and packed when the server began."""
    packed, kind = gzip.compress(data, mtime=0), KINDS[Path(name).suffix]

    async def give(request: Request) -> Response:
        if "gzip" in request.headers.get("accept-encoding", ""):
            return Response(packed, headers={"Content-Encoding": "gzip"}, media_type=kind)
        return Response(data, media_type=kind)
    return give


async def start(request: Request) -> Response:
    """What the page needs once: the models, their vocabularies, the switches, and where its numbers come from."""
    events = request.app.worker.run(lambda job: iter([dumps(asked.start(request.app.models))]), request.receive)
    return await first(events, "application/json")


def answer(work: Callable[[Explored, dict, Job], Any]) -> Callable:
    """The end of a path that computes: its body is read here, and the thread of the model does the work."""
    async def end(request: Request) -> Response:
        body = fields.parse(await request.body())

        def compute(job: Job) -> Iterator[bytes]:
            found = work(request.app, body, job)
            yield found.astype("<f4").tobytes() if isinstance(found, np.ndarray) else (
                found if isinstance(found, bytes) else dumps(found))
        return await first(request.app.worker.run(compute, request.receive), "application/octet-stream"
                           if work in (row, parts, patch) else "application/json")
    return end


async def first(events: Any, kind: str) -> Response:
    """The one thing that the thread tells, as an answer."""
    data = await anext(events)
    await events.aclose()
    return Response(data, media_type=kind)


# ---- what is computed, in the thread

def run(explored: Explored, body: dict, job: Job) -> dict:
    """A prompt is read and a text is written: the tokens, their experts, and a name by which clicks ask for more."""
    name, model = asked.model_of(body, explored.models)
    ask, files = asked.read(body), asked.read_pictures(body)
    key = ask.key(name, [data for data, _ in files])
    found = explored.find(key)
    if found is None:
        found = runs.write(model, ask, [asked.decode(*one) for one in enumerate(files)], name, job.check)
        explored.keep(key, name, found)
    return {"run": key, **asked.told(found)}


def row(explored: Explored, body: dict, job: Job) -> bytes:
    """The numbers of one token."""
    return rows.packed(*asked.run_and_place(explored, body, "row"))


def parts(explored: Explored, body: dict, job: Job) -> np.ndarray:
    """How much each part of each layer adds for one token. Shapes:  -> (L, 2 + K)."""
    return rows.parts(*asked.run_and_place(explored, body, "row"))


def patch(explored: Explored, body: dict, job: Job) -> np.ndarray:
    """What one patch reads in the encoder. Shapes:  -> (L, H, N), N = patches."""
    return rows.patch_attention(*asked.run_and_place(explored, body, "patch"))


def measure(explored: Explored, body: dict, job: Job) -> dict:
    """A number on held-out texts or pictures, as trained and with a switch; blind, and for hiding, beside."""
    name, model = asked.model_of(body, explored.models)
    ask, kind = asked.read({**body, "text": ""}), asked.choice(body, "kind", ("loss", "right", "pairs", "hiding"))
    return explored.measure(name, model, ask, kind, job.check)


def scene(explored: Explored, body: dict, job: Job) -> dict:
    """A scene drawn anew: its pictures, questions and answers, and the patches of each thing."""
    _, model = asked.model_of(body, explored.models)
    drawn = pictures.draw(model.config, fields.whole(body, "seed", 0, 0, 2**53 - 1) or 0,
                          fields.whole(body, "number", 1, 1, 3) or 1)
    return asked.scene_said(drawn)


def cell(explored: Explored, body: dict, job: Job) -> dict:
    """The state of the page as a cell of a notebook."""
    found, row = asked.run_and_place(explored, body, "row")
    rows.check_row(found, row)
    config, seed = found.model.config, fields.whole(body, "seed", None, 0, 2**53 - 1)
    layer, head = (fields.whole(body, name, 0, 0, most - 1) or 0
                   for name, most in (("layer", config.n_layers), ("head", config.n_heads)))
    number = len(found.grids)
    shown = "[]" if not number else panels.opened(number) if seed is None else panels.drawn(seed, number)
    return {"cell": panels.cell(explored.names[body["run"]], found.ask, row, layer, head, shown)}
