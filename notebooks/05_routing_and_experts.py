# %% [markdown]
# # Route tokens to experts, and add up what they say
#
# **You will** route four tokens by hand, send them to small experts, colour a text by the experts that read it,
# and give a trained model more or fewer experts than it knows.
#
# **You will learn** what a mixture of experts computes, and why a token touches a part of the parameters only.
#
# **You need** NumPy and ten minutes. The chapter is
# [tutorial/05_routing_and_experts.md](../tutorial/05_routing_and_experts.md).

# %%
import dataclasses
import sys
from pathlib import Path

import numpy as np

sys.path.insert(1, str(Path.cwd().parent))  # finds tiny/ when Jupyter runs in notebooks/

import tiny
from notebooks.show import Picture, show
from tiny.experts import experts, feed_forward
from tiny.router import route
from tiny.sampling import log_softmax
from tiny.tools import plots
from tiny.tools.demo import TEXTS
from tiny.tools.memory import parameters
from tiny.tools.terminal.coloured_text import expert_shares

np.set_printoptions(precision=3, suppress=True)

# %% [markdown]
# ## 1. Choose two experts for each token
#
# How does a token find its experts? The router has one row of numbers for each expert. The product of that row
# with the token is the expert's logit, and the two largest win.

# %%
show(route)

# %% [markdown]
# Four tokens of two numbers, four experts, two for each token: small enough to check by hand.

# %%
x = np.array([[1, 0], [0, 1], [-1, 0], [1, 1]], np.float32)  # (T, D)
gate = np.array([[1, 0], [0, 1], [2, -1], [-2, -2]], np.float32)  # (E, D), one row for each expert
logits, expert_ids, expert_weights = route(x, gate, 2)

print("logits", logits.shape, " expert_ids", expert_ids.shape, " expert_weights", expert_weights.shape)
for token in range(4):
    print(f"token {token}   logits {logits[token]}   experts {expert_ids[token]}   weights {expert_weights[token]}")

# %% [markdown]
# The weights of each token add up to 1: the softmax runs over the two chosen logits, and those of the others
# count for nothing. Token 3 has three equal logits at the top; the lower indices win.
#
# **Now change this:** choose 1 expert, then 4. With one, what is its weight, and what did its logit matter?

# %% [markdown]
# ## 2. Send the tokens to their experts
#
# How can many tokens visit different experts without a loop over tokens? Turn it round: loop over experts, and
# give each one all of its tokens at once.

# %%
show(experts)

# %% [markdown]
# Are experts that nobody chose really left alone? Fill the matrices of one with NaN, which spoils everything it
# touches.

# %%
rng = np.random.default_rng(5)
w1, w3 = (list(rng.standard_normal((4, 3, 2)).astype(np.float32)) for _ in range(2))  # 4 experts x (F, D)
w2 = list(rng.standard_normal((4, 2, 3)).astype(np.float32))  # 4 experts x (D, F)
unused = sorted(set(range(4)) - set(expert_ids[:2].ravel().tolist()))
for e in unused:
    w1[e][:] = w2[e][:] = w3[e][:] = np.nan

print("experts of tokens 0 and 1:", expert_ids[:2].tolist(), " filled with NaN:", unused)
print(experts(x[:2], expert_ids[:2], expert_weights[:2], w1, w2, w3))

# %% [markdown]
# No NaN. And the answer is what the formula says, the sum of two answers with their weights:

# %%
by_hand = sum(weight * feed_forward(x[:1], w1[e], w2[e], w3[e]) for e, weight in zip(expert_ids[0], expert_weights[0]))
print("token 0 by hand", by_hand[0])

# %% [markdown]
# **Now change this:** send token 2 as well (`[:3]` three times). Does it choose an expert that is filled with
# NaN? What becomes of its row, and of the others?

# %% [markdown]
# ## 3. Colour a text by the experts that read it
#
# Do the experts of a trained model have subjects? Here is a story; the colour and the number under a token say
# which expert it counted most, in the first layer and in the last.

# %%
model = tiny.load("tiny-mixtral")
ids = [model.tokenizer.bos_id, *model.tokenizer.encode(TEXTS["stories"])]
trace = {}
model(ids, trace=trace)

last = model.config.n_layers - 1
layers = {f"layer {n}": trace[f"experts{n:02}"][1:, 0] for n in (0, last)}
print("tokens", len(ids), " experts of a layer: chosen", trace["experts00"].shape,
      " weights", trace["expert_weights00"].shape)

# %%
Picture(plots.tokens_by_expert(model.tokenizer.pieces(ids[1:]), layers))

# %% [markdown]
# Look for tokens that are equal, or of one kind: names, full stops, small words. The paper on Mixtral found the
# same: an expert is rarely one of a subject, more often one of a kind of token.
#
# **Now change this:** draw all layers, or the second choice (`[1:, 1]`). Then a text of your own.

# %% [markdown]
# ## 4. Count who is chosen
#
# Is the work shared out evenly, and does it depend on the text? Count both choices of all tokens, in every
# layer, for three kinds of text.

# %%
show(expert_shares)

# %%
shares = {name: expert_shares(model, [model.tokenizer.bos_id, *model.tokenizer.encode(text)])
          for name, text in TEXTS.items()}
print({name: share.shape for name, share in shares.items()})

# %%
Picture(plots.routing_heat_map(shares))

# %% [markdown]
# A row adds up to 100. The mark in the bar is the share that each expert would have if all were chosen equally
# often. Nothing in the model's code asks for balance: it was learnt, with a term of the training loss that
# rewards it.
#
# **Now change this:** put one of the texts through twice, joined to itself. Do the shares move?

# %% [markdown]
# ## 5. Count what one token costs
#
# What is the use of it? All parameters have to be there, and only a part works on a token.

# %%
show(parameters)

# %%
total, active = parameters(model.config)
print(f"{total:,} parameters, of which {active:,} ({active / total:.0%}) work on one token")

# %% [markdown]
# In Mixtral 8x7B it is 46.7 billion and 12.9 billion: the size of a large model at the cost per token of a
# small one. What happens with another number of experts for each token, in a model that was trained with two?

# %%
for k in (1, 2, 3, 4, 8):
    moe = dataclasses.replace(model.config.moe, num_experts_per_tok=k)
    config = dataclasses.replace(model.config, moe=moe)
    reader = tiny.Mixtral(config, model.weights, model.tokenizer)
    logprobs = [log_softmax(row)[token] for row, token in zip(reader(ids), ids[1:])]
    print(f"experts for each token {k}:{-np.mean(logprobs):6.2f} nats per token,"
          f"{parameters(config)[1]:10,} parameters at work")

# %% [markdown]
# Lower is better. More experts cost more; see whether they helped. The model learnt what the two largest say
# together, and the others were never asked about these tokens.
#
# **Now change this:** ask the two experts with the *smallest* logits: give `tiny.load` an `ops` whose `route`
# calls the real one with `-gate`, as [04, rotary positions](04_rotary_positions.ipynb) does with `rope`.
#
# ## Where to go from here
#
# * **Test it:** `.venv/bin/python -m pytest tests/book/test_router.py tests/book/test_experts.py`.
# * **Write it:** exercises 5.1, choose and weigh, 5.2, run the experts and add up, and 5.3, shares and the balance
#   loss. `make student` writes the files with holes to `student/`, and [the
#   chapter](../tutorial/05_routing_and_experts.md) tells how to fill them.
# * **Measure it:** `.venv/bin/python -m tiny routing --model tiny-mixtral FILE` counts shares and repeats for
#   texts of yours, in the measures of the [paper](https://arxiv.org/abs/2401.04088), section 5.
