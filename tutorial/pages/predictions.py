"""The tables of what kernels should take on a GPU, for kernels/README.md: floors, predictions, what they come from.

The predictions are those of the record that `python -m kernels.predict` adds to. Times are those of `make gpu`, once
its result is in records/gpu.json; then measured through predicted stands in every row.
"""

import json
import math
import statistics
from pathlib import Path

from kernels.cases import Operation, operations
from kernels.predict import model
from kernels.predict.__main__ import in_use, read_record
from kernels.predict.evidence import resident_blocks
from kernels.predict.model import ANCHORS
from tiny.tools.markdown import table

MEASURED = Path(__file__).parent / "records/gpu.json"


def time_text(microseconds: float) -> str:
    """A time with its unit."""
    return f"{microseconds:.1f} us" if microseconds < 1000 else f"{microseconds / 1000:.2f} ms"


def predictions() -> dict[tuple, dict]:
    """The last row of the record by operation, version and shape."""
    return {(row["operation"], row["version"], row["shape"]): row for row in read_record()}


def measured_times() -> dict[tuple, dict]:
    """What a GPU measured, by operation, version and shape; nothing while none has run."""
    if not MEASURED.exists():
        return {}
    rows = json.loads(MEASURED.read_text(encoding="utf-8"))["table"]
    return {(row["operation"], row["version"], row["shape"]): row for row in rows}


def least_time(operation: str, moved: int, flop: int) -> tuple[float, str]:
    """Microseconds that an H100 needs at least, and what for."""
    memory = moved / (model.COPY if operation in model.COPIES else model.READ)
    arithmetic = flop / (model.MMA_SYNC * model.PEAK)
    return 1e6 * max(memory, arithmetic), "memory" if memory >= arithmetic else "arithmetic"


def ratio(row: dict | None, measured: dict | None) -> float | None:
    """Measured through the middle of the predicted range."""
    return measured["us"] / ((row["low_us"] + row["high_us"]) / 2) if row and measured else None


def floor_row(operation: Operation, shape: str, row: dict | None, measured: dict | None) -> list[str]:
    """One row of the table."""
    moved, flop = operation.floor(**operation.published[shape])
    least, bound = least_time(operation.name, moved, flop)
    found = ratio(row, measured)
    predicted = [f"{time_text(row['low_us'])} to {time_text(row['high_us'])}", row["bound"],
                 ANCHORS[row["anchor"]].name] if row else ["", "", ""]
    return [operation.name, in_use(operation) or "", shape, f"{moved / 1e6:,.2f} MB", f"{flop / 1e9:,.2f}",
            f"{time_text(least)} ({bound})", *predicted, time_text(measured["us"]) if measured else "not yet run",
            *([f"{found:.2f}"] if found else [""] if measured_times() else [])]


def floors_table() -> str:
    """Every operation in use at published sizes: what it moves, the least time for that, and the predicted one."""
    times, known, rows, found = measured_times(), predictions(), [], []
    for operation in operations():
        for shape in operation.published:
            key = (operation.name, in_use(operation), shape)
            rows.append(floor_row(operation, shape, known.get(key), times.get(key)))
            found += [value for value in [ratio(known.get(key), times.get(key))] if value]
    head = ["operation", "version", "shape", "bytes", "GFLOP", "least time on an H100", "predicted, never measured",
            "bound by", "upper end as", "time on a GPU"]
    text = table([*head, "measured / predicted"] if times else head, rows)
    return f"{text}\n\n{measured_text(found)}" if found else text


def measured_text(found: list[float]) -> str:
    """How good the predictions were."""
    worst = max(found, key=lambda value: max(value, 1 / value))
    return (f"Measured through predicted, the middle of the range: the median of {len(found)} rows is "
            f"{statistics.median(found):.2f}, the worst {worst:.2f}.")


def anchors_list() -> str:
    """What the upper ends are taken from."""
    return "\n".join(f"* {kind}: {anchor.name}, {anchor.source}. The factor is 1 / {anchor.share:.2f}."
                     for kind, anchor in ANCHORS.items())


def evidence_table() -> str:
    """Every kernel in use at the first published shape: what ptxas and the disassembler say, and what that gives."""
    rows, seen = [], set()
    for key, row in predictions().items():
        for launch in row["launches"]:
            if launch["kernel"] not in seen and key in current():
                seen.add(launch["kernel"])
                rows.append(evidence_row(row, launch))
    head = ["kernel", "shape", "registers", "blocks of a multiprocessor", "waves", "under way",
            "loads, by bytes of a lane", "past the coherent cache", "of any memory",
            "products of matrices, of all instructions"]
    return table(head, rows)


def current() -> set[tuple]:
    """What is in use now: operation, version and shape."""
    return {(operation.name, in_use(operation), shape) for operation in operations() for shape in operation.published}


def evidence_row(row: dict, launch: dict) -> list[str]:
    """One row of that table."""
    code, blocks = launch["sass"], resident_blocks(launch)
    loads = sorted(code["loads"].items(), key=lambda pair: -int(pair[0]))
    moved = row["bytes"] * launch["sectors"] / sum(part["sectors"] for part in row["launches"])
    waves = math.prod(launch["grid"]) / (model.MULTIPROCESSORS * blocks)
    total = sum(code["loads"].values())
    return [launch["kernel"], f"{row['operation']}, {row['shape']}", str(launch["registers"]), str(blocks),
            f"{waves:.2f}", f"{model.under_way(launch, moved, 'sectors_of_blocks') / 1000:.1f} KB",
            ", ".join(f"{number} of {size}" for size, number in loads), f"{code['constant']} of {total}",
            f"{code['generic']} of {total}",
            f"{code['matrix']} of {code['instructions']}"]
