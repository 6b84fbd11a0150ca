"""Mixtral 8x7B and Pixtral 12B from scratch, in NumPy.

The book is this folder's modules, in four parts and in reading order: config, numerics, rms_norm, attention, rope,
kv_cache, router, experts, ops, decoder, mixtral, sampling, generate; chat, tokenizer; image, patch_embed, rope_2d,
vision, adapter, pixtral; chat_v3, tekken. Its appendix is the folder `files/`: params, hf_config, safetensors,
hf_names, weights, tokenizer_files, checkpoint. It is part of the book; what lies below is in `system/`: reading, keys,
whole, free_memory, direct, hub, diagnosis, pictures, messages.
With one hour, read rms_norm, attention, rope, router, experts and decoder.

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
from tiny.files.checkpoint import find_folder, open_checkpoint, open_tokenizer
from tiny.files.streamed import hold
from tiny.files.tokenizer_files import load_tokenizer
from tiny.generate import Token, generate, generate_batch
from tiny.image import image_grid, preprocess
from tiny.mixtral import Mixtral
from tiny.pixtral import Pixtral

__all__ = ["Mixtral", "Pixtral", "TinyError", "Token", "generate", "generate_batch", "image_grid", "load",
           "load_tokenizer", "ops", "preprocess"]

CHECKPOINTS = Path(__file__).parent / "checkpoints"
EMBEDDED = ("tiny-mixtral", "tiny-pixtral")


def load(folder: str | Path, ops: ModuleType = tiny.ops, precision: str = "float32", weights: str = "auto",
         cache: str | None = None) -> Mixtral:
    """Open a checkpoint in either released layout, an embedded one by its name, a snapshot of a Hugging Face cache, or
    a GGUF file.

    Nothing is copied yet.

    weights: "mapped" keeps only views of the files, "resident" keeps float32 copies, "streamed" reads past the page
    cache, for files larger than memory; "auto" takes what fits.
    cache: how its caches store numbers, "float32" or "bfloat16"; by default as the precision.

    A folder without a tokenizer loads; using `model.tokenizer` then says what is missing.

    Raises:  TinyError for a folder, file or tensor that is missing, broken, or of another model
    """
    checkpoint = open_checkpoint(model_folder(folder))
    held, ops = hold(dict(checkpoint.tensors), weights, ops)
    model = Pixtral if checkpoint.config.vision else Mixtral
    return model(checkpoint.config, held, open_tokenizer(checkpoint), ops, precision, checkpoint, cache)


def model_folder(name: str | Path) -> Path:
    """The folder of a model: an embedded one's by its name, a snapshot of a Hugging Face cache, else the path itself.

    Raises:  TinyError if the cache leaves a choice
    """
    return CHECKPOINTS / name if str(name) in EMBEDDED else find_folder(Path(name))
