"""The same operations as `tiny/ops.py`, by name and signature, run as kernels.

Arrays say where they run: CuPy's on the GPU, where the result stays, and NumPy's through the emulator. The other names
are the NumPy functions themselves. A model with single kernels gets its operations from `choose`, which brings
arrays to a device and back; one whose arrays stay there has those of `device/ops.py`.
"""

import functools
import importlib
import inspect
from collections.abc import Sequence
from types import ModuleType
from typing import Any, cast

import numpy as np

import tiny.ops
from kernels.device.gpus import read_name
from kernels.int8 import Int8Weights
from kernels.launch import Cuda, Emulator, Launcher
from tiny.config import TinyError
from tiny.decoder import ExpertMatrices
from tiny.ops import (
    adapter,
    add,
    add_norm,
    embed,
    feed_forward,
    linear,
    new_cache,
    patch_embed,
    rope_2d_table,
    rope_table,
    splice,
)

__all__ = ["adapter", "add", "add_norm", "attention", "embed", "experts", "feed_forward", "linear", "new_cache",
           "patch_embed", "rms_norm", "rope", "rope_2d_table", "rope_table", "route", "splice"]

# The version of each kernel that is in use, by precision if they differ.
SHIPPED: dict[str, str | dict[str, str] | None] = {
    "attention": {"float32": "v2", "bfloat16": "v3"}, "experts": None,  # that one by the number of tokens
    "rms_norm": "v3", "rope": "v2", "route": "v3"}
EXPERTS = {"w1", "w2", "w3"}  # parameters that hold a matrix of each expert
WEIGHTS = {"weight", "gate", "scales", *EXPERTS}  # and all that hold weights: uploaded once, and kept


def rms_norm(x: np.ndarray, weight: np.ndarray, eps: float, precision: str = "float32") -> np.ndarray:
    """Normalise each token's vector by its root mean square. Shapes:  x (T, D), weight (D,) -> (T, D)."""
    return call_kernel("rms_norm", launcher_of(x), x=x, weight=weight, eps=eps, precision=precision)


def rope(x: np.ndarray, cos: np.ndarray, sin: np.ndarray, precision: str = "float32") -> np.ndarray:
    """Rotate each interleaved pair of every head. Shapes:  x (T, n, d), cos (T, d / 2), sin (T, d / 2) -> (T, n, d)."""
    return call_kernel("rope", launcher_of(x), x=x, cos=cos, sin=sin, precision=precision)


def route(x: np.ndarray, gate: np.ndarray, num_experts_per_tok: int,
          precision: str = "float32") -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Choose each token's experts.

    Shapes:  x (T, D), gate (E, D) -> logits (T, E), expert_ids (T, K), expert_weights (T, K)
    """
    return call_kernel("route", launcher_of(x), x=x, gate=gate, num_experts_per_tok=num_experts_per_tok,
                       precision=precision)


def attention(q: np.ndarray, keys: np.ndarray, values: np.ndarray, lengths: Sequence[int],
              spans: Sequence[tuple[int, int]], causal: bool = True, precision: str = "float32") -> np.ndarray:
    """Attention over packed sequences. Shapes:  q (T, H, d), keys (S, G, d), values (S, G, d) -> (T, H, d)."""
    return call_kernel("attention", launcher_of(q), q=q, keys=keys, values=values, lengths=lengths, spans=spans,
                       causal=causal, precision=precision)


def experts(x: np.ndarray, expert_ids: np.ndarray, expert_weights: np.ndarray, w1: Sequence[np.ndarray],
            w2: Sequence[np.ndarray], w3: Sequence[np.ndarray], precision: str = "float32") -> np.ndarray:
    """Add up the answers of each token's experts.

    Shapes:  x (T, D), expert_ids (T, K), expert_weights (T, K) -> (T, D)
    """
    return call_kernel("experts", launcher_of(x), x=x, expert_ids=expert_ids, expert_weights=expert_weights, w1=w1,
                       w2=w2, w3=w3, precision=precision)


def is_array(value: Any) -> bool:
    """Whether a launcher can take it: an array of NumPy or on a GPU. The guards refuse the rest."""
    return isinstance(value, np.ndarray) or hasattr(value, "__cuda_array_interface__")


def launcher_of(array: Any) -> Launcher:
    """The launcher for an array: of CuPy's current GPU for its arrays, else the emulator's."""
    return device_launcher("cuda" if hasattr(array, "__cuda_array_interface__") else "emulator")


@functools.cache
def device_launcher(device: str) -> Launcher:
    """The launcher of a device, made once in a process: it holds the kernels that are loaded."""
    kind, index = read_name(device)
    return Emulator() if kind == "emulator" else Cuda(index=index)


class Placed(Sequence):
    """Matrices that are put on a device only when an operation looks them up."""

    def __init__(self, matrices: Sequence[Any], put):
        self.matrices, self.put = matrices, put

    def __len__(self) -> int:
        return len(self.matrices)

    def __getitem__(self, expert):
        matrix = self.matrices[expert]
        return self.put(matrix) if is_array(matrix) else matrix


class Part(Sequence):
    """Of the matrices of a layer's experts in int8, the whole numbers or the scales."""

    def __init__(self, matrices: ExpertMatrices, n: int):
        self.matrices, self.n = matrices, n

    def __len__(self) -> int:
        return len(self.matrices)

    def __getitem__(self, expert):
        return cast(Int8Weights, self.matrices.weights).parts[self.matrices.name % expert][self.n]


