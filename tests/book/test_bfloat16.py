"""The rounding points of the book are those of transformers: without its order of addition few bits differ, with a
mistake many.

What is equal is counted in cases; one wrong bit in one hidden number changes about half of the logits that follow.
"""

import re
from pathlib import Path

import numpy as np
import pytest
from torch_cases import kernel_cases, oracle_cases, same_bits

import tiny
from tests.mutants.bfloat16 import ORDER_MUTANTS, ROUNDING_MUTANTS, in_lanes, softmax_by, times_the_inverse
from tiny.tools.verify import torch_cpu, torch_sums

# With sums in float64, NumPy's softmax and a stable choice of experts, so many cases of seven random models were equal
# in every bit (29 in all, of which 12 are here). Any of the mistakes below leaves fewer.
MIXTRAL_SHARE, PIXTRAL_SHARE, MEDIAN = 11 / 17, 5 / 12, 0.005
pytestmark = pytest.mark.slow
BOOK = Path(tiny.__file__).parent


@pytest.mark.parametrize("layout", ["mistral", "hf"])
def test_the_book_alone(layout, record_property):
    equal, errors = {"mixtral": [], "pixtral": []}, []
    for name, actual, expected in oracle_cases(tiny.ops, layout):
        equal[name.partition("-")[0]].append(same_bits(actual, expected))
        errors.append(np.linalg.norm(actual - expected) / np.linalg.norm(expected))
        print(f"{name}: {100 * np.mean(actual == expected):.1f} % of the logits equal, relative RMS {errors[-1]:.4f}")
    counts = {model: f"{sum(cases)} of {len(cases)}" for model, cases in equal.items()}
    for model, share in (("mixtral", MIXTRAL_SHARE), ("pixtral", PIXTRAL_SHARE)):
        record_property(f"{model} cases with all bits, plain sums", counts[model])
        assert sum(equal[model]) >= share * len(equal[model]) and equal[model], counts
    assert np.median(errors) < MEDIAN


def test_one_function_rounds():
    """In the book nothing else converts to bfloat16."""
    rounding = re.compile(r"(astype|asarray|array|copyto|view)\([^\n]*bfloat16")
    files = [path for folder in ("", "files", "system") for path in sorted((BOOK / folder).glob("*.py"))]
    found = [f"{path.name}: {line.strip()}" for path in files
             for line in path.read_text(encoding="utf-8").splitlines() if rounding.search(line)]
    assert found == ["numerics.py: return x.astype(ml_dtypes.bfloat16).astype(np.float32)"]


def count_equal(record_property, name):
    """How many cases of whole models and of single operations are equal in every bit; and how many there are."""
    with np.errstate(all="ignore"):
        whole = [same_bits(actual, expected) for _, actual, expected in oracle_cases(torch_cpu)]
        parts = [same_bits(actual, expected) for _, actual, expected in kernel_cases(torch_cpu)]
    verdict = f"mutant {name}: {sum(whole)} of {len(whole)} cases still equal, {sum(parts)} of {len(parts)} operations"
    record_property("equal", verdict)
    print(verdict)
    return sum(whole), len(whole), sum(parts), len(parts)


@pytest.mark.parametrize("name", ROUNDING_MUTANTS)
def test_a_mistake_in_rounding_shows_in_the_logits(name, monkeypatch, record_property):
    ROUNDING_MUTANTS[name](monkeypatch)
    whole, cases, _, _ = count_equal(record_property, name)
    assert whole <= 9 < cases


@pytest.mark.parametrize("name", ORDER_MUTANTS)
def test_another_order_loses_bits(name, monkeypatch, record_property):
    ORDER_MUTANTS[name](monkeypatch)
    whole, cases, parts, operations = count_equal(record_property, name)
    assert whole < cases or parts < operations


def test_the_softmax_that_mutants_spoil_is_the_right_one():
    rng = np.random.default_rng(0)
    for n in (1, 5, 15, 16, 17, 100):
        x = rng.standard_normal((3, 4, n), np.float32) * np.float32(20)
        x[0, :, 1:] = -np.inf
        assert same_bits(softmax_by(in_lanes, times_the_inverse)(x), torch_sums.softmax(x))


def test_without_a_mistake():
    """After the mutants: the modules are as they were, and the same measure counts everything as equal."""
    assert torch_cpu.rope is tiny.ops.rope and tiny.mixtral.decoder_layer is tiny.decoder.decoder_layer
    whole = [same_bits(actual, expected) for _, actual, expected in oracle_cases(torch_cpu)]
    parts = [same_bits(actual, expected) for _, actual, expected in kernel_cases(torch_cpu)]
    assert len(whole) == 12 and len(parts) >= 80 and all(whole) and all(parts)
