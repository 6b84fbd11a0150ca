"""Sizes as the files state them: what is read, what is assumed, and what is refused."""

import json

import pytest
from small import hf_config, params, random_tensors, sizes, vision_sizes, write_mistral

import tiny
from tiny.config import Config, MoeConfig, TinyError, VisionConfig
from tiny.files.hf_config import read_hf_config
from tiny.files.params import read_params

REMOVE = object()
HF_KEYS = {"dim": "hidden_size", "n_layers": "num_hidden_layers", "hidden_dim": "intermediate_size",
           "n_heads": "num_attention_heads", "n_kv_heads": "num_key_value_heads", "vocab_size": "vocab_size",
           "norm_eps": "rms_norm_eps"}


def changed(fields, changes):
    fields = fields | changes
    return {key: value for key, value in fields.items() if value is not REMOVE}


@pytest.fixture
def mistral(tmp_path):
    def read(moe=(4, 2), more=None, **changes):
        path = tmp_path / "params.json"
        path.write_text(json.dumps(changed(params(sizes(moe)), changes | (more or {}))))
        return read_params(path)
    return read


@pytest.fixture
def hf(tmp_path):
    def read(moe=(4, 2), **changes):
        path = tmp_path / "config.json"
        path.write_text(json.dumps(changed(hf_config(sizes(moe)), changes)))
        return read_hf_config(path)
    return read


def refused(call, *words):
    with pytest.raises(TinyError) as caught:
        call()
    error = caught.value
    assert error.cause and error.remedy and str(error) == f"{error.cause}\n{error.remedy}"
    assert "\n" not in error.cause and "\n" not in error.remedy
    for word in words:
        assert str(word) in error.cause, f"{word!r} is not in: {error.cause}"


@pytest.mark.parametrize("moe", [(4, 2), (3, 3), (1, 1), None])
def test_both_layouts_say_the_same(mistral, hf, moe):
    expected = sizes(moe, max_seq_len=32768 if moe else 131072)
    assert mistral(moe) == hf(moe) == expected
    assert type(expected.moe) is (MoeConfig if moe else type(None)) and expected.vision is None


@pytest.mark.parametrize("key", HF_KEYS)
@pytest.mark.parametrize("value", [REMOVE, None])
def test_no_size_is_assumed(mistral, hf, key, value):
    refused(lambda: mistral(**{key: value}), repr(key), "params.json")
    refused(lambda: hf(**{HF_KEYS[key]: value}), repr(HF_KEYS[key]), "config.json")


@pytest.mark.parametrize("key", [key for key in HF_KEYS if key != "norm_eps"])
@pytest.mark.parametrize("value", [True, "24", 0, -1, 24.0, [24], {}, 2**70])
def test_sizes_must_be_positive_whole_numbers(mistral, hf, key, value):
    refused(lambda: mistral(**{key: value}))
    refused(lambda: hf(**{HF_KEYS[key]: value}))
    # Also where head_dim would have to be formed from them.
    refused(lambda: mistral(**{key: value, "head_dim": REMOVE}))
    refused(lambda: hf(**{HF_KEYS[key]: value, "head_dim": REMOVE}))


@pytest.mark.parametrize("value", [True, "1", 0, -1, [1], {}, float("nan"), float("inf")])
@pytest.mark.parametrize("key, hf_key", [("norm_eps", "rms_norm_eps"), ("rope_theta", "rope_theta"),
                                         ("head_dim", "head_dim")])
def test_other_numbers(mistral, hf, key, hf_key, value):
    refused(lambda: mistral(**{key: value}), key)
    refused(lambda: hf(**{hf_key: value}), key)


@pytest.mark.parametrize("moe", [3, [], "x", {}, {"num_experts": 4}, {"num_experts_per_tok": 2},
                                 {"num_experts": 4, "num_experts_per_tok": 5},
                                 {"num_experts": 0, "num_experts_per_tok": 1},
                                 {"num_experts": 4, "num_experts_per_tok": 0},
                                 {"num_experts": True, "num_experts_per_tok": 1},
                                 {"num_experts": 4, "num_experts_per_tok": 2.0}])
