"""The two released models without their weights: their sizes, and arrays of their shapes that take no memory."""

import ml_dtypes
import numpy as np

from tiny.config import Config, MoeConfig, VisionConfig
from tiny.files.weights import expected_shapes

# The sizes of the releases, from their params.json.
MIXTRAL_8X7B = Config(dim=4096, n_layers=32, head_dim=128, hidden_dim=14336, n_heads=32, n_kv_heads=8, norm_eps=1e-5,
                      vocab_size=32000, rope_theta=1e6, max_seq_len=32768, moe=MoeConfig(8, 2))
PIXTRAL_12B = Config(
    dim=5120, n_layers=40, head_dim=128, hidden_dim=14336, n_heads=32, n_kv_heads=8, norm_eps=1e-5, vocab_size=131072,
    rope_theta=1e9, max_seq_len=131072, vision=VisionConfig(
        hidden_size=1024, num_channels=3, image_size=1024, patch_size=16, rope_theta=1e4, intermediate_size=4096,
        num_hidden_layers=24, num_attention_heads=16, image_token_id=10, max_image_size=1024))


def stand_ins(config: Config) -> dict[str, np.ndarray]:
    """Arrays of full shape over one stored number: they have sizes, and take no memory."""
    return {name: np.broadcast_to(np.zeros((), ml_dtypes.bfloat16), shape)
            for name, shape in expected_shapes(config).items()}
