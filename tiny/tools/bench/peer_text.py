"""What transformers reaches on a checkpoint in HF's layout: the peer of `bench`, a separate program.

    python -I peer_text.py FOLDER --prefill=512 --decode=16 --repeats=3

It runs in a process whose path does not hold this repository: transformers imports a package named `kernels` if it
finds one. float32, sdpa attention, its default experts; the threads are those of OMP_NUM_THREADS.
"""

import argparse
import json
import os
import resource
import statistics
import time

import numpy as np
import torch
import transformers


def main() -> None:
    """Measure, and print one JSON object with the keys of `bench`'s own measurement."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    for name in ("prefill", "decode", "repeats"):
        parser.add_argument(f"--{name}", type=int)
    args = parser.parse_args()
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    model = transformers.MixtralForCausalLM.from_pretrained(args.folder, dtype=torch.float32,
                                                            attn_implementation="sdpa").eval()
    ids = torch.tensor(np.random.default_rng(1).integers(3, model.config.vocab_size, args.prefill))[None]
    prefills, decodes = [], []
    with torch.inference_mode():
        model(ids[:, :16], logits_to_keep=1)
        first = time.time()
        for _ in range(args.repeats + 1):
            start = time.perf_counter()
            out = model(ids, use_cache=True, logits_to_keep=1)
            prefills.append(args.prefill / (time.perf_counter() - start))
        for _ in range(args.repeats + 1):
            start = time.perf_counter()
            for _ in range(args.decode):
                token = out.logits[:, -1:].argmax(-1)
                out = model(token, past_key_values=out.past_key_values, use_cache=True)
            decodes.append(args.decode / (time.perf_counter() - start))
    print(json.dumps({"first_token": first, "prefill": statistics.median(prefills[1:]),
                      "decode": statistics.median(decodes[1:]),
                      "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
                      "versions": {"torch": torch.__version__, "transformers": transformers.__version__}}))


if __name__ == "__main__":
    main()
