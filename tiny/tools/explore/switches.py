"""What if: the operations of a model with one of them replaced. The page shows the lines of each replacement.

A switch takes the operations of the model and gives those that it replaces; nothing else changes, and the model itself
stays as it is.

>>> one = np.eye(2, dtype=np.float32)
>>> changed(tiny.ops, experts_a_token(tiny.ops, 1)).route(one, one, 2)[1]
array([[0],
       [1]])
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

import tiny
from tiny.config import Config, TinyError
from tiny.mixtral import Mixtral
from tiny.numerics import softmax

Operations = dict[str, Callable[..., Any]]


def changed(book: Any, replaced: Mapping[str, Callable[..., Any]]) -> Any:
    """All operations of the book, with some replaced."""
    return SimpleNamespace(**{name: getattr(book, name) for name in tiny.ops.__all__} | dict(replaced))


def in_layer(book: Any, layer: int, replaced: Operations) -> Operations:
    """The same replacements in one layer only. Operations do not know their layer, so their calls are counted: a pass
    begins with `rope_table`, and the decoder calls each of these operations once a layer.
    """
    calls = dict.fromkeys(replaced, -1)

    def rope_table(*arguments: Any) -> Any:
        calls.update(dict.fromkeys(calls, -1))
        return book.rope_table(*arguments)

    def counted(name: str) -> Callable[..., Any]:
        def operation(*arguments: Any, **options: Any) -> Any:
            calls[name] += options.get("causal", True)
            here = calls[name] == layer and options.get("causal", True)
            return (replaced[name] if here else getattr(book, name))(*arguments, **options)
        return operation

    return {name: counted(name) for name in replaced} | {"rope_table": rope_table}


# ---- experts

def expert_off(book: Any, expert: int) -> Operations:
    """Nobody can choose this expert: the next best takes its place."""
    def route(x, gate, K, precision="float32"):
        logits = book.route(x, gate, K, precision)[0].copy()
        logits[:, expert] = -np.inf
        chosen = np.argsort(-logits, axis=1, kind="stable")[:, :K]
        return logits, chosen, softmax(np.take_along_axis(logits, chosen, axis=1))
    return {"route": route}


def expert_silent(book: Any, expert: int) -> Operations:
    """This expert is chosen as before, and its answer counts nothing."""
    def route(x, gate, K, precision="float32"):
        logits, chosen, weights = book.route(x, gate, K, precision)
        return logits, chosen, np.where(chosen == expert, np.float32(0), weights)
    return {"route": route}


def experts_a_token(book: Any, number: int) -> Operations:
    """Each token goes to this many experts."""
    def route(x, gate, K, precision="float32"):
        return book.route(x, gate, number, precision)
    return {"route": route}


def equal_weights(book: Any) -> Operations:
    """The chosen experts count alike, whatever the router says of them."""
    def route(x, gate, K, precision="float32"):
        logits, chosen, weights = book.route(x, gate, K, precision)
        return logits, chosen, np.full_like(weights, 1 / K)
    return {"route": route}


def not_renormalised(book: Any) -> Operations:
    """A classic mistake: a softmax over all experts, of which the chosen weights are not brought to a sum of 1."""
    def route(x, gate, K, precision="float32"):
        logits, chosen, _ = book.route(x, gate, K, precision)
        return logits, chosen, np.take_along_axis(softmax(logits), chosen, axis=1)
    return {"route": route}


def random_router(book: Any) -> Operations:
    """Dice choose the experts; the weights are the router's."""
    rng = np.random.default_rng(0)
    def route(x, gate, K, precision="float32"):
        logits, chosen, weights = book.route(x, gate, K, precision)
        return logits, rng.random(logits.shape).argsort(axis=1)[:, :K], weights
    return {"route": route}


# ---- attention

def head_off(book: Any, head: int) -> Operations:
    """This head reads, and says nothing."""
    def attention(q, k, v, lengths, spans, causal=True, precision="float32"):
        answers = book.attention(q, k, v, lengths, spans, causal=causal, precision=precision)
        answers[:, head] *= not causal
        return answers
    return {"attention": attention}


def no_mask(book: Any) -> Operations:
    """The causal mask is dropped: each word of the prompt also reads those behind it."""
    def attention(q, k, v, lengths, spans, causal=True, precision="float32"):
        return book.attention(q, k, v, lengths, spans, causal=False, precision=precision)
    return {"attention": attention}


def no_positions(book: Any) -> Operations:
    """No query and no key of the text is turned: all words stand at one place."""
    def rope_table(positions, head_dim, theta):
        return book.rope_table(np.zeros_like(positions), head_dim, theta)
    return {"rope_table": rope_table}


def no_norm(book: Any) -> Operations:
    """No vector is brought to one size before a layer reads it."""
    def rms_norm(x, weight, eps, precision="float32"):
        return x * weight.astype(np.float32)
    def add_norm(x, y, weight, eps, precision="float32"):
        return x + y, rms_norm(x + y, weight, eps)
    return {"rms_norm": rms_norm, "add_norm": add_norm}


# ---- pictures

