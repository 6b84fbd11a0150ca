"""Weights that stay on the disk: a model that is larger than memory, read while it computes.

What every token needs is kept, if memory allows. The experts that a layer has chosen are read in the order of their
use, each while the one before it computes, and those used last stay in the memory that is left. Decoder and operations
do not know: they look up arrays by name, as ever. Read `shelf.py` first.
"""

import functools
import mmap
import threading
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from types import ModuleType

import numpy as np

from tiny.config import TinyError
from tiny.decoder import ExpertMatrices
from tiny.files.packed.array import stored_of
from tiny.files.streamed.shelf import Shelf, Tenant, stacked
from tiny.files.weights import EMBEDDINGS, Weights
from tiny.system.direct import DirectReader, Refused, Span, check_direct, find_spans, pages_for
from tiny.system.free_memory import free_memory
from tiny.system.reading import warn

AHEAD = 8  # tensors that are read ahead where their order is known: those of about a layer


def hold(tensors: dict[str, np.ndarray], mode: str, ops: ModuleType) -> tuple[Weights, ModuleType]:
    """Weights in one of the modes, and the operations that a model uses with them.

    Where direct reads are refused, streamed weights become mapped ones, with a warning.
    """
    weights = Weights(tensors, mode)
    if weights.mode != "streamed":
        return weights, ops
    try:
        streamed = Streamed(tensors)
    except Refused as error:
        warn(f"weights are mapped, not streamed: {error}")
        return Weights(tensors, "mapped"), ops
    return streamed, streamed_ops(ops, streamed)


