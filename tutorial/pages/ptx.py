"""The tables of what the interpreter of PTX found, for kernels/README.md, from a record of `python -m kernels.ptx`."""

import json
from pathlib import Path

from kernels.ptx.instructions import KINDS
from tiny.tools.markdown import table

RECORD = Path(__file__).parent / "records/ptx.json"


def read_record() -> dict:
    """The record."""
    return json.loads(RECORD.read_text(encoding="utf-8"))


def share(values: list[float]) -> str:
    """The least of some shares in per cent; 100 only if all are whole."""
    least = min(values)
    return "all" if least == 1 else f"{min(100 * least, 99.99):.4g} %"


def executed_table() -> str:
    """Every version: how many cases agree with NumPy, and how many of their numbers have the emulator's bits."""
    record, rows = read_record(), []
    for key in dict.fromkeys((row["operation"], row["version"]) for row in record["rows"]):
        cases = [row for row in record["rows"] if (row["operation"], row["version"]) == key]
        worst = [max((row["error"] for row in cases if row["precision"] == precision), default=None)
                 for precision in ("float32", "bfloat16")]
        rows.append([key[0], key[1] or "", f"{sum(row['ok'] for row in cases)} of {len(cases)}",
                     *("no" if error is None else f"{error:.1e}" for error in worst),
                     *(share([row["equal"][name] for row in cases]) for name in ("gpu", "plain", "stand-in"))])
    head = ["operation", "version", "as NumPy", "error, float32", "error, bfloat16", "emulator's bits",
            "without contraction", "and with one exponential"]
    found = table(["compiled by", "cases that agree with NumPy"],
                  [[name, f"{n['agree']} of {n['cases']}"] for name, n in record["runs"].items()])
    return f"{found}\n\n{table(head, rows)}\n\nExecuted {record['date']}, {record['machine']}."


def counted_table() -> str:
    """Every kernel: dynamic instructions of a warp by kind, in the last case that ran it."""
    kernels: dict[str, dict] = {}
    for row in read_record()["rows"]:
        kernels |= row["instructions"]
    kinds = [kind for kind in KINDS if any(kind in found["kinds"] for found in kernels.values())]
    rows = [[name, f"{found['warps']}", f"{sum(found['kinds'].values()) / found['warps']:,.0f}", f"{found['most']:,}",
             *(f"{found['kinds'].get(kind, 0) / found['warps']:,.0f}" for kind in kinds)]
            for name, found in sorted(kernels.items())]
    return table(["kernel", "warps", "mean", "most", *kinds], rows)
