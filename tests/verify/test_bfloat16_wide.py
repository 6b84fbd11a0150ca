"""At the widths of real layers: torch run live, against the orders of addition of `torch_cpu`, bit by bit.

Beside it what the book alone gives, whose sums differ in the last bits. On a processor with AMX, oneDNN is told to
leave its tiles alone, which add in their own order.
"""

import importlib.util
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from torch_cases import same_bits

import tiny
from tiny.config import Config, MoeConfig, VisionConfig
from tiny.tools.machine import cpu_flags
from tiny.tools.synthetic import RandomTensors, save_checkpoint
from tiny.tools.verify import torch_cpu

MISSING = [name for name in ("torch", "transformers") if importlib.util.find_spec(name) is None]
REASON = (f"This check needs {' and '.join(MISSING)} (the verify extra)." if MISSING else
          "This check needs a processor with AVX512_BF16, whose order of addition is the one reproduced.")
UNFIT = bool(MISSING) or "avx512_bf16" not in cpu_flags()
pytestmark = [pytest.mark.verify, pytest.mark.skipif(UNFIT, reason=REASON)]

SIZES = {"n_layers": 3, "norm_eps": 1e-5, "rope_theta": 1e6, "max_seq_len": 4096}
MIXTRAL = Config(dim=1024, head_dim=64, hidden_dim=3584, n_heads=16, n_kv_heads=4, vocab_size=2000,
                 moe=MoeConfig(8, 2), **SIZES)
LONG = Config(dim=96, head_dim=16, hidden_dim=1100, n_heads=6, n_kv_heads=2, vocab_size=700, moe=MoeConfig(6, 3),
              **SIZES)
PIXTRAL = Config(dim=640, head_dim=32, hidden_dim=1100, n_heads=8, n_kv_heads=4, vocab_size=1200,
                 vision=VisionConfig(hidden_size=1024, num_channels=3, image_size=256, patch_size=16, rope_theta=1e4,
                                     intermediate_size=1200, num_hidden_layers=2, num_attention_heads=16,
                                     image_token_id=10, max_image_size=256), **SIZES)
GRIDS = [(7, 5), (4, 9)]


class Tensors(RandomTensors):
    """The same random weights with norms that are not one."""

    def __getitem__(self, name: str) -> np.ndarray:
        x = super().__getitem__(name)
        if x.ndim > 1 or name.endswith("bias"):
            return x
        random = np.random.default_rng(len(name)).standard_normal(x.shape, np.float32)
        return (1 + np.float32(0.3) * random).astype(ml_dtypes.bfloat16)


def run(program: str, *arguments) -> None:
    command = [sys.executable, "-I", Path(__file__).with_name(program), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=arguments[-1].parent,
                          env={**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16", "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr


def live(folder, config, tokens, steps, grids=()):
    """A checkpoint, the inputs of a call, and what transformers makes of them."""
    rng = np.random.default_rng(tokens)
    save_checkpoint(folder, "hf", config, Tensors(config, tokens))
    ids = [1, *rng.integers(14, config.vocab_size, tokens - 1).tolist()]
    for columns, rows in grids:
        ids += (([10] * columns + [12]) * rows)[:-1] + [13, 20]
    images = [rng.standard_normal((3, 16 * rows, 16 * columns), np.float32) for columns, rows in grids]
    inputs = {"ids": ids, "steps": rng.integers(14, config.vocab_size, steps)}
    np.savez(folder / "inputs.npz", **inputs, **{f"pixels{n}": x for n, x in enumerate(images)})
    run("wide_reference.py", folder, folder / "inputs.npz", folder / "reference.npz")
    return inputs, images, dict(np.load(folder / "reference.npz"))


def compare(folder, inputs, images, stored, ops):
    """The share of equal numbers of every array that transformers gave."""
    model, trace = tiny.load(folder, precision="bfloat16", ops=ops), {}
    cache = model.new_cache(len(inputs["ids"]) + len(inputs["steps"]))
    rows = [model(inputs["ids"], images, cache=cache, trace=trace)]
    rows += [model([token], cache=cache) for token in inputs["steps"]]
    arrays = {"logits": np.concatenate(rows)}
    for name, traced in (("hidden", "layer"), ("experts", "experts"), ("vision", "vision_layer")):
        if name in stored:
            arrays[name] = np.stack([trace[f"{traced}{n:02}"] for n in range(len(stored[name]))]).astype(np.float32)
    if images:
        arrays["projector"] = trace["projector"][None]
    assert set(arrays) == set(stored)
    for name, x in arrays.items():
        assert x.shape == stored[name].shape
    shares = {name: float(np.mean(x == stored[name])) for name, x in arrays.items()}
    return shares, all(same_bits(x, stored[name]) for name, x in arrays.items())


@pytest.mark.parametrize("name, config, tokens, steps, grids", [
    ("mixtral, dim 1024", MIXTRAL, 64, 8, ()), ("mixtral, 1100 tokens", LONG, 1100, 3, ()),
    ("pixtral, encoder of 1024", PIXTRAL, 20, 4, GRIDS)], ids=["mixtral", "long", "pixtral"])
def test_every_bit_of_torch(name, config, tokens, steps, grids, tmp_path, record_property):
    inputs, images, stored = live(tmp_path, config, tokens, steps, grids)
    exact, same = compare(tmp_path, inputs, images, stored, torch_cpu)
    plain, _ = compare(tmp_path, inputs, images, stored, tiny.ops)
    for ops, shares in (("torch_cpu", exact), ("plain", plain)):
        text = ", ".join(f"{key} {100 * share:.2f} %" for key, share in shares.items())
        print(f"{name}, {ops}: {text}")
        record_property(f"bfloat16 {name}, {ops}, equal to transformers", text)
    for package in ("torch", "transformers", "numpy"):
        record_property(f"version {package}", version(package))
    assert same, exact
    assert plain["logits"] < 1, "this size no longer shows the order of addition"


def test_the_stored_operations_are_those_of_this_torch(tmp_path, golden):
    run("sums_reference.py", tmp_path / "sums.npz")
    stored, found = np.load(golden / "torch_sums.npz"), np.load(tmp_path / "sums.npz")
    assert stored.files == found.files
    assert [name for name in stored.files if not same_bits(stored[name], found[name])] == []
