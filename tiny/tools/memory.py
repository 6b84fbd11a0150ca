"""The command `memory`: what a run needs, from the configuration and the headers alone.

`generate` and `chat` make the same estimate first: a run that cannot fit says so before it loads.
"""

import argparse
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import tiny
from tiny.adapter import ROWS
from tiny.attention import block_size
from tiny.config import Config, TinyError, VisionConfig
from tiny.experts import TOKENS
from tiny.files.checkpoint import LAYOUTS, Checkpoint, open_checkpoint, read_config
from tiny.files.hf_names import find_places
from tiny.files.packed.array import form_of
from tiny.files.streamed import least_memory
from tiny.files.weights import converted, expected_shapes
from tiny.generate import PREFILL
from tiny.kv_cache import DTYPES
from tiny.numerics import MANY_BYTES
from tiny.system.free_memory import choose_mode, free_memory
from tiny.tools.prompt_images import Picture, measure_picture, picture_of
from tiny.tools.releases import stand_ins
from tiny.tools.terminal import one_line

TURN = 3  # tokens of a question without words: BOS, [INST], [/INST]
PROGRAM = 100_000_000  # Python, NumPy, the tokenizer and the buffers of BLAS: 47 MB measured, more with more threads.

# What the names of tensors begin with.
PARTS = {"": "decoder", "vision_encoder": "vision encoder", "vision_language_adapter": "adapter"}


@dataclass(frozen=True)
class Estimate:
    """Bytes that a run needs. `stored` are pages of files, which the system can drop and read again."""

    stored: int
    resident: int
    scratch: int
    kv_cache: int
    activations: int
    decoding: int = 0
    streaming: int = 0

    def peak(self, mode: str) -> int:
        """Memory that a run holds at once and cannot give back. Images are decoded before the pass begins.

        Streamed weights can do with little, and take what is left.
        """
        weights = self.resident if mode == "resident" else self.scratch + self.streaming * (mode == "streamed")
        return weights + self.kv_cache + max(self.activations, self.decoding) + PROGRAM


def read_headers(folder: Path) -> Checkpoint:
    """Read configuration and headers. Without weight files, stand-ins in bfloat16 have the configuration's shapes.

    Raises:  TinyError as `tiny.load` does
    """
    bare = next((layout for layout, (name, *_) in LAYOUTS.items() if (folder / name).is_file()), None)
    if bare is None or any(folder.glob("*.safetensors")):
        return open_checkpoint(folder)
    path, config = read_config(folder, bare)
    return Checkpoint(bare, path, config, [], stand_ins(config), find_places(bare, config, expected_shapes(config), ()))


def parameters(config: Config) -> tuple[int, int]:
    """Numbers in all weights, and in those that work on one token: both embeddings, and K of E experts."""
    sizes = {name: math.prod(shape) for name, shape in expected_shapes(config).items()}
    total = sum(sizes.values())
    if config.moe is None:
        return total, total
    experts = sum(size for name, size in sizes.items() if ".experts." in name)
    return total, total - experts + experts // config.moe.num_experts * config.moe.num_experts_per_tok


def parts(config: Config) -> dict[str, int]:
    """Numbers in the weights of the decoder, the vision encoder and the adapter."""
    counts = dict.fromkeys(PARTS.values(), 0)
    for name, shape in expected_shapes(config).items():
        counts[part_of(name)] += math.prod(shape)
    return counts


def part_of(name: str) -> str:
    """Which part of a model a tensor belongs to, by its name in Mistral's layout."""
    return PARTS[name.partition(".")[0] if name.startswith("vision_") else ""]


def kv_bytes(config: Config, itemsize: int) -> int:
    """Bytes of keys and values that one token leaves in all layers."""
    return 2 * config.n_layers * config.n_kv_heads * config.head_dim * itemsize


def layer_numbers(T: int, context: int, width: int, hidden: int, heads: tuple[int, int, int], causal: bool) -> int:
    """The most numbers that a pass of T tokens holds in one layer, of the decoder or of the encoder.

    Two places can be the peak. In attention: the residual stream, the layer's input, the normalised copy, the
    queries, keys and values, the rotated ones or the answer, the scores of one block of queries, and one head's keys
    and values again. In the experts, if one gets all tokens: stream, input, copy, sum, the tokens gathered, its
    answer, and the hidden states of a block of tokens, twice, and those of the block before.

    heads: numbers of heads and KV heads, and the width of one
    """
    n_heads, n_kv_heads, head_dim = heads
    query, kv = n_heads * head_dim, n_kv_heads * head_dim
    group = n_heads // n_kv_heads
    scores = min(T, block_size(group, context, causal)) * group * (context + 4 * head_dim) + 2 * context * head_dim
    attention = T * (3 * width + 2 * query + 3 * kv + 2 * head_dim) + scores + T * max(width, query)
    experts = T * (6 * width + head_dim + 16) + min(2 * T, 3 * TOKENS) * hidden  # 16: ids and choices
    return max(attention, experts)


