"""Quantise checkpoints with compressed-tensors, and compute logits with transformers.

    python quantised_reference.py JOBS.json

Runs in a process of its own and imports nothing of this repository. A job has `folder` and `scheme`, a checkpoint in
Hugging Face's layout and how it is quantised to `out`, or only `out`, which is read as it is; the `ids` of prompts; and
`result`, a file for their logits, and for every matrix as compressed-tensors unpacks it. `read` false: no logits.
"""

import json
import shutil
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, CompressedTensorsConfig

SCHEMES = {
    "fp8": ("float-quantized", {"num_bits": 8, "type": "float", "strategy": "channel"}),
    "fp8 by tensor": ("float-quantized", {"num_bits": 8, "type": "float", "strategy": "tensor"}),
    "int8": ("pack-quantized", {"num_bits": 8, "type": "int", "strategy": "channel"}),
    "int8 bytes": ("int-quantized", {"num_bits": 8, "type": "int", "strategy": "channel"}),
    "int4": ("pack-quantized", {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32}),
    "int4 uneven": ("pack-quantized", {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32,
                                       "symmetric": False})}
IGNORED = ["re:.*lm_head", "re:.*block_sparse_moe.gate$", "re:.*mlp.gate$", "re:.*vision_tower.*",
           "re:.*multi_modal_projector.*"]


def quantise(weight, args):
    """The tensors of one module, as compressed-tensors makes them with scales from the largest magnitude."""
    groups = weight.reshape(1 if args.strategy == "tensor" else len(weight), -1, args.group_size or weight.shape[1])
    low, high = groups.amin((0, 2)) if args.strategy == "tensor" else groups.amin(2), groups.amax(2)
    if args.strategy == "tensor":
        low, high = weight.min().reshape(1), weight.max().reshape(1)
    most = 448 if args.type == "float" else 2 ** (args.num_bits - 1) - 1
    state = {"weight": weight, "weight_scale": torch.maximum(-low, high) / most}
    if not args.symmetric:
        low, high = low.clamp(max=0), high.clamp(min=0)
        state["weight_scale"] = (high - low) / (2**args.num_bits - 1)
        zero = torch.round(-2 ** (args.num_bits - 1) - low / state["weight_scale"])
        state["weight_zero_point"] = zero.clamp(-2 ** (args.num_bits - 1), most).to(torch.int8)
    return state


def write(folder, out, format, args):
    """A copy of a checkpoint with its matrices quantised; and these as compressed-tensors unpacks them."""
    scheme = QuantizationScheme(targets=["Linear"], weights=args)
    compressor = BaseCompressor.get_value_from_registry(format)
    stored, unpacked = {}, {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        module = name.removesuffix(".weight")
        if tensor.ndim != 2 or "embed" in name or "lm_head" in name or module.endswith(".gate") or "vision" in name or (
                "projector" in name):
            stored[name] = tensor
            continue
        state = compressor.compress(quantise(tensor.float(), args), scheme)
        stored |= {f"{module}.{key}": value.contiguous() for key, value in state.items()}
        unpacked[name] = compressor.decompress(state, scheme)["weight"].numpy()
    out.mkdir()
    save_file(stored, out / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {
        "quant_method": "compressed-tensors", "format": format, "quantization_status": "compressed", "ignore": IGNORED,
        "config_groups": {"group_0": scheme.model_dump(exclude_none=True)}}
    (out / "config.json").write_text(json.dumps(config))
    for path in folder.iterdir():
        if not (out / path.name).exists():
            shutil.copy(path, out)
    return unpacked


def run(job):
    """Quantise one checkpoint, if a scheme is named, and compute the logits of its prompts."""
    found, more = {}, {}
    if job.get("scheme"):
        format, args = SCHEMES[job["scheme"]]
        found = write(Path(job["folder"]), Path(job["out"]), format, QuantizationArgs(**args))
    if job.get("dequantize"):
        said = json.loads((Path(job["out"]) / "config.json").read_text())["quantization_config"]
        more = {"quantization_config": CompressedTensorsConfig(dequantize=True, **said)}
    result = {}
    if job.get("read", True):
        kind = AutoModelForImageTextToText if job.get("sees") else AutoModelForCausalLM
        model = kind.from_pretrained(job["out"], dtype=getattr(torch, job.get("dtype", "float32")), **more)
        with torch.no_grad():
            for n, ids in enumerate(job["ids"]):
                result[f"logits{n}"] = model(torch.tensor([ids])).logits[0].float().numpy()
    np.savez(job["result"], **found, **result)


def main():
    torch.set_num_threads(1)
    for job in json.loads(Path(sys.argv[1]).read_text()):
        run(job)
    print(json.dumps({package: version(package) for package in ("torch", "transformers", "compressed-tensors",
                                                                 "numpy")}))


if __name__ == "__main__":
    main()
