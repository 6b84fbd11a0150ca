"""The hand-written gradients against torch autograd on the same model, and a few steps of both trainers."""

import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from compare import assert_close

from tiny.mixtral import Mixtral
from tiny.training import optimiser
from tiny.training.gradients import loss_and_gradients
from tiny.training.text import data, train

MISSING = importlib.util.find_spec("torch") is None
pytestmark = [pytest.mark.verify, pytest.mark.skipif(MISSING, reason="This check needs torch (the verify extra).")]
if not MISSING:
    import torch

    from tests.verify.torch_speed import TorchTrainer, tensors, torch_loss

RELATIVE = 8e-6  # Of the largest derivative of a tensor. Measured: 2.0e-6 over 3 seeds of both models.


def make(moe, seed=0):
    """A model of the recipe's sizes with weights that are not small, and a packed batch of uneven sequences."""
    config = train.Recipe().config()
    config = config if moe else dataclasses.replace(config, moe=None)
    rng, shapes = np.random.default_rng(seed), optimiser.weight_shapes(config)
    size = sum(int(np.prod(shape)) for shape in shapes.values())
    weights = optimiser.views(np.zeros(size, np.float32), shapes)
    optimiser.initialise(weights, config.n_layers, seed)
    for weight in weights.values():
        weight += 0.02 * rng.standard_normal(weight.shape, np.float32)
    lengths = [256, 1, 100, 155, 300]
    ids = rng.integers(0, config.vocab_size, (2, sum(lengths)))
    batch = data.Batch(ids[0], ids[1], rng.random(sum(lengths)).astype(np.float32), lengths)
    return Mixtral(config, weights), batch, optimiser.views(np.full(size, np.nan, np.float32), shapes)


@pytest.mark.parametrize("moe", [True, False], ids=["mixture", "dense"])
def test_gradients_are_those_of_autograd(moe, record_property):
    """Against torch in float64; loss and aux measured: 2.4e-8."""
    model, batch, grads = make(moe)
    result = loss_and_gradients(model, batch, 0.02, grads)
    wide = {name: torch.tensor(weight, dtype=torch.float64).requires_grad_() for name, weight in model.weights.items()}
    ids, targets, weights = tensors(batch)
    loss, aux = torch_loss(model.config, wide, ids, targets, weights.double(), batch.lengths, 0.02)
    (loss + 0.02 * aux).backward()
    assert_close(np.array(result["loss"]), np.array(loss.item()), atol=1e-7, name="loss")
    assert_close(np.array(result["aux"]), np.array(aux.item()), atol=1e-7, name="aux")
    worst = 0.0
    for name, weight in wide.items():
        expected = weight.grad.numpy()
        largest = float(np.abs(expected).max())
        used = assert_close(grads[name], expected, atol=RELATIVE * largest, name=name)
        worst = max(worst, used * RELATIVE)
    record_property("version torch", torch.__version__)
    record_property("version numpy", np.__version__)
    record_property(f"gradients of a {'mixture' if moe else 'dense'} model of {sum(g.size for g in grads.values()):,} "
                    "weights against torch autograd in float64, relative to the largest of each tensor", f"{worst:.1e}")


def test_both_trainers_stay_together():
    """Eight steps of both, from the same weights on the same batches. Measured: losses differ by 7e-7."""
    recipe = train.Recipe(batch_tokens=(512,), windows=(128,), tokens=512 * 100, shares=(("text", 1.0),), answers=0.0,
                          closing=0)
    ids = np.random.default_rng(0).integers(0, 200, 50_000).astype(np.int32)
    ours = train.Trainer(recipe, {"text": data.Stream(ids, np.ones(len(ids), np.bool_), np.zeros(0, np.int64))})
    theirs, losses = TorchTrainer(ours), []
    for step in range(8):
        batch = data.batch(ours.streams, dict(recipe.shares), recipe.seed, step, 512, 128)
        result = ours.advance()
        for group in theirs.optimiser.param_groups:
            group["lr"] = result["rate"]
        losses.append((result["loss"], theirs.advance(batch)))
    ours_losses, theirs_losses = (np.array(column) for column in zip(*losses))
    assert ours_losses[0] - ours_losses[-1] > 0.05, "something is learnt"
    assert_close(ours_losses, theirs_losses, atol=3e-6, name="losses")


@pytest.mark.parametrize("tokens", train.Recipe.batch_tokens)
def test_speed_is_recorded(tokens, record_property):
    """Both trainers in turn in one process, one thread each. The figures are recorded, no speed is required here."""
    script = Path(__file__).with_name("torch_speed.py")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OPENBLAS_")}
    done = subprocess.run([sys.executable, str(script), "--tokens", str(tokens), "--rounds", "7"], check=True,
                          text=True, capture_output=True, env=environment | {"OPENBLAS_NUM_THREADS": "1"})
    speed = json.loads(done.stdout)
    record_property(f"training, {tokens:,} tokens a step, one thread: NumPy over torch",
                    f"{speed['numpy'] / speed['torch']:.2f} ({speed['numpy']:,.0f} and {speed['torch']:,.0f} tokens/s)")
    assert min(speed.values()) > 0
