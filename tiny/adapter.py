"""The vision-language adapter: from the width of the encoder to that of the decoder, so that a patch can be a token.

Read `pixtral.py` next.
"""

from collections.abc import Mapping

import numpy as np

from tiny.numerics import gelu, linear, round_to

ROWS = 256  # Patches of one block: at the released width their hidden states take 5 MB.


def adapter(x: np.ndarray, weights: Mapping[str, np.ndarray], precision: str = "float32") -> np.ndarray:
    """Two linear maps with biases, the only biases of the model, and a GELU between them.

    Shapes:  x (N, hidden_size), N = patches -> (N, D)
    Dtypes:  float32 -> float32
    Source:  mistral-inference vision_encoder.py, VisionLanguageAdapter; arXiv:2410.07073 sec. 2.2
    Differs: GELU in its exact form, with erf; the tanh form moves the logits by 1e-3
    """
    def affine(x, name):
        bias = weights[f"vision_language_adapter.{name}.bias"].astype(np.float32)
        return round_to(linear(x, weights[f"vision_language_adapter.{name}.weight"]) + bias, precision)

    # a block of patches at a time, for the product of a large picture is wide
    blocks = [x[start : start + ROWS] for start in range(0, len(x), ROWS)]
    return np.concatenate([affine(round_to(gelu(affine(rows, "w_in")), precision), "w_out") for rows in blocks])
