"""What one click shows: the numbers of one token, computed from the arrays of a run when they are asked for.

A row of attention follows from queries and keys, so that no square of all tokens is ever made.
"""

from collections.abc import Sequence

import numpy as np

from tiny.config import TinyError
from tiny.numerics import round_to, softmax
from tiny.tools.explore.runs import Run


def attention_row(q: np.ndarray, keys: np.ndarray, seen: np.ndarray, precision: str = "float32") -> np.ndarray:
    """By how much one query averages the values of the keys that it sees, in each head: a row sums to 1.

    Shapes:  q (H, d), keys (S, G, d), seen (S,) bool -> (H, S); query head h uses KV head h // (H / G)
    Dtypes:  float32 -> float32, 0 where a key is not seen
    Source:  steps (3) to (5) of `tiny.attention.attend`
    """
    (H, d), (S, G, _) = q.shape, keys.shape
    scores = np.matmul(keys.transpose(1, 0, 2), q.reshape(G, H // G, d).transpose(0, 2, 1))  # (G, S, H / G)
    scores = round_to(np.ascontiguousarray(scores.transpose(0, 2, 1)).reshape(H, S), precision)
    scores = round_to(scores * np.float32(d**-0.5), precision)
    scores[:, ~seen] = -np.inf
    return round_to(softmax(scores), precision)


def check_row(run: Run, row: int) -> None:
    """Raise TinyError for a row that the run does not have."""
    if not 0 <= row < len(run.ids):
        raise TinyError(f"Row {row} is asked for, and the run has {len(run.ids)}.",
                        f"Give a row from 0 to {len(run.ids) - 1}.")


def seen_by(run: Run, row: int, layer: int) -> np.ndarray:
    """Which keys the query of a row sees in a layer: those up to itself; without the causal mask all of its pass; and
    never those that are hidden.

    Shapes:  -> (S,) bool, S = the rows that were read by the end of its pass
    """
    ask, seen = run.ask, np.zeros(run.stops[row], bool)
    dropped = ask.switch == "no_mask" and ask.layer in (None, layer)
    seen[: len(seen) if dropped else row + 1] = True
    walls = run.places[np.array(ask.hide, int)]
    seen[walls[walls < len(seen)]] = False
    return seen


def attention(run: Run, row: int) -> np.ndarray:
    """The rows of attention of one token, of all layers and heads.

    Shapes:  -> (L, H, S), S = row + 1, or without the causal mask the rows of its pass
    """
    check_row(run, row)
    stop = int(run.stops[row]) if run.ask.switch == "no_mask" else row + 1
    return np.stack([attention_row(run.trace[f"q{layer:02}"][row], run.trace[f"k{layer:02}"][:stop],
                                   seen_by(run, row, layer)[:stop], run.model.precision)
                     for layer in range(run.model.config.n_layers)])


def patch_attention(run: Run, patch: int) -> np.ndarray:
    """What one patch reads in the encoder, of all layers and heads: every patch of its own picture, and no other.

    Shapes:  -> (L, H, N), L and H of the encoder, N = the patches of all pictures
    Raises:  TinyError for a patch that the run does not have
    """
    counts = [columns * rows for columns, rows in run.grids]
    if not 0 <= patch < sum(counts):
        raise TinyError(f"Patch {patch} is asked for, and the run has {sum(counts)}.", "Tap a patch of a picture.")
    picture = np.repeat(np.arange(len(counts)), counts)
    seen = (picture == picture[patch]) | (run.ask.switch == "pictures_mixed")
    layers = sum(name.startswith("vision_q") for name in run.trace)
    return np.stack([attention_row(run.trace[f"vision_q{layer:02}"][patch], run.trace[f"vision_k{layer:02}"], seen,
                                   run.model.precision) for layer in range(layers)])


def logits(run: Run, row: int) -> np.ndarray:
    """The scores of the next token after one token, as the pass computed them. Shapes:  -> (V,)."""
    check_row(run, row)
    model = run.model
    x = run.trace[f"layer{model.config.n_layers - 1:02}"][row : row + 1]
    x = model.ops.rms_norm(x, model.weights["norm.weight"], model.config.norm_eps, model.precision)
    return model.ops.linear(x, model.weights["output.weight"], model.precision)[0]


def routing(run: Run, row: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The router of one token in all layers.

    With another number of experts in one layer, K is the largest; what is missing has id -1 and weight 0.

    Shapes:  -> logits (L, E), expert ids (L, K), expert weights (L, K)
    """
    check_row(run, row)
    layers, moe = range(run.model.config.n_layers), run.model.config.moe
    if moe is None:
        nobody = np.empty((len(layers), 0), np.float32)
        return nobody, nobody.astype(int), nobody
    scores = np.stack([run.trace[f"router_logits{layer:02}"][row] for layer in layers])
    chosen, weights = (filled([run.trace[f"{name}{layer:02}"][row] for layer in layers], nothing)
                       for name, nothing in (("experts", -1), ("expert_weights", 0)))
    return scores, chosen, weights


def filled(rows: Sequence[np.ndarray], nothing: int) -> np.ndarray:
    """Rows of several lengths as one array. Shapes:  n x (k,) -> (n, K), K = the longest."""
    longest = max(map(len, rows))
    return np.stack([np.pad(row, (0, longest - len(row)), constant_values=nothing) for row in rows])


def parts(run: Run, row: int) -> np.ndarray:
    """How long the vectors are that each layer adds for one token: of attention, and of each expert, weight included.

    Beside them the residual stream that they are added to. A dense layer has one part in the place of experts.

    Shapes:  -> (L, 2 + K): before the layer, of attention, of each part
    Raises:  TinyError for a run so long that these arrays were not kept
    """
    check_row(run, row)
    config = run.model.config
    if "embed" not in run.trace:
        raise TinyError("The arrays for the sizes of parts were not kept: this run has many tokens for so large a "
                        "model.", "Ask with a shorter text.")
    found = []
    for layer in range(config.n_layers):
        x = run.trace[f"layer{layer - 1:02}" if layer else "embed"][row : row + 1]
        attn = run.trace[f"attn{layer:02}"][row : row + 1]
        found.append(np.array([length(x), length(attn), *expert_parts(run, row, layer, x, attn)], np.float32))
    return filled(found, 0)


def expert_parts(run: Run, row: int, layer: int, x: np.ndarray, attn: np.ndarray) -> list[float]:
    """The lengths of the answers of one layer's experts. Shapes:  x, attn (1, D)."""
    model, place = run.model, f"layers.{layer}."
    if model.config.moe is None:
        return [length(run.trace[f"layer{layer:02}"][row : row + 1] - x - attn)]
    _, y = model.ops.add_norm(x, attn, model.weights[f"{place}ffn_norm.weight"], model.config.norm_eps,
                              model.precision)
    sizes = []
    for expert, weight in zip(run.trace[f"experts{layer:02}"][row], run.trace[f"expert_weights{layer:02}"][row]):
        w1, w2, w3 = (model.weights[f"{place}feed_forward.experts.{expert}.{name}.weight"]
                      for name in ("w1", "w2", "w3"))
        sizes.append(float(weight) * length(model.ops.feed_forward(y, w1, w2, w3, model.precision)))
    return sizes


def length(x: np.ndarray) -> float:
    """The length of a vector. Shapes:  x (1, D)."""
    return float(np.linalg.norm(x.astype(np.float64)))


def packed(run: Run, row: int) -> bytes:
    """All that one click shows as float32, little end first, one behind the other: attention (L, H, S), router logits
    (L, E), expert ids and weights (L, K), logits (V). Of S only the page does not know the size, and this gives it.
    """
    arrays = (attention(run, row), *routing(run, row), logits(run, row))
    return b"".join(array.astype("<f4").tobytes() for array in arrays)
