"""Values that are on no list, and parts that may be broken: how to get from a named relative to the exact fault.

`scan` looks for the value that leaves least, from the value of a fault that was named. `structures` lists every part of
a model that may be dead, missing or in another's place. Both say beforehand how many passes of the reference they take.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from tiny.config import Config
from tiny.tools.verify.server.decide import Evidence
from tiny.tools.verify.server.faults import Fault, made
from tiny.tools.verify.server.reference.changes import Found

GOLDEN = (5**0.5 - 1) / 2
STEPS = 10  # of a golden-section search: the bracket shrinks 120 times
SAME = 0.01  # of the deviation: what a rounder value may leave more


class Family(NamedTuple):
    """How the values of one kind are searched: a first grid, then between the neighbours of its best.

    grid(config, length) -> rising values; whole: they are whole numbers
    """

    grid: Callable[[Config, int], Sequence[float]]
    whole: bool


def shares(*parts: float) -> Callable[[Config, int], Sequence[float]]:
    """A grid of parts of the text's length."""
    return lambda config, length: sorted({max(1, round(part * length)) for part in parts})


CUTS = shares(1 / 8, 1 / 4, 3 / 8, 1 / 2, 5 / 8, 3 / 4, 7 / 8)
FAMILIES = {
    "theta": Family(lambda config, length: [config.rope_theta * 10.0**power for power in range(-4, 5)], False),
    "scaling": Family(lambda config, length: [0.25, 0.5, 2, 4, 8, 16], False),
    "temperature": Family(lambda config, length: [0.3, 0.5, 0.7, 0.9, 1.1, 1.3, 1.6, 2], False),
    "penalty": Family(lambda config, length: [1.02, 1.05, 1.1, 1.2, 1.4, 2], False),
    "nucleus": Family(lambda config, length: [0.5, 0.7, 0.8, 0.9, 0.95], False),
    "epsilon": Family(lambda config, length: [10.0**power for power in range(-8, 0)], False),
    "window": Family(shares(1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 3 / 4), True),
    "kept": Family(CUTS, True), "kept_bos": Family(CUTS, True),
    "bos": Family(lambda config, length: [2, 3, 4], True),
    "pads": Family(lambda config, length: [1, 2, 4, 8, 16, 32], True),
    "top_experts": Family(lambda config, length: [
        count for count in range(1, config.moe.num_experts + 1)
        if count != config.moe.num_experts_per_tok] if config.moe else [], True)}


def passes(kind: str, config: Config, length: int) -> int:
    """How many passes of the reference `scan` takes at most for each text; 0 if the kind has no values."""
    if kind not in FAMILIES:
        return 0
    grid = FAMILIES[kind].grid(config, length)
    return len(grid) + 1 + (0 if dense(grid, FAMILIES[kind]) else STEPS + 4)


def dense(grid: Sequence[float], family: Family) -> bool:
    """Whether nothing lies between the values of a grid but what the model itself has."""
    return family.whole and all(after - before <= 2 for before, after in zip(grid, grid[1:]))


def scan(fault: Fault, config: Config, length: int, weigh: Callable[[Fault], Evidence]) -> tuple[Fault, Evidence]:
    """The fault of the same kind that leaves least, and its evidence.

    weigh(fault) runs the reference with a fault and weighs it against what the server said
    """
    known: dict[float, Evidence] = {}
    family = FAMILIES.get(fault.kind)
    if family is None or fault.value is None:
        return fault, weigh(fault)

    def left(value: float) -> float:
        if value not in known:
            known[value] = weigh(made(fault.kind, value))
        return known[value].left

    grid = sorted({*family.grid(config, length), fault.value})
    best = min(range(len(grid)), key=lambda n: left(grid[n]))
    if not dense(grid, family):
        search(left, grid[max(0, best - 1)], grid[min(len(grid) - 1, best + 1)], family.whole)
    value = min(known, key=lambda value: known[value].left)
    value = value if family.whole else roundest(left, value)
    return made(fault.kind, value), known[value]


def search(left: Callable[[float], float], low: float, high: float, whole: bool) -> None:
    """Golden-section search for the least between two values, on a scale of ratios; `left` remembers what it saw."""
    def at(place: float) -> float:
        return round(low * (high / low) ** place) if whole else low * (high / low) ** place

    a, c, d, b = 0.0, 1 - GOLDEN, GOLDEN, 1.0
    for _ in range(STEPS):
        if at(c) == at(d):
            break
        if left(at(c)) < left(at(d)):
            b, d = d, c
            c = b - GOLDEN * (b - a)
        else:
            a, c = c, d
            d = a + GOLDEN * (b - a)


def roundest(left: Callable[[float], float], value: float) -> float:
    """A value with one to three digits, if it leaves hardly more: a file says 100000 and not 113691."""
    for digits in (1, 2, 3):
        rounder = float(f"{value:.{digits - 1}e}")
        if left(rounder) <= left(value) + SAME:
            return rounder
    return value


def structures(config: Config) -> tuple[Fault, ...]:
    """Every part of a model that may be dead, missing or exchanged with its neighbour."""
    return tuple(parts(config))


def parts(config: Config) -> Iterator[Fault]:
    """The parts of each layer, and the layers."""
    E = config.moe.num_experts if config.moe else 0
    for n in range(config.n_layers):
        wo, experts = f"layers.{n}.attention.wo.weight", f"layers.{n}.feed_forward."
        yield Fault("layer_missing", place=str(n), tensors=zeroed(wo, experts))
        yield Fault("attention_missing", place=str(n), tensors=zeroed(wo))
        yield Fault("experts_missing", place=str(n), tensors=zeroed(experts))
        yield from (Fault("layers_swapped", place=f"{n} and {m}", tensors=exchanged(f"layers.{n}.", f"layers.{m}."))
                    for m in range(n + 1, min(n + 2, config.n_layers)))
        for h in range(config.n_heads):
            columns = slice(h * config.head_dim, (h + 1) * config.head_dim)
            yield Fault("head_dead", place=f"{h} of layer {n}", tensors=zeroed(wo, columns=columns))
        for e in range(E):
            one = f"{experts}experts.{e}."
            yield Fault("expert_dead", place=f"{e} of layer {n}", tensors=zeroed(one))
            yield from (Fault("experts_swapped", place=f"{e} and {f} of layer {n}",
                              tensors=exchanged(one, f"{experts}experts.{f}."))
                        for f in range(e + 1, E))


def zeroed(*names: str, columns: slice = slice(None)) -> Callable[[Mapping[str, np.ndarray]], Found]:
    """Weights whose output matrices below some names are zero, or some columns of these."""
    def make(name: str, x: np.ndarray) -> np.ndarray:
        if not name.startswith(names) or not name.endswith((".wo.weight", ".w2.weight")):
            return x
        out = np.zeros(x.shape, np.float32)
        if columns != slice(None):
            out[:] = x
            out[:, columns] = 0
        return out
    return lambda weights: Found(weights, lambda name: name, make)


def exchanged(first: str, second: str) -> Callable[[Mapping[str, np.ndarray]], Found]:
    """Weights of which two groups, by the beginning of their names, have each other's place."""
    def rename(name: str) -> str:
        if name.startswith(first):
            return second + name.removeprefix(first)
        return first + name.removeprefix(second) if name.startswith(second) else name
    return lambda weights: Found(weights, rename)
