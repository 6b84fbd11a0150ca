# %% [markdown]
# # Put the layers together, and remember what was read
#
# **You will** fill a KV cache row by row, and compare a text read at once with the same text read token by token.
#
# **You will learn** why the cache changes the cost and not the answer, and how many bytes it takes.
#
# **You need** NumPy and ten minutes; [03, attention](03_attention.ipynb) comes before. The chapter is
# [tutorial/06_the_whole_mixtral.md](../tutorial/06_the_whole_mixtral.md).

# %%
import sys
from pathlib import Path

import numpy as np

sys.path.insert(1, str(Path.cwd().parent))  # finds tiny/ when Jupyter runs in notebooks/

import tiny
from notebooks.show import Picture, show
from tiny.decoder import self_attention
from tiny.kv_cache import KVCache
from tiny.tools import plots
from tiny.tools.memory import kv_bytes

np.set_printoptions(precision=3, suppress=True)

# %% [markdown]
# ## 1. Append to the cache instead of reading again
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
# ## 2. Write with a cache, and count what it saves
#
# Is the answer the same? Read the sentence at once, then token by token into a cache, and compare the scores of
# the next token. A layer puts its new keys and values into the cache, and sees all that is there:

# %%
show(self_attention, 3, 5)

# %%
model = tiny.load("tiny-mixtral")
text = "Tom had a red ball. Mia had a blue kite. Tom lost his red"
ids = [model.tokenizer.bos_id, *model.tokenizer.encode(text)]
at_once = model(ids)
cache = model.new_cache(len(ids))
one_by_one = np.concatenate([model([token], cache=cache) for token in ids])

print("logits", at_once.shape, one_by_one.shape)
print("largest difference below 0.001:", bool(np.abs(at_once - one_by_one).max() < 1e-3))
print("tokens run through the model with a cache", len(ids), " without one", sum(range(1, len(ids) + 1)))

# %% [markdown]
# The differences are roundings of float32: other sizes of matrices are summed in another order.
#
# **Now change this:** read the first ten tokens in one call and the others one by one, into the same cache. How
# many tokens run through the model now?

# %% [markdown]
# ## 3. Count the bytes of a token
#
# What is saved in arithmetic is paid in memory, for every token. How much is it?

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
# * **Test it:** `.venv/bin/python -m pytest tests/book/test_kv_cache.py` ([the tests](../tests/book/test_kv_cache.py)
#   of the cache).
# * **Write it:** exercise 6.2, append to the cache. `make student` makes a copy of `tiny/` with holes, and [the
#   chapter](../tutorial/06_the_whole_mixtral.md) tells how to fill them.
