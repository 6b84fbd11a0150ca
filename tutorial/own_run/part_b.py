"""Runs of part B, chapters 7 to 9."""

from collections.abc import Callable

import numpy as np

from tutorial.own_run.table import Table

BLUE, ORANGE, GREY = "#b9d4ee", "#f4c79a", "0.8"


def shaped(answer: object, shape: tuple[int, ...]) -> np.ndarray:
    """An answer as numbers, if it has this shape."""
    if np.shape(answer) != shape:
        raise ValueError(f"your answer has the shape {np.shape(answer)}; {shape} is right")
    return np.asarray(answer)


# ---- chapter 7

def grids(image_grid: Callable) -> Table:
    """Columns and rows of eight pictures in both styles, with patches of 10 pixels and sides up to 80."""
    sizes = [(40, 30), (41, 30), (40, 33), (7, 3), (160, 60), (70, 200), (160, 21), (300, 1)]
    values = [[*shaped(image_grid(width, height, 10, 80, "mistral"), (2,)),
               *shaped(image_grid(width, height, 10, 80, "hf"), (2,))] for width, height in sizes]
    return Table(np.array(values, np.float64), [f"{width} x {height}" for width, height in sizes],
                 ["columns", "rows", "columns, hf", "rows, hf"],
                 "grids of pictures, width x height: patches of 10 pixels, sides up to 80", "{:g}")


SHAPES = ("011111000000010000001000000100000010000000100000"
          "011000000110000001100000011000000111111001111110")  # a 7 and an L, of 6 rows x 8 columns


def glued(patches: Callable) -> Table:
    """A picture of two channels, cut by the function into squares of 2 pixels, and put together as squares lie.

    A number says which pixel it is: channel, row, column.
    """
    channel, row, column = np.indices((2, 6, 8))
    squares = shaped(patches((100 * channel + 10 * row + column).astype(np.float32), 2), (12, 8))
    picture = squares.reshape(3, 4, 2, 2, 2).transpose(2, 0, 3, 1, 4).reshape(12, 8)

    def look(value: float) -> tuple[str, str]:
        c, r, x = int(value) // 100, int(value) // 10 % 10, int(value) % 10
        drawn = SHAPES[min((c * 6 + r) * 8 + x, len(SHAPES) - 1)] == "1"
        return f"{c} {r} {x}", (BLUE, ORANGE)[min(c, 1)] if drawn else "white"
    return Table(picture, [f"channel {c}, row {r}" for c in range(2) for r in range(6)], [str(x) for x in range(8)],
                 "a picture, cut and put together again: channel, row and column of each pixel", width=0.5, look=look)


def run_of_tokens(image_tokens: Callable) -> Table:
    """The ids of four images: 3 for a patch, 5 for a break, 8 for the end."""
    shapes = [(3, 2), (2, 3), (4, 1), (1, 3)]
    values = np.full((len(shapes), 11), np.nan)
    for n, (columns, rows) in enumerate(shapes):
        ids = np.asarray(image_tokens(columns, rows, 3, 5, 8), np.float64)[:11]
        values[n, : len(ids)] = ids

    def look(value: float) -> tuple[str, str]:
        return {3: ("IMG", BLUE), 5: ("BREAK", ORANGE), 8: ("END", GREY)}.get(value, (f"{value:g}", "white"))
    return Table(values, [f"{columns} x {rows} patches" for columns, rows in shapes],
                 [str(n) for n in range(11)], "the ids of four images, in order", width=0.55, look=look)


# ---- chapter 8

def angles_of_patches(rope_2d_table: Callable) -> Table:
    """The angles of twelve patches, 3 columns x 4 rows, in a head of six pairs."""
    places = np.indices((4, 3)).reshape(2, -1).T
    cos, sin = (shaped(part, (12, 6)) for part in rope_2d_table(places, 12, 64.0))
    return Table(np.degrees(np.arctan2(sin, cos)), [f"row {row}, column {column}" for row, column in places],
                 [f"pair {i}" for i in range(6)], "angles of the patches of an image, in degrees", "{:.0f}",
                 arrows=True, width=0.7)


def who_sees_whom(image_weights: Callable) -> Table:
    """The weights between the patches of three images, of 3, 1 and 4 patches."""
    rng, lengths = np.random.default_rng(8), [3, 1, 4]
    q, k = rng.standard_normal((2, 8, 16)).astype(np.float32)
    weights = shaped(image_weights(q, k, lengths), (8, 8))
    names = [f"image {n}, patch {i}" for n, length in enumerate(lengths, 1) for i in range(length)]

    def look(value: float) -> tuple[str, str]:
        return "0" if value == 0 else f"{value:.2f}", "white" if value == 0 else str(1 - 0.55 * min(abs(value), 1))
    return Table(weights, names, names, "weights: a row for each patch, a column for each patch that it sees",
                 width=0.6, look=look)


# ---- chapter 9

def sources(splice: Callable) -> Table:
    """Where each row of a prompt with two images comes from: word n, or patch n."""
    tokens = "word word IMG IMG BREAK IMG IMG END word IMG IMG IMG END word".split()
    ids = np.array([{"IMG": 4, "BREAK": 5, "END": 6}.get(token, 50 + n) for n, token in enumerate(tokens)])
    text = np.repeat(np.arange(len(ids), dtype=np.float32)[:, None], 3, axis=1)
    features = np.repeat(np.arange(100, 107, dtype=np.float32)[:, None], 3, axis=1)
    rows = shaped(splice(text, ids, features, 4), (len(ids), 3))

    def look(value: float) -> tuple[str, str]:
        if value >= 100:
            return f"patch {value - 100:g}", BLUE if value < 104 else ORANGE
        return f"text {value:g}", "white"
    return Table(rows, [f"{n}  {token}" for n, token in enumerate(tokens)], [f"number {n}" for n in range(3)],
                 "where the rows of a prompt come from: patches 0 to 3 are the first image", look=look)


def seen_and_blind(blind_score: Callable) -> Table:
    """Shares and intervals of four models, by their right answers seen and blind."""
    cases = [(7, 3, 10), (10, 0, 10), (70, 30, 100), (2, 5, 10)]
    values = [shaped(blind_score(np.arange(n) < seen, np.arange(n) < blind), (3, 3)) for seen, blind, n in cases]
    rows = [name for seen, blind, n in cases
            for name in (f"seen: {seen} of {n}", f"blind: {blind} of {n}", "seen minus blind")]
    return Table(np.concatenate(values), rows, ["share", "low", "high"],
                 "shares of right answers with their intervals, and what seeing adds", bars=True, width=1.1)


RUNS: dict[str, Callable[[Callable], Table]] = {
    # ---- chapter 7
    "7.1": grids,
    "7.2": glued,
    "7.3": run_of_tokens,
    # ---- chapter 8
    "8.1": angles_of_patches,
    "8.2": who_sees_whom,
    # ---- chapter 9
    "9.1": sources,
    "9.2": seen_and_blind,
}