def int8_experts(matrices: list) -> dict[str, Any]:
    """What the kernel of the experts gets for w1, w2 and w3 of a model in int8; nothing for any other."""
    if not all(isinstance(of, ExpertMatrices) and isinstance(of.weights, Int8Weights) for of in matrices):
        return {}
    whole, scales = ([Part(of, n) for of in matrices] for n in range(2))
    return {**dict(zip(sorted(EXPERTS), whole)), "scales": tuple(scales)}


class DeviceWeights:
    """Weights on a device, each put there once: an array at the same address, of one shape, is the same array."""

    def __init__(self, launcher: Launcher):
        self.launcher = launcher
        self.arrays: dict[tuple, tuple[np.ndarray, Any]] = {}

    def put(self, array: np.ndarray) -> Any:
        """The device's copy of a weight. The array is held too, so that no other one gets its address."""
        key = array.ctypes.data, array.shape, array.strides, array.dtype
        if key not in self.arrays:
            self.arrays[key] = array, self.launcher.put(array)
        return self.arrays[key][1]


def call_kernel(name: str, launcher: Launcher, put=None, **arguments: Any) -> Any:
    """Call the shipped version of a kernel's host function, its arrays put on the device.

    put: how weights get there; by default the launcher's own
    """
    def to_device(key: str, value: Any) -> Any:
        bring = put if put and key in WEIGHTS else launcher.put
        if is_array(value):
            return bring(value)
        if key == "scales":
            return tuple(Placed(scales, bring) for scales in value)
        return Placed(value, bring) if key in EXPERTS else value

    if name == "experts":
        arguments |= int8_experts([arguments[key] for key in sorted(EXPERTS)])

    shipped = SHIPPED[name]
    version = shipped.get(arguments["precision"]) if isinstance(shipped, dict) else shipped
    host = getattr(importlib.import_module(f"kernels.{name}"), name)
    return host(launcher, **{key: to_device(key, value) for key, value in arguments.items()}, version=version)


def choose(kernels: str | Sequence[str], device: str | Launcher) -> ModuleType:
    """What a model takes as its operations: the named ones as kernels, the others NumPy's.

    kernels: "all", "none", or names, as a list or comma-separated; device: "cuda", "cuda:1" for a GPU by its number,
    "emulator", or a launcher, such as one of another order of threads

    Raises:  TinyError for an unknown name or device, and if a compiler, CuPy or a GPU is missing
    """
    names = kernel_names(kernels)
    if not isinstance(device, Launcher):
        read_name(device)
    operations = ModuleType("kernels.chosen", f"The operations of a model, of which these are kernels: {names}.")
    weights = DeviceWeights(device_launcher(device) if isinstance(device, str) else device)
    for name in tiny.ops.__all__:
        function = getattr(tiny.ops, name)
        setattr(operations, name, as_kernel(name, function, weights) if name in names else function)
    vars(operations)["kernels"] = names
    return operations


def kernel_names(kernels: str | Sequence[str]) -> list[str]:
    """The kernels that are asked for. Raises TinyError, with all names, for an unknown one."""
    if isinstance(kernels, str):
        kernels = {"all": list(SHIPPED), "none": []}.get(kernels, kernels.split(","))
    unknown = [name for name in kernels if name not in SHIPPED]
    if unknown:
        raise TinyError(f"There is no kernel {unknown[0]!r}.", f"Use {', '.join(SHIPPED)}; or all, or none.")
    return [name for name in SHIPPED if name in kernels]


def as_kernel(name: str, function: Any, weights: DeviceWeights) -> Any:
    """An operation on NumPy arrays that runs as a kernel: arguments are copied to the device, the result back."""
    signature, get = inspect.signature(function), weights.launcher.get

    @functools.wraps(function)
    def operation(*args, **options):
        given = signature.bind(*args, **options)
        given.apply_defaults()
        result = call_kernel(name, weights.launcher, weights.put, **given.arguments)
        return tuple(map(get, result)) if isinstance(result, tuple) else get(result)

    return operation
