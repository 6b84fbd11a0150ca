"""Who looks at whom: the weights of attention as a table, to draw and to check. The book's `attention` gives answers.
"""

from collections.abc import Sequence

import numpy as np

from tiny.numerics import need, softmax


def image_weights(q: np.ndarray, k: np.ndarray, lengths: Sequence[int]) -> np.ndarray:
    """The weights by which one head of the vision encoder averages: a row for each patch, a column for each it sees.

    A patch sees every patch of its own image, also those behind it. It sees no patch of another image: that weight
    is exactly 0.

    Shapes:  q (N, d), k (N, d), N = the patches of all images, lengths: how many each image has -> (N, N)
    Dtypes:  q and k float32 -> float32
    Order:   the scale 1 / sqrt(d) multiplies the scores, as in `attention`
    Raises:  ValueError for another dtype or rank, q and k of two shapes, or lengths that do not add up to N
    Source:  arXiv:2410.07073 sec. 2.2, "Sequence packing"
    Differs: mistral-inference forgets the mask between images (pull request 218)
    """
    need("image_weights", "q", q, ("N", "d"))
    need("image_weights", "k", k, ("N", "d"))
    if q.shape != k.shape or sum(lengths) != len(q) or min(lengths, default=0) < 1:
        raise ValueError("image_weights expects a query and a key for each patch, and lengths of at least 1 that add "
                         f"up to the patches; got q {q.shape}, k {k.shape} and lengths {list(lengths)}.")
    # (1) the number of the image that each patch belongs to
    image = np.repeat(np.arange(len(lengths)), lengths)
    # (2) scores; minus infinity where two patches are of two images
    scores = q @ k.T * np.float32(q.shape[1] ** -0.5)
    scores[image[:, None] != image] = -np.inf
    # (3) softmax over the patches that are seen
    return softmax(scores)
