"""The embedded tiny-mixtral: what its card says is what the checkpoint does, and the gates that it had to pass."""

import json

import numpy as np
import pytest
from compare import assert_close

import tiny
from tiny.training.text import data, evaluate, stories

FOLDER = tiny.model_folder("tiny-mixtral")


@pytest.fixture(scope="module")
def model():
    return tiny.load("tiny-mixtral")


@pytest.fixture(scope="module")
def card() -> dict:
    return json.loads((FOLDER / "card.json").read_text(encoding="utf-8"))


def test_it_is_a_released_layout_and_small():
    model = tiny.load("tiny-mixtral")  # anew: a model that has computed keeps some of its tensors as float32
    assert (FOLDER / "consolidated.safetensors").stat().st_size <= 8 << 20
    assert {tensor.dtype.name for tensor in model.weights.tensors.values()} == {"bfloat16"}
    assert (model.config.moe.num_experts, model.config.moe.num_experts_per_tok) == (8, 2)
    assert model.config.n_kv_heads < model.config.n_heads and model.tokenizer.vocab_size == 2048


def test_the_gates(card):
    """Bits per character 15 % below a short run, experts between 6 and 25 % in every layer, stories that hold."""
    def bits(losses):
        return np.mean([loss["bits_per_character"] for loss in losses.values()])

    assert card["baseline"]["tokens"] == 2_000_000
    assert bits(card["held_out"]) <= 0.85 * bits(card["baseline"]["held_out"])
    shares = np.mean([np.array(domain) for domain in card["shares"].values()], axis=0)
    assert shares.shape == (4, 8) and shares.min() >= 0.06 and shares.max() <= 0.25
    assert card["stories"]["accepted"] >= 0.90 and card["stories"]["who_and_where"] >= 0.60


def test_the_card_tells_the_loss(model, card):
    """The held-out loss of two domains, measured again."""
    pieces = data.open_tokenizer((FOLDER / "tokenizer.model").read_bytes())
    texts = data.texts()
    streams = data.build_streams(pieces, texts, {"stories": 30_000, "tasks": 20_000}, True)
    chosen = {domain: streams[domain] for domain in ("milton", "stories")}
    losses, _ = evaluate.held_out(model, data.held_out(chosen, pieces))
    for domain, loss in losses.items():
        told = card["held_out"][domain]
        assert_close(loss["nats_per_token"], told["nats_per_token"], atol=2e-3, name=domain)
        assert loss["characters"] == told["characters"]


def test_it_tells_stories(model):
    """Held-out openings, continued greedily and read by the parser again."""
    texts = evaluate.write_stories(model, 16)
    assert len(set(texts)) == len(texts)
    assert sum(stories.check_story(text).accepted for text in texts) >= 12


def test_it_answers_a_chat(model):
    """A multi-turn chat ends each answer with EOS by itself."""
    ids, _ = model.tokenizer.encode_chat([{"role": "user", "content": "Repeat after me: dog house"}])
    tokens = list(tiny.generate(model, ids, max_tokens=32))
    assert 0 < len(tokens) < 32 and tokens[0].experts.shape == (4, 2)
