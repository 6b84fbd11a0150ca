"""The operations at both ends of a model, as `kernels.cases` runs them: from ids to vectors, and from scores to ids."""

import math
from typing import Any

import numpy as np

from kernels import adapter, attention, embed, patch_embed, positions, sample, splice
from kernels.cases.operation import BF16, Draw, Operation, versions_of
from tiny import ops as book
from tiny.adapter import splice as book_splice
from tiny.pixtral import vision_of
from tiny.rope_2d import patch_positions
from tiny.sampling import log_softmax
from tiny.sampling import sample as book_sample
from tiny.tools.releases import MIXTRAL_8X7B, PIXTRAL_12B

IMAGE = 10  # the id of [IMG]


def token_operations() -> list[Operation]:
    """All of them."""
    return [*embed_operations(), *image_operations(), *position_operations(), sample_operation()]


def make_embed(draw: Draw, T: int, V: int, D: int) -> tuple:
    """Arguments of embed."""
    return draw.put(draw.host.integers(0, V, T).astype(np.int32)), draw.weights(V, D)


def book_embed(ids: np.ndarray, table: np.ndarray) -> np.ndarray:
    """What embed returns, by NumPy. Shapes:  ids (T,), table (V, D) -> (T, D)."""
    return table[ids].astype(np.float32)


def make_splice(draw: Draw, T: int, D: int) -> tuple:
    """Arguments of splice: nearly half of the tokens are patches."""
    ids = draw.host.integers(IMAGE - 1, IMAGE + 2, T).astype(np.int32)
    ids[::5] = IMAGE
    return draw.activations(T, D), draw.put(ids), draw.activations(int((ids == IMAGE).sum()), D), IMAGE


def embed_operations() -> list[Operation]:
    """Rows of the embedding, and of images."""
    return [
        Operation("embed", embed.embed, book_embed, make_embed,
                  lambda T, V, D: embed.floor(T, D, BF16, 2), ({"T": 5, "V": 70, "D": 264}, {"T": 3, "V": 9, "D": 77}),
                  {"Mixtral, 1 token": {"T": 1, "V": MIXTRAL_8X7B.vocab_size, "D": MIXTRAL_8X7B.dim}},
                  versions_of(embed.FILE, "embed")),
        Operation("splice", splice.splice, book_splice, make_splice, lambda T, D: splice.floor(T, D, BF16),
                  ({"T": 40, "D": 72}, {"T": 70, "D": 5}),
                  {"Pixtral, 4,352 tokens of an image": {"T": 4352, "D": PIXTRAL_12B.dim}},
                  versions_of(splice.FILE, "splice")),
    ]


def make_images(draw: Draw, grids: tuple, C: int, p: int, D: int) -> tuple:
    """Arguments of patch_embed: pixels of float32, which under bfloat16 are bfloat16 numbers."""
    images = [draw.activations(C, rows * p, columns * p).astype(np.float32) for columns, rows in grids]
    return images, draw.weights(D, C * p * p).reshape(D, C, p, p)


def make_adapter(draw: Draw, T: int, hidden: int, D: int) -> tuple:
    """Arguments of adapter, its weights one by one."""
    return (draw.activations(T, hidden), draw.weights(D, hidden), draw.activations(D), draw.weights(D, D),
            draw.activations(D))


def named(*arrays: Any) -> dict[str, Any]:
    """The weights of an adapter by their names."""
    names = ("w_in.weight", "w_in.bias", "w_out.weight", "w_out.bias")
    return {f"{adapter.NAME}{name}": array for name, array in zip(names, arrays, strict=True)}


def run_adapter(launcher: Any, x: Any, *arrays: Any, precision: str) -> Any:
    """adapter, with its weights by their names; the device's biases are stored as x is."""
    return adapter.run_adapter(launcher, x, named(*arrays))


