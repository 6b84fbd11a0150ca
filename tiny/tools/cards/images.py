"""The card of tiny-pixtral: what it sees, beside what it would guess; how it was made, what it cost, what it cannot do.

    python -m tiny.tools.cards.images FOLDER --run RUN

writes FOLDER/README.md and FOLDER/card.json, and two pictures beside them, from the run's card.json and log.jsonl;
every number comes from there.
"""

import dataclasses
import json
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from tiny.pixtral import vision_of
from tiny.system.reading import read_json
from tiny.system.whole import write_whole
from tiny.tools.markdown import table
from tiny.tools.plots import write_figure
from tiny.tools.terminal import Parser, program
from tiny.training.images.drawing import COLORS, SHAPES
from tiny.training.images.evaluate import AIMS, COLUMNS, GATES, SCENES, draw
from tiny.training.images.questions import WORDINGS
from tiny.training.images.scenes import HEADS
from tiny.training.images.score import blind_score
from tiny.training.run_state import read_log

MARGIN = 0.30  # by which a skill has to beat the blind baseline to be claimed
SHOWN = ("caption1", "caption2", "where", "count_4", "num3", "word4", "held_word5", "text_color", "tallest", "same",
         "which_3", "m_shape")  # skills whose first samples are drawn

TEXT = """# tiny-pixtral

A vision encoder, an adapter and a decoder of exactly Pixtral's architecture and file format, {parameters:,} parameters,
trained from nothing in NumPy by this repository on pictures drawn by this repository. It answers questions about
shapes, numbers, words and bars in pictures of any size and shape, one or several at a time.

```
python -m tiny describe PICTURE [PICTURE ...]
```

| size | decoder | encoder |
| --- | --- | --- |
{sizes}

Patches have {patch_size} x {patch_size} pixels; sides of up to {largest} pixels are taken as they are. Larger pictures
are shrunk to {largest}, because it sees best at the sizes that it was trained with. The context is {context:,} tokens.
The vocabulary of {vocab_size} tokens has the 256 bytes, so that it can take any text, and the words of its questions
and answers. The weights are under the repository's licence, Apache-2.0. Texts in its training pictures were drawn
with the DejaVu, STIX and Computer Modern fonts that come with Matplotlib and the font that comes with Pillow.

## What it sees

One question about each of {scenes} fresh scenes a cell, in all its wordings, in per cent; an answer counts if it is
right to its end. Half of the words are letters at random; "held_word" rows have words that were never trained.

* seen: sizes that were trained. between: sizes that never were, some of them not a whole number of patches.
* aspect: about three to one and one to three and a half, which were never trained for these questions; texts about
  four to one. larger: sides of 104 to 144 pixels, with small things and with large ones, shrunk to {largest}.
* mixed: images of different sizes, each of them trained, in one prompt; in training those of a prompt have one size.
* blind: the questions of "seen" with every picture replaced by its mean colour. Right answers were guessed.
* worst wording: the lowest share of any wording of the question, over seen and between.

{results}

A skill is claimed if it beats the blind baseline by {margin:.0f} points at sizes seen and between. {unclaimed} The
counts are judged together, since always saying the same number is right for one of them. {missed}

![questions, answers and what the model said](samples.png)

## What it can be asked

Any of these, with or without a mark at the end, "color" or "colour", with a capital or not; other wordings are answered
too, but not reliably. Images come before the question. Of one shape, "where" is asked only if it is small.

{wordings}

## Samples

The first question of each skill at a size seen, not picked.

{samples}

## Training

{stages}

{steps:,} steps of AdamW, seed {seed}, {hours:.1f} hours, the last four stages on two cores, the others on one
({machine}), {date}. First the encoder alone learns to say of every patch what it shows, through linear heads that are
thrown away: {heads}. Then it stays as it is, and adapter and decoder learn to answer, {questions} questions a scene,
each as if asked alone. At last all of it learns, the encoder at a lower rate and with the labels of its patches kept
on. Pictures are drawn when they are needed; none is shown twice.

`python -m tiny.training tiny-pixtral` trains by this recipe, on two cores at the end with `--processes 2`. This model
was not made in one go: the later stages were settled while the earlier ones ran, the first one was drawn by an earlier
state of the renderer, in which shapes in narrow pictures could touch, and until the fourth "left of" and "above" were
asked as often the other way round. So a new run gives a model of the same kind, not the same bits.

![losses by step](loss.png)

## Limits

It knows {shapes} shapes, {colors} colours, digits, lower-case letters and bars, and the questions above; a photograph
is nothing to it. Capital letters, other scripts, texts of more than one line, things that overlap, more than five of
them, things larger than a training picture, and questions that refer to earlier answers were never trained. It always
answers, also if there is nothing to see. It is made for showing, teaching and testing only.
"""


