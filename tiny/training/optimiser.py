"""AdamW over one flat array, gradient clipping, the learning-rate schedule and the initial weights.

All parameters are in one float32 array, and so are the gradients and the two moments; a weight by its name is a view
of it. An update is then a few passes over memory, and a checkpoint of the training is four arrays.
Read `text/train.py` next.

>>> learning_rate(0.5, 1e-3, warmup=0.01, flat=0.5, floor=0.0)
0.001
"""

import numpy as np

from tiny.config import Config
from tiny.files.weights import expected_shapes

BLOCK = 1 << 15  # Parameters updated at a time: five float32 arrays of this size stay in the cache.


def weight_shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """The shape of every weight by Mistral's name: all matrices first, then the norms, which weight decay spares."""
    return dict(sorted(expected_shapes(config).items(), key=lambda item: -len(item[1])))


def views(flat: np.ndarray, shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Cut a flat array into the named weights; each is a view, so that writing to one writes to the flat array."""
    sizes = [int(np.prod(shape)) for shape in shapes.values()]
    if len(flat) != sum(sizes):
        raise ValueError(f"views expects a flat array of {sum(sizes)} numbers for these shapes; got {len(flat)}.")
    parts = np.split(flat, np.cumsum(sizes)[:-1])
    return {name: part.reshape(shape) for part, (name, shape) in zip(parts, shapes.items())}


def initialise(weights: dict[str, np.ndarray], n_layers: int, seed: int) -> None:
    """Fill the weights: norms with ones, biases with zeros, embeddings from N(0, 0.5^2), the output from N(0, 0.05^2),
    the other matrices uniformly within 1 / sqrt(fan_in). The two matrices that write to the residual stream, wo and
    w2, are scaled by 1 / sqrt(2 n_layers), so that its variance does not grow with the depth.
    """
    rng = np.random.default_rng(seed)
    for name, weight in weights.items():
        if weight.ndim == 1:
            weight[...] = not name.endswith("bias")
        elif name.startswith(("tok_embeddings", "output")):
            deviation = np.float32(0.5 if name.startswith("tok_embeddings") else 0.05)
            weight[...] = rng.standard_normal(weight.shape, np.float32) * deviation
        else:
            bound = np.prod(weight.shape[1:]) ** -0.5
            if name.endswith(("wo.weight", "w2.weight")):
                bound *= (2 * n_layers) ** -0.5
            weight[...] = (rng.random(weight.shape, np.float32) * 2 - 1) * np.float32(bound)


def learning_rate(progress: float, peak: float, warmup: float, flat: float, floor: float) -> float:
    """The rate at a point of the training: linear from zero to the peak, flat, then linear down to floor * peak.

    progress, warmup and flat are shares of the training: warmup is where the climb ends, flat where the fall starts;
    with 1 it never falls.
    """
    if progress < warmup:
        return peak * progress / warmup
    fall = (progress - flat) / (1 - flat) if progress > flat else 0.0
    return peak * (1 - (1 - floor) * fall)


def clip_factor(gradients: np.ndarray, limit: float) -> tuple[float, float]:
    """The length of the whole gradient, and the factor that shortens it to the limit (1 if it is not longer)."""
    norm = float(np.sqrt(np.dot(gradients, gradients)))
    return norm, min(1.0, limit / norm) if norm > 0 else 1.0


def adamw(parameters: np.ndarray, gradients: np.ndarray, moment1: np.ndarray, moment2: np.ndarray, step: int,
          rate: float, factor: float = 1.0, decayed: int = 0, decay: float = 0.1,
          betas: tuple[float, float] = (0.9, 0.95), eps: float = 1e-8) -> None:
    """One update in place; step counts from 1, factor multiplies the gradients (clipping).

    m = b1 m + (1 - b1) g, v = b2 v + (1 - b2) g^2, and p = p (1 - rate decay) - rate m' / (sqrt(v') + eps), where
    m' = m / (1 - b1^step) and v' = v / (1 - b2^step). Only the first `decayed` parameters decay.

    Shapes:  all (n,)
    Order:   the weight decays by itself, not through the gradient; a block of parameters at a time
    Source:  arXiv:1711.05101 alg. 2; torch.optim.AdamW
    """
    scratch = np.empty(BLOCK, parameters.dtype)
    # Constants are folded together: size is the size of a step if m / (sqrt(v) + small) is one.
    root = (1 - betas[1] ** step) ** 0.5
    size, small = rate / (1 - betas[0] ** step) * root, eps * root
    for start in range(0, len(parameters), BLOCK):
        block = slice(start, start + BLOCK)
        p, g, m, v = parameters[block], gradients[block], moment1[block], moment2[block]
        s = scratch[: len(p)]
        # (1) the two moments
        np.multiply(g, factor * (1 - betas[0]), out=s)
        m *= betas[0]
        m += s
        np.multiply(g, factor * (1 - betas[1]) ** 0.5, out=s)
        s *= s
        v *= betas[1]
        v += s
        # (2) decay
        p[: max(0, decayed - start)] *= 1 - rate * decay
        # (3) the step: the first moment over the root of the second, both corrected for their start at zero
        np.sqrt(v, out=s)
        s += small
        np.divide(m, s, out=s)
        s *= size
        p -= s
