"""Generation: what is yielded, where it ends, and that it never samples from damage."""

import math
import sys
import warnings

import numpy as np
import pytest
from compare import assert_close
from oracles import Oracle
from small import random_tensors, sizes
from tolerances import MODEL

import tiny
from tiny.config import TinyError
from tiny.mixtral import Mixtral

PROMPTS = [[1, 5, 9, 13, 2, 8, 33], [7], [3, 3, 3, 30, 31, 32, 11, 12, 13, 14, 15], [39, 0]]


@pytest.fixture(scope="module")
def small():
    return Mixtral(sizes(), random_tensors(sizes()))


@pytest.fixture(scope="module")
def real():
    """An oracle checkpoint, with its tokenizer."""
    return tiny.load(Oracle("mixtral-a").folder / "mistral")


def ids(tokens):
    return [token.id for token in tokens]


def test_each_token_is_what_the_whole_text_predicts(small):
    """No cache, no generator: the text again from its start for every token."""
    text, tokens = list(PROMPTS[0]), list(tiny.generate(small, PROMPTS[0], max_tokens=9))
    assert len(tokens) == 9
    for token in tokens:
        trace = {}
        logits = small(text, trace=trace)[-1].astype(float)
        assert token.id == int(logits.argmax())
        expected = logits[token.id] - logits.max() - math.log(math.fsum(math.exp(v - logits.max()) for v in logits))
        assert type(token.logprob) is float and type(token.id) is int
        assert_close(token.logprob, expected, MODEL["logits"], name="logprob")
        assert token.experts.shape == (2, 2) and np.issubdtype(token.experts.dtype, np.integer)
        assert token.experts.tolist() == [trace["experts00"][-1].tolist(), trace["experts01"][-1].tolist()]
        text.append(token.id)


@pytest.mark.parametrize("temperature, top_p", [(0.0, 1.0), (0.8, 1.0), (1.5, 0.7)])
@pytest.mark.parametrize("prefill", [1, 4, 2048])
def test_a_batch_gives_what_each_prompt_gets_alone(small, temperature, top_p, prefill, monkeypatch):
    alone = [list(tiny.generate(small, p, (), 8, temperature, top_p, 5)) for p in PROMPTS]
    monkeypatch.setattr(sys.modules["tiny.generate"], "PREFILL", prefill)
    together = tiny.generate_batch(small, PROMPTS, (), 8, temperature, top_p, 5)
    assert [ids(text) for text in together] == [ids(text) for text in alone]
    for one, other in zip(together, alone):
        assert_close([t.logprob for t in one], [t.logprob for t in other], MODEL["logits"], name="logprobs")
        assert [t.experts.tolist() for t in one] == [t.experts.tolist() for t in other]


def test_seeds(small):
    runs = [ids(tiny.generate(small, [1], max_tokens=30, temperature=1.0, seed=seed)) for seed in (1, 1, 2)]
    assert runs[0] == runs[1] != runs[2]
    free = [ids(tiny.generate(small, [1], max_tokens=30, temperature=1.0)) for _ in range(2)]
    assert free[0] != free[1]


def test_the_logprob_is_of_the_raw_logits(small):
    cold, hot = (next(tiny.generate(small, [1], max_tokens=1, temperature=t, top_p=p, seed=0))
                 for t, p in ((0.0, 1.0), (1e-3, 0.01)))
    assert cold.id == hot.id and cold.logprob == hot.logprob


def test_the_eos_is_not_yielded(real):
    """The greedy text of this prompt, with the fourth of its tokens declared to be EOS."""
    prompt, free = [1], ids(tiny.generate(real, [1], max_tokens=8, stop_at_eos=False))

    class Ending:
        eos_id = free[3]

        def __getattr__(self, name):
            return getattr(real.tokenizer, name)

    model = Mixtral(real.config, real.weights, Ending())
    tokens = list(tiny.generate(model, prompt, max_tokens=8))
    assert ids(tokens) == free[:3]
    assert "".join(token.text for token in tokens) == real.tokenizer.decode(free[:3])
    assert ids(tiny.generate(model, prompt, max_tokens=8, stop_at_eos=False)) == free
    batch = tiny.generate_batch(model, [prompt, [1, 5], prompt], max_tokens=8)
    assert ids(batch[0]) == ids(batch[2]) == free[:3]


