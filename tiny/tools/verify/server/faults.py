"""The known faults of servers, each as a change of our reference. What is said of each one is in `faults.toml`.

A fault changes one of four things: the ids that the model reads, operations, where tensors are found, or the logits
afterwards (`changes.py`). No weights are copied, so it is as cheap on mapped, streamed and quantised ones.
"""

import functools
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from tiny.config import Config, Images
from tiny.mixtral import Mixtral, check_ids
from tiny.tools.verify.compare import log_softmax
from tiny.tools.verify.server.reference import changes

ROWS = 512  # positions whose logits become log-probabilities at a time, in float64
LOST_THETA = 1e4  # what engines take where a file does not say it
BOS = -1  # in changes.lead: the first token of the text


class Fault(NamedTuple):
    """A fault with its value or place, if it has one: kind "window", value 128; kind "head_dead", place "1 of layer 2".

    ids(ids) -> the ids that the model reads, and for each position of ids the row of these that answers it, or -1
    ops(base, config) -> the operations that differ, by name
    tensors(weights) -> the mapping in which the model looks up its weights
    after(logits, ids) -> the logits from which the server takes its numbers. Shapes:  (T, V), (T,) -> (T, V)
    pixels(images, vision) -> the preprocessed images that the encoder gets (`pictures.py`)
    """

    kind: str
    value: float | None = None
    place: str = ""
    ids: changes.ReadIds | None = None
    ops: changes.Ops | None = None
    tensors: Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]] | None = None
    after: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None
    pixels: Callable[..., list[np.ndarray]] | None = None

    @property
    def name(self) -> str:
        """What it is called in a verdict: "a sliding window of 128"."""
        return self.said("name")

    @property
    def sentence(self) -> str:
        """What such a server does."""
        return self.said("sentence")

    @property
    def repair(self) -> dict[str, str]:
        """What to change, by engine; "any" for all that are not named."""
        return kinds()[self.kind]["repair"]

    @property
    def reports(self) -> list[str]:
        """Where people met it: project and number of the issue."""
        return kinds()[self.kind]["reports"]

    def said(self, what: str) -> str:
        """A text of its kind, with its value and place."""
        value = "" if self.value is None else f"{self.value:.6g}"
        return kinds()[self.kind][what].format(value=value, place=self.place)


@functools.cache
def kinds() -> dict[str, dict[str, Any]]:
    """What is said of every kind of fault: name, sentence, shape, reports and repair."""
    return tomllib.loads((Path(__file__).parent / "faults.toml").read_text())


MAKERS: dict[str, Callable[[Any], Fault]] = {
    "bos": lambda n: Fault("bos", n, ids=changes.lead(*[BOS] * (n - 1))),
    "pads": lambda n: Fault("pads", n, ids=changes.lead(*[0] * n)),
    "kept": lambda n: Fault("kept", n, ids=changes.cut(n)),
    "kept_bos": lambda n: Fault("kept_bos", n, ids=changes.cut(n, bos=True)),
    "theta": lambda x: Fault("theta", x, ops=changes.angles(lambda _: x)),
    "scaling": lambda x: Fault("scaling", x, ops=changes.angles(scale=x)),
    "window": lambda n: Fault("window", n, ops=changes.window(n)),
    "top_experts": lambda n: Fault("top_experts", n, ops=changes.top_experts(n)),
    "epsilon": lambda x: Fault("epsilon", x, ops=changes.epsilon(x)),
    "temperature": lambda x: Fault("temperature", x, after=changes.temperature(x)),
    "penalty": lambda x: Fault("penalty", x, after=changes.penalty(x)),
    "nucleus": lambda x: Fault("nucleus", x, after=changes.nucleus(x))}
NO_BOS = Fault("no_bos", ids=lambda ids: (ids[1:], np.arange(-1, len(ids) - 1)))
ROTATIONS = (Fault("halves", ops=changes.in_order(changes.halves_paired)),
             Fault("hf_rows", ops=changes.in_order(changes.evens_first)),
             Fault("not_rotated", ops=changes.angles(scale=np.inf)))
ROUTERS = (Fault("not_renormalised", ops=changes.routes(changes.not_renormalised)),
           Fault("uniform", ops=changes.routes(changes.uniform)),
           Fault("other_half", ops=changes.routes(changes.other_half)))
