"""Every classic mistake in a vision model must be refused by the very comparison that the model passes.

A subject runs through prompts with one, two and three images: embeddings, logits and the logits of cached steps.
"""

import numpy as np
import pytest
from compare import assert_close
from oracles import GOLDEN, Oracle
from tolerances import PIXTRAL

import tiny
from tests.mutants.vision import VISION_MUTANTS, Sight

pytestmark = pytest.mark.slow
PIXELS = dict(np.load(GOLDEN / "images" / "preprocess.npz"))
CASES = ("one_image", "two_images", "odd_modes")
# What a mistake shows in alone: a single image is encoded as if nothing were wrong.
SEVERAL = {"positions_not_restarted_per_image", "mask_between_images_dropped", "images_in_reverse_order"}


def errors(subject, oracle):
    """Largest error as a share of the tolerance, and the refusal of the checker, for every array that it refuses."""
    model = subject.model(subject.config, subject.weights, ops=subject.ops)
    refused = {}
    for case in CASES:
        info, stored, trace = oracle.cases[case], oracle.arrays(case), {}
        images = [PIXELS[f"{name}/mistral"] for name in info["images"]]
        cache = model.new_cache(len(info["ids"]) + 4)
        logits = [model(info["ids"], images, cache=cache, trace=trace)]
        logits += [model([token], cache=cache) for token in info["greedy_tokens"][:3]]
        logits = np.concatenate(logits)
        for name, actual, expected in (
                ("embed", trace["embed"], stored["embed"]),
                ("logits", logits[stored["logits_positions"]], stored["logits"]),
                ("greedy_logits", logits[len(info["ids"]) - 1 :], stored["greedy_logits"][:4])):
            limit = PIXTRAL[name.removeprefix("greedy_")]
            try:
                assert_close(actual, expected, limit, name=f"{case} {name}")
            except AssertionError as refusal:
                refused[f"{case} {name}"] = (float(np.abs(actual - expected).max()) / limit, str(refusal))
    return refused


@pytest.fixture(scope="module")
def reference():
    return Oracle("pixtral-a")


@pytest.fixture(scope="module")
def parts(reference):
    model = tiny.load(reference.folder / "mistral", weights="resident")
    return model.config, dict(model.weights)


def test_the_unmutated_model_passes(parts, reference):
    assert errors(Sight(*parts), reference) == {}


@pytest.mark.parametrize("name", VISION_MUTANTS)
def test_mutant_is_refused(name, parts, reference, monkeypatch, record_property):
    subject = Sight(*parts)
    VISION_MUTANTS[name](subject)
    for patch in subject.patches:
        monkeypatch.setattr(*patch)
    with np.errstate(all="ignore"):
        refused = errors(subject, reference)
    assert refused, f"{name} passes the comparison with the oracle"
    run, (share, message) = max(refused.items(), key=lambda item: item[1][0])
    record_property("share_of_the_tolerance", share)
    print(f"{name}: {share:.3g} times the tolerance ({run})")
    assert share > 4, f"{name}: {share:.3g} times the tolerance is too near: {message}"
    wanted = set(CASES[1:] if name in SEVERAL else CASES)
    assert {run.split()[0] for run in refused} == wanted, f"{name}: seen in {sorted(refused)}"


def test_the_parts_are_left_as_they_were(parts, reference):
    """Runs after the mutants: none of them may have changed what they share."""
    assert errors(Sight(*parts), reference) == {}
