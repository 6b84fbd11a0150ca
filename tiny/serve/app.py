"""The paths of the server, and what stands behind each."""

from collections.abc import AsyncIterator, Iterator
from typing import Any, NamedTuple

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route, Router

from tiny.mixtral import Mixtral
from tiny.serve import fields, messages
from tiny.serve.ask import PATHS, READ, Ask, prompts_of, read, refuse_or_name
from tiny.serve.guard import Guard, refusal_of
from tiny.serve.limits import Refusal, dumps, error_body, wrong
from tiny.serve.replies import Names, event, noted, reply
from tiny.serve.worker import Job, Worker
from tiny.tools.terminal import note


class Served(NamedTuple):
    """What all requests share."""

    model: Mixtral
    name: str
    names: Names
    worker: Worker
    said: set  # notes that were given once


def build(model: Mixtral, name: str, worker: Worker, hosts: tuple[str, ...] = (), token: str | None = None) -> Guard:
    """The app of one model, guarded; hosts and token as `Guard` has them."""
    ends = {"/health": health, "/v1/models": models, "/v1/models/{name:path}": models, "/tokenize": tokenize,
            "/v1/completions": completions, "/v1/chat/completions": chat, "/detokenize": detokenize,
            "/tokenizer_info": tokenizer_info}
    routes = [Route(path, end, methods=["POST" if f"POST {path}" in PATHS else "GET"]) for path, end in ends.items()]
    return Guard(Router(routes, redirect_slashes=False, default=nowhere),
                 Served(model, name, Names(model.tokenizer), worker, set()), hosts, token)


async def nowhere(*call: Any) -> None:
    """Every other path."""
    raise Refusal(404, "There is no such path here.", f"There are {', '.join(PATHS)}.")


def json_response(value: Any) -> Response:
    """A value as JSON, written as everything here is."""
    return Response(dumps(value), media_type="application/json")


async def health(request: Request) -> Response:
    """Empty, because mistral-evals waits for ever on another body than nothing or {"status": "OK"}."""
    return Response()


async def models(request: Request) -> Response:
    """The one model that is served, in a list or by its name, and the length of its context."""
    served, asked = request.app, request.path_params.get("name")
    one = {"id": served.name, "object": "model", "created": 0, "owned_by": "tiny",
           "max_model_len": served.model.config.max_seq_len}
    if asked not in (None, served.name):
        raise Refusal(404, f"The model {asked[:80]} is not served here.", f"Ask for {served.name}.", "model")
    return json_response(one if asked else {"object": "list", "data": [one]})


async def tokenizer_info(request: Request) -> Response:
    """What lm_eval asks for. There is no template: control tokens cannot be written, so no text makes a chat here."""
    served = request.app
    bos, eos = special(served.model.tokenizer)
    return json_response({"tokenizer_class": type(served.model.tokenizer).__name__, "bos_token": bos, "eos_token": eos,
                          "model_max_length": served.model.config.max_seq_len, "chat_template": None})


def special(tokenizer: Any) -> dict[str, int]:
    """The strings of BOS and EOS, and their ids."""
    return {tokenizer.pieces([id])[0]: id for id in (tokenizer.bos_id, tokenizer.eos_id)}


async def completions(request: Request) -> Response:
    """Texts that go on where their prompts end."""
    body, served = fields.parse(await request.body()), request.app
    ask, prompts = read(body, False, served.name), prompts_of(body, served.model.config.vocab_size)

    def work(job: Job) -> Iterator[bytes]:
        rows = [with_room(served, encode(served, prompt, ask.bos, job), (), ask, "prompt") for prompt in prompts]
        return reply(served.model, served.name, served.names, rows, ask, False, job)

    return await respond(request, ask.stream, work)


async def chat(request: Request) -> Response:
    """Answers to a conversation, with pictures or without."""
    body, served = fields.parse(await request.body()), request.app
    ask, asked = read(body, True, served.name), messages.read_messages(body)

    def work(job: Job) -> Iterator[bytes]:
        ids, pixels, named = messages.encode_chat(served.model, served.name, *asked)
        ask.warnings.extend(named)
        rows = [with_room(served, ids, pixels, ask, "messages")]
        return reply(served.model, served.name, served.names, rows, ask, True, job)

    return await respond(request, ask.stream, work)


