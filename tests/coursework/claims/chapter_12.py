"""The numbers of chapter 12: steps of the types from NumPy, sizes from the release, distances from the pictures."""

import ml_dtypes
import numpy as np

from tiny.tools.releases import MIXTRAL_8X7B
from tutorial.drawings.chapter_12 import errors_by_layer, runs

bfloat16 = ml_dtypes.finfo(ml_dtypes.bfloat16)
assert (bfloat16.nmant, np.finfo(np.float32).nmant, bfloat16.maxexp) == (7, 23, 128)
assert float(bfloat16.smallest_subnormal) == 2.0**-133 and float(bfloat16.smallest_normal) == 2.0**-126
assert round(100 * 2**-8, 1) == 0.4

# What the picture of two orders is said to show.
found = errors_by_layer(runs())
plain, two, other = (found[label][1:] for label in (
    "float32, two orders of sums", "bfloat16, two orders of sums", "bfloat16 against float32"))
assert max(plain) < 1e-6 and two[0] < 1e-4 < 3e-3 < two[2] and min(other) > 2e-3
assert all(0.2 < ratio < 5 for ratio in np.divide(two[2:], other[2:]))

NUMBERS = {f"{float(bfloat16.eps)}", f"{2.0 ** (4 - 7)}", f"{int(np.finfo(np.float16).max):,}",
           f"{MIXTRAL_8X7B.dim:,}", "127", "256", "512", "128", "126", "133", "0.4", "0.2", "0.8", "258", "257", "0.1",
           "17.25", "17.125", "1,000", "754", "2019"}  # the last two are the name of a standard
