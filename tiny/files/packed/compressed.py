"""Weights as compressed-tensors stores them: FP8 and whole numbers, with a scale for each row or group.

Read `columns.py` next.
"""

import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from tiny.config import TinyError
from tiny.files.packed.array import Packed
from tiny.files.packed.unpack import BITS, across_rows, along_rows, groups_of, scaled, taken
from tiny.numerics import STORED
from tiny.system.keys import check_keys, read_keys
from tiny.system.reading import Note, short

KEYS = read_keys(Path(__file__).with_name("keys.toml"))
Parts = Mapping[str, np.ndarray]  # the tensors of a module, by the last word of their names
Pack = Callable[[str, Parts], Packed]
FIELDS = ("weight", "weight_packed", "weight_scale", "weight_zero_point", "weight_shape", "weight_g_idx")
BYTES = ("float-quantized", "int-quantized", "naive-quantized")  # formats with a number in each byte
WORDS = "pack-quantized"
FP8 = np.dtype(ml_dtypes.float8_e4m3fn)
CODES = np.arange(256, dtype=np.uint8).view(FP8).astype(np.float32)  # of each byte; a cast takes 7 x as long
AGAIN = "Fetch the files again, all of one model."
REMEDY = "Use FP8, int8 or int4 weights with a scale for each tensor, row or group, or what they were made from."
# Patterns are data from anywhere: those whose search takes no long time have no repeated groups, and few repetitions.
PATTERN = re.compile(r"\^?(?:(?:[\w -]|\\[.d]|\.|\[\^?(?:a-z|A-Z|0-9|[\w.])+\])[*+?]?|\((?:\?:)?[\w.|-]+\))*\$?")
REPEATS, PATTERNS, LONGEST = 3, 64, 300  # repetitions of a pattern, patterns, letters of one


class Scheme(NamedTuple):
    """How the weights of some modules are stored."""

    format: str
    float: bool
    bits: int
    symmetric: bool
    size: int | None  # columns of a group; None where a row or the whole tensor has one scale
    targets: list[str]


def read_compressed(config: dict, place: str, note: Note) -> Pack:
    """What `quantization_config` says of compressed-tensors; the result packs the tensors of one module.

    Raises:  TinyError for what is not read here, by its name; the result raises it for tensors that do not fit
    """
    check_keys(config, KEYS["compressed"], place, REMEDY, note)
    sparsity, groups, ignored = (config.get(key) for key in ("sparsity_config", "config_groups", "ignore"))
    if isinstance(sparsity, dict) and sparsity.get("format") not in ("dense", None):
        raise refusal(place, f"sparsity {short(sparsity['format'])}")
    if not isinstance(groups, dict) or not all(isinstance(group, dict) for group in groups.values()):
        raise refusal(place, f"config_groups {short(groups)}")
    schemes = [read_group(group, config.get("format"), f"{place}, {name}", note) for name, group in groups.items()]
    return partial(pack_module, schemes, names_of(ignored or [], place), place)


def read_group(group: dict, format: Any, place: str, note: Note) -> Scheme:
    """One group of modules. Raises TinyError for what is not read here."""
    check_keys(group, KEYS["compressed_group"], place, REMEDY, note)
    weights, inputs = group.get("weights"), group.get("input_activations")
    if not isinstance(weights, dict):
        raise refusal(place, f"weights {short(weights)}")
    check_keys(weights, KEYS["compressed_weights"], f"{place}, weights", REMEDY, note)
    if inputs and not (isinstance(inputs, dict) and inputs.get("dynamic") is True):
        raise refusal(place, "input_activations that are quantised statically")
    if inputs:
        note(f"{place}: engines round activations, too ({short(inputs.get('type'))}, {short(inputs.get('num_bits'))} "
             "bits). Here only the weights are rounded")
    format, bits, kind = group.get("format") or format, weights.get("num_bits", 8), weights.get("type", "int")
    if format not in (*BYTES, WORDS):
        raise refusal(place, f"format {short(format)}")
    whole = kind == "int" and bits in (BITS if format == WORDS else range(2, 9)) and format != "float-quantized"
    if type(bits) is not int or not whole and (kind, bits, format in ("float-quantized", "naive-quantized")) != (
            "float", 8, True):
        raise refusal(place, f"{short(kind)} of {short(bits)} bits in format {format}")
    if weights.get("actorder") not in (None, False, "weight", "static", "group"):
        raise refusal(place, f"actorder {short(weights['actorder'])}")
    symmetric, strategy, size = (weights.get(key) for key in ("symmetric", "strategy", "group_size"))
    strategy = ("group" if type(size) is int and size > 0 else "tensor") if strategy is None else strategy
    if strategy not in ("tensor", "channel", "group") or type(symmetric) not in (bool, type(None)):
        raise refusal(place, f"strategy {short(strategy)}, symmetric {short(symmetric)}")
    if strategy == "group" and (type(size) is not int or size < 1):
        raise refusal(place, f"group_size {short(size)}")
    return Scheme(format, kind == "float", bits, symmetric is not False, size if strategy == "group" else None,
                  names_of(group.get("targets"), place))


