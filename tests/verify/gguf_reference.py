"""Write tests/golden/gguf_blocks.npz: random blocks of each type of GGUF, and their numbers by the package gguf.

Scales of every kind are among them: negative ones, zeros of both signs, the largest and the smallest of float16.

    python tests/verify/gguf_reference.py

The package imports nothing of this repository, and this file nothing but the path: pip install gguf==0.19.0
"""

from pathlib import Path

import gguf
import numpy as np

OUT = Path(__file__).parents[1] / "golden/gguf_blocks.npz"
ROWS = 64
# Where a block has its float16 numbers. Source: ggml-common.h, block_q4_0 and the others
SCALES = {"Q4_0": (0,), "Q4_1": (0, 2), "Q5_0": (0,), "Q5_1": (0, 2), "Q8_0": (0,), "Q4_K": (0, 2), "Q5_K": (0, 2),
          "Q6_K": (208,)}
ODD = np.array([0.0, -0.0, 65504, -65504, 6e-8, -6e-8, 6.1e-5, 1], np.float16)


def main():
    rng, arrays = np.random.default_rng(16), {}
    for name, places in SCALES.items():
        kind = gguf.GGMLQuantizationType[name]
        numbers, size = gguf.GGML_QUANT_SIZES[kind]
        blocks = rng.integers(0, 256, (ROWS * (2 if numbers == 32 else 1), size), dtype=np.uint8)
        for at in places:
            scales = rng.standard_normal(len(blocks)).astype(np.float16)
            scales[: len(ODD)] = rng.permutation(ODD)
            blocks[:, at : at + 2] = scales[:, None].view(np.uint8)
        raw = blocks.reshape(ROWS, -1)
        arrays |= {f"{name}/raw": raw, f"{name}/numbers": gguf.dequantize(raw, kind)}
    np.savez_compressed(OUT, **arrays)


if __name__ == "__main__":
    main()
