# %% [markdown]
# # Find out where bits come from
#
# **You will** look at numbers bit by bit, add the same numbers in five hundred orders, change one last bit and
# follow it through a model, and find one wrong matrix among harmless differences.
#
# **You will learn** which differences between two programs are rounding, and which are bugs.
#
# **You need** NumPy and ten minutes. The chapter is
# [tutorial/12_where_bits_come_from.md](../tutorial/12_where_bits_come_from.md).

# %%
import sys
from pathlib import Path

import numpy as np

sys.path.insert(1, str(Path.cwd().parent))  # finds tiny/ when Jupyter runs in notebooks/

import tiny
from notebooks.show import Picture, show
from tiny.mixtral import Mixtral
from tiny.numerics import round_to
from tiny.tools.bits import in_bits, nearest_bfloat16
from tiny.tools.demo import TEXTS
from tiny.tools.verify.check import check
from tiny.tools.verify.torch_sums import four_sums
from tutorial.drawings import chapter_12

np.set_printoptions(precision=3, suppress=True)

# %% [markdown]
# ## 1. Look at the bits of a number
#
# A bfloat16 is the upper half of a float32, rounded. Which numbers lose something?

# %%
show(in_bits)

# %%
for x in (1.0, 1.5, 0.1, 256.0, 257.0, 258.0, -257.0, 1e-40, np.inf, np.nan):
    print(f"{x:9.3g}  {in_bits(x)}  becomes {float(round_to(np.array([x], np.float32), 'bfloat16')[0]):g}")

# %%
show(nearest_bfloat16)

# %% [markdown]
# Whole numbers up to 256 are exact, then every second one is. 1e-40 has no leading 1 in front of its fraction: its
# exponent is zero.
#
# **Now change this:** from which number on is only every *fourth* whole number exact? Try some, and hand in the
# smallest one that is moved by 2, with its bits.

# %% [markdown]
# ## 2. Add the same numbers in another order
#
# A logit of Mixtral 8x7B is a sum of 4,096 products. How many different sums do five hundred orders give?

# %%
terms = np.random.default_rng(0).standard_normal(4096).astype(np.float32)
sums = chapter_12.sums_in_orders(terms)
print(f"{len(np.unique(sums))} different sums in {len(sums)} orders, from {sums.min():.5f} to {sums.max():.5f}")
print(f"exact: {terms.sum(dtype=np.float64):.5f}; numpy's own order: {terms.sum():.5f}")

# %%
Picture(chapter_12.orders_picture(terms))

# %% [markdown]
# Each of them is right, and none is exact. Libraries choose an order that suits the processor. Here is one of
# PyTorch's: four sums side by side.

# %%
show(four_sums)

# %%
one = np.ones((1, 4096), np.float32)
print(f"four sums: {four_sums(one, terms[None])[0, 0]:.5f}")

# %% [markdown]
# **Now change this:** sort the terms (`np.sort(terms)`), and add them with `np.add.accumulate(...)[-1]`: first all
# negative ones, then all positive ones. How many steps is that away from the exact sum? Hand in the number, and
# say why it is larger.

# %% [markdown]
# ## 3. Change one last bit
#
# One number of one token's embedding is moved by one bfloat16 step. How far does that get, in float32 and in
# bfloat16?

# %%
show(round_to)

# %%
model = tiny.load("tiny-mixtral")
ids = [model.tokenizer.bos_id, *model.tokenizer.encode(TEXTS["stories"])]
weights = {name: model.weights[name] for name in model.weights}
table = weights["tok_embeddings.weight"].copy()
table.view(np.uint16)[ids[1], 0] ^= 1  # the last bit of the first number of the first token
print(f"{float(model.weights['tok_embeddings.weight'][ids[1], 0])} becomes {float(table[ids[1], 0])}")

# %%
for precision in ("float32", "bfloat16"):
    before, after = {}, {}
    Mixtral(model.config, weights, precision=precision)(ids, trace=before)
    Mixtral(model.config, weights | {"tok_embeddings.weight": table}, precision=precision)(ids, trace=after)
    for name in ("embed", "layer00", "layer01", "layer02", "layer03", "logits"):
        share = 100 * np.mean(before[name] != after[name])
        print(f"{precision:8}  {name:8} {share:5.1f} % of the numbers differ,",
              f"relative {chapter_12.error(after[name], before[name]):.0e}")

# %% [markdown]
# In float32 nearly every number that can know of the token moves, by little. In bfloat16 fewer numbers move, but
# each of them by a whole step. So in bfloat16 two runs end up far apart, whatever the reason was:

# %%
Picture(chapter_12.errors_picture())

# %% [markdown]
# **Now change this:** flip the bit `^= 1 << 7` instead, the lowest bit of the exponent. Hand in the relative
# difference of the logits in both precisions, before and after.

# %% [markdown]
# ## 4. Find the wrong matrix
#
# The file holds a run of transformers, in which one matrix was made larger by a thousandth. Which one?

# %%
dump = Path(tiny.__file__).parents[1] / "tests/golden/verify/tiny-mixtral-wo-of-layer-2.npz"
report = check("tiny-mixtral", dump)
for row in report.arrays:
    if row.percent is not None and row.step_error is not None and row.name[-2:] in ("01", "02", "03"):
        mark = "" if row.step_percent <= 100 else "   <- differs"
        print(f"{row.name:18} whole run {row.worst:.0e}   alone {row.step_error:.0e}{mark}")

# %% [markdown]
# The whole run is off from there to the end. Alone, the operation is the only one.
#
# **Now change this:** take the file `tiny-mixtral-expert-5-of-layer-2.npz`. Which array differs first? Look at
# `report.places[0]`, and hand in its rows: what have these tokens in common?
#
# ## Where to go from here
#
# * **Test it:** `.venv/bin/python -m pytest tests/tools/test_bits.py tests/book/test_bfloat16.py`.
# * **Write it:** exercise 12.1, the nearest bfloat16. `make student` writes the files with holes to `student/`, and
#   [the chapter](../tutorial/12_where_bits_come_from.md) tells how to fill it.
# * **Use it:** [is it the same model?](../tutorial/reference/is_it_the_same_model.md) is for those who have ported a
#   model and want to know.
