"""Generation: read the prompts, then write one token after another.

Several prompts of unequal length run together, packed, and each gets the tokens that it would get alone. This is the
last module of the language half. Read `chat.py` next, where its text begins.
"""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from tiny.config import Ids, Images, TinyError, Trace
from tiny.kv_cache import KVCache
from tiny.mixtral import Mixtral, check_ids
from tiny.sampling import check_sampling, log_softmax, sample

# The arrays of a trace that are searched for NaN and infinity.
PLACES = {"patch_conv", "vision_ln_pre", "vision_layer", "projector", "embed", "layer", "norm", "logits"}
PREFILL = 2048  # Prompt tokens in one pass: enough for large products, and a bound on memory.


@dataclass(frozen=True)
class Token:
    """One generated token.

    text:    what it adds to the text; the texts joined are the decoded ids
    logprob: natural log of its probability under the raw logits, before temperature and top-p
    experts: (n_layers, K) int, the experts that computed the logits it was picked from; None in a dense model
    """

    id: int
    text: str
    logprob: float
    experts: np.ndarray | None


class ExpertTrace:
    """A trace that keeps only the experts' ids: all arrays of a long prompt take gigabytes.

    finite: whether the logits of all routers are, without which the ids mean nothing
    """

    def __init__(self) -> None:
        self.layers: list[np.ndarray] = []
        self.finite = True

    def __setitem__(self, name: str, value: np.ndarray) -> None:
        if name.startswith("experts"):
            self.layers.append(value)
        elif name.startswith("router_logits"):
            self.finite = self.finite and bool(np.isfinite(value).all())

    def of_rows(self, rows: np.ndarray) -> list[np.ndarray | None]:
        """The experts of some rows, each (n_layers, K), or None of a dense model."""
        return list(np.stack(self.layers, axis=1)[rows]) if self.layers else [None] * len(rows)


def generate(model: Mixtral, ids: Ids, images: Images = (), max_tokens: int = 64, temperature: float = 0.0,
             top_p: float = 1.0, seed: int | None = None, stop_at_eos: bool = True) -> Iterator[Token]:
    """Continue one prompt, token by token.

    Temperature 0 is greedy. The EOS that ends a text is not yielded. Where the context ends, generation ends, with a
    warning.

    Raises:  TinyError for a prompt that is text, empty or longer than the context, arguments out of range, images
             that are no list, or logits that are not finite (the first layer that shows it is named)
    Source:  mistral-inference generate.py
    """
    for _, token in continue_all(model, [ids], images, max_tokens, temperature, top_p, seed, stop_at_eos):
        yield token


def generate_batch(model: Mixtral, prompts: Sequence[Ids], images: Images = (), max_tokens: int = 64,
                   temperature: float = 0.0, top_p: float = 1.0, seed: int | None = None,
                   stop_at_eos: bool = True) -> list[list[Token]]:
    """Continue several prompts together; return each one's tokens, the same that `generate` gives it alone.

    Raises:  TinyError as `generate` does, or if the prompts are no list
    """
    if not isinstance(prompts, (list, tuple, np.ndarray)):
        raise TinyError(f"The prompts are one {type(prompts).__name__}.", "Give a list of prompts, each of token ids.")
    texts: list[list[Token]] = [[] for _ in prompts]
    for n, token in continue_all(model, prompts, images, max_tokens, temperature, top_p, seed, stop_at_eos):
        texts[n].append(token)
    return texts


def continue_all(model: Mixtral, prompts: Sequence[Ids], images: Images, max_tokens: int, temperature: float,
                 top_p: float, seed: int | None, stop_at_eos: bool) -> Iterator[tuple[int, Token]]:
    """Yield (prompt number, Token) as they are written. All prompts draw from generators of the same seed."""
    check_sampling(max_tokens, temperature, top_p, seed)
    rows = [check_ids(ids) for ids in prompts]
    room = [check_prompt(model, ids, max_tokens) for ids in rows]
    cache = model.new_cache([len(ids) + limit for ids, limit in zip(rows, room)])
    writers = [Writer(model, ids, limit, temperature, top_p, seed, stop_at_eos) for ids, limit in zip(rows, room)]
    # (1) read the prompts
    logits, expert_ids = prefill(model, rows, images, cache)
    alive = list(range(len(prompts)))
    while alive:
        # (2) write one token of each text
        for n, row, experts in zip(alive, logits, expert_ids):
            if not np.isfinite(row).all():
                raise not_finite(model, np.concatenate([w.ids for w in writers]), images, [len(w.ids) for w in writers])
            yield from ((n, token) for token in writers[n].write(row, experts))
        # (3) score the next ones of those that go on
        alive = [n for n in alive if not writers[n].ended]
        if alive:
            trace = ExpertTrace()
            logits = list(model([writers[n].ids[-1] for n in alive], cache=cache.subset(alive),
                                lengths=[1] * len(alive), last_only=True, trace=trace))
            expert_ids = trace.of_rows(np.arange(len(alive)))
    if any(limit < max_tokens and len(writer.ids) == model.config.max_seq_len for limit, writer in zip(room, writers)):
        warnings.warn(f"the context of {model.config.max_seq_len:,} tokens is full; the text ends here", stacklevel=2)


