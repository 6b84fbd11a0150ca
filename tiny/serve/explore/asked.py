"""Requests of the page: each field is what it should be and within its bounds, or is refused; and what it is told."""

import base64
import io
from typing import Any

import numpy as np
from PIL import Image

from tiny.mixtral import Mixtral
from tiny.serve import fields, messages
from tiny.serve.explore.kept import Explored, is_large
from tiny.serve.fields import shown
from tiny.serve.limits import wrong
from tiny.system.pictures import STYLES
from tiny.system.pictures import decode as decoded
from tiny.tokenizer import SPACE
from tiny.tools import demo
from tiny.tools.explore import panels, switches
from tiny.tools.explore.pictures import Drawn
from tiny.tools.explore.runs import TOKENS, Ask, Run, to_picture
from tiny.tools.memory import parameters
from tiny.tools.plots import expert_colour
from tiny.tools.session import count
from tiny.tools.token_cost import token_cost

BODY_BYTES = 6 << 20  # of one request
PICTURES = 8  # of one request
EXAMPLES = ({"title": "a story", "text": demo.STORY}, {"title": "a play", "text": demo.PLAY},
            {"title": "a task", "text": demo.TASK, "chat": True},
            {"title": "a sum", "text": "What is 12 plus 5?", "chat": True},
            {"title": "a program", "text": demo.TEXTS["Python"].partition("    return -1")[0]})


def model_of(body: dict, models: dict[str, Mixtral]) -> tuple[str, Mixtral]:
    """The model that a request names."""
    name = choice(body, "model", tuple(models))
    return name, models[name]


def choice(body: dict, name: str, offered: tuple[str, ...]) -> str:
    """One of some words. Raises Refusal for another value."""
    value = body.get(name)
    if not isinstance(value, str) or value not in offered:
        raise wrong(f"{name} is {shown(value)}.", f"Give one of {', '.join(offered)}.", name)
    return value


def read(body: dict) -> Ask:
    """What is asked of a model. Raises Refusal that names the field that is wrong."""
    hide = body.get("hide") or []
    if not isinstance(hide, list) or not all(type(patch) is int and 0 <= patch < 10**6 for patch in hide):
        raise wrong(f"hide is {shown(body['hide'])}.", "Give a list of patches.", "hide")
    return Ask(fields.text(body.get("text"), "text"), fields.whole(body, "tokens", 40, 1, TOKENS) or 40,
               fields.flag(body, "chat"), fields.text(body.get("switch") or "", "switch"),
               fields.whole(body, "value", 0, 0, 10**6) or 0, fields.whole(body, "layer", None, 0, 10**6),
               tuple(sorted(set(hide))), fields.flag(body, "blind"))


def read_pictures(body: dict) -> list[tuple[bytes, Image.Image]]:
    """The pictures of a request: their bytes, and each opened but not decoded. Raises Refusal."""
    urls = body.get("pictures") or []
    if not isinstance(urls, list) or len(urls) > PICTURES:
        raise wrong(f"pictures is {shown(urls)}.", f"Give a list of up to {PICTURES} data URLs.", "pictures")
    opened = [messages.open_picture(url, f"picture {n + 1}") for n, url in enumerate(urls)]
    return [(base64.b64decode(url.partition(",")[2]), image) for url, image in zip(urls, opened)]


def decode(number: int, file: tuple[bytes, Image.Image]) -> Image.Image:
    """The pixels of a picture, whose header was found to be harmless. Raises TinyError."""
    return decoded(file[1], f"picture {number + 1}", STYLES[0])


def run_and_place(explored: Explored, body: dict, name: str) -> tuple[Run, int]:
    """The run that a click asks about, and the row or patch. Raises Refusal."""
    run = explored.need(fields.text(body.get("run"), "run"))
    place = fields.whole(body, name, None, 0, 10**9)
    if place is None:
        raise wrong(f"{name} is missing.", "Give a whole number.", name)
    return run, place


# ---- what the page is told

def pieces(model: Mixtral, ids: Any) -> list[str]:
    """Tokens as they are shown: with spaces."""
    tokenizer: Any = model.tokenizer
    return [piece.replace(SPACE, " ") for piece in tokenizer.pieces(ids)]


def told(run: Run) -> dict:
    """A run in JSON; its arrays are asked for row by row."""
    config = run.model.config
    experts = [run.trace[f"experts{layer:02}"].tolist() for layer in range(config.n_layers)] if config.moe else None
    return {"pieces": pieces(run.model, run.ids), "ids": run.ids, "prompt": run.prompt, "text": run.text,
            "experts": experts, "grids": run.grids, "places": run.places.tolist(), "said": run.said,
            "seconds": round(run.seconds, 4), "parts": "embed" in run.trace}


def start(models: dict[str, Mixtral]) -> dict:
    """All that the page needs once."""
    return {"models": [model_said(name, model) for name, model in models.items()], "panels": panels.sources(),
            "switches": {name: {"label": one.label, "says": one.build.__doc__, "placed": one.placed, "needs": one.needs,
                                "lines": switches.source_of(name)} for name, one in switches.SWITCHES.items()}
            | {"hide": {"lines": switches.source_of("hide"), "says": switches.hidden.__doc__}},
            "examples": EXAMPLES, "largest": TOKENS}


def model_said(name: str, model: Mixtral) -> dict:
    """One model: its sizes, its vocabulary, its switches with what can be chosen, and what a token costs."""
    config, moe, vision = model.config, model.config.moe, model.config.vision
    total, active = parameters(config)
    size, operations = token_cost(config, 0, 2)
    offered = {key: switches.choices(config, one.values) for key, one in switches.SWITCHES.items()
               if (moe or one.needs != "experts") and (vision or not one.needs.startswith("picture"))}
    return {"name": name, "layers": config.n_layers, "heads": config.n_heads, "context": config.max_seq_len,
            "experts": moe.num_experts if moe else 0, "chosen": moe.num_experts_per_tok if moe else 0,
            "patch": vision.patch_size if vision else 0, "pieces": pieces(model, range(config.vocab_size)),
            "eos": model.tokenizer.eos_id, "colours": [[round(255 * part) for part in expert_colour(expert)]
                                                       for expert in range(moe.num_experts if moe else 0)],
            "vision": [vision.num_hidden_layers, vision.num_attention_heads] if vision else None,
            "switches": offered, "large": is_large(model), "precision": model.precision,
            "cost": f"{count(total)} parameters, {count(active)} active: a token costs {operations:.1e} operations "
                    f"and {size / 1e6:,.0f} MB of weights in 16 bits"}


def scene_said(drawn: Drawn) -> dict:
    """A drawn scene in JSON."""
    return {"pictures": [as_url(image) for image in drawn.images], "questions": drawn.questions,
            "things": drawn.things}


def as_url(levels: np.ndarray) -> str:
    """Levels as a picture in a data URL. Shapes:  levels (height, width, 3)."""
    out = io.BytesIO()
    to_picture(levels).save(out, format="PNG")
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()
