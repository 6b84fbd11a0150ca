"""The command `demo`: the models at work. Two continuations and a chat answer, coloured by the experts that wrote
them, the speed, how the experts share out four kinds of text; then two pictures, described.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from PIL import Image

import tiny
from tiny.system.whole import write_whole
from tiny.tokenizer import SPACE
from tiny.tools import session
from tiny.tools.memory import parameters
from tiny.tools.plots import routing_heat_map, write_figure
from tiny.tools.plots.patches import patch_figure
from tiny.tools.prompt_images import measure_picture, user_turn, vision_of
from tiny.tools.terminal import printable
from tiny.tools.terminal.coloured_text import Painter, colours_wanted, expert_shares, legend

STORED = Path(__file__).parent / "demo_pictures"
FOLDER = Path("runs/demo")
FIGURE = FOLDER / "routing.png"
STORY = ("One sunny afternoon, June went to the market. Her frog Rex came too, and June had a green bell to play "
         "with.")
PLAY = "KING HENRY.\nWhat news, my lord? Speak plainly, for the night"
TASK = "Repeat after me: old corner early toy strange"
# With a chat of tasks, four kinds of text for the shares of the experts.
TEXTS = {
    "stories": STORY + """ "It is the best bell in the world," said June. But then June dropped the bell
and could not see it. June was so sad that she began to cry. June and Rex looked for a long time at the market. At last
Rex found the green bell under a leaf. Rex gave June the green bell with a smile. June was so happy. When the sun went
down, June and Rex walked home.""".replace("\n", " "),
    "Shakespeare": """Shall I compare thee to a summer's day?
Thou art more lovely and more temperate:
Rough winds do shake the darling buds of May,
And summer's lease hath all too short a date:
Sometime too hot the eye of heaven shines,
And often is his gold complexion dimm'd;
And every fair from fair sometime declines,
By chance, or nature's changing course, untrimm'd.
""",
    "Python": '''def find(items, wanted, start=0):
    """Return the index of the first match, or -1."""
    for index in range(start, len(items)):
        if items[index] == wanted:
            return index
    return -1


class Counter:
    def __init__(self, name=None):
        self.name = name
        self.values = {}

    def add(self, key, value=1):
        self.values[key] = self.values.get(key, 0) + value
        return self.values[key]
''',
}
# A chat of short tasks: question and answer in turn.
TASKS = ("Reverse the words: green apple boat", "boat apple green",
         "Sort the numbers: 31 7 19 4", "4 7 19 31",
         "What is 12 plus 5?", "17",
         "Tom has a red kite. Mia has a blue ball. What does Mia have?", "a blue ball",
         "Copy this: river stone lamp", "river stone lamp",
         "Put these words in order: sun bird lake", "bird lake sun",
         "What is 9 minus 3?", "6",
         "Say these words backwards: old king", "king old")

# What is asked of each stored picture, and the right answers. The second one is not a whole number of patches.
PICTURES = {
    "picture1.png": {"what does the image show ?": "a blue star left of a pink ring",
                     "what color is the star": "blue",
                     "Is the star left of the ring?": "yes"},
    "picture2.png": {"what does the image show?": "4 bars",
                     "what is the color of the highest bar?": "blue",
                     "Which bar is the lowest?": "orange"}}


def main(args: argparse.Namespace) -> None:
    """The command `demo`."""
    model, seeing = session.open_model(args), tiny.load(args.vision_model)
    vision_of(seeing, args.vision_model)  # Fail now, before the texts, if it reads text only.
    session.load_weights(model, min(model.config.max_seq_len, 1024))
    describe(model)
    colour, layer = colours_wanted(sys.stdout), model.config.n_layers // 2
    if model.config.moe is not None:
        print(f"\nEach token that is written is marked with the expert that layer {layer} chose first for it.\n"
              "The prompts are not marked.")
        print(legend(model.config.moe.num_experts, colour))
    painters = [Painter(sys.stdout, colour) for _ in range(3)]
    print("\n--- A story, continued: always the likeliest token")
    rates = [show_text(model, STORY, painters[0], layer, max_tokens=100)]
    print("\n--- A line of a play, continued: tokens drawn, temperature 0.7, seed 1")
    rates += [show_text(model, PLAY, painters[1], layer, max_tokens=80, temperature=0.7, seed=1)]
    print("\n--- A question, answered")
    rates += [show_text(model, TASK, painters[2], layer, chat=True, max_tokens=40)]
    if all(rates):
        print(f"\nspeed: prompts {np.median([r[0] for r in rates]):,.0f} tokens/s, "
              f"text {np.median([r[1] for r in rates]):,.0f} tokens/s (medians of the three)")
    if model.config.moe is not None:
        show_shares(model)
    show_pictures(seeing, args.vision_model)
    python = Path(sys.executable)  # the shortest command that works here
    command = f"{python.relative_to(Path.cwd()) if python.is_relative_to(Path.cwd()) else python.name} -m tiny"
    print(f"""
