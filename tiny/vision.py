"""The vision encoder: patches of an image look at each other through layers like those of the decoder.

Images of any size are packed one after the other. Each patch sees all patches of its own image and no others, and
nothing is padded. Read `adapter.py` next.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from tiny.config import VisionConfig
from tiny.decoder import ForwardPass, decoder_layer
from tiny.patch_embed import grid_of
from tiny.rope_2d import patch_positions


def vision_encoder(images: Sequence[np.ndarray], weights: Mapping[str, np.ndarray], config: VisionConfig,
                   run: ForwardPass) -> np.ndarray:
    """Encode images; `run` brings the operations, the precision and the trace of the model's pass.

    Shapes:  images n x (3, rows p, columns p) -> (N, hidden_size), N = patches row by row, images in order
    Dtypes:  float32 -> float32
    Source:  arXiv:2410.07073 sec. 2.2; mistral-inference vision_encoder.py, VisionTransformer
    Differs: mistral-inference forgets the mask between images (pull request 218), so that patches of one image see
             those of all; the paper, transformers and vLLM have it, as here
    """
    ops, precision = run.ops, run.precision
    grids = [grid_of(pixels, config.patch_size) for pixels in images]
    # (1) a vector for each patch, normalised; there is no norm at the other end
    x = ops.patch_embed(images, weights["vision_encoder.patch_conv.weight"], precision)
    run.keep("patch_conv", x)
    x = ops.rms_norm(x, weights["vision_encoder.ln_pre.weight"], config.norm_eps, precision)
    run.keep("vision_ln_pre", x)
    # (2) two angles for each patch's place in its own image
    cos, sin = ops.rope_2d_table(patch_positions(grids), config.head_dim, config.rope_theta)
    inner = ForwardPass([columns * rows for columns, rows in grids], cos, sin, None, run.trace, ops, precision,
                        causal=False, scope="vision_encoder.transformer.", label="vision_")
    # (3) the layers
    for layer in range(config.num_hidden_layers):
        x = decoder_layer(x, layer, weights, config, inner)
    return x
