"""One run: a prompt is read, a text is written, and what the panels show is kept while that happens.

Reading the finished text once more would not do: without the causal mask the prompt would then see its own answer, and
dice fall differently each time.
"""

import hashlib
import json
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from tiny.config import Config, Images, TinyError
from tiny.generate import PREFILL, Token, generate
from tiny.mixtral import Mixtral
from tiny.tools.explore.switches import hidden, is_changed, with_operations, with_switch
from tiny.tools.prompt_images import check_room, user_turn, vision_of
from tiny.training.images.evaluate import plain

TOKENS = 200  # written at most
KEPT = ("q", "k", "router_logits", "experts", "expert_weights", "layer", "attn", "embed", "vision_q", "vision_k")
NOT_PARTS = ("layer", "attn", "embed")  # what only the sizes of parts need; of the last layer, the next token too
RUN_BYTES = 256 << 20  # of a run's arrays, from which on its parts are not kept
MOST_BYTES = 2 << 30  # of a run's arrays


class OutOfRange(TinyError):
    """A switch has driven the numbers out of the range of float32, so that nothing can be written."""


@dataclass(frozen=True)
class Ask:
    """What is asked of a model. `hide`: patches, counted over all pictures, that the words cannot read."""

    text: str
    tokens: int = 40
    chat: bool = False
    switch: str = ""
    value: int = 0
    layer: int | None = None
    hide: tuple[int, ...] = ()
    blind: bool = False

    def key(self, model: str, pictures: Sequence[bytes]) -> str:
        """A name for the run: the same request has the same one, in whichever window it was asked."""
        said = json.dumps([model, asdict(self), [hashlib.sha256(data).hexdigest() for data in pictures]])
        return hashlib.sha256(said.encode()).hexdigest()[:32]


@dataclass
class Run:
    """What was read and written, and the arrays of all of its passes, row behind row.

    ids:   of the prompt and of what was written, T in all; the model has read every one of them
    stops: for each row how many rows had been read when its pass ended
    grids: columns and rows of each picture
    trace: arrays by their names, (T, ...) each; `norm` and `logits` are computed when they are asked for
    said:  what was warned of
    """

    model: Mixtral
    ask: Ask
    ids: list[int]
    prompt: int
    text: str
    stops: np.ndarray
    grids: list[tuple[int, int]]
    trace: dict[str, np.ndarray] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def places(self) -> np.ndarray:
        """The rows of the patches. Shapes:  -> (N,) int, N = patches."""
        return places_of(self.model.config, self.ids)

    @property
    def size(self) -> int:
        """Bytes of the arrays."""
        return sum(array.nbytes for array in self.trace.values())


def places_of(config: Config, ids: Sequence[int]) -> np.ndarray:
    """The rows of [IMG] tokens. Shapes:  T ids -> (N,) int, N = patches."""
    return np.flatnonzero(np.asarray(ids) == config.vision.image_token_id) if config.vision else np.empty(0, int)


