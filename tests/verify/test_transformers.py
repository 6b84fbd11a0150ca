"""Checkpoints converted to Hugging Face's layout give the same logits and tokens in transformers as here."""

import importlib.util
import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from compare import assert_close

import tiny
from tiny.files.weights import open_tensors
from tiny.tools.synthetic import save_checkpoint

ROOT = Path(__file__).parents[2]
FOLDERS = {"mixtral-a": ROOT / "tests/golden/mixtral-a/mistral",
           "mixtral-b": ROOT / "tests/golden/mixtral-b/mistral",
           "tiny-mixtral": ROOT / "tiny/checkpoints/tiny-mixtral"}
TEXTS = ["Once upon a time", "The king", "[INST] Repeat: red blue [/INST]"]
TOKENS = 32
# Measured: 4.9e-5 at the most, over the checkpoints of tests/golden (2026-11-23, torch 2.13.0, transformers
# 5.23.0 and NumPy 2.3.5 on an Intel Xeon with AVX-512); the logits reach 10.
ATOL = 2e-4

MISSING = [name for name in ("torch", "transformers") if importlib.util.find_spec(name) is None]
REASON = f"This check needs {' and '.join(MISSING)} (the verify extra)."
pytestmark = [pytest.mark.verify, pytest.mark.skipif(bool(MISSING), reason=REASON)]


@pytest.fixture(scope="module", params=FOLDERS)
def case(request, tmp_path_factory):
    """A model of ours, prompts for it, and what transformers makes of them with the converted checkpoint."""
    folder, out = FOLDERS[request.param], tmp_path_factory.mktemp(request.param)
    if not (folder / "params.json").exists():
        pytest.skip(f"The checkpoint {request.param} is not in this working copy.")
    model = tiny.load(folder)
    tensors = open_tensors("mistral", [folder / "consolidated.safetensors"], model.config)
    save_checkpoint(out, "hf", model.config, tensors)
    prompts = prompts_for(model)
    (out / "prompts.json").write_text(json.dumps(prompts), encoding="utf-8")
    program = Path(__file__).with_name("reference.py")
    command = [sys.executable, "-I", program, out, out / "prompts.json", str(TOKENS), out / "reference.npz"]
    done = subprocess.run(command, cwd=out, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return model, prompts, dict(np.load(out / "reference.npz"))


def prompts_for(model) -> list[list[int]]:
    """BOS alone, random ids, and texts, each after BOS."""
    random = np.random.default_rng(0).integers(3, model.config.vocab_size, 60).tolist()
    return [[1], [1, *random], *([1, *model.tokenizer.encode(text)] for text in TEXTS)]


def test_logits_agree(case, request, record_property):
    model, prompts, reference = case
    used = [assert_close(model(ids), reference[f"logits{n}"], atol=ATOL, name=f"logits of prompt {n}")
            for n, ids in enumerate(prompts)]
    # For the pages: `python -m tutorial.pages.records FILE` reads these from pytest's report.
    for package in ("torch", "transformers", "numpy"):
        record_property(f"version {package}", version(package))
    name = request.node.callspec.params["case"]
    record_property(f"{name} in transformers, largest error of the logits", f"{max(used) * ATOL:.1e}")


def test_greedy_tokens_are_the_same(case, request, record_property):
    model, prompts, reference = case
    for n, ids in enumerate(prompts):
        tokens = [token.id for token in tiny.generate(model, ids, max_tokens=TOKENS, stop_at_eos=False)]
        assert tokens == reference[f"greedy{n}"].tolist(), (
            f"prompt {n}; the winning logit leads by {reference[f'gap{n}'].round(5).tolist()}")
    name = request.node.callspec.params["case"]
    record_property(f"{name} in transformers, equal greedy tokens", f"all {len(prompts) * TOKENS}")
