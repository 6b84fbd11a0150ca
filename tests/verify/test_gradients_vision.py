"""The hand-written gradients of the model with pictures against torch autograd, and how fast the encoder learns."""

import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from compare import assert_close

from tiny.config import Config, VisionConfig
from tiny.pixtral import Pixtral
from tiny.training import optimiser
from tiny.training.images.batches import Batch
from tiny.training.images.gradients import Head, answer_loss, encoder_loss

MISSING = importlib.util.find_spec("torch") is None
pytestmark = [pytest.mark.verify, pytest.mark.skipif(MISSING, reason="This check needs torch (the verify extra).")]
if not MISSING:
    import torch
    import torch.nn.functional as F

RELATIVE = 6e-6  # Of the largest derivative of a tensor. Measured over 6 seeds: 1.6e-6.
HEADS = {"what": Head(45, 1.0, 0.25), "color": Head(9, 0.5, 0.25), "place": Head(7, 0.5, 0.0)}
DENSE, LAYERS, HEAD_DIM, IMG = 0.5, 4, 32, 10
COLUMNS, ROWS, IMAGES, SEQUENCES = 5, 3, 2, 4


def config():
    vision = VisionConfig(128, 3, 256, 8, 100.0, 256, LAYERS, 4, IMG, 256)
    return Config(128, LAYERS, HEAD_DIM, 256, 4, 2, 1e-5, 300, 1e4, 2048, vision=vision)


def make(seed=0):
    """A model of the trained one's sizes with weights that are not small, gradients full of NaN, and a batch."""
    rng, classes = np.random.default_rng(seed), sum(head.classes for head in HEADS.values())
    shapes = optimiser.weight_shapes(config()) | {"heads.weight": (classes, 128), "heads.bias": (classes,)}
    weights = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    optimiser.initialise(weights, LAYERS, seed)
    for weight in weights.values():
        weight += 0.02 * rng.standard_normal(weight.shape, np.float32)
    # of every token its question, 0 before the questions, -1 what fills up a shorter text
    prefix = [1, 3] + (([IMG] * COLUMNS + [12]) * (ROWS - 1) + [IMG] * COLUMNS + [13]) * IMAGES
    n, T = len(prefix), len(prefix) + 20
    owners = np.array([[0] * n + [1] * 7 + [2] * 5 + [3] * 8, [0] * n + [1] * 3 + [2] * 9 + [-1] * 8,
                       [0] * n + [1] * 20, [0] * n + [1] * 8 + [2] * 8 + [3] * 2 + [-1] * 2])
    ids = rng.integers(20, 300, owners.shape)
    ids[:, :n] = prefix
    asked = rng.random(owners.shape, np.float32) * (owners > 0)
    keys, queries = owners[:, None], owners[:, :, None]
    sees = np.tri(T, dtype=bool) & ((keys == 0) | (keys == queries))
    first = np.argmax(sees & (keys > 0), axis=2)  # the first token of a token's own question
    positions = np.where(owners > 0, n + np.arange(T) - first, np.arange(T))
    images = [rng.standard_normal((3, 8 * ROWS, 8 * COLUMNS), np.float32) for _ in range(SEQUENCES * IMAGES)]
    labels = np.stack([rng.integers(0, head.classes, len(images) * ROWS * COLUMNS) for head in HEADS.values()])
    batch = Batch(ids.reshape(-1), rng.integers(0, 300, ids.size), asked.astype(np.float32).reshape(-1),
                  positions.reshape(-1), np.where(sees.mT, 0, -np.inf).astype(np.float32), images, labels)
    grads = {name: np.full(shape, np.nan, np.float32) for name, shape in shapes.items()}
    return Pixtral(config(), weights), batch, grads, torch.tensor(sees)[:, None]


# ---- the same in plain PyTorch: a batch axis, as all images have one size and all texts one length


