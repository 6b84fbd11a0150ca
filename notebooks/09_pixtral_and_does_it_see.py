# %% [markdown]
# # Ask about a picture, then about grey nothing
#
# **You will** put patches into a prompt by hand, see which patches a word looks at, and measure what a model
# sees beside what it guesses.
#
# **You will learn** how an encoder and a language model become one, and what a score of n questions proves.
#
# **You need** NumPy and ten minutes. The chapter is
# [tutorial/09_pixtral_and_does_it_see.md](../tutorial/09_pixtral_and_does_it_see.md).

# %%
import sys
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(1, str(Path.cwd().parent))  # finds tiny/ when Jupyter runs in notebooks/

import tiny
from notebooks.show import Picture, show
from tiny.adapter import splice
from tiny.pixtral import Pixtral
from tiny.tools import demo
from tiny.tools.prompt_images import user_turn
from tiny.training.images.evaluate import answers_right, draw, plain
from tiny.training.images.score import blind_score
from tutorial.drawings import chapter_09

np.set_printoptions(precision=3, suppress=True)

# %% [markdown]
# ## 1. Put patches into the rows of [IMG]
#
# A prompt with a picture is a list of ids like any other. How do the patches get into it?

# %%
show(Pixtral.embed)

# %%
show(splice)

# %%
model = tiny.load("tiny-pixtral")
picture = Image.open(demo.STORED / "picture1.png").convert("RGB")
ids, pixels = model.tokenizer.encode_chat([user_turn("what color is the star", [picture])])
trace = {}
model(ids, pixels, trace=trace)

table, img = model.weights["tok_embeddings.weight"], model.config.vision.image_token_id
by_hand = splice(table[ids].astype(np.float32), np.array(ids), trace["projector"], img)
print(f"{len(ids)} tokens, {ids.count(img)} of them [IMG]; the adapter gave {trace['projector'].shape}")
print("largest difference from what the model put into its first layer:", np.abs(by_hand - trace["embed"]).max())

# %% [markdown]
# **Now change this:** turn the patches round, `trace["projector"][::-1]`. In how many rows does the result differ
# from the model's? Why not in all? Hand in the number.

# %% [markdown]
# ## 2. See where a word looks
#
# A patch is a token, so a word of the question can look at it. Does the word "star" find the star?

# %%
show(demo.answer)

# %%
for question in chapter_09.WORDS.values():
    print(f"{question:24} {demo.answer(model, picture, question)}")

# %%
Picture(chapter_09.words_picture(model))

# %% [markdown]
# Nobody told the model what a star is. This head found out, because its answers got better.
#
# **Now change this:** give `word_weights` a question about something that is not there, "what color is the
# cross", with the word "cross". Where does it look? Hand in the patch with the largest weight, and the answer.

# %% [markdown]
# ## 3. Ask again, blind
#
# Which of the right answers were seen, and which were guessed? Ask the same about a plain picture.

# %%
show(plain)

# %%
for file, questions in demo.PICTURES.items():
    seen = Image.open(demo.STORED / file).convert("RGB")
    for question, right in questions.items():
        print(f"{question:38} right: {right:32} seen: {demo.answer(model, seen, question):32} "
              f"blind: {demo.answer(model, demo.plain(seen), question)}")

# %% [markdown]
# A plain picture of the *same size* has the same tokens at the same places. Only what is in it is gone.
#
# **Now change this:** ask blind about a picture of another size (`demo.plain(seen).resize((32, 32))`). Do the
# blind answers change? What could a model read from the size alone?

# %% [markdown]
# ## 4. Compute what the score proves
#
# Forty questions of a kind, seen and blind. How sure can we be that seeing helps, and how much?

# %%
show(blind_score)

# %%
scores = {}
for skill in ("color", "left_of", "word4"):
    right = [np.array(answers_right(model, draw(skill, column, 40))) for column in ("seen", "blind")]
    scores[skill] = blind_score(*right)
    for name, (share, low, high) in zip(("seen", "blind", "seen - blind"), scores[skill]):
        print(f"{skill:8} {name:13}{100 * share:6.1f} per cent, from {100 * low:6.1f} to {100 * high:6.1f}")

# %% [markdown]
# "Left of" is right in half of the cases without any sight: a yes or a no. Reading four letters is never guessed.
# Here are all 256 questions of the model's card, and what would be known from 16.

# %%
Picture(chapter_09.blind_picture())

# %% [markdown]
# **Now change this:** draw 10, 20, 80 and 160 questions of `left_of`. From which number on is the low end of
# "seen - blind" above 30 points, the margin that the card asks for? Hand in the four low ends.
#
# ## Where to go from here
#
# * **Test it:** `.venv/bin/python -m pytest tests/book/test_pixtral.py tests/book/test_adapter.py`.
# * **Write it:** exercises 9.1, patches into the rows of [IMG], and 9.2, seen against blind. `make student` writes
#   the files with holes to `student/`, and [the chapter](../tutorial/09_pixtral_and_does_it_see.md) tells how to
#   fill them.
# * **Ask about pictures of your own:** `.venv/bin/python -m tiny describe PICTURE`. It knows shapes, digits,
#   lower-case words and bars; a photograph is nothing to it.
