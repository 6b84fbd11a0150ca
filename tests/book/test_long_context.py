"""Memory stays linear in the length of a prompt: a separate process reads 8,192 tokens and reports its peak."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
LIMIT = 250_000_000  # bytes, all of the process: Python, NumPy, weights and activations

PROGRAM = """
import json, sys
import numpy as np
import tiny
from tiny.config import Config, MoeConfig
from tiny.tools.session import peak_memory
from tiny.tools.synthetic import RandomTensors

moe = MoeConfig(8, 2) if sys.argv[1] == "experts" else None
config = Config(dim=512, n_layers=1, head_dim=64, hidden_dim=1792, n_heads=8, n_kv_heads=2, norm_eps=1e-5,
                vocab_size=1000, rope_theta=1e6, max_seq_len=8192, moe=moe)
weights = dict(RandomTensors(config, 0))
model = tiny.Mixtral(config, weights)
ids = np.random.default_rng(0).integers(0, 1000, 8192)
logits = model(ids, last_only=True)
early = model(ids[:300], last_only=True)
print(json.dumps({"peak": peak_memory(), "shape": logits.shape,
                  "finite": bool(np.isfinite(logits).all()), "spread": float(logits.std()),
                  "moved": float(np.abs(logits - early).max())}))
"""


@pytest.mark.parametrize("kind", ["dense", "experts"])
def test_8192_tokens_in_250_megabytes(kind):
    """The scores of all pairs would take 2.1 GB: 8 heads of 8,192 x 8,192."""
    done = subprocess.run([sys.executable, "-c", PROGRAM, kind], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["shape"] == [1, 1000] and result["finite"] and result["spread"] > 0.1 and result["moved"] > 0.1
    assert result["peak"] <= LIMIT, f"{result['peak'] / 1e6:.0f} MB"
    print(f"{kind}: {result['peak'] / 1e6:.0f} MB")
