"""Make tests/golden/quantised.npz: quantised matrices, and what they stand for by the code that made the formats.

    python packed_reference.py PACKING_UTILS QLINEAR OUT.npz

Needs torch and compressed-tensors. PACKING_UTILS is awq/utils/packing_utils.py of AutoAWQ (88e4c76), QLINEAR is
gptqmodel/nn_modules/qlinear/__init__.py of GPTQModel (f4c327a); of these files functions are run as they are. They
multiply in the type of the scales, which are float16 numbers in float32 here.

For each case NAME the file has NAME/config, the quantization_config as JSON; NAME/TENSOR, what a checkpoint stores of
a module; and NAME/matrix, (out, in), what that stands for.
"""

import ast
import importlib.util
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from quantised_reference import SCHEMES, quantise

OUT, IN = 32, 64
GPTQ = {"gptq": (4, 16, "gptq", False), "gptq act order": (4, 16, "gptq", True), "gptq 8 bits": (8, 64, "gptq", False),
        "gptq 2 bits": (2, 32, "gptq_v2", True)}


def matrix(seed):
    """Numbers with a row of zeros and an outlier."""
    weight = torch.randn(OUT, IN, generator=torch.Generator().manual_seed(seed))
    weight[3], weight[5, 7] = 0, 50
    return weight


def compressed(name, number):
    """A case of compressed-tensors."""
    format, options = SCHEMES[name]
    scheme = QuantizationScheme(targets=["Linear"], weights=QuantizationArgs(**options))
    compressor = BaseCompressor.get_value_from_registry(format)
    state = quantise(matrix(number), scheme.weights)
    state["weight_scale"] = torch.where(state["weight_scale"] == 0, 1, state["weight_scale"]).to(torch.bfloat16).float()
    stored = compressor.compress(state, scheme)
    config = {"quant_method": "compressed-tensors", "format": format, "ignore": [],
              "config_groups": {"group_0": scheme.model_dump(exclude_none=True)}}
    return config, stored, compressor.decompress(stored, scheme)["weight"]


def words(*shape, seed, most=2**32):
    return torch.randint(0, most, shape, generator=torch.Generator().manual_seed(seed)).to(torch.int32)


def scales(*shape, seed):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)).half().float() / 16


def awq(path, group):
    """A case of AWQ, by AutoAWQ's dequantize_gemm."""
    spec = importlib.util.spec_from_file_location("packing_utils", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    stored = {"qweight": words(IN, OUT // 8, seed=1), "qzeros": words(IN // group, OUT // 8, seed=2),
              "scales": scales(IN // group, OUT, seed=3)}
    config = {"quant_method": "awq", "bits": 4, "group_size": group, "version": "gemm", "zero_point": True}
    return config, stored, module.dequantize_gemm(*stored.values(), 4, group).T


def gptq(path, bits, group, version, shuffled):
    """A case of GPTQ, by GPTQModel's dequantize_weight. The first version stores zeros less one, at most 14 of 15."""
    wanted = {"dequantize_weight", "_dequantize_from_codes", "_torch_right_shift"}
    tree = ast.parse(path.read_text())
    found = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name in wanted]
    space = {"t": torch}
    exec(compile(ast.Module(found, []), str(path), "exec"), space)
    index = torch.arange(IN, dtype=torch.int32) // group
    if shuffled:
        index = index[torch.randperm(IN, generator=torch.Generator().manual_seed(4))]
    stored = {"qweight": words(IN * bits // 32, OUT, seed=5), "qzeros": words(IN // group, OUT * bits // 32, seed=6),
              "scales": scales(IN // group, OUT, seed=7), "g_idx": index}
    one = sum(1 << n for n in range(0, 32, bits))  # in the place of each number
    zeros = stored["qzeros"]
    if version == "gptq":
        low = zeros.to(torch.int64) & (2**32 - 1 - one * 2 ** (bits - 1))  # so that adding one carries nowhere
        stored["qzeros"] = low.to(torch.int32)
        zeros = stored["qzeros"] + one
    shifts = torch.arange(0, 32, bits, dtype=torch.int32)[None]
    own = SimpleNamespace(planar=False, bits=bits, pack_factor=32 // bits, maxq=2**bits - 1, dequant_dtype=torch.int16,
                          wf_unsqueeze_zero=shifts[None], wf_unsqueeze_neg_one=shifts[:, :, None], qzeros=zeros,
                          _init_wf_unsqueeze_buffers=lambda: None, scales=stored["scales"], qweight=stored["qweight"],
                          g_idx=index)
    own._dequantize_from_codes = lambda *codes, **more: space["_dequantize_from_codes"](own, *codes, **more)
    config = {"quant_method": "gptq", "bits": bits, "group_size": group, "desc_act": shuffled, "sym": False,
              "checkpoint_format": version}
    return config, stored, space["dequantize_weight"](own).T


def main():
    packing, qlinear, out = map(Path, sys.argv[1:])
    cases = {name: compressed(name, number) for number, name in enumerate(SCHEMES)}
    cases |= {"awq": awq(packing, 16), "awq one group": awq(packing, 64)}
    cases |= {name: gptq(qlinear, *options) for name, options in GPTQ.items()}
    arrays = {}
    for name, (config, stored, unpacked) in cases.items():
        arrays |= {f"{name}/config": np.array(json.dumps(config)), f"{name}/matrix": unpacked.float().numpy()}
        for field, tensor in stored.items():
            tensor = tensor.view(torch.uint8) if tensor.dtype == torch.float8_e4m3fn else tensor
            arrays[f"{name}/{field}"] = tensor.contiguous().numpy()
    np.savez_compressed(out, **arrays)


if __name__ == "__main__":
    main()
