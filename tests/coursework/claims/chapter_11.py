"""The numbers of chapter 11: counts from the emulator's record, sizes from its examples, and one H100 as measured."""

from tutorial.drawings.stages import ATTENTION, NORM, read
from tutorial.pages.kernels import COPY, CUBLAS

counts = read()
far, near = ([counts["attention"][v][what] for v in ("v1", "v2", "v3")] for what in ("bytes", "cycles"))
assert (NORM["D"], ATTENTION["T"]) == (256, 128) and counts["tile"] == {"32": 1024, "33": 32}
assert far[2] > far[1] and COPY == 3.0e12 and CUBLAS == 798e12

NUMBERS = {*(f"{counts[name][v]['bytes'] / 1e3:,.0f}" for name in ("rms_norm", "attention")
             for v in ("v1", "v2", "v3")),
           *(f"{n:,}" for n in near), "3.0", "798", f"{CUBLAS / COPY:.0f}", f"{far[0] // far[1]}",
           f"{near[1] // near[2]}", "256", "128", f"{2 * 16 * 8 * 16:,}", "16,384", "4,096", "268", "0.72", "89.5",
           f"{2 * 64**3:,}", "2009"}
