# %% [markdown]
# # Let patches see each other, and images not
#
# **You will** number patches in one and in two dimensions, break the angles of a trained encoder, and take away
# the border between images.
#
# **You will learn** what row and column do that one number cannot, and how several images of any size share one
# call.
#
# **You need** NumPy and ten minutes. The chapter is
# [tutorial/08_the_vision_encoder.md](../tutorial/08_the_vision_encoder.md).

# %%
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np

sys.path.insert(1, str(Path.cwd().parent))  # finds tiny/ when Jupyter runs in notebooks/

import tiny
from notebooks.show import Picture, show
from tiny.patch_embed import grid_of
from tiny.rope_2d import patch_positions, rope_2d_table
from tiny.tools.looking import image_weights
from tiny.training.images.evaluate import answers_right, draw
from tiny.vision import vision_encoder
from tutorial.drawings import chapter_08

np.set_printoptions(precision=3, suppress=True)

# %% [markdown]
# ## 1. Give each patch a row and a column
#
# Patches lie in memory row by row. What does one number, the place in that order, say about two patches that
# stand one below the other?

# %%
show(patch_positions)

# %%
for columns, rows in ((3, 2), (6, 2)):
    places = patch_positions([(columns, rows)])
    here, below = (int(np.flatnonzero((places == place).all(axis=1))[0]) for place in ([0, 1], [1, 1]))
    print(f"{columns} columns: (0, 1) is patch {here}, and (1, 1) below it is patch {below}: {below - here} steps")

# %% [markdown]
# One step down is 3 or 6 steps along the rows, as the width of the picture will have it. Here is what a query in
# the middle of a grid makes of it. All numbers of all queries and keys are 1, so only their angles differ. Its
# score with itself is 100.

# %%
Picture(chapter_08.scores_picture())

# %% [markdown]
# Left, the right-hand neighbour is near and the patch below is far, and the end of a row is near to the beginning
# of the next. Right, near is near in both directions.
#
# **Now change this:** give `scores_picture` 12 columns. Which of the two numbers below the middle changes?
# Hand in both, before and after.

# %% [markdown]
# ## 2. Turn half of the pairs by the row, half by the column
#
# Which pair turns with what?

# %%
show(rope_2d_table)

# %%
cos, sin = rope_2d_table(np.array([[0, 0], [1, 0], [0, 1], [2, 3]]), head_dim=8, theta=16.0)
print("angles of the four pairs, for the patches (0, 0), (1, 0), (0, 1) and (2, 3)")
print(np.arctan2(sin, cos))

# %% [markdown]
# The paper draws row and column alternating. The numbers are the same, in another order: does it matter? For
# weights that were trained with one order, it does. Here is tiny-pixtral, as it is and with the angles in the
# order of the drawing, on forty words to read and forty colours to name.

# %%
def reordered(positions, head_dim, theta):
    order = np.arange(head_dim // 2).reshape(2, -1).T.ravel()
    return tuple(table[:, order] for table in rope_2d_table(positions, head_dim, theta))


model = tiny.load("tiny-pixtral")
ops = {name: getattr(tiny.ops, name) for name in tiny.ops.__all__}
as_drawn = tiny.load("tiny-pixtral", ops=SimpleNamespace(**ops | {"rope_2d_table": reordered}))
for skill in ("word3", "left_of", "color"):
    right = [sum(answers_right(one, draw(skill, "seen", 40))) for one in (model, as_drawn)]
    print(f"{skill:8} right of 40: as it is {right[0]}, pairs alternating {right[1]}")

# %% [markdown]
# A colour can be seen without knowing where. To read, or to say what is left of what, a model must know places.
# Nothing failed, nothing warned: an encoder with its pairs in the wrong order looks like a poor model.
#
# **Now change this:** let `reordered` exchange rows and columns (`positions[:, ::-1]`) and leave the order. Is
# the model then wrong about "left of"? Hand in the three counts.

# %% [markdown]
# ## 3. Keep two images apart
#
# Two pictures of unequal size go through the encoder together. Who sees whom?

# %%
show(image_weights)

# %%
images, trace = chapter_08.two_images(model.config.vision), {}
grids = [grid_of(image, model.config.vision.patch_size) for image in images]
ids = [token for grid in grids for token in model.tokenizer.image_tokens(*grid)]
model([model.tokenizer.bos_id, *ids], images, trace=trace)
q, k = trace["vision_q00"][:, 2], trace["vision_k00"][:, 2]
lengths = [columns * rows for columns, rows in grids]
print("grids", grids, " patches", lengths, " weights", image_weights(q, k, lengths).shape)

# %%
Picture(chapter_08.mask_picture(model))

# %% [markdown]
# In the middle the table of one head, right the same without the border. How much of its attention does a patch
# then spend on the other picture?

# %%
forgotten = image_weights(q, k, [sum(lengths)])
print("share of the weight that goes to the other picture, patch by patch")
print(forgotten[: lengths[0], lengths[0] :].sum(axis=1), forgotten[lengths[0] :, : lengths[0]].sum(axis=1))

# %% [markdown]
# **Now change this:** take the last layer (`vision_q03`, `vision_k03`). Is more or less of the attention lost to
# the other picture? Hand in the mean over the twelve patches for layer 0 and layer 3.

# %% [markdown]
# ## 4. Forget the border in a trained model
#
# One published program forgets the mask between images. What does that cost, in answers?

# %%
show(vision_encoder, 2, 3)

# %%
def one_for_all(q, keys, values, lengths, spans, causal=True, precision="float32"):
    if not causal:
        lengths, spans = [len(q)], [(0, len(q))]
    return tiny.ops.attention(q, keys, values, lengths, spans, causal, precision)


unmasked = tiny.load("tiny-pixtral", ops=SimpleNamespace(**ops | {"attention": one_for_all}))
for skill in ("color", "which", "which_3"):
    asked = draw(skill, "seen", 40)
    right = [sum(answers_right(one, [question])[0] for question in asked) for one in (model, unmasked)]
    print(f"{skill:8} {len(asked[0][0])} in a prompt, right of 40: with the mask {right[0]}, without {right[1]}")

# %% [markdown]
# With one picture in the prompt nothing changes. So whoever tests with one picture finds nothing. "Which of three
# pictures has it" is answered as a guess would: each picture's patches hold something of all three.
#
# **Now change this:** ask about one picture in each prompt (`color`), but all prompts in one call:
# `answers_right(unmasked, asked)`. Prompts of strangers now see each other's pictures. How many colours are
# still right?
#
# ## Where to go from here
#
# * **Test it:** `.venv/bin/python -m pytest tests/book/test_rope_2d.py tests/book/test_vision.py`.
# * **Write it:** exercises 8.1, angles of a patch, and 8.2, who sees whom. `make student` writes the files with
#   holes to `student/`, and [the chapter](../tutorial/08_the_vision_encoder.md) tells how to fill them.
# * **See it in your own pictures:** `.venv/bin/python -m tiny describe PICTURE PICTURE`.
