"""Mistakes in products of few tokens, which the comparison with float64 must refuse.

A mutant puts a wrong function in the place of `paired_product` or `block_product`. Each has the dtype of the weights
that it is about.
"""

import ml_dtypes
import numpy as np

from tiny import numerics


def pairs(patch, first, second, columns=slice(None)):
    """A paired product with other halves: first and second make float32 bits of words.

    Only these columns of the answer are filled.
    """
    def wrong(x, words, out):
        out[:] = 0
        halves = (make(words).astype(np.uint32).view(np.float32) for make in (first, second))
        y = sum(x[:, n::2] @ half.T for n, half in enumerate(halves))
        out[:, columns] = y[:, columns]
    patch.setattr(numerics, "paired_product", wrong)


def upper(words):
    return words & numerics.UPPER_HALF


def lower(words):
    return words << numerics.SIXTEEN


def even_and_odd_swapped(patch):
    pairs(patch, upper, lower)


def lower_half_not_cleared(patch):
    """The even weight stays below the odd one, as bits that float32 has and bfloat16 has not."""
    pairs(patch, lower, lambda words: words)


def shifted_with_the_sign(patch):
    """As signed numbers moved down and up again, which is right, and then cleared like the odd one, which is not."""
    pairs(patch, lambda words: upper(words.view(np.int32) >> 16 << 16), upper)


def second_of_each_pair_forgotten(patch):
    pairs(patch, lower, lambda words: 0 * words)


def last_block_forgotten(patch):
    pairs(patch, lower, upper, slice(4))


def first_token_for_all(patch):
    right = numerics.block_product
    patch.setattr(numerics, "block_product", lambda x, weight, out: right(np.repeat(x[:1], len(x), 0), weight, out))


def short_block_of_zeros(patch):
    def wrong(x, block, out):
        full = len(block) == numerics.FEW_WEIGHTS // x.shape[1]
        out[:] = x @ block.T if full else 0
    patch.setattr(numerics, "block_product", wrong)


BFLOAT16, FLOAT32 = ml_dtypes.bfloat16, np.float32
MUTANTS = {mutant.__name__: (dtype, mutant) for dtype, mutant in (
    (BFLOAT16, even_and_odd_swapped), (BFLOAT16, lower_half_not_cleared), (BFLOAT16, shifted_with_the_sign),
    (BFLOAT16, second_of_each_pair_forgotten), (BFLOAT16, last_block_forgotten), (FLOAT32, first_token_for_all),
    (FLOAT32, short_block_of_zeros))}
