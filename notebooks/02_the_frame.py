# %% [markdown]
# # Stack layers without losing the numbers
#
# **You will** measure vectors on their way through a trained model, take its norms away, and open and close a gate.
#
# **You will learn** what the residual stream and RMSNorm do for a model, and what it costs to do without.
#
# **You need** NumPy and ten minutes. The chapter is
# [tutorial/02_the_frame.md](../tutorial/02_the_frame.md).

# %%
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np

sys.path.insert(1, str(Path.cwd().parent))  # finds tiny/ when Jupyter runs in notebooks/

import tiny
from notebooks.show import Picture, show
from tiny.decoder import decoder_layer
from tiny.experts import feed_forward
from tiny.numerics import silu
from tiny.rms_norm import rms_norm
from tutorial.drawings import chapter_02

np.set_printoptions(precision=3, suppress=True)

# %% [markdown]
# ## 1. Follow the residual stream
#
# What happens to a vector in a layer?

# %%
show(decoder_layer)

# %%
model = tiny.load("tiny-mixtral")
where, rows, pieces = chapter_02.streams(model)
for name, x in zip(where, rows):
    print(f"{name:14}", np.round(chapter_02.size(x)[:6], 2))
print("the tokens are", pieces[:6])

# %%
Picture(chapter_02.sizes_picture(model))

# %% [markdown]
# Layers only add to the stream, and it grows. After layers 0 and 1 the first token is far larger than all
# others, and after RMSNorm it is as large as they are.
#
# **Now change this:** does the answer of layer 3 point along the stream that it is added to? Compute the cosine of
# `rows[8] - rows[6]` and `rows[6]`, token by token. Hand in its mean over the tokens.

# %% [markdown]
# ## 2. Take the norms away
#
# What do the norms do for a model that was trained with them?

# %%
show(rms_norm)

# %%
def centred(x, weight, eps, precision="float32"):
    return rms_norm(x - x.mean(axis=1, keepdims=True), weight, eps, precision)


def scale_only(x, weight, eps, precision="float32"):
    return x * weight


text = "Once there was a brave girl named Zoe who lived in a small house."
ids = np.array([model.tokenizer.bos_id, *model.tokenizer.encode(text)])
ops = {name: getattr(tiny.ops, name) for name in tiny.ops.__all__}
for name, norm in (("as it is", rms_norm), ("LayerNorm's way", centred), ("no division", scale_only)):
    logits = tiny.load("tiny-mixtral", ops=SimpleNamespace(**ops | {"rms_norm": norm}))(ids)
    chances = tiny.numerics.softmax(logits)[np.arange(len(ids) - 1), ids[1:]]
    print(f"{name:16} mean surprise {-np.log(chances).mean():.2f}, that of a guess {np.log(logits.shape[1]):.2f}")

# %% [markdown]
# The surprise of a text is the mean of -log(chance) of each of its tokens, given those before. To take the mean away
# changes little, because the numbers of a vector have a mean near 0. Without the division, next to nothing of what was
# learnt is left.
#
# **Now change this:** add a norm of your own that gives ten times its `x` to `rms_norm`. Does the model notice? And
# if it multiplies the answer of `rms_norm` by ten? Hand in both numbers, and why they differ.

# %% [markdown]
# ## 3. Open and close a gate
#
# Which of the F hidden numbers of an expert does a token use?

# %%
show(silu)
show(feed_forward)

# %%
x = chapter_02.normed(model, rows)[1]
w1, w3 = (np.float32(model.weights[f"layers.0.feed_forward.experts.0.{name}.weight"]) for name in ("w1", "w3"))
gate = silu(x @ w1.T)
print(f"hidden numbers: {gate.shape}; share of the gates between -0.05 and 0.05: {np.mean(np.abs(gate) < 0.05):.2f}")
print("largest gate of each token", gate.max(axis=1))

# %%
Picture(chapter_02.gate_picture())

# %% [markdown]
# SiLU is exactly 0 at one place only, so no gate is quite shut. But a quarter of them let next to nothing through, and
# each token opens others.
#
# **Now change this:** take layer 3 (`chapter_02.normed(model, rows)[7]`, `layers.3`). Is a larger share of its gates
# near zero, or a smaller one? Hand in both shares.
#
# ## Where to go from here
#
# * **Test it:** `.venv/bin/python -m pytest tests/book/test_rms_norm.py tests/book/test_experts.py`.
# * **Write it:** exercises 2.1, RMSNorm, and 2.2, the feed-forward network. `make student` writes the files with
#   holes to `student/`, and [the chapter](../tutorial/02_the_frame.md) tells how to fill them.
# * **See every array:** `.venv/bin/python -m tiny trace --model tiny-mixtral --prompt "Once there was a"`.
