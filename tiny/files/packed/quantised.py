"""What a configuration says of quantised weights, and the tensors of a file as the matrices that they stand for.

This is the last file of this folder.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from tiny.config import TinyError
from tiny.files.packed import columns, compressed
from tiny.files.packed.array import Packed
from tiny.files.packed.compressed import AGAIN, Pack
from tiny.numerics import STORED
from tiny.system.reading import Note, short

# Types of tensors in quantised files, beside those of plain ones.
DTYPES = {"F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn), "I8": np.dtype(np.int8), "I32": np.dtype(np.int32),
          "I64": np.dtype(np.int64)}
METHODS = {"compressed-tensors": (compressed.read_compressed, compressed.FIELDS),
           "awq": (columns.read_awq, columns.FIELDS), "gptq": (columns.read_gptq, columns.FIELDS)}
REMEDY = "Read here: compressed-tensors (FP8, int8, int4), AWQ, GPTQ, GGUF. Else use the model that it was made from."
PLACES = ("quantization_config", "compression_config", "quantization")


class Method(NamedTuple):
    """How a checkpoint is quantised: what packs the tensors of a module, and the last words of their names."""

    pack: Pack
    fields: tuple[str, ...]


def read_method(values: dict, path: Path, note: Note) -> Method | None:
    """How a configuration says that weights are quantised; None if it does not.

    Raises:  TinyError for a method, or a form of one, that is not read here: by its name
    """
    tables = [values, values["text_config"]] if isinstance(values.get("text_config"), dict) else [values]
    found = [(key, table[key]) for table in tables for key in PLACES if table.get(key)]
    if not found:
        return None
    key, config = found[0]
    if not isinstance(config, dict) or any(other != config for _, other in found):
        raise TinyError(f"{path}: {key} is {short(config)}, or stands there twice.", REMEDY)
    method = name_of(config)
    if method not in METHODS:
        raise TinyError(f"{path}, {key}: the weights are quantised by {method}, which is not read here.", REMEDY)
    read, fields = METHODS[method]
    return Method(read(config, f"{path}, {key}", note), fields)


def name_of(config: dict) -> str:
    """The method that a configuration names, as people call it."""
    method: Any = config.get("quant_method", "compressed-tensors" if "config_groups" in config else
                             config.get("qformat_weight"))  # of some files in Mistral's layout
    if method is None and config.get("load_in_4bit") or method == "bitsandbytes":
        return f"bitsandbytes ({short(config.get('bnb_4bit_quant_type', 'int8'))[1:-1]})"
    return method if isinstance(method, str) and method in METHODS else short(method)


def pack_tensors(found: Mapping[str, np.ndarray], method: Method, folder: Path) -> dict[str, Any]:
    """The tensors of all files, those of a quantised module as one matrix that is packed.

    Raises:  TinyError that names a module whose tensors do not fit, or are quantised and lack what that needs
    """
    tensors: dict[str, Any] = {}
    modules: dict[str, dict[str, np.ndarray]] = {}
    for name, tensor in found.items():
        module, _, field = name.rpartition(".")
        if field in method.fields:
            modules.setdefault(module, {})[field] = tensor
        else:
            tensors[name] = tensor
    for module, parts in modules.items():
        # a weight as ever, and a bias perhaps
        if parts.keys() <= {"weight", "bias"} and all(part.dtype in STORED for part in parts.values()):
            tensors |= {f"{module}.{field}": part for field, part in parts.items()}
        else:
            tensors[f"{module}.weight"] = method.pack(module, parts)
    for name, tensor in tensors.items():
        if not isinstance(tensor, Packed) and tensor.dtype not in STORED:
            raise TinyError(f"{folder}: tensor {name} is {tensor.dtype}, and nothing says how it is quantised.", AGAIN)
    return tensors
