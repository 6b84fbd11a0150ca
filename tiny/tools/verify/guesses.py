"""Where another implementation differs from this one, does a well-known mistake explain it?

Each guess computes the failing operation with one thing changed; it is named only if the result then agrees.
"""

from collections.abc import Callable, Iterator

import numpy as np

from tiny.config import Config
from tiny.files.weights import halves_to_pairs, pairs_to_halves
from tiny.numerics import gelu
from tiny.tools.verify.compare import Limits, compare
from tiny.tools.verify.file import Dump
from tiny.tools.verify.names import kind
from tiny.tools.verify.steps import Stage, Step

THETAS = (1e4, 1e6, 1e9, 5e5, 1e2)
EPSILONS = (1e-5, 1e-6, 1e-8)


def explain(step: Step, stage: Stage, dump: Dump, config: Config, limits: Limits) -> list[str]:
    """The sentences of all guesses with which ours becomes theirs."""
    found = []
    wrong = np.flatnonzero(~(compare(step.name, step.ours, step.theirs, limits, step.scale).rows <= 1))
    window = int(stage.held[wrong[0]]) if len(wrong) and len(step.ours) == len(stage.held) else 0
    for sentence, changed in guesses(kind(step.name).removeprefix("vision_"), stage, dump, config, window):
        if step.again is None:
            break
        try:
            other = step.again(**changed)
        except (TypeError, ValueError):  # This operation does not have what would be changed.
            continue
        with np.errstate(all="ignore"):
            if compare(step.name, other, step.theirs, limits, step.scale).used <= 1:
                found.append(sentence)
    return found


def guesses(what: str, stage: Stage, dump: Dump, config: Config, window: int = 0) -> Iterator[tuple[str, dict]]:
    """What may have happened to one operation: a sentence, and what to change to see.

    window: the position of the first token that differs; with a window of that size, it is the first to lose a token
    """
    if what in ("q", "k"):
        yield from rotations(what, stage)
    elif what in ("mix", "attn"):
        if window and not stage.label:
            yield f"a window of {window}: each token sees the last {window} only, itself included", {"window": window}
        if stage.heads[0] != stage.heads[1]:
            yield "heads share keys and values in turn (h % G) instead of in groups (h // (H / G))", {"tiled": True}
        if stage.label and len(stage.lengths) > 1:
            yield ("patches of one image see those of the others: the mask between images is missing, as in "
                   "mistral-inference"), {"lengths": [sum(stage.lengths)]}
    elif what == "layer":
        yield "w1 and w3 are exchanged", {"names": ("w3", "w2", "w1")}
        yield "the activation is GELU instead of SiLU", {"activation": gelu}
        yield "the activation is GELU in its tanh form instead of SiLU", {"activation": tanh_gelu}
    elif what == "expert_weights":
        yield ("the weights are a softmax over all experts and were not divided by the sum of the chosen",
               {"over": "all"})
    elif what == "projector":
        yield "its GELU is the tanh form instead of the exact one, with erf", {"gelu": tanh_gelu}
        yield "its activation is SiLU instead of GELU", {"gelu": lambda x: x / (1 + np.exp(-x))}
    elif what.endswith("norm") or what == "ln_pre":
        yield "the weight is taken as 1 + w, as Gemma's", {"plus": 1.0}
        for eps in EPSILONS:
            yield f"epsilon is {eps:g}", {"eps": eps}
    elif what == "patch_conv":
        images = dump.numbered("pixels")
        yield "the encoder got the images in another order", {"images": images[::-1]}
        yield "the colours are in the order blue, green, red", {"images": [image[::-1] for image in images]}


def rotations(what: str, stage: Stage) -> Iterator[tuple[str, dict]]:
    """Mistakes with queries and keys: the order of rows of their matrix, and the angles."""
    d, other = stage.config.head_dim, {"q": "wq", "k": "wk"}[what]
    orders: dict[str, Callable] = {
        f"the rows of {other} are in the other order: pairs (2i, 2i + 1) were taken for halves (i, i + d/2)":
            lambda weight: halves_to_pairs(flat(weight), d).reshape(-1, weight.shape[-1]),
        f"the rows of {other} are in the other order: halves (i, i + d/2) were taken for pairs (2i, 2i + 1)":
            lambda weight: pairs_to_halves(flat(weight), d)}
    for sentence, order in orders.items():
        yield sentence, {"order": order}
    positions = stage.positions[stage.held]
    for theta in THETAS:
        if theta != stage.config.rope_theta:
            yield f"theta of the rotation is {theta:g} instead of {stage.config.rope_theta:g}", {"theta": theta}
    yield "they are not rotated", {"positions": np.zeros_like(positions)}
    if stage.label:
        yield "rows and columns of patches are exchanged in the rotation", {"positions": positions[:, ::-1]}
    else:
        yield "positions begin at 1", {"positions": positions + 1}


def flat(weight: np.ndarray) -> np.ndarray:
    """A matrix in Mistral's order of rows, whatever view of a file it is."""
    return np.ascontiguousarray(weight).reshape(-1, weight.shape[-1])


def tanh_gelu(x: np.ndarray) -> np.ndarray:
    """GELU's approximation with tanh."""
    return x * np.float32(0.5) * (1 + np.tanh(np.float32((2 / np.pi) ** 0.5) * (x + np.float32(0.044715) * x * x * x)))


def shared_expert(rows: np.ndarray, chosen: np.ndarray | None) -> str:
    """If all rows that differ have one expert in common, and no other row has it, its number in a sentence."""
    if chosen is None or not rows.any():
        return ""
    common = [e for e in np.unique(chosen[rows]) if (chosen[rows] == e).any(axis=1).all()]
    alone = [e for e in common if not (chosen[~rows] == e).any()]
    return f"exactly the tokens that went to expert {alone[0]} differ" if len(alone) == 1 else ""


def rotation_only(name: str, rows: np.ndarray, stage: Stage) -> str:
    """A sentence if queries or keys are right at position 0, where nothing is turned, and wrong elsewhere."""
    still = ~stage.positions[stage.held].reshape(len(rows), -1).any(axis=1) if len(rows) == len(stage.held) else []
    if kind(name).removeprefix("vision_") in ("q", "k") and np.any(still) and (rows[still] <= 1).all():
        return "they are right at position 0, where nothing is turned: it is the rotation by position"
    return ""
