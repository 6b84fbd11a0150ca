"""Every classic mistake must be refused by the very comparison that the model passes.

A subject runs through two prompts at once, in chunks, token by token, and packed together.
"""

import json
import shutil

import numpy as np
import pytest
from compare import assert_close
from oracles import Oracle
from tolerances import ORACLE

import tiny
from tests.mutants.model import MUTANTS, Subject
from tiny.config import TinyError
from tiny.mixtral import Mixtral

pytestmark = pytest.mark.slow
CASES = ("text", "random60")
# What a mistake shows in alone: the others run as if nothing were wrong.
ONLY = {"cache_position_off_by_one": ("chunks", "token"), "positions_restarted_per_chunk": ("chunks", "token"),
        "sequences_of_a_pack_see_each_other": ("packed",)}


def runs(subject, oracle):
    """Yield (name, logits, expected logits) of every way to run the cases."""
    model = Mixtral(subject.config, subject.weights, ops=subject.ops)
    stored = {case: oracle.arrays(case) for case in CASES}
    prompts = {case: oracle.cases[case]["ids"] for case in CASES}
    for case, ids in prompts.items():
        c, rows = model.config, stored[case]["logits_positions"]
        yield f"{case} at once", model(ids)[rows], stored[case]["logits"]
        cache = subject.cache(c.n_layers, c.n_kv_heads, c.head_dim, [len(ids)])
        chunks = [model(ids[n : n + 5], cache=cache) for n in range(0, len(ids), 5)]
        yield f"{case} in chunks", np.concatenate(chunks)[rows], stored[case]["logits"]
        cache = subject.cache(c.n_layers, c.n_kv_heads, c.head_dim, [len(ids) + 8])
        steps = [model(ids, cache=cache, last_only=True)]
        steps += [model([token], cache=cache) for token in oracle.cases[case]["greedy_tokens"][:7]]
        yield f"{case} token by token", np.concatenate(steps), stored[case]["greedy_logits"][:8]
    lengths = [len(ids) for ids in prompts.values()]
    packed = model(np.concatenate(list(prompts.values())), lengths=lengths, last_only=True)
    yield "packed", packed, np.array([stored[case]["greedy_logits"][0] for case in CASES])


def errors(subject, oracle):
    """Largest error of the logits and the refusal of the checker, for every run that it refuses."""
    refused = {}
    for name, actual, expected in runs(subject, oracle):
        try:
            assert_close(actual, expected, ORACLE["logits"], name=name)
        except AssertionError as refusal:
            refused[name] = (float(np.abs(actual - expected).max()), str(refusal))
    return refused


@pytest.fixture(scope="module")
def reference():
    return Oracle("mixtral-a")


@pytest.fixture(scope="module")
def parts(reference):
    model = tiny.load(reference.folder / "mistral", weights="resident")
    return model.config, dict(model.weights)


def test_the_unmutated_model_passes(parts, reference):
    assert errors(Subject(*parts), reference) == {}
    assert len(list(runs(Subject(*parts), reference))) == 7


@pytest.mark.parametrize("name", MUTANTS)
def test_mutant_is_refused(name, parts, reference, record_property):
    subject = Subject(*parts)
    MUTANTS[name](subject)
    with np.errstate(all="ignore"):
        refused = errors(subject, reference)
    assert refused, f"{name} passes the comparison with the oracle"
    run, (error, message) = max(refused.items(), key=lambda item: item[1][0])
    record_property("logit_error", error)
    print(f"{name}: logit error {error:.3g} ({run})")
    assert error > 10 * ORACLE["logits"], f"{name}: logit error {error:.3g} is too near to the tolerance: {message}"
    wanted = ONLY.get(name, ("at once", "chunks", "token", "packed"))
    found = {part for part in ("at once", "chunks", "token", "packed") if any(part in run for run in refused)}
    assert found == set(wanted), f"{name}: logit error {error:.3g}, seen in {sorted(refused)}"


def test_the_parts_are_left_as_they_were(parts, reference):
    """Runs after the mutants: none of them may have changed what they share."""
    assert errors(Subject(*parts), reference) == {}


def test_head_dim_by_division_is_refused_on_loading(reference, tmp_path):
    folder = shutil.copytree(reference.folder / "mistral", tmp_path / "model")
    params = json.loads((folder / "params.json").read_text())
    del params["head_dim"]
    (folder / "params.json").write_text(json.dumps(params))
    with pytest.raises(TinyError, match="wq.weight is .80, 48., the configuration says .48, 48."):
        tiny.load(folder)