def encode(served: Served, prompt: str | list[int], bos: bool, job: Job) -> list[int]:
    """The ids of a prompt. A text gets BOS, unless the request says no; ids are taken as they are."""
    job.check()
    tokenizer = served.model.tokenizer
    if isinstance(prompt, str):
        return [tokenizer.bos_id] * bos + tokenizer.encode(prompt)
    if prompt[0] != tokenizer.bos_id and "bos" not in served.said:
        served.said.add("bos")
        note("a prompt of ids came without BOS, and is taken as it is (lm_eval sends none); said once")
    return prompt


def with_room(served: Served, ids: list[int], pixels: Any, ask: Ask, param: str) -> tuple[list[int], Any, int]:
    """A prompt, and how many tokens it can get. Raises Refusal if it is empty, or the context leaves none."""
    context = served.model.config.max_seq_len
    least = 0 if ask.max_tokens == 0 else 1
    if not ids:
        raise wrong("The prompt is empty.", "Give at least one token, or leave add_special_tokens on.", param)
    if len(ids) + least > context:
        raise wrong(f"This model's maximum context length is {context} tokens, and the prompt has {len(ids)}, with "
                    f"{least} more asked for.", "Shorten the prompt.", param)
    room = context - len(ids) if ask.max_tokens is None else min(ask.max_tokens, context - len(ids))
    if ask.max_tokens is not None and room < ask.max_tokens:
        ask.warnings.append(f"max_tokens: {ask.max_tokens} are asked for, the context of {context} leaves fewer")
    return ids, pixels, room


async def tokenize(request: Request) -> Response:
    """The ids of a text, behind BOS unless the request says no; or those of a chat. The string of BOS or EOS alone is
    that token, also behind BOS: lm_eval asks so for their ids.
    """
    body, served = fields.parse(await request.body()), request.app
    tokenizer, talk = served.model.tokenizer, body.get("messages") is not None
    if talk == (body.get("prompt") is not None):
        raise wrong("Either prompt or messages are needed, and not both.", "Give one of them.", "prompt")
    warnings = refuse_or_name(body, READ["messages_to_ids" if talk else "text_to_ids"], served.name)
    asked = messages.read_messages(body) if talk else None
    prompt, bos = "" if talk else fields.text(body["prompt"], "prompt"), fields.flag(body, "add_special_tokens", True)

    def work(job: Job) -> Iterator[bytes]:
        named: list[str] = []
        if asked:
            ids, _, named = messages.encode_chat(served.model, served.name, *asked)
        elif prompt in special(tokenizer):
            ids = [tokenizer.bos_id] * bos + [special(tokenizer)[prompt]]
        else:
            ids = encode(served, prompt, bos, job)
        yield dumps({"tokens": ids, "count": len(ids), "max_model_len": served.model.config.max_seq_len}
                    | noted(warnings + named))

    return await respond(request, False, work)


async def detokenize(request: Request) -> Response:
    """The text of ids."""
    body, served = fields.parse(await request.body()), request.app
    warnings = refuse_or_name(body, READ["ids_to_text"], served.name)
    ids = fields.token_ids(body.get("tokens"), served.model.config.vocab_size, "tokens")
    return await respond(request, False, lambda job: iter([dumps({"prompt": served.model.tokenizer.decode(ids)}
                                                                 | noted(warnings))]))


async def respond(request: Request, stream: bool, work: Any) -> Response:
    """Let the thread work. An error before the first byte has its status; later ones are an event of the stream."""
    events = request.app.worker.run(work, request.receive)
    start = await anext(events)
    if stream:
        return StreamingResponse(go_on(start, events), 200, {"Cache-Control": "no-store"}, "text/event-stream")
    await events.aclose()
    return Response(start, media_type="application/json")


async def go_on(start: bytes, events: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The events of a stream, an error among them, and the end."""
    yield start
    try:
        async for one in events:
            yield one
    except Exception as error:
        yield event(error_body(refusal_of(error)))
    yield b"data: [DONE]\n\n"
