"""What transformers' PixtralVisionModel needs for one picture: the peer of `bench --vision`, a separate program.

    python -I peer_vision.py FOLDER --attention=sdpa --repeats=3 --size=1024

FOLDER is a LLaVA checkpoint in HF's layout, of which only the vision encoder runs. It runs in a process whose path does
not hold this repository: transformers imports a package named `kernels` if it finds one. float32; the threads are
those of OMP_NUM_THREADS.
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
    """Measure, and print one JSON object with the keys of `vision.py`'s own measurement."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--attention", choices=("sdpa", "eager"))
    for name in ("repeats", "size"):
        parser.add_argument(f"--{name}", type=int)
    args = parser.parse_args()
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    model = transformers.LlavaForConditionalGeneration.from_pretrained(
        args.folder, dtype=torch.float32, attn_implementation=args.attention).eval()
    encoder = model.model.vision_tower
    assert encoder.config._attn_implementation == args.attention
    pixels = torch.from_numpy(np.random.default_rng(1).standard_normal((1, 3, args.size, args.size), np.float32))
    seconds, processor = [], []
    with torch.inference_mode():
        for _ in range(args.repeats):
            start, used = time.perf_counter(), time.process_time()
            features = encoder(pixels, image_sizes=torch.tensor([[args.size, args.size]])).last_hidden_state[0]
            seconds.append(time.perf_counter() - start)
            processor.append(time.process_time() - used)
    print(json.dumps({"seconds": statistics.median(seconds), "processor": statistics.median(processor),
                      "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
                      "sample": features[::256, ::64].tolist(),
                      "versions": {"torch": torch.__version__, "transformers": transformers.__version__}}))


if __name__ == "__main__":
    main()