def facts(trainer, machine: str) -> dict:
    """What the card tells of a finished run beside what was measured."""
    config = trainer.model.config
    parameters = sum(weight.size for name, weight in trainer.weights.items() if not name.startswith("heads."))
    return {"recipe": dataclasses.asdict(trainer.recipe), "parameters": parameters, "vocab_size": config.vocab_size,
            "context": config.max_seq_len, "largest": vision_of(config).max_image_size, "heads": list(HEADS),
            "shapes": len(SHAPES), "colors": len(COLORS), "date": time.strftime("%Y-%m-%d"), "machine": machine}


def claimed(skills: Mapping[str, Mapping], skill: str) -> bool:
    """Whether a skill beats the blind baseline by MARGIN, at sizes seen and between; all counts are one skill."""
    return bool(min(scores_of(skills, skill, column)[2, 0] for column in ("seen", "between")) >= MARGIN)


def scores_of(skills: Mapping[str, Mapping], skill: str, column: str, count: int = SCENES) -> np.ndarray:
    """The score of a skill in a column against blind: see `blind_score`. All counts are one skill.

    Shapes:  -> (3, 3)
    """
    group = [name for name in skills if name.startswith("count_")] if skill.startswith("count_") else [skill]
    right = [np.concatenate([np.arange(count) < round(count * skills[name][one]) for name in group])
             for one in (column, "blind")]
    return blind_score(*right)


def reached(skills: Mapping[str, Mapping], skill: str) -> bool:
    """Whether a skill has what was promised of it, at sizes seen and between; True if nothing was."""
    return min(skills[skill]["seen"], skills[skill]["between"]) >= (GATES | AIMS).get(skill, 0.0)


def result_table(skills: Mapping[str, Mapping]) -> str:
    """The shares of right answers by skill and column, in per cent."""
    rows = []
    for skill, shares in skills.items():
        goal = f"gate {GATES[skill]:.0%}" if skill in GATES else f"aim {AIMS[skill]:.0%}" if skill in AIMS else ""
        worst = shares["worst"]
        rows.append([skill, goal, *(f"{100 * shares[column]:.1f}" if column in shares else "" for column in COLUMNS),
                     f"{100 * worst['share']:.0f} of {worst['asked']}", "yes" if claimed(skills, skill) else "**no**"])
    return table(["skill", "promised", *COLUMNS, "worst wording", "claimed"], rows)


def console_table(card: dict) -> str:
    """The same for a terminal, with a mark at what was promised and not reached."""
    skills, lines = card["skills"], [f"{'skill':15}{'promised':>10}" + "".join(f"{name:>9}" for name in COLUMNS)]
    for skill, shares in skills.items():
        goal = (GATES | AIMS).get(skill)
        lines.append(f"{skill:15}{f'{goal:.0%}' if goal else '':>10}"
                     + "".join(f"{100 * shares[column]:9.1f}" if column in shares else " " * 9 for column in COLUMNS)
                     + ("" if reached(skills, skill) else "  below")
                     + ("" if claimed(skills, skill) else "  not claimed"))
    return "\n".join(lines)


def listed(skills: list[str]) -> str:
    """Names in a row."""
    return ", ".join(skills)


def cost(log: Path) -> float:
    """Seconds of a run, over all its starts: `seconds` in a line counts from the last one."""
    total, before = 0.0, 0.0
    for line in read_log(log):
        total += line["seconds"] - (before if line["seconds"] > before else 0.0)
        before = line["seconds"]
    return total


def stage_table(recipe: dict) -> str:
    """The stages of the recipe."""
    rows = []
    for stage in recipe["stages"]:
        pictures = stage["pictures"] * stage["shards"]
        whole = sum(share for _, share in stage["kinds"])
        kinds = ", ".join(f"{kind} {share / whole:.0%}" for kind, share in stage["kinds"])
        rows.append([stage["name"], f"{stage['steps']:,}", str(pictures), f"{stage['rate']:g}",
                     f"{stage['encoder_rate']:g}", f"{stage['dense']:g}",
                     f"{stage['sides'][0]} to {stage['sides'][-1]}", kinds])
    return table(["stage", "steps", "pictures a step", "rate", "rate of the encoder", "weight of patch labels", "sides",
                  "kinds of scenes"], rows)


