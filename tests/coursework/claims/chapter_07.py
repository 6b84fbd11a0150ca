"""Where the numbers in the prose of chapter 7 come from."""

import tiny
from tiny.patch_embed import patches
from tiny.tools.memory import kv_bytes
from tiny.tools.releases import PIXTRAL_12B as PIXTRAL
from tutorial.drawings import chapter_07

vision = PIXTRAL.vision
P, M, D = vision.patch_size, vision.max_image_size, vision.hidden_size
values = vision.num_channels * P * P  # of a patch
columns, rows = tiny.image_grid(M, M)
count, tokens = columns * rows, (columns + 1) * rows
photo, ratio = (4032, 3024), 4032 / M
across, down = tiny.image_grid(*photo)
half_columns, half_rows = tiny.image_grid(M // 2, M // 2)
assert patches is chapter_07.patches and (half_columns * half_rows * 4, ratio) == (count, 3.9375)
assert 31 == PIXTRAL.max_seq_len // tokens and 63 == rows - 1


def whole(x):
    return f"{x:,.0f}"


NUMBERS = {
    whole(M), str(M), str(M + 1), str(D), whole(D), str(values), whole(count), whole(tokens),
    f"{100 * rows / tokens:.1f}", f"{count * values * D / 1e9:.1f}", f"{count**2 / 1e6:.1f}",
    f"{kv_bytes(PIXTRAL, 2) / 1024:.0f}", f"{tokens * kv_bytes(PIXTRAL, 2) / 2**20:.0f}",
    whole((half_columns + 1) * half_rows), whole(PIXTRAL.max_seq_len), str(chapter_07.SQUARE), str(chapter_07.SQUARE),
    *(str(side) for side in photo), f"{ratio:.4f}", str(round(photo[1] / ratio)), whole(down * (across + 1)),
    whole(across * (down + 1)), "2000", "1001", "100", f"{100 / 64:.4f}", f"{40 / (100 / 64):.1f}", "32.5"}
assert (*tiny.image_grid(2000, 1001), *tiny.image_grid(2000, 1001, style="hf")) == (64, 33, 64, 32)
