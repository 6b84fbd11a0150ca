"""bfloat16 on bits against the library, at every upper half and around every point where rounding changes."""

import numpy as np
import pytest
from compare import assert_close, assert_dtype

from tiny.numerics import round_to
from tiny.tools.bits import in_bits, nearest_bfloat16


def test_nearest_bfloat16_is_the_library_s_and_the_book_s():
    upper = np.arange(1 << 16, dtype=np.uint32) << 16
    x = np.concatenate([upper | lower for lower in (0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF)]).astype(np.uint32)
    x = x.view(np.float32)
    with np.errstate(invalid="ignore"):  # some of these NaN raise the flag
        expected, found = round_to(x, "bfloat16"), nearest_bfloat16(x)
        assert_close(found, expected, 0.0, name="393,216 numbers")
    assert_dtype(found, np.float32, "type")
    assert not (found.view(np.uint32) & 0xFFFF).any()
    assert np.array_equal(np.signbit(found), np.signbit(x)), "minus zero stays minus zero"


def test_nearest_bfloat16_refuses():
    for x in (np.ones(3), np.ones(3, np.uint32), [1.0]):
        with pytest.raises(ValueError, match="nearest_bfloat16 expects x"):
            nearest_bfloat16(x)


@pytest.mark.parametrize("x", [0.0, -0.0, 1.0, -2.5, 0.1, 3e38, 1e-40, np.inf])
def test_in_bits(x):
    sign, exponent, fraction = in_bits(x).replace("|", "").split()
    e, f = int(exponent, 2), int(fraction, 2) / 2**23
    value = np.inf if e == 255 else (1 + f) * 2.0 ** (e - 127) if e else f * 2.0**-126
    assert float(np.float32(x)) == (-1) ** int(sign) * value and np.signbit(x) == (sign == "1")
    assert in_bits(x).index("|") == 2 + 8 + 1 + 7
