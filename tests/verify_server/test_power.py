"""Faults planted in tiny-mixtral, rounded as servers round: what is named, what is missed, and that nothing is accused.

Measured 30 Nov 2026 (AMD EPYC, 2 cores), 30 texts of 400 tokens, faults in 4 of them: named 112 of 112
at bfloat16, 111 of 112 at q8_0, 102 of 112 at q4_0; none by another's name; 0 of 210 healthy runs accused.
"""

import numpy as np
import pytest
from compare import assert_close

import tiny
from tiny.config import TinyError
from tiny.tools.verify.server.decide import Verdict
from tiny.tools.verify.server.reference import power
from tiny.tools.verify.server.rounding import q4_0, q8_0, rounded
from tiny.training.text.data import texts as stored_texts

DOMAINS = ("shakespeare", "bible", "python", "dictionary", "milton")
FEW = ("bos", "window", "top_experts", "temperature", "not_renormalised")


@pytest.fixture(scope="module")
def model():
    return tiny.load("tiny-mixtral", weights="resident")


@pytest.fixture(scope="module")
def held_out(model):
    """Texts of 400 ids that the model was not trained on: held_out(count)."""
    stored, rng = stored_texts(), np.random.default_rng(2)

    def take(count):
        found = []
        for n in range(count):
            text = stored[DOMAINS[n % len(DOMAINS)]][1]
            start = text.index("\n", rng.integers(0, len(text) - 6000)) + 1
            found.append([1, *model.tokenizer.encode(text[start : start + 6000])][:400])
        return found
    return take


@pytest.fixture(scope="module")
def small(model, held_out):
    """A few faults in one text, weighed."""
    return list(power.runs(model, held_out(2)[1:], 1, ("bfloat16", "q8_0", "q4_0"), FEW))


@pytest.mark.thorough
def test_a_few_faults_are_named(small):
    table = power.confusion(small)
    assert all(len(faults) == 9 for faults in table["planted"].values()) and table["silent"] == []
    for kind, found in power.totals(table).items():
        assert found["accused"] == found["misnamed"] == 0 and found["healthy"] == 1
        assert found["named"] >= found["planted"] - (kind == "q4_0")
    assert table["healthy"]["q4_0"] == {"cannot tell": 1} and table["healthy"]["bfloat16"] == {"healthy": 1}


def always_the_least(mean, evidence, rounding):
    """What leaves least is the cause, however much it leaves."""
    name = min(evidence, key=lambda name: evidence[name].left)
    return Verdict("faulty", name, "", mean, 0.0, evidence[name])


def any_slope(mean, evidence, rounding):
    """The largest slope is the cause: a small change is a large slope away from any rounding."""
    name = max(evidence, key=lambda name: evidence[name].beta)
    return Verdict("faulty" if evidence[name].beta > 0.1 else "healthy", name, "", mean, 0.0, evidence[name])


def one_bound(mean, evidence, rounding):
    """More than 16 bits explain is a fault: so is a healthy server of 4 bits."""
    return Verdict("faulty" if mean > 2 * rounding["bfloat16"] else "healthy", None, "", mean, 0.0, None)


@pytest.mark.thorough
@pytest.mark.parametrize("rule", [always_the_least, any_slope, one_bound])
def test_wrong_rules_accuse_or_misname(small, rule):
    found = power.totals(power.confusion(small, rule)).values()
    assert sum(one["accused"] + one["misnamed"] for one in found) > 0


@pytest.mark.thorough
def test_all_faults(model, held_out):
    """The recorded study on fewer texts, 70 healthy runs; a miss is allowed in 20, and at 4 bits in 5."""
    table = power.confusion(power.runs(model, held_out(10), 1))
    found = power.totals(table)
    assert sum(one["healthy"] for one in found.values()) == 70 and len(table["planted"]["q8_0"]) >= 28
    assert [one["accused"] + one["misnamed"] for one in found.values()] == [0] * 7
    for kind, share in (("bfloat16", 0.95), ("q8_0", 0.95), ("q4_0", 0.8)):
        assert found[kind]["named"] >= share * found[kind]["planted"]
    assert table["silent"] == ["a norm epsilon of 1e-06"]


def test_totals_count_what_they_say():
    table = {"healthy": {"q8_0": {"healthy": 3, "cannot tell": 2, "faulty": 1, "b": 1}},
             "planted": {"q8_0": {"a": {"a": 4, "b": 2, "healthy": 1}, "b": {"b": 1}}}}
    assert power.totals(table)["q8_0"] == {"planted": 8, "named": 5, "misnamed": 2, "healthy": 7, "accused": 2}


@pytest.mark.parametrize(("pack", "levels"), [(q8_0, 255), (q4_0, 16)])
def test_blocks_of_one_scale(pack, levels):
    x = np.random.default_rng(0).standard_normal((3, 96)).astype(np.float32)
    x[0, :32] = 0
    got = pack(x)
    assert got.shape == x.shape and got.dtype == np.float32 and (got[0, :32] == 0).all()
    for row, block in zip(got.reshape(-1, 32), x.reshape(-1, 32)):
        assert len(np.unique(row)) <= levels
        step = np.abs(block).max() / (127 if pack is q8_0 else 8)
        # Of 4 bits the largest number is -8 steps, so that one of the other sign and the same size loses a whole step.
        assert np.abs(row - block).max() <= step * (0.501 if pack is q8_0 else 1.01)
    assert_close(pack(x[:, :40])[:, :32], got[:, :32], 0.0)


@pytest.mark.thorough
@pytest.mark.parametrize(("pack", "kind"), [(q8_0, "Q8_0"), (q4_0, "Q4_0")])
def test_blocks_are_those_of_gguf(pack, kind):
    gguf = pytest.importorskip("gguf", reason="the package gguf is the oracle")
    x = np.random.default_rng(0).standard_normal((64, 256)).astype(np.float32)
    way = gguf.GGMLQuantizationType[kind]
    assert_close(pack(x), gguf.dequantize(gguf.quantize(x, way), way), 1e-6)


def test_an_unknown_rounding_is_refused(model):
    with pytest.raises(TinyError, match="unknown"):
        rounded(model, "q3_k")