@pytest.mark.parametrize("seed", range(6))
def test_the_texts_joined_are_the_decoded_ids(real, seed):
    tokens = list(tiny.generate(real, [1], max_tokens=40, temperature=1.5, seed=seed, stop_at_eos=False))
    assert len(tokens) == 40
    text = "".join(token.text for token in tokens)
    assert text == real.tokenizer.decode(ids(tokens)) and text


def test_max_tokens_and_lazy_writing(small):
    assert [len(list(tiny.generate(small, [1], max_tokens=n))) for n in (1, 2, 17)] == [1, 2, 17]
    calls = []

    class Counting(Mixtral):
        def __call__(self, *arguments, **keywords):
            calls.append(1)
            return super().__call__(*arguments, **keywords)

    stream = tiny.generate(Counting(small.config, small.weights), [1], max_tokens=50)
    assert not calls
    next(stream)
    next(stream)
    assert len(calls) == 2
    assert tiny.generate_batch(small, []) == []


def test_where_the_context_ends(small):
    with pytest.warns(UserWarning, match="context of 64 tokens is full"):
        tokens = list(tiny.generate(small, [1] * 60, max_tokens=10))
    assert len(tokens) == 4
    with pytest.warns(UserWarning, match="context of 64"):
        batch = tiny.generate_batch(small, [[1] * 60, [1] * 3], max_tokens=10)
    assert [len(text) for text in batch] == [4, 10]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(list(tiny.generate(small, [1] * 60, max_tokens=4))) == 4


@pytest.mark.parametrize("prompt, cause", [([], "at least one token id"), ([1] * 64, "64 tokens"),
                                           ([1] * 90, "90 tokens"), ([40], "Token id 40"), ([1, -1], "Token id -1")])
def test_prompts_that_are_refused(small, prompt, cause):
    with pytest.raises(TinyError, match=cause):
        next(tiny.generate(small, prompt))
    with pytest.raises(TinyError, match=cause):
        tiny.generate_batch(small, [[1], prompt])


@pytest.mark.parametrize("arguments", [{"max_tokens": 0}, {"temperature": -1}, {"top_p": 0}, {"images": [1]}])
def test_arguments_that_are_refused(small, arguments):
    with pytest.raises(TinyError):
        next(tiny.generate(small, [1], **arguments))


@pytest.mark.parametrize("poison", [np.nan, np.inf])
@pytest.mark.parametrize("name, place", [
    ("tok_embeddings.weight", "embed"), ("layers.0.attention.wo.weight", "layer00"),
    ("layers.1.attention.wv.weight", "layer01"),
    ("layers.1.ffn_norm.weight", "layer01"), ("norm.weight", "norm"), ("output.weight", "logits")])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_damage_is_named_and_never_sampled_from(small, name, place, poison):
    tensors = {key: x.astype(np.float32) for key, x in small.weights.items()}
    tensors[name][(3, 0)[: tensors[name].ndim]] = poison
    model, drawn = Mixtral(small.config, tensors), []
    for temperature in (0.0, 1.0):
        with pytest.raises(TinyError, match=f"NaN or infinity; it first appears in '{place}'") as caught:
            drawn.extend(tiny.generate(model, [3, 1, 3], temperature=temperature, seed=0))
        assert drawn == [] and caught.value.remedy
    with pytest.raises(TinyError, match=place):
        tiny.generate_batch(model, [[3], [3, 5]])


def test_logprobs_of_a_real_vocabulary(real):
    for token in tiny.generate(real, [1, 5], max_tokens=4, temperature=1.0, seed=1):
        assert token.logprob < 0
    first = next(tiny.generate(real, [1, 5], max_tokens=1))
    logits = real([1, 5])[-1].astype(float)
    total = math.log(math.fsum(math.exp(v) for v in logits))
    assert_close(first.logprob, logits[first.id] - total, MODEL["logits"])
    assert first.experts.shape == (3, 2)
