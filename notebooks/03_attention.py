# %% [markdown]
# # Attend to earlier tokens
#
# **You will** read the weights of attention off its output, share keys among heads, and look into a head of a
# trained model.
#
# **You will learn** what a query sees, and what several heads are good for.
#
# **You need** NumPy and ten minutes. The chapter is [tutorial/03_attention.md](../tutorial/03_attention.md).

# %%
import sys
from pathlib import Path

import numpy as np

sys.path.insert(1, str(Path.cwd().parent))  # finds tiny/ when Jupyter runs in notebooks/

import tiny
from notebooks.show import Picture, show
from tiny.attention import attend, attention
from tiny.tools import plots

np.set_printoptions(precision=3, suppress=True)
rng = np.random.default_rng(4)

# %% [markdown]
# ## 1. Weigh the keys of four tokens
#
# Which tokens does a token look at, and how much? This is the heart of attention: scores, mask, softmax,
# average.

# %%
show(attend)

# %% [markdown]
# Its caller takes care of texts and heads, in steps (1) and (2), which come in section 3.
#
# The output is an average of the values, so a trick shows the weights: give token 0 the value `[1, 0, 0, 0]`,
# token 1 `[0, 1, 0, 0]` and so on. Then row i of the output **is** row i of the weights.

# %%
q, k = (rng.standard_normal((4, 1, 4)).astype(np.float32) for _ in range(2))  # (T, heads, head_dim)
one_hot = np.eye(4, dtype=np.float32)[:, None]
weights = attention(q, k, one_hot, lengths=[4], spans=[(0, 4)])[:, 0]

print("one row for each query, one column for each key")
print(weights)
print("sums of the rows", weights.sum(axis=1))

# %% [markdown]
# Above the diagonal are zeros: no token sees a later one. The first token sees itself only, whatever its score.
#
# **Now change this:** multiply `q` by 10, then by 0. What do large scores do to a row, and what do equal ones?

# %% [markdown]
# ## 2. Keep two texts apart in one array
#
# There is no batch axis and no padding: several texts are packed one after the other, and `spans` says which keys each
# may see. What do the weights look like for a text of 3 tokens and one of 1?

# %%
packed = attention(q, k, one_hot, lengths=[3, 1], spans=[(0, 3), (3, 4)])[:, 0]
print(packed)

# %%
Picture(plots.attention_map(packed, ["A0", "A1", "A2", "B0"], "texts A and B in one array"))

# %% [markdown]
# The last row belongs to the second text. It sees one key, its own, with all its weight. What is hatched lies ahead;
# the dark rest of the last row is the other text.
#
# **Now change this:** make two texts of two tokens each.

# %% [markdown]
# ## 3. Share keys among query heads
#
# Why does Mixtral have 32 heads of queries and only 8 of keys and values? Every key is stored for each later
# token, and a quarter of the heads is a quarter of the memory. Query head h reads KV head h // (H / G): steps
# (1) and (2) go through the KV heads, and `attend` takes all queries of one at once.

# %%
show(attention, 1, 2)

# %%
q = rng.standard_normal((4, 4, 8)).astype(np.float32)  # four query heads
k, v = (rng.standard_normal((4, 2, 8)).astype(np.float32) for _ in range(2))  # two KV heads
before = attention(q, k, v, lengths=[4], spans=[(0, 4)])
k[:, 1] += 1  # touch KV head 1 only
v[:, 1] += 1
after = attention(q, k, v, lengths=[4], spans=[(0, 4)])

print("q", q.shape, " k", k.shape, " v", v.shape, " out", after.shape)
print("query heads whose answer changed:", np.unique(np.nonzero(before != after)[1]))

# %% [markdown]
# **Now change this:** touch KV head 0 instead. Then give `k` and `v` four heads, as in attention without
# groups.

# %% [markdown]
# ## 4. Look into a head of a trained model
#
# What do heads look at in a real sentence? A trace of the model keeps its queries and keys, after the rotation.
# The trick with one-hot values shows the weights of any head.

# %%
show(plots.attention_weights)

# %%
model = tiny.load("tiny-mixtral")
text = "Tom had a red ball. Mia had a blue kite. Tom lost his red"
ids = [model.tokenizer.bos_id, *model.tokenizer.encode(text)]
trace = {}
model(ids, trace=trace)

layer, head = 1, 0
q, k = trace[f"q{layer:02}"], trace[f"k{layer:02}"]
weights = plots.attention_weights(q, k, head)
print("tokens", len(ids), " q", q.shape, " k", k.shape, " weights", weights.shape)

# %%
Picture(plots.attention_map(weights, model.tokenizer.pieces(ids), f"layer {layer}, head {head}"))

# %% [markdown]
# Each row is a token that looks back; the brightness of a column says how much it looks there. Much weight
# often rests on the very first token: a head that finds nothing has to put its weight somewhere, because a row sums
# to 1.
#
# **Now change this:** go through all layers and heads. Can you find one that often looks at the token before?
# And one that looks from the last *red* to *ball*, the word that came after the first one?
#
# ## Where to go from here
#
# * **Test it:** `.venv/bin/python -m pytest tests/book/test_attention.py`.
# * **Write it:** exercises 3.1, one block of attention, and 3.2, texts and groups of heads. `make student` writes
#   the files with holes to `student/`, and [the chapter](../tutorial/03_attention.md) tells how to fill them.
# * **Read on:** [04, rotary positions](04_rotary_positions.ipynb).
