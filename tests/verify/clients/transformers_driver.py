"""What transformers makes of the same ids: log-likelihoods of the ends of texts. This runs in its environment.

    python -I transformers_driver.py FOLDER TEXTS.json OUT.json

TEXTS is a list of [ids, number of those that are given]; OUT gets a list of [log-likelihood of the rest, whether each
of its tokens is the most likely one]. float32, eager attention, one thread; the logarithms are taken in float64.
"""

import json
import sys

import torch
from transformers import AutoModelForCausalLM


def main(folder: str, texts: str, out: str) -> None:
    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    results = []
    with open(texts, encoding="utf-8") as file, torch.inference_mode():
        for ids, given in json.load(file):
            scores = torch.log_softmax(model(torch.tensor([ids])).logits[0, given - 1:-1].double(), dim=-1)
            rest = torch.tensor(ids[given:])
            results.append([float(scores.gather(1, rest[:, None]).sum()), bool((scores.argmax(1) == rest).all())])
    with open(out, "w", encoding="utf-8") as file:
        json.dump(results, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
