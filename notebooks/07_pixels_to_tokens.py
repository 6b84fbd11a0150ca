# %% [markdown]
# # Cut a picture into tokens, without changing its shape
#
# **You will** count the tokens of pictures of any size, look at the windows that a trained model lays on its patches,
# take the line breaks away from it, and shrink a picture until it is no longer understood.
#
# **You will learn** what native resolution costs and what it buys.
#
# **You need** NumPy and ten minutes. The chapter is
# [tutorial/07_pixels_to_tokens.md](../tutorial/07_pixels_to_tokens.md).

# %%
import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

sys.path.insert(1, str(Path.cwd().parent))  # finds tiny/ when Jupyter runs in notebooks/

import tiny
from notebooks.show import Picture, show
from tiny.chat_v3 import image_tokens
from tiny.image import image_grid, preprocess
from tiny.patch_embed import grid_of, patch_embed, patches
from tiny.tools.demo import STORED
from tiny.tools.plots.patches import levels

np.set_printoptions(precision=3, suppress=True)

# %% [markdown]
# ## 1. Count before you look
#
# How many tokens does a picture cost? The size alone decides, so no pixel is needed.

# %%
show(image_grid)

# %% [markdown]
# A photo, the same turned, a screen, a receipt, an icon and a line, as Pixtral 12B takes them:

# %%
for width, height in ((4032, 3024), (3024, 4032), (1920, 1080), (400, 2600), (32, 32), (5000, 1)):
    columns, rows = tiny.image_grid(width, height)
    print(f"{width:5} x {height:4} pixels: {columns:2} x {rows:2} patches, {rows * (columns + 1):5,} tokens")

# %% [markdown]
# **Now change this:** of all pictures of 1,000 x n pixels, which n gives the most tokens, and how many? Hand in both
# numbers, and say why more pixels do not give more tokens from there on.

# %% [markdown]
# ## 2. Make the pixels ready
#
# What does the model get of a picture whose sides are no whole number of patches?

# %%
show(preprocess)

# %%
model = tiny.load("tiny-pixtral")
vision = model.config.vision
picture = Image.open(STORED / "picture2.png").convert("RGB")
pixels = tiny.preprocess(picture, vision.patch_size, vision.max_image_size)
columns, rows = grid_of(pixels, vision.patch_size)
print("before", picture.size, " after", pixels.shape, f" {columns} x {rows} patches")
print(f"numbers from {pixels.min():.3f} to {pixels.max():.3f}, mean {pixels.mean():.3f}")

# %%
figure = Figure(figsize=(6, 3.8), layout="constrained")
panel = figure.subplots()
panel.imshow(levels(pixels), extent=(0, columns, rows, 0), interpolation="nearest")
panel.set(xlabel="column of patches", ylabel="row of patches", xticks=range(columns + 1), yticks=range(rows + 1),
          title=f"{columns} x {rows} patches of {vision.patch_size} x {vision.patch_size} pixels")
panel.grid(color="white", linewidth=1)
Picture(figure)

# %% [markdown]
# **Now change this:** prepare it with `style="hf"`. The grid is the same. Hand in the largest difference of a number,
# and where in the picture it is.

# %% [markdown]
# ## 3. One product instead of a convolution
#
# Does the product of flattened patches give what a window gives that is laid on the pixels? Take one window of the
# trained model, and one patch in the second row, and multiply them number by number.

# %%
show(patches)

# %%
show(patch_embed)

# %%
weight = np.asarray(model.weights["vision_encoder.patch_conv.weight"], np.float32)
p, row, column, window = vision.patch_size, 1, 3, 5
x = patch_embed([pixels], weight)
square = pixels[:, row * p : (row + 1) * p, column * p : (column + 1) * p]
print("weight", weight.shape, " vectors", x.shape)
print(f"by the product {x[row * columns + column, window]:.5f}, by hand {np.sum(weight[window] * square):.5f}")

# %% [markdown]
# What do the windows look for? Here are 24 of them. Grey is zero; a window answers with a large number where the
# picture looks like it.

# %%
figure = Figure(figsize=(8, 3.4), layout="constrained")
for number, panel in enumerate(figure.subplots(3, 8).ravel()):
    scaled = weight[number] / (2 * np.abs(weight[number]).max()) + 0.5
    panel.imshow(scaled.transpose(1, 2, 0), interpolation="nearest")
    panel.set_title(number, fontsize=8)
    panel.axis("off")
Picture(figure)

# %% [markdown]
# **Now change this:** move the picture to the right by one patch, `np.roll(pixels, p, axis=2)`, then by one pixel. Hand
# in how many of the rows of `patches` are rows of the picture as it was, in both cases, and say why.

# %% [markdown]
# ## 4. Write the run of tokens
#
# Does the model need to be told where rows end? First the run, each row of patches on a line of its own:

# %%
show(image_tokens)

# %%
ids = model.tokenizer.image_tokens(columns, rows)
for start in range(0, len(ids), columns + 1):
    print(*ids[start : start + columns + 1])

# %% [markdown]
# Now a question about it; then the same with another token, `<pad>`, in the place of each break.

# %%
def reply_to(image, question="what does the image show ?", breaks=12):
    content = [{"type": "image", "image": image}, {"type": "text", "text": question}]
    ids, images = model.tokenizer.encode_chat([{"role": "user", "content": content}])
    ids = [breaks if token == 12 else token for token in ids]
    return len(ids), "".join(token.text for token in tiny.generate(model, ids, images, max_tokens=20))

pad = 11
star = Image.open(STORED / "picture1.png").convert("RGB")
for image in (star, picture):
    print("with breaks   ", reply_to(image)[1])
    print("without breaks", reply_to(image, breaks=pad)[1])

# %% [markdown]
# If the answers are the same, the model found rows and columns in another way: the encoder has told each patch its
# place already, by angles ([page 0](../tutorial/00_one_token.md)). The breaks say it once more, and these questions,
# to this small model, do not need them.
#
# **Now change this:** ask about places only: `"Is the star left of the ring?"`, for the picture and for a mirrored one
# (`star.transpose(Image.Transpose.FLIP_LEFT_RIGHT)`), with breaks and without. Hand in how many of the four answers
# are right.

# %% [markdown]
# ## 5. Shrink it until it is gone
#
# How few tokens are enough? A smaller picture has fewer patches, so it is cheaper, and shows less.

# %%
for width in (96, 64, 48, 40, 32, 24, 16, 8):
    image = star.resize((width, width * 3 // 4))
    tokens, answer = reply_to(image)
    print(f"{width:3} x {width * 3 // 4:2} pixels, {tokens:4} tokens of the whole prompt: {answer}")

# %% [markdown]
# The answer is right as long as the two things are a few patches apart and have a shape. A model that always squeezes
# pictures to one size pays the same for all of these.
#
# **Now change this:** shrink the width alone, `star.resize((width, 48))`. Hand in the fewest tokens at which the answer
# is right.
#
# ## Where to go from here
#
# * **Test it:** `.venv/bin/python -m pytest tests/book/test_image.py tests/book/test_patch_embed.py`.
# * **Write it:** exercises 7.1, the grid, 7.2, the vectors, and 7.3, the ids. `make student` writes the files with
#   holes to `student/`, and [the chapter](../tutorial/07_pixels_to_tokens.md) tells how to fill them.
# * **See it:** `.venv/bin/python -m tiny describe IMAGE --patches FILE` draws any picture of yours with its patches.