def size_rows(recipe: dict, card: dict) -> str:
    """Sizes of the decoder and of the encoder."""
    width, heads = recipe["width"], recipe["n_heads"]
    rows = [("width", width, width), ("layers", recipe["n_layers"], recipe["n_layers"]), ("heads", heads, heads),
            ("key and value heads", recipe["n_kv_heads"], heads), ("width of a head", width // heads, width // heads),
            ("hidden width", recipe["hidden_dim"], recipe["hidden_dim"]),
            ("rope theta", f"{recipe['rope_theta']:g}", f"{recipe['vision_theta']:g}")]
    return "\n".join(f"| {name} | {decoder} | {encoder} |" for name, decoder, encoder in rows)


def render(card: dict, seconds: float) -> str:
    """The card as Markdown."""
    recipe, skills = card["recipe"], card["skills"]
    unclaimed = [skill for skill in skills if not claimed(skills, skill)]
    missed = [skill for skill in skills if not reached(skills, skill)]
    samples = "\n".join(
        f"* {one['skill']}, {one['images']} of {one['size']}: {one['question']} → **{one['given']}**"
        + ("" if one["given"] == one["answer"] else f" (right: {one['answer']})") for one in card["samples"])
    wordings = "\n".join(f"* {', '.join(names)}: {' / '.join(wordings)}" for wordings, names in by_wordings().items())
    return TEXT.format(
        parameters=card["parameters"], sizes=size_rows(recipe, card), patch_size=recipe["patch_size"],
        largest=card["largest"], context=card["context"], vocab_size=card["vocab_size"], scenes=card["scenes"],
        results=result_table(skills), margin=100 * MARGIN,
        unclaimed=f"Not claimed: {listed(unclaimed)}." if unclaimed else "All are.",
        missed=f"Below what was promised: {listed(missed)}." if missed else "All that was promised is reached.",
        wordings=wordings, samples=samples, stages=stage_table(recipe),
        steps=sum(stage["steps"] for stage in recipe["stages"]), seed=recipe["seed"], hours=seconds / 3600,
        machine=card["machine"], date=card["date"], heads=listed(card["heads"]), questions=recipe["questions"],
        shapes=card["shapes"], colors=card["colors"])


def by_wordings() -> dict[tuple[str, ...], list[str]]:
    """The skills that are asked for in the same words, by these words."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for skill, wordings in WORDINGS.items():
        groups.setdefault(tuple(wordings), []).append(skill)
    return groups


def plot_stages(log: Path, path: Path) -> None:
    """Draw the losses of answers and of patches, and the shares right, over the steps of all stages, as a PNG."""
    from matplotlib.figure import Figure  # Only here: training itself does without.

    lines = read_log(log)
    figure = Figure(figsize=(8, 6), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    for axes, names in ((upper, ("loss", "answers")), (lower, ("what", "color", "place", "zone", "side", "right"))):
        for name in names:
            found = [(line["step"], line[name]) for line in lines if name in line]
            if found:
                label = {"loss": "labels of patches", "right": "tokens of answers"}.get(name, name)
                axes.plot(*zip(*found), label=label, linewidth=1)
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend(loc="upper right" if axes is upper else "lower right", fontsize="small")
        for before, line in zip(lines, lines[1:]):
            if before["stage"] != line["stage"]:
                axes.axvline(before["step"], color="black", linewidth=0.5)
    upper.set(ylabel="loss, nats", yscale="log", title="Training, stage by stage")
    lower.set(xlabel="step", ylabel="share right", ylim=(0, 1.02))
    write_figure(path, figure, dpi=110)


def plot_samples(card: dict, path: Path) -> None:
    """Draw the first scenes of some skills with question and answer, as a PNG."""
    from matplotlib.figure import Figure

    samples = [one for one in card["samples"] if one["skill"] in SHOWN]
    figure = Figure(figsize=(11, 8.5), layout="constrained")
    for axes, one in zip(figure.subplots(3, 4).flat, samples):
        (images, _), = draw(one["skill"], "seen", 1)
        gap = np.full((images[0].shape[0], 4, 3), 255, np.uint8)
        row = [part for image in images for part in (image, gap)][:-1]
        axes.imshow(np.concatenate(row, axis=1), interpolation="nearest")
        good = one["given"] == one["answer"]
        axes.set_title(f"{one['question']}\n{one['given']}", fontsize=8, color="black" if good else "tab:red")
        axes.set(xticks=[], yticks=[])
    for axes in figure.axes[len(samples):]:
        axes.set_axis_off()
    write_figure(path, figure, dpi=90)


def main() -> None:
    """Write the card of a run."""
    parser = Parser(prog="python -m tiny.tools.cards.images", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--run", type=Path, required=True)
    args = parser.parse_args()
    card, log = read_json(args.run / "card.json"), args.run / "log.jsonl"
    write_whole(args.folder / "README.md", render(card, cost(log)))
    write_whole(args.folder / "card.json", json.dumps(card, indent=1) + "\n")
    plot_stages(log, args.folder / "loss.png")
    plot_samples(card, args.folder / "samples.png")


if __name__ == "__main__":
    program(main)
