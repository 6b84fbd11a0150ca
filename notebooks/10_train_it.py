# %% [markdown]
# # Train a model, and watch its experts
#
# **You will** judge a gradient by trying it out, train a very small mixture of experts on stories, and take away
# what keeps its experts balanced.
#
# **You will learn** what a backward pass, AdamW and the load-balancing loss do.
#
# **You need** NumPy and ten minutes. The chapter is
# [tutorial/10_train_it.md](../tutorial/10_train_it.md).

# %%
import dataclasses
import sys
from pathlib import Path

import numpy as np

sys.path.insert(1, str(Path.cwd().parent))  # finds tiny/ when Jupyter runs in notebooks/

import tiny
from notebooks.show import Picture, show
from tiny.training.backward import linear_backward, load_balancing, rms_norm_backward
from tiny.training.optimiser import adamw
from tiny.training.text import data, stories
from tiny.training.text.train import BASELINE, Trainer
from tutorial.drawings import chapter_10

np.set_printoptions(precision=3, suppress=True)

# %% [markdown]
# ## 1. Judge a gradient by trying it out
#
# The backward pass of RMSNorm is exercise 10.1. How would you know whether yours is right?

# %%
show(rms_norm_backward)

# %%
rng = np.random.default_rng(0)
x, dout, weight, dw = rng.standard_normal((2, 4)), rng.standard_normal((2, 4)), rng.standard_normal(4), np.empty(4)


def loss_of(x):
    return np.sum(x / np.sqrt((x * x).mean(axis=1, keepdims=True) + 1e-5) * weight * dout)


dx, tried = rms_norm_backward(dout, x, weight, 1e-5, dw), np.empty_like(x)
for place in np.ndindex(x.shape):
    h = np.zeros_like(x)
    h[place] = 1e-5
    tried[place] = (loss_of(x + h) - loss_of(x - h)) / 2e-5
print("backward pass\n", dx, "\ntried out\n", tried, "\nfurthest apart", np.abs(dx - tried).max())
print("part of dx along x, row by row:", (dx * x).sum(axis=1).round(4))

# %% [markdown]
# The last line shows the trap of the chapter: a step along x changes nothing.
#
# How small should the step be?

# %%
Picture(chapter_10.differences_picture())

# %% [markdown]
# **Now change this:** compute in float32: `x = x.astype(np.float32)`, and the same for the others, with steps of
# 1e-5 and of 1e-2. Hand in how far apart the two gradients are in each case.

# %% [markdown]
# ## 2. Train a very small model
#
# Two layers, four experts, and six hundred stories of this repository's own generator. Does the loss go down?

# %%
show(linear_backward)

# %%
show(adamw)

# %%
pieces = data.open_tokenizer((tiny.model_folder("tiny-mixtral") / "tokenizer.model").read_bytes())
texts = [stories.generate(rng, held_out=False).text for _ in range(600)]
stream = data.pack([[([1, *ids, 2], True)] for ids in pieces.encode(texts)])
recipe = dataclasses.replace(BASELINE, dim=32, n_layers=2, n_heads=2, n_kv_heads=1, head_dim=16, hidden_dim=64,
                             num_experts=4, tokens=100 * 512, batch_tokens=(512,), shares=(("stories", 1.0),))
print(f"{len(stream.ids):,} tokens, the first story: {texts[0][:90]}...")

# %%
def trained(recipe):
    trainer = Trainer(recipe, {"stories": stream})
    return trainer, [trainer.advance() for _ in trainer.sizes]


trainer, steps = trained(recipe)
print(f"{len(trainer.parameters):,} weights")
for n in (0, 10, 30, 60, 99):
    print(f"step {n + 1:3}  loss {steps[n]['loss']:.3f}  length of the gradient {steps[n]['norm']:.2f}  "
          f"rate {steps[n]['rate']:.5f}")

# %% [markdown]
# The first loss is about log 2048 = 7.62: the model knows nothing, and holds all tokens for equally likely.
#
# **Now change this:** train with a tenth of the rate (`rate=2e-4`), and with ten times the rate. Hand in the loss
# of the last step for the three.

# %% [markdown]
# ## 3. Let the experts do as they like
#
# The same model, twice: with the load-balancing loss, and with its factor set to zero. Who works?

# %%
show(load_balancing)

# %%
for name, aux in (("with the loss for balance", recipe.aux), ("without", 0.0)):
    last = trained(dataclasses.replace(recipe, aux=aux))[1][-20:]
    print(f"{name}: loss {np.mean([step['loss'] for step in last]):.3f}, shares of the experts in per cent")
    print(100 * np.mean([step["shares"] for step in last], axis=0))

# %% [markdown]
# A row is a layer, a column an expert. And here is the beginning of tiny-mixtral's own training, with eight experts
# and four layers, recorded:

# %%
Picture(chapter_10.training_picture())

# %% [markdown]
# **Now change this:** give the balance a factor of 1 instead of 0.02. Hand in loss and shares: what does a model
# pay if balance is all that counts?
#
# ## Where to go from here
#
# * **Test it:** `.venv/bin/python -m pytest tests/training/test_backward.py tests/training/test_training.py`.
# * **Write it:** exercise 10.1, the backward pass of RMSNorm. `make student` writes the files with holes to
#   `student/`, and [the chapter](../tutorial/10_train_it.md) tells how to fill it.
# * **Do it all:** `make train` trains tiny-mixtral anew, in an hour or two on a processor.
