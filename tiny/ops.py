"""The seam: every operation that a faster implementation may replace, by name. Nothing is defined here.

A model takes this module as an argument; another module with the same names and signatures can take its place. Read
`decoder.py` next.
"""

from tiny.attention import attention
from tiny.experts import experts, feed_forward
from tiny.numerics import linear
from tiny.rms_norm import rms_norm
from tiny.rope import rope, rope_table
from tiny.router import route

__all__ = ["attention", "experts", "feed_forward", "linear", "rms_norm", "rope", "rope_table", "route"]
