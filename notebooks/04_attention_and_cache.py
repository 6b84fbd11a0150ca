# %% [markdown]
# # Attend to earlier tokens, and remember them
#
# **You will** read the weights of attention off its output, share keys among heads, look into a head of a
# trained model, and fill a KV cache row by row.
#
# **You will learn** what a query sees, why the cache changes the cost and not the answer, and how many bytes it
# takes.
#
# **You need** NumPy and ten minutes; [03, rotary positions](03_rotary_positions.ipynb) comes before. The
# chapter is [tutorial/04_attention_and_cache.md](../tutorial/04_attention_and_cache.md).

# %%
import sys
from pathlib import Path

import numpy as np

sys.path.insert(1, str(Path.cwd().parent))  # finds tiny/ when Jupyter runs in notebooks/

import tiny
from notebooks.show import Picture, show
from tiny.attention import attend, attention
from tiny.kv_cache import KVCache
from tiny.tools import plots
from tiny.tools.memory import kv_bytes

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
# Its caller cuts the queries into blocks, in steps (1) and (2), which come in section 3.
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
print(attention(q, k, one_hot, lengths=[3, 1], spans=[(0, 3), (3, 4)])[:, 0])

# %% [markdown]
# The last row belongs to the second text. It sees one key, its own, with all its weight.
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
# The trick with one-hot values, which `plots.attention_weights` plays too, shows the weights of any head.

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

# %% [markdown]
# ## 5. Append to the cache instead of reading again
#
# A token sees earlier keys and values, and they never change when later tokens come. So keep them. How does a
# row get into the cache, and what may attention see afterwards?

# %%
show(KVCache.append)

# %%
cache = KVCache(n_layers=1, n_kv_heads=1, head_dim=2, max_tokens=[4, 3])  # two texts, of at most 4 and 3 tokens
cache.keys[:] = cache.values[:] = 0

new = np.arange(1, 7, dtype=np.float32).reshape(3, 1, 2)
print("spans", cache.append(0, new, new, lengths=[2, 1]))
cache.advance([2, 1])
print("spans", cache.append(0, 10 * new[:2], 10 * new[:2], lengths=[1, 1]))
cache.advance([1, 1])
print("keys, and how many rows each text has filled:", cache.lengths)
print(cache.keys[0, :, 0])

# %%
Picture(plots.kv_cache_rows(capacities=[4, 3], calls=[[2, 1], [1, 1]]))

# %% [markdown]
# Rows 0 to 3 belong to the first text, rows 4 to 6 to the second. A number in the picture is the call that
# wrote the row; what is white here, and zero above, is still free. `append` is called once in every layer,
# `advance` once for all of them.
#
# **Now change this:** append three more tokens to the second text, and read the error.

# %% [markdown]
# ## 6. Write with a cache, and count what it saves
#
# Is the answer the same? Read the sentence at once, then token by token into a cache, and compare the scores of
# the next token.

# %%
at_once = model(ids)
cache = model.new_cache(len(ids))
one_by_one = np.concatenate([model([token], cache=cache) for token in ids])

print("logits", at_once.shape, one_by_one.shape)
print("largest difference below 0.001:", bool(np.abs(at_once - one_by_one).max() < 1e-3))
print("tokens run through the model with a cache", len(ids), " without one", sum(range(1, len(ids) + 1)))

# %% [markdown]
# The differences are roundings of float32: other sizes of matrices are summed in another order. What is saved
# in arithmetic is paid in memory, for every token:

# %%
show(kv_bytes)

# %%
config = model.config
print(f"this model, in float32: 2 x {config.n_layers} layers x {config.n_kv_heads} KV heads "
      f"x {config.head_dim} numbers x 4 bytes = {kv_bytes(config, itemsize=4):,} bytes")
mixtral = 2 * 32 * 8 * 128 * 2
print(f"Mixtral, in bfloat16: 2 x 32 layers x 8 KV heads x 128 numbers x 2 bytes = {mixtral:,} bytes")

# %%
Picture(plots.kv_cache_bytes({"8 KV heads (Mixtral)": mixtral, "32 KV heads": 4 * mixtral,
                              "1 KV head": mixtral // 8}, tokens=32768))

# %% [markdown]
# The middle line is Mixtral: four gibibytes for a full context, where keys for every query head would take
# sixteen.
#
# **Now change this:** draw the line of a cache in float32. The tiny model has a context of 512 tokens: how
# large can its cache be?
#
# ## Where to go from here
#
# * **Test it:** `.venv/bin/python -m pytest tests/book/test_attention.py tests/book/test_kv_cache.py` (the tests of
#   [attention](../tests/book/test_attention.py) and of [the cache](../tests/book/test_kv_cache.py)).
# * **Write it:** exercises 4.1, one block of attention, and 4.2, append to the cache. `make student` makes a
#   copy of `tiny/` with holes, and [the chapter](../tutorial/04_attention_and_cache.md) tells how to fill them.
# * **Read on:** [05, routing and experts](05_routing_and_experts.ipynb).
