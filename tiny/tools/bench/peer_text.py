"""What transformers reaches on a checkpoint in HF's layout: the peer of `bench`, a separate program.

    python -I peer_text.py FOLDER --prefill=512 --decode=16 --repeats=3 --dtype=float32

It runs in a process whose path does not hold this repository: transformers imports a package named `kernels` if it
finds one. sdpa attention, its default experts; the threads are those of OMP_NUM_THREADS. As in `bench` itself, with one
thread its processor time counts.
"""

import argparse
import json
import os
import resource
import statistics
import time
from pathlib import Path

import numpy as np
import torch
import transformers

BEYOND = ("amx_bf16", "avx512_bf16")  # products of bfloat16 numbers, which PyTorch uses where the processor has them


def main() -> None:
    """Measure, and print one JSON object with the keys of `bench`'s own measurement."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    for name in ("prefill", "decode", "repeats"):
        parser.add_argument(f"--{name}", type=int)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"))
    args = parser.parse_args()
    threads = int(os.environ["OMP_NUM_THREADS"])
    clock = time.thread_time if threads == 1 else time.perf_counter
    torch.set_num_threads(threads)
    model = transformers.MixtralForCausalLM.from_pretrained(args.folder, dtype=getattr(torch, args.dtype),
                                                            attn_implementation="sdpa").eval()
    ids = torch.tensor(np.random.default_rng(1).integers(3, model.config.vocab_size, args.prefill))[None]
    prefills, decodes = [], []
    with torch.inference_mode():
        model(ids[:, :16], logits_to_keep=1)
        first = time.time()
        for _ in range(args.repeats + 1):
            start = clock()
            out = model(ids, use_cache=True, logits_to_keep=1)
            prefills.append(args.prefill / (clock() - start))
        for _ in range(args.repeats + 1):
            start = clock()
            for _ in range(args.decode):
                token = out.logits[:, -1:].argmax(-1)
                out = model(token, past_key_values=out.past_key_values, use_cache=True)
            decodes.append(args.decode / (clock() - start))
    used = [flag for flag in BEYOND if flag in Path("/proc/cpuinfo").read_text()] if args.dtype == "bfloat16" else []
    note = f"{args.dtype}, sdpa; instructions that NumPy cannot use: {', '.join(used) or 'none here'}"
    print(json.dumps({"note": note, "first_token": first, "prefill": statistics.median(prefills[1:]),
                      "decode": statistics.median(decodes[1:]),
                      "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
                      "versions": {"torch": torch.__version__, "transformers": transformers.__version__}}))


if __name__ == "__main__":
    main()
