"""Random pictures through both references and through ours: every pixel, and every grid."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from compare import assert_close
from pictures import formula
from PIL import Image

from tiny import image
from tiny.config import TinyError
from tiny.system.pictures import STYLES

NEEDED = ("cv2", "mistral_common", "torch", "transformers")
MISSING = [name for name in NEEDED if importlib.util.find_spec(name) is None]
REASON = f"This check needs {' and '.join(MISSING)} (the verify extra)."
pytestmark = [pytest.mark.verify, pytest.mark.skipif(bool(MISSING), reason=REASON)]

COUNT = 200
MODES = {"RGB": 3, "L": 1, "RGBA": 4, "LA": 2, "CMYK": 4, "YCbCr": 3, "I;16": 2}  # bytes a pixel
PIXELS = 8e-6  # Measured: 1.9e-6 with OpenCV 5.0.0 on x86. Without Intel's library OpenCV is off by up to 2e-4.


def random_pictures():
    """What IN of the reference holds. The logarithms of sides are spread evenly, so that many pictures are narrow."""
    rng, stored = np.random.default_rng(0), {"count": COUNT}
    for n in range(COUNT):
        width, height = (int(side) for side in np.exp(rng.uniform(0, np.log(1600), 2)))
        mode = list(MODES)[rng.integers(len(MODES))]
        levels = random_levels(rng, n % 4, width, height, MODES[mode])
        stored |= {f"{n}/bytes": levels.astype(np.uint8), f"{n}/mode": mode, f"{n}/size": [width, height],
                   f"{n}/patch_size": rng.choice([8, 14, 16, 32]),
                   f"{n}/max_image_size": rng.choice([64, 160, 256, 512, 1024])}
    return stored


def random_levels(rng, kind, width, height, channels):
    """Noise, black and white, soft waves, or the formula."""
    y, x, _ = np.mgrid[:height, :width, :channels]
    if kind < 2:
        return rng.integers(0, 256, x.shape) if kind == 0 else rng.integers(0, 2, x.shape) * 255
    return 127 + 127 * np.sin(x / 9 + y / 17) if kind == 2 else formula(width, height, channels)


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """Pictures, and what the references made of them."""
    folder = tmp_path_factory.mktemp("pixels")
    np.savez(folder / "in.npz", **random_pictures())
    program = Path(__file__).with_name("pixels_reference.py")
    command = [sys.executable, "-I", program, folder / "in.npz", folder / "out.npz"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return dict(np.load(folder / "in.npz")), dict(np.load(folder / "out.npz"))


@pytest.mark.parametrize("style", STYLES)
def test_pixels_agree(style, case, record_property):
    """"mistral" within float32, "hf" bit by bit; what the HF processor refuses is refused here."""
    given, reference = case
    atol, worst, refused = {"mistral": PIXELS, "hf": 0.0}[style], 0.0, 0
    for n in range(COUNT):
        picture = Image.frombytes(str(given[f"{n}/mode"]), tuple(given[f"{n}/size"].tolist()),
                                  given[f"{n}/bytes"].tobytes())
        settings = int(given[f"{n}/patch_size"]), int(given[f"{n}/max_image_size"]), style
        if f"{n}/{style}" in reference:
            worst = max(worst, assert_close(image.preprocess(picture, *settings), reference[f"{n}/{style}"], atol,
                                            name=f"picture {n}, {picture.mode} {picture.size} {settings}"))
        else:
            refused += 1
            with pytest.raises(TinyError, match="nothing is left of one side"):
                image.preprocess(picture, *settings)
    assert refused < COUNT // 4 and (style == "hf" or not refused)
    for version in reference["versions"]:
        record_property(f"version {str(version).split()[0]}", str(version).split()[1])
    record_property(f"largest error of pixels, {style}", f"{worst * atol:.1e}")
    print(f"{style}: largest error {worst * atol:.1e}, {refused} refused")