def activation_bytes(config: Config, context: int, patches: Sequence[int] = ()) -> int:
    """The most that a prefill holds in arrays, in float32.

    With images, of `patches` each: all pixels, one image that is encoded beside the tokens of a pass, and its vectors,
    which wait for the passes that take them.
    """
    heads = config.n_heads, config.n_kv_heads, config.head_dim
    T = min(context, PREFILL)
    numbers = layer_numbers(T, context, config.dim, config.hidden_dim, heads, causal=True)
    if patches and config.vision:
        pixels = sum(patches) * config.vision.num_channels * config.vision.patch_size**2
        largest = max(patches)
        encoding = T * config.dim + encoder_numbers(config, config.vision, largest)
        numbers = pixels + largest * config.dim + max(numbers, encoding)
    return 4 * (numbers + 2 * config.vocab_size)


def encoder_numbers(config: Config, vision: VisionConfig, N: int) -> int:
    """The most numbers that encoder and adapter hold for an image, beside the pixels and the tokens' vectors.

    Three places can be the peak: the patches as squares of pixels, twice; a layer; the adapter,
    whose GELU holds seven arrays of the width of the decoder for a block of patches.
    """
    width = vision.hidden_size
    squares = N * (2 * vision.num_channels * vision.patch_size**2 + width + 16)  # 16: positions
    heads = vision.num_attention_heads, vision.num_attention_heads, vision.head_dim
    layer = layer_numbers(N, N, width, vision.intermediate_size, heads, causal=False)
    return max(squares, layer, N * (width + 2 * config.dim) + 7 * min(N, ROWS) * config.dim)


