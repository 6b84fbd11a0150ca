"""The command `quantize`: write a checkpoint with its matrices as int8, and say what that costs.

Every row of a matrix becomes whole numbers with one float32 scale, those of `tiny/files/packed/int8.py`. OUT is in
Hugging Face's layout, in compressed-tensors' form `pack-quantized`, which transformers reads too. It gets its name when
all of it is written, read again, and compared with its source on a text.
"""

import argparse
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

import tiny
from tiny.config import TinyError
from tiny.files.checkpoint import Checkpoint
from tiny.files.hf_names import hf_prefixes
from tiny.files.packed.array import Packed
from tiny.files.packed.gguf_model import is_gguf
from tiny.files.packed.int8 import MATRICES, dequantise_rows, quantise_rows
from tiny.files.weights import Tensors, Weights, release_pages
from tiny.mixtral import Mixtral
from tiny.sampling import log_softmax
from tiny.system.reading import read_json
from tiny.system.whole import whole_folder
from tiny.tools.convert import LAYOUTS, check_out, check_space, copy_files, keep_config, open_source
from tiny.tools.convert.tokenizer_json import write_for_transformers
from tiny.tools.convert.write import (
    SHARD,
    Head,
    HFTensors,
    hf_config_json,
    main_dtype,
    write_json,
    write_shards,
)
from tiny.tools.memory import amount
from tiny.tools.routing import read_text
from tiny.tools.session import note, progress
from tiny.tools.terminal import one_line

BLOCK = 4 << 20  # bytes of float32 that are rounded at a time
TOKENS = 512  # of a text, at most: its first ones
TEXT = """The river was high after the rain, and the bridge at the mill had lost three of its boards. "We must mend it
before the market," said the miller, "or nobody will bring us any corn." His daughter counted the coins in the jar.
There were not enough for new wood. So she took the old door of the barn, sawed it into planks, and carried them down to
the water, one after another, until it was dark."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m tiny quantize`."""
    option = parser.add_argument
    option("source", metavar="DIR", help="a folder in a released layout, or an embedded model")
    option("out", metavar="OUT", help="the folder to write; it must not exist")
    option("--keep", choices=("output",), help="leave the output matrix, which scores the words, as it is")
    option("--text", metavar="FILE", help=f"the text on which both are compared, its first {TOKENS} tokens; default: a "
           "short story")


def main(args: argparse.Namespace) -> None:
    """Quantise one checkpoint. Raises TinyError, where possible before anything is written."""
    folder, out = tiny.model_folder(args.source), Path(args.out)
    text = TEXT if args.text is None else read_text(Path(args.text))
    check_out(folder, out)
    if is_gguf(folder):
        raise TinyError(f"{folder} is a GGUF file.", "Convert it first: python -m tiny convert, with --dtype bfloat16.")
    source = open_source(folder, None)
    refuse_packed(folder, source.tensors.values())
    tensors = Quantised(source, args.keep or "")
    before, after = (sum(head.size for head in heads.values()) for heads in (tensors.plain, tensors.heads))
    check_space(out.parent, after)
    note(f"{args.source}: {LAYOUTS[source.layout]}, {len(source.tensors)} tensors, {amount(before)}")
    done = progress(after, "quantising")
    try:
        with whole_folder(out) as part:
            for line in write(folder, part, source, tensors, done):
                note(line)
            done.close()
            found = compare(source, tiny.load(part, weights="mapped"), text)
    except BlockingIOError as error:
        raise TinyError(f"{error} by another run.", "Wait until it is done, or name another folder.") from None
    finally:
        done.close()
    show(tensors, found)
    print(f"{one_line(out)}: int8 in HF's layout, {len(source.tensors)} tensors, {amount(after)} of {amount(before)}")


def refuse_packed(folder: Path, tensors: Iterable[Any]) -> None:
    """Raise TinyError if a checkpoint is quantised."""
    if kinds := {tensor.kind for tensor in tensors if isinstance(tensor, Packed)}:
        raise TinyError(f"{folder} is quantised already: {', '.join(sorted(kinds))}.",
                        "Give the model from which it was made: numbers that are rounded twice lose more.")


