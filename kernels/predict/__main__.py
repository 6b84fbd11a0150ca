"""Predict what every kernel in use takes on an H100: python -m kernels.predict

It adds a row to the record for each operation and published shape whose launches and code have none yet. No row is
ever changed. It needs NVRTC and nvdisasm, no GPU, and some minutes.
"""

import json
import time
from pathlib import Path

from kernels.cases import Operation, operations
from kernels.nvrtc import nvrtc
from kernels.ops import SHIPPED
from kernels.predict.evidence import ARCH, code_of, gather
from kernels.predict.model import VERSION, predict
from kernels.predict.sass import find_nvdisasm
from tiny.system.whole import write_whole
from tiny.tools.terminal import Parser, program

RECORD = Path(__file__).parents[2] / "tutorial/pages/records/predictions.json"


def in_use(operation: Operation) -> str | None:
    """The version that is used for bfloat16."""
    shipped = SHIPPED.get(operation.name)
    return shipped["bfloat16"] if isinstance(shipped, dict) else shipped or operation.versions[-1]


def read_record(path: Path = RECORD) -> list[dict]:
    """The rows of the record, the oldest first."""
    return json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []


def row_of(operation: Operation, shape: str, code: str) -> dict:
    """A prediction with all that it comes from."""
    version, sizes = in_use(operation), operation.published[shape]
    launches, (moved, flop) = gather(operation, sizes, version), operation.floor(**sizes)
    return {"model": VERSION, "date": time.strftime("%Y-%m-%d"), "compiler": f"NVRTC {nvrtc().version} for sm_{ARCH}",
            "operation": operation.name, "version": version, "shape": shape, "code": code, "bytes": moved, "flop": flop,
            **predict(operation.name, launches, moved), "launches": launches}


def add_rows(path: Path, names: list[str]) -> int:
    """Add what the record lacks, of all operations or some, one row at a time; return how many there were."""
    rows = read_record(path)
    known, before = {(row["model"], row["operation"], row["shape"], row["code"]) for row in rows}, len(rows)
    for operation in operations():
        for shape, sizes in operation.published.items() if not names or operation.name in names else ():
            code = code_of(operation, sizes, in_use(operation))
            if (VERSION, operation.name, shape, code) not in known:
                row = row_of(operation, shape, code)
                rows.append(row)
                print(f"{operation.name}, {shape}: {row['low_us']:.1f} to {row['high_us']:.1f} us, bound by "
                      f"{row['bound']}", flush=True)
                write_whole(path, json.dumps({"rows": rows}, indent=1) + "\n")
    return len(rows) - before


def main(argv: list[str] | None = None) -> int:
    """Add to the record; return the exit status."""
    parser = Parser(prog="python -m kernels.predict", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("operations", nargs="*", help="only these")
    parser.add_argument("--record", type=Path, default=RECORD, help="where rows are added")
    args = parser.parse_args(argv)
    find_nvdisasm()
    print(f"{add_rows(args.record, args.operations)} predictions added")
    return 0


if __name__ == "__main__":
    program(main)