def test_bad_experts(mistral, hf, moe):
    refused(lambda: mistral(None, {"moe": moe}))
    if isinstance(moe, dict):
        old = {"num_local_experts": moe.get("num_experts"), "num_experts_per_tok": moe.get("num_experts_per_tok")}
        refused(lambda: hf(**old))


def test_head_dim(mistral, hf):
    assert mistral(head_dim=REMOVE, dim=60).head_dim == hf(head_dim=None, hidden_size=60).head_dim == 10
    assert mistral(head_dim=12).head_dim == 12
    for odd in (7, 1):
        refused(lambda odd=odd: mistral(head_dim=odd), odd)
    refused(lambda: mistral(n_kv_heads=4), "6 heads", "4 KV heads")
    refused(lambda: hf(num_key_value_heads=12), "12 KV heads")


def test_rope_theta(mistral, hf):
    assert mistral(rope_theta=REMOVE).rope_theta == 1e6
    assert mistral(rope_theta=10000).rope_theta == hf(rope_theta=10000).rope_theta == 1e4
    assert type(mistral(rope_theta=10000).rope_theta) is float
    new = {"rope_theta": 5e5, "rope_type": "default"}
    assert hf(rope_theta=REMOVE, rope_parameters=new).rope_theta == 5e5
    assert hf(rope_theta=None, rope_parameters=new).rope_theta == 5e5
    refused(lambda: hf(rope_theta=REMOVE), "rope_theta")
    refused(lambda: hf(rope_theta=REMOVE, rope_parameters={}), "rope_theta")
    refused(lambda: hf(rope_parameters=new | {"rope_type": "yarn"}), "yarn")
    for value in (3, [1], "x"):
        refused(lambda value=value: hf(rope_theta=REMOVE, rope_parameters=value))


@pytest.mark.parametrize("key, value", [
    ("hidden_act", "gelu"), ("tie_word_embeddings", True), ("attention_bias", True), ("mlp_bias", True),
    ("rope_scaling", {"type": "linear", "factor": 2}), ("quantization_config", {"bits": 4}), ("model_type", "llama"),
    ("model_type", REMOVE), ("model_type", []), ("model_type", None)])
def test_hf_settings_that_change_the_model(hf, key, value):
    refused(lambda: hf(**{key: value}), key if key != "model_type" else "of type")


def test_hf_settings_that_do_not(hf):
    assert hf(hidden_act="silu", tie_word_embeddings=False, rope_scaling=None, torch_dtype="bfloat16") == hf()


def test_unknown_keys_warn(mistral):
    with pytest.warns(UserWarning, match="not read: colour, size"):
        assert mistral(size=3, colour="red") == mistral()


def test_the_context(mistral, hf):
    assert mistral(max_seq_len=99).max_seq_len == hf(max_position_embeddings=99).max_seq_len == 99
    # Mixtral's window is stale: its attention is dense.
    for read in (mistral, hf):
        with pytest.warns(UserWarning, match=r"window of 16 tokens.*not applied here.*vllm#2064, transformers#28115"):
            assert read(sliding_window=16).max_seq_len == 32768
    # A dense model's window is real, and the context ends there.
    assert mistral(None, sliding_window=16).max_seq_len == hf(None, sliding_window=16).max_seq_len == 16
    assert hf(None, sliding_window=16, max_position_embeddings=9).max_seq_len == 9
    assert hf(None, sliding_window=None).max_seq_len == 131072


@pytest.mark.parametrize("value", [-5, 0, "x", "16", ["1"], [0], True, {}, 3.5, float("nan"), float("inf")])
def test_bad_contexts(mistral, hf, value):
    for read, key in ((mistral, "max_seq_len"), (hf, "max_position_embeddings"), (mistral, "sliding_window"),
                      (hf, "sliding_window")):
        refused(lambda read=read, key=key: read(None, **{key: value}))


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"3", b"null", b'"x"', b"\xff\xfe\xfd",
                                  b'{"dim": 1' + b"0" * 5000 + b"}",
                                  b"[" * 100_000, b'{"a":' * 100_000, b'{"dim": }', b"{} {}"], ids=range(12))
def test_files_that_are_no_json_object(tmp_path, data):
    for name, read in (("params.json", read_params), ("config.json", read_hf_config)):
        (tmp_path / name).write_bytes(data)
        refused(lambda name=name, read=read: read(tmp_path / name), name)


