"""Weights as AWQ and GPTQ store them: inputs first, with a scale and a zero for each group of inputs.

That is (in, out): a row of ours is a column of theirs. Read `quantised.py` next.
"""

from functools import partial

import numpy as np

from tiny.config import TinyError
from tiny.files.packed.array import Packed
from tiny.files.packed.compressed import AGAIN, KEYS, Pack, Parts
from tiny.files.packed.unpack import BITS, across_rows, along_rows, groups_of, scaled, taken
from tiny.numerics import STORED
from tiny.system.keys import check_keys
from tiny.system.reading import Note, number, short

FIELDS = ("qweight", "qzeros", "scales", "g_idx", "bias")
ORDER = (0, 2, 4, 6, 1, 3, 5, 7)  # AWQ: which of eight columns each place of a word holds, lowest bits first
REMEDY = "Use a checkpoint of AWQ's version gemm with 4 bits, or of GPTQ with 2, 4 or 8, or the one it was made of."


def read_awq(config: dict, place: str, note: Note) -> Pack:
    """What `quantization_config` says of AWQ. Raises TinyError for what is not read here.

    Source:  AutoAWQ awq/utils/packing_utils.py, dequantize_gemm
    """
    check_keys(config, KEYS["awq"], place, REMEDY, note)
    size = config.get("group_size")
    return partial(pack_awq, place, None if size == -1 else number(config, "group_size", place))


def pack_awq(place: str, size: int | None, module: str, parts: Parts) -> Packed:
    """The matrix of one module. Raises TinyError if its tensors do not fit."""
    try:
        weight, zeros, scale = check_words(parts)
        width, out = weight.shape[0], weight.shape[1] * 8
        groups_of(None, size or width, width)
        check_shapes(zeros, scale, (width // (size or width), out), 4)
    except ValueError as error:
        raise misfit(place, module, error) from None

    def unpack(scale: np.ndarray, rows: np.ndarray) -> np.ndarray:
        whole, zero = (across_rows(words.T, 4, rows, ORDER) for words in (weight, zeros))
        return scaled(whole, scale, zero)

    rows = np.arange(out, dtype=np.int32)[:, None]
    return Packed(f"awq4/{size or width}", (out, width), (scale.T, rows), unpack, bytes_of(parts) / out)


def read_gptq(config: dict, place: str, note: Note) -> Pack:
    """What `quantization_config` says of GPTQ. Raises TinyError for what is not read here.

    Source:  GPTQModel nn_modules/qlinear, dequantize_weight; its first format stores zeros less one
    """
    check_keys(config, KEYS["gptq"], place, REMEDY, note)
    version = config.get("checkpoint_format") or "gptq"
    bits = number(config, "bits", place)
    if bits not in BITS or version not in ("gptq", "gptq_v2"):
        raise TinyError(f"{place}: GPTQ with {bits} bits, format {short(version)}; that is not read here.", REMEDY)
    size = config.get("group_size")
    return partial(pack_gptq, place, bits, None if size == -1 else number(config, "group_size", place),
                   int(version == "gptq"))


def pack_gptq(place: str, bits: int, size: int | None, less: int, module: str, parts: Parts) -> Packed:
    """The matrix of one module; its zeros are stored less `less`. Raises TinyError if its tensors do not fit."""
    try:
        weight, zeros, scale = check_words(parts)
        width, out = weight.shape[0] * 32 // bits, weight.shape[1]
        groups = groups_of(parts.get("g_idx"), size or width, width)
        check_shapes(zeros, scale, (-(-width // (size or width)), out), bits)
    except ValueError as error:
        raise misfit(place, module, error) from None

    def unpack(words: np.ndarray, scale: np.ndarray, rows: np.ndarray) -> np.ndarray:
        zero = across_rows(zeros.T, bits, rows) + less & (1 << bits) - 1
        return scaled(along_rows(words, bits), scale, zero, groups)

    rows = np.arange(out, dtype=np.int32)[:, None]
    return Packed(f"gptq{bits}/{size or width}", (out, width), (weight.T, scale.T, rows), unpack, bytes_of(parts) / out)


def check_words(parts: Parts) -> list[np.ndarray]:
    """Weights, zeros and scales. Raises ValueError if one is missing or of another type, or a bias adds something."""
    weight, zeros, scale = found = taken(parts, "qweight", "qzeros", "scales")
    if weight.ndim != 2 or not weight.size or {weight.dtype, zeros.dtype} != {np.dtype(np.int32)} or (
            scale.dtype not in STORED):
        raise ValueError(f"its words are {weight.shape} of {weight.dtype}, zeros {zeros.dtype}, scales {scale.dtype}")
    if "bias" in parts and parts["bias"].any():  # AutoGPTQ stored zeros
        raise ValueError("it has a bias")
    return found


def check_shapes(zeros: np.ndarray, scale: np.ndarray, shape: tuple[int, int], bits: int) -> None:
    """Raise ValueError if there are not as many scales and zeros as groups. Shapes:  scale (G, out)."""
    groups, out = shape
    if scale.shape != shape or zeros.shape != (groups, out * bits // 32) or out * bits % 32:
        raise ValueError(f"its scales are {scale.shape} and its zeros {zeros.shape}, for {groups} groups of {out} rows")


def bytes_of(parts: Parts) -> int:
    """The bytes of the tensors of a module."""
    return sum(part.nbytes for part in parts.values())


def misfit(place: str, module: str, error: ValueError) -> TinyError:
    """The error for a module whose tensors are not what the configuration says."""
    return TinyError(f"{place}: {short(module)} does not fit: {error}.", AGAIN)
