"""What the reference says with each fault: computed once, and kept in a file for the next run.

Of the vocabulary the likeliest tokens are kept, those of the reference and those with the fault: a server names no
others. A file belongs to the files of a model, to the code here, to a fault and to the tokens of the texts.
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

import tiny
from tiny.config import TinyError
from tiny.system.whole import write_whole
from tiny.tools.verify.npz import archive, read_array, read_headers

LIKELIEST = 64  # tokens of a position, of either kind
SAMPLES, SAMPLE = 64, 4096  # of a file of weights: pieces that are read, and bytes of each
Column = tuple[np.ndarray, np.ndarray, int]  # ids (T, n), values (T, n), and V
# Faults by name, None without one, and texts -> each name with log-probabilities (T, V) of every text.
Run = Callable[[Mapping[str, Any], Sequence[Sequence[int]]], Iterable[tuple[str, list[np.ndarray]]]]


class Reference:
    """The reference on some texts.

    run: computes, the first one first; folder: where results are kept, which exists; None keeps nothing
    faults: by name, computed at once with what is without a fault, so that they can share passes
    plain: of each text the log-probabilities without a fault; computed, kept: how many faults were
    """

    def __init__(self, run: Run, texts: Sequence[Sequence[int]], folder: Path | None, key: str,
                 faults: Mapping[str, Any] | None = None):
        self.run, self.texts, self.folder, self.computed, self.kept = run, texts, folder, 0, 0
        self.key = hashlib.sha256(f"{key} {[list(map(int, ids)) for ids in texts]}".encode()).hexdigest()
        self.held: dict[str, list[Column]] = {}
        self.prepare({"": None} | dict(faults or {}))

    @property
    def plain(self) -> list[np.ndarray]:
        """Log-probabilities without a fault, which every other one is packed with."""
        return self.of("", None)

    def of(self, name: str, fault: Any) -> list[np.ndarray]:
        """Log-probabilities with a fault. Shapes:  -> (T, V) float32 for each text, NaN for what is not kept."""
        self.prepare({name: fault})
        return [unpack(*column) for column in self.held[name]]

    def prepare(self, faults: Mapping[str, Any]) -> None:
        """Have the results of some faults at hand: from their files, or by running the reference."""
        lengths = [len(ids) for ids in self.texts]
        missing: dict[str, Any] = {}
        for name, fault in faults.items():
            if name not in self.held:
                found = read(self.path(name), lengths) if self.folder else None
                missing |= {} if found else {name: fault}
                self.held |= {name: found} if found else {}
                self.kept += found is not None
        for name, logprobs in tqdm(self.run(missing, self.texts), "reference", len(missing), leave=False, disable=None):
            plain = self.plain if name else [None] * len(lengths)
            self.held[name] = [pack(*pair) for pair in zip(logprobs, plain)]
            self.computed += 1
            if self.folder:
                write(self.path(name), self.held[name])

    def path(self, name: str) -> Path:
        """The file of a fault."""
        assert self.folder is not None
        return self.folder / f"{hashlib.sha256(f'{self.key} {name}'.encode()).hexdigest()[:32]}.npz"


def pack(logprobs: np.ndarray, plain: np.ndarray | None) -> Column:
    """The likeliest tokens of each position, and of the same without the fault, with their log-probabilities.

    Shapes:  (T, V), (T, V) or None -> ids (T, n) int32, values (T, n) float32, and V
    """
    V = logprobs.shape[1]
    count = min(LIKELIEST, V)
    best = [np.argpartition(-np.where(np.isnan(x), -np.inf, x), count - 1, axis=1)[:, :count]
            for x in (logprobs, plain) if x is not None]
    ids = np.concatenate(best, axis=1).astype(np.int32)
    return ids, np.take_along_axis(logprobs, ids, axis=1).astype(np.float32), V


def unpack(ids: np.ndarray, values: np.ndarray, V: int) -> np.ndarray:
    """The inverse of `pack`, with NaN where nothing was kept. Shapes:  (T, n), (T, n) -> (T, V) float32."""
    out = np.full((len(ids), V), np.nan, np.float32)
    np.put_along_axis(out, ids, values, axis=1)
    return out


def write(path: Path, columns: Sequence[Column]) -> None:
    """Keep columns in a file. Raises OSError if that fails: what was kept before is still there for the next run."""
    arrays: dict[str, Any] = {f"{name}{n}": np.asarray(one) for n, column in enumerate(columns)
              for name, one in zip(("ids", "values", "size"), column)}
    write_whole(path, lambda file: np.savez(file, **arrays))


def read(path: Path, lengths: Sequence[int]) -> list[Column] | None:
    """The columns of a file; None if it is not there, or does not hold what belongs there: then it is written anew."""
    try:
        with archive(path) as opened:
            headers = read_headers(path, opened)
            found = [(read_array(path, opened, headers[f"ids{n}"]), read_array(path, opened, headers[f"values{n}"]),
                      int(read_array(path, opened, headers[f"size{n}"]))) for n in range(len(lengths))]
    except (TinyError, KeyError, OSError, TypeError, ValueError):
        return None
    sound = all(ids.ndim == 2 and ids.shape == values.shape and len(ids) == T and ids.dtype == np.int32
                and values.dtype == np.float32 and ids.size and 0 <= ids.min() and ids.max() < size <= 1 << 24
                for (ids, values, size), T in zip(found, lengths))
    return found if sound else None


def folder_of(named: str | None) -> Path | None:
    """Where results are kept: the folder that was named, or one of the user's caches if that can be made.

    Raises:  OSError for a folder that was named and cannot be made
    """
    caches = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    folder = Path(named) if named else Path(caches) / "tiny" / "verify-server"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        if named:
            raise
    return folder if os.access(folder, os.W_OK) else None


def fingerprint(files: Sequence[Path]) -> str:
    """What changes if the files of a model or the code that runs it do. Of weights, pieces all over each file are read.
    """
    digest = hashlib.sha256()
    for path in sorted(files):
        size = path.stat().st_size
        digest.update(f"{path.name} {size} ".encode())
        with open(path, "rb") as file:
            for n in range(min(SAMPLES, -(-size // SAMPLE))):
                file.seek(n * max(size - SAMPLE, 0) // max(SAMPLES - 1, 1) if size > SAMPLES * SAMPLE else n * SAMPLE)
                digest.update(file.read(SAMPLE))
    for path in sources():
        digest.update(path.read_bytes())
    return digest.hexdigest()


def sources() -> Iterator[Path]:
    """The code that decides what the reference says."""
    root = Path(tiny.__file__).parent
    here = Path(__file__).parent
    for folder in (root, root / "files", root / "files/packed", here, here.parent):
        yield from sorted(path for path in folder.glob("*.*") if path.suffix in (".py", ".toml"))
