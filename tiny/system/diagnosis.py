"""What is wrong with a folder that is no whole checkpoint, and what to do about it.

The readers of `tiny/files/` call this when something is not as they want it. A function is told what was wanted, and
looks at what is there instead: adapters, caches, links to nothing, files of other programs, sizes that no model has.
Read `pictures.py` next.
"""

import re
from collections.abc import Collection
from pathlib import Path

from tiny.config import Config, TinyError, VisionConfig
from tiny.system.reading import check_foreign, missing

SHARD = re.compile(r"(.*)-\d{5}-of-(\d{5})\.safetensors")
MATRICES = 1 << 16  # experts of all layers: the largest models have a quarter of it
ADAPTERS = ("adapter_config.json", "adapter_model.safetensors", "lora.safetensors")
TWO_MODELS = "The weights and the configuration are of two models."


def no_checkpoint(folder: Path) -> TinyError:
    """The error for a folder that is in neither released layout."""
    if not folder.is_dir():
        return TinyError(f"{folder} is not a folder.", "Give the folder that holds the released files, or tiny-mixtral "
                         "or tiny-pixtral, which are here.")
    paths = sorted(folder.iterdir())
    for lost in (path for path in paths if path.is_symlink() and not path.exists()):
        return missing(lost)
    names = ", ".join(path.name for path in paths[:8]) or "nothing"
    remedy = ("Merge the adapter into its model, and give that." if "adapter_config.json" in names else
              "The cache holds no snapshot: fetch the model again." if (folder / "snapshots").is_dir() else
              "Point at a folder in one of the two released layouts.")
    return TinyError(f"{folder} holds neither params.json with consolidated*.safetensors nor config.json with "
                     f"model*.safetensors, nor a GGUF file; found: {names}.", remedy)


def adapters(folder: Path) -> list[str]:
    """A note if an adapter (LoRA) is beside the model."""
    names = [name for name in ADAPTERS if (folder / name).is_file()]
    return [f"an adapter is beside the model ({', '.join(names)}) and not added to it; transformers with peft adds it"
            ] if names else []


def require(files: list[Path], reason: str) -> list[Path]:
    """Return the files if all are there. Raises TinyError if one is not."""
    lost = [path for path in files if not path.is_file()]
    if lost and lost[0].is_symlink():
        raise missing(lost[0])
    if lost:
        names = ", ".join(path.name for path in lost[:8])
        raise TinyError(f"{lost[0].parent} lacks {names}, {reason}.", "Fetch the missing files.")
    return files


def require_shards(files: list[Path]) -> list[Path]:
    """Return the files if those named `...-00001-of-00003` are all there. Raises TinyError if one is not."""
    for start, of in sorted({(match[1], match[2]) for path in files if (match := SHARD.fullmatch(path.name))}):
        names = [f"{start}-{n:05}-of-{of}.safetensors" for n in range(1, min(int(of), 9999) + 1)]
        require([files[0].with_name(name) for name in names], f"of which there are {int(of)}")
    return files


def no_header(path: Path, first: bytes, size: int) -> TinyError:
    """The error for a file whose first bytes, of a header's length, cannot be those of a safetensors file.

    Raises:  TinyError itself, if they are those of a known other kind of file
    """
    check_foreign(path, first)
    return broken(path, f"it begins with {first[:16]!r}" if re.fullmatch(rb"[\s!-~]{16}", first[:16]) else
                  f"it has {size:,} bytes, its header would end at byte {8 + int.from_bytes(first[:8], 'little'):,}")


def broken(path: Path, reason: str) -> TinyError:
    """The error for a file that is not a whole safetensors file."""
    return TinyError(f"{path} is not a whole safetensors file: {reason}.", "Fetch the file again; it may be cut short.")


def misshapen(folder: Path, name: str, shape: tuple[int, ...], wanted: tuple[int, ...]) -> TinyError:
    """The error for a tensor of another shape than the configuration says."""
    if 0 in shape:
        return TinyError(f"{folder}: tensor {name} is empty, {shape}: whatever saved it did not gather its numbers, as "
                         "DeepSpeed with ZeRO-3.", "Gather and save it again: zero_to_fp32.py.")
    return TinyError(f"{folder}: tensor {name} is {shape}, the configuration says {wanted}.", TWO_MODELS)


