"""The vision-language adapter: from the width of the encoder to that of the decoder, so that a patch can be a token.

`splice` then puts the patches into the rows of their tokens. Read `pixtral.py` next.
"""

from collections.abc import Mapping

import numpy as np

from tiny.numerics import STORED, check_precision, gelu, linear, need, round_to

ROWS = 256  # Patches of one block: at the released width their hidden states take 5 MB.


def adapter(x: np.ndarray, weights: Mapping[str, np.ndarray], precision: str = "float32") -> np.ndarray:
    """Two linear maps with biases, the only biases of the model, and a GELU between them.

    Shapes:  x (N, hidden_size), N = patches -> (N, D)
    Dtypes:  x float32; weights float32, bfloat16 or float16 -> float32
    Raises:  ValueError for another dtype, rank or precision, no patches, or matrices and biases of other shapes
    Source:  mistral-inference vision_encoder.py, VisionLanguageAdapter; arXiv:2410.07073 sec. 2.3
    Differs: GELU in its exact form, with erf; the tanh form moves the logits by 1e-3
    """
    check_adapter(x, weights, precision)

    def affine(x: np.ndarray, name: str) -> np.ndarray:
        bias = weights[f"vision_language_adapter.{name}.bias"].astype(np.float32)
        return round_to(linear(x, weights[f"vision_language_adapter.{name}.weight"]) + bias, precision)

    # a block of patches at a time, because the hidden states of a large picture take much memory
    blocks = [x[start : start + ROWS] for start in range(0, len(x), ROWS)]
    return np.concatenate([affine(round_to(gelu(affine(rows, "w_in")), precision), "w_out") for rows in blocks])


def splice(text: np.ndarray, ids: np.ndarray, features: np.ndarray, image_token_id: int) -> np.ndarray:
    """Put the features of patches into the rows of [IMG], in order. All other rows stay text.

    Shapes:  text (T, D), ids (T,), features (N, D), N = the [IMG] in ids -> (T, D), a new array
    Dtypes:  text and features float32, ids int -> float32
    Raises:  ValueError if there is not one row of features for each [IMG]
    Source:  mistral-inference transformer.py, embed_vision_language_features
    """
    if np.count_nonzero(ids == image_token_id) != len(features):
        raise ValueError(f"splice expects one row of features for each [IMG] in ids; got {len(features)} rows.")
    # (1) text everywhere, also in the rows of breaks and ends, which have ids of their own
    out = text.copy()
    # (2) patches in the rows of [IMG]
    out[ids == image_token_id] = features
    return out


def check_adapter(x: np.ndarray, weights: Mapping[str, np.ndarray], precision: str) -> None:
    """The guard of `adapter`. Shapes:  x (N, hidden_size), N = patches."""
    need("adapter", "x", x, ("N", "hidden_size"))
    check_precision(precision)
    w_in, b_in, w_out, b_out = (weights[f"vision_language_adapter.{name}"]
                                for name in ("w_in.weight", "w_in.bias", "w_out.weight", "w_out.bias"))
    for name, array, axes in (("w_in", w_in, ("D", "hidden_size")), ("w_out", w_out, ("D", "D")),
                              ("the bias of w_in", b_in, ("D",)), ("the bias of w_out", b_out, ("D",))):
        need("adapter", name, array, axes, STORED)
    D = len(w_in)
    if not len(x) or (w_in.shape[1], w_out.shape, b_in.shape, b_out.shape) != (x.shape[1], (D, D), (D,), (D,)):
        raise ValueError("adapter expects x (N, hidden_size) of some rows, w_in (D, hidden_size), w_out (D, D) and "
                         f"biases (D,); got {x.shape}, {w_in.shape}, {w_out.shape}, {b_in.shape} and {b_out.shape}.")
