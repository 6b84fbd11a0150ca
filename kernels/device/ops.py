"""The operations of the seam on arrays that stay on a device: the same names as `tiny/ops.py`, for a resident model.

Arrays come and go in the type in which the precision stores them. Nothing here waits for the device, and in a step of
one token for each sequence nothing is uploaded: ids, positions, rows and spans are arrays of the device then. In a
prompt they come from the host, as in the book.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from kernels import attention, experts, linear, patch_embed, positions, rms_norm, rope, route
from kernels import embed as rows_of
from kernels import splice as patches_into
from kernels.device.cache import DeviceCache
from kernels.launch import Launcher
from kernels.storage import STORES
from tiny.config import Config, VisionConfig
from tiny.decoder import ExpertMatrices

INT32 = np.dtype(np.int32)
MATRICES = ("w1", "w2", "w3")


class Whole:
    """A matrix in int8: whole numbers, and the scale of each row."""

    def __init__(self, whole: Any, scale: Any) -> None:
        self.whole, self.scale, self.shape = whole, scale, whole.shape
        self.nbytes = whole.nbytes + scale.nbytes


class Later:
    """A result that the next operation computes on its way; `ops.array` computes it if no operation did."""

    def __init__(self, parts: tuple, make: Callable[..., Any]) -> None:
        self.parts, self.make, self.value = parts, make, None

    def __len__(self) -> int:
        return len(self.parts[0])


class DeviceOps:
    """The seam. launcher: where arrays are, and through which kernels start; a step puts its own in the place.

    kept: the launcher that gives the arrays which the host reads after a step: what the routers said
    """

    kernels = ["all"]

    def __init__(self, launcher: Launcher, precision: str) -> None:
        self.launcher = self.kept = launcher
        self.lock = launcher.lock
        self.precision, self.dtype = precision, STORES[precision]
        self.constants: dict[tuple, Any] = {}  # small arrays that every pass reads, made once
        self.turned: list[Later] = []  # the queries and keys that were turned last
        self.table: tuple = ((), None)  # of tiles, which all layers of a pass share

    def constant(self, key: tuple, make: Callable[[], np.ndarray]) -> Any:
        """An array that is put on the device at its first use."""
        if key not in self.constants:
            self.constants[key] = self.launcher.put(make())
        return self.constants[key]

    def ones(self, D: int) -> Any:
        """The weight of a norm that nobody reads, beside a sum that somebody does."""
        return self.constant(("ones", D), lambda: np.ones(D, np.float32))

    def prepare(self, weights: Mapping[str, Any], config: Config | VisionConfig, scope: str = "") -> None:
        """Put on the device what layers of these sizes read beside their weights: a pass then uploads only its own."""
        self.turns(config.head_dim, config.rope_theta)
        for layer in range(config.num_hidden_layers if isinstance(config, VisionConfig) else config.n_layers):
            if config.moe:
                self.expert_tables(*(ExpertMatrices(weights, layer, name, config.moe.num_experts) for name in MATRICES))
            else:
                self.tables([[weights[f"{scope}layers.{layer}.feed_forward.{name}.weight"]] for name in MATRICES])

    def array(self, x: Any) -> Any:
        """A result as an array: computed now, if the operation that would do it on its way did not come."""
        if not isinstance(x, Later):
            return x
        if x.value is None:
            x.value = x.make(*x.parts)
        return x.value

    def numbers(self, array: Any) -> Any:
        """Whole numbers as kernels read them: int32 without gaps, on the device. Those of the host are uploaded."""
        there: Any = array if isinstance(array, self.launcher.array_type) else None
        if there is not None and there.dtype == INT32 and there.flags.c_contiguous:
            return there
        return self.launcher.put(np.asarray(array).astype(np.int32))

    def counted(self, values: Sequence[int], counts: Sequence[int]) -> Any:
        """Whole numbers that count up from each value, on the device; nothing is uploaded."""
        numbers = self.launcher.empty((sum(counts),), np.int32)
        firsts = [0, *itertools.accumulate(counts)]
        return positions.place(self.launcher, numbers, list(zip(firsts, counts, values)))

    # ---- the residual stream

    def embed(self, ids: Any, table: Any) -> Any:
        """Rows of a table, or of the stream itself: then they are the last ones of sequences, known to the host."""
        ids = self.counted(ids.tolist(), [1] * len(ids)) if isinstance(table, Later) else self.numbers(ids)
        return rows_of.run_embed(self.launcher, ids, self.array(table), self.precision)

    def add(self, x: Any, y: Any, precision: str = "float32") -> Any:
        """The sum, which the norm that comes next computes on its way."""
        def alone(x, y):
            return rms_norm.run_add_norm(self.launcher, x, y, self.ones(x.shape[1]), eps=0.0)[0]

        return Later((self.array(x), y), alone)

    def rms_norm(self, x: Any, weight: Any, eps: float, precision: str = "float32") -> Any:
        """The norm, with the sum that waits for it."""
        if isinstance(x, Later) and x.value is None:
            stream, y = x.parts
            x.value, normed = rms_norm.run_add_norm(self.launcher, stream, y, weight, eps)
            return normed
        return rms_norm.run_rms_norm(self.launcher, self.array(x), weight, eps)

    def add_norm(self, x: Any, y: Any, weight: Any, eps: float, precision: str = "float32") -> tuple[Any, Any]:
        """The sum and its norm."""
        return rms_norm.run_add_norm(self.launcher, self.array(x), y, weight, eps)

    def linear(self, x: Any, weight: Any, precision: str = "float32") -> Any:
        """One product, with weights as they are stored or in int8."""
        return self.product(x, weight)

    def product(self, x: Any, weight: Any, **tail: Any) -> Any:
        """The linear map, and what may follow it: bias, gelu."""
        whole, scale = (weight.whole, weight.scale) if isinstance(weight, Whole) else (weight, None)
        return linear.run_linear(self.launcher, self.array(x), whole, scale, **tail)

    # ---- attention

    def rope_table(self, positions_: Any, head_dim: int, theta: float) -> tuple[Any, Any]:
        """Angles of positions, which are read on the device."""
        return positions.run_rope_table(self.launcher, self.numbers(positions_), self.turns(head_dim, theta))

    def rope_2d_table(self, positions_: np.ndarray, head_dim: int, theta: float) -> tuple[Any, Any]:
        """Angles of patches; of the positions only the sizes of the images go to the device."""
        return positions.run_rope_2d_table(self.launcher, grids_of(positions_), self.turns(head_dim, theta))

    def turns(self, head_dim: int, theta: float) -> Any:
        """The frequencies of a head's pairs."""
        return self.constant(("turns", head_dim, theta), lambda: positions.frequencies(head_dim, theta))

    def rope(self, x: Any, cos: Any, sin: Any, precision: str = "float32") -> Any:
        """The turned heads, which the cache computes on its way when it takes the keys."""
        self.turned = [*self.turned[-1:], Later((x, cos, sin), lambda *parts: rope.run_rope(self.launcher, *parts))]
        return self.turned[-1]

    def new_cache(self, n_layers: int, n_kv_heads: int, head_dim: int, max_tokens: Sequence[int],
                  dtype: str = "float32") -> DeviceCache:
        """An empty cache on the device, in the type in which the precision stores numbers, whatever dtype says."""
        return DeviceCache(self, n_layers, n_kv_heads, head_dim, max_tokens)

    def append(self, k: Later, v: Any, rows: Any, keys: Any, values: Any) -> None:
        """Turn the keys, and the queries that were to be turned just before, and write keys and values into their rows.

        Shapes:  k, v (T, G, d), rows (T,), keys, values (S, G, d)
        """
        if len(self.turned) < 2 or self.turned[1] is not k:
            raise ValueError("append expects the keys that rope got last, after the queries of the same tokens, and "
                             "those of the model that made the cache.")
        q = self.turned[0]
        x, cos, sin = q.parts
        q.value = rope.run_rope_into_cache(self.launcher, x, k.parts[0], v, cos, sin, rows, keys, values)

    def attention(self, q: Any, keys: Any, values: Any, lengths: Sequence[int], spans: Any, causal: bool = True,
                  precision: str = "float32") -> Any:
        """Attention; spans are on the device in a step, where every sequence has one query."""
        q, keys, self.turned = self.array(q), self.array(keys), []
        if isinstance(spans, self.launcher.array_type):
            return attention.run_attention_decode(self.launcher, q, keys, values, spans)
        heads = q.shape[1] // keys.shape[1]
        key = (tuple(lengths), tuple(spans), causal, heads)
        if self.table[0] != key:
            queries = attention.queries_of_a_tile(heads)
            self.table = key, positions.place_tiles(self.launcher, lengths, spans, causal, queries)
        return attention.run_attention(self.launcher, q, keys, values, self.table[1], causal)

    # ---- experts

    def route(self, x: Any, gate: Any, num_experts_per_tok: int, precision: str = "float32") -> tuple[Any, Any, Any]:
        """Each token's experts, in arrays that the host may read after a step."""
        return route.run_route(self.kept, x, gate, num_experts_per_tok)

    def experts(self, x: Any, expert_ids: Any, expert_weights: Any, w1: Any, w2: Any, w3: Any,
                precision: str = "float32") -> Any:
        """The experts of each token, added up."""
        return experts.run_experts(self.launcher, x, expert_ids, expert_weights, self.expert_tables(w1, w2, w3))

    def feed_forward(self, x: Any, w1: Any, w2: Any, w3: Any, precision: str = "float32") -> Any:
        """The network of a dense layer: one expert, which every token has."""
        return experts.run_experts(self.launcher, x, None, None, self.tables([[w1], [w2], [w3]]))

    def expert_tables(self, *of_layer: ExpertMatrices) -> Any:
        """The tables of pointers to w1, w2 and w3 of all experts of a layer."""
        return self.tables([[matrices[e] for e in range(len(matrices))] for matrices in of_layer])

    def tables(self, matrices: list[list]) -> Any:
        """The tables of pointers to these matrices, made once. They are held, so that no others get their ids."""
        key, parts = ("tables", *(id(matrix) for of in matrices for matrix in of)), matrices
        if key not in self.constants:
            if all(isinstance(matrix, Whole) for of in matrices for matrix in of):
                parts = [[getattr(matrix, part) for matrix in of] for part in ("whole", "scale") for of in matrices]
            self.constants[key] = experts.make_tables(self.launcher, parts), matrices
        return self.constants[key][0]

    # ---- images

    def patch_embed(self, images: Sequence[np.ndarray], weight: Any, precision: str = "float32") -> Any:
        """The vectors of all patches; pixels are uploaded, and become rows on the device."""
        placed = [self.launcher.put(pixels.astype(self.dtype)) for pixels in images]
        return patch_embed.run_patch_embed(self.launcher, placed, weight)

    def adapter(self, x: Any, weights: Mapping[str, Any], precision: str = "float32") -> Any:
        """Two linear maps with biases, and a GELU between them."""
        name = "vision_language_adapter."
        hidden = self.product(x, weights[f"{name}w_in.weight"], bias=weights[f"{name}w_in.bias"], gelu=True)
        return self.product(hidden, weights[f"{name}w_out.weight"], bias=weights[f"{name}w_out.bias"])

    def splice(self, text: Any, ids: Any, features: Any, image_token_id: int) -> Any:
        """Patches into the rows of their tokens."""
        return patches_into.run_splice(self.launcher, text, self.numbers(ids), features, image_token_id)


def grids_of(positions_: np.ndarray) -> list[tuple[int, int]]:
    """The columns and rows of images, from the places of their patches: each begins with (0, 0), row by row.

    Shapes:  positions (N, 2)
    """
    firsts = np.flatnonzero((positions_ == 0).all(axis=1))
    lasts = np.append(firsts[1:], len(positions_)) - 1
    return [(int(column) + 1, int(row) + 1) for row, column in positions_[lasts]]
