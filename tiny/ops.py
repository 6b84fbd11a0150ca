"""The seam: every operation that a faster implementation may replace, by name. Nothing is defined here.

A model takes this module as an argument; another module with the same names and signatures can take its place. Read
`decoder.py` next.
"""

from tiny.adapter import adapter, splice
from tiny.attention import attention
from tiny.experts import experts, feed_forward
from tiny.kv_cache import new_cache
from tiny.numerics import add, embed, linear
from tiny.patch_embed import patch_embed
from tiny.rms_norm import add_norm, rms_norm
from tiny.rope import rope, rope_table
from tiny.rope_2d import rope_2d_table
from tiny.router import route

__all__ = ["adapter", "add", "add_norm", "attention", "embed", "experts", "feed_forward", "linear", "new_cache",
           "patch_embed", "rms_norm", "rope", "rope_2d_table", "rope_table", "route", "splice"]
