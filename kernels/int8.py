"""Weights as int8: every row of a matrix as whole numbers from -127 to 127, with one float32 scale.

    model = int8_model(tiny.load("tiny-mixtral", weights="mapped"))

`tiny/files/packed/int8.py` says what int8 means; the command `quantize` has it from there, too. Here is the product,
which `linear.cu` computes as well. It is a form that a GPU wants, made at load from what is stored, so that Mixtral
fits on one card. The book goes on to compute with the numbers of the release.
"""

import copy
from collections.abc import Mapping

import numpy as np

from tiny.config import TinyError
from tiny.files.packed.int8 import INT8, MATRICES, dequantise_rows, quantise_rows
from tiny.files.weights import Tensors
from tiny.mixtral import Mixtral
from tiny.numerics import check_precision, need, round_to


def quantise(name: str, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`quantise_rows` of a tensor of a checkpoint. Raises TinyError with its name. Shapes:  as there."""
    try:
        return quantise_rows(weight)
    except ValueError as error:
        raise TinyError(f"{name} cannot be stored as int8: {error}", "Use the weights as they are.") from error


def linear_int8(x: np.ndarray, whole: np.ndarray, scale: np.ndarray, precision: str = "float32") -> np.ndarray:
    """y = x W^T with W in int8: the scale multiplies a whole sum, so that no product is rounded before it is added.

    Shapes:  x (T, D), whole (N, D), scale (N,) -> (T, N)
    Dtypes:  x float32, whole int8, scale float32 -> float32
    Raises:  ValueError for another dtype, rank or precision, or sizes that do not agree
    Differs: `linear` with `dequantise_rows(whole, scale)` rounds each weight first: the last digit of float32
    """
    check_linear_int8(x, whole, scale, precision)
    return round_to((x @ whole.astype(np.float32).T) * scale, precision)


def check_linear_int8(x: np.ndarray, whole: np.ndarray, scale: np.ndarray, precision: str,
                      stored: tuple[np.dtype, ...] = ()) -> None:
    """The guard of `linear_int8`, here and as a kernel. Shapes:  x (T, D), whole (N, D), scale (N,)."""
    need("linear_int8", "x", x, ("T", "D"), None, stored)
    need("linear_int8", "whole", whole, ("N", "D"), (INT8,))
    need("linear_int8", "scale", scale, ("N",))
    check_precision(precision)
    if x.shape[1] != whole.shape[1] or len(whole) != len(scale):
        raise ValueError(f"linear_int8 expects x (T, D), whole (N, D) and scale (N,); got {x.shape}, {whole.shape} and "
                         f"{scale.shape}.")


class Int8Weights(Tensors):
    """The tensors of a model by name, matrices kept as int8 and given as the float32 numbers that these stand for.

    parts: of each such matrix the whole numbers and the scales, which is what a kernel reads
    """

    def __init__(self, weights: Mapping[str, np.ndarray]):
        super().__init__(list(weights))
        self.parts: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        self.kept: dict[str, np.ndarray] = {}
        for name in weights:
            if not MATRICES.search(name):
                self.kept[name] = weights[name]
                continue
            self.parts[name] = quantise(name, weights[name])

    def __getitem__(self, name: str) -> np.ndarray:
        return self.kept[name] if name in self.kept else dequantise_rows(*self.parts[name])

    def nbytes(self) -> int:
        """Bytes of all that is kept."""
        return sum(tensor.nbytes for tensors in (self.kept.values(), *self.parts.values()) for tensor in tensors)


def int8_model(model: Mixtral) -> Mixtral:
    """The same model, text or vision, with its matrices as int8. Load it with weights="mapped", or both are in memory.

    NumPy computes with it, a matrix at a time in float32: it shows what int8 costs in accuracy, and gains no speed. The
    kernel of the experts reads whole numbers and scales as they are kept.

    Raises:  TinyError for a weight with NaN or infinity, or a model that is on a device already
    """
    if "all" in getattr(model.ops, "kernels", ()):
        raise TinyError("The weights of this model are on a device.", "Load it with weights='int8'.")
    converted = copy.copy(model)
    converted.weights = Int8Weights(model.weights)
    return converted
