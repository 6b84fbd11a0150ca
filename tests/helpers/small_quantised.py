"""Small quantised checkpoints, packed number by number and without the code under test."""

import json
from pathlib import Path

import ml_dtypes
import numpy as np
from small import file_bytes, hf_config, hf_tensors

from tiny.config import Config

GROUP = 16
IGNORED = ["re:.*lm_head$", "re:.*block_sparse_moe.gate", "re:.*vision_tower.*", "re:.*multi_modal_projector.*"]
WEIGHTS = {"fp8": {"num_bits": 8, "type": "float", "strategy": "channel"},
           "fp8 by tensor": {"num_bits": 8, "type": "float", "strategy": "tensor"},
           "int8": {"num_bits": 8, "type": "int", "strategy": "channel"},
           "int8 bytes": {"num_bits": 8, "type": "int", "strategy": "channel"},
           "int4": {"num_bits": 4, "type": "int", "strategy": "group", "group_size": GROUP},
           "int4 uneven": {"num_bits": 4, "type": "int", "strategy": "group", "group_size": GROUP, "symmetric": False}}
FORMATS = {"fp8": "float-quantized", "fp8 by tensor": "float-quantized", "int8 bytes": "int-quantized"}
KINDS = {"fp8": "fp8", "fp8 by tensor": "fp8", "int8": "int8", "int8 bytes": "int8", "int4": "int4/16",
         "int4 uneven": "int4/16", "awq": "awq4/16", "gptq": "gptq4/16"}


def words(numbers, bits: int, order=range(32)) -> np.ndarray:
    """Whole numbers of some bits in words of int32: in the place i of a word is number order[i]."""
    numbers, each = [int(number) for number in numbers], 32 // bits
    numbers += [0] * (-len(numbers) % each)
    found = [sum(numbers[start + order[place]] << bits * place for place in range(each))
             for start in range(0, len(numbers), each)]
    return np.array(found, np.uint32).view(np.int32)


def rows_of_words(matrix, bits: int, order=range(32)) -> np.ndarray:
    return np.stack([words(row, bits, order) for row in matrix])


def quantised(name: str, weight: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """What a checkpoint stores of a matrix, and the float32 numbers that this stands for."""
    weight = weight.astype(np.float32)
    if name in ("awq", "gptq"):
        return columns(name, weight)
    options = WEIGHTS[name]
    size = options.get("group_size", weight.shape[1])
    groups = weight.reshape(len(weight), -1, size)
    scale = np.abs(groups).max(axis=2) + np.float32(1e-3)
    if options["strategy"] == "tensor":
        scale = scale.max().reshape(1)
    scale = (scale / {"fp8": 448, "int8": 127, "int4": 7}[name.split()[0]]).astype(ml_dtypes.bfloat16)
    spread = np.repeat(np.broadcast_to(scale.reshape(len(scale), -1), groups.shape[:2]), size, axis=1)
    spread = spread.astype(np.float32)
    if name.startswith("fp8"):
        stored = (weight / spread).astype(ml_dtypes.float8_e4m3fn)
        return {"weight": stored, "weight_scale": scale}, stored.astype(np.float32) * spread
    half = 1 << options["num_bits"] - 1
    whole, fields = np.clip(np.rint(weight / spread), -half, half - 1).astype(np.int8), {"weight_scale": scale}
    zero = np.zeros(scale.shape, np.int8)
    if name.endswith("uneven"):
        zero = (np.arange(zero.size) % 5 - 2).reshape(zero.shape).astype(np.int8)
        fields["weight_zero_point"] = rows_of_words(zero.T + half, options["num_bits"]).T
    exact = (whole - np.repeat(zero, size, axis=1)[:, : weight.shape[1]].astype(np.float32)) * spread
    if name.endswith("bytes"):
        return fields | {"weight": whole}, exact
    return fields | {"weight_packed": rows_of_words(whole.astype(int) + half, options["num_bits"]),
                     "weight_shape": np.array(weight.shape, np.int64)}, exact


def columns(name: str, weight: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """What AWQ or GPTQ stores of a matrix; of GPTQ the columns of a group are not neighbours."""
    out, width = weight.shape
    index = np.arange(width) // GROUP if name == "awq" else np.arange(width) % (width // GROUP)
    scale = (0.02 + 0.01 * np.arange(out * (width // GROUP)).reshape(-1, out) / out / width).astype(np.float16)
    zero = 6 + np.arange(scale.size).reshape(scale.shape) % 4
    whole = np.clip(np.rint(weight.T / scale[index].astype(np.float32)) + zero[index], 0, 15).astype(int)
    exact = ((whole - zero[index]) * scale[index].astype(np.float32)).T.astype(np.float32)
    if name == "awq":
        order = (0, 2, 4, 6, 1, 3, 5, 7)
        return {"qweight": rows_of_words(whole, 4, order), "qzeros": rows_of_words(zero, 4, order),
                "scales": scale}, exact
    return {"qweight": rows_of_words(whole.T, 4).T, "qzeros": rows_of_words(zero - 1, 4), "scales": scale,
            "g_idx": index.astype(np.int32), "bias": np.zeros(out, np.float16)}, exact


def quantization_config(name: str) -> dict:
    if name == "awq":
        return {"quant_method": "awq", "bits": 4, "group_size": GROUP, "zero_point": True, "version": "gemm",
                "modules_to_not_convert": ["gate"]}
    if name == "gptq":
        return {"quant_method": "gptq", "bits": 4, "group_size": GROUP, "desc_act": True, "sym": False}
    weights = {"symmetric": True, "dynamic": False, "observer": "minmax"} | WEIGHTS[name]
    group = {"targets": ["Linear"], "weights": weights, "input_activations": None, "output_activations": None}
    return {"quant_method": "compressed-tensors", "format": FORMATS.get(name, "pack-quantized"), "ignore": IGNORED,
            "quantization_status": "compressed", "config_groups": {"group_0": group}}


def is_kept(name: str) -> bool:
    """Whether a tensor of HF's layout stays as it is: no matrix of the language model, or ignored."""
    return not (name.endswith("_proj.weight") or ".experts." in name) or "vision_tower" in name


def quantised_tensors(config: Config, tensors: dict, name: str) -> tuple[dict, dict]:
    """What a checkpoint stores in HF's layout, and the same weights as numbers, by HF's names."""
    stored, exact = {}, {}
    for key, x in hf_tensors(config, tensors).items():
        if is_kept(key):
            stored[key] = exact[key] = x
            continue
        fields, exact[key] = quantised(name, x)
        stored |= {key.removesuffix("weight") + field: part for field, part in fields.items()}
    return stored, exact


def write_quantised(folder: Path, config: Config, stored: dict, name: str, **changed) -> Path:
    """A folder in HF's layout; changed are keys of its quantization_config."""
    folder.mkdir(exist_ok=True)
    said = hf_config(config, quantization_config=quantization_config(name) | changed)
    (folder / "config.json").write_text(json.dumps(said))
    (folder / "model.safetensors").write_bytes(file_bytes(stored))
    return folder
