"""Rotary positions in two dimensions: half of a head's pairs turn with the row of a patch, half with its column.

The angles are fed to the same rotation as text, `rope`. Read `vision.py` next.

>>> patch_positions([(2, 1)])
array([[0, 0],
       [0, 1]])
"""

from collections.abc import Sequence

import numpy as np

from tiny.numerics import INTEGERS, need


def patch_positions(grids: Sequence[tuple[int, int]]) -> np.ndarray:
    """Row and column of every patch in its own image; they start again at zero with each image.

    Shapes:  grids n x (columns, rows) -> (N, 2) int, (row, column) of N = all patches
    """
    return np.concatenate([np.indices((rows, columns)).reshape(2, -1).T for columns, rows in grids])


def rope_2d_table(positions: np.ndarray, head_dim: int, theta: float) -> tuple[np.ndarray, np.ndarray]:
    """Cosines and sines of every patch's angles: first those of its row, then those of its column.

    Of the frequencies theta^(-2k / head_dim), rows take the even-numbered ones and columns the odd-numbered ones, so
    that both directions have fast and slow pairs.

    Shapes:  positions (N, 2), N = patches -> cos (N, d / 2), sin (N, d / 2)
    Dtypes:  positions int; angles in float64, rounded once to float32 at the end
    Raises:  ValueError for other positions, a head_dim that is no multiple of 4 or below 4, or a theta that is not
             positive
    Source:  mistral-inference rope.py, precompute_freqs_cis_2d
    Differs: arXiv:2410.07073 eq. 1 draws row and column alternating from pair to pair; the released weights were
             trained with all rows first, as here and in transformers
    """
    need("rope_2d_table", "positions", positions, ("N", "2"), INTEGERS)
    if positions.shape[1] != 2 or not 0 < theta < np.inf:
        raise ValueError("rope_2d_table expects a row and a column for each patch, and a theta above 0; got "
                         f"{positions.shape} and {theta}.")
    if head_dim < 4 or head_dim % 4:
        raise ValueError(f"rope_2d_table expects a head_dim that is a multiple of 4; got {head_dim}. Rows and columns "
                         "each turn half of its pairs.")
    # (1) one frequency for each pair of a head
    frequencies = theta ** (-np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    # (2) rows take every other one, columns those between
    angles = np.hstack([np.outer(positions[:, 0], frequencies[0::2]), np.outer(positions[:, 1], frequencies[1::2])])
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
