"""The pictures of the README and the chapters: `python -m tutorial.draw_figures` draws them into tutorial/figures/.

They carry the checksums of the embedded models' weights and of the code that drew them, so that a test sees when they
are out of date.
"""

import hashlib
import importlib
import io
from pathlib import Path

import numpy as np
from PIL import Image

import tiny
from tiny.system.whole import write_whole
from tiny.tools import demo, plots
from tiny.tools.bench import context
from tiny.tools.demo import STORY, TEXTS
from tiny.tools.memory import kv_bytes
from tiny.tools.releases import MIXTRAL_8X7B
from tiny.tools.routing import chosen_experts, measure_routing
from tiny.tools.terminal import Parser, program
from tutorial import drawings
from tutorial.pages.measure import code_lines
from tutorial.pages.records import record
from tutorial.source import ROOT

FOLDER = ROOT / "tutorial/figures"
MODEL, SEES = "tiny-mixtral", "tiny-pixtral"
LINE = "Once there was a girl named Mia. Mia had a red ball."


def attention_picture(model, layer: int = 1, head: int = 0):
    """One head of the embedded model on one short line."""
    ids, trace = [model.tokenizer.bos_id, *model.tokenizer.encode(LINE)], {}
    model(ids, trace=trace)
    weights = plots.attention_weights(trace[f"q{layer:02}"], trace[f"k{layer:02}"], head)
    return plots.attention_map(weights, ["<s>", *model.tokenizer.pieces(ids[1:])], f"layer {layer}, head {head}")


