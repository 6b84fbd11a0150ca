"""What PyTorch computed in bfloat16, case by case, and whether some operations give the same bits.

`oracle_cases` are whole models: logits of a prompt, as transformers computed them. `kernel_cases` are single
operations on inputs that cancel, which show the order of addition; `verify/sums_reference.py` made them.
"""

from collections.abc import Iterator
from functools import cache

import numpy as np
from oracles import GOLDEN, Oracle

import tiny
from tiny.tools.verify import torch_sums

NAMES = ("mixtral-a", "mixtral-b", "pixtral-a")


@cache
def oracles():
    """The checkpoints, and of each what transformers computed with it in bfloat16."""
    return [(oracle, dict(np.load(oracle.folder / "golden_bf16.npz"))) for oracle in map(Oracle, NAMES)]


@cache
def pixels():
    return dict(np.load(GOLDEN / "images" / "preprocess.npz"))


def images_of(oracle, case):
    return [pixels()[f"{name}/mistral"] for name in oracle.cases[case].get("images", [])]


@cache
def resident(name, layout):
    """The configuration and the weights of a checkpoint, read once for all models."""
    model = tiny.load(GOLDEN / name / layout, weights="resident")
    return type(model), model.config, dict(model.weights)


def model_of(name, layout, ops):
    kind, config, weights = resident(name, layout)
    return kind(config, weights, ops=ops, precision="bfloat16")


def oracle_cases(ops, layout="mistral") -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Yield (name, logits of these operations, logits of transformers)."""
    for oracle, stored in oracles():
        model = model_of(oracle.name, layout, ops)
        for case, info in oracle.cases.items():
            logits = model(info["ids"], images_of(oracle, case))[stored[f"{case}/hf_logits_positions"]]
            yield f"{oracle.name}/{case}", logits, stored[f"{case}/hf_logits"]


@cache
def kernels():
    """The stored cases: name -> arrays, bfloat16 numbers as float32."""
    cases = {}
    for key, x in np.load(GOLDEN / "torch_sums.npz").items():
        case, name = key.rsplit("/", 1)
        if x.dtype == np.uint16:
            x = (x.astype(np.uint32) << 16).view(np.float32)
        cases.setdefault(case, {})[name] = x
    return cases


def kernel_cases(cpu) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Yield (name, result of these operations or of `torch_sums`, result of PyTorch)."""
    for case, arrays in kernels().items():
        yield case, compute(case, arrays, cpu), arrays["out"]


def compute(case, a, cpu):
    kind, name, last = case.split("/")[0], case.split("/")[1], "bfloat16"
    if kind == "linear":
        return cpu.linear(a["x"], a["weight"], last)
    if kind == "adapter":
        return cpu.adapter(a["x"], {f"vision_language_adapter.{key}": x for key, x in a.items()}, last)
    if kind == "experts":
        one = np.ones((len(a["x"]), 1), np.float32)
        return cpu.experts(a["x"], np.zeros_like(one, int), one, [a["w1"]], [a["w2"]], [a["w3"]], last)
    if kind == "gelu":
        return cpu.gelu(a["x"], last)
    if kind == "row_sums" or kind == "softmax":
        return getattr(torch_sums, kind)(a["x"])
    if kind == "top_k":
        return np.array([torch_sums.top_k(row, int(name.split("-")[1])) for row in a["x"]], np.uint8)
    if kind == "attention":
        stops = np.cumsum(a["lengths"]).tolist()
        return cpu.attention(a["q"], a["k"], a["v"], a["lengths"].tolist(), list(zip([0, *stops], stops)),
                             causal=False, precision=last)
    if kind == "patch_embed":
        return cpu.patch_embed([a["pixels"]], a["weight"], last)
    assert kind == "frequencies", case
    d, theta = map(int, name.split("-"))
    return cpu.frequencies(d, float(theta))


def same_bits(actual: np.ndarray, expected: np.ndarray) -> bool:
    assert actual.shape == expected.shape and actual.dtype == expected.dtype and actual.size
    return actual.tobytes() == expected.tobytes()
