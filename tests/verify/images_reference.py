"""What transformers computes with a LLaVA checkpoint and images; a separate program, as reference.py.

    python -I images_reference.py FOLDER PROMPTS.npz TOKENS OUT.npz

PROMPTS.npz holds `idsN` (T,) and the preprocessed `imageN_M` (3, height, width) of prompt N, in order; OUT.npz then
holds `logitsN` (T, V), `greedyN` (TOKENS,) and `gapN` (TOKENS,): by how much the winning logit led. float32, eager
attention, one thread.
"""

import sys

import numpy as np
import torch
from transformers import LlavaForConditionalGeneration


def padded(images: list[np.ndarray]) -> dict:
    """The images as one tensor, zeros at the right and at the bottom, and their sizes."""
    if not images:
        return {}
    sizes = [image.shape[1:] for image in images]
    pixels = np.zeros((len(images), 3, *np.max(sizes, axis=0)), np.float32)
    for row, image in zip(pixels, images):
        row[:, : image.shape[1], : image.shape[2]] = image
    return {"pixel_values": torch.from_numpy(pixels), "image_sizes": torch.tensor(sizes)}


def greedy(model, ids: np.ndarray, images: list[np.ndarray], tokens: int) -> tuple[np.ndarray, list[int], list[float]]:
    """Logits of the prompt, then the argmax token again and again, past any EOS."""
    step = model(torch.tensor(ids[None]), use_cache=True, **padded(images))
    logits, chosen, gaps = step.logits[0].numpy().copy(), [], []
    for _ in range(tokens):
        best = step.logits[0, -1].topk(2)
        chosen.append(int(best.indices[0]))
        gaps.append(float(best.values[0] - best.values[1]))
        step = model(torch.tensor([chosen[-1:]]), past_key_values=step.past_key_values, use_cache=True)
    return logits, chosen, gaps


def main(folder: str, prompts: str, tokens: str, out: str) -> None:
    torch.set_num_threads(1)
    model, missing = LlavaForConditionalGeneration.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True)
    assert not any(missing.values()), missing
    stored, results = dict(np.load(prompts)), {}
    with torch.inference_mode():
        for n in range(sum(name.startswith("ids") for name in stored)):
            images = [stored[f"image{n}_{m}"] for m in range(sum(name.startswith(f"image{n}_") for name in stored))]
            found = greedy(model.eval(), stored[f"ids{n}"], images, int(tokens))
            results |= {f"{name}{n}": value for name, value in zip(("logits", "greedy", "gap"), found)}
    np.savez(out, **results)


if __name__ == "__main__":
    main(*sys.argv[1:])
