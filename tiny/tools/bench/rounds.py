"""Measurements in turns, each in a fresh process: what `bench` and `bench --vision` share."""

import cProfile
import json
import os
import pstats
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tiny.config import TinyError

CHILD_LIMIT = 900  # seconds


def busy_seconds() -> float:
    """CPU seconds that all processes of this machine have used so far."""
    fields = Path("/proc/stat").read_text().split("\n")[0].split()[1:]
    return sum(map(int, fields[:3] + fields[5:8])) / os.sysconf("SC_CLK_TCK")


def run_child(command: list[str], threads: int) -> dict:
    """Run one measurement in its own process, with this many threads; its last line is a JSON object.

    `first_token` becomes seconds since the process was started; `other_cores` is what others used meanwhile.
    """
    environment = {key: value for key, value in os.environ.items() if not key.startswith("OPENBLAS_")}
    environment |= {f"{name}_NUM_THREADS": str(threads) for name in ("OPENBLAS", "OMP", "MKL")}
    busy, own, start = busy_seconds(), resource.getrusage(resource.RUSAGE_CHILDREN), time.time()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=CHILD_LIMIT)
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        if [line.partition(": ")[0] for line in lines[-2:]] == ["error", "remedy"]:
            raise TinyError(*(line.partition(": ")[2] for line in lines[-2:]))
        raise TinyError(f"The measurement {' '.join(command)} failed: {done.stderr[-300:].strip()!r}.",
                        "Run that command by itself to see all of it.")
    result = json.loads(done.stdout.splitlines()[-1])
    if "first_token" in result:
        result["first_token"] -= start
    now = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = now.ru_utime + now.ru_stime - own.ru_utime - own.ru_stime
    result["other_cores"] = (busy_seconds() - busy - used) / (time.time() - start)
    return result


def rounds(commands: dict[str, list[str]], threads: int, count: int) -> dict[str, dict]:
    """Run all measurements in turns, count times; the median of each figure."""
    found: dict[str, list[dict]] = {name: [] for name in commands}
    for _ in range(count):
        for name, command in commands.items():
            found[name].append(run_child(command, threads))
    return {name: {key: middle([run[key] for run in runs]) for key in runs[0]} for name, runs in found.items()}


def middle(values: list) -> Any:
    """The median of numbers; that of each number of objects; of anything else the first."""
    if isinstance(values[0], dict):
        return {key: middle([value[key] for value in values]) for key in values[0]}
    return statistics.median(values) if isinstance(values[0], (int, float)) else values[0]


def show(record: dict, threads: int) -> None:
    """Print the figures of one number of threads."""
    print(f"{threads} thread{'s' * (threads > 1)}, {record['kernel']}, {record['machine']}, {record['date']}")
    for row in record["threads"][str(threads)]["rows"]:
        value = f"{row['value']:,.2f}" if abs(row["value"]) >= 0.01 else f"{row['value']:.2g}"
        print(f"  {row['what']:38} {value:>10} {row['unit']:9} {row['note']}", flush=True)


def spent(profile: cProfile.Profile) -> dict[str, float]:
    """Seconds under the profiler by the name of a function of this project, those that it called included."""
    total: dict[str, float] = {}
    for (path, _, name), (_, _, _, cumulative, _) in pstats.Stats(profile).stats.items():  # type: ignore[attr-defined]
        if "tiny" in Path(path).parts:
            total[name] = total.get(name, 0.0) + cumulative
    return total


def synthetic(layout: str) -> Path:
    """The folder of the synthetic checkpoint, written at first use."""
    folder = Path("runs") / "bench" / layout
    if not list(folder.glob("*.json")):
        print(f"writing a synthetic checkpoint to {folder} (1.6 GB)", file=sys.stderr, flush=True)
        subprocess.run([sys.executable, "-m", "tiny.tools.synthetic", str(folder), "--layout", layout], check=True,
                       stdout=subprocess.DEVNULL)
    return folder
