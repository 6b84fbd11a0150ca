"""The command `inspect`: sizes and tensors of a checkpoint. Only its configuration and headers are read."""

import argparse
import re
from collections import Counter
from dataclasses import asdict

import tiny
from tiny.config import TinyError
from tiny.files.checkpoint import Checkpoint
from tiny.files.packed.array import form_of
from tiny.files.tokenizer_files import find_tokenizer
from tiny.files.weights import expected_shapes
from tiny.tools.memory import PARTS, amount, parameters, part_of, parts, read_headers
from tiny.tools.terminal import one_line

LAYOUTS = {"mistral": "Mistral's (params.json, consolidated*.safetensors)",
           "hf": "Hugging Face's (config.json, model*.safetensors)", "gguf": "GGUF"}


def tensor_rows(checkpoint: Checkpoint, part: str, every: bool) -> list[tuple[str, int, tuple[int, ...], str, int]]:
    """Tensors of a part as (name as stored, how many, shape, dtype, bytes), a row for each kind or for each tensor.

    In the name of a kind, * stands for the numbers of layers and experts.
    """
    kinds: dict[tuple, list[int]] = {}
    for name, shape in expected_shapes(checkpoint.config).items():
        if part_of(name) != part:
            continue
        tensor = checkpoint.tensors[name]
        stored = checkpoint.places[name].name
        kind = stored if every else re.sub(r"\.\d+\.", ".*.", stored)
        kinds.setdefault((kind, shape, form_of(tensor)), []).append(tensor.nbytes)
    return [(kind, len(sizes), shape, dtype, sum(sizes)) for (kind, shape, dtype), sizes in kinds.items()]


def forms(checkpoint: Checkpoint) -> list[str]:
    """What is stored in which form, the largest share first."""
    sizes: Counter[str] = Counter()
    counts = Counter(form_of(tensor) for tensor in checkpoint.tensors.values())
    for tensor in checkpoint.tensors.values():
        sizes[form_of(tensor)] += tensor.nbytes
    return [f"{name} {amount(size)} in {counts[name]:,}" for name, size in sizes.most_common()]


def main(args: argparse.Namespace) -> None:
    """The command `inspect`: layout, configuration, files, tokenizer, tensors, totals."""
    folder = tiny.model_folder(args.folder)
    checkpoint = read_headers(folder)
    print(f"layout     {LAYOUTS[checkpoint.layout]}")
    for file in checkpoint.files:
        print(f"file       {one_line(file.name)}, {amount(file.stat().st_size)}")
    if not checkpoint.files:
        print("file       none: what follows is what the configuration says, in bfloat16 as released")
    try:
        print(f"tokenizer  {one_line(find_tokenizer(folder).name)}")
    except TinyError as error:
        print(f"tokenizer  none ({one_line(error.cause)})")
    print("configuration")
    show_sizes(asdict(checkpoint.config), 2)
    groups = {part: tensor_rows(checkpoint, part, args.all) for part in PARTS.values()}
    width = max(len(row[0]) for table in groups.values() for row in table)
    print(f"tensors{' (* is a number of a layer or an expert)' * (not args.all)}")
    for part, table in groups.items():
        if checkpoint.config.vision:
            print(f"  {part}: {sum(row[1] for row in table):,} tensors, {parts(checkpoint.config)[part]:,} parameters")
        for name, number, shape, dtype, size in table:
            times = "" if args.all else f"{number:>5} x "
            print(f"  {name:<{width}} {times}{str(shape):<15} {dtype:<9} {amount(size):>9}")
    total, active = parameters(checkpoint.config)
    stored = sum(row[4] for table in groups.values() for row in table)
    print(f"{len(checkpoint.tensors):,} tensors, {stored:,} bytes")
    if len(stored_as := forms(checkpoint)) > 1:
        print(f"stored as {', '.join(stored_as)}")
    print(f"{total:,} parameters, {active:,} active for a token")


def show_sizes(sizes: dict, indent: int) -> None:
    """Print the sizes of a configuration; those of a part of it are below its name, indented."""
    for name, value in sizes.items():
        if isinstance(value, dict):
            print(f"{'':{indent}}{name}")
            show_sizes(value, indent + 2)
        elif value not in (None, frozenset()):
            number = (f"{value:,}" if isinstance(value, int) else f"{value:g}" if isinstance(value, float) else
                      ", ".join(map(str, sorted(value))))
            print(f"{'':{indent}}{name:<{24 - indent}} {number}")
