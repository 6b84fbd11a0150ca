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

from tiny.config import VISION_SIZES, Config, MoeConfig, TinyError, VisionConfig
from tiny.hf_config import HF_NAMES
from tiny.safetensors import save_safetensors
from tiny.weights import ROTATED, expected_shapes, head_dim_of, hf_name, hf_prefixes, pairs_to_halves

SIZES = {"dim": 1024, "n_layers": 8, "head_dim": 64, "hidden_dim": 3584, "n_heads": 16, "n_kv_heads": 4,
         "vocab_size": 32000, "num_experts": 8, "num_experts_per_tok": 2}


class RandomTensors(Mapping):
    """The tensors of a model by Mistral's names, random; each is made anew whenever it is looked up.

    Norms are ones, embeddings and biases have standard deviation 1, matrices 1 / sqrt(their inputs): what goes
    into a layer with unit variance comes out so.
    """

    def __init__(self, config: Config, seed: int):
        self.shapes, self.seed = expected_shapes(config), seed

    def __getitem__(self, name: str) -> np.ndarray:
        shape = self.shapes[name]
        if name.endswith("norm.weight") or name.endswith("ln_pre.weight"):
            return np.ones(shape, ml_dtypes.bfloat16)
        random = np.random.Generator(np.random.SFC64([self.seed, zlib.crc32(name.encode())]))
        x = random.standard_normal(shape, dtype=np.float32)
        if name != "tok_embeddings.weight":  # A bias has one input.
            x *= np.float32(np.prod(shape[1:]) ** -0.5)
        return x.astype(ml_dtypes.bfloat16)

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)


class HFTensors(Mapping):
    """A model's tensors by Hugging Face's names, the rows of wq and wk in the order of HF's files.

    tensors hold Mistral's names and order; one is converted when it is looked up, and nothing is kept.
    """

    def __init__(self, tensors: Mapping[str, np.ndarray], config: Config):
        self.tensors, self.config, prefixes = tensors, config, hf_prefixes(config)
        self.names = {hf_name(name, prefixes): name for name in tensors}

    def __getitem__(self, name: str) -> np.ndarray:
        ours = self.names[name]
        tensor = self.tensors[ours]
        return pairs_to_halves(tensor, head_dim_of(ours, self.config)) if ours.endswith(ROTATED) else tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


def params_json(config: Config) -> dict:
    """What `params.json` says of a model. Source: the released files, which leave out theta or context length."""
    values = {name: getattr(config, name) for name in (*HF_NAMES, "head_dim", "norm_eps", "rope_theta", "max_seq_len")}
    if config.moe is not None:
        values["moe"] = {"num_experts_per_tok": config.moe.num_experts_per_tok,
                         "num_experts": config.moe.num_experts}
    if config.vision is not None:
        values["vision_encoder"] = {name: getattr(config.vision, name) for name in (*VISION_SIZES, "rope_theta")}
        if config.vision.max_image_size != config.vision.image_size:
            values["vision_encoder"]["max_image_size"] = config.vision.max_image_size
    return values


def hf_config_json(config: Config) -> dict:
    """What Hugging Face's `config.json` says of a model.

    Source:  transformers configuration_mixtral.py; the released file of Pixtral 12B, which leaves some sizes out that
             are written here
    """
    values = {hf: getattr(config, name) for name, hf in HF_NAMES.items()}
    family: dict[str, object] = {"model_type": "mistral", "architectures": ["MistralForCausalLM"]}
    if config.moe is not None:
        family = {"model_type": "mixtral", "architectures": ["MixtralForCausalLM"],
                  "num_local_experts": config.moe.num_experts,
                  "num_experts_per_tok": config.moe.num_experts_per_tok}
    text = family | values | {"head_dim": config.head_dim, "rms_norm_eps": config.norm_eps,
                              "rope_theta": config.rope_theta, "max_position_embeddings": config.max_seq_len,
                              "sliding_window": None, "hidden_act": "silu", "tie_word_embeddings": False,
                              "torch_dtype": "bfloat16", "bos_token_id": 1, "eos_token_id": 2}
    return text if config.vision is None else llava_json(config.vision, text)


def llava_json(vision: VisionConfig, text: dict) -> dict:
    """The `config.json` of a LLaVA model around a text model.

    Raises:  TinyError for images larger than image_size, which that file cannot tell
    """
    if vision.max_image_size != vision.image_size:
        raise TinyError(f"Images may have {vision.max_image_size} pixels, the encoder is for {vision.image_size}; "
                        "config.json has one number for both.", "Keep Mistral's layout.")
    sizes = {name: getattr(vision, name) for name in VISION_SIZES if name != "image_token_id"}
    return {"model_type": "llava", "architectures": ["LlavaForConditionalGeneration"], "ignore_index": -100,
            "image_seq_length": 1, "image_token_index": vision.image_token_id, "projector_hidden_act": "gelu",
            "vision_feature_layer": -1, "vision_feature_select_strategy": "full", "tie_word_embeddings": False,
            "torch_dtype": text.pop("torch_dtype"), "text_config": text,
            "vision_config": {"model_type": "pixtral", "hidden_act": "silu", "head_dim": vision.head_dim,
                              "rope_theta": vision.rope_theta, "tie_word_embeddings": False} | sizes}


def save_checkpoint(folder: Path, layout: str, config: Config, tensors: Mapping[str, np.ndarray]) -> None:
    """Write a model to a folder in one of the released layouts, "mistral" or "hf", without a tokenizer.

    tensors have Mistral's names and Mistral's order of rows, as `open_tensors` views a file in Mistral's
    layout; such a checkpoint is converted to Hugging Face's layout tensor by tensor.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if layout == "hf":
        name, sizes, tensors = "config.json", hf_config_json(config), HFTensors(tensors, config)
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
