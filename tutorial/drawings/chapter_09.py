"""The pictures of chapter 9: which patches a word looks at, and what tiny-pixtral sees, beside what it guesses."""

import json

import numpy as np
from PIL import Image

import tiny
from tiny.tools import plots
from tiny.tools.cards.images import scores_of
from tiny.tools.demo import STORED
from tiny.tools.prompt_images import user_turn
from tiny.training.images.evaluate import SCENES
from tutorial.drawings import PAPER

LAYER, SHOWN = 1, 3  # whose attention is drawn, and the head
WORDS = {"star": "what color is the star", "ring": "what color is the ring"}  # a word, and the question that has it
FEW = 16  # questions of the panel that shows what few of them prove
SKILLS = {"color": "name a colour", "where": "say where it is", "tallest": "which bar is tallest",
          "caption2": "describe", "which": "which of two images", "left_of": "left or not (yes, no)",
          "same": "the same shape (yes, no)", "word4": "read four letters",
          "held_word6": "read six letters, a new word"}


def word_weights(model, image: Image.Image, word: str, question: str) -> tuple[str, np.ndarray]:
    """The answer, and how the word of a question weighs the patches, as parts of 1. Shapes:  -> (rows, columns)."""
    ids, pixels = model.tokenizer.encode_chat([user_turn(question, [image])])
    trace: dict = {}
    model(ids, pixels, trace=trace)
    place = next(n for n, piece in enumerate(model.tokenizer.pieces(ids)) if word in piece)
    weights = plots.attention_weights(trace[f"q{LAYER:02}"], trace[f"k{LAYER:02}"], SHOWN)[place]
    rows = pixels[0].shape[1] // model.config.vision.patch_size
    found = weights[np.array(ids) == model.config.vision.image_token_id].reshape(rows, -1)
    return "".join(token.text for token in tiny.generate(model, ids, pixels, max_tokens=8)), found


def words_picture(model):
    """The same picture twice; on each patch its share of the attention of one word, as number and as frame."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    with Image.open(STORED / "picture1.png") as opened:
        image = opened.convert("RGB")
    figure = Figure(figsize=(9.6, 4.2), facecolor=PAPER, layout="constrained")
    for panel, (word, question) in zip(figure.subplots(1, 2), WORDS.items()):
        answer, weights = word_weights(model, image, word, question)
        rows, columns = weights.shape
        panel.imshow(image, extent=(0, columns, rows, 0), interpolation="nearest")
        panel.vlines(range(columns + 1), 0, rows, color="white", linewidth=0.7)
        panel.hlines(range(rows + 1), 0, columns, color="white", linewidth=0.7)
        for (row, column), weight in np.ndenumerate(weights):
            if weight >= 0.01:
                panel.add_patch(Rectangle((column + 0.06, row + 0.06), 0.88, 0.88, facecolor="none", edgecolor="black",
                                          linewidth=0.8 + 6 * weight))
                panel.text(column + 0.5, row + 0.5, f"{100 * weight:.0f}", fontsize=9, ha="center", va="center",
                           bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.2})
        panel.set_title(f"\u201c{question}\u201d \u2192 {answer}\nwhere the word \u201c{word}\u201d looks: "
                        f"{100 * weights.sum():.0f} % on the picture", fontsize=11)
        panel.set(xlim=(-0.05, columns + 0.05), ylim=(rows + 0.05, -0.05))
        panel.axis("off")
    return figure


def scores_of_card() -> dict[str, np.ndarray]:
    """For each skill of the picture the score of the card, at sizes that were trained. Shapes:  (3, 3) each."""
    return {skill: scores_of(shares(), skill, "seen") for skill in SKILLS}


def shares() -> dict:
    """The shares of right answers of tiny-pixtral's card."""
    return json.loads((tiny.model_folder("tiny-pixtral") / "card.json").read_text(encoding="utf-8"))["skills"]


def blind_picture():
    """Two panels: shares seen and blind with their intervals, from all questions, and from a few with such shares."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.6), facecolor=PAPER, layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for panel, count in zip(panels, (SCENES, FEW)):
        for row, skill in enumerate(SKILLS):
            score = scores_of(shares(), skill, "seen", count)
            for (share, low, high), mark, fill, name in zip(100 * score, "os", ("black", "white"), ("seen", "blind")):
                panel.plot([low, high], [row, row], color="0.35", linewidth=2.5, zorder=1)
                panel.plot(share, row, mark, color="black", markerfacecolor=fill, markersize=7,
                           label=name if row == 0 else None)
        panel.set(xlim=(-3, 103), xlabel="right answers, per cent, with intervals of 95 per cent",
                  title=f"{count} questions of a skill" if count == SCENES else f"if {count} had been asked")
        panel.title.set_fontsize(11)
        panel.set_facecolor("white")
        panel.grid(axis="x", color="0.85")
        panel.set_axisbelow(True)
    panels[0].set_yticks(range(len(SKILLS)), SKILLS.values())
    panels[0].invert_yaxis()
    panels[0].legend(loc="center", bbox_to_anchor=(0.55, 0.635), ncols=2, fontsize=9)
    return figure


def draw() -> dict:
    """The pictures by name."""
    return {"word_looks": words_picture(tiny.load("tiny-pixtral")), "seen_blind": blind_picture()}
