"""Checkpoints without the model: random weights, or those of another checkpoint, in either released layout.

    python -m tiny.tools.synthetic OUT [--layout mistral|hf] [--dim 1024 ...]

A benchmark needs a model's sizes, not its knowledge; by default those of a Mixtral of 0.8 billion parameters.
Each tensor is made from the seed and its Mistral name when it is written, so both layouts hold the same
model, and a model of any size needs the memory of its largest tensor.
"""

import argparse
import json
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import ml_dtypes
import numpy as np

from tiny.config import HF_NAMES, Config, MoeConfig
from tiny.safetensors import save_safetensors
from tiny.weights import expected_shapes, hf_name, pairs_to_halves

SIZES = {"dim": 1024, "n_layers": 8, "head_dim": 64, "hidden_dim": 3584, "n_heads": 16, "n_kv_heads": 4,
         "vocab_size": 32000, "num_experts": 8, "num_experts_per_tok": 2}


class RandomTensors(Mapping):
    """The tensors of a model by Mistral's names, random; each is made anew whenever it is looked up.

    Norms are ones, embeddings have standard deviation 1, matrices 1 / sqrt(their inputs): what goes into a
    layer with unit variance comes out so.
    """

    def __init__(self, config: Config, seed: int):
        self.shapes, self.seed = expected_shapes(config), seed

    def __getitem__(self, name: str) -> np.ndarray:
        shape = self.shapes[name]
        if len(shape) == 1:
            return np.ones(shape, ml_dtypes.bfloat16)
        random = np.random.Generator(np.random.SFC64([self.seed, zlib.crc32(name.encode())]))
        x = random.standard_normal(shape, dtype=np.float32)
        if name != "tok_embeddings.weight":
            x *= np.float32(shape[1] ** -0.5)
        return x.astype(ml_dtypes.bfloat16)

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)


class HFTensors(Mapping):
    """A model's tensors by Hugging Face's names, the rows of wq and wk in the order of HF's files.

    tensors hold Mistral's names and order; one is converted when it is looked up, and nothing is kept.
    """

    def __init__(self, tensors: Mapping[str, np.ndarray], head_dim: int):
        self.tensors, self.head_dim = tensors, head_dim
        self.names = {hf_name(name): name for name in tensors}

    def __getitem__(self, name: str) -> np.ndarray:
        tensor = self.tensors[self.names[name]]
        rotated = self.names[name].endswith((".wq.weight", ".wk.weight"))
        return pairs_to_halves(tensor, self.head_dim) if rotated else tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


def params_json(config: Config) -> dict:
    """What `params.json` says of a model. Source: the released file, which gives neither theta nor context length."""
    values = {name: getattr(config, name) for name in (*HF_NAMES, "head_dim", "norm_eps", "rope_theta", "max_seq_len")}
    if config.moe is not None:
        values["moe"] = {"num_experts_per_tok": config.moe.num_experts_per_tok,
                         "num_experts": config.moe.num_experts}
    return values


def hf_config_json(config: Config) -> dict:
    """What Hugging Face's `config.json` says of a model. Source: transformers configuration_mixtral.py."""
    values = {hf: getattr(config, name) for name, hf in HF_NAMES.items()}
    family: dict[str, object] = {"model_type": "mistral", "architectures": ["MistralForCausalLM"]}
    if config.moe is not None:
        family = {"model_type": "mixtral", "architectures": ["MixtralForCausalLM"],
                  "num_local_experts": config.moe.num_experts,
                  "num_experts_per_tok": config.moe.num_experts_per_tok}
    return family | values | {"head_dim": config.head_dim, "rms_norm_eps": config.norm_eps,
                              "rope_theta": config.rope_theta, "max_position_embeddings": config.max_seq_len,
                              "sliding_window": None, "hidden_act": "silu", "tie_word_embeddings": False,
                              "torch_dtype": "bfloat16", "bos_token_id": 1, "eos_token_id": 2}


def save_checkpoint(folder: Path, layout: str, config: Config, tensors: Mapping[str, np.ndarray]) -> None:
    """Write a model to a folder in one of the released layouts, "mistral" or "hf", without a tokenizer.

    tensors have Mistral's names and Mistral's order of rows, as `open_tensors` views a file in Mistral's
    layout; such a checkpoint is converted to Hugging Face's layout tensor by tensor.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if layout == "hf":
        name, sizes, tensors = "config.json", hf_config_json(config), HFTensors(tensors, config.head_dim)
    else:
        name, sizes = "params.json", params_json(config)
    save_safetensors(folder / f"{'model' if layout == 'hf' else 'consolidated'}.safetensors", tensors)
    (folder / name).write_text(json.dumps(sizes, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tiny.tools.synthetic",
                                     description="Write a Mixtral checkpoint of random bfloat16 weights.")
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--layout", choices=("mistral", "hf"), default="mistral")
    parser.add_argument("--seed", type=int, default=0)
    for name, value in SIZES.items():
        parser.add_argument("--" + name.replace("_", "-"), type=int, default=value, help=f"default {value}")
    args = vars(parser.parse_args())
    moe = MoeConfig(args["num_experts"], args["num_experts_per_tok"])
    sizes = {name: args[name] for name in SIZES if not name.startswith("num_experts")}
    config = Config(**sizes, norm_eps=1e-5, rope_theta=1e6, max_seq_len=32768, moe=moe)
    save_checkpoint(args["out"], args["layout"], config, RandomTensors(config, args["seed"]))
    count = sum(int(np.prod(shape)) for shape in expected_shapes(config).values())
    print(f"{args['out']}: {count / 1e6:,.1f} million parameters, layout {args['layout']}")


if __name__ == "__main__":
    main()
