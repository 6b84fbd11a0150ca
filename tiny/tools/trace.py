"""The command `trace`: run a prompt once and show every array on the way, one row each.

A row says the name that the golden files have too, the shape, the root mean square, the largest magnitude, and how many
numbers are NaN. It finds where damage begins, and shows how the residual stream grows.
"""

import argparse
import json

import numpy as np

from tiny.generate import check_prompt
from tiny.tools import session
from tiny.tools.generate import encode_prompt, open_with_images

BLOCK = 1 << 20  # numbers described at a time: the logits of a long prompt take gigabytes as they are


class RowTrace:
    """A trace that keeps a row for each array, and no array: all arrays of a long prompt take gigabytes."""

    def __init__(self) -> None:
        self.rows: list[dict] = []

    def __setitem__(self, name: str, value: np.ndarray, /) -> None:
        """Describe an array by its numbers that are not NaN. Ids of experts have no root mean square."""
        x = np.asarray(value)
        flat, count, squares, largest = x.ravel(), 0, 0.0, -1.0
        for start in range(0, x.size, BLOCK):
            numbers = np.abs(flat[start : start + BLOCK].astype(np.float64))
            numbers = numbers[~np.isnan(numbers)]
            count, squares = count + numbers.size, squares + float(numbers @ numbers)
            largest = max(largest, float(numbers.max(initial=-1.0)))
        rms = (squares / count) ** 0.5 if count and x.dtype.kind == "f" else None
        self.rows.append({"name": name, "shape": list(x.shape), "dtype": str(x.dtype), "rms": rms,
                          "largest": largest if count else None, "nan": x.size - count})


def main(args: argparse.Namespace) -> None:
    """The command `trace`: a table of all arrays in the order in which they are made, or JSON."""
    prompt = session.read_text(args.prompt)
    model, pictures = open_with_images(args, args.image)
    ids, pixels = encode_prompt(model, prompt, args.image, args.chat)
    check_prompt(model, ids, 1)
    session.load_weights(model, len(ids), [picture.columns * picture.rows for picture in pictures],
                         getattr(args, "memory", None))
    trace = RowTrace()
    with np.errstate(all="ignore"):  # Damaged weights overflow; the table shows it.
        model(ids, images=pixels, trace=trace)
    if args.json:  # JSON has no infinity; null means that there was no number.
        rows = [row | {key: row[key] if np.isfinite(row[key] or 0) else None for key in ("rms", "largest")}
                for row in trace.rows]
        print(json.dumps({"model": str(args.model), "prompt_ids": list(ids), "arrays": rows}, allow_nan=False))
        return
    width = max(len(row["name"]) for row in trace.rows)
    print(f"{'array':<{width}}  {'shape':<17}{'rms':>11}{'largest':>11}{'NaN':>9}")
    for row in trace.rows:
        rms, largest = ("-" if row[key] is None else f"{row[key]:.4g}" for key in ("rms", "largest"))
        shape = " x ".join(map(str, row["shape"]))
        print(f"{row['name']:<{width}}  {shape:<17}{rms:>11}{largest:>11}{row['nan']:>9,}")
