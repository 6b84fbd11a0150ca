"""The whole model against a float64 forward pass written in loops, and what a call refuses."""

import numpy as np
import pytest
import reference
from compare import assert_close
from small import random_tensors, sizes, write_hf, write_mistral
from tolerances import MODEL

import tiny
from tiny.config import TinyError
from tiny.files.weights import Weights
from tiny.mixtral import Mixtral

MODELS = {"moe": sizes(), "dense": sizes(None), "K=1": sizes((4, 1)), "K=E": sizes((3, 3)), "one expert": sizes((1, 1)),
          "one kv head": sizes(n_kv_heads=1), "G=H": sizes(n_kv_heads=6), "one head": sizes(n_heads=1, n_kv_heads=1),
          "d=32": sizes(head_dim=32), "one layer": sizes(n_layers=1), "d=2": sizes(head_dim=2)}
IDS = np.random.default_rng(1).integers(0, 40, 31)


@pytest.fixture(scope="module")
def small():
    return Mixtral(sizes(), random_tensors(sizes()))


@pytest.mark.parametrize("name", MODELS)
def test_against_the_loops(name, tmp_path):
    config = MODELS[name]
    tensors = random_tensors(config)
    expected = reference.forward(config, tensors, IDS)
    assert expected.std() > 0.5
    for folder in (write_mistral(tmp_path / "mistral", config, tensors),
                   write_hf(tmp_path / "hf", config, tensors, shards=2)):
        for mode in ("mapped", "resident"):
            model = tiny.load(folder, weights=mode)
            assert (model.config.moe is None) == (name == "dense")
            logits = model(IDS)
            assert logits.dtype == np.float32
            assert_close(logits, expected, MODEL["logits"], name=f"{name} {folder.name} {mode}")


def test_a_dense_model_has_no_expert_choices(tmp_path):
    config = sizes(None)
    model = tiny.load(write_hf(tmp_path / "hf", config, random_tensors(config)))
    trace = {}
    model(IDS, trace=trace)
    assert not [name for name in trace if "expert" in name or "router" in name]
    assert next(tiny.generate(model, IDS[:5], stop_at_eos=False)).experts is None


def test_packed_equals_separate(small):
    pieces = [IDS[:1], IDS[1:8], IDS[8:]]
    packed = small(IDS, lengths=[1, 7, 23])
    apart = np.concatenate([small(piece) for piece in pieces])
    assert_close(packed, apart, MODEL["logits"], name="packed")
    last = small(IDS, lengths=[1, 7, 23], last_only=True)
    assert_close(last, packed[[0, 7, 30]], MODEL["logits"], name="last_only")


@pytest.mark.parametrize("chunk", [1, 3, 7, 31])
def test_chunks_equal_one_pass(small, chunk):
    cache = small.new_cache(31)
    parts = [small(IDS[n : n + chunk], cache=cache) for n in range(0, 31, chunk)]
    assert cache.lengths == [31]
    assert_close(np.concatenate(parts), small(IDS), MODEL["logits"], name=f"chunks of {chunk}")


def test_resident_and_mapped_agree_bit_for_bit_in_what_they_read():
    tensors = random_tensors(sizes())
    for mode in ("mapped", "resident"):
        weights = Weights(dict(tensors), mode)
        for name, stored in tensors.items():
            assert_close(weights[name], stored, 0.0, name=name)
            wanted = stored.dtype if mode == "mapped" or name.startswith("tok") else np.float32
            assert weights[name].dtype == wanted
            assert weights[name] is weights[name]


def test_any_mapping_serves_and_is_not_changed():
    tensors = random_tensors(sizes(), dtype=np.float32)
    before = {name: x.copy() for name, x in tensors.items()}
    ids = IDS.copy()
    Mixtral(sizes(), tensors)(ids)
    assert_close(ids, IDS, 0.0)
    for name, x in tensors.items():
        assert_close(x, before[name], 0.0, name=name)


def test_half_precision_weights_are_read_as_they_are():
    tensors = random_tensors(sizes(), dtype=np.float16)
    wide = {name: x.astype(np.float32) for name, x in tensors.items()}
    assert_close(Mixtral(sizes(), tensors)(IDS), Mixtral(sizes(), wide)(IDS), MODEL["logits"], name="float16")


@pytest.mark.parametrize("ids, lengths, cause", [
    ([], None, "at least one token"), ([[1, 2]], None, "at least one token"), ([1.0], None, "float64"),
    ([True], None, "bool"), (["a"], None, "at least one"), ([1, 40], None, "Token id 40 at position 1"),
    ([3, -1], None, "Token id -1 at position 1"), ([1, 2], [1], "add up"), ([1, 2], [3], "add up"),
    ([1, 2], [2, 0], "below 1"), ([1, 2], [3, -1], "below 1"), ([1, 2], [], "add up"), ([1] * 65, None, "65 tokens"),
    ([1] * 70, [3, 67], "67 tokens")])
def test_calls_that_are_refused(small, ids, lengths, cause):
    with pytest.raises(TinyError, match=cause) as caught:
        small(ids, lengths=lengths)
    assert caught.value.remedy


def test_more_that_is_refused(small):
    with pytest.raises(TinyError, match="1 images"):
        small([1], images=[np.zeros((3, 16, 16))])
    with pytest.raises(TinyError, match="holds 1 sequences, the call 2"):
        small([1, 2], cache=small.new_cache(8), lengths=[1, 1])
    cache = small.new_cache(100)
    small([1] * 60, cache=cache)
    with pytest.raises(TinyError, match="65 tokens"):
        small([1] * 5, cache=cache)
    with pytest.raises(ValueError, match="2 rows for a sequence of 3"):
        small([1, 2, 3], cache=small.new_cache(2))
    with pytest.raises(TinyError, match="float64"):
        Mixtral(sizes(), {}, precision="float64")
    with pytest.raises(TinyError, match="no tokenizer"):
        _ = small.tokenizer
