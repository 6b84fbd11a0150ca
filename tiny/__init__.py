"""Mixtral 8x7B and Pixtral 12B from scratch, in NumPy.

The book is this folder's modules, in four parts and in reading order: config, numerics, rms_norm, attention, rope,
kv_cache, router, experts, ops, decoder, mixtral, sampling, generate; chat, tokenizer; image, patch_embed, rope_2d,
vision, adapter, pixtral; chat_v3, tekken. Its appendix is the folder `files/`: params, hf_config, safetensors, weights,
tokenizer_files. With one hour, read rms_norm, attention, rope, router, experts and decoder.

Letters that stand for sizes everywhere:

    T  tokens in this call, all sequences packed       S  rows of keys and values
    D  dim                                             H  n_heads (queries)
    G  n_kv_heads (groups)                             d  head_dim
    F  hidden_dim                                      E  num_experts
    K  num_experts_per_tok                             V  vocab_size
    L  n_layers
"""

from pathlib import Path
from types import ModuleType

import tiny.ops
from tiny.config import TinyError
from tiny.files.hf_config import read_hf_config
from tiny.files.params import read_params
from tiny.files.tokenizer_files import load_tokenizer
from tiny.files.weights import Weights, choose_mode, find_files, open_tensors
from tiny.generate import Token, generate, generate_batch
from tiny.image import image_grid, preprocess
from tiny.mixtral import Mixtral
from tiny.pixtral import Pixtral

__all__ = ["Mixtral", "Pixtral", "TinyError", "Token", "generate", "generate_batch", "image_grid", "load",
           "load_tokenizer", "ops", "preprocess"]

CHECKPOINTS = Path(__file__).parent / "checkpoints"
EMBEDDED = ("tiny-mixtral", "tiny-pixtral")


def load(folder: str | Path, ops: ModuleType = tiny.ops, precision: str = "float32", weights: str = "auto") -> Mixtral:
    """Open a checkpoint in either released layout, or an embedded one by its name. Nothing is copied yet.

    weights: "mapped" keeps only views of the files, "resident" keeps float32 copies, "auto" is resident if that fits
    in half of the free memory. A folder without a tokenizer loads; using `model.tokenizer` then says what is missing.

    Raises:  TinyError for a folder, file or tensor that is missing, broken, or of another model
    """
    folder = model_folder(folder)
    layout, files = find_files(folder)
    config = read_params(folder / "params.json") if layout == "mistral" else read_hf_config(folder / "config.json")
    tensors = open_tensors(layout, files, config)
    tokenizer = load_tokenizer(folder) if [*folder.glob("tokenizer.model*"), *folder.glob("tekken*.json")] else None
    if tokenizer and tokenizer.vocab_size != config.vocab_size:
        raise TinyError(f"{folder}: the tokenizer has {tokenizer.vocab_size} pieces, the model {config.vocab_size}.",
                        "Use the tokenizer that was released with this model.")
    sizes = getattr(tokenizer, "patch_size", None), getattr(tokenizer, "max_image_size", None)
    if config.vision and any(sizes) and sizes != (config.vision.patch_size, config.vision.max_image_size):
        raise TinyError(f"{folder}: the tokenizer's images have up to {sizes[1]} pixels, in patches of {sizes[0]}, "
                        f"the model's {config.vision.max_image_size}, in patches of {config.vision.patch_size}.",
                        "Use the tokenizer that was released with this model.")
    model = Pixtral if config.vision else Mixtral
    return model(config, Weights(tensors, choose_mode(weights, tensors)), tokenizer, ops, precision)


def model_folder(name: str | Path) -> Path:
    """The folder of a model: an embedded one's by its name, else the path itself."""
    return CHECKPOINTS / name if str(name) in EMBEDDED else Path(name)
