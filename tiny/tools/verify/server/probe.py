"""Which log-probabilities a server gives, and by which way: each form is tried once, the one that says most first.

Every parameter of sampling is sent with each request. What is left out, a server takes from the model's
generation_config.json or from its own defaults, and with some of them that is in the numbers. Read `collect.py` next.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from tiny.config import TinyError
from tiny.tools.terminal import one_line
from tiny.tools.verify.server.connect import Refused, Server, Silent
from tiny.tools.verify.server.decide import TOP
from tiny.tools.verify.server.rows import rows_of, text_of

WORDS = "Once upon a time there was a river"  # of which the first prompt is made
# Nothing that changes probabilities, by all the names that servers have for it.
NEUTRAL: dict[str, Any] = {
    "temperature": 0.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0, "repeat_penalty": 1.0,
    "presence_penalty": 0.0, "frequency_penalty": 0.0, "seed": 0, "stream": False}
NATIVE: dict[str, Any] = {"typical_p": 1.0, "mirostat": 0, "dry_multiplier": 0.0, "xtc_probability": 0.0,
                          "post_sampling_probs": False}
COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
LISTS = {"logprobs": TOP, "return_tokens_as_token_ids": True}  # the older form; vLLM and `tiny serve` then name ids


class Form(NamedTuple):
    """One way to ask. kind: "prompt" (the log-probabilities of a whole prompt), "echo" (the same, as OpenAI had it),
    "prefixes" (of one generated token behind each prefix), "chat" (of the tokens of answers), "text" (none)

    ids: whether the prompt is token ids, not text; fields: what is asked for
    """

    kind: str
    ids: bool
    path: str
    fields: Mapping[str, Any]

    def body(self, prompt: Any, name: str, tokens: int = 1) -> dict[str, Any]:
        """A request. prompt: ids, a text, or messages; tokens: how many are generated."""
        limit = "n_predict" if self.path == "/completion" else "max_tokens"
        what = "messages" if self.path == CHAT else "prompt"
        named = {"model": name} if name else {}
        return {**named, what: prompt, limit: tokens, **NEUTRAL, **self.fields}


FORMS = (
    Form("prompt", True, COMPLETIONS, {"prompt_logprobs": TOP}),
    Form("echo", True, COMPLETIONS, {"echo": True} | LISTS),
    Form("prefixes", True, "/completion", {"n_probs": TOP, "cache_prompt": True} | NATIVE),
    Form("echo", False, COMPLETIONS, {"echo": True} | LISTS),
    Form("prefixes", True, COMPLETIONS, LISTS),
    Form("prefixes", True, COMPLETIONS, {"logprobs": 5}),
    Form("prefixes", False, COMPLETIONS, LISTS),
    Form("prefixes", False, COMPLETIONS, {"logprobs": 5}),
    Form("prefixes", False, COMPLETIONS, {"logprobs": True, "top_logprobs": 10}),
    Form("chat", False, CHAT, {"logprobs": True, "top_logprobs": TOP, "return_tokens_as_token_ids": True}),
    Form("chat", False, CHAT, {"logprobs": True, "top_logprobs": 10}),
    Form("chat", False, CHAT, {"logprobs": True, "top_logprobs": 5}),
    Form("text", False, COMPLETIONS, {}),
    Form("text", False, CHAT, {}))
WAYS = {"prompt": "the log-probabilities of whole prompts", "echo": "prompts that are echoed with log-probabilities",
        "prefixes": "one generated token behind each prefix of a text", "chat": "log-probabilities of chat answers",
        "text": "no log-probabilities, texts only"}
ENGINES = {"vllm": "vLLM", "llamacpp": "llama.cpp", "tiny": "tiny serve", "sglang": "SGLang", "me": "llama-cpp-python"}


class Way(NamedTuple):
    """How a server is asked: the form that it answered, the name of its model, and what engine it seems to be."""

    form: Form
    name: str
    engine: str

    @property
    def words(self) -> str:
        """The way in a sentence of the report."""
        return f"{self.engine}: {WAYS[self.form.kind]}, the prompt as {'token ids' if self.form.ids else 'text'}"


def probe(server: Server, model: Any, name: str | None = None) -> Way:
    """Find the form that says most among those that a server answers.

    name: of the model, if the server has several
    Raises:  TinyError if it answers none, or has several models and none of this name; Silent at once
    """
    chosen, engine = choose_model(server, name)
    ids, first = [model.tokenizer.bos_id, *model.tokenizer.encode(WORDS)], None
    for form in FORMS:
        prompt: Any = ids if form.ids else [{"role": "user", "content": WORDS}] if form.path == CHAT else WORDS
        try:
            answer = server.post(form.path, form.body(prompt, chosen))
            if ANSWERED[form.kind](answer, len(ids)):
                return Way(form, chosen, engine)
        except Silent:
            raise
        except TinyError as error:
            # A broken answer says more than a refusal: forms that a server does not know are refused by all.
            first = error if first is None or isinstance(first, Refused) and not isinstance(error, Refused) else first
    raise first or TinyError(f"{server.where.text} writes no text that could be read.",
                             "Use a server with /v1/completions or /v1/chat/completions.")


def choose_model(server: Server, name: str | None) -> tuple[str, str]:
    """The name of the model that is asked, and the engine that the server seems to be, from the list of its models.

    Raises:  TinyError if it has several and none of this name
    """
    try:
        listed = server.get("/v1/models").get("data")
    except Silent:
        raise
    except TinyError as error:  # mlx-lm 0.32 sends nothing at all where the machine has no cache of Hugging Face.
        if isinstance(error, Refused) and error.status not in (404, 405, 501):
            raise
        listed = []
    found = {one["id"]: one for one in (listed if isinstance(listed, list) else []) if isinstance(
        one, dict) and isinstance(one.get("id"), str)}
    if name is None and len(found) > 1:
        some = ", ".join(one_line(one, 80) for one in list(found)[:10])
        raise TinyError(f"{server.where.text} lists {len(found)} models: {some}.", "Choose one with --name NAME.")
    chosen = name if name is not None else next(iter(found), "")
    owner = found.get(chosen, {}).get("owned_by")
    return chosen, ENGINES.get(owner, "an unknown engine") if isinstance(owner, str) else "an unknown engine"


def whole_prompt(answer: Mapping[str, Any], tokens: int) -> bool:
    """Whether all tokens but the first have log-probabilities. A server that ignores the request gives none."""
    rows, _ = rows_of(answer)
    return len(rows) == tokens and all(row.top for row in rows[1:])


def whole_echo(answer: Mapping[str, Any], tokens: int) -> bool:
    """The same for a prompt that is echoed, with or without BOS; a server that ignores `echo` sends one token."""
    _, rows = rows_of(answer)
    return len(rows) >= tokens - 1 > 2 and all(row.top for row in rows[2:])


def generated(answer: Mapping[str, Any], tokens: int) -> bool:
    """Whether a generated token came with the likeliest ones beside it."""
    _, rows = rows_of(answer)
    return bool(rows) and len(rows) < tokens - 1 and len(rows[0].top) > 1


ANSWERED: dict[str, Callable[[Mapping[str, Any], int], bool]] = {
    "prompt": whole_prompt, "echo": whole_echo, "prefixes": generated, "chat": generated,
    "text": lambda answer, tokens: text_of(answer) is not None}
