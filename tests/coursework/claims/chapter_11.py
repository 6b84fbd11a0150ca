"""The numbers of chapter 11: counts from the emulator's record, sizes from its examples, and one H100 as measured."""

from kernels.predict.model import COPY
from tutorial.drawings import steps
from tutorial.drawings.chapter_11 import LAYER
from tutorial.drawings.stages import ATTENTION, NORM, read

CUBLAS = 798e12  # of bfloat16 on one H100
counts = read()
far, near = ([counts["attention"][v][what] for v in ("v1", "v2", "v3")] for what in ("bytes", "cycles"))
assert (NORM["D"], ATTENTION["T"]) == (256, 128) and counts["tile"] == {"32": 1024, "33": 32}
assert far[2] > far[1] and COPY == 3.0e12

step = steps.read()
names = [name for name, _ in step["launches"]]
start = names.index("linear_v3")
layer = step["launches"][start : [place for place, name in enumerate(names) if name == LAYER][1] + 1]
moved = {name: sorted(bytes_ for kind, bytes_ in layer if kind.startswith(name)) for name in ("experts", "linear")}
assert all(bytes_ < 6000 for name, bytes_ in layer if not name.startswith(("experts", "linear")))
assert {rows["up"] for rows in step["on the device"].values()} == {4} and names[-1] == "advance"

NUMBERS = {f"{len(names)}", f"{len(layer)}", "6", "4",
           *(f"{moved[name][end] / 1e3:.0f}" for name in moved for end in (0, -1)),
           *(text for rows in (64, 1024) for text in (f"{rows:,}", f"{step['one by one'][str(rows)]['up']:,}")),
           *(f"{counts[name][v]['bytes'] / 1e3:,.0f}" for name in ("rms_norm", "attention")
             for v in ("v1", "v2", "v3")),
           *(f"{n:,}" for n in near), "3.0", "798", f"{CUBLAS / COPY:.0f}", f"{far[0] // far[1]}",
           f"{near[1] // near[2]}", "256", "128", f"{2 * 16 * 8 * 16:,}", "16,384", "4,096", "268", "0.72", "89.5",
           f"{2 * 64**3:,}", "2009"}