UNSCALED = Fault("unscaled", ops=changes.attends(changes.unscaled))
IN_TURN = Fault("heads_in_turn", ops=changes.attends(changes.heads_in_turn))
GATE_AND_UP = Fault("gate_and_up", ops=changes.gate_and_up)


def made(kind: str, value: float) -> Fault:
    """The fault of a kind that has a value. Raises KeyError for a kind that has none."""
    return MAKERS[kind](value)


def hypotheses(config: Config, length: int) -> tuple[Fault, ...]:
    """The faults that a model of this configuration can have and that a text of so many tokens can show."""
    return tuple(every(config, length))


def every(config: Config, length: int) -> Iterator[Fault]:
    """The same, one after the other."""
    yield from (NO_BOS, made("bos", 2), made("pads", 8), made("kept", length // 2), made("kept", 3 * length // 4))
    yield from (made("kept_bos", length // 2), *ROTATIONS, made("scaling", 2))
    own = config.rope_theta
    yield from (made("theta", theta) for theta in sorted({LOST_THETA, 1e6, 2 * own, 100 * own} - {own}))
    yield from (made("window", size) for size in windows(length))
    if config.moe:
        wrong = {1, 3, config.moe.num_experts_per_tok + 1} - {config.moe.num_experts_per_tok}
        yield from (made("top_experts", count) for count in sorted(wrong) if count <= config.moe.num_experts)
        yield from ROUTERS
    if 1 < config.n_kv_heads < config.n_heads:
        yield IN_TURN
    yield from (GATE_AND_UP, UNSCALED, made("epsilon", 1e-6), made("epsilon", 1e-3))
    yield from (made("temperature", 0.8), made("temperature", 1.3), made("penalty", 1.1), made("nucleus", 0.9))


def windows(length: int) -> list[int]:
    """The three largest powers of two that leave at least a quarter of a text without its beginning."""
    largest = int(np.log2(max(4 * length // 5, 16)))
    return [2**power for power in range(largest - 2, largest + 1)]


def logprobs(model: Mixtral, fault: Fault | None, ids: Sequence[int] | np.ndarray, images: Images = ()) -> np.ndarray:
    """What a server with a fault says of the token after each of ids; None is a healthy one.

    Shapes:  ids (T,), BOS first -> (T, V) float32 natural logarithms; NaN where such a server can say nothing
    Raises:  TinyError as the model does
    """
    ids, fault = check_ids(ids), fault or Fault("")
    read, rows = read_by(fault, ids, model.config)
    return answer(with_fault(model, fault)(read, images), read, fault, rows)


def read_by(fault: Fault, ids: np.ndarray, config: Config) -> tuple[np.ndarray, np.ndarray]:
    """What a model with a fault reads, and the row that answers each position, or -1. Shapes:  -> (n,), (T,)."""
    read, rows = fault.ids(ids) if fault.ids else (ids, np.arange(len(ids)))
    read = read[: config.max_seq_len]
    return read, np.where(rows < len(read), rows, -1)


def answer(logits: np.ndarray, ids: np.ndarray, fault: Fault, rows: np.ndarray) -> np.ndarray:
    """Log-probabilities of those rows that answer something, a block at a time.

    Shapes:  logits (n, V), ids (n,), rows (T,) -> (T, V) float32, NaN where the row is -1
    """
    logits = fault.after(logits, ids) if fault.after else logits
    out = np.empty((len(rows), logits.shape[1]), np.float32)
    for start in range(0, len(out), ROWS):
        block = rows[start : start + ROWS]
        out[start : start + ROWS] = log_softmax(logits[block].astype(np.float64))
    out[rows < 0] = np.nan
    return out


def with_fault(model: Mixtral, fault: Fault) -> Mixtral:
    """The model with the operations and the tensors of a fault. Its weights are the same arrays."""
    ops = changed_ops(model.ops, fault.ops(model.ops, model.config)) if fault.ops else model.ops
    weights = fault.tensors(model.weights) if fault.tensors else model.weights
    return type(model)(model.config, weights, None, ops, model.precision, model.checkpoint, model.cache)


def changed_ops(base: ModuleType, different: Mapping[str, Callable]) -> ModuleType:
    """The operations of a model, some of them others."""
    ops = ModuleType(f"{base.__name__}, changed")
    vars(ops).update({name: value for name, value in vars(base).items() if not name.startswith("__")})
    vars(ops).update(different)
    return ops
