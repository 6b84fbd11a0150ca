"""Pixtral's configuration as a LLaVA model: what the released file leaves out, what it once got wrong, what is refused.

Mixtral and Mistral are in test_config.py, beside the other layout.
"""

import json

import pytest
from oracles import GOLDEN
from small import hf_config, sizes, vision_sizes

from tests.files.test_config import REMOVE, changed, refused
from tiny.config import Config, VisionConfig
from tiny.files.hf_config import read_hf_config

# The released config.json of Pixtral 12B, as it is since October 2024.
RELEASED = {
    "architectures": ["LlavaForConditionalGeneration"], "ignore_index": -100, "image_seq_length": 1,
    "image_token_index": 10, "model_type": "llava", "projector_hidden_act": "gelu", "torch_dtype": "bfloat16",
    "vision_feature_layer": -1, "vision_feature_select_strategy": "full",
    "text_config": {"head_dim": 128, "hidden_act": "silu", "hidden_size": 5120, "intermediate_size": 14336,
                    "is_composition": True, "max_position_embeddings": 1024000, "model_type": "mistral",
                    "num_hidden_layers": 40, "num_key_value_heads": 8, "rms_norm_eps": 1e-05,
                    "rope_theta": 1000000000.0, "sliding_window": None, "vocab_size": 131072},
    "vision_config": {"head_dim": 64, "hidden_act": "silu", "image_size": 1024, "is_composition": True,
                      "model_type": "pixtral", "patch_size": 16, "rope_theta": 10000.0, "tie_word_embeddings": False}}


@pytest.fixture
def read(tmp_path):
    def read(fields=None, text=None, vision=None, **top):
        fields = changed(fields or hf_config(sizes(None, vision=vision_sizes())), top)
        for key, changes in (("text_config", text), ("vision_config", vision)):
            if changes:
                fields[key] = changed(fields[key], changes)
        (tmp_path / "config.json").write_text(json.dumps(fields))
        return read_hf_config(tmp_path / "config.json")
    return read


def test_the_released_file(read, recwarn):
    config = read(RELEASED)
    assert config == Config(
        dim=5120, n_layers=40, head_dim=128, hidden_dim=14336, n_heads=32, n_kv_heads=8, norm_eps=1e-5,
        vocab_size=131072, rope_theta=1e9, max_seq_len=1024000,
        vision=VisionConfig(hidden_size=1024, num_channels=3, image_size=1024, patch_size=16, rope_theta=1e4,
                            intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16, image_token_id=10,
                            max_image_size=1024))
    assert config.vision.head_dim == 64 and not recwarn.list


def test_small_files_are_read(read, recwarn):
    assert read() == sizes(None, vision=vision_sizes(), max_seq_len=131072)
    assert read_hf_config(GOLDEN / "pixtral-a/hf/config.json").vision.hidden_size == 48
    assert not recwarn.list


def test_files_of_recent_transformers(read):
    """Theta lies elsewhere, and the image token has another name."""
    text = {"rope_theta": REMOVE, "rope_parameters": {"rope_theta": 1e4, "rope_type": "default"}}
    vision = {"rope_theta": REMOVE, "rope_parameters": {"rope_theta": 1e3, "rope_type": "axial"}}
    assert read(text=text, vision=vision, image_token_index=REMOVE, image_token_id=7,
                multimodal_projector_bias=True) == read()
    refused(lambda: read(vision=vision | {"rope_parameters": {"rope_theta": 1e3, "rope_type": "yarn"}}), "yarn")
    refused(lambda: read(text=text | {"rope_parameters": {"rope_theta": 1e3, "rope_type": "axial"}}), "axial")


@pytest.mark.parametrize("value", ["gelu", REMOVE, None])
def test_the_activation_that_was_published_by_mistake(read, value):
    with pytest.warns(UserWarning, match="config.json: the encoder's hidden_act is missing or 'gelu', published by "
                                         "mistake until October 2024; the released weights want SiLU, which is used"):
        assert read(vision={"hidden_act": value}) == read()


@pytest.mark.parametrize("value", ["relu", "gelu_pytorch_tanh", "quick_gelu", 3, []])
def test_other_activations(read, value):
    refused(lambda: read(vision={"hidden_act": value}), "hidden_act", "'silu' only")
    refused(lambda: read(text={"hidden_act": value}), "hidden_act")
    refused(lambda: read(projector_hidden_act=value), "projector_hidden_act", "'gelu' only")


@pytest.mark.parametrize("key, value", [
    ("vision_feature_layer", REMOVE), ("vision_feature_layer", -2), ("vision_feature_layer", [-2, -1]),
    ("vision_feature_select_strategy", "default"), ("vision_feature_select_strategy", REMOVE),
    ("multimodal_projector_bias", False), ("projector_hidden_act", "silu"), ("quantization_config", {"bits": 4}),
    ("tie_word_embeddings", True), ("image_token_index", REMOVE), ("image_token_index", "10"),
    ("image_token_index", 40), ("text_config", REMOVE), ("vision_config", REMOVE), ("text_config", []),
    ("vision_config", 3), ("vision_config", "x")])
def test_settings_that_are_refused(read, key, value):
    refused(lambda: read(**{key: value}), "image_token_id" if value == 40 else key)


@pytest.mark.parametrize("model_type", ["mistral3", "llava_next", "pixtral", None])
def test_other_families(read, model_type):
    refused(lambda: read(model_type=model_type), repr(model_type))


@pytest.mark.parametrize("part, key, value", [
    ("text", "model_type", "llama"), ("text", "tie_word_embeddings", True), ("text", "rope_scaling", {"factor": 2}),
    ("vision", "model_type", "clip_vision_model"), ("vision", "head_dim", 10), ("vision", "num_channels", 4),
    ("vision", "num_attention_heads", 7), ("vision", "image_size", 33), ("vision", "patch_size", REMOVE),
    ("vision", "image_size", None), ("vision", "rope_theta", REMOVE), ("vision", "hidden_size", "40"),
    ("vision", "intermediate_size", 0), ("vision", "rope_theta", -1), ("text", "hidden_size", REMOVE)])
def test_parts_that_are_refused(read, part, key, value):
    refused(lambda: read(**{part: {key: value}}), "config.json")


def test_only_what_the_released_file_leaves_out_has_a_default(read):
    """The defaults are wrong for a small model, and show."""
    left_out = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24}
    for key, value in left_out.items():
        heads = 4 if key == "hidden_size" else 5
        vision = read(vision={key: REMOVE, "head_dim": REMOVE, "num_attention_heads": heads}).vision
        assert getattr(vision, key) == value
    wide = read(vision={"num_attention_heads": REMOVE, "hidden_size": 64, "head_dim": REMOVE})
    assert wide.vision.num_attention_heads == 16 and wide.vision.head_dim == 4
    assert read(text={"num_attention_heads": REMOVE}).n_heads == 32
    for key in ("num_key_value_heads", "num_hidden_layers", "intermediate_size", "vocab_size", "rms_norm_eps"):
        refused(lambda key=key: read(text={key: REMOVE}), repr(key))
