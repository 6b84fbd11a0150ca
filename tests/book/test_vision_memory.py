"""Memory of the vision encoder stays linear in the patches, of one picture and of several, and within 400 MB at the
real width.
"""

import json
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from small import random_images, random_tensors, sizes, vision_sizes

import tiny.ops
from tiny import attention
from tiny.decoder import ForwardPass
from tiny.vision import vision_encoder

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
NONE = np.empty(0, np.float32)
VISION = vision_sizes(hidden_size=16, intermediate_size=16, num_attention_heads=1, num_hidden_layers=1)
WEIGHTS = random_tensors(sizes(vision=VISION))
ONE, WIDE, LARGER = (64, 64), (128, 64), (128, 128)  # grids of 4,096, 8,192 and 16,384 patches
SCORES = 4 * (64 * 64) ** 2  # bytes of all scores of a head for 4,096 patches: 67 MB


def peak(*grids):
    """Bytes of the arrays that one pass of a small encoder holds at most."""
    images = random_images(*grids)
    tracemalloc.start()
    try:
        vision_encoder(images, WEIGHTS, VISION, ForwardPass([], NONE, NONE, None, None, tiny.ops, "float32"))
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_is_linear_in_the_patches():
    one, wide, larger = peak(ONE), peak(WIDE), peak(LARGER)
    assert one < SCORES / 5
    assert wide < 2 * one and larger < 2 * wide, f"{one:,}, {wide:,}, {larger:,}"


def test_two_pictures_take_no_more_than_one_as_large():
    two, four, wide, larger = peak(ONE, ONE), peak(ONE, ONE, ONE, ONE), peak(WIDE), peak(LARGER)
    assert two < 1.05 * wide and four < 1.05 * larger, f"{two:,} and {wide:,}; {four:,} and {larger:,}"


@pytest.mark.parametrize("name", ["QUERIES", "SCORES"])
def test_all_queries_at_once_would_be_found(name, monkeypatch):
    monkeypatch.setattr(attention, name, 1 << 30)
    assert peak(ONE) > SCORES and peak(ONE, ONE) < 1.5 * SCORES


@pytest.mark.parametrize("S", [1, 100, 4096, 16384, 131072])
@pytest.mark.parametrize("R", [1, 4])
def test_block_sizes(R, S):
    """Few keys allow many queries; with causal the block stays small, for it would score what is not seen."""
    step = attention.block_size(R, S, causal=False)
    assert step >= attention.QUERIES == attention.block_size(R, S, causal=True) * (1 if R < 4 else 2)
    assert step * R * S <= max(attention.SCORES, attention.QUERIES * R * S)
    assert step == attention.QUERIES or (step + 1) * R * S > attention.SCORES


PROGRAM = """
import json
import numpy as np
import tiny.ops
from tiny.config import Config, VisionConfig
from tiny.decoder import ForwardPass
from tiny.tools.session import peak_memory
from tiny.tools.synthetic import RandomTensors
from tiny.vision import vision_encoder

vision = VisionConfig(hidden_size=1024, num_channels=3, image_size=1024, patch_size=16, rope_theta=1e4,
                      intermediate_size=4096, num_hidden_layers=1, num_attention_heads=16, image_token_id=10,
                      max_image_size=1024)
config = Config(dim=64, n_layers=1, head_dim=32, hidden_dim=64, n_heads=2, n_kv_heads=1, norm_eps=1e-5, vocab_size=64,
                rope_theta=1e6, max_seq_len=8192, vision=vision)
weights = dict(RandomTensors(config, 0))
images = [np.random.default_rng(n).standard_normal((3, 1024, 1024), np.float32) for n in range(2)]
none = np.empty(0, np.float32)
features = vision_encoder(images, weights, vision, ForwardPass([], none, none, None, None, tiny.ops, "float32"))
print(json.dumps({"peak": peak_memory(), "weights": sum(weight.nbytes for weight in weights.values()),
                  "shape": features.shape, "finite": bool(np.isfinite(features).all()),
                  "spread": float(features.std())}))
"""


def test_two_pictures_at_the_real_width_in_400_megabytes():
    """Two of 1024 x 1024 pixels. A layer needs what four need; Python and the pictures themselves are counted."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["shape"] == [8192, 1024] and result["finite"] and result["spread"] > 0.5
    over = result["peak"] - result["weights"]
    assert over <= 400_000_000, f"{over / 1e6:.0f} MB"
    print(f"{over / 1e6:.0f} MB over the weights")
