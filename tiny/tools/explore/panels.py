"""Where the numbers of a panel come from: the arrays, the function of the book with its lines, the chapter; and a cell
of a notebook that computes the same ones.
"""

import ast
import inspect
import textwrap
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

import tiny
from tiny import attention, decoder, mixtral, router, sampling, vision
from tiny.tools.explore import rows, switches
from tiny.tools.explore.runs import Ask


class Panel(NamedTuple):
    """A panel: arrays of the trace (NN is the layer), functions, and the chapter that explains them."""

    arrays: str
    functions: tuple[Callable[..., Any], ...]
    chapter: str


PANELS = {
    "tokens": Panel("expertsNN", (decoder.mixture_of_experts,), "05_routing_and_experts.md"),
    "router": Panel("router_logitsNN, expertsNN, expert_weightsNN", (router.route,), "05_routing_and_experts.md"),
    "parts": Panel("attnNN, layerNN", (decoder.decoder_layer, rows.expert_parts), "05_routing_and_experts.md"),
    "attention": Panel("qNN, kNN", (attention.attend, rows.attention_row), "03_attention.md"),
    "patch": Panel("vision_qNN, vision_kNN", (vision.vision_encoder, rows.patch_attention), "08_the_vision_encoder.md"),
    "next": Panel("logits", (sampling.sample, mixtral.Mixtral.forward), "06_the_whole_mixtral.md"),
    "switch": Panel("", (switches.with_switch, switches.in_layer), "06_the_whole_mixtral.md"),
    "hide": Panel("", (rows.seen_by,), "09_pixtral_and_does_it_see.md")}


def sources() -> dict[str, dict]:
    """For each panel its arrays, the title and name of its chapter's file, and its functions: place and lines."""
    return {name: {"arrays": panel.arrays, "chapter": panel.chapter,
                   "functions": [{"place": place_of(function), "lines": lines_of(function)}
                                 for function in panel.functions]} for name, panel in PANELS.items()}


def place_of(function: Callable[..., Any]) -> str:
    """The file and the line where a function begins, from the repository on: tiny/router.py:20."""
    file = Path(inspect.getsourcefile(function) or "").resolve().relative_to(Path(tiny.__file__).resolve().parents[1])
    return f"{file.as_posix()}:{inspect.getsourcelines(function)[1]}"


def lines_of(function: Callable[..., Any]) -> str:
    """The lines of a function without its docstring."""
    lines = textwrap.dedent(inspect.getsource(function)).splitlines()
    body = ast.parse("\n".join(lines)).body[0].body  # type: ignore[attr-defined]
    said = body[0] if isinstance(body[0], ast.Expr) else None
    return "\n".join(lines[: said.lineno - 1] + lines[said.end_lineno :] if said else lines)


def cell(name: str, ask: Ask, row: int, layer: int, head: int, pictures: str = "[]") -> str:
    """Python for a notebook that runs the same request and prints what the panels show of one row.

    pictures: Python for the pictures, as `drawn` or `opened` give it
    """
    said = ", ".join(f"{one.name}={getattr(ask, one.name)!r}" for one in fields(ask)
                     if getattr(ask, one.name) != one.default)
    lines = ["import tiny", *["from tiny.system.pictures import open_image"] * ("open_image" in pictures),
             "from tiny.tools.explore import pictures, rows, runs", "", f"model = tiny.load({name!r})",
             f"run = runs.write(model, runs.Ask({said}), {pictures})", "print(run.text)",
             f"print('the row of', model.tokenizer.pieces(run.ids[{row}:{row + 1}]))",
             f"print('attention', rows.attention(run, {row})[{layer}, {head}])",
             f"print('router', [part[{layer}] for part in rows.routing(run, {row})])",
             f"print('next', model.tokenizer.pieces([int(rows.logits(run, {row}).argmax())]))"]
    return "\n".join(lines) + "\n"


def drawn(seed: int, number: int) -> str:
    """Python that draws the pictures of a scene."""
    return f"[runs.to_picture(one) for one in pictures.draw(model.config, {seed}, {number}).images]"


def opened(number: int) -> str:
    """Python that opens pictures of the reader's own."""
    names = ", ".join(f'open_image("picture{n + 1}.png")' for n in range(number))
    return f"[{names}]"