def prefill(model: Mixtral, prompts: Sequence[np.ndarray], images: Images,
            cache: KVCache) -> tuple[list[np.ndarray], list[np.ndarray | None]]:
    """Run all prompts through the model, packed, at most PREFILL tokens in a pass.

    A prompt is cut at multiples of PREFILL and nowhere else, so its passes do not depend on the other prompts. An
    image is encoded when its first token is read.

    Shapes:  -> for each prompt the logits (V,) after its last token, and the ids of the experts chosen there
    """
    logits: list = [None] * len(prompts)
    expert_ids: list = [None] * len(prompts)
    done = [0] * len(prompts)
    images = model.look(np.concatenate([np.empty(0, int), *prompts]), images)
    while pending := [n for n, ids in enumerate(prompts) if done[n] < len(ids)]:
        # (1) fill the pass with the next tokens of as many prompts as fit
        pieces: dict[int, np.ndarray] = {}
        for n in pending:
            piece = prompts[n][done[n] : done[n] + PREFILL]
            if sum(map(len, pieces.values())) + len(piece) > PREFILL:
                break
            pieces[n] = piece
        # (2) run it, keep the last row of each prompt
        lengths, trace = [len(piece) for piece in pieces.values()], ExpertTrace()
        rows = model(np.concatenate(list(pieces.values())), images=images, cache=cache.subset(list(pieces)),
                     lengths=lengths, last_only=True, trace=trace)
        for n, row, experts in zip(pieces, rows, trace.of_rows(np.cumsum(lengths) - 1)):
            logits[n], expert_ids[n], done[n] = row, experts, done[n] + len(pieces[n])
    return logits, expert_ids


class Writer:
    """One text in the making: its ids so far, its random generator, and the characters not yet shown."""

    def __init__(self, model: Mixtral, ids: Ids, room: int, temperature: float, top_p: float, seed: int | None,
                 stop_at_eos: bool):
        self.ids, self.end = list(ids), len(ids) + room
        self.temperature, self.top_p, self.rng = temperature, top_p, np.random.default_rng(seed)
        self.tokenizer = model._tokenizer
        eos = {self.tokenizer.eos_id} if self.tokenizer else set()
        self.end_ids = eos | model.config.end_ids if stop_at_eos else set()
        self.stream = self.tokenizer.stream() if self.tokenizer else None
        self.held: list[Token] = []
        self.ended = False

    def write(self, logits: np.ndarray, experts: np.ndarray | None) -> list[Token]:
        """Choose a token; return those whose text is complete. A token inside a character waits for the next one."""
        token = sample(logits, self.temperature, self.top_p, self.rng)
        if token in self.end_ids:
            return self.finish()
        text = self.stream.push(token) if self.stream else ""
        self.ids.append(token)
        self.held.append(Token(token, text, float(log_softmax(logits)[token]), experts))
        if len(self.ids) == self.end:
            return self.finish()
        if self.stream and not text:
            return []
        ready, self.held = self.held, []
        return ready

    def finish(self) -> list[Token]:
        """End the text; bytes that never became a character go to the last token."""
        self.ended = True
        rest = self.stream.finish() if self.stream else ""
        if self.held:
            self.held[-1] = replace(self.held[-1], text=self.held[-1].text + rest)
        ready, self.held = self.held, []
        return ready


def check_prompt(model: Mixtral, ids: Ids, max_tokens: int) -> int:
    """How many tokens a prompt can get: max_tokens, or what the context leaves."""
    room = model.config.max_seq_len - len(ids)
    if not len(ids) or room < 1:
        raise TinyError(f"The prompt has {len(ids):,} tokens, the context {model.config.max_seq_len:,}.",
                        "Give at least one token, and leave room for at least one more.")
    return min(max_tokens, room)


def run_finite(model: Mixtral, ids: Ids, images: Images = (), lengths: Sequence[int] | None = None,
               cache: KVCache | None = None, trace: Trace | None = None, last_only: bool = False) -> np.ndarray:
    """Call the model to measure something, and refuse to measure a damaged one.

    Shapes:  as the model's call: ids (T,) -> (T, V)
    Raises:  TinyError for logits, or with an ExpertTrace logits of a router, that are not finite
    """
    logits = model(ids, images=images, lengths=lengths, cache=cache, trace=trace, last_only=last_only)
    if not (np.isfinite(logits).all() and getattr(trace, "finite", True)):
        raise not_finite(model, ids, images, lengths)
    return logits


def not_finite(model: Mixtral, ids: Ids, images: Images, lengths: Sequence[int] | None) -> TinyError:
    """The error for NaN or infinity in the logits: run the ids again and name the first array that has it."""
    trace: dict = {}
    with np.errstate(all="ignore"):
        model(ids, images=images, lengths=lengths, trace=trace, last_only=True)
    names = [name for name in trace if name.rstrip("0123456789") in PLACES] + list(trace)
    first = next((name for name in names if not np.isfinite(trace[name]).all()), "logits")
    return TinyError(f"The logits hold NaN or infinity; it first appears in {first!r}.",
                     "The weights of that place are damaged: compare the file's checksum with the release's.")
