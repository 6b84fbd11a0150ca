"""The pictures of the chapters: `python -m tutorial.draw_figures` draws them into tutorial/figures/.

Those of the embedded model carry the checksum of its weights, so that a test sees when they are out of date.
"""

import hashlib
from pathlib import Path

import numpy as np

import tiny
from tiny.tools import plots
from tiny.tools.demo import STORY, TEXTS
from tiny.tools.memory import kv_bytes
from tiny.tools.releases import MIXTRAL_8X7B
from tiny.tools.routing import chosen_experts, measure_routing
from tutorial.source import ROOT

FOLDER = ROOT / "tutorial/figures"
MODEL = "tiny-mixtral"
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


def figures() -> dict:
    """Every picture by name."""
    model = tiny.load(MODEL)
    return {
        "rope_angles": plots.rope_angles(MIXTRAL_8X7B.head_dim, MIXTRAL_8X7B.rope_theta),
        "rope_scores": plots.relative_score_map(MIXTRAL_8X7B.head_dim, MIXTRAL_8X7B.rope_theta),
        "attention_map": attention_picture(model),
        "kv_cache_rows": plots.kv_cache_rows([8, 6], [[4, 2], [1, 1], [1, 1]]),
        "kv_cache_bytes": cache_picture(),
        "tokens_by_expert": token_picture(model),
        "routing_shares": shares_picture(model)}


def model_checksum() -> str:
    """The SHA-256 of the embedded model's weights."""
    return hashlib.sha256((tiny.model_folder(MODEL) / "consolidated.safetensors").read_bytes()).hexdigest()


def save(figure, file: Path, checksum: str) -> None:
    """Write a picture as a PNG with few colours, which is a third of the size, and the model that it shows."""
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    file.parent.mkdir(exist_ok=True)
    figure.savefig(file, dpi=120)
    note = PngInfo()
    note.add_text("Model", checksum)
    with Image.open(file) as image:
        few = image.convert("RGB").quantize(128, dither=Image.Dither.NONE)
    few.save(file, optimize=True, pnginfo=note)


def main() -> None:
    """Draw all pictures."""
    checksum = model_checksum()
    for name, figure in figures().items():
        file = FOLDER / f"{name}.png"
        save(figure, file, checksum)
        print(f"{file.relative_to(ROOT)}: {np.ceil(file.stat().st_size / 1024):.0f} KiB")


if __name__ == "__main__":
    main()
