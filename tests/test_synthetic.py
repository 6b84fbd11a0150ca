"""Checkpoints that we write ourselves: both layouts hold the same model, and are read back as what was written."""

import numpy as np
import pytest
from compare import assert_close

import tiny
from tiny.config import Config, MoeConfig
from tiny.tools.synthetic import RandomTensors, save_checkpoint

# No size is what another one implies: head_dim is not dim / n_heads, and the context is no usual default.
SIZES = dict(dim=24, n_layers=2, head_dim=10, hidden_dim=20, n_heads=4, n_kv_heads=2, norm_eps=3e-6, vocab_size=50,
             rope_theta=12345.0, max_seq_len=777)


@pytest.mark.parametrize("moe", [MoeConfig(4, 3), None], ids=["experts", "dense"])
def test_both_layouts_are_read_back(tmp_path, moe):
    config = Config(**SIZES, moe=moe)
    models = []
    for layout in ("mistral", "hf"):
        save_checkpoint(tmp_path / layout, layout, config, RandomTensors(config, seed=5))
        models.append(tiny.load(tmp_path / layout, weights="resident"))
        assert models[-1].config == config
    mistral, hf = (model([1, 7, 30, 49, 0, 12]) for model in models)
    assert np.ptp(mistral, axis=0).min() > 0.1, "the logits hardly depend on the tokens"
    # HF's order of rows is undone on loading, so that the very same products are taken.
    assert_close(hf, mistral, 0.0, name="logits of the two layouts")


def test_the_seed_decides(tmp_path):
    one, same, other = (RandomTensors(Config(**SIZES), seed=seed)["output.weight"] for seed in (1, 1, 2))
    assert one.tobytes() == same.tobytes() != other.tobytes()
