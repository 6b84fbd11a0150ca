"""Each type of blocks against what the package gguf made of 64 random rows, bit by bit."""

import numpy as np
import pytest
from oracles import ROOT

from tiny.files.packed import blocks
from tiny.files.packed.array import Packed
from tiny.files.packed.blocks import KINDS, NAMES, bits

GOLDEN = ROOT / "tests/golden/gguf_blocks.npz"


def same_bits(found, wanted):
    return found.dtype == wanted.dtype == np.float32 and found.shape == wanted.shape and (
        found.view(np.uint32) == wanted.view(np.uint32)).all()


@pytest.fixture(scope="module")
def golden():
    return dict(np.load(GOLDEN))


@pytest.mark.parametrize("kind", KINDS)
def test_every_bit(golden, kind):
    raw, wanted = golden[f"{kind}/raw"], golden[f"{kind}/numbers"]
    packed = Packed(kind, wanted.shape, (raw,), KINDS[kind].unpack)
    assert len(wanted) == 64 and np.isfinite(wanted).all() and len(np.unique(wanted)) > 400
    assert same_bits(np.asarray(packed), wanted) and same_bits(packed[3:3], wanted[3:3])
    assert all(same_bits(packed[row], wanted[row]) for row in range(64)), "a row alone is as among others"
    assert same_bits(packed[::-3], wanted[::-3]) and same_bits(packed[[5, 1]], wanted[[5, 1]])


def of_neighbours(data, width):
    """The classic mistake: the parts of one byte are taken for numbers that are neighbours."""
    return np.swapaxes(bits(data, width), -1, -2).reshape(bits(data, width).shape)


def unsigned_scales(packed):
    """Another one: the high bits of the last four scales are taken from the wrong bytes."""
    first, second, last = packed[:, :4], packed[:, 4:8], packed[:, 8:]
    scales = np.concatenate([first & 63, last & 15 | second >> 6 << 4], axis=1)
    minima = np.concatenate([second & 63, last >> 4 | first >> 6 << 4], axis=1)
    return scales.astype(np.float32), minima.astype(np.float32)


@pytest.mark.parametrize(("name", "mutant", "kinds"), [
    ("bits", of_neighbours, set(KINDS) - {"Q8_0"}), ("scales_k", unsigned_scales, {"Q4_K", "Q5_K"})])
def test_mistakes_are_seen(monkeypatch, golden, name, mutant, kinds):
    monkeypatch.setattr(blocks, name, mutant)
    wrong = {kind for kind in KINDS
             if not same_bits(KINDS[kind].unpack(golden[f"{kind}/raw"]).reshape(golden[f"{kind}/numbers"].shape),
                              golden[f"{kind}/numbers"])}
    assert wrong == kinds


def test_the_package_agrees():
    """Codes, sizes and numbers of the package that is installed; all of it is stored in golden, too."""
    gguf = pytest.importorskip("gguf", reason="The package gguf is not here; the dev extra brings it.")
    rng = np.random.default_rng(1)
    for kind in gguf.GGMLQuantizationType:
        assert NAMES[kind.value] == kind.name
    for name, (numbers, size, unpack) in KINDS.items():
        kind = gguf.GGMLQuantizationType[name]
        assert gguf.GGML_QUANT_SIZES[kind] == (numbers, size)
        if name in ("Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"):  # of the others the package has no writer
            raw = gguf.quantize(rng.standard_normal((3, 64)).astype(np.float32), kind)
            assert same_bits(unpack(raw).reshape(3, 64), gguf.dequantize(raw, kind))
