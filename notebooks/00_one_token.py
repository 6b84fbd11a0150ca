# %% [markdown]
# # Follow one token through Mixtral, and one image through Pixtral
#
# **You will** run both models once, read the shape of every array on the way, watch a vector grow from layer to layer,
# and see the next token being chosen.
#
# **You will learn** which parts there are, and which chapter explains each.
#
# **You need** NumPy and five minutes. The page is [tutorial/00_one_token.md](../tutorial/00_one_token.md).

# %%
import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

sys.path.insert(1, str(Path.cwd().parent))  # finds tiny/ when Jupyter runs in notebooks/

import tiny
from notebooks.show import Picture, show
from tiny.decoder import decoder_layer
from tiny.numerics import softmax
from tiny.tools.demo import STORED
from tiny.vision import vision_encoder

# %% [markdown]
# ## 1. A text goes in
#
# What is there between a text and its next token? `trace` is a dictionary that the model fills with every array.

# %%
model, trace = tiny.load("tiny-mixtral"), {}
ids = [model.tokenizer.bos_id, *model.tokenizer.encode("Once there was a")]
logits = model(ids, trace=trace)
print(ids, model.tokenizer.pieces(ids))
for name, array in trace.items():
    if name.endswith("00") or not name[-1].isdigit():
        print(f"{name:18}{array.shape}")

# %% [markdown]
# `00` is layer 0; the others have the same shapes. A layer is a short function, which you write in chapter 6: its two
# halves read the vectors and *add* their answers.

# %%
show(decoder_layer)

# %% [markdown]
# So the vectors grow from layer to layer. How fast, and do all tokens grow alike?

# %%
names = ["embed", *(f"layer{n:02}" for n in range(model.config.n_layers))]
sizes = np.array([np.sqrt((trace[name] ** 2).mean(axis=1)) for name in names])
figure = Figure(figsize=(6, 3.2), layout="constrained")
panel = figure.subplots()
for token, piece in enumerate(model.tokenizer.pieces(ids)):
    panel.plot(names, sizes[:, token], marker="osD^v"[token], label=piece.replace("\u2581", " "))
panel.set(xlabel="after", ylabel="root mean square of the vector", title="The residual stream of five tokens")
panel.legend(fontsize=8)
Picture(figure)

# %% [markdown]
# **Now change this:** follow a text of your own, of five tokens at most. Hand in by what factor the vector of its last
# token grows from the embedding to the last layer.

# %% [markdown]
# ## 2. A token comes out
#
# Which token comes next? The last row of the logits has a score for each of the 2,048 in the vocabulary. The best ten,
# as chances:

# %%
show(softmax)

# %%
chances = softmax(logits[-1:].copy())[0]
best = np.argsort(-chances)[:10]
words = [piece.replace("\u2581", " ").strip() for piece in model.tokenizer.pieces(best.tolist())]
figure = Figure(figsize=(6, 3), layout="constrained")
panel = figure.subplots()
panel.barh(words[::-1], 100 * chances[best][::-1], color="0.5", hatch="//")
panel.set(xlabel="chance in per cent", ylabel="next token", title="After 'Once there was a'")
Picture(figure)

# %% [markdown]
# Draw one, put it at the end, and ask again:

# %%
print("".join(token.text for token in tiny.generate(model, ids, max_tokens=12)))
for seed in range(3):
    drawn = tiny.generate(model, ids, max_tokens=12, temperature=0.8, seed=seed)
    print(seed, "".join(token.text for token in drawn))

# %% [markdown]
# **Now change this:** hand in how many of the best tokens it takes until their chances add up to one half.

# %% [markdown]
# ## 3. A picture goes in
#
# How does a picture get into a model of text? It becomes vectors of the same width, in the places of `[IMG]` tokens
# (their id is 10).

# %%
show(vision_encoder)

# %%
model, trace = tiny.load("tiny-pixtral"), {}
content = [{"type": "image", "image": Image.open(STORED / "picture1.png")},
           {"type": "text", "text": "what does the image show ?"}]
ids, images = model.tokenizer.encode_chat([{"role": "user", "content": content}])
model(ids, images=images, trace=trace)
print("tokens", len(ids), " of patches", ids.count(10), " pixels", images[0].shape)
for name in ("patch_conv", "vision_q00", "vision_layer00", "projector", "embed", "layer00", "logits"):
    print(f"{name:18}{trace[name].shape}")
print("".join(token.text for token in tiny.generate(model, ids, images)))

# %% [markdown]
# **Now change this:** ask about `picture2.png`. Hand in T, the number of tokens, and N, the number of patches.
#
# ## Where to go from here
#
# * **Test it:** `.venv/bin/python -m pytest tests/book/test_mixtral.py tests/book/test_pixtral.py`.
# * **Write it:** there is no exercise here. [The page](../tutorial/00_one_token.md) says which chapter has the part
#   that you want to write yourself; [attention](../tutorial/03_attention.md) is a good one to begin with.
