"""Mistakes in products of few tokens, which the comparison with float64 must refuse.

A mutant puts a wrong function in the place of one of `tiny.numerics`. Each has the dtype of the weights that it is
about; a block has four rows, and the part of it that few tokens meet has three.
"""

import functools

import ml_dtypes
import numpy as np

from tiny import numerics


def instead_of_block_product(patch, wrong):
    """wrong(right, x, block, out) fills out; right is the function that it replaces, by parts of three rows."""
    right = functools.partial(numerics.block_product, part=3)
    patch.setattr(numerics, "block_product", lambda x, block, out, part: wrong(right, x, block, out))


def first_token_for_all(patch):
    instead_of_block_product(patch, lambda right, x, block, out: right(np.repeat(x[:1], len(x), 0), block, out))


def short_block_of_zeros(patch):
    def wrong(right, x, block, out):
        out[:] = x @ block.T if len(block) == numerics.MANY_BYTES // 4 // x.shape[1] else 0
    instead_of_block_product(patch, wrong)


def first_part_only(patch):
    def wrong(right, x, block, out):
        out[:] = 0
        right(x, block[:3], out[:, :3])
    instead_of_block_product(patch, wrong)


def last_token_forgotten(patch):
    def wrong(right, x, block, out):
        out[:] = 0
        right(x[:-1], block, out[:-1])
    instead_of_block_product(patch, wrong)


def conversion_of_the_first_block_for_all(patch):
    """What a later block converts never reaches the memory that the products read."""
    right = np.copyto
    calls = []

    def wrong(block, weight):
        if not calls:
            right(block, weight)
        calls.append(len(block))
    patch.setattr(numerics.np, "copyto", wrong)


BFLOAT16, FLOAT32 = ml_dtypes.bfloat16, np.float32
MUTANTS = {mutant.__name__: (dtype, mutant) for dtype, mutant in (
    (FLOAT32, first_token_for_all), (FLOAT32, short_block_of_zeros), (BFLOAT16, conversion_of_the_first_block_for_all),
    (FLOAT32, first_part_only), (FLOAT32, last_token_forgotten))}