def image_operations() -> list[Operation]:
    """Before and behind the vision encoder."""
    vision = vision_of(PIXTRAL_12B)
    side = vision.max_image_size // vision.patch_size
    picture = {"grids": ((side, side),), "C": vision.num_channels, "p": vision.patch_size, "D": vision.hidden_size}
    return [
        Operation("patch_embed", patch_embed.patch_embed, book.patch_embed, make_images,
                  lambda grids, C, p, D: patch_embed.floor(sum(map(math.prod, grids)), C, p, D, BF16, 2),
                  ({"grids": ((2, 3), (1, 2)), "C": 3, "p": 8, "D": 20}, {"grids": ((3, 2),), "C": 1, "p": 5, "D": 33}),
                  {"Pixtral's image of 4,096 patches": picture}, versions_of(patch_embed.FILE, "patch_embed")),
        Operation("adapter", run_adapter, lambda x, *arrays: book.adapter(x, named(*arrays)), make_adapter,
                  lambda T, hidden, D: adapter.floor(T, hidden, D, BF16, 2),
                  ({"T": 5, "hidden": 33, "D": 70}, {"T": 3, "hidden": 64, "D": 40}),
                  {"Pixtral's image of 4,096 patches": {"T": side * side, "hidden": vision.hidden_size,
                                                        "D": PIXTRAL_12B.dim}}),
    ]


