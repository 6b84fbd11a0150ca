"""`verify dump` runs transformers, and `verify check` finds the same model, or the mistake that was planted in it.

make_dumps.py beside this file writes the same runs to tests/golden/verify, for the tests that have no torch.
"""

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.tools.test_verify import PLANTED, REASONS, SAME, model_of, read
from tests.verify import make_dumps
from tiny.__main__ import main
from tiny.files.safetensors import read_safetensors
from tiny.tools.verify import file
from tiny.tools.verify.check import check
from tiny.tools.verify.gather import gather_files
from tiny.tools.verify.judge import judge
from tiny.tools.verify.names import kind
from tiny.training.saving import save_safetensors

MISSING = [name for name in ("torch", "transformers", "mistral_common") if importlib.util.find_spec(name) is None]
REASON = f"This check needs {' and '.join(MISSING)} (the verify extra)."
pytestmark = [pytest.mark.verify, pytest.mark.skipif(bool(MISSING), reason=REASON)]
GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.mark.parametrize("name", make_dumps.DUMPS)
def test_a_fresh_dump(name, tmp_path, record_property):
    """What is the same passes, what is planted is named, and the stored dump is what transformers computes today."""
    make_dumps.dump(name, sys.executable, tmp_path, out=tmp_path)
    path = tmp_path / f"{name}.npz"
    dump, stored = file.read(path), read(name)
    report = check(model_of(name), path)
    assert report.status == int(name not in SAME)
    assert dump.record["inputs"].startswith("mistral-common") and dump.record["attention"] == "eager"
    if name in PLANTED:
        assert report.places[0].operation == PLANTED[name]
        assert REASONS.get(name) in [*report.places[0].reasons, None]
    if name.endswith("swapped"):
        assert report.inputs.findings[0].startswith("the images are in another order")
    assert dump.arrays.keys() == stored.arrays.keys() and dump.ids.tolist() == stored.ids.tolist()
    assert judge(gather_files(dump, stored)).status == 0
    if name in SAME:
        worst = max(row.step_percent for row in report.arrays if row.step_percent is not None)
        record_property(f"verify check of {name}, largest share of a tolerance", f"{worst:.0f} %")


@pytest.mark.parametrize("model, images", [("tiny-mixtral", []), ("tiny-pixtral", make_dumps.IMAGES)])
def test_layer_by_layer_is_the_same_to_the_bit(model, images, tmp_path):
    """Weights that come and go, and attention and experts as transformers has them by default."""
    for load in ("whole", "layers"):
        command = ["verify", "dump", model, str(tmp_path / f"{load}.npz"), "--attention", "sdpa", "--load", load,
                   "--experts", "grouped_mm", "--layers", "0,2", "--positions", "0,3,-1"]
        assert main(command + ["--image", *images] * bool(images)) == 0
    whole, layers = (file.read(tmp_path / f"{load}.npz") for load in ("whole", "layers"))
    assert whole.arrays.keys() == layers.arrays.keys()
    for name, x in whole.arrays.items():
        assert np.array_equal(x, layers.arrays[name]), name
    kept = {name for name in whole.arrays if kind(name) == "layer"}
    assert kept == {"layer00", "layer01", "layer02"}, "the input of layer 2 is kept too"
    assert check(model, tmp_path / "layers.npz").verdict == "unproven", "two layers are not the model"
    report = check(model, tmp_path / "layers.npz", partial=True)
    assert report.status == 0 and sum(row.step_percent is not None for row in report.arrays) >= 20


@pytest.mark.parametrize("precision, attention, experts", [("bfloat16", "sdpa", "batched_mm"),
                                                           ("bfloat16", "eager", "eager")])
@pytest.mark.parametrize("name", ["mixtral-a", "mixtral-b"])
def test_other_checkpoints(name, precision, attention, experts, tmp_path):
    out = tmp_path / "out.npz"
    assert main(["verify", "dump", str(GOLDEN / name / "hf"), str(out), "--precision", precision, "--attention",
                 attention, "--experts", experts]) == 0
    for layout in ("mistral", "hf"):
        assert main(["verify", "check", str(GOLDEN / name / layout), str(out)]) == 0


def stacked(tensors: dict) -> dict:
    """The experts of each layer as transformers 5 holds them."""
    found = {}
    for name, x in tensors.items():
        prefix, experts, rest = name.partition(".block_sparse_moe.experts.")
        if not experts:
            found[name.replace(".block_sparse_moe.", ".mlp.")] = x
        elif rest == "0.w1.weight":
            w1, w2, w3 = (np.stack([tensors[f"{prefix}{experts}{e}.{part}.weight"] for e in range(
                sum(other.startswith(prefix + experts) for other in tensors) // 3)]) for part in ("w1", "w2", "w3"))
            found |= {f"{prefix}.mlp.experts.gate_up_proj": np.concatenate([w1, w3], axis=1),
                      f"{prefix}.mlp.experts.down_proj": w2}
    return found


def recent(tensors: dict) -> dict:
    """The names that transformers 5.4.0 to 5.5.3 gave to a Pixtral."""
    def renamed(name):
        return name if name.startswith("language_model.lm_head") else "model." + name
    return {renamed(name): x for name, x in tensors.items()}


@pytest.mark.parametrize("name, change", [("mixtral-a", stacked), ("mixtral-b", stacked), ("pixtral-a", recent)])
def test_layer_by_layer_reads_the_names_of_other_versions(name, change, tmp_path):
    source, folder = GOLDEN / name / "hf", tmp_path / "model"
    folder.mkdir()
    for path in source.glob("*.json"):
        shutil.copy(path, folder)
    (folder / "model.safetensors.index.json").unlink(missing_ok=True)
    tensors: dict = {}
    for path in source.glob("*.safetensors"):
        tensors |= read_safetensors(path)
    save_safetensors(folder / "model.safetensors", change(tensors))
    tokenizer = source if (source / "tokenizer.model").exists() else source.parent / "mistral"
    dumps = []
    for given, load in ((source, "whole"), (folder, "layers")):
        assert main(["verify", "dump", str(given), str(tmp_path / f"{load}.npz"), "--load", load, "--tokenizer",
                     str(tokenizer), "--max-tokens", "1"]) == 0
        dumps.append(file.read(tmp_path / f"{load}.npz"))
    whole, layers = dumps
    assert whole.record["fingerprint"] == layers.record["fingerprint"] is not None
    for key, x in whole.arrays.items():
        assert np.array_equal(x, layers.arrays[key]), key


def test_the_child_does_not_see_this_repository(tmp_path):
    """A package of the name that transformers looks for lies here, and must not be found."""
    code = "import sys; sys.exit(any('tiny' == name for name in sys.modules) or any(p in ('', '.') for p in sys.path))"
    assert subprocess.run([sys.executable, "-I", "-c", code], cwd=GOLDEN.parents[1], timeout=60).returncode == 0
