# %% [markdown]
# # Rotate queries and keys by their positions
#
# **You will** turn pairs of numbers by angles, see what a score keeps of two positions, and take the positions
# away from a trained model to read the damage.
#
# **You will learn** how Mixtral knows the order of its tokens, without a single trained number for it.
#
# **You need** NumPy and ten minutes; [03, attention](03_attention.ipynb) comes before. The chapter is
# [tutorial/04_rotary_positions.md](../tutorial/04_rotary_positions.md).
#
# Nothing is defined here that the model uses: `show` prints the code of `tiny/` from its file, and the cells
# call it.

# %%
import sys
from pathlib import Path

import numpy as np

sys.path.insert(1, str(Path.cwd().parent))  # finds tiny/ when Jupyter runs in notebooks/

from types import SimpleNamespace

import tiny
from notebooks.show import Picture, show
from tiny.attention import attention
from tiny.decoder import self_attention
from tiny.rope import rope, rope_table
from tiny.sampling import log_softmax
from tiny.tools import plots
from tiny.tools.demo import TEXTS

np.set_printoptions(precision=3, suppress=True)

# %% [markdown]
# ## 1. Shuffle the keys and notice nothing
#
# Does attention know the order of words? Four tokens, one head of four numbers. The last token looks at all
# four. Then the first three change places, with their keys and values. What does the last token get now?

# %%
rng = np.random.default_rng(1)
q, k, v = (rng.standard_normal((4, 1, 4)).astype(np.float32) for _ in range(3))
order = [2, 0, 1, 3]

print("in order ", attention(q, k, v, lengths=[4], spans=[(0, 4)])[3, 0])
print("shuffled ", attention(q, k[order], v[order], lengths=[4], spans=[(0, 4)])[3, 0])

# %% [markdown]
# The same. An average has no order: "dog bites man" and "man bites dog" would be one bag of words. So the
# position has to get into the numbers themselves.
#
# **Now change this:** try any other `order` of the four. Then print row 1 instead of row 3: why does that one
# change? (Which keys may it see?)

# %% [markdown]
# ## 2. Give every position its angles
#
# A hand of a clock says a time by its angle. RoPE takes the numbers of a query or key in pairs, and turns each
# pair like a hand: the first one fast, the next ones slower and slower. This is the table of the angles, as
# cosines and sines.

# %%
show(rope_table)

# %%
positions = np.arange(4)
cos, sin = rope_table(positions, head_dim=4, theta=100.0)

print("cos, one row for each position, one column for each pair:", cos.shape)
print(cos)
print("the angles themselves, in radians")
print(np.arctan2(sin, cos))

# %% [markdown]
# Pair 0 turns by 1 radian (57 degrees) for each token, pair 1 by a tenth of that, because theta is 100 and the
# second exponent is -2/4. Mixtral has 64 pairs and a theta of a million: its slowest hand needs about five
# million tokens to go round once.
#
# **Now change this:** set `theta=10000.0`. Which column changes? Then set `head_dim=8`, run on, and read what
# section 3 says to it.

# %% [markdown]
# ## 3. Rotate a query by its position
#
# What does `rope` do with a vector? It leaves its length alone, and turns each pair by the angle of the token's
# position.

# %%
show(rope)

# %%
x = np.tile(np.array([1, 0, 1, 0], np.float32), (4, 1, 1))  # one vector at four positions
turned = rope(x, cos, sin)

print("in  ", x.shape, " out ", turned.shape)
print(turned[:, 0])
print("lengths ", np.linalg.norm(turned[:, 0], axis=1))

# %% [markdown]
# At position 0 nothing turns. Every row has the length it had before: positions say something about direction
# only. A head of the embedded model has 32 numbers, so 16 pairs, and a theta of 10,000. Here are its first
# eight hands at the positions 0 to 5, and the angles of all sixteen further on.

# %%
Picture(plots.rope_angles(head_dim=32, theta=10000.0, positions=[1, 25, 500]))

# %% [markdown]
# The fast hands tell neighbours apart, the slow ones tell near from far.
#
# **Now change this:** let `x` be `[0, 1, 0, 1]`, then `[1, 1, 0, 0]`. Predict the second row before you run the
# cell.

# %% [markdown]
# ## 4. Compare scores at equal distances
#
# What does a score, the product of a turned query and a turned key, know of the two positions? Put one query
# and one key at each of four positions, and multiply every pair of them.

# %%
rng = np.random.default_rng(4)
query, key = (rng.standard_normal((1, 1, 4)).astype(np.float32) for _ in range(2))
queries = rope(np.repeat(query, 4, axis=0), cos, sin)[:, 0]
keys = rope(np.repeat(key, 4, axis=0), cos, sin)[:, 0]

print("score of the query at position m (rows) with the key at position n (columns)")
print(queries @ keys.T)

# %% [markdown]
# Every diagonal holds one number. Both were turned by their own position, and what is left in the product is
# the difference: the score depends on **how far apart** they are, and not on where. No cell of this table was
# computed from a distance; it falls out of the rotation. Here is the same for a head of 32 numbers, all of them
# 1, as a fraction of the score that a token has with itself.

# %%
Picture(plots.relative_score_map(head_dim=32, theta=10000.0, T=48))

# %% [markdown]
# **Now change this:** add 1000 to `positions` in section 2 and run on from there. Which numbers of the table
# change, and which stay?

# %% [markdown]
# ## 5. Take the positions away from a trained model
#
# How much does a model need this? The embedded model is a Mixtral with pairs turned by `rope`. A model is built
# with the operations it uses, so we hand it the same operations with a `rope` that turns nothing, and let both
# read a story.

# %%
show(self_attention, 1, 2)

# %%
model = tiny.load("tiny-mixtral")
still = SimpleNamespace(**{name: getattr(tiny.ops, name) for name in tiny.ops.__all__})
still.rope = lambda x, cos, sin, precision: x
without = tiny.load("tiny-mixtral", ops=still)

ids = np.array([model.tokenizer.bos_id, *model.tokenizer.encode(TEXTS["stories"])])
for name, reader in (("with positions", model), ("without", without)):
    logprobs = [log_softmax(row)[token] for row, token in zip(reader(ids), ids[1:])]
    print(f"{name:16}{-np.mean(logprobs):5.2f} nats per token, over {len(logprobs)} tokens")

# %% [markdown]
# One nat more means that the next token is expected 2.7 times less, on average. Not all is lost, because the mask
# still lets a token see earlier ones only, and that betrays a little of the order. Now let both do something
# that is about order.

# %%
question, _ = model.tokenizer.encode_chat([{"role": "user", "content": "Reverse the words: green apple boat"}])
for name, writer in (("with positions", model), ("without", without)):
    print(f"{name:16}", "".join(token.text for token in tiny.generate(writer, question, max_tokens=12)))

# %% [markdown]
# **Now change this:** let `still.rope` be `rope` again, and break its scale instead: `still.rope_table` can
# call `rope_table` with `2 * positions`. Is a model that learnt distances at ease with doubled ones?
#
# ## Where to go from here
#
# * **Test it:** `.venv/bin/python -m pytest tests/book/test_rope.py`.
# * **Write it:** exercises 4.1, angles of a position, 4.2, apply the rotation, and 4.3, from halves to pairs. `make
#   student` writes the files with holes to `student/`, and [the chapter](../tutorial/04_rotary_positions.md) tells
#   how to fill them.
# * **Read on:** [05, routing and experts](05_routing_and_experts.ipynb).