def token_picture(model, count: int = 75):
    """The beginning of a story, coloured by the first choice of three layers."""
    ids = model.tokenizer.encode(STORY)[:count]
    chosen = chosen_experts(model, ids)[0]
    layers = (0, model.config.n_layers // 2, model.config.n_layers - 1)
    return plots.tokens_by_expert(model.tokenizer.pieces(ids), {f"layer {n}": chosen[n, :, 0] for n in layers})


def shares_picture(model):
    """Shares of the experts over three kinds of text."""
    read = {name: chosen_experts(model, model.tokenizer.encode(text)) for name, text in TEXTS.items()}
    shares = {name: measure_routing(parts, model.config.moe.num_experts).shares for name, parts in read.items()}
    return plots.routing_heat_map(shares)


def cache_picture():
    """What a token leaves behind in Mixtral 8x7B, and what it would without sharing KV heads, or in float32."""
    all_heads = kv_bytes(MIXTRAL_8X7B, 2) * MIXTRAL_8X7B.n_heads // MIXTRAL_8X7B.n_kv_heads
    return plots.kv_cache_bytes({"32 KV heads, bfloat16": all_heads, "8 KV heads, float32": kv_bytes(MIXTRAL_8X7B, 4),
                                 "8 KV heads, bfloat16\n(as released)": kv_bytes(MIXTRAL_8X7B, 2)},
                                MIXTRAL_8X7B.max_seq_len)


def front_picture(model, sees, columns: int = 54, rows: int = 8):
    """The picture of the README: a story coloured by expert; a drawing, a question, and its answer, seeing and blind.

    The background is light, so that the picture can be read on a dark page too.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.4), facecolor="#fafafa")
    ids, layer = [model.tokenizer.bos_id, *model.tokenizer.encode(demo.STORY)], model.config.n_layers // 2
    tokens = list(tiny.generate(model, ids, max_tokens=200))
    pieces = model.tokenizer.pieces([*ids[1:], *(token.id for token in tokens)])
    experts = [*[None] * (len(ids) - 1), *(int(token.experts[layer, 0]) for token in tokens)]
    cells = [cell for cell in plots.place_tokens(pieces, columns) if cell[0] < rows]
    while "." not in cells[-1][2]:  # the last sentence is whole
        cells.pop()
    text = figure.add_axes((0.012, 0.01, 0.61, 0.85))
    text.set(xlim=(0, columns), ylim=(rows, 0))
    text.axis("off")
    plots.draw_tokens(text, cells, experts, 11)
    figure.text(0.02, 0.92, "tiny-mixtral continues a story. Colour and number: the expert that\n"
                            f"layer {layer} chose first for the token.", fontsize=11, va="center")

    file, questions = next(iter(demo.PICTURES.items()))
    with Image.open(demo.STORED / file) as opened:
        image = opened.convert("RGB")
    (width, height), side, question = image.size, sees.config.vision.patch_size, next(iter(questions))
    panel = figure.add_axes((0.655, 0.295, 0.33, 0.5625))
    panel.imshow(image, extent=(0, width, height, 0), interpolation="nearest")
    panel.vlines(range(0, width + 1, side), 0, height, color="white", linewidth=1, clip_on=False)
    panel.hlines(range(0, height + 1, side), 0, width, color="white", linewidth=1, clip_on=False)
    panel.axis("off")
    figure.text(0.655, 0.92, f"tiny-pixtral sees a drawing of {width} x {height} pixels\n"
                             f"in {width // side} x {height // side} patches.", fontsize=11, va="center")
    lines = {"question": question, "answer": demo.answer(sees, image, question),
             "blind": demo.answer(sees, demo.plain(image), question)}
    for row, (name, words) in enumerate(lines.items()):
        figure.text(0.655, 0.22 - 0.065 * row, name, fontsize=11, color="0.35")
        figure.text(0.725, 0.22 - 0.065 * row, words, fontsize=11)
    figure.text(0.655, 0.025, "blind: asked about a plain picture instead", fontsize=9.5, color="0.35")
    return figure


def figures() -> dict:
    """Every picture by name."""
    model = tiny.load(MODEL)
    return {
        "front": front_picture(model, tiny.load(SEES)),
        "rope_angles": plots.rope_angles(MIXTRAL_8X7B.head_dim, MIXTRAL_8X7B.rope_theta),
        "rope_scores": plots.relative_score_map(MIXTRAL_8X7B.head_dim, MIXTRAL_8X7B.rope_theta),
        "attention_map": attention_picture(model),
        "kv_cache_rows": plots.kv_cache_rows([8, 6], [[4, 2], [1, 1], [1, 1]]),
        "kv_cache_bytes": cache_picture(),
        "tokens_by_expert": token_picture(model),
        "routing_shares": shares_picture(model),
        "long_context": context.draw(record("context.json")["rows"]),
        **drawings.all_pictures()}


def model_checksum() -> str:
    """The SHA-256 of the embedded models' weights."""
    return hashlib.sha256(b"".join((tiny.model_folder(name) / "consolidated.safetensors").read_bytes()
                                   for name in (MODEL, SEES))).hexdigest()


def code_checksum(name: str) -> str:
    """The SHA-256 of the code of a module that draws and of the drawing modules that it imports, without comments."""
    module = importlib.import_module(name)
    used = {getattr(value, "__module__", None) or getattr(value, "__name__", "") for value in vars(module).values()}
    digest = hashlib.sha256()
    for one in sorted({name, *(other for other in used if other.startswith(("tutorial.drawings.", plots.__name__)))}):
        text = Path(importlib.import_module(one).__file__ or "").read_text(encoding="utf-8")
        lines, code = text.splitlines(), code_lines(text)
        digest.update("\n".join(lines[n - 1].partition("  # ")[0].rstrip() for n in sorted(code)).encode())
    return digest.hexdigest()[:16]


def drawn_by(figure) -> str:
    """The module that drew a figure, and the checksum of its code."""
    name = figure.get_gid() or "tutorial.draw_figures"
    return f"{name} {code_checksum(name)}"


def save(figure, file: Path, checksum: str) -> None:
    """Write a picture as a PNG with few colours, which is a third of the size; with the model that it shows."""
    from PIL.PngImagePlugin import PngInfo

    file.parent.mkdir(exist_ok=True)
    drawn, note = io.BytesIO(), PngInfo()
    figure.savefig(drawn, format="png", dpi=120)
    note.add_text("Model", checksum)
    note.add_text("Code", drawn_by(figure))
    with Image.open(drawn) as image:
        few = image.convert("RGB").quantize(128, dither=Image.Dither.NONE)
    write_whole(file, lambda out: few.save(out, format="png", optimize=True, pnginfo=note))


def main() -> None:
    """Draw all pictures."""
    Parser(prog="python -m tutorial.draw_figures", description="Draw the pictures of the chapters.").parse_args()
    checksum = model_checksum()
    for name, figure in figures().items():
        file = FOLDER / f"{name}.png"
        save(figure, file, checksum)
        print(f"{file.relative_to(ROOT)}: {np.ceil(file.stat().st_size / 1024):.0f} KiB")


if __name__ == "__main__":
    program(main)
