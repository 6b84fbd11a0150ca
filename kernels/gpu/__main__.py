"""The script for a GPU, behind `make gpu`: does everything work there, is it right, and how fast is it?

    python -m kernels.gpu [--out runs/gpu] [--steps agree,time]

It needs a CUDA image with CuPy, and ends by itself within 8 minutes. Every step runs in its own process with its own
time limit, so that a crash or a hang costs one step; OUT/results.json is written after each. What it compares with,
torch and transformers, is left out where it is not installed, and so is a step for which too little time is left.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[2]
LIMIT = 465.0  # seconds for all steps; what remains of 8 minutes is for starting and for the table
TOGETHER = 4  # steps that measure no time run beside each other
NO_GPU = 2  # exit status


class Step(NamedTuple):
    """A step: its name, the words for `kernels.gpu.steps`, seconds at most, and whether others may run beside it."""

    name: str
    words: tuple[str, ...]
    seconds: float
    together: bool = False


def plan() -> list[Step]:
    """All steps in order: what the machine is, what is right, then what is fast, the whole models first."""
    from kernels.cases import operations
    from kernels.gpu.models import AGREE, RELEASES
    names = [operation.name for operation in operations()]
    return [Step("device", ("device",), 45.0),
            *(Step(name, (name,), 45.0, True) for name in ("bfloat16", "cubin", "sm_90a", "graph")),
            Step("compile", ("compile",), 90.0),
            *(Step(f"agree {name}", ("agree", name), 45.0, True) for name in names),
            *(Step(f"model {form}", ("model", form), 60.0, True) for form in AGREE),
            Step("copy", ("copy",), 30.0), Step("read", ("read",), 30.0), Step("cublas", ("cublas",), 45.0),
            *(Step(f"speed {name}", ("speed", name), 60.0) for name in RELEASES),
            *(Step(f"time {name}", ("time", name), 30.0) for name in names),
            *(Step(f"transformers {name}", ("transformers", name), 60.0) for name in list(RELEASES)[1:]),
            Step("torch", ("torch",), 45.0), Step("memcheck", ("sanitizer", "memcheck"), 60.0),
            Step("racecheck", ("sanitizer", "racecheck"), 60.0), Step("sdpa", ("sdpa",), 30.0),
            *(Step(f"compiled {name}", ("compiled", name), 120.0) for name in list(RELEASES)[1:])]


def run_step(command: Sequence[str], seconds: float) -> dict:
    """Run one step: {"ok", "seconds", "rows", "error" if it failed}. Rows printed before a crash or the limit count.

    The step has its own process group, so that whatever it started ends with it.
    """
    start, late = time.monotonic(), False
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=err, start_new_session=True)
        try:
            child.wait(seconds)
        except subprocess.TimeoutExpired:
            late = True
        finally:
            end_group(child)
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode(errors="replace"))
    rows = [row for line in texts[0].splitlines() if (row := read_row(line)) is not None]
    result = {"ok": child.returncode == 0 and not late, "seconds": round(time.monotonic() - start, 1), "rows": rows}
    if not result["ok"]:
        said = texts[1].strip().splitlines()
        result["error"] = (f"Stopped after {seconds:.0f} seconds." if late else said[-1][:600] if said else
                           f"Ended with status {child.returncode}, without a word.")
    return result


def end_group(child: subprocess.Popen) -> None:
    """End a step and everything that it started."""
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    child.wait()


def read_row(line: str) -> dict | None:
    """One JSON object of a step's output; None for anything else that was printed, or cut off."""
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None


def batches(steps: Sequence[Step]) -> Iterator[list[Step]]:
    """Steps in their order, those that may run beside each other together."""
    batch: list[Step] = []
    for step in steps:
        if batch and not (step.together and batch[-1].together):
            yield batch
            batch = []
        batch.append(step)
    if batch:
        yield batch


