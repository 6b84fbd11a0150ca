"""What transformers computes with a checkpoint in Hugging Face's layout; a separate program.

    python -I reference.py FOLDER PROMPTS.json TOKENS OUT.npz

It runs in a process whose path does not hold this repository, because transformers imports a package named
`kernels` if it finds one. For prompt N, a list of ids, OUT holds `logitsN` (T, V), `greedyN` (TOKENS,) and
`gapN` (TOKENS,): by how much the winning logit led. float32, eager attention, eager experts, one thread.
"""

import json
import sys

import numpy as np
import torch
from transformers import AutoModelForCausalLM


def greedy(model, ids: list[int], tokens: int) -> tuple[np.ndarray, list[int], list[float]]:
    """Logits of the prompt, then the argmax token again and again, past any EOS."""
    step = model(torch.tensor([ids]), use_cache=True)
    logits, chosen, gaps = step.logits[0].numpy().copy(), [], []
    for _ in range(tokens):
        best = step.logits[0, -1].topk(2)
        chosen.append(int(best.indices[0]))
        gaps.append(float(best.values[0] - best.values[1]))
        step = model(torch.tensor([chosen[-1:]]), past_key_values=step.past_key_values, use_cache=True)
    return logits, chosen, gaps


def main(folder: str, prompts: str, tokens: str, out: str) -> None:
    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager",
                                                 experts_implementation="eager").eval()
    results = {}
    with open(prompts, encoding="utf-8") as file, torch.inference_mode():
        for n, ids in enumerate(json.load(file)):
            results[f"logits{n}"], results[f"greedy{n}"], results[f"gap{n}"] = greedy(model, ids, int(tokens))
    np.savez(out, **results)


if __name__ == "__main__":
    main(*sys.argv[1:])
