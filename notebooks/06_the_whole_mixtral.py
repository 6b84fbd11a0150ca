# %% [markdown]
# # Put the layers together, and remember what was read
#
# **You will** watch a vector grow through the layers, fill a KV cache row by row, draw the next token, and count the
# bytes and operations of one token.
#
# **You will learn** why the cache changes the cost and not the answer, and why a model reads fast and writes slowly.
#
# **You need** NumPy and fifteen minutes; [03, attention](03_attention.ipynb) and [05, routing and
# experts](05_routing_and_experts.ipynb) come before. The chapter is
# [tutorial/06_the_whole_mixtral.md](../tutorial/06_the_whole_mixtral.md).

# %%
import sys
from pathlib import Path

import numpy as np

sys.path.insert(1, str(Path.cwd().parent))  # finds tiny/ when Jupyter runs in notebooks/

import tiny
from notebooks.show import Picture, show
from tiny.decoder import decoder_layer, self_attention
from tiny.kv_cache import KVCache
from tiny.sampling import sample
from tiny.tools import plots
from tiny.tools.memory import kv_bytes
from tiny.tools.releases import MIXTRAL_8X7B, PIXTRAL_12B
from tiny.tools.token_cost import token_cost
from tutorial.drawings import chapter_06

np.set_printoptions(precision=3, suppress=True)

# %% [markdown]
# ## 1. Add to the stream
#
# A layer reads each token's vector and adds to it. What becomes of the vector on its way?

# %%
show(decoder_layer)

# %%
model = tiny.load("tiny-mixtral")
text = "Tom had a red ball. Mia had a blue kite. Tom lost his red"
ids, trace = [model.tokenizer.bos_id, *model.tokenizer.encode(text)], {}
model(ids, trace=trace)
before = trace["embed"]
for layer in range(model.config.n_layers):
    attention, after = trace[f"attn{layer:02}"], trace[f"layer{layer:02}"]
    sizes = [float(np.sqrt((x**2).mean())) for x in (before, attention, after - before - attention, after)]
    print("layer {}: {:.2f} comes, attention adds {:.2f}, the experts add {:.2f}, {:.2f} goes".format(layer, *sizes))
    before = after

# %% [markdown]
# The numbers are roots of mean squares over all tokens. Nothing is taken away from the stream, and it grows. That
# is why each part reads a normalised copy: what it sees has the same size in every layer.
#
# **Now change this:** multiply what comes by 100, `model.weights["tok_embeddings.weight"]`, and read the numbers
# again (`weights = dict(model.weights)` makes a copy that you can change, and `tiny.mixtral.Mixtral(model.config,
# weights)` a model of it). How much does attention of layer 0 add now?

# %% [markdown]
# ## 2. Append to the cache instead of reading again
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
# ## 3. Write with a cache, and count what it saves
#
# Is the answer the same? Read the sentence at once, then token by token into a cache, and compare the scores of
# the next token. A layer puts its new keys and values into the cache, and sees all that is there:

# %%
show(self_attention, 3, 5)

# %%
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
# ## 4. Draw the next token
#
# The largest score is not the only one. How many tokens are worth a draw, and what does the temperature change?

# %%
show(sample)

# %%
logits = model([model.tokenizer.bos_id, *model.tokenizer.encode(chapter_06.START)], last_only=True)[0]
rng = np.random.default_rng(6)
for temperature, top_p in ((0.5, 0.9), (1.0, 0.9), (1.3, 0.9), (1.3, 1.0)):
    drawn = [sample(logits, temperature, top_p, rng) for _ in range(200)]
    words = model.tokenizer.pieces(sorted(set(drawn), key=drawn.count, reverse=True)[:4])
    print(f"temperature {temperature}, top-p {top_p}: {len(set(drawn)):3} tokens in 200 draws, most often {words}")

# %%
Picture(chapter_06.top_p_picture(model))

# %% [markdown]
# The text is "Tom had a red ball. Mia had a blue kite. Tom lost his". Dark bars are kept. (The likeliest word is not
# the right one: four layers are not many.) At a high temperature top-p matters: without it, words come up that hardly
# fit.
#
# **Now change this:** top-p 0.5. How many tokens are drawn at temperature 1.3?

# %% [markdown]
# ## 5. Count the bytes of a token
#
# What the cache saves in arithmetic is paid in memory, for every token. How much is it?

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

# %% [markdown]
# ## 6. Count the bytes and operations of a token
#
# Which is the limit of a machine that writes: what it computes, or what it moves?

# %%
show(token_cost)

# %%
for name, sizes in (("Mixtral 8x7B", MIXTRAL_8X7B), ("Pixtral 12B", PIXTRAL_12B), ("tiny-mixtral", model.config)):
    for past in (0, sizes.max_seq_len - 1):
        moved, computed = token_cost(sizes, past, itemsize=2)
        print(f"{name}, {past:7,} tokens before: {moved / 1e9:8.4f} GB, {computed / 1e9:8.4f} billion operations, "
              f"{computed / moved:.2f} for each byte")

# %%
Picture(chapter_06.roofline_picture(MIXTRAL_8X7B))

# %% [markdown]
# One operation for each byte, where the machine could do 250: whoever writes one text waits for the memory. Reading
# a long prompt, or writing for many texts at once, uses each weight many times.
#
# **Now change this:** `chapter_06.moved_and_computed(MIXTRAL_8X7B, texts, 1)` gives bytes and operations of a pass
# that writes one token of each text. How many texts does it take to reach 250 operations for each byte?
#
# ## Where to go from here
#
# * **Test it:** `.venv/bin/python -m pytest tests/book/test_kv_cache.py`.
# * **Write it:** exercises 6.1 to 6.6: a layer, the cache, positions, top-p, the cost of a token, a detective's
#   case. `make student` writes the files with holes to `student/`, and [the
#   chapter](../tutorial/06_the_whole_mixtral.md) tells how to fill them.
# * **Put it together:** `make mine` runs the model with your functions, and compares it with transformers.
