"""Quantised checkpoints in transformers and here: what compressed-tensors makes, and what `quantize` writes.

transformers 5.24 with compressed-tensors 0.20.1 reads neither bytes of int8 nor zero points in a Mixtral, and in a
dense model only if it unpacks them at load (`dequantize`). There the matrices are compared, to the bit.
"""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from compare import assert_close
from small import random_tensors, sizes, vision_sizes, write_hf

import tiny
from tiny.__main__ import main
from tiny.files.checkpoint import open_checkpoint
from tiny.files.weights import halves_to_pairs, head_dim_of

MISSING = [name for name in ("torch", "transformers", "compressed_tensors") if importlib.util.find_spec(name) is None]
REASON = f"This check needs {' and '.join(MISSING)} (the verify extra)."
pytestmark = [pytest.mark.verify, pytest.mark.skipif(bool(MISSING), reason=REASON)]
PROGRAM = Path(__file__).with_name("quantised_reference.py")
SIZES = {"dim": 64, "hidden_dim": 96, "head_dim": 32, "n_heads": 4}
CONFIGS = {"mistral": sizes(None, **SIZES), "mixtral": sizes((4, 2), **SIZES),
           "pixtral": sizes(None, vision=vision_sizes(), **SIZES)}
IDS = [[1], [1, *range(10, 38), 3, 3]]
READ = ("fp8", "fp8 by tensor", "int8", "int4")  # by transformers, in all models
BYTES = ("int8 bytes", "int4 uneven")  # by transformers in a dense model that it unpacks at load
CASES = [(kind, scheme) for kind in CONFIGS for scheme in (*READ, *BYTES)]
# Measured on 2026-11-30, torch 2.13.0, transformers 5.24.0, compressed-tensors 0.20.1, NumPy 2.4.6: of small models
# 6.2e-6 at the most, their logits reach 6; of what `quantize` made of tiny-mixtral 2.3e-5 of 20, of tiny-pixtral
# 9.6e-6 of 13.
SMALL, EMBEDDED = 1e-5, 5e-6  # the first is absolute, the second a share of the largest logit
WRITTEN = {"tiny-mixtral": (), "tiny-pixtral": (), "tiny-mixtral --keep output": ("--keep", "output"),
           "tiny-pixtral --keep output": ("--keep", "output")}


@pytest.fixture(scope="module")
def results(tmp_path_factory, request):
    """The folders of all cases, and what transformers computes with each."""
    top = tmp_path_factory.mktemp("quantised")
    jobs = []
    for kind, config in CONFIGS.items():
        write_hf(top / kind, config, random_tensors(config))
    for kind, scheme in CASES:
        out, opened = top / f"{kind} {scheme}", scheme in READ or kind != "mixtral"
        jobs.append({"folder": str(top / kind), "out": str(out), "scheme": scheme, "ids": IDS, "read": opened,
                     "dequantize": scheme in BYTES and opened, "result": f"{out}.npz", "sees": kind == "pixtral"})
    for name, options in WRITTEN.items():
        assert main(["quantize", name.split()[0], str(top / name), *options]) == 0
        jobs.append({"out": str(top / name), "ids": [[1, *range(100, 140)]], "sees": "pixtral" in name,
                     "result": f"{top / name}.npz"})
    (top / "jobs.json").write_text(json.dumps(jobs))
    done = subprocess.run([sys.executable, "-I", PROGRAM, top / "jobs.json"], cwd=top, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return top, json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("kind, scheme", CASES)
def test_what_compressed_tensors_makes_is_read(results, kind, scheme, record_property):
    top, versions = results
    found, folder = np.load(top / f"{kind} {scheme}.npz"), top / f"{kind} {scheme}"
    checkpoint, compared = open_checkpoint(folder), 0
    for name, place in checkpoint.places.items():
        if place.name in found:
            expected, compared = found[place.name], compared + 1
            if name.endswith(("wq.weight", "wk.weight")):
                expected = halves_to_pairs(expected, head_dim_of(name, checkpoint.config))
            assert_close(np.asarray(checkpoint.tensors[name]), expected, 0.0, name=name)
    assert compared == {"mistral": 14, "mixtral": 32, "pixtral": 14}[kind]
    used = [assert_close(tiny.load(folder, weights=mode)(ids), found[f"logits{n}"], SMALL, name=f"logits {n}")
            for n, ids in enumerate(IDS if "logits0" in found else ()) for mode in ("mapped", "resident")]
    for package, number in versions.items():
        record_property(f"version {package}", number)
    if used:
        record_property(f"{kind}, {scheme}: largest error of the logits", f"{max(used) * SMALL:.1e}")


@pytest.mark.parametrize("name", WRITTEN)
def test_transformers_reads_what_quantize_writes(results, name, record_property):
    top, _ = results
    expected = np.load(top / f"{name}.npz")["logits0"]
    largest = float(np.abs(expected).max())
    used = assert_close(tiny.load(top / name)([1, *range(100, 140)]) / largest, expected / largest, EMBEDDED, name=name)
    record_property(f"`quantize {name}`: error as a share of the largest logit", f"{used * EMBEDDED:.1e}")
