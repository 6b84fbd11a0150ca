"""Every key of a configuration has a meaning, and files that are no configuration are refused as what they are."""

import json
import os
import time

import pytest
from small import hf_config, params, random_tensors, sizes, vision_sizes, write_hf, write_mistral

import tiny
from tiny.config import TinyError
from tiny.files.hf_config import read_hf_config
from tiny.files.packed.compressed import KEYS as PACKED_KEYS
from tiny.files.params import KEYS, read_params
from tiny.system.keys import check_keys
from tiny.system.reading import FOREIGN, LARGEST_JSON, read_json
from tiny.tools import memory


def noted(call):
    """What a call returns, and its notes."""
    notes: list[str] = []
    return call(notes.append), " | ".join(notes)


def refused(call, *words):
    with pytest.raises(TinyError) as caught:
        call()
    for word in words:
        assert word.lower() in str(caught.value).lower(), str(caught.value)


@pytest.mark.parametrize("kind", KEYS | PACKED_KEYS)
def test_each_key_of_the_table_means_what_it_says(kind):
    keys = (KEYS | PACKED_KEYS)[kind]
    assert keys.known >= keys.off | keys.only.keys() and not keys.off & keys.only.keys()

    def check(mapping):
        return noted(lambda note: check_keys(mapping, keys, "DIR/f.json", "R", note))[1]

    for key in keys.known - keys.off - keys.only.keys():
        assert check({key: "anything"}) == ""
    for key in keys.off:
        for value in (None, False, 0, "", [], {}, {"enable": False, "rank": 8}, {"enabled": False}):
            assert check({key: value}) == "", f"{key} = {value}"
        for value in (True, 1, "x", [1], {"factor": 2}, {"enable": True}):
            refused(lambda key=key, value=value: check({key: value}), f"sets {key} =", "without it")
    for key, right in keys.only.items():
        assert all(check({key: value}) == "" for value in (None, *right))
        refused(lambda key=key, right=right: check({key: "other"}), f"sets {key} = 'other'", repr(right[0]))
    assert check({"colour": None}) == ""
    assert check({"colour": 1, "size": 0}).startswith("f.json: keys that are not read: colour, size.")
    assert len(check({"x" * 500: 1} | {str(n): 1 for n in range(90)})) < 300


@pytest.fixture
def mistral(tmp_path):
    def read(experts=None, remove=(), **more):
        fields = params(sizes(experts), **more)
        (tmp_path / "params.json").write_text(json.dumps({k: v for k, v in fields.items() if k not in remove}))
        return noted(lambda note: read_params(tmp_path / "params.json", note))
    return read


@pytest.fixture
def hf(tmp_path):
    def read(moe=None, remove=(), **more):
        fields = hf_config(sizes(moe), **more)
        (tmp_path / "config.json").write_text(json.dumps({k: v for k, v in fields.items() if k not in remove}))
        return noted(lambda note: read_hf_config(tmp_path / "config.json", note))
    return read


def test_theta_of_the_first_mistral(mistral):
    """Without theta it is 10000 in a dense model with a window, as the code of its time had it, and else a million."""
    for window in ({"sliding_window": 16}, {"_sliding_window": 16}):
        config, notes = mistral(None, ["rope_theta"], **window)
        assert config.rope_theta == 1e4 and config.max_seq_len == 16 and "theta is 10,000" in notes
    assert mistral(None, ["rope_theta"])[0].rope_theta == 1e6 and mistral(None, ["rope_theta"])[1] == ""
    assert mistral((4, 2), ["rope_theta"], sliding_window=16)[0].rope_theta == 1e6
    config, notes = mistral(None, sliding_window=16, rope_theta=5e5)
    assert config.rope_theta == 5e5 and "theta" not in notes


@pytest.mark.parametrize("window, end", [(16, 16), ([None, 16], 16), ([16, None, 8], 8), ([None], 131072), ([], 131072),
                                         (None, 131072), (131072, 131072), (10**7, 131072)])
def test_windows_of_a_dense_model(mistral, window, end):
    for key in ("sliding_window", "_sliding_window"):
        config, notes = mistral(**{key: window})
        assert config.max_seq_len == end and ("window of" in notes) == (end < 131072)
    assert mistral(sliding_window=99, _sliding_window=window)[0].max_seq_len == min(99, end)


def test_a_window_of_a_mixture_of_experts_is_said(mistral, hf):
    for read in (mistral, hf):
        config, notes = read((4, 2), sliding_window=8)
        assert config.max_seq_len == 32768 and "window of 8 tokens, which transformers applies" in notes
        assert read((4, 2), sliding_window=40000)[1] == ""


