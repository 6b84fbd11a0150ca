"""Call a server with the openai package in every way that its users do. This runs in the client's environment.

    python openai_driver.py URL IMAGE OUT

OUT gets a list with one entry a call: what came, the type of it, and what its own model of it finds wrong. Of a
completion with `echo` the first number is null, as in OpenAI's replies, though the type has no room for it.
"""

import base64
import json
import sys
from pathlib import Path

import openai


def said(text: str) -> list[dict]:
    """One user turn."""
    return [{"role": "user", "content": text}]


def calls(client: openai.OpenAI, model: str, url: str) -> list[tuple]:
    """Each call by name."""
    chat, complete = client.chat.completions.create, client.completions.create
    seeing = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "what color is this?"}]
    return [
        ("models", lambda: client.models.list()),
        ("model", lambda: client.models.retrieve(model)),
        ("chat", lambda: chat(model=model, messages=said("how many?"), max_tokens=8, temperature=0)),
        ("image", lambda: chat(model=model, messages=said(seeing), max_tokens=8, temperature=0)),
        ("logprobs", lambda: chat(model=model, messages=said("hi"), logprobs=True, top_logprobs=2,
                                  max_completion_tokens=8)),
        ("two", lambda: chat(model=model, messages=said("hi"), n=2, stop=["\n"], seed=1, top_p=0.9, max_tokens=32)),
        ("two again", lambda: chat(model=model, messages=said("hi"), n=2, stop=["\n"], seed=1, top_p=0.9,
                                   max_tokens=32)),
        ("stream", lambda: list(chat(model=model, messages=said("how many?"), stream=True, temperature=0))),
        ("stream with usage", lambda: list(chat(model=model, messages=said("how many?"), stream=True, temperature=0,
                                                stream_options={"include_usage": True}))),
        ("echo", lambda: complete(model=model, prompt=[[1, 20, 30], [40, 50]], echo=True, logprobs=1, max_tokens=1,
                                  temperature=0)),
        ("text", lambda: complete(model=model, prompt="abc", max_tokens=4)),
        ("unknown field", lambda: chat(model=model, messages=said("hi"), max_tokens=4,
                                       extra_body={"prompt_logprobs": 1})),
        ("no route", lambda: client.embeddings.create(model=model, input="x")),
        ("too long", lambda: complete(model=model, prompt="abc " * 9000, max_tokens=4)),
        ("wrong type", lambda: chat(model=model, messages=said("hi"), max_tokens="many")),
        ("left early", lambda: left_early(chat(model=model, messages=said("how many?"), stream=True)))]


def left_early(stream):
    """Read one piece of a stream and leave; the piece."""
    piece = next(iter(stream))
    stream.close()
    return piece


def faults(reply) -> list:
    """What the package's own model of a reply finds wrong with it."""
    found = reply.model_dump()
    for choice in found.get("choices", []) if found.get("object") == "text_completion" else []:
        if choice["logprobs"]:
            for name in ("token_logprobs", "top_logprobs"):
                choice["logprobs"][name] = choice["logprobs"][name][1:]
    try:
        type(reply).model_validate(found)
    except ValueError as error:
        return [str(error)]
    return []


def main(url: str, image: str, out: str) -> None:
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", timeout=300, max_retries=0)
    model = client.models.list().data[0].id
    data = f"data:image/png;base64,{base64.b64encode(Path(image).read_bytes()).decode()}"
    entries = []
    for name, call in calls(client, model, data):
        try:
            reply = call()
        except openai.APIError as error:
            entries.append({"call": name, "type": type(error).__name__, "status": getattr(error, "status_code", None),
                            "body": error.body, "message": error.message})
            continue
        many = reply if isinstance(reply, list) else [reply]
        entries.append({"call": name, "type": type(many[0]).__name__, "replies": [one.model_dump() for one in many],
                        "faults": [fault for one in many for fault in faults(one)]})
    Path(out).write_text(json.dumps({"version": openai.__version__, "calls": entries}), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