def scratch_bytes(tensors: Mapping[str, np.ndarray]) -> int:
    """The largest block of weights that `linear` converts at a time."""
    blocks = [0]
    for name, tensor in tensors.items():
        if tensor.ndim > 1 and converted(name, tensor):
            rows = 4 * math.prod(tensor.shape[1:])
            blocks.append(rows * min(len(tensor), max(1, MANY_BYTES // rows)))
    return max(blocks)


def estimate(config: Config, tensors: Mapping[str, np.ndarray], context: int,
             patches: Sequence[int] = (), decoding: int = 0, cache: str = "float32") -> Estimate:
    """What a run needs: prompt and answer of `context` tokens together, images with these numbers of patches.

    decoding: bytes that decoding the largest of the images takes; cache: how keys and values are stored
    """
    resident = 4 * sum(tensor.size for name, tensor in tensors.items() if converted(name, tensor))
    return Estimate(stored=sum(tensor.nbytes for tensor in tensors.values()), resident=resident,
                    scratch=scratch_bytes(tensors), kv_cache=context * kv_bytes(config, DTYPES[cache].itemsize),
                    activations=activation_bytes(config, context, patches), decoding=decoding,
                    streaming=least_memory(tensors)[1])


def require_fit(config: Config, tensors: Mapping[str, np.ndarray], mode: str, context: int,
                patches: Sequence[int] = (), cache: str = "float32") -> int:
    """The bytes that a run leaves. Raises TinyError if it needs more memory than is free."""
    need, free = estimate(config, tensors, context, patches, cache=cache), free_memory()
    if need.peak(mode) <= free:
        return free - need.peak(mode)
    cause = (f"A run of {context:,} tokens with weights {mode} needs {amount(need.peak(mode))} of memory, "
             f"and {amount(free)} are free.")
    if mode == "resident" and need.peak("mapped") <= free:
        raise TinyError(cause, f"Use --weights mapped, which needs {amount(need.peak('mapped'))}.")
    if need.kv_cache > free / 2:
        half = " With --cache bfloat16 it takes half." if cache == "float32" else ""
        each = amount(kv_bytes(config, DTYPES[cache].itemsize))
        raise TinyError(cause, f"Ask for fewer tokens: the KV cache takes {each} for each.{half}")
    raise TinyError(cause, "Close other programs, or use a machine with more memory.")


def amount(n: float) -> str:
    """Bytes in short, in decimal units: 93.4 GB. Libraries for this are larger than these three lines."""
    for unit, word in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if n >= unit:
            return f"{n / unit:.{1 if n >= 10 * unit else 2}f} {word}"
    return f"{n:.0f} bytes"


def check_context(config: Config, context: int | None) -> int:
    """The number of tokens to answer for: what was asked, else the whole context. Raises TinyError."""
    context = config.max_seq_len if context is None else context
    if not 1 <= context <= config.max_seq_len:
        raise TinyError(f"The context asked for is {context:,} tokens; the model has {config.max_seq_len:,}.",
                        f"Give --context a number from 1 to {config.max_seq_len}.")
    return context


def images_of(config: Config, names: Sequence[str]) -> list[Picture]:
    """Pictures by their sizes, "1024x768", or in files; without any, the largest that the model takes.

    Raises:  TinyError for a model that reads text only, or a name that is neither
    """
    if config.vision is None:
        if names:
            raise TinyError("Images were given, and this model reads text only.", "Leave --image out.")
        return []
    side = config.vision.max_image_size
    pictures = []
    for name in names or [f"{side}x{side}"]:
        size = re.fullmatch(r"(\d{1,9})[xX×](\d{1,9})", name)
        if size and not Path(name).exists():
            pictures.append(picture_of(f"an image of {size[1]} x {size[2]}", int(size[1]), int(size[2]), config.vision))
        elif Path(name).exists():
            pictures.append(measure_picture(name, config.vision))
        else:
            raise TinyError(f"--image {name} is no size and no file.", "Write WIDTHxHEIGHT, as in 1024x768, or a path.")
    return pictures


def main(args: argparse.Namespace) -> None:
    """The command `memory`: a table, and which way of holding the weights fits."""
    folder = tiny.model_folder(args.folder)
    checkpoint = read_headers(folder)
    config, tensors = checkpoint.config, checkpoint.tensors
    context, pictures = check_context(config, args.context), images_of(config, args.image)
    of_images = sum(picture.tokens for picture in pictures) if args.image else 0
    if of_images > context:
        raise TinyError(f"The images take {of_images:,} tokens, and the context has {context:,}.",
                        "Count fewer images, or smaller ones.")
    patches = [picture.columns * picture.rows for picture in pictures] if args.image else []
    decoding = max((picture.decoding for picture in pictures), default=0) if args.image else 0
    need, free = estimate(config, tensors, context, patches, decoding, args.cache), free_memory()
    total, active = parameters(config)
    kinds = ", ".join(sorted({form_of(tensor) for tensor in tensors.values()}))
    where = f"in {len(checkpoint.files)} file(s)" if checkpoint.files else "as released; no weight files here"
    size, other = ("float32", "bfloat16") if args.cache == "float32" else ("bfloat16", "float32")
    per_token, otherwise = (kv_bytes(config, DTYPES[name].itemsize) for name in (size, other))
    print(f"{one_line(args.folder)}: {total:,} parameters, {active:,} active for a token; a run of {context:,} tokens")
    if config.vision:
        print("  " + ", ".join(f"{count:,} in the {part}" for part, count in parts(config).items()))
    passes = f"{min(context, PREFILL):,} tokens a pass{', one image at a time' * bool(patches)}"
    for label, value, remark in (
            ("weights in the file", need.stored, f"{kinds}, {where}"),
            ("weights as float32", need.resident, "resident only"),
            ("scratch for a block of weights", need.scratch, "mapped: converted, used, overwritten"),
            (f"KV cache in {size}", need.kv_cache, f"{per_token / 1024:.4g} KiB a token"),
            ("activations of a prefill pass", need.activations, f"at most; {passes}"),
            *([("decoding of the largest image", decoding, "about; before the pass")] if decoding else []),
            ("Python, NumPy, BLAS", PROGRAM, "about"),
            ("peak, resident", need.peak("resident"), ""),
            ("peak, mapped", need.peak("mapped"), "and file pages, which the system can drop and read again"),
            ("peak, streamed", need.peak("streamed"), "at least; what is left holds weights as they are stored"),
            ("free memory now", free, "")):
        print(f"  {label:<32}{amount(value):>10} {value:>19,} bytes   {remark}".rstrip())
    print(f"  (--cache {other}: a KV cache in {other} takes {amount(context * otherwise)}, "
          f"{otherwise / 1024:.4g} KiB a token)")
    for picture in pictures:
        print(image_line(config, picture, context))
    print(verdict(config, tensors, need, free))


def image_line(config: Config, picture: Picture, context: int) -> str:
    """What one image costs, and how many of its size the context holds beside BOS and the marks of a user turn."""
    cost = [amount(picture.tokens * kv_bytes(config, itemsize)) for itemsize in (4, 2)]
    fitting = max(0, context - TURN) // picture.tokens
    return (f"  {picture}\n    its keys and values take {cost[0]}, in bfloat16 {cost[1]}; {context:,} tokens hold "
            f"{fitting:,} such image{'s' * (fitting != 1)}")


def verdict(config: Config, tensors: Mapping[str, np.ndarray], need: Estimate, free: int) -> str:
    """Which mode "auto" takes, and whether it fits."""
    mode = choose_mode("auto", tensors)
    if need.peak(mode) <= free:
        text = f"--weights auto takes {mode}: it fits."
    elif need.peak("mapped") <= free:
        text = f"--weights auto takes {mode}: it does not fit, --weights mapped does."
    else:
        return f"--weights auto takes {mode}: it does not fit in the free memory, in neither mode."
    if mode != "resident" and need.stored > free:
        total, active = parameters(config)
        text += (f" But the file is larger than the free memory: each token reads up to "
                 f"{amount(need.stored * active / total)} from disk.")
    return text