def test_a_mistral_without_the_key_has_the_window_of_transformers(hf):
    config, notes = hf(None, ["sliding_window"])
    assert config.max_seq_len == 4096 and "window of 4,096" in notes
    assert hf(None, ["sliding_window"], max_position_embeddings=99)[1] == ""
    assert hf((4, 2), ["sliding_window"]) == hf((4, 2), sliding_window=None)


@pytest.mark.parametrize("more", [
    {"rope_parameters": {"rope_theta": 1e4}}, {"rope_parameters": {"rope_theta": 1e4, "rope_type": "default"}},
    {"rope_parameters": {"rope_theta": 10000, "type": "default", "partial_rotary_factor": 1.0}},
    {"rope_scaling": {"type": "default"}}, {"rope_scaling": {"rope_type": "default"}}, {"rope_scaling": {}},
    {"rope_scaling": {"rope_type": "default", "rope_theta": 1e4}}, {"rope_scaling": None, "rope_parameters": None}])
def test_rotary_settings_that_change_nothing(hf, more):
    assert hf(**more) == hf() and hf()[1] == ""


@pytest.mark.parametrize("more, words", [
    ({"rope_parameters": {"rope_theta": 1e6}}, ("rope_theta = 10000", "rope_parameters.rope_theta = 1e+06")),
    ({"rope_scaling": {"type": "default", "rope_theta": 5}}, ("several thetas", "rope_scaling.rope_theta = 5")),
    ({"rope_parameters": {"type": "linear", "factor": 2.0, "rope_theta": 1e4}}, ("rope_parameters", "linear")),
    ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, ("yarn",)),
    ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, ("rope_scaling", "dynamic")),
    ({"rope_scaling": {"factor": 2.0}}, ("rope_scaling",)), ({"rope_scaling": "linear"}, ("rope_scaling",)),
    ({"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}}, ("partial_rotary_factor",)),
    ({"rope_parameters": {"rope_theta": "x"}}, ("rope_parameters.rope_theta",))])
def test_rotary_settings_that_are_refused(hf, more, words):
    refused(lambda: hf(**more), *words)


def test_rotary_settings_that_are_not_known(hf):
    assert "rope_parameters: keys that are not read: factor" in hf(rope_parameters={"rope_theta": 1e4, "factor": 8})[1]
    refused(lambda: hf(None, ["rope_theta"], rope_parameters={"full_attention": {"rope_theta": 1e4}}), "rope_theta")


def test_two_thetas_of_the_encoder(tmp_path):
    fields = hf_config(sizes(None, vision=vision_sizes()))
    fields["vision_config"]["rope_parameters"] = {"rope_theta": 5.0, "rope_type": "default"}
    (tmp_path / "config.json").write_text(json.dumps(fields))
    refused(lambda: read_hf_config(tmp_path / "config.json"), "vision_config", "several thetas")


@pytest.mark.parametrize("key", ["yarn", "llama_4_scaling", "lora", "use_biases", "tied_embeddings", "logit_soft_cap",
                                 "ragged_attention", "quantization", "q_lora_rank"])
def test_keys_of_later_models_are_refused_by_name(mistral, key):
    refused(lambda: mistral(**{key: {"factor": 16.0}}), key)
    assert mistral(**{key: False}) == mistral()
    refused(lambda: mistral(causal=False), "causal")
    moe = {"num_experts": 4, "num_experts_per_tok": 2, "num_shared_experts": 1}
    refused(lambda: mistral((4, 2), moe=moe), "moe sets num_shared_experts = 1")


# ---- end tokens

@pytest.mark.parametrize("value, ids", [(5, {5}), ([2, 5], {2, 5}), (None, set()), ([], set())])
def test_end_tokens_of_both_files(tmp_path, value, ids):
    tensors = random_tensors(sizes())
    folder = write_hf(tmp_path / "m", sizes(), tensors, eos_token_id=value)
    assert tiny.load(folder).config.end_ids == ids
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [7], "temperature": 0.6, "x": 1}))
    assert tiny.load(folder).config.end_ids == ids | {7}


def test_a_text_ends_at_each_of_them(tmp_path):
    folder = write_hf(tmp_path / "m", sizes(), random_tensors(sizes()))
    free = [token.id for token in tiny.generate(tiny.load(folder), [1, 2], max_tokens=8)]
    assert len(free) == 8
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [free[3], 39]}))
    model, first = tiny.load(folder), free.index(free[3])
    assert [token.id for token in tiny.generate(model, [1, 2], max_tokens=8)] == free[:first]
    assert [token.id for token in tiny.generate(model, [1, 2], max_tokens=8, stop_at_eos=False)] == free
    assert [[token.id for token in text] for text in tiny.generate_batch(model, [[1, 2]] * 2)] == [free[:first]] * 2


