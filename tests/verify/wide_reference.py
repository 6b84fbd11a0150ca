"""What transformers makes of a model in bfloat16, eager, on one thread; a separate program.

    python -I wide_reference.py FOLDER INPUTS.npz OUT.npz

INPUTS has `ids`, `steps` (tokens that are then given one by one), and for Pixtral `pixelsN` (3, H, W). OUT
has `logits` of the prompt and of the steps, `hidden` (the residual stream after each layer), `experts` (L, T, K) of a
Mixtral, `projector` and `vision` (after each layer of the encoder) of Pixtral.
"""

import sys

import numpy as np
import torch
from transformers import AutoModelForCausalLM, LlavaForConditionalGeneration


def watch(results: dict, name: str, pick=lambda out: out[0] if isinstance(out, tuple) else out):
    """A hook that keeps what a module returns, in the order of the calls."""
    def hook(module, args, out):
        results.setdefault(name, []).append(pick(out).detach().clone().squeeze(0))
    return hook


def images_of(given) -> dict:
    images = [given[name] for name in sorted(given.files) if name.startswith("pixels")]
    if not images:
        return {}
    sizes = torch.tensor([image.shape[1:] for image in images])
    pixels = torch.zeros(len(images), 3, *sizes.max(dim=0).values.tolist())
    for place, image in zip(pixels, images):
        place[:, : image.shape[1], : image.shape[2]] = torch.from_numpy(image)
    return {"pixel_values": pixels, "image_sizes": sizes}


def main(folder: str, inputs: str, out: str) -> None:
    torch.set_num_threads(1)
    given, seen = np.load(inputs), {}
    images = images_of(given)
    # Loading by dtype leaves the frequencies of RoPE in float32; .to(bfloat16) would round them too.
    if images:
        model = LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.bfloat16,
                                                              attn_implementation="eager").eval()
        language = model.model.language_model
        model.model.multi_modal_projector.register_forward_hook(watch(seen, "projector"))
        for layer in model.model.vision_tower.transformer.layers:
            layer.register_forward_hook(watch(seen, "vision"))
    else:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, attn_implementation="eager",
                                                     experts_implementation="eager").eval()
        language = model.model
        for layer in language.layers:
            layer.mlp.gate.register_forward_hook(watch(seen, "experts", lambda out: out[2]))
    assert language.rotary_emb.inv_freq.dtype == torch.float32
    for layer in language.layers:
        layer.register_forward_hook(watch(seen, "hidden"))
    with torch.inference_mode():
        step = model(torch.tensor(given["ids"][None]), use_cache=True, **images)
        results = {name: np.stack([x.float().numpy() for x in arrays]) for name, arrays in seen.items()}
        logits = [step.logits[0]]
        for token in given["steps"].tolist():
            step = model(torch.tensor([[token]]), past_key_values=step.past_key_values, use_cache=True)
            logits.append(step.logits[0])
    np.savez(out, logits=torch.cat(logits).float().numpy(), **results)


if __name__ == "__main__":
    main(*sys.argv[1:])