class Streamed(Weights):
    """The tensors of a model, each read from the disk when its turn comes.

    tensors: views of mapped files: what they look like, and where they are
    They take half of the free memory; `allow` changes that.
    """

    def __init__(self, tensors: dict[str, np.ndarray]):
        super().__init__(tensors, "streamed")
        stored = {name: stored_of(tensor) for name, tensor in tensors.items()}
        self.spans = find_spans(stored)
        self.reader = DirectReader({span.path for span in self.spans.values()})
        check_direct(self.reader, stored, self.spans)
        self.shelf, self.lock = Shelf(self.reader, self.spans), threading.RLock()
        self.plan: deque[str] = deque()  # to be read in this order, as soon as there is room
        self.wanted: set[str] = set()  # planned or read, and not yet used
        self.followers: dict[str, str] = {}  # of the tensors that every token needs: which was looked up after which
        self.forks: set[str] = set()  # of these, those after which somebody sent for experts: nobody knows which
        self.last = ""
        self.network, self.least = least_memory(tensors)
        self.allow(min(max(self.least, (free := free_memory()) // 2), free))

    def allow(self, limit: int) -> None:
        """Use so many bytes for tensors: first for what every token needs, a share in each layer if not all fits.

        Raises:  TinyError for less than `least`
        """
        if limit < self.least:
            raise TinyError(f"Streamed weights need {self.least:,} bytes of memory at least, and may take {limit:,}.",
                            "Let them take more, or use a machine that has more.")
        needed = {name: size for name, size in self.shelf.sizes.items() if needed_by_all(name)}
        large = {name for name, size in needed.items() if size > self.network}
        # One network computes while the next one arrives; or the largest tensor does, if it is not kept.
        room = limit - 2 * self.network - sum(needed[name] for name in large)
        room, kept = (room, large) if room >= 0 else (limit - 2 * self.least, set())
        share, taken, seen = room / max(1, sum(needed[name] for name in needed if name not in large)), 0, 0
        for name in [name for name in needed if name not in large]:
            seen += needed[name]
            if taken + needed[name] <= share * seen:
                taken += needed[name]
                kept.add(name)
        self.shelf.limit, self.shelf.kept = limit, kept

    def __getitem__(self, name: str) -> np.ndarray:
        if name == EMBEDDINGS:
            return self.tensors[name]
        with self.lock:
            tenant = self.tenant(name)
            array = tenant.array(self.tensors[name])  # From here on its buffer is in use.
            self.advance()
        try:
            self.reader.wait(tenant.arrival)
        except BaseException:
            self.stop()
            raise
        return array

    def tenant(self, name: str) -> Tenant:
        """A tensor that is looked up: held, or begun now."""
        if name not in self.shelf.tenants:
            if name not in self.plan:  # It was not expected, so what was may never come.
                self.expect(())
            self.shelf.make_room(name, self.wanted)  # If there is none, it takes more than its limit.
            self.shelf.begin(name)
        self.shelf.tenants.move_to_end(name)
        self.wanted.discard(name)
        if needed_by_all(name):
            if self.last:
                self.followers[self.last] = name
            self.last = name
            if not self.plan and name not in self.forks:
                self.expect((), name)
        return self.shelf.tenants[name]

    def fetch(self, names: Iterable[str]) -> None:
        """Begin to read tensors in the order of their use, and then those that will follow."""
        with self.lock:
            self.forks.add(self.last)
            self.expect(names, self.last)
            self.advance()

    def expect(self, names: Iterable[str], last: str = "") -> None:
        """Plan to read some tensors, and then what came after `last` the time before, up to a fork."""
        self.plan = deque(names)
        for _ in range(AHEAD):
            last = self.followers.get(last, "")
            if not last or last in self.plan:
                break
            self.plan.append(last)
            if last in self.forks:
                break
        self.wanted = set(self.plan)

    def advance(self) -> None:
        """Begin with what is planned, as far as memory goes."""
        while self.plan:
            name = self.plan[0]
            if name not in self.shelf.tenants:
                if not self.shelf.make_room(name, self.wanted):
                    return
                self.shelf.begin(name)
            self.shelf.tenants.move_to_end(name)
            self.plan.popleft()

    def stop(self) -> None:
        """Forget what was planned, and what is not there or could not be read. Its buffers are used no more."""
        with self.lock:
            self.reader.stop()
            self.plan.clear()
            self.wanted.clear()
            self.shelf.forget_unread()

    def rows(self, ids: Sequence[int]) -> np.ndarray:
        """Some rows of the embedding table, nothing else of it. Shapes:  n numbers -> (n, D)."""
        table, span = self.tensors[EMBEDDINGS], self.spans[EMBEDDINGS]
        size = span.size // len(table)
        try:
            arrivals = [self.reader.read(f"{EMBEDDINGS}, row {row}", Span(span.path, span.start + row * size, size),
                                         mmap.mmap(-1, pages_for(size))) for row in ids]
            for arrival in arrivals:
                self.reader.wait(arrival)
        except BaseException:
            self.stop()
            raise
        return stacked(table, arrivals)


def least_memory(tensors: Mapping[str, np.ndarray]) -> tuple[int, int]:
    """Bytes of what is in use at once: the three matrices of a network, and that or the largest tensor."""
    sizes = {name: pages_for(x.nbytes) for name, x in tensors.items() if name != EMBEDDINGS}
    network = 3 * max(size for name, size in sizes.items() if ".feed_forward." in name)
    return network, max(network, *sizes.values())


def needed_by_all(name: str) -> bool:
    """Whether every token needs a tensor: no expert, nothing of the vision encoder, no table to look things up."""
    return not (".experts." in name or name.startswith("vision_") or name == EMBEDDINGS)


def streamed_ops(base: ModuleType, weights: Streamed) -> ModuleType:
    """The operations `base`, but experts that were chosen are sent for, and embeddings are read row by row."""
    ops = ModuleType(f"{base.__name__}, streamed")
    vars(ops).update({name: value for name, value in vars(base).items() if not name.startswith("__")})

    @functools.wraps(base.experts)
    def experts(x: np.ndarray, expert_ids: np.ndarray, expert_weights: np.ndarray, w1: ExpertMatrices,
                w2: ExpertMatrices, w3: ExpertMatrices, precision: str = "float32") -> np.ndarray:
        chosen = sorted(set(expert_ids.ravel().tolist()))
        weights.fetch(matrices.name % e for e in chosen for matrices in (w1, w2, w3))
        return base.experts(x, expert_ids, expert_weights, w1, w2, w3, precision)

    @functools.wraps(base.embed)
    def embed(ids: np.ndarray, table: np.ndarray) -> np.ndarray:
        if table is not weights.tensors[EMBEDDINGS] or not (0 <= ids.min() <= ids.max() < len(table)):
            return base.embed(ids, table)
        rows, places = np.unique(ids, return_inverse=True)
        return base.embed(places, weights.rows(rows.tolist()))

    for operation in (experts, embed):
        setattr(ops, operation.__name__, operation)
    return ops