def unexpected(folder: Path, names: Collection[str]) -> TinyError:
    """The error for tensors that the model does not have."""
    return TinyError(f"{folder} holds {len(names)} tensors that the model has not: {min(names)}.", TWO_MODELS)


def lacking(folder: Path, layout: str, name: str, found: Collection[str]) -> TinyError:
    """The error for a tensor that is not there: what is there in its place, if that can be told."""
    tail = re.search(r"(layers\.\d+\..*|[^.]+\.[^.]+|)$", name)
    other = next((key for key in found if tail and tail[0] and key.endswith("." + tail[0])), None)
    if any(".switch_mlp." in key for key in found):
        return TinyError(f"{folder} lacks the tensor {name}: its experts are stacked as MLX saves them, in switch_mlp.",
                         "Use the checkpoint from which it was made.")
    if other or any(".lora_" in key for key in found):
        what = f"it is there under another name: {other}" if other else "what is there is an adapter (LoRA)"
        return TinyError(f"{folder} lacks the tensor {name}; {what}.",
                         "Merge an adapter into its model and save that; else save it again with save_pretrained.")
    foreign = "embed_tokens.weight" if layout == "mistral" else "tok_embeddings.weight"
    if any(key.endswith(foreign) for key in found):
        return TinyError(f"{folder} lacks the tensor {name}: its tensors have the names of the other layout.",
                         "Give config.json the files model*.safetensors, and params.json consolidated*.safetensors.")
    if name.endswith(("lm_head.weight", "output.weight")):
        heads = [key for key in found if key.startswith(("score.", "classifier.", "v_head.", "value_head."))]
        what = f"a reward model or classifier, with {heads[0]}" if heads else "an embedding model, or it ties both"
        return TinyError(f"{folder} lacks the tensor {name}, the output head: it is {what}.",
                         "Without it no word can be scored: use the model from which this one was made.")
    return TinyError(f"{folder} lacks the tensor {name}.", "Fetch the files again, all of one model.")


def checked(path: Path, config: Config) -> Config:
    """Return the config if its sizes go together. Raises TinyError if not."""
    if config.n_heads % config.n_kv_heads or config.head_dim % 2 or not config.head_dim:
        raise TinyError(f"{path}: {config.n_heads} heads, {config.n_kv_heads} KV heads of {config.head_dim}.",
                        "The KV heads must divide the heads, and head_dim must be even for RoPE.")
    experts = config.moe.num_experts if config.moe else 1
    if config.n_layers * experts > MATRICES or config.vision and config.vision.num_hidden_layers > MATRICES:
        raise TinyError(f"{path}: {config.n_layers:,} layers of {experts:,} experts, or as many of the encoder.",
                        f"No model has more than {MATRICES:,} in all: the file is damaged.")
    if config.moe and config.moe.num_experts_per_tok > config.moe.num_experts:
        raise TinyError(f"{path}: {config.moe.num_experts_per_tok} experts per token of {config.moe.num_experts}.",
                        "num_experts_per_tok can be num_experts at most.")
    if config.vision:
        check_vision(path, config.vision, config.vocab_size)
    return config


def check_vision(path: Path, vision: VisionConfig, vocab_size: int) -> None:
    """Raise TinyError if the sizes of the encoder do not go together."""
    heads, width, patch = vision.num_attention_heads, vision.hidden_size, vision.patch_size
    if width % heads or vision.head_dim % 4:
        raise TinyError(f"{path}: the encoder has {heads} heads in a width of {width}.",
                        "Heads must divide the width into multiples of 4: rows and columns turn pairs of their own.")
    if vision.image_size % patch or vision.max_image_size < patch or vision.num_channels != 3:
        raise TinyError(f"{path}: images of {vision.image_size} pixels, at most {vision.max_image_size}, and "
                        f"{vision.num_channels} channels, patches of {patch} pixels.",
                        "The image size must be a multiple of the patch size, and the channels are red, green, blue.")
    if vision.image_token_id >= vocab_size:
        raise TinyError(f"{path}: image_token_id {vision.image_token_id} is not in the vocabulary of {vocab_size}.",
                        "Use the file of the release; there it is 10.")
