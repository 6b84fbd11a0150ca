"""Checkpoints without the model: random weights, in either released layout.

    python -m tiny.tools.synthetic OUT [--layout mistral|hf] [--dim 1024 ...]

A benchmark needs a model's sizes, not its knowledge; by default those of a Mixtral of 0.8 billion parameters.
Each tensor is made from the seed and its Mistral name when it is written, so both layouts hold the same
model, and a model of any size needs the memory of its largest tensor.
"""

import zlib
from pathlib import Path

import ml_dtypes
import numpy as np

from tiny.config import Config, MoeConfig
from tiny.files.weights import Tensors, expected_shapes
from tiny.tools.convert.write import save_checkpoint
from tiny.tools.terminal import Parser, check_numbers, program

SIZES = {"dim": 1024, "n_layers": 8, "head_dim": 64, "hidden_dim": 3584, "n_heads": 16, "n_kv_heads": 4,
         "vocab_size": 32000, "num_experts": 8, "num_experts_per_tok": 2}


class RandomTensors(Tensors):
    """The tensors of a model by Mistral's names, random; each is made again whenever it is looked up.

    Norms are ones, embeddings and biases have standard deviation 1, matrices 1 / sqrt(their inputs): what goes
    into a layer with unit variance comes out with it.
    """

    def __init__(self, config: Config, seed: int):
        self.shapes, self.seed = expected_shapes(config), seed
        super().__init__(self.shapes)

    def __getitem__(self, name: str) -> np.ndarray:
        shape = self.shapes[name]
        if name.endswith("norm.weight") or name.endswith("ln_pre.weight"):
            return np.ones(shape, ml_dtypes.bfloat16)
        random = np.random.Generator(np.random.SFC64([self.seed, zlib.crc32(name.encode())]))
        x = random.standard_normal(shape, dtype=np.float32)
        if name != "tok_embeddings.weight":  # A bias has one input.
            x *= np.float32(np.prod(shape[1:]) ** -0.5)
        return x.astype(ml_dtypes.bfloat16)


def main() -> None:
    parser = Parser(prog="python -m tiny.tools.synthetic",
                    description="Write a Mixtral checkpoint of random bfloat16 weights.")
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--layout", choices=("mistral", "hf"), default="mistral")
    parser.add_argument("--seed", type=int, default=0)
    for name, value in SIZES.items():
        parser.add_argument("--" + name.replace("_", "-"), type=int, default=value, help=f"default {value}")
    options = parser.parse_args()
    check_numbers(options, dict.fromkeys(SIZES, (1, 2**20)) | {"n_layers": (1, 1000), "seed": (0, 2**63)})
    args = vars(options)
    moe = MoeConfig(args["num_experts"], args["num_experts_per_tok"])
    sizes = {name: args[name] for name in SIZES if not name.startswith("num_experts")}
    config = Config(**sizes, norm_eps=1e-5, rope_theta=1e6, max_seq_len=32768, moe=moe)
    save_checkpoint(args["out"], args["layout"], config, RandomTensors(config, args["seed"]))
    count = sum(int(np.prod(shape)) for shape in expected_shapes(config).values())
    print(f"{args['out']}: {count / 1e6:,.1f} million parameters, layout {args['layout']}")


if __name__ == "__main__":
    program(main)
