"""Whether a model fits into a GPU, from its configuration alone, said before anything is uploaded.

    need(config, "int8", tokens=4096).total           # bytes
    require_room(config, "bfloat16", 4096, free)      # a TinyError with what would fit
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from kernels.attention import BLOCKS, SPLIT_KEYS
from tiny.config import Config, TinyError
from tiny.files.packed.int8 import MATRICES
from tiny.files.weights import expected_shapes
from tiny.generate import PREFILL
from tiny.tools.memory import amount, kv_bytes

ITEMSIZES = {"float32": 4, "bfloat16": 2, "int8": 2}  # bytes of a number; of int8, those that are no matrices
SCALE = 4  # bytes of the scale of a row
STEPS = 2  # graphs of steps that a cache keeps: as texts of a batch end, each number of sequences has its own


class Need(NamedTuple):
    """Bytes on the device: weights, keys and values, and the arrays of one pass."""

    weights: int
    cache: int
    work: int

    @property
    def total(self) -> int:
        """All of them."""
        return sum(self)


def weight_bytes(config: Config, form: str) -> int:
    """Bytes of all weights as float32, bfloat16 or int8 with a scale for each row of a matrix."""
    total = 0
    for name, shape in expected_shapes(config).items():
        if form == "int8" and MATRICES.search(name):
            total += math.prod(shape) + SCALE * math.prod(shape[:-1])
        else:
            total += math.prod(shape) * ITEMSIZES[form]
    return total


def work_bytes(config: Config, tokens: int, itemsize: int, patches: Sequence[int] = (), sequences: int = 1) -> int:
    """Bytes of the arrays of a pass over the longest part of a prompt, if none takes the place of another in a layer.

    For each token: the residual stream, its norm, the layer's two answers; queries, keys, values and what attention
    returns; the hidden states of its K experts and their answers. Images are encoded one at a time, beside the text
    of a part; the vectors of the largest wait for the parts that take them. The scores of a token of each sequence are
    left. The steps that follow may need more, if sequences are many.
    """
    T, largest = min(tokens, PREFILL), max(patches, default=0)
    seen = T * config.dim + vision_numbers(config, largest) if patches else 0
    prompt = (max(T * layer_numbers(config), seen) + largest * config.dim) * itemsize
    return max(prompt, step_bytes(config, tokens, itemsize, sequences)) + 4 * config.vocab_size * sequences


def layer_numbers(config: Config) -> int:
    """The numbers that a layer makes of a token."""
    chosen = config.moe.num_experts_per_tok if config.moe else 1
    heads = 2 * config.n_heads + 2 * config.n_kv_heads
    return 4 * config.dim + heads * config.head_dim + chosen * (2 * config.hidden_dim + config.dim)


def step_bytes(config: Config, tokens: int, itemsize: int, sequences: int) -> int:
    """Bytes of the graphs of steps: in each every layer has arrays of its own, and the parts of attention's answer.

    While one is recorded, its arrays are there twice. Others are kept only where sequences may end.
    """
    splits = max(sequences, min(BLOCKS // config.n_kv_heads, sequences * tokens // SPLIT_KEYS))
    parts = 4 * splits * config.n_heads * (config.head_dim + 2)
    layer = sequences * layer_numbers(config) * itemsize + parts
    return min(sequences + 1, STEPS + 1) * (config.n_layers * layer + 4 * config.vocab_size * sequences)


def vision_numbers(config: Config, patches: int) -> int:
    """The numbers of a pass of the vision encoder over some patches, and of the adapter behind it.

    For each patch: its pixels, and the same parts of a layer as for a token; then its vector as the decoder has it,
    twice.
    """
    vision = config.vision
    if vision is None:
        return 0
    pixels = vision.num_channels * vision.patch_size**2
    layer = 4 * vision.hidden_size + 4 * vision.num_attention_heads * vision.head_dim + 2 * vision.intermediate_size
    return patches * (pixels + layer + 2 * config.dim)


def need(config: Config, form: str, tokens: int, precision: str = "bfloat16", patches: Sequence[int] = (),
         sequences: int = 1) -> Need:
    """What a run needs on a device: weights in this form, `tokens` of prompt and answers in all sequences together.

    precision: how activations, keys and values are stored; patches: how many each image has
    """
    itemsize = ITEMSIZES[precision]
    return Need(weight_bytes(config, form), tokens * kv_bytes(config, itemsize),
                work_bytes(config, tokens, itemsize, patches, sequences))


def most_tokens(config: Config, form: str, free: int, precision: str = "bfloat16",
                patches: Sequence[int] = (), sequences: int = 1) -> int:
    """How many tokens fit beside the weights into this many bytes; 0 if not even one does."""
    fits, too_many = 0, 1
    while need(config, form, too_many, precision, patches, sequences).total <= free:
        fits, too_many = too_many, 2 * too_many
    while too_many - fits > 1:
        middle = (fits + too_many) // 2
        if need(config, form, middle, precision, patches, sequences).total <= free:
            fits = middle
        else:
            too_many = middle
    return fits


def require_room(config: Config, form: str, tokens: int, free: int, precision: str = "bfloat16",
                 device: str = "the GPU", patches: Sequence[int] = (), sequences: int = 1) -> None:
    """Raise TinyError, with what would fit, if a run needs more than the free bytes of a device."""
    needed = need(config, form, tokens, precision, patches, sequences)
    if needed.total <= free:
        return
    rest, longest = amount(needed.cache + needed.work), sequences * config.max_seq_len
    cause = (f"Weights as {form} ({amount(needed.weights)}) and {count(tokens)} ({rest}) need "
             f"{amount(needed.total)}; {amount(free)} of {device} are free.")
    fits = [f"weights as {smaller}, {amount(weight_bytes(config, smaller))}, with up to {count(most)}"
            for smaller in ITEMSIZES if weight_bytes(config, smaller) < needed.weights
            for most in [min(most_tokens(config, smaller, free, precision, patches, sequences), longest)] if most]
    fewer = most_tokens(config, form, free, precision, patches, sequences)
    if fewer:
        fits.insert(0, f"at most {count(fewer)}")
    raise TinyError(cause, f"What fits: {'; or '.join(fits)}." if fits else
                    "No form of these weights fits: use a GPU with more memory, or --device cpu.")


def count(tokens: int) -> str:
    """A number of tokens in words."""
    return f"{tokens:,} token{'s' if tokens != 1 else ''}"
