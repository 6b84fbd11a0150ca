"""Cold, warm and at once: healthy servers differ by rounding only, and both kinds of fault are told apart."""

import pytest
from chat_server import ChatServer

import tiny
from tiny.tools.verify.server import repeat

BOUND = 0.024  # nats: twice the reference's own rounding in bfloat16 (29 Nov 2026)
BODY = {"model": "m", "temperature": 0.0}


@pytest.fixture(scope="module")
def model():
    return tiny.load("tiny-mixtral", weights="resident")


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """Prompts and answers that cost less: a check asks 17 times."""
    monkeypatch.setattr(repeat, "LONGEST", 80)
    monkeypatch.setattr(repeat, "LENGTH", 4)


def asked(model, **faults):
    return repeat.check_repeat(ChatServer(model, **faults), BODY, model, BOUND)


@pytest.mark.parametrize("noise", [pytest.param(0.0, marks=pytest.mark.thorough), 0.01])
def test_a_healthy_server(model, noise):
    found = asked(model, noise=noise)
    assert found.state == "healthy", found
    assert 0 <= found.cache <= 3 * noise and 0 <= found.batch <= 5 * noise


def test_a_cache_that_loses_tokens(model):
    found = asked(model, forgets=16)
    assert found.state == "faulty" and "cache" in found.words and "--no-enable-prefix-caching" in found.remedy, found


def test_a_batch_that_mixes_requests(model):
    found = asked(model, mixes=True)
    assert found.state == "faulty" and "same time" in found.words and "--max-num-seqs 1" in found.remedy, found
    assert found.cache == 0


@pytest.mark.thorough
def test_without_log_probabilities_nothing_is_judged(model):
    found = asked(model, naming="none")
    assert found.state == "cannot tell" and found.words.startswith("0 of 9 answers changed"), found


def test_defaults_are_seen(model):
    body = BODY | {"repetition_penalty": 1.0}

    def found(**defaults):
        return repeat.check_defaults(ChatServer(model, **defaults), "m", body, model, BOUND)

    assert found() == []
    assert "without sampling parameters" in found(temperature=0.7)[0]
    assert found(penalty=1.5) == [repeat.CHOICE]


def test_prompts_are_new_long_and_fit(model, monkeypatch):
    """No prompt of another run begins like these, and vLLM's blocks of 128 are filled."""
    monkeypatch.undo()
    first, second = (repeat.requests(model, number) for number in (1, 2))
    ids = [model.tokenizer.encode_chat(request["messages"])[0] for request in (*first, *second)]
    assert all(128 < len(row) < model.config.max_seq_len - repeat.LENGTH for row in ids)
    assert len({tuple(row) for row in ids}) == 16
    assert all(row[:100] == ids[0][:100] for row in ids[:8]) and ids[0][:20] != ids[8][:20]
