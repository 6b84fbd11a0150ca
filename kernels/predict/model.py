"""From the evidence of launches to a range of time on an H100. VERSION names this model; another one needs another.

    t = sum over launches of LAUNCH + tail * max(bytes / rate / under way, sectors / L2, bank cycles, issue, matrix)

The range begins with t for an L1 cache that keeps all that a block has read. It ends with t for none, divided by what a
public kernel of the kind reached. Nothing here was fitted to our kernels.
"""

import math
from typing import NamedTuple

from kernels.predict.evidence import resident_blocks

VERSION = 1
MULTIPROCESSORS, CLOCK, PEAK = 132, 1.83e9, 989e12  # of an H100 SXM; at this clock its products of bfloat16 reach PEAK
READ, COPY = 3.24e12, 3.0e12  # bytes/s that a kernel reached which only reads (fast.cu, sum.cu), and a copy
MMA_SYNC = 0.629  # the share of PEAK that mma.sync reached by itself: arXiv 2501.12084, section 6.2
L2 = 5.5e12  # bytes/s out of the L2 cache
LAUNCH = 2e-6  # seconds: a kernel's start and end within a graph, 1.5 to 2.5 us
HIDES = 20e3  # bytes that a multiprocessor must have asked for to keep the memory busy with reads, for some 600 ns
ISSUED = 4  # instructions of warps that a multiprocessor begins in a cycle
PRODUCT = 16 * 8 * 16 * 2  # floating-point operations of one mma.m16n8k16
COPIES = {"rms_norm", "add_rms_norm", "rope", "rope_into_cache", "embed", "splice", "rope_table", "rope_2d_table",
          "advance"}  # write about as much as they read, or more


class Anchor(NamedTuple):
    """What a public kernel reached, as a share of what this model gives its kind, and where that is said."""

    name: str
    share: float
    source: str


ANCHORS = {
    "tensor cores": Anchor("FlashAttention-2", 0.35 / MMA_SYNC,
                           "35 % of an H100's peak (arXiv 2407.08608), which is 56 % of what mma.sync reaches"),
    "copies": Anchor("torch.compile", 2.0 / 3.0,
                     "2.0 of 3.0 TB/s in a softmax on an H100 (Dao-AILab/quack, media/2025-07-10-membound-sol.md)"),
    "reads": Anchor("calm", 2.55 / 3.24, "2.55 of 3.24 TB/s decoding with fp8 on an H100 (zeux/calm)")}


def kind_of(operation: str, launches: list[dict]) -> str:
    """Which anchor is of the kind."""
    if any(launch["matrix"] for launch in launches):
        return "tensor cores"
    return "copies" if operation in COPIES else "reads"


def terms(launch: dict, moved: float, copies: bool, sectors: str) -> dict[str, float]:
    """Seconds that each of a launch's resources needs, if `moved` bytes come from memory, or go there.

    sectors: which of those counted pass by the L1 cache, "sectors" or "sectors_of_blocks"
    The busiest multiprocessor has more blocks than the mean, which is the tail. Of a copy half is read.
    """
    blocks, cycles = math.prod(launch["grid"]), MULTIPROCESSORS * CLOCK
    tail = math.ceil(blocks / MULTIPROCESSORS) * MULTIPROCESSORS / blocks
    rate, hides = (COPY, HIDES / 2) if copies else (READ, HIDES)
    slow = min(1.0, under_way(launch, moved, sectors) / hides) or 1.0
    seconds = {"memory": moved / rate / slow, "L2 cache": 32 * launch[sectors] / L2,
               "shared memory": launch["bank_cycles"] / cycles,
               "instructions": launch["instructions"] / ISSUED / cycles,
               "tensor cores": launch["matrix"] * PRODUCT / (MMA_SYNC * PEAK)}
    return {name: tail * value for name, value in seconds.items()}


def under_way(launch: dict, moved: float, sectors: str) -> float:
    """Bytes that a multiprocessor has asked the memory for at a time: of the loads only the share that no cache has."""
    blocks, warps = math.prod(launch["grid"]), -(-math.prod(launch["block"]) // 32)
    resident = min(resident_blocks(launch), math.ceil(blocks / MULTIPROCESSORS))
    new = min(1.0, moved / (32 * launch[sectors])) if launch[sectors] else 1.0
    return resident * warps * 32 * launch["sass"]["in_flight"] * new


def predict(operation: str, launches: list[dict], moved: int) -> dict:
    """The range, and what binds at its lower end: {"low_us", "high_us", "bound", "anchor"}.

    moved: bytes that the operation must move; each launch has the share that it has of all sectors
    """
    total, kind = sum(launch["sectors"] for launch in launches), kind_of(operation, launches)
    low, high = ([terms(launch, moved * launch["sectors"] / total, operation in COPIES, sectors) for launch in launches]
                 for sectors in ("sectors_of_blocks", "sectors"))
    ends = [1e6 * sum(LAUNCH + max(parts.values()) for parts in found) for found in (low, high)]
    sums = {name: sum(parts[name] for parts in low) for name in low[0]} | {"launch": LAUNCH * len(launches)}
    return {"low_us": round(ends[0], 2), "high_us": round(ends[1] / ANCHORS[kind].share, 2),
            "bound": max(sums, key=lambda name: sums[name]), "anchor": kind}
