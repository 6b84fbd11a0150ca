# %% [markdown]
# # From a loop to tensor cores, in the emulator
#
# **You will** run one kernel in three versions, count what each moves, take a barrier away, and find the stride that
# frees the banks of shared memory.
#
# **You will learn** how to see on a CPU why a kernel would be slow, or wrong, on a GPU.
#
# **You need** NumPy, `g++` and ten minutes. The chapter is
# [tutorial/11_loop_to_tensor_core.md](../tutorial/11_loop_to_tensor_core.md).

# %%
import sys
from pathlib import Path

import numpy as np

sys.path.insert(1, str(Path.cwd().parent))  # finds tiny/ and kernels/ when Jupyter runs in notebooks/

from kernels import rms_norm as host
from kernels.emulator import Module, Report
from kernels.launch import Emulator
from kernels.positions import advance
from notebooks.show import Picture, show
from tiny.rms_norm import rms_norm
from tutorial.drawings import chapter_11
from tutorial.drawings.stages import TILE, Counting

np.set_printoptions(precision=3, suppress=True)
rng = np.random.default_rng(11)

# %% [markdown]
# ## 1. Run three versions of one operation
#
# RMSNorm divides each row by its root mean square. The kernels do the same. Do they give the same numbers, and what
# do they move?

# %%
show(rms_norm)
show("kernels/rms_norm.cu:rms_norm_v1")

# %%
x, weight = rng.standard_normal((32, 256), np.float32), rng.standard_normal(256, np.float32)
right = rms_norm(x, weight, 1e-5)
for version in ("v1", "v2", "v3"):
    launcher = Counting()
    out = host.rms_norm(launcher, launcher.put(x), launcher.put(weight), 1e-5, version=version)
    counts = launcher.counts()
    print(f"{version}: largest difference {np.abs(out - right).max():.1e}, {counts['bytes']:,} bytes moved in "
          f"{counts['requests']:,} requests")

# %% [markdown]
# All are right. Version 1 moves eight times the bytes of version 3: each lane asks for 4 bytes of a sector of 32, and
# its neighbours want none of the others.
#
# Here is the picture of the chapter, with attention besides, on a logarithmic scale. In attention, version 2 saves
# the bytes, and version 3 the reads of shared memory.

# %%
Picture(chapter_11.stages_picture())

# %% [markdown]
# **Now change this:** give `x` rows of 255 numbers (and `weight` too). They no longer begin at multiples of 16 bytes.
# Which versions move more than before, and in how many requests? Hand in the three numbers.

# %% [markdown]
# ## 2. Hand numbers around in a warp
#
# A shuffle gives each lane a number of another lane. The sum of a block begins with five of them:

# %%
show("kernels/rms_norm.cu:block_sum")

# %% [markdown]
# In NumPy, an axis for the 32 lanes is enough to see what they do.

# %%
value, lanes = np.arange(1, 33), np.arange(32)
for distance in (16, 8, 4, 2, 1):
    value = value + value[lanes ^ distance]
    print(f"distance {distance:2}: {len(set(value.tolist())):2} different numbers, lane 0 has {value[0]}")

# %% [markdown]
# After the last round all lanes have 528, the sum of 1 to 32.
#
# **Now change this:** read `value[(lanes + distance) % 32]` instead. Is the sum still in all lanes? And with
# `value[np.minimum(lanes + distance, 31)]`, which stops at the end as `__shfl_down_sync` does? Hand in how many lanes
# have 528.

# %% [markdown]
# ## 3. Take the barrier away
#
# Between the warps of a block, numbers go through shared memory, and a barrier says when they are there. What does
# the emulator say without it?

# %%
show("tutorial/drawings/tile.cu:reverse")

# %%
def right(barrier, check):
    x, y = np.arange(128, dtype=np.float32), np.zeros(128, np.float32)
    Module(TILE, defines=(f"BARRIER={barrier}",), check=check).launch("reverse", (1,), (128,), [x, y])
    return int((y == x[::-1]).sum())


print("with it:", right("__syncthreads()", True), "of 128 are right")
try:
    right("__syncwarp()", True)
except Report as report:
    print("for the warp only:", str(report).partition("tile.cu")[2])

# %% [markdown]
# A `__syncwarp` waits for the 32 lanes of one warp. Nothing says when the other three have written.
#
# **Now change this:** call `right("__syncwarp()", False)`: nothing is checked. How many are
# right? Is that a proof of anything?

# %% [markdown]
# ## 4. Free the banks
#
# A tile of 32 x 32 numbers is written to shared memory by rows and read by columns. Number n lies in bank n % 32.

# %%
show("tutorial/drawings/tile.cu:turn")

# %%
for stride in (32, 33, 34, 36):
    module = Module(TILE, defines=(f"STRIDE={stride}",), profile=True)
    x, y = np.arange(1024, dtype=np.float32), np.zeros(1024, np.float32)
    module.launch("turn", (1,), (1024,), [x, y])
    cycles = {row.access: row.work for row in module.profile() if row.memory == "shared"}
    assert (y.reshape(32, 32) == x.reshape(32, 32).T).all()
    print(f"rows {stride} places apart: {cycles['store']} cycles to write, {cycles['load']} to read")

# %%
Picture(chapter_11.banks_picture())

# %% [markdown]
# **Now change this:** which other strides below 64 need 32 cycles to read? Find the rule and hand in one stride above
# 40.
#
# ## 5. Take a step that only launches
#
# A model that stays on the device uploads the id of a new token and nothing else. What differs between two steps lies
# on the device, and the last kernel of each step moves it on.

# %%
show("kernels/positions.cu:advance")

# %%
launcher = Emulator()
going, positions, rows, used = (np.array(numbers, np.int32) for numbers in ([1, 0], [3, 5], [3, 13], [0, 0]))
spans = np.array([[0, 4], [8, 14]], np.int32)  # two sequences, of which the second has ended
replay = launcher.record(lambda: advance(launcher, going, positions, rows, spans, used))
print("recorded: ", positions, rows, spans.tolist())
for _ in range(2):
    replay()
    print("replayed: ", positions, rows, spans.tolist())

# %%
Picture(chapter_11.step_picture())

# %% [markdown]
# **Now change this:** let the first sequence end after one step: where must you write, so that the recorded step need
# not change? Hand in the positions after both steps.
#
# ## Where to go from here
#
# * **Test it:** `.venv/bin/python -m pytest tests/kernels/test_kernels_rms_norm.py`.
# * **Write it:** exercises 11.1, a sum over a block, 11.2, a matrix turned through a tile, and 11.3, the online
#   softmax. `make student` writes the files with holes to `student/`, and [the
#   chapter](../tutorial/11_loop_to_tensor_core.md) tells how to fill them.
# * **Find it:** exercise 11.4 is a kernel with a fault, which the emulator reports and you name.
# * **Read it:** all versions, with what each costs and saves: [kernels](../kernels/README.md).
# * **Run your own:** `.venv/bin/python -m kernels.emulator FILE.cu --kernel NAME --grid 1 --block 32 --arg ...
#   --check`.
