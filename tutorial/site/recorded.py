"""The page of `explore` with two recorded runs, for the site: it needs no Python, and opens from a file.

Everything that a reader can click there is computed when the site is made, and lies beside the page: each token of a
story and of a question about a picture, each patch, and the comparisons that the page offers first.
"""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import tiny
from tiny.mixtral import Mixtral
from tiny.serve.explore import asked, kept
from tiny.tools.explore import pictures, rows, runs
from tiny.tools.explore.switches import SWITCHES

PAGE = Path(tiny.__file__).parent / "tools/explore/page"
SCENE, TOKENS = 336, 40
Answers = dict[str, Any]


def write_recorded(folder: Path) -> None:
    """Write the page, its recorded answers, and what finds them."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in sorted(PAGE.iterdir()):
        text = path.read_text(encoding="utf-8")
        if path.name == "index.html":
            more = "".join(f'<script defer src="{name}.js"></script>\n' for name in ("answers", "recorded"))
            text = text.replace('<script defer src="dom.js">', f'{more}<script defer src="dom.js">')
        (folder / path.name).write_text(text, encoding="utf-8")
    (folder / "recorded.js").write_text(Path(__file__).with_suffix(".js").read_text(encoding="utf-8"), encoding="utf-8")
    models = {name: tiny.load(name) for name in tiny.EMBEDDED}
    answers = {key("/start"): asked.start(models), **dict(recorded(models))}
    (folder / "answers.js").write_text(f"window.recordedAnswers = {json.dumps(answers, allow_nan=False)};\n",
                                       encoding="utf-8")


def key(path: str, **body: Any) -> str:
    """The name of an answer, as recorded.js has it."""
    hide = ",".join(map(str, body.get("hide", ())))
    place = body.get("row", body.get("patch", ""))
    parts = [path, *(body.get(name, "") for name in ("model", "run", "text", "switch")), body.get("value", 0),
             body.get("layer", ""), hide, int(body.get("blind", False)), place,
             *(body.get(name, "") for name in ("kind", "seed"))]
    return "|".join(map(str, parts))


def floats(found: np.ndarray | bytes) -> dict[str, str]:
    """Numbers as text."""
    data = found if isinstance(found, bytes) else found.astype("<f4").tobytes()
    return {"floats": base64.b64encode(data).decode()}


def recorded(models: dict[str, Mixtral]) -> Iterator[tuple[str, Any]]:
    """Every answer of the page, by its name."""
    explored = kept.Explored(models, None)  # type: ignore[arg-type]  # nothing is served
    drawn = pictures.draw(models["tiny-pixtral"].config, SCENE)
    images = [runs.to_picture(image) for image in drawn.images]
    question = next(text for text, _ in drawn.questions if text.startswith("what color"))
    yield key("/scene", model="tiny-pixtral", seed=SCENE), asked.scene_said(drawn)
    yield from one_run("tiny-mixtral", models["tiny-mixtral"], asked.EXAMPLES[0]["text"], [])
    yield from one_run("tiny-pixtral", models["tiny-pixtral"], question, images)
    for name, kind in (("tiny-mixtral", "loss"), ("tiny-pixtral", "right")):
        text, seen = (asked.EXAMPLES[0]["text"], []) if kind == "loss" else (question, images)
        for case in comparisons(models[name]):
            try:
                found = runs.write(models[name], runs.Ask(text, TOKENS, **case), seen)
            except runs.OutOfRange:
                continue
            yield key("/run", model=name, text=text, **case), {"run": "", **asked.told(found)}
            yield key("/measure", model=name, kind=kind, **case), explored.measure(
                name, models[name], runs.Ask("", **case), kind, lambda: None)
    more: list[dict[str, Any]] = [{"blind": True}, *({"hide": tuple(hide)} for marks in drawn.things.values()
                               for hide in (marks, others(marks, pictures.COLUMNS * pictures.ROWS)))]
    for case in more:
        found = runs.write(models["tiny-pixtral"], runs.Ask(question, TOKENS, **case), images)
        yield key("/run", model="tiny-pixtral", text=question, **case), {"run": "", **asked.told(found)}
    yield key("/measure", model="tiny-pixtral", kind="hiding"), explored.measure(
        "tiny-pixtral", models["tiny-pixtral"], runs.Ask(""), "hiding", lambda: None)


def one_run(name: str, model: Mixtral, text: str, images: list) -> Iterator[tuple[str, Any]]:
    """A run as trained, every token of it that can be chosen, and every patch."""
    run = runs.write(model, runs.Ask(text, TOKENS), images)
    yield key("/run", model=name, text=text), {"run": name, **asked.told(run)}
    for row in sorted(set(range(len(run.ids))) - set(run.places.tolist())):
        yield key("/row", run=name, row=row), floats(rows.packed(run, row))
        yield key("/parts", run=name, row=row), floats(rows.parts(run, row))
    for patch in range(len(run.places)):
        yield key("/patch", run=name, patch=patch), floats(rows.patch_attention(run, patch))


def comparisons(model: Mixtral) -> Iterator[dict[str, Any]]:
    """The switches that are recorded: each as the page offers it first, every expert of the last layer, every head."""
    config, last, moe = model.config, model.config.n_layers - 1, model.config.moe
    for name, switch in SWITCHES.items():
        if switch.needs == "pictures" or switch.needs == "picture" and not config.vision or (
                switch.needs == "experts" and not moe):
            continue
        if name == "expert_off" and moe:
            yield from ({"switch": name, "value": expert, "layer": last} for expert in range(moe.num_experts))
        elif name == "head_off":
            yield from ({"switch": name, "value": head} for head in range(config.n_heads))
        else:
            yield {"switch": name, **({"value": 3} if switch.values else {})}


def others(marks: list[int], of: int) -> list[int]:
    """As many of the other patches: those that the page chooses, in whatif.js."""
    left, seed = [patch for patch in range(of) if patch not in marks], 1
    found: list[int] = []
    for patch in marks:
        seed = (31 * seed + patch + 7) % 2147483647
    while len(found) < len(marks) and left:
        seed = 48271 * seed % 2147483647
        found.append(left.pop(seed % len(left)))
    return sorted(found)