Four things to try next:
  {command} generate --model {args.model} --prompt "Once there was a kind boy" --temperature 0.8
  {command} chat --model {args.model}
  {command} describe {FOLDER}/picture1.png --model {args.vision_model} --patches {FOLDER}/picture1_patches.png
  {command} memory {args.model}""")


def describe(model) -> None:
    """Say what kind of model this is."""
    config = model.config
    total, active = parameters(config)
    print(f"A decoder of {config.n_layers} layers and {config.n_heads} heads, over a vocabulary of "
          f"{config.vocab_size:,}, with {total:,} parameters.")
    if config.moe is not None:
        print(f"In each layer a router chooses {config.moe.num_experts_per_tok} of {config.moe.num_experts} "
              f"experts for each token: {active:,} parameters work on it.")


def show_text(model, prompt: str, painter: Painter, layer: int, chat: bool = False,
              **options) -> tuple[float, float]:
    """Write one text as it is made; return its tokens per second in reading and in writing."""
    tokenizer = model.tokenizer
    ids = [tokenizer.bos_id, *tokenizer.encode(prompt)]
    if chat:
        ids, _ = tokenizer.encode_chat([{"role": "user", "content": prompt}])
    painter.write(f"[INST] {prompt} [/INST] " if chat else prompt)
    clock = session.Clock()
    for token in clock.watch(tiny.generate(model, ids, **options)):
        # Decoding drops the space before a text's first word; between prompt and continuation it is needed.
        joint = " " if clock.tokens == 1 and not chat and tokenizer.pieces([token.id])[0].startswith(SPACE) else ""
        painter.write(joint + token.text, None if token.experts is None else int(token.experts[layer, 0]))
    painter.finish()
    return clock.rates(len(ids))[1:]


def show_shares(model) -> None:
    """Print each layer's shares over all texts as a table, and save the figure of shares by kind of text."""
    tokens = {name: [model.tokenizer.bos_id, *model.tokenizer.encode(text)] for name, text in TEXTS.items()}
    turns = [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(TASKS)]
    tokens["tasks"], _ = model.tokenizer.encode_chat([*turns[:-1], turns[-1] | {"prefix": True}])
    shares = {name: expert_shares(model, ids) for name, ids in tokens.items()}
    mean = np.mean(list(shares.values()), axis=0)
    experts = model.config.moe.num_experts
    print(f"\nShares of the experts in per cent, both choices counted, over texts of four kinds "
          f"({sum(map(len, tokens.values())):,} tokens)")
    print("expert   " + "".join(f"{e:>6}" for e in range(experts)))
    for layer, row in enumerate(mean):
        print(f"layer {layer:<3}" + "".join(f"{100 * share:6.1f}" for share in row))
    FIGURE.parent.mkdir(parents=True, exist_ok=True)
    write_figure(FIGURE, routing_heat_map(shares), dpi=150)
    print(f"The same for each kind of text, as a figure: {FIGURE}")


def show_pictures(model, name: str) -> None:
    """Print the questions about the stored pictures, the answers, and the same to the mean colour."""
    vision = vision_of(model, name)
    FOLDER.mkdir(parents=True, exist_ok=True)
    pictures, pixels, right = [], [], np.zeros(2, int)
    print(f"\n--- Two pictures that {name} has never seen; blind means asked about a plain one of the mean colour")
    for file, questions in PICTURES.items():
        path = FOLDER / file
        write_whole(path, (STORED / file).read_bytes())
        pictures.append(measure_picture(path, vision))
        print(pictures[-1])
        with Image.open(path) as opened:
            image = opened.convert("RGB")
        rows = [("question", "answer", "blind", "right")]
        for question, wanted in questions.items():
            seen, blind = (answer(model, one, question) for one in (image, plain(image)))
            right += [seen == wanted, blind == wanted]
            rows.append((question, seen, blind, wanted))
        widths = [max(map(len, column)) for column in zip(*rows)]
        for row in rows:
            print("  " + "   ".join(f"{cell:<{width}}" for cell, width in zip(row, widths)).rstrip())
        pixels += model.tokenizer.encode_chat([user_turn("", [image])])[1]
    print(f"{right[0]} of {sum(map(len, PICTURES.values()))} answers are right, {right[1]} when blind.")
    write_figure(FOLDER / "patches.png", patch_figure(pixels, pictures))
    print(f"The pictures as the model gets them, cut into patches: {FOLDER / 'patches.png'}")


def plain(image: Image.Image) -> Image.Image:
    """A picture of the same size, everywhere its mean colour."""
    red, green, blue = np.round(np.asarray(image).mean(axis=(0, 1))).astype(int).tolist()
    return Image.new("RGB", image.size, (red, green, blue))


def answer(model, image: Image.Image, question: str) -> str:
    """What a model says about a picture, on one line."""
    ids, pixels = model.tokenizer.encode_chat([user_turn(question, [image])])
    text = "".join(token.text for token in tiny.generate(model, ids, pixels, max_tokens=20))
    return " ".join(printable(text).split())