class Rounded(NamedTuple):
    """The sums of a kind of matrix: how many, bytes before and after, squares of numbers and errors, largest error."""

    matrices: int = 0
    before: int = 0
    after: int = 0
    squares: float = 0.0
    errors: float = 0.0
    largest: float = 0.0


class Quantised(Tensors):
    """A model's tensors by Hugging Face's names, each matrix as words of int32, scales and a shape.

    A matrix is rounded when one of these is looked up, and kept until that is done for another. errors has what this
    changed, by the kind of a matrix: its name in Mistral's layout without numbers.
    """

    errors: dict[str, Rounded]

    def __init__(self, source: Checkpoint, keep: str):
        self.tensors, self.errors = HFTensors(source.tensors, source.config), {}
        self.plain = {name: Head.of(self.tensors.tensors[ours]) for name, ours in self.tensors.ours.items()}
        self.heads: dict[str, Head] = {}
        self.last: tuple[str, dict[str, np.ndarray]] = "", {}
        for name, head in self.plain.items():
            ours, module = self.tensors.ours[name], name.removesuffix("weight")
            if not MATRICES.search(ours) or keep and ours.startswith(keep):
                self.heads[name] = head
                continue
            out, width = head.shape
            words = -(-width // 4)
            self.heads |= {f"{module}weight_packed": Head(np.dtype(np.int32), (out, words), 4 * out * words),
                           f"{module}weight_scale": Head(np.dtype(np.float32), (out, 1), 4 * out),
                           f"{module}weight_shape": Head(np.dtype(np.int64), (2,), 16)}
        super().__init__(self.heads)

    def __getitem__(self, name: str) -> np.ndarray:
        if name in self.plain:
            return self.tensors[name]
        module, _, field = name.rpartition("weight_")
        if self.last[0] != module:
            self.last = module, self.rounded(f"{module}weight")
        return self.last[1][field]

    def rounded(self, name: str) -> dict[str, np.ndarray]:
        """Round one matrix, some rows at a time. Raises TinyError if it holds NaN or infinity."""
        weight = self.tensors[name]
        out, width = weight.shape
        raw, scales = np.zeros((out, -(-width // 4) * 4), np.uint8), np.empty((out, 1), np.float32)
        kind = re.sub(r"\.\d+\.", ".*.", self.tensors.ours[name])
        squares, errors, largest = 0.0, 0.0, 0.0
        step = max(1, BLOCK // (4 * width))
        for start in range(0, out, step):
            rows = slice(start, start + step)
            try:
                whole, scale = quantise_rows(weight[rows])
            except ValueError:
                raise TinyError(f"{name} holds NaN or infinity, which int8 cannot store.",
                                "Use a checkpoint whose numbers are finite.") from None
            # Words hold whole numbers plus 128, four of a row, lowest byte first.
            raw[rows, :width], scales[rows] = whole.astype(np.int16) + 128, scale[:, None]
            numbers = weight[rows].astype(np.float64)
            error = dequantise_rows(whole, scale) - numbers
            squares, errors = squares + float((numbers**2).sum()), errors + float((error**2).sum())
            largest = max(largest, float(np.abs(error).max()))
        release_pages(weight)
        old = self.errors.get(kind, Rounded())
        self.errors[kind] = Rounded(old.matrices + 1, old.before + weight.nbytes,
                                    old.after + raw.nbytes + scales.nbytes, old.squares + squares,
                                    old.errors + errors, max(old.largest, largest))
        return {"packed": raw.view(np.int32), "scale": scales, "shape": np.array(weight.shape, np.int64)}


def quantization_config(ignored: list[str]) -> dict:
    """What config.json says of these weights. Source: compressed-tensors 0.20, quant_config.py, quant_args.py."""
    weights = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel", "dynamic": False}
    return {"quant_method": "compressed-tensors", "format": "pack-quantized", "quantization_status": "compressed",
            "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}}, "ignore": ignored}


def write(folder: Path, part: Path, source: Checkpoint, tensors: Quantised, done: tqdm) -> list[str]:
    """Write all files of the new folder. Return what could not be kept."""
    write_json(part / "config.json", hf_config_json(source.config, main_dtype(tensors.plain)))
    said = keep_config(source, "hf", part)
    # Patterns, because transformers 5 has other names in memory than the files.
    ignored = ["re:.*lm_head$"] * (f"{hf_prefixes(source.config).output}weight" in tensors.heads)
    ignored += ["re:.*gate$"] * (source.config.moe is not None)
    write_json(part / "config.json", read_json(part / "config.json") | {
        "quantization_config": quantization_config(ignored)})
    write_shards(part, tensors.heads, tensors, SHARD, done.update)
    return said + copy_files(folder, part, source) + write_for_transformers(part, source.config)


class Compared(NamedTuple):
    """Two models on one text: tokens, mean losses in nats, KL divergence, and shares of tokens and of experts."""

    tokens: int
    before: float
    after: float
    divergence: float
    likeliest: float
    experts: float | None


def compare(source: Checkpoint, rounded: Mixtral, text: str) -> Compared | None:
    """Run a checkpoint and the rounded one on a text; None without a tokenizer."""
    if rounded._tokenizer is None:
        note("no tokenizer: the two are not compared on a text")
        return None
    ids = [rounded.tokenizer.bos_id, *rounded.tokenizer.encode(text)][: min(TOKENS, source.config.max_seq_len)]
    weights: Any = source.tensors  # of which "mapped" keeps nothing
    return compare_ids(type(rounded)(source.config, Weights(weights, "mapped")), rounded, ids)


def compare_ids(plain: Mixtral, rounded: Mixtral, ids: list[int]) -> Compared:
    """Run both models on the tokens of a text.

    likeliest: share of positions with the same likeliest token; experts: share of chosen experts that are the same
    """
    (p, chosen), (q, others) = (run(model, ids) for model in (plain, rounded))
    same = None if chosen is None or others is None else float(
        (chosen[..., None] == others[..., None, :]).any(axis=-1).mean())
    loss, other = (float(-x[np.arange(len(ids) - 1), ids[1:]].mean()) for x in (p, q))
    return Compared(len(ids), loss, other, float((np.exp(p) * (p - q)).sum(1).mean()),
                    float((p.argmax(1) == q.argmax(1)).mean()), same)


def run(model: Mixtral, ids: list[int]) -> tuple[np.ndarray, np.ndarray | None]:
    """Log-probabilities after every token, and each token's experts in every layer. Shapes:  -> (T, V), (L, T, K)."""
    trace: dict[str, np.ndarray] = {}
    logits = model(ids, trace=trace)
    names = sorted(name for name in trace if re.fullmatch(r"experts\d+", name))
    return log_softmax(logits), np.stack([trace[name] for name in names]) if names else None


def show(tensors: Quantised, found: Compared | None) -> None:
    """Print what was rounded, by kind, and what that changes on a text."""
    width = max(map(len, tensors.errors))
    print(f"{'matrices':<{width}} number    bytes      int8   error  largest")
    for kind, sums in tensors.errors.items():
        share = (sums.errors / sums.squares) ** 0.5 if sums.squares else 0.0
        print(f"{kind:<{width}} {sums.matrices:>6} {amount(sums.before):>9} {amount(sums.after):>9} {share:>7.2%} "
              f"{sums.largest:>8.2g}")
    kept = {re.sub(r"\.\d+\.", ".*.", tensors.tensors.ours[name]) for name in tensors.heads if name in tensors.plain}
    print(f"kept as they are: {', '.join(sorted(kept))}")
    if found is not None:
        experts = "" if found.experts is None else f", experts changed {1 - found.experts:.2%}"
        print(f"on a text of {found.tokens} tokens: loss {found.before:.4f} -> {found.after:.4f}, KL divergence "
              f"{found.divergence:.2e}, likeliest token changed {1 - found.likeliest:.2%}{experts}")
