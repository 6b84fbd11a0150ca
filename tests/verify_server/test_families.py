"""From a named relative to a value that is on no list, and to a part of the model."""

import numpy as np
import pytest
from small import sizes

import tiny
from tiny.tools.verify.server import families
from tiny.tools.verify.server.decide import Evidence, name_of, seen_of, weigh
from tiny.tools.verify.server.faults import Fault, hypotheses, logprobs, made
from tiny.tools.verify.server.rounding import rounded

CONFIG = sizes(moe=(8, 2), max_seq_len=4096)


def evidence(left):
    return Evidence(1.0, 0.01, left, 1.0)


def counted(target, noise=0.0):
    """A weigher to which `target` leaves nothing, others more the further they are; and the values that it saw."""
    seen = []

    def weigh(fault):
        seen.append(fault.value)
        return evidence(noise + min(0.9, abs(np.log(fault.value / target))))
    return weigh, seen


@pytest.mark.parametrize(("kind", "named", "target"), [
    ("theta", 1e6, 1e5), ("theta", 2e4, 5e5), ("window", 128, 100), ("window", 256, 31), ("temperature", 0.8, 0.7),
    ("temperature", 1.3, 1.15), ("scaling", 2, 4), ("scaling", 2, 6), ("kept", 300, 250), ("top_experts", 3, 4),
    ("bos", 2, 3), ("pads", 8, 5), ("penalty", 1.1, 1.25), ("nucleus", 0.9, 0.8), ("epsilon", 1e-3, 1e-4),
    ("kept_bos", 200, 111)])
def test_a_search_finds_the_value_in_so_many_passes(kind, named, target):
    weigh, seen = counted(target)
    found, one = families.scan(made(kind, named), CONFIG, 400, weigh)
    assert found.kind == kind and one.left <= 0.02
    assert found.value == target if families.FAMILIES[kind].whole else abs(np.log(found.value / target)) < 0.02
    assert len(seen) == len(set(seen)) <= families.passes(kind, CONFIG, 400)


def test_round_values_are_preferred_if_they_fit():
    found, _ = families.scan(made("theta", 1e6), CONFIG, 400, counted(1.005e5)[0])
    assert found.value == 1e5
    found, _ = families.scan(made("temperature", 0.8), CONFIG, 400, counted(0.73)[0])
    assert round(found.value, 2) == 0.73


def test_a_kind_without_values_is_weighed_once():
    fault = next(fault for fault in hypotheses(CONFIG, 400) if fault.kind == "halves")
    calls = []
    assert families.scan(fault, CONFIG, 400, lambda fault: calls.append(fault) or evidence(0.3)) == (fault,
                                                                                                    evidence(0.3))
    assert calls == [fault] and families.passes("halves", CONFIG, 400) == 0


def test_every_kind_with_values_has_a_family():
    valued = {fault.kind for fault in hypotheses(CONFIG, 400) if fault.value is not None}
    assert valued == set(families.FAMILIES)
    for kind, family in families.FAMILIES.items():
        grid = list(family.grid(CONFIG, 400))
        assert grid == sorted(set(grid)) and len(grid) >= 3
        assert all(isinstance(made(kind, value), Fault) for value in grid)
    assert families.passes("top_experts", sizes(moe=None), 400) <= 1


@pytest.fixture(scope="module")
def model():
    return tiny.load("tiny-mixtral", weights="resident")


@pytest.fixture(scope="module")
def text(model):
    """Held-out stories of 400 tokens."""
    from tiny.training.text import stories
    rng = np.random.default_rng(5)
    ids = [1]
    while len(ids) < 400:
        ids += model.tokenizer.encode(stories.generate(rng, held_out=True).text + "\n\n")
    return np.array(ids[:400])


@pytest.fixture(scope="module")
def packed(model):
    """The model at 8 bits, each tensor rounded once."""
    weights = {name: np.ascontiguousarray(x) for name, x in rounded(model, "q8_0").weights.items()}
    return type(model)(model.config, weights)


@pytest.mark.parametrize(("kind", "named", "value", "near"), [
    ("top_experts", 3, 4, 0), pytest.param("window", 128, 100, 0, marks=pytest.mark.thorough),
    pytest.param("temperature", 1.3, 1.6, 0.02, marks=pytest.mark.thorough)])
def test_values_on_no_list(model, text, packed, kind, named, value, near):
    assert value not in {fault.value for fault in hypotheses(model.config, 400) if fault.kind == kind}
    plain, seen = logprobs(model, None, text), seen_of(text, logprobs(packed, made(kind, value), text))
    found, one = families.scan(made(kind, named), model.config, 400,
                               lambda fault: weigh([seen], [plain], [logprobs(model, fault, text)]))
    assert abs(found.value - value) <= near and one.left < 0.9


PARTS = ("expert 4 of layer 2 dead", "head 1 of layer 2 dead", "layer 3 missing", "layers 2 and 3 exchanged",
         "experts 2 and 5 of layer 1 exchanged", "attention of layer 0 missing", "experts of layer 1 missing")


@pytest.mark.thorough
def test_a_broken_part_is_named(model, text):
    parts = {fault.name: fault for fault in families.structures(model.config)}
    plain = logprobs(model, None, text)
    changed = {name: logprobs(model, parts[name], text) for name in PARTS}
    server = rounded(model, "bfloat16")
    for name in (None, *PARTS):
        seen = seen_of(text, logprobs(server, parts[name] if name else None, text))
        assert name_of({one: weigh([seen], [plain], [x]) for one, x in changed.items()}, 0.012) == name