@pytest.mark.parametrize("value", ["2", 2.0, True, -1, [2, "x"], {}, [[2]]])
def test_end_tokens_that_are_none(tmp_path, value):
    folder = write_hf(tmp_path / "m", sizes(), random_tensors(sizes()), eos_token_id=value)
    refused(lambda: tiny.load(folder), "eos_token_id")


def test_what_a_generation_config_asks_for_and_is_not_done_is_said(tmp_path):
    folder = write_hf(tmp_path / "m", sizes(), random_tensors(sizes()))
    asked = {"repetition_penalty": 1.2, "top_k": 50, "stop_strings": []}
    (folder / "generation_config.json").write_text(json.dumps(asked))
    with pytest.warns(UserWarning, match="sets repetition_penalty = 1.2, which is not done here"):
        checkpoint = tiny.load(folder).checkpoint
    assert len(checkpoint.notes) == 1 and "repetition_penalty" in checkpoint.notes[0]


# ---- files

@pytest.mark.parametrize("text, key", [('{"dim": 8, "dim": 16}', "dim"), ('{"a": {"b": 1, "b": 1}}', "b"),
                                       ('[{"x": 1, "y": 2, "x": 3}]', "x")])
def test_a_key_twice(tmp_path, text, key):
    (tmp_path / "f.json").write_text(text)
    refused(lambda: read_json(tmp_path / "f.json"), f"the key '{key}' twice")


def test_files_without_end_and_of_a_size_that_no_configuration_has(tmp_path):
    path = tmp_path / "params.json"
    path.symlink_to("/dev/zero")
    refused(lambda: read_json(path), "not a file")
    path.unlink()
    path.touch()
    os.truncate(path, 1 << 40)
    start = time.process_time()
    refused(lambda: read_json(path), f"more than {LARGEST_JSON:,} bytes")
    refused(lambda: memory.read_headers(tmp_path), "bytes")
    assert time.process_time() - start < 5
    path.unlink()
    path.symlink_to("nothing")
    refused(lambda: read_json(path), "is a link to a file that is not there", "cp -rL")
    os.mkfifo(tmp_path / "fifo")
    refused(lambda: read_json(tmp_path / "fifo"), "not a file")


WHAT = [(sign.upper() + b" and more", what) for sign, what in FOREIGN.items()] + [
    (b"\n  <!DOCTYPE html><html>", "web page"), (b"../../blobs/54c3f1", "text of a link"),
    (b"/nonexistent/blob", "text of a link")]


@pytest.mark.parametrize("data, what", WHAT)
@pytest.mark.parametrize("name", ["params.json", "consolidated.safetensors", "tokenizer.model", "tekken.json"])
def test_files_that_are_something_else(tmp_path, name, data, what):
    folder = write_mistral(tmp_path / "m", sizes(), random_tensors(sizes()))
    (folder / name).write_bytes(data)
    refused(lambda: tiny.load(folder), name, what)


@pytest.mark.parametrize("changes", [
    {"n_layers": 10**9}, {"n_layers": 2**20}, {"moe": {"num_experts": 10**9, "num_experts_per_tok": 2}},
    {"n_layers": 1000, "moe": {"num_experts": 1000, "num_experts_per_tok": 2}}, {"dim": 2**39}, {"hidden_dim": 2**39},
    {"vocab_size": 2**39}, {"head_dim": 2**39}, {"n_heads": 2**38, "n_kv_heads": 2}])
def test_sizes_are_bounded_before_anything_is_made(tmp_path, changes):
    folder = write_mistral(tmp_path / "m", sizes(), random_tensors(sizes()), **changes)
    start = time.process_time()
    refused(lambda: tiny.load(folder))
    (folder / "consolidated.safetensors").unlink()
    refused(lambda: memory.read_headers(folder))
    assert time.process_time() - start < 1


def test_the_largest_sizes_that_are_read_make_stand_ins(tmp_path):
    widths = dict.fromkeys(("dim", "hidden_dim", "vocab_size", "head_dim", "n_heads"), 2**20)
    (tmp_path / "params.json").write_text(json.dumps(params(sizes(None), **widths)))
    assert memory.parameters(memory.read_headers(tmp_path).config)[0] > 2**60