def no_places(book: Any) -> Operations:
    """The patches do not know where they stand in their picture."""
    def rope_2d_table(positions, head_dim, theta):
        return book.rope_2d_table(np.zeros_like(positions), head_dim, theta)
    return {"rope_2d_table": rope_2d_table}


def pictures_mixed(book: Any) -> Operations:
    """The mask between pictures is dropped: a patch reads the patches of all of them."""
    def attention(q, k, v, lengths, spans, causal=True, precision="float32"):
        if not causal:
            lengths, spans = [len(q)], [(0, len(k))]
        return book.attention(q, k, v, lengths, spans, causal=causal, precision=precision)
    return {"attention": attention}


def hidden(book: Any, rows: Sequence[int]) -> Operations:
    """The words cannot read these rows of the prompt: one more column makes their scores minus infinity."""
    def attention(q, k, v, lengths, spans, causal=True, precision="float32"):
        if not causal:
            return book.attention(q, k, v, lengths, spans, causal=False, precision=precision)
        wall = np.zeros_like(k[..., :1], np.float32)
        wall[np.asarray(rows, int)] = -np.inf
        d, more = q.shape[2], [np.ones_like(q[..., :1]), wall, np.zeros_like(wall)]
        q, k, v = (np.concatenate(pair, axis=2, dtype=np.float32) for pair in zip((q, k, v), more))
        q[..., :d] *= np.float32((1 + 1 / d) ** 0.5)  # the scale is that of d columns
        return book.attention(q, k, v, lengths, spans, precision=precision)[..., :d]
    return {"attention": attention}


class Switch(NamedTuple):
    """A switch as the page offers it.

    needs:  what a model must have: "experts", "picture", "pictures", or "" for nothing
    values: what is chosen with it: "expert", "number" (of experts), "head", or "" for nothing
    placed: whether it can be in one layer only
    """

    build: Callable[..., Operations]
    label: str
    needs: str = ""
    values: str = ""
    placed: bool = False


SWITCHES = {switch.build.__name__: switch for switch in (
    Switch(expert_off, "switch an expert off", "experts", "expert", True),
    Switch(expert_silent, "let an expert be chosen and say nothing", "experts", "expert", True),
    Switch(experts_a_token, "another number of experts for each token", "experts", "number", True),
    Switch(equal_weights, "chosen experts count alike", "experts", "", True),
    Switch(not_renormalised, "classic mistake: weights not brought to a sum of 1", "experts", "", True),
    Switch(random_router, "dice choose the experts", "experts", "", True),
    Switch(head_off, "switch a head off", "", "head", True),
    Switch(no_mask, "no causal mask", "", "", True),
    Switch(no_positions, "no positions in the text"),
    Switch(no_norm, "no normalisation"),
    Switch(no_places, "no positions in the picture", "picture"),
    Switch(pictures_mixed, "no mask between pictures", "pictures"))}


def choices(config: Config, values: str) -> list[int]:
    """What can be chosen with a switch, of a model of these sizes."""
    experts = config.moe.num_experts if config.moe else 0
    return {"expert": list(range(experts)), "number": list(range(1, experts + 1)),
            "head": list(range(config.n_heads))}.get(values, [])


def with_switch(model: Mixtral, name: str, value: int = 0, layer: int | None = None) -> Mixtral:
    """The model with a switch, in all layers or in one. The name "" leaves it as it is.

    Raises:  TinyError for an unknown switch, one that this model has nothing for, or a value or layer out of range
    """
    if not name:
        return model
    if name not in SWITCHES:
        raise TinyError(f"There is no switch {name[:80]!r}.", f"There are {', '.join(SWITCHES)}.")
    switch, config = SWITCHES[name], model.config
    if switch.needs == "experts" and not config.moe or switch.needs.startswith("picture") and not config.vision:
        raise TinyError(f"The switch {name} needs {switch.needs}, and this model has none.", "Choose another switch.")
    offered = choices(config, switch.values)
    if offered and value not in offered:
        raise TinyError(f"The switch {name} was asked for {value}.", f"Give {offered[0]} to {offered[-1]}.")
    if layer is not None and not (switch.placed and 0 <= layer < config.n_layers):
        raise TinyError(f"The switch {name} was asked for in layer {layer}.",
                        f"Give a layer from 0 to {config.n_layers - 1}, or none for all of them."
                        if switch.placed else "It is for the whole model: leave the layer out.")
    replaced = switch.build(model.ops, *([value] if offered else []))
    return with_operations(model, replaced if layer is None else in_layer(model.ops, layer, replaced))


def with_operations(model: Mixtral, replaced: Operations) -> Mixtral:
    """The same model, its weights shared, with some operations replaced."""
    return type(model)(model.config, model.weights, model._tokenizer, changed(model.ops, replaced),  # type: ignore
                       model.precision, model.checkpoint, model.cache)


def is_changed(model: Mixtral) -> bool:
    """Whether operations of a model were replaced here."""
    return isinstance(model.ops, SimpleNamespace)


def source_of(name: str) -> str:
    """The lines of a switch, as the page shows them."""
    lines = inspect.getsource(SWITCHES[name].build if name in SWITCHES else hidden).splitlines()
    return "\n".join(line for line in lines if '"""' not in line)
