"""`verify check` on files that hold logits and nothing between: the known faults say why they differ."""

import numpy as np
import pytest

import tiny
from tiny.tools.verify import causes, file
from tiny.tools.verify.check import check
from tiny.tools.verify.server import pictures
from tiny.tools.verify.server.faults import hypotheses, logprobs

TEXT = "Once upon a time there was a small frog who wanted to see the sea. His mother said that it was far away. " * 2
FOUND = {"2 BOS tokens": "bos", "a sliding window of 16": "window", "K = 3 experts per token": "top_experts",
         "expert weights not renormalised": "not_renormalised", "a rotary theta of 1e+06": "theta"}


@pytest.fixture(scope="module")
def model():
    return tiny.load("tiny-mixtral", weights="resident")


def written(path, ids, logits, **more):
    """A file with logits only."""
    file.save(path, {"format": file.FORMAT, "precision": "float32", "implementation": "another"},
              {"ids": np.asarray(ids), "logits": logits.astype(np.float32), **more})
    return path


@pytest.fixture(scope="module")
def ids(model):
    return np.array([1, *model.tokenizer.encode(TEXT)])[:60]


def reasons(report):
    return [reason for place in report.places for reason in place.reasons]


QUICK = ("2 BOS tokens", "expert weights not renormalised")


@pytest.mark.parametrize("name", [
    name if name in QUICK else pytest.param(name, marks=pytest.mark.thorough) for name in FOUND])
def test_the_cause_of_other_logits_is_named(model, ids, tmp_path, name):
    fault = next(fault for fault in hypotheses(model.config, len(ids)) if fault.name == name)
    assert fault.kind == FOUND[name]
    report = check("tiny-mixtral", written(tmp_path / "their.npz", ids, logprobs(model, fault, ids)), partial=True)
    assert report.status == 1 and [place.array for place in report.places] == ["logits"]
    assert reasons(report) == [f"the predictions are those of {name}, which explains 100 % of the difference"]


def test_nothing_is_said_where_nothing_is_known(model, ids, tmp_path, monkeypatch):
    """Not of a healthy file, not of a difference that no fault explains, not of few rows or numbers that are none."""
    plain = logprobs(model, None, ids)
    noise = plain + 0.3 * np.random.default_rng(0).standard_normal(plain.shape).astype(np.float32)
    assert not reasons(check("tiny-mixtral", written(tmp_path / "1.npz", ids, noise), partial=True))
    odd = noise.copy()
    odd[3, 5] = np.nan
    assert not reasons(check("tiny-mixtral", written(tmp_path / "2.npz", ids, odd), partial=True))
    two = next(fault for fault in hypotheses(model.config, len(ids)) if fault.kind == "bos")
    few = logprobs(model, two, ids[:12])
    assert not reasons(check("tiny-mixtral", written(tmp_path / "3.npz", ids[:12], few), partial=True))
    monkeypatch.setattr(causes, "runs", lambda *_: pytest.fail("asked although all is well"))
    assert check("tiny-mixtral", written(tmp_path / "4.npz", ids, model(ids)), partial=True).status == 0


def test_some_rows_are_enough(model, ids, tmp_path):
    two = next(fault for fault in hypotheses(model.config, len(ids)) if fault.kind == "bos")
    rows = np.arange(1, len(ids), 2)
    path = written(tmp_path / "their.npz", ids, logprobs(model, two, ids)[rows], positions=rows)
    assert "2 BOS tokens" in reasons(check("tiny-mixtral", path, partial=True))[0]


def test_images_in_another_order_are_named(tmp_path):
    model = tiny.load("tiny-pixtral", weights="resident")
    rng = np.random.default_rng(0)
    images = [rng.standard_normal((3, 24, 40)).astype(np.float32) for _ in range(2)]
    tokens = model.tokenizer.image_tokens(5, 3)
    ids = np.array([1, *tokens, *tokens, *model.tokenizer.encode("what color is the star")])
    fault = next(fault for fault in pictures.hypotheses(model.config, images) if fault.kind == "images_swapped")
    path = written(tmp_path / "their.npz", ids, pictures.logprobs(model, fault, ids, images), pixels0=images[0],
                   pixels1=images[1])
    assert "images in the reverse order" in reasons(check("tiny-pixtral", path, partial=True))[0]