def names_of(names: Any, place: str) -> list[str]:
    """Names and patterns of modules. Raises TinyError for anything else, and for patterns that are too much."""
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise refusal(place, f"names of modules {short(names)}")
    patterns = [name[3:] for name in names if name.startswith("re:")]
    for pattern in patterns:
        if len(pattern) > LONGEST or not PATTERN.fullmatch(pattern) or len(re.findall(r"[*+?]", pattern)) > REPEATS:
            raise refusal(place, f"the pattern {short(pattern)}")
    if len(patterns) > PATTERNS:
        raise refusal(place, f"{len(patterns)} patterns of names")
    return names


def matches(module: str, names: list[str]) -> bool:
    """Whether a module is one of those that are named; all that are quantised here are "Linear"."""
    return any(name in (module, "Linear") or name.startswith("re:") and re.match(name[3:], module) for name in names)


def pack_module(schemes: list[Scheme], ignored: list[str], place: str, module: str, parts: Parts) -> Packed:
    """The matrix of one module. Raises TinyError if its tensors are not what the configuration says."""
    scheme = next((scheme for scheme in schemes if matches(module, scheme.targets)), None)
    if scheme is None or matches(module, ignored):
        raise TinyError(f"{place} leaves {short(module)} as it is, and its weights are quantised.", AGAIN)
    try:
        stored, scale = taken(parts, "weight_packed" if scheme.format == WORDS else "weight", "weight_scale")
        out, width = shape_of(stored, parts.get("weight_shape"), scheme)
        groups = groups_of(parts.get("weight_g_idx"), scheme.size, width) if scheme.size else None
        scale = scales(scale, out, -(-width // scheme.size) if scheme.size else 1)
        zeros = zeros_of(parts.get("weight_zero_point"), scheme, scale.shape)
    except ValueError as error:
        raise TinyError(f"{place}: {short(module)} is not {scheme.bits} bits in format {scheme.format}: {error}.",
                        AGAIN) from None
    kind = ("fp8" if stored.dtype == FP8 else f"int{scheme.bits}") + (f"/{scheme.size}" if scheme.size else "")
    rows = np.arange(out, dtype=np.int32)[:, None]
    return Packed(kind, (out, width), (stored, scale, rows), partial(unpack, scheme, width, zeros, groups),
                  sum(part.nbytes for part in parts.values()) / out)


def shape_of(stored: np.ndarray, stated: np.ndarray | None, scheme: Scheme) -> tuple[int, int]:
    """The shape of a matrix. Raises ValueError if what is stored does not have it."""
    if stored.ndim != 2 or not stored.size:
        raise ValueError("it has no weights of two axes")
    if scheme.format != WORDS:
        if stored.dtype != (FP8 if scheme.float else np.int8):
            raise ValueError(f"its weights are {stored.dtype}")
        return stored.shape
    if stored.dtype != np.int32 or stated is None or stated.shape != (2,) or stated.dtype.kind != "i":
        raise ValueError("it has no words of int32, or no weight_shape")
    out, width = stated.tolist()
    if (out, -(-width * scheme.bits // 32)) != stored.shape:
        raise ValueError(f"its shape is {(out, width)}, its words are {stored.shape}")
    return out, width


def scales(scale: np.ndarray, out: int, groups: int) -> np.ndarray:
    """A scale for each row and group of columns. Raises ValueError for other shapes. Shapes:  -> (out, G)."""
    if scale.dtype not in STORED:
        raise ValueError("it has no scales of a float type")
    if groups == 1 and scale.size == 1:
        return np.broadcast_to(scale.reshape(1, 1), (out, 1))
    if scale.shape != (out, groups):
        raise ValueError(f"its scales are {scale.shape}, not {(out, groups)}")
    return scale


def zeros_of(zero: np.ndarray | None, scheme: Scheme, shape: tuple[int, ...]) -> Callable | None:
    """From numbers of rows to their zero points. Raises ValueError if these are not there, or have another shape."""
    if (zero is None) != scheme.symmetric:
        raise ValueError("its zero points are missing, or it is symmetric and has some")
    if zero is None:
        return None
    out, groups = shape
    packed = scheme.format == WORDS
    wanted = (-(-out * scheme.bits // 32), groups) if packed else shape
    if zero.shape != wanted or zero.dtype != (np.int32 if packed else np.int8):
        raise ValueError(f"its zero points are {zero.shape} of {zero.dtype}, not {wanted}")
    return partial(across_rows, zero, scheme.bits) if packed else lambda rows: zero[rows[..., 0]]


def unpack(scheme: Scheme, width: int, zeros: Callable | None, groups: np.ndarray | None, stored: np.ndarray,
           scale: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Some rows as float32. Shapes:  stored (..., W), scale (..., G), rows (..., 1) -> (..., in)."""
    zero = None if zeros is None else zeros(rows)
    if scheme.format != WORDS:
        return scaled(CODES.take(stored.view(np.uint8), mode="clip") if scheme.float else stored, scale, zero, groups)
    # Whole numbers are packed plus half of their range, zero points as well.
    numbers = along_rows(stored, scheme.bits)[..., :width]
    half = np.uint8(1 << scheme.bits - 1)
    return scaled((numbers - half).view(np.int8) if zero is None else numbers, scale, zero, groups)


def refusal(place: str, what: str) -> TinyError:
    """The error for weights that are stored in a way that is not read here."""
    return TinyError(f"{place}: {what}; that is not read here.", REMEDY)
