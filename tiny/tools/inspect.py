"""The command `inspect`: sizes and tensors of a checkpoint. Only its configuration and headers are read."""

import argparse
import re
from dataclasses import asdict

import tiny
from tiny.config import TinyError
from tiny.tokenizer import find_tokenizer
from tiny.tools.memory import Checkpoint, amount, parameters, read_headers
from tiny.weights import expected_shapes, hf_name

LAYOUTS = {"mistral": "Mistral's (params.json, consolidated*.safetensors)",
           "hf": "Hugging Face's (config.json, model*.safetensors)"}


def rows(checkpoint: Checkpoint, every: bool) -> list[tuple[str, int, tuple[int, ...], str, int]]:
    """Tensors as (name as stored, how many, shape, dtype, bytes), one row for each kind or for each tensor.

    In the name of a kind, * stands for the numbers of layers and experts.
    """
    kinds: dict[tuple, list[int]] = {}
    for name, shape in expected_shapes(checkpoint.config).items():
        tensor = checkpoint.tensors[name]
        stored = name if checkpoint.layout == "mistral" else hf_name(name)
        kind = stored if every else re.sub(r"\.\d+\.", ".*.", stored)
        kinds.setdefault((kind, shape, str(tensor.dtype)), []).append(tensor.nbytes)
    return [(kind, len(sizes), shape, dtype, sum(sizes)) for (kind, shape, dtype), sizes in kinds.items()]


def main(args: argparse.Namespace) -> None:
    """The command `inspect`: layout, configuration, files, tokenizer, tensors, totals."""
    folder = tiny.model_folder(args.folder)
    checkpoint = read_headers(folder)
    print(f"layout     {LAYOUTS[checkpoint.layout]}")
    for file in checkpoint.files:
        print(f"file       {file.name}, {amount(file.stat().st_size)}")
    if not checkpoint.files:
        print("file       none: what follows is what the configuration says, in bfloat16 as released")
    try:
        print(f"tokenizer  {find_tokenizer(folder).name}")
    except TinyError as error:
        print(f"tokenizer  none ({error.cause})")
    print("configuration")
    for name, value in asdict(checkpoint.config).items():
        for key, number in value.items() if isinstance(value, dict) else [(name, value)]:
            if number is not None:
                print(f"  {key:<20} {number:,}" if isinstance(number, int) else f"  {key:<20} {number:g}")
    table = rows(checkpoint, args.all)
    width = max(len(row[0]) for row in table)
    print(f"tensors{' (* is a number of a layer or an expert)' * (not args.all)}")
    for name, number, shape, dtype, size in table:
        times = "" if args.all else f"{number:>5} x "
        print(f"  {name:<{width}} {times}{str(shape):<15} {dtype:<9} {amount(size):>9}")
    total, active = parameters(checkpoint.config)
    print(f"{len(checkpoint.tensors):,} tensors, {sum(row[4] for row in table):,} bytes")
    print(f"{total:,} parameters, {active:,} active for a token")