def make_places(draw: Draw, T: int, d: int, theta: float = 1e6) -> tuple:
    """Arguments of rope_table: some near positions, and some far ones."""
    places = np.concatenate([np.arange(T // 2), draw.host.integers(0, 131072, T - T // 2)])
    return draw.put(places.astype(np.int32)), d, theta


def make_state(draw: Draw, B: int) -> tuple:
    """Arguments of advance: every third sequence has ended."""
    arrays = [draw.host.integers(0, 1000, shape).astype(np.int32) for shape in ((B,), (B,), (B, 2), (B,))]
    return draw.put((np.arange(B) % 3).astype(np.int32)), *map(draw.put, arrays)


def run_advance(launcher: Any, going: Any, *state: Any, precision: str) -> tuple:
    """advance, with the arrays that it changed as results."""
    positions.advance(launcher, going, *state)
    return state


def book_advance(going: np.ndarray, places: np.ndarray, rows: np.ndarray, spans: np.ndarray,
                 used: np.ndarray) -> tuple:
    """What advance leaves, by NumPy."""
    on = (going != 0).astype(np.int32)
    return places + on, rows + on, spans + np.stack([0 * on, on], axis=1), used + on


def run_place(launcher: Any, numbers: Any, parts: tuple, precision: str) -> Any:
    """place, in every storage: its numbers are whole."""
    return positions.place(launcher, numbers, parts)


def book_place(numbers: np.ndarray, parts: tuple) -> np.ndarray:
    """What place leaves, by NumPy. Shapes:  numbers (T,) -> (T,)."""
    numbers = numbers.copy()
    for first, count, value in parts:
        numbers[first : first + count] = np.arange(value, value + count)
    return numbers


def run_tiles(launcher: Any, lengths: tuple, spans: tuple, causal: bool, queries: int, precision: str) -> Any:
    """place_tiles, in every storage."""
    return positions.place_tiles(launcher, lengths, spans, causal, queries)


def book_tiles(lengths: tuple, spans: tuple, causal: bool, queries: int) -> np.ndarray:
    """The tables of the sequences one after the other, by NumPy. Shapes:  -> (tiles, 4)."""
    tables, first = [], 0
    for length, span in zip(lengths, spans):
        tables.append(attention.tiles([length], [span], causal, queries) + np.array([first, 0, 0, 0], np.int32))
        first += length
    return np.concatenate(tables)


def position_operations() -> list[Operation]:
    """Angles, and the step to the next token."""
    vision = vision_of(PIXTRAL_12B)
    image = ((vision.max_image_size // vision.patch_size,) * 2,)
    return [
        Operation("rope_table", positions.rope_table, book.rope_table, make_places, lambda T, d: positions.floor(T, d),
                  ({"T": 5, "d": 128}, {"T": 33, "d": 10, "theta": 1e4}),
                  {"Mixtral, 1 token": {"T": 1, "d": 128}, "Mixtral, 2,048 tokens": {"T": 2048, "d": 128}},
                  versions_of(positions.FILE, "rope_table")),
        Operation("rope_2d_table", positions.rope_2d_table,
                  lambda grids, d, theta: book.rope_2d_table(patch_positions(grids), d, theta),
                  lambda draw, grids, d: (grids, d, 1e4), lambda grids, d: positions.floor(
                      sum(columns * rows for columns, rows in grids), d), ({"grids": ((3, 2), (1, 5)), "d": 12},),
                  {"Pixtral's image of 4,096 patches": {"grids": image, "d": 64}}),
        Operation("advance", run_advance, book_advance, make_state, lambda B: (B * 36, 0), ({"B": 70},),
                  {"16 sequences": {"B": 16}}),
        *place_operations(),
    ]


def place_operations() -> list[Operation]:
    """What a pass reads beside its tokens."""
    chunk = {"lengths": (2048,), "spans": ((0, 4096),), "causal": True, "queries": 16}
    return [
        Operation("place", run_place, book_place,
                  lambda draw, T, parts: (draw.put(draw.host.integers(0, 9, T).astype(np.int32)), parts),
                  lambda T, parts: (4 * T, 0), ({"T": 150, "parts": ((0, 70, 5), (75, 1, 1000), (80, 66, 0))},),
                  {"512 tokens": {"T": 512, "parts": ((0, 512, 0),)}}),
        Operation("place_tiles", run_tiles, book_tiles, lambda draw, **sizes: tuple(sizes.values()),
                  lambda lengths, queries, **sizes: (16 * sum(-(-length // queries) for length in lengths), 0),
                  ({"lengths": (3, 70, 1), "spans": ((0, 3), (5, 80), (80, 113)), "causal": True, "queries": 16},
                   {"lengths": (40, 33), "spans": ((0, 40), (40, 73)), "causal": False, "queries": 64}),
                  {"2,048 tokens after as many": chunk}),
    ]


class Drawn:
    """A generator that has drawn its number."""

    def __init__(self, number: float):
        self.number = number

    def random(self) -> float:
        """The number."""
        return self.number


def make_logits(draw: Draw, B: int, V: int, temperature: float, top_p: float) -> tuple:
    """Arguments of sample."""
    logits = draw.activations(B, V)
    logits *= 3
    return logits, temperature, top_p, draw.put(draw.host.random(B))


def expect_sample(logits: np.ndarray, temperature: float, top_p: float, draws: np.ndarray) -> tuple:
    """What sample returns, by the book: it draws from a generator, here from the given numbers.

    Shapes:  logits (B, V), draws (B,) -> ids (B,), logprobs (B,)
    """
    ids = [book_sample(row, temperature, top_p, Drawn(number)) for row, number in zip(logits, draws)]  # type: ignore
    return np.array(ids), log_softmax(logits)[np.arange(len(ids)), ids]


def sample_operation() -> Operation:
    """The choice of the next token."""
    some = {"temperature": 0.8, "top_p": 0.9}
    return Operation("sample", sample.sample, expect_sample, make_logits,
                     lambda B, V, **options: sample.floor(B, V, BF16),
                     ({"B": 3, "V": 40, **some}, {"B": 2, "V": 1100, "temperature": 0.2, "top_p": 0.1},
                      {"B": 2, "V": 33, "temperature": 0.0, "top_p": 1.0}),
                     {"Mixtral's 32,000 tokens": {"B": 1, "V": MIXTRAL_8X7B.vocab_size, **some},
                      "Pixtral's 131,072 tokens": {"B": 1, "V": PIXTRAL_12B.vocab_size, **some},
                      "Pixtral's, the likeliest": {"B": 1, "V": PIXTRAL_12B.vocab_size, "temperature": 0.0,
                                                   "top_p": 1.0}}, versions_of(sample.FILE, "sample"))