def run_all(steps: Sequence[Step], path: Path, limit: float = LIMIT,
            command: Callable[[tuple[str, ...]], list[str]] | None = None) -> dict:
    """Run steps in order, and write what is known to `path` after each. One that would not fit is left out.

    Returns early, and writes nothing, if the first step, which finds the GPU, fails.
    """
    from tiny.system.whole import write_whole

    command = command or (lambda words: [sys.executable, "-m", "kernels.gpu.steps", *words])
    start = time.monotonic()
    steps_done: dict[str, dict] = {}
    results: dict[str, Any] = {"date": time.strftime("%Y-%m-%d"), "sources": version_of_sources(), "steps": steps_done}
    path.parent.mkdir(parents=True, exist_ok=True)

    def run(step: Step) -> dict:
        left = limit - (time.monotonic() - start)
        if left < step.seconds / 2:
            return {"ok": False, "seconds": 0.0, "rows": [],
                    "error": f"Left out: it may take {step.seconds:.0f} seconds, and {max(left, 0):.0f} were left."}
        return run_step(command(step.words), min(step.seconds, left))

    for batch in batches(steps):
        with ThreadPoolExecutor(TOGETHER) as pool:
            running = {pool.submit(run, step): step.name for step in batch}
            for done in as_completed(running):
                name, found = running[done], done.result()
                steps_done[name] = found
                if name == steps[0].name and not found["ok"]:
                    return results
                print(f"{name:32} {found['seconds']:6.1f} s  {found.get('error', 'ok')}", flush=True)
                results["table"] = rows_of_table(results)
                write_whole(path, json.dumps(results, indent=1) + "\n")
    return results


def version_of_sources() -> str:
    """The commit that is measured, or "unknown"."""
    try:
        done = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True)
    except FileNotFoundError:
        return "unknown"
    return done.stdout.strip() or "unknown"


def ceilings(results: dict) -> tuple[float, float]:
    """Bytes and FLOP per microsecond that this GPU reached; 0 for what was not measured.

    Bytes by a copy or by reading, whichever is faster; FLOP by cuBLAS.
    """
    def best(step: str, key: str) -> float:
        return max((row.get(key, 0.0) for row in results["steps"].get(step, {}).get("rows", ())), default=0.0)
    return max(best("copy", "TB_per_s"), best("read", "TB_per_s")) * 1e6, best("cublas", "TFLOP_per_s") * 1e6


def rows_of_table(results: dict) -> list[dict]:
    """One row for each kernel version and shape: time, floor, the fraction of it that is reached, and torch's time.

    The floor is the time of the bytes at the speed of a copy or of reading, whichever is faster, or of the operations
    at that of cuBLAS, if that is more.
    """
    bandwidth, arithmetic = ceilings(results)
    steps = results["steps"]
    peers = {(row["operation"], row["shape"]): row["us"] for row in steps.get("torch", {}).get("rows", ())}
    rows = []
    for row in (row for name, step in steps.items() if name.startswith("time ") for row in step["rows"] if "us" in row):
        floors = [row["bytes"] / bandwidth if bandwidth else 0.0, row["flop"] / arithmetic if arithmetic else 0.0]
        floor = max(floors) if all(floors) or not row["flop"] else 0.0  # a floor needs both ceilings
        rows.append({"operation": row["operation"], "version": row["version"], "shape": row["shape"], "us": row["us"],
                     "spread": row["spread"], "bytes": row["bytes"], "flop": row["flop"],
                     "floor_us": floor or None, "fraction": floor / row["us"] if floor else None,
                     "torch_us": peers.get((row["operation"], row["shape"]))})
    return rows