def torch_layers(x, w, scope, turn, mask=None):
    B, T, D = x.shape
    for layer in range(LAYERS):
        named = lambda name, layer=layer: w[f"{scope}layers.{layer}.{name}.weight"]
        y = F.rms_norm(x, (D,), named("attention_norm"), 1e-5)
        q, k, v = (F.linear(y, named(f"attention.{m}")).view(B, T, -1, HEAD_DIM).transpose(1, 2)
                   for m in ("wq", "wk", "wv"))
        q, k = (torch.view_as_real(torch.view_as_complex(z.unflatten(-1, (-1, 2))) * turn).flatten(-2) for z in (q, k))
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)
        x = x + F.linear(y.transpose(1, 2).flatten(2), named("attention.wo"))
        y = F.rms_norm(x, (D,), named("ffn_norm"), 1e-5)
        w1, w2, w3 = (named(f"feed_forward.{m}") for m in ("w1", "w2", "w3"))
        x = x + F.linear(F.silu(F.linear(y, w1)) * F.linear(y, w3), w2)
    return x


def torch_encoder(images, w):
    """(n, 3, H, W) -> (n, patches, 128)."""
    x = F.conv2d(images, w["vision_encoder.patch_conv.weight"], stride=8)
    row, column = torch.meshgrid(torch.arange(x.shape[2]), torch.arange(x.shape[3]), indexing="ij")
    frequencies = 100.0 ** (-torch.arange(0, HEAD_DIM, 2).double() / HEAD_DIM)
    angles = torch.cat([row.reshape(-1, 1) * frequencies[0::2], column.reshape(-1, 1) * frequencies[1::2]], 1)
    x = F.rms_norm(x.flatten(2).transpose(1, 2), (128,), w["vision_encoder.ln_pre.weight"], 1e-5)
    turn = torch.polar(torch.ones_like(angles), angles)
    turn = turn if x.dtype == torch.float64 else turn.to(torch.complex64)
    return torch_layers(x, w, "vision_encoder.transformer.", turn)


def torch_label_loss(features, labels, w):
    logits = F.linear(features.flatten(0, 1), w["heads.weight"], w["heads.bias"])
    parts = logits.split([head.classes for head in HEADS.values()], 1)
    total = torch.zeros((), dtype=logits.dtype)
    for head, part, targets in zip(HEADS.values(), parts, labels):
        weight = torch.ones(head.classes, dtype=logits.dtype)
        weight[0] = head.background
        total = total + head.share * F.cross_entropy(part, targets, weight=weight)
    return total


def torch_losses(batch, sees, w):
    """The losses of the answers and of the labels."""
    features = torch_encoder(torch.tensor(np.stack(batch.images)).to(w["heads.bias"].dtype), w)
    adapter = "vision_language_adapter."
    hidden = F.gelu(F.linear(features, w[f"{adapter}w_in.weight"], w[f"{adapter}w_in.bias"]))
    patches = F.linear(hidden, w[f"{adapter}w_out.weight"], w[f"{adapter}w_out.bias"]).flatten(0, 1)
    ids = torch.tensor(batch.ids)
    x = w["tok_embeddings.weight"][ids].masked_scatter((ids == IMG)[:, None], patches)
    angles = torch.outer(torch.tensor(batch.positions).double(),
                         1e4 ** (-torch.arange(0, HEAD_DIM, 2).double() / HEAD_DIM))
    turn = torch.polar(torch.ones_like(angles), angles).unflatten(0, (SEQUENCES, 1, -1))
    x = torch_layers(x.unflatten(0, (SEQUENCES, -1)), w, "", turn, sees)
    logits = F.linear(F.rms_norm(x, (128,), w["norm.weight"], 1e-5), w["output.weight"]).flatten(0, 1)
    weights = torch.tensor(batch.weights)
    losses = F.cross_entropy(logits, torch.tensor(batch.targets), reduction="none")
    return (losses * weights).sum() / weights.sum(), torch_label_loss(features, torch.tensor(batch.labels), w)