class Watched:
    """A model whose passes are watched: the arrays that the page shows are kept, the others are let go."""

    def __init__(self, model: Mixtral, wanted: Callable[[str], bool], check: Callable[[], None]):
        self.model, self.wanted, self.check = model, wanted, check
        self.passes: list[dict[str, np.ndarray]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def look(self, ids: np.ndarray, images: Images) -> Images:
        """Pictures of a prompt that is read in one pass are encoded together, as in a plain call of the model."""
        return self.model.check_images(ids, images) if len(ids) <= PREFILL else self.model.look(ids, images)

    def __call__(self, ids, images=(), cache=None, lengths=None, last_only=False, trace=None):
        self.passes.append({})
        return self.model(ids, images, cache, lengths, last_only, Both(self.passes[-1], trace, self))


class Both:
    """The trace of a watched pass: what the writer of the text asks for, and what is kept."""

    def __init__(self, kept: dict[str, np.ndarray], other: Any, watched: Watched):
        self.kept, self.other, self.watched = kept, other, watched

    def __setitem__(self, name: str, value: np.ndarray) -> None:
        self.watched.check()
        if self.watched.wanted(name):  # Pictures of a long prompt come one by one.
            self.kept[name] = np.concatenate([self.kept[name], value]) if name in self.kept else value
        if self.other is not None:
            self.other[name] = value


def bytes_of_token(config: Config) -> tuple[int, int]:
    """Bytes that a run keeps for one token: with the sizes of parts, and without them."""
    heads, moe = config.head_dim * (config.n_heads + config.n_kv_heads), config.moe
    small = config.n_layers * 4 * (heads + (moe.num_experts + 3 * moe.num_experts_per_tok if moe else 0))
    return small + 4 * config.dim * (2 * config.n_layers + 1), small + 4 * config.dim


def wanted_of(config: Config, tokens: int) -> Callable[[str], bool]:
    """Which arrays are kept. Raises TinyError if they are too many for any memory."""
    whole, small = (tokens * size for size in bytes_of_token(config))
    if small > MOST_BYTES:
        raise TinyError(f"The arrays of {tokens:,} tokens would take {small / 1e9:.1f} GB.", "Ask with a shorter text.")
    left_out = NOT_PARTS if whole > RUN_BYTES else ()
    last = f"layer{config.n_layers - 1:02}"

    def wanted(name: str) -> bool:
        kind = name.rstrip("0123456789")
        return name == last or kind in KEPT and kind not in left_out
    return wanted


def encode(model: Mixtral, ask: Ask, pictures: Sequence[Any], name: str) -> tuple[list[int], list[np.ndarray]]:
    """The ids of a prompt, and its preprocessed pictures. Raises TinyError for what does not fit."""
    if pictures:
        vision_of(model, name)
        pictures = [to_picture(plain(np.asarray(one))) for one in pictures] if ask.blind else pictures
        turn = [user_turn(ask.text, pictures)]
        check_room(model, turn)
        return model.tokenizer.encode_chat(turn)
    if ask.chat:
        return model.tokenizer.encode_chat([user_turn(ask.text, [])])
    return [model.tokenizer.bos_id, *model.tokenizer.encode(ask.text)], []


def to_picture(levels: np.ndarray) -> Any:
    """An array of levels as a picture. Shapes:  levels (height, width, 3)."""
    from PIL import Image

    return Image.fromarray(np.ascontiguousarray(levels))


def with_ask(model: Mixtral, ask: Ask, ids: Sequence[int]) -> Mixtral:
    """The model with the switch of a request, or with its patches hidden. Raises TinyError."""
    if not ask.hide:
        return with_switch(model, ask.switch, ask.value, ask.layer)
    places = places_of(model.config, ids)
    if ask.switch or not 0 <= min(ask.hide) <= max(ask.hide) < len(places):
        raise TinyError(f"Patches up to {max(ask.hide)} are to be hidden, of {len(places)}, with switch "
                        f"{ask.switch[:80]!r}.", "Hide patches that are there, without a switch.")
    return with_operations(model, hidden(model.ops, places[list(ask.hide)].tolist()))


def write(model: Mixtral, ask: Ask, pictures: Sequence[Any] = (), name: str = "the model",
          check: Callable[[], None] = lambda: None) -> Run:
    """Read a prompt and write greedily, as `tiny.generate` does; keep what the panels show.

    One token more than asked for is written, so that the model has read all that are shown.

    check: called at every array; it may raise, to end the run

    Raises:  TinyError for a request that does not fit the model or its context
    """
    start = time.perf_counter()
    if not 1 <= ask.tokens <= TOKENS:
        raise TinyError(f"{ask.tokens} tokens are to be written.", f"Ask for 1 to {TOKENS}.")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        ids, pixels = encode(model, ask, pictures, name)
        model = with_ask(model, ask, ids)
        watched: Any = Watched(model, wanted_of(model.config, len(ids) + ask.tokens), check)
        tokens = write_tokens(watched, ids, pixels, ask.tokens + 1)
    lengths = [len(one["q00"]) for one in watched.passes]
    shown = min(sum(lengths), len(ids) + ask.tokens)
    written = tokens[: shown - len(ids)]
    stops = np.repeat(np.cumsum(lengths), lengths)[:shown]
    names = dict.fromkeys(name for one in watched.passes for name in one)
    trace = {name: join(name, [one[name] for one in watched.passes if name in one], shown) for name in names}
    size = model.config.vision.patch_size if model.config.vision else 1
    return Run(model, ask, [*ids, *(token.id for token in written)], len(ids), "".join(token.text for token in written),
               stops, [(image.shape[2] // size, image.shape[1] // size) for image in pixels], trace,
               [str(one.message) for one in caught], time.perf_counter() - start)


def write_tokens(watched: Any, ids: list[int], pixels: Sequence[np.ndarray], number: int) -> list[Token]:
    """What `tiny.generate` writes. Raises OutOfRange if the logits are no numbers and an operation was replaced."""
    try:
        with np.errstate(all="ignore"):  # A switch may drive numbers out of range; the logits are checked.
            return list(generate(watched, ids, pixels, max_tokens=number))
    except TinyError as error:
        if "NaN or infinity" not in error.cause or not is_changed(watched.model):
            raise
        raise OutOfRange("With this change the numbers grow beyond what float32 can hold, so no token can be chosen.",
                         "That is what it does to this prompt. Try another switch, or one layer of it.") from None


def join(name: str, arrays: Sequence[np.ndarray], rows: int) -> np.ndarray:
    """The arrays of several passes as one: rows of tokens up to those that are shown, patches all of them."""
    whole = arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
    return whole if name.startswith("vision") else whole[:rows]
