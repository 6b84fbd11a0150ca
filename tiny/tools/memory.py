"""The command `memory`: what a run needs, from the configuration and the headers alone.

The same estimate stands before `generate` and `chat`: a run that cannot fit says so before it loads.
"""

import argparse
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np

import tiny
from tiny.attention import QUERIES
from tiny.config import Config, TinyError, read_hf_config, read_params
from tiny.experts import TOKENS
from tiny.generate import PREFILL
from tiny.numerics import MANY_BYTES
from tiny.weights import choose_mode, expected_shapes, find_files, free_memory, open_tensors

PROGRAM = 100_000_000  # Python, NumPy, the tokenizer and the buffers of BLAS: 47 MB measured, more with more threads.


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint of which only headers were read; `tensors` are stand-ins if there are no weight files."""

    layout: str
    config: Config
    tensors: dict[str, np.ndarray]
    files: list[Path]


@dataclass(frozen=True)
class Estimate:
    """Bytes that a run needs. `stored` are pages of files, which the system can drop and read again."""

    stored: int
    resident: int
    scratch: int
    kv_cache: int
    activations: int

    def peak(self, mode: str) -> int:
        """Memory that a run holds at once and cannot give back."""
        weights = self.resident if mode == "resident" else self.scratch
        return weights + self.kv_cache + self.activations + PROGRAM


def read_headers(folder: Path) -> Checkpoint:
    """Read configuration and headers. Without weight files, stand-ins in bfloat16 have the configuration's shapes.

    Raises:  TinyError as `tiny.load` does
    """
    if folder.is_dir() and not any(folder.glob("*.safetensors")):
        layout = "mistral" if (folder / "params.json").exists() else "hf"
        if layout == "mistral" or (folder / "config.json").exists():
            config = read_config(folder, layout)
            # Arrays of full shape over one stored number: they have sizes, and take no memory.
            tensors = {name: np.broadcast_to(np.zeros((), ml_dtypes.bfloat16), shape)
                       for name, shape in expected_shapes(config).items()}
            return Checkpoint(layout, config, tensors, [])
    layout, files = find_files(folder)
    config = read_config(folder, layout)
    return Checkpoint(layout, config, open_tensors(layout, files, config), files)


def read_config(folder: Path, layout: str) -> Config:
    """The configuration of a folder in one of the layouts."""
    return read_params(folder / "params.json") if layout == "mistral" else read_hf_config(folder / "config.json")


def parameters(config: Config) -> tuple[int, int]:
    """Numbers in all weights, and in those that work on one token: both embeddings, and K of E experts."""
    sizes = {name: math.prod(shape) for name, shape in expected_shapes(config).items()}
    total = sum(sizes.values())
    if config.moe is None:
        return total, total
    experts = sum(size for name, size in sizes.items() if ".experts." in name)
    return total, total - experts + experts // config.moe.num_experts * config.moe.num_experts_per_tok


def kv_bytes(config: Config, itemsize: int) -> int:
    """Bytes of keys and values that one token leaves in all layers."""
    return 2 * config.n_layers * config.n_kv_heads * config.head_dim * itemsize


def activation_bytes(config: Config, context: int) -> int:
    """The most that one pass of a prefill holds in arrays, in float32.

    Two places can be the peak. In attention: the residual stream, the layer's input, the normalised copy, the
    queries, keys and values, the rotated ones or the answer, and the scores of one block of queries. In the experts,
    if one gets all tokens: stream, input, copy, sum, the tokens gathered, its answer, and the hidden states of a
    block of tokens, twice, and those of the block before.
    """
    T, D, F = min(context, PREFILL), config.dim, config.hidden_dim
    query, kv = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
    heads = config.n_heads // config.n_kv_heads
    scores = min(T, QUERIES) * heads * (context + 4 * config.head_dim)
    attention = T * (3 * D + 2 * query + 3 * kv + 2 * config.head_dim) + scores + T * max(D, query)
    experts = T * (6 * D + config.head_dim + 16) + min(2 * T, 3 * TOKENS) * F  # 16: ids and choices
    return 4 * (max(attention, experts) + 2 * config.vocab_size)


def scratch_bytes(tensors: Mapping[str, np.ndarray]) -> int:
    """The largest block of weights that `linear` converts at a time."""
    blocks = [0]
    for tensor in tensors.values():
        if tensor.ndim > 1 and (tensor.dtype != np.float32 or tensor.ndim > 2):
            rows = 4 * math.prod(tensor.shape[1:])
            blocks.append(rows * min(len(tensor), max(1, MANY_BYTES // rows)))
    return max(blocks)


def estimate(config: Config, tensors: Mapping[str, np.ndarray], context: int) -> Estimate:
    """What a run needs whose prompt and answer have `context` tokens together."""
    converted = [tensor for name, tensor in tensors.items() if name != "tok_embeddings.weight"
                 and (tensor.dtype != np.float32 or tensor.ndim > 2)]
    return Estimate(stored=sum(tensor.nbytes for tensor in tensors.values()),
                    resident=4 * sum(tensor.size for tensor in converted), scratch=scratch_bytes(tensors),
                    kv_cache=context * kv_bytes(config, 4), activations=activation_bytes(config, context))


def require_fit(config: Config, tensors: Mapping[str, np.ndarray], mode: str, context: int) -> None:
    """Raise TinyError if a run needs more than the memory that is free."""
    need, free = estimate(config, tensors, context), free_memory()
    if need.peak(mode) <= free:
        return
    cause = (f"A run of {context:,} tokens with weights {mode} needs {amount(need.peak(mode))} of memory, "
             f"and {amount(free)} are free.")
    if mode == "resident" and need.peak("mapped") <= free:
        raise TinyError(cause, f"Use --weights mapped, which needs {amount(need.peak('mapped'))}.")
    if need.kv_cache > free / 2:
        raise TinyError(cause, f"Ask for fewer tokens: the KV cache takes {amount(kv_bytes(config, 4))} for each.")
    raise TinyError(cause, "Close other programs, or use a machine with more memory.")


def amount(n: float) -> str:
    """Bytes in short, in decimal units: 93.4 GB."""
    for unit, word in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if n >= unit:
            return f"{n / unit:.{1 if n >= 10 * unit else 2}f} {word}"
    return f"{n:.0f} bytes"


def check_context(config: Config, context: int | None) -> int:
    """The number of tokens to answer for: what was asked, else the whole context. Raises TinyError."""
    context = config.max_seq_len if context is None else context
    if not 1 <= context <= config.max_seq_len:
        raise TinyError(f"A context of {context:,} tokens is asked for; the model has {config.max_seq_len:,}.",
                        f"Give --context a number from 1 to {config.max_seq_len}.")
    return context


def main(args: argparse.Namespace) -> None:
    """The command `memory`: a table, and which way of holding the weights fits."""
    folder = tiny.model_folder(args.folder)
    checkpoint = read_headers(folder)
    config, tensors = checkpoint.config, checkpoint.tensors
    context = check_context(config, args.context)
    need, free = estimate(config, tensors, context), free_memory()
    total, active = parameters(config)
    kinds = ", ".join(sorted({str(tensor.dtype) for tensor in tensors.values()}))
    where = f"in {len(checkpoint.files)} file(s)" if checkpoint.files else "as released; no weight files here"
    per_token = kv_bytes(config, 4) / 1024
    print(f"{args.folder}: {total:,} parameters, {active:,} active for a token; a run of {context:,} tokens")
    for label, value, remark in (
            ("weights in the file", need.stored, f"{kinds}, {where}"),
            ("weights as float32", need.resident, "resident only"),
            ("scratch for a block of weights", need.scratch, "mapped: converted, used, overwritten"),
            ("KV cache in float32", need.kv_cache, f"{per_token:.4g} KiB a token"),
            ("activations of a prefill pass", need.activations, f"at most; {min(context, PREFILL):,} tokens a pass"),
            ("Python, NumPy, BLAS", PROGRAM, "about"),
            ("peak, resident", need.peak("resident"), ""),
            ("peak, mapped", need.peak("mapped"), "and file pages, which the system can drop and read again"),
            ("free memory now", free, "")):
        print(f"  {label:<32}{amount(value):>10} {value:>19,} bytes   {remark}".rstrip())
    print(f"  (a KV cache in bfloat16, as on a GPU, would take {amount(context * kv_bytes(config, 2))}, "
          f"{per_token / 2:.4g} KiB a token)")
    print(verdict(config, tensors, need, free))


def verdict(config: Config, tensors: Mapping[str, np.ndarray], need: Estimate, free: int) -> str:
    """Which mode "auto" takes, and whether it fits."""
    mode = choose_mode("auto", tensors)
    if need.peak(mode) <= free:
        text = f"--weights auto takes {mode}: it fits."
    elif need.peak("mapped") <= free:
        text = f"--weights auto takes {mode}: it does not fit, --weights mapped does."
    else:
        return f"--weights auto takes {mode}: it does not fit in the free memory, in neither mode."
    if mode == "mapped" and need.stored > free:
        total, active = parameters(config)
        text += (f" But the file is larger than the free memory: each token reads up to "
                 f"{amount(need.stored * active / total)} from disk.")
    return text