def test_files_that_are_not_there(tmp_path):
    refused(lambda: read_params(tmp_path / "params.json"), "params.json")
    (tmp_path / "config.json").mkdir()
    refused(lambda: read_hf_config(tmp_path / "config.json"), "config.json")


def test_a_configuration_cannot_be_changed():
    with pytest.raises(AttributeError):
        sizes().dim = 3
    with pytest.raises(TypeError):
        Config(dim=3)


def test_a_tokenizer_of_another_model(tmp_path, golden):
    config = sizes()
    folder = write_mistral(tmp_path / "model", config, random_tensors(config))
    (folder / "tokenizer.model").write_bytes((golden / "mixtral-a" / "mistral" / "tokenizer.model").read_bytes())
    refused(lambda: tiny.load(folder), "509 pieces, the model 40")


# ---- the vision encoder in params.json

VISION = ("hidden_size", "num_channels", "image_size", "patch_size", "intermediate_size", "num_hidden_layers",
          "num_attention_heads", "image_token_id", "rope_theta")


@pytest.fixture
def encoder(tmp_path):
    def read(**changes):
        fields = params(sizes(None, vision=vision_sizes()))
        fields["vision_encoder"] = changed(fields["vision_encoder"], changes)
        path = tmp_path / "params.json"
        path.write_text(json.dumps(fields))
        return read_params(path).vision
    return read


def test_the_encoder_is_read(encoder, mistral):
    vision = encoder()
    assert vision == vision_sizes() and type(vision) is VisionConfig
    assert (vision.head_dim, vision.norm_eps, vision.moe, vision.max_image_size) == (8, 1e-5, None, 32)
    assert mistral(None, {"vision_encoder": None}).vision is None


@pytest.mark.parametrize("key", VISION)
@pytest.mark.parametrize("value", [REMOVE, None, True, "24", 0, -1, [24], {}, 2**70, float("nan")])
def test_no_size_of_the_encoder_is_assumed(encoder, key, value):
    refused(lambda: encoder(**{key: value}), key, "params.json")


@pytest.mark.parametrize("value", [3, [], "x", True, {}, [1]])
def test_encoders_that_are_no_object(mistral, value):
    refused(lambda: mistral(None, {"vision_encoder": value}), "'hidden_size'")


@pytest.mark.parametrize("changes, words", [
    ({"num_attention_heads": 7}, ("7 heads in a width of 40",)), ({"num_attention_heads": 4}, ("4 heads",)),
    ({"num_attention_heads": 20}, ("20 heads",)), ({"hidden_size": 45}, ("width of 45",)),
    ({"patch_size": 5}, ("patches of 5",)), ({"patch_size": 64}, ("patches of 64",)), ({"image_size": 33}, ("33",)),
    ({"max_image_size": 3}, ("at most 3",)), ({"num_channels": 1}, ("1 channels",)),
    ({"num_channels": 4}, ("4 channels",)), ({"image_token_id": 40}, ("40", "vocabulary of 40"))])
def test_sizes_of_the_encoder_that_do_not_go_together(encoder, changes, words):
    refused(lambda: encoder(**changes), *words)


def test_the_largest_image(encoder):
    assert encoder(max_image_size=48).max_image_size == 48 and encoder(max_image_size=30).max_image_size == 30
    refused(lambda: encoder(max_image_size="48"), "max_image_size")


@pytest.mark.parametrize("key, same, other", [
    ("adapter_bias", True, False), ("spatial_merge_size", 1, 2), ("add_pre_mm_projector_layer_norm", False, True),
    ("mm_projector_id", "", "patch_merge")])
def test_later_models_are_refused(encoder, key, same, other):
    """Pixtral Large has no biases in its adapter, Mistral Small 3.1 merges patches."""
    assert encoder(**{key: same}) == encoder(**{key: None}) == encoder()
    refused(lambda: encoder(**{key: other}), f"sets {key} = {other!r}", f"computes {same!r} only")


def test_keys_of_later_files_that_change_nothing(encoder, recwarn):
    assert encoder(image_break_token_id=12, image_end_token_id=13) == encoder()
    assert not recwarn.list
    with pytest.warns(UserWarning, match="params.json, vision_encoder: keys that are not read: colour, size"):
        assert encoder(size=3, colour="red") == encoder()
