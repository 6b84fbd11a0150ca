"""The checkpoints that Mixtral came in before safetensors: consolidated.NN.pth or .pt, by Mistral's names.

One file holds all (the torrent), or eight hold some layers each, with the experts of a layer stacked into one matrix
and copies of what belongs to no layer.
"""

import re
from pathlib import Path

import numpy as np

from tiny.config import Config, MoeConfig, TinyError
from tiny.files.hf_config import HF_NAMES, read_hf_config
from tiny.files.params import checked, read_params
from tiny.files.weights import Tensors, expected_shapes, release_pages
from tiny.system.reading import number, read_json
from tiny.tools.convert.torch_file import read_torch_file

STACKED = re.compile(r"(layers\.\d+\.feed_forward)\.(w[123])")
ROWS = 1 << 12  # rows that are compared at once


def torch_files(folder: Path) -> list[Path]:
    """The files of torch.save that a folder holds under the released names."""
    files = [path for suffix in ("pth", "pt") for path in folder.glob(f"consolidated*.{suffix}") if path.is_file()]
    if len({path.suffix for path in files}) > 1:
        raise TinyError(f"{folder} holds consolidated files as .pt and as .pth.", "Keep those of one release.")
    return sorted(files)


def read_torch_config(folder: Path) -> tuple[Config, Path]:
    """The configuration beside consolidated.*.pt: params.json with Mistral's keys or with HF's, else config.json.

    Raises:  TinyError as `read_params` and `read_hf_config`
    Source:  transformers convert_mixtral_weights_to_hf.py, which reads HF's keys from params.json
    Differs: no theta and no number of experts is assumed; the script assumes 10000.0 if theta is missing
    """
    path = folder / "params.json"
    if not path.is_file() and (folder / "config.json").is_file():
        return read_hf_config(folder / "config.json"), folder / "config.json"
    params = read_json(path)
    if "dim" in params or "hidden_size" not in params:
        return read_params(path), path
    sizes = {name: number(params, key, path) for name, key in HF_NAMES.items()}
    # The paper's two experts a token, and its context: this form of the file has no key for either.
    moe = MoeConfig(number(params, "num_local_experts", path), number(params, "num_experts_per_tok", path, default=2))
    length = number(params, "max_position_embeddings", path, default=32768)
    return checked(path, Config(
        **sizes, moe=moe, norm_eps=number(params, "rms_norm_eps", path, float), max_seq_len=length,
        head_dim=number(params, "head_dim", path, default=sizes["dim"] // sizes["n_heads"]),
        rope_theta=number(params, "rope_theta", path, float))), path


def open_torch(files: list[Path], config: Config) -> "TorchTensors":
    """Map all files and return exactly the tensors of the model, by Mistral's names.

    Stacked experts are taken apart, w2 among them transposed. A tensor in several files must be the same in all, or
    come in parts that make the whole when they are joined.

    Raises:  TinyError that names a tensor which is missing, unexpected, misshapen, or not the same in all files
    """
    parts: dict[str, list[np.ndarray]] = {}
    for path in files:
        for name, x in unstacked(read_torch_file(path), config, path).items():
            parts.setdefault(name, []).append(x)
    joined, folder = {}, files[0].parent
    for name, shape in expected_shapes(config).items():
        if name not in parts:
            raise TinyError(f"{folder} lacks the tensor {name} in its {len(files)} files.",
                            "Fetch the files again, all of one model.")
        joined[name] = join(name, parts.pop(name), shape, folder)
    if parts:
        raise TinyError(f"{folder} holds {len(parts)} tensors that the model has not: {min(parts)}.",
                        "The weights and the configuration are of two models.")
    return TorchTensors(joined)


def unstacked(tensors: dict[str, np.ndarray], config: Config, path: Path) -> dict[str, np.ndarray]:
    """Mistral's names for one file's tensors; a stack of experts becomes a view of each.

    Shapes:  w1, w2, w3 (E * F, D) -> w1, w3 (F, D), and w2 (D, F), which is stored transposed
    Source:  transformers convert_mixtral_weights_to_hf.py
    """
    found = {}
    for stored, x in tensors.items():
        name = stored.replace(".block_sparse_moe.", ".feed_forward.")
        stack, E = STACKED.fullmatch(name), config.moe.num_experts if config.moe else 0
        if stack and E:
            if x.shape != (E * config.hidden_dim, config.dim):
                raise TinyError(f"{path}: {stored} is {x.shape}, {E} stacked experts are "
                                f"{(E * config.hidden_dim, config.dim)}.",
                                "The weights and the configuration are of two models.")
            for e in range(E):
                expert = x[e * config.hidden_dim:(e + 1) * config.hidden_dim]
                found[f"{stack[1]}.experts.{e}.{stack[2]}.weight"] = expert.T if stack[2] == "w2" else expert
        elif name in found:
            raise TinyError(f"{path} holds {name} under two names.", "Fetch the file again.")
        else:
            found[name] = x
    return found


def join(name: str, parts: list[np.ndarray], shape: tuple[int, ...], folder: Path) -> tuple[list[np.ndarray], int]:
    """The parts of a tensor and the axis to join them along. Raises TinyError if they do not make this shape."""
    shapes = [part.shape for part in parts]
    if set(shapes) == {shape}:
        if not all(equal(parts[0], part) for part in parts[1:]):
            raise TinyError(f"{folder}: {name} is not the same in all files.", "Fetch all files again, of one model.")
        return parts[:1], 0
    for axis, length in enumerate(shape):
        lengths = [s[axis] for s in shapes if len(s) == len(shape) and s[:axis] + (length,) + s[axis + 1:] == shape]
        if len(lengths) == len(parts) and sum(lengths) == length and len({part.dtype for part in parts}) == 1:
            return parts, axis
    raise TinyError(f"{folder}: {name} is {', '.join(map(str, shapes[:8]))}, the configuration says {shape}.",
                    "The weights and the configuration are of two models.")


def equal(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two tensors are the same bit by bit, a few rows at a time."""
    if one.dtype != other.dtype:
        return False
    bits = f"u{one.itemsize}"
    for start in range(0, len(one), ROWS):
        same = np.array_equal(np.ascontiguousarray(one[start:start + ROWS]).view(bits),
                              np.ascontiguousarray(other[start:start + ROWS]).view(bits))
        release_pages(one)
        release_pages(other)
        if not same:
            return False
    return True


class TorchTensors(Tensors):
    """Tensors by Mistral's names, joined when they are looked up if they come in parts; nothing is kept."""

    def __init__(self, parts: dict[str, tuple[list[np.ndarray], int]]):
        super().__init__(parts)
        self.parts = parts

    def __getitem__(self, name: str) -> np.ndarray:
        parts, axis = self.parts[name]
        if len(parts) == 1:
            return parts[0]
        whole = np.concatenate(parts, axis)
        for part in parts:
            release_pages(part)
        return whole
