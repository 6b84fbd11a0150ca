"""Write tests/golden/verify again: transformers on the embedded models, as they are and with a mistake planted in each.

    PYTHONPATH=. python tests/verify/make_dumps.py --python PATH    of an interpreter that has the verify extra

It takes about two minutes, and must be run when an embedded model changes. The mistakes are made in copies in Hugging
Face's layout, so that transformers makes them, not this code.
"""

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

import tiny
from tiny.files.params import read_params
from tiny.files.safetensors import read_safetensors
from tiny.files.weights import halves_to_pairs, open_tensors
from tiny.tools.synthetic import save_checkpoint
from tiny.tools.verify import dump as dumper
from tiny.tools.verify import file
from tiny.training.saving import save_safetensors

ROOT = Path(__file__).parents[2]
OUT = ROOT / "tests/golden/verify"
IMAGES = [str(ROOT / "tests/golden/verify" / name) for name in ("left.png", "right.png")]
TEXT = "Once upon a time there was a girl named Mia. Mia had a"
LAST_LAYER = 2


def louder(tensors: dict) -> None:
    """One matrix of layer 2 grows by a thousandth, of which bfloat16 could not hold much."""
    name = f"model.layers.{LAST_LAYER}.self_attn.o_proj.weight"
    tensors[name] = tensors[name].astype(np.float32) * np.float32(1.001)


def louder_expert(tensors: dict) -> None:
    """The same with w3 of expert 5."""
    name = f"model.layers.{LAST_LAYER}.block_sparse_moe.experts.5.w3.weight"
    tensors[name] = tensors[name].astype(np.float32) * np.float32(1.001)


def other_rows(tensors: dict) -> None:
    """The rows of wq of layer 0 stay in Mistral's order, as a converter that forgets them leaves them."""
    name = "model.layers.0.self_attn.q_proj.weight"
    tensors[name] = np.ascontiguousarray(halves_to_pairs(tensors[name], 32)).reshape(tensors[name].shape)


def tanh_gelu(config: dict) -> None:
    config["projector_hidden_act"] = "gelu_pytorch_tanh"


def nothing(_: dict) -> None:
    pass


# Name: model, images, positions, precision, what happens to the tensors, and to the configuration.
DUMPS: dict[str, tuple[str, bool, str | None, str, Callable, Callable]] = {
    "tiny-mixtral": ("tiny-mixtral", False, None, "float32", nothing, nothing),
    "tiny-mixtral-bfloat16": ("tiny-mixtral", False, None, "bfloat16", nothing, nothing),
    "tiny-mixtral-wo-of-layer-2": ("tiny-mixtral", False, "0,5,-1", "float32", louder, nothing),
    "tiny-mixtral-expert-5-of-layer-2": ("tiny-mixtral", False, None, "float32", louder_expert, nothing),
    "tiny-mixtral-rows-of-wq": ("tiny-mixtral", False, "0,5,-1", "float32", other_rows, nothing),
    "tiny-pixtral": ("tiny-pixtral", True, None, "float32", nothing, nothing),
    "tiny-pixtral-bfloat16": ("tiny-pixtral", True, "0,5,-1", "bfloat16", nothing, nothing),
    "tiny-pixtral-images-swapped": ("tiny-pixtral", True, "0,5,-1", "float32", nothing, nothing),
    "tiny-pixtral-tanh-gelu": ("tiny-pixtral", True, "0,5,-1", "float32", nothing, tanh_gelu),
}


def copy_of(model: str, folder: Path, change: Callable, change_config: Callable) -> Path:
    """The embedded model in Hugging Face's layout, changed."""
    source = tiny.model_folder(model)
    config = read_params(source / "params.json")
    save_checkpoint(folder, "hf", config, open_tensors("mistral", [source / "consolidated.safetensors"], config))
    tensors = {name: np.array(x) for name, x in read_safetensors(folder / "model.safetensors").items()}
    change(tensors)
    save_safetensors(folder / "model.safetensors", tensors)
    described = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    change_config(described)
    (folder / "config.json").write_text(json.dumps(described), encoding="utf-8")
    for pattern in ("tokenizer.model*", "tekken*.json"):
        for path in source.glob(pattern):
            shutil.copy(path, folder)
    return folder


def dump(name: str, python: str, scratch: Path, out: Path = OUT) -> None:
    """Write one file."""
    from tiny.__main__ import build_parser

    model, sees, positions, precision, change, change_config = DUMPS[name]
    images = IMAGES[::-1] if name.endswith("swapped") else IMAGES
    folder = copy_of(model, scratch / name, change, change_config)
    command = ["verify", "dump", str(folder), str(out / f"{name}.npz"), "--python", python, "--precision", precision,
               "--prompt", "Describe the images." if sees else TEXT]
    command += ["--image", *images] * sees + ["--positions", positions] * bool(positions)
    record, arrays = dumper.run_reference(build_parser().parse_args(command), scratch)
    if name.endswith("swapped"):  # The pictures were given as they are listed; it is the reference that mixed them up.
        arrays["image0"], arrays["image1"] = arrays["image1"], arrays["image0"]
        record["images"] = record["images"][::-1]
    file.save(out / f"{name}.npz", record | {"model": model}, arrays)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--only", nargs="+", default=list(DUMPS))
    args = parser.parse_args()
    OUT.mkdir(exist_ok=True)
    for name in args.only:
        with tempfile.TemporaryDirectory() as scratch:
            dump(name, args.python, Path(scratch))
        print(f"{name}: {(OUT / f'{name}.npz').stat().st_size / 1e3:,.0f} kB")


if __name__ == "__main__":
    main()
