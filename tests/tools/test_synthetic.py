"""Checkpoints that we write ourselves: both layouts hold the same model, and are read back as what was written."""

import numpy as np
import pytest
from compare import assert_close
from oracles import GOLDEN
from small import image_tokens, random_images, vision_sizes

import tiny
from tiny.config import Config, MoeConfig, TinyError
from tiny.files.safetensors import read_safetensors
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


def test_a_model_that_sees_is_read_back(tmp_path, recwarn):
    config = Config(**SIZES, vision=vision_sizes())
    ids, images, logits = [1, *image_tokens(3, 2), 5, *image_tokens(1, 2)], random_images((3, 2), (1, 2)), []
    tensors = RandomTensors(config, seed=5)
    for layout in ("mistral", "hf"):
        save_checkpoint(tmp_path / layout, layout, config, tensors)
        model = tiny.load(tmp_path / layout, weights="resident")
        assert model.config == config
        logits.append(model(ids, images))
    assert not recwarn.list, "hidden_act is silu"
    assert np.ptp(logits[0], axis=0).min() > 0.1
    assert_close(logits[1], logits[0], 0.0, name="logits of the two layouts")
    biases = [name for name in tensors if name.endswith(".bias")]
    assert len(biases) == 2 and all(tensors[name].std() > 0.3 for name in biases)


def test_a_larger_image_than_the_encoder_is_for(tmp_path):
    config = Config(**SIZES, vision=vision_sizes(max_image_size=48))
    save_checkpoint(tmp_path / "mistral", "mistral", config, RandomTensors(config, seed=5))
    assert tiny.load(tmp_path / "mistral").config == config
    with pytest.raises(TinyError, match="48 pixels, the encoder is for 32"):
        save_checkpoint(tmp_path / "hf", "hf", config, RandomTensors(config, seed=5))


def test_mistrals_layout_becomes_the_released_llava_file(tmp_path):
    """Names, shapes and numbers of the reference checkpoint, which transformers' own script converted."""
    model = tiny.load(GOLDEN / "pixtral-a/mistral", weights="mapped")
    save_checkpoint(tmp_path / "hf", "hf", model.config, model.weights)
    written = read_safetensors(tmp_path / "hf/model.safetensors")
    stored = {}
    for path in sorted((GOLDEN / "pixtral-a/hf").glob("model*.safetensors")):
        stored |= read_safetensors(path)
    assert set(written) == set(stored)
    for name, x in stored.items():
        assert written[name].dtype == x.dtype
        assert_close(written[name], x, 0.0, name=name)