def lines_of_models(results: dict) -> list[str]:
    """One line for each time of a whole model, ours and transformers', with the share of the floor that it reaches.

    The floor of a token is the time of the bytes that it must read.
    """
    bandwidth, lines = ceilings(results)[0], []
    for name, step in results["steps"].items():
        for row in step["rows"] if name.startswith(("speed ", "transformers ", "compiled ")) else ():
            by = " ".join(filter(None, ("transformers" if "transformers" in row else "", row.get("experts"))))
            what = f"{row['model']:18}{row['layers']} of {row['of']} layers   {by:26}"
            if "ms" in row:
                share = f"{row['bytes'] / bandwidth / row['ms'] / 1000:.0%}" if bandwidth and row.get("bytes") else "-"
                lines.append(f"{what}{row['what']:26}{row['ms']:10.2f} ms {share:>6} of floor")
            elif "refused" in row:
                lines.append(f"{what}{row['refused'][:60]}")
    return ["", "whole models, random weights:", *lines] if lines else []


def show(results: dict) -> str:
    """The short table that ends the script."""
    def number(value: Any, form: str) -> str:
        return "-" if value is None else format(value, form)

    lines = []
    for name, step in results["steps"].items():
        if name.startswith("agree "):
            run = [row for row in step["rows"] if "error" in row]
            worst = {p: max((row["error"] for row in run if row["precision"] == p), default=0.0) for p in
                     ("float32", "bfloat16")}
            lines.append(f"{name:24} {sum(row['ok'] for row in run)} of {len(run)} cases as NumPy; largest error "
                         f"{worst['float32']:.1e} in float32, {worst['bfloat16']:.1e} in bfloat16")
    bandwidth, arithmetic = ceilings(results)
    lines += [f"ceilings: memory {bandwidth / 1e6:.2f} TB/s, cuBLAS {arithmetic / 1e6:.0f} TFLOP/s", "",
              f"{'operation':17}{'version':8}{'shape':35}{'us':>11}{'spread':>8}{'of floor':>9}{'torch us':>11}"]
    for row in results["table"]:
        lines.append(f"{row['operation']:17}{row['version'] or '':8}{row['shape']:35}{row['us']:11.1f}"
                     f"{row['spread']:8.1%}{number(row['fraction'], '.0%'):>9}{number(row['torch_us'], '.1f'):>11}")
    failed = [name for name, step in results["steps"].items() if not step["ok"]]
    lines += [*lines_of_models(results), "",
              f"{len(results['steps']) - len(failed)} of {len(results['steps'])} steps worked."]
    return "\n".join([*lines, *(f"  {name}: {results['steps'][name]['error']}" for name in failed)])


def main(argv: Sequence[str] | None = None) -> int:
    """Run the steps. 0: all worked; 1: some did not; 2: there is no GPU, or nothing to reach it with."""
    try:
        steps = plan()
        from tiny.config import TinyError
        from tiny.tools.terminal import Parser
    except ImportError as error:
        print(missing(error), file=sys.stderr)
        return NO_GPU
    parser = Parser(prog="python -m kernels.gpu", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--out", type=Path, default=ROOT / "runs/gpu", help="folder for results.json")
    parser.add_argument("--steps", type=str, default="", help="names, or how they begin, with commas; default: all")
    arguments = parser.parse_args(argv)
    wanted = tuple(name for name in arguments.steps.split(",") if name) or ("",)
    steps = [step for n, step in enumerate(steps) if n == 0 or step.name.startswith(wanted)]
    path = arguments.out / "results.json"
    results = run_all(steps, path)
    first = results["steps"][steps[0].name]
    if not first["ok"]:
        raise TinyError(f"There is nothing to measure on: {first['error']}",
                        "Run it on a machine with a GPU, and CuPy for its CUDA.")
    print(f"\n{show(results)}\n{path}")
    return 0 if all(step["ok"] for step in results["steps"].values()) else 1


def missing(error: ImportError) -> str:
    """The two lines for a module that is not installed: without it the usual way to print them is not there either."""
    return (f"error: The Python module {error.name} is missing.\n"
            "remedy: Run pip install -r requirements.txt, and install CuPy for your CUDA.")


if __name__ == "__main__":
    try:
        from tiny.tools.terminal import program
    except ImportError as absent:
        print(missing(absent), file=sys.stderr)
        sys.exit(NO_GPU)
    program(main)
