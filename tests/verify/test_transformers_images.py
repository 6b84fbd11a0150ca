"""A vision checkpoint, converted to Hugging Face's layout, gives the same logits and tokens in transformers."""

import importlib.util
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
FOLDERS = {"pixtral-a": ROOT / "tests/golden/pixtral-a/mistral"}  # tiny-pixtral: test_tiny_pixtral.py
GRIDS = [[(3, 2)], [(1, 1), (5, 4), (2, 6)], [(6, 1), (6, 1)], []]
TOKENS = 32
# Measured: 1.2e-4 at the most with pixtral-a, whose logits reach 11 (2026-11-23, torch 2.13.0, transformers 5.23.0).
ATOL = 5e-4

MISSING = [name for name in ("torch", "transformers") if importlib.util.find_spec(name) is None]
REASON = f"This check needs {' and '.join(MISSING)} (the verify extra)."
pytestmark = [pytest.mark.verify, pytest.mark.skipif(bool(MISSING), reason=REASON)]


def prompt(model, grids, rng) -> tuple[list[int], list[np.ndarray]]:
    """Random text around random images of (columns, rows) patches."""
    vision, ids, images = model.config.vision, [1], []
    for columns, rows in grids:
        ids += [*rng.integers(14, model.config.vocab_size, 5).tolist(),
                *(([vision.image_token_id] * columns + [12]) * rows)[:-1], 13]
        images.append(rng.standard_normal((3, rows * vision.patch_size, columns * vision.patch_size), np.float32))
    return ids + rng.integers(14, model.config.vocab_size, 7).tolist(), images


@pytest.fixture(scope="module", params=FOLDERS)
def case(request, tmp_path_factory):
    """A model of ours, prompts for it, and what transformers makes of them with the converted checkpoint."""
    folder, out = FOLDERS[request.param], tmp_path_factory.mktemp(request.param)
    model = tiny.load(folder)
    save_checkpoint(out, "hf", model.config, open_tensors("mistral", [folder / "consolidated.safetensors"],
                                                          model.config))
    rng = np.random.default_rng(0)
    prompts = [prompt(model, grids, rng) for grids in GRIDS]
    arrays = {f"ids{n}": np.array(ids) for n, (ids, _) in enumerate(prompts)}
    arrays |= {f"image{n}_{m}": image for n, (_, images) in enumerate(prompts) for m, image in enumerate(images)}
    np.savez(out / "prompts.npz", **arrays)
    program = Path(__file__).with_name("images_reference.py")
    command = [sys.executable, "-I", program, out, out / "prompts.npz", str(TOKENS), out / "reference.npz"]
    done = subprocess.run(command, cwd=out, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return model, prompts, dict(np.load(out / "reference.npz"))


def test_logits_agree(case, request, record_property):
    model, prompts, reference = case
    used = [assert_close(model(ids, images), reference[f"logits{n}"], atol=ATOL, name=f"logits of prompt {n}")
            for n, (ids, images) in enumerate(prompts)]
    for package in ("torch", "transformers", "numpy"):
        record_property(f"version {package}", version(package))
    name = request.node.callspec.params["case"]
    print(f"{name}: {max(used) * ATOL:.1e}")
    record_property(f"{name} in transformers, largest error of the logits", f"{max(used) * ATOL:.1e}")


def test_greedy_tokens_are_the_same(case, request, record_property):
    model, prompts, reference = case
    for n, (ids, images) in enumerate(prompts):
        tokens = [token.id for token in tiny.generate(model, ids, images, max_tokens=TOKENS, stop_at_eos=False)]
        assert tokens == reference[f"greedy{n}"].tolist(), (
            f"prompt {n}; the winning logit leads by {reference[f'gap{n}'].round(5).tolist()}")
    name = request.node.callspec.params["case"]
    record_property(f"{name} in transformers, equal greedy tokens", f"all {len(prompts) * TOKENS}")