def require_gradients(grads, wide):
    """Hold all gradients to autograd's, and return the largest difference, relative to the largest of its tensor."""
    worst = 0.0
    for name, weight in wide.items():
        if weight.grad is not None:
            expected = weight.grad.numpy()
            largest = float(np.abs(expected).max())
            worst = max(worst, RELATIVE * assert_close(grads[name], expected, atol=RELATIVE * largest, name=name))
    return worst


def widened(model):
    return {name: torch.tensor(weight, dtype=torch.float64).requires_grad_() for name, weight in model.weights.items()}


@pytest.mark.parametrize("seed", range(2))
def test_gradients_are_those_of_autograd(seed, record_property):
    """Against torch in float64; losses of 6 measured over 6 seeds: 3.0e-7."""
    model, batch, grads, sees = make(seed)
    result, wide = answer_loss(model, batch, grads, HEADS, DENSE), widened(model)
    answers, labels = torch_losses(batch, sees, wide)
    (answers + DENSE * labels).backward()
    assert_close(np.array([result["answers"], result["loss"]]), np.array([answers.item(), labels.item()]), atol=1.2e-6,
                 name="losses")
    assert all(weight.grad is not None for weight in wide.values())
    worst = require_gradients(grads, wide)
    record_property("version torch", torch.__version__)
    record_property("version numpy", np.__version__)
    record_property(f"gradients of a model with pictures, {sum(g.size for g in grads.values()):,} weights, against "
                    f"torch autograd in float64, relative to the largest of each tensor, seed {seed}", f"{worst:.1e}")


def test_gradients_of_the_encoder_are_those_of_autograd():
    model, batch, grads, _ = make()
    result = encoder_loss(batch.images, batch.labels, model.config.vision, HEADS, model.weights, grads)
    wide = widened(model)
    images, labels = torch.tensor(np.stack(batch.images)).double(), torch.tensor(batch.labels)
    loss = torch_label_loss(torch_encoder(images, wide), labels, wide)
    loss.backward()
    assert_close(np.array(result["loss"]), np.array(loss.item()), atol=1.2e-6, name="loss")
    require_gradients(grads, wide)
    for name, weight in wide.items():
        assert (weight.grad is None) == np.isnan(grads[name]).all(), name


# ---- speed; this file is also the program that measures it


def test_speed_is_recorded(record_property):
    """Loss and gradients of the encoder in turn in one process, one thread each. No speed is required here."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OPENBLAS_")}
    root = Path(__file__).parents[2]
    paths = [str(root), str(root / "tests/helpers"), os.environ.get("PYTHONPATH", "")]
    environment |= {"OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    done = subprocess.run([sys.executable, __file__], check=True, text=True, capture_output=True, env=environment)
    speed = json.loads(done.stdout)
    record_property("patches of 64 images of 48 x 48 through the encoder's gradients, one thread: NumPy over torch",
                    f"{speed['numpy'] / speed['torch']:.2f} ({speed['numpy']:,.0f} and {speed['torch']:,.0f} a second)")
    assert min(speed.values()) > 0


def main() -> None:
    """Print the median patches per second of both as one JSON object."""
    from tiny.training.text.train import keep_freed_memory

    torch.set_num_threads(1)
    keep_freed_memory()
    model, _, grads, _ = make()
    rng, patches = np.random.default_rng(0), 64 * 36
    images = [rng.standard_normal((3, 48, 48), np.float32) for _ in range(64)]
    labels = np.stack([rng.integers(0, head.classes, patches) for head in HEADS.values()])
    w = {name: torch.tensor(weight).requires_grad_() for name, weight in model.weights.items()}

    def in_torch():
        for weight in w.values():
            weight.grad = None
        torch_label_loss(torch_encoder(torch.tensor(np.stack(images)), w), torch.tensor(labels), w).backward()

    steps = {"numpy": lambda: encoder_loss(images, labels, model.config.vision, HEADS, model.weights, grads),
             "torch": in_torch}
    times = {name: [] for name in steps}
    for _ in range(13):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            times[name].append(time.perf_counter() - start)
    print(json.dumps({name: patches / float(np.median(seconds[3:])) for name, seconds in times.items()}))


if __name__ == "__main__":
    main()
