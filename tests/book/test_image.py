"""Pictures: pixels and grids of both references, every mode, odd sizes, bad files, and mutants of all that."""

import json
import time
import tracemalloc
import warnings

import numpy as np
import pytest
from compare import assert_close
from oracles import GOLDEN
from pictures import MODES, SIZES, bomb, formula, of_mode, picture
from PIL import Image

from tests.mutants.image import MUTANTS
from tiny import image
from tiny.config import TinyError

FOLDER = GOLDEN / "images"
IMAGES = sorted(path.stem for path in FOLDER.glob("*.png"))
STYLES = ("mistral", "hf")
# Pixels of style "mistral", on a scale where black and white are about 4 apart. Measured: 1.2e-6 over the stored
# pictures, 1.9e-6 over 200 random ones (OpenCV 5.0.0 on x86). Those of style "hf" are equal, bit by bit.
PIXELS = {"mistral": 5e-6, "hf": 0.0}
SUM = 2e-2  # of 1.5 million pixels, which add up to 1.1 million. Measured: 4.0e-3, that is 3e-9 a pixel

STORED, ODD = dict(np.load(FOLDER / "preprocess.npz")), dict(np.load(FOLDER / "odd.npz"))
GRIDS = json.loads((FOLDER / "grids.json").read_text())["rows"]


# ---- what the references made of pictures

def hf_pixels(levels):
    """Levels (3, H, W) as the HF processor scales them: by 1 / 255 in float64, then in float32."""
    scaled = (levels.astype(np.float64) * (1 / 255)).astype(np.float32)
    mean, std = (np.array(x, np.float32)[:, None, None] for x in (image.MEAN, image.STD))
    return (scaled - mean) / std


EXPECTED = {f"{style} pixels {name}": STORED[f"{name}/mistral"] if style == "mistral" else
            hf_pixels(STORED[f"{name}/hf_u8"]) for style in STYLES for name in IMAGES}


def comparisons():
    """Yield (name, actual, expected, tolerance): all that is stored, but the largest picture."""
    for style in STYLES:
        for name in IMAGES:
            key = f"{style} pixels {name}"
            yield key, image.preprocess(FOLDER / f"{name}.png", 16, 160, style), EXPECTED[key], PIXELS[style]
        for width, height in SIZES[:-1]:
            if f"{width}x{height}/{style}" in ODD:
                yield odd(width, height, style)
        grids = [image.image_grid(width, height, 16, 1024, style) for width, height, *_ in GRIDS]
        columns = {"mistral": slice(2, 4), "hf": slice(4, 6)}[style]
        yield f"{style} grid", np.array(grids), np.array([row[columns] for row in GRIDS]), 0.0
        yield f"{style} grid of 2048 x 33", np.array(image.image_grid(2048, 33, 16, 1024, style)), np.array([64, 1]), 0


def odd(width, height, style, given=None):
    """What the stored sample of a picture by formula is compared with."""
    name = f"{width}x{height}"
    pixels = image.preprocess(given or picture(width, height), style=style)
    step, shape = ODD[f"{name}/step"], tuple(ODD[f"{name}/shape"])
    if pixels.shape != shape:
        return f"{style} pixels {name}", np.array(pixels.shape), np.array(shape), 0.0
    return f"{style} pixels {name}", pixels[:, :: step[0], :: step[1]], ODD[f"{name}/{style}"], PIXELS[style]


def refused():
    """The largest error of every comparison that fails, by name."""
    errors = {}
    for name, actual, expected, atol in comparisons():
        try:
            assert_close(actual, expected, atol, name=name)
        except AssertionError:
            same = actual.shape == expected.shape
            errors[name] = float(np.abs(actual - expected).max()) if same else np.inf
    return errors


def test_everything_stored_is_reproduced():
    assert len(IMAGES) == 7 and len(GRIDS) == 150
    found = 0
    for name, actual, expected, atol in comparisons():
        assert_close(actual, expected, atol, name=name)
        found += 1
    assert found == 2 * (7 + 2) + 11 + 7


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_mutant_is_refused(mutant, monkeypatch):
    mutant(monkeypatch)
    found = refused()
    monkeypatch.undo()
    kind = MUTANTS[mutant]
    errors = {name: error for name, error in found.items() if name.startswith(kind)}
    assert errors, f"{mutant.__name__}: only {sorted(found)} fail, no {kind}"
    name, error = max(errors.items(), key=lambda item: item[1])
    print(f"{mutant.__name__}: {len(errors)} times {kind}, error {error:.3g} ({name})")
    assert error > 10 * PIXELS[kind.split()[0]], f"{mutant.__name__}: {error:.3g} is too near to the tolerance"


def test_normalising_first_shows_in_bytes_only(monkeypatch):
    """Cubic weights add up to 1, so on floats the order of the two makes no difference beyond float32."""
    next(mutant for mutant in MUTANTS if mutant.__name__ == "normalised_before_resize")(monkeypatch)
    assert {name.split()[0] for name in refused()} == {"hf"}


@pytest.mark.slow
@pytest.mark.parametrize("style", STYLES)
def test_largest_picture(style):
    """4096 x 4096, in less memory than the picture takes as float32: 192 MiB. Measured: 96 and 48.

    What Pillow holds is not counted; of a picture in mode RGB it makes one copy, 64 MiB.
    """
    given = picture(4096, 4096)
    tracemalloc.start()
    name, actual, expected, atol = odd(4096, 4096, style, given)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert_close(actual, expected, atol, name=name)
    print(f"{peak / 2**20:.0f} MiB")
    assert peak < 150 * 2**20, f"{peak / 2**20:.0f} MiB"


def test_printed_fixture():
    """Values that mistral-common 1.13.1 gave for the pictures of the formula."""
    small, large = image.preprocess(picture(33, 17)), image.preprocess(picture(1500, 700))
    assert small.shape == (3, 32, 48) and large.shape == (3, 480, 1024)
    printed = [
        (small[0, 0, :6], [-1.8203427, -1.767271, -1.6823628, -1.6205467, -1.5490755, -1.4719268]),
        (small[2, 5, 10:14], [1.0955043, 1.176725, 1.2523168, 1.3152045]),
        (small[:, -1, -1], [-1.3982117, -0.6296355, 0.294331]),
        ([small.min(), small.max()], [-2.535467, 2.8406901]),
        (large[0, 0, :6], [-1.7409391, -1.5898374, -1.4317809, -1.287804, -1.1305254, -0.985993]),
        (large[2, 5, 10:14], [-0.5149189, -0.33636755, -0.168701, 0.02194824]),
        (large[:, -1, -1], [-0.7565709, -0.5584364, 0.47594187]),
        ([large.min(), large.max()], [-2.4400926, 2.7912643])]
    for n, (actual, expected) in enumerate(printed):
        assert_close(np.array(actual), np.array(expected), PIXELS["mistral"], name=f"line {n}")
    sums = [y.sum(dtype=np.float64) for x in (small, large) for y in (x, np.abs(x))]
    assert_close(np.array(sums), np.array([938.74540, 4281.71514, 277535.2755, 1146810.4972]), SUM, name="sums")


def test_black_white_and_grey():
    levels = np.array([0, 128, 255], np.uint8).repeat(3).reshape(1, 3, 3)
    expected = [[-1.7922626, 0.0763361, 1.9303361], [-1.7520971, 0.1688973, 2.0748837],
                [-1.4802198, 0.3399488, 2.1458969]]
    for style in STYLES:
        pixels = image.preprocess(Image.fromarray(levels), patch_size=1, style=style)
        assert_close(pixels[:, 0], np.array(expected), 2e-7, name=style)


# ---- sizes

TABLE = """1x1 1x1; 16x16 1x1; 17x31 2x2; 33x17 3x2; 150x600 10x38; 200x300 13x19; 400x300 25x19; 500x500 32x32;
512x256 32x16; 640x480 40x30; 1024x1024 64x64; 1024x1025 64x64; 1025x1025 64x64; 1025x1 64x1;
1x1025 1x64; 1000x1400 46x64; 1920x1080 64x36; 2000x1000 64x32; 2000x1001 64x33; 3000x2000 64x43;
4032x3024 64x48; 4096x4096 64x64; 2049x1 64x1; 5000x1 64x1; 10000x3 64x1; 1x5000 1x64; 10000x10 64x1;
12000x100 64x1"""


@pytest.mark.parametrize("row", TABLE.split(";"))
def test_table_of_sizes(row):
    size, grid = ([int(n) for n in part.split("x")] for part in row.split())
    assert image.image_grid(*size) == tuple(grid)
    assert all(type(n) is int for n in image.image_grid(*np.array(size)))


def test_what_hf_does_with_narrow_pictures():
    """It computes a grid without rows and then refuses to resize. Mistral keeps a pixel."""
    assert image.image_grid(2000, 1001, style="hf") == (64, 32)
    assert image.image_grid(5000, 1, style="hf") == (64, 0) and image.image_grid(1, 1025, style="hf") == (0, 64)
    for size in ((5000, 1), (1, 1025)):
        with pytest.raises(TinyError, match="nothing is left of one side"):
            image.preprocess(picture(*size), style="hf")


@pytest.mark.parametrize("patch_size, max_image_size", [(8, 96), (14, 1024), (16, 100), (32, 8), (1, 1)])
def test_other_patches(patch_size, max_image_size):
    """Sides are multiples of the patch, and above the maximum by less than one patch."""
    for width, height in ((1, 1), (7, 300), (96, 24), (97, 13)):
        for style in STYLES:
            columns, rows = image.image_grid(width, height, patch_size, max_image_size, style)
            if columns and rows:
                pixels = image.preprocess(picture(width, height), patch_size, max_image_size, style)
                assert pixels.shape == (3, rows * patch_size, columns * patch_size)
                assert max(pixels.shape[1:]) < max_image_size + patch_size


@pytest.mark.parametrize("sizes", [(0, 5), (5, -1), (float("nan"), 5), (float("inf"), 5), (5.0, 5), ("5", 5), (None, 5),
                                   (True, 5), (2**40, 5), (10**400, 5), (5, 5, 0), (5, 5, 16, 0), (5, 5, 16.0)])
def test_senseless_sizes(sizes):
    with pytest.raises(TinyError, match="whole numbers of at least 1"):
        image.image_grid(*sizes)


def test_senseless_settings(tmp_path):
    for act in (lambda: image.image_grid(5, 5, style="HF"), lambda: image.preprocess(picture(5, 5), style=None),
                lambda: image.open_image(picture(5, 5), "pil")):
        with pytest.raises(TinyError, match="The style of preprocessing is .*\nUse one of mistral, hf"):
            act()
    with pytest.raises(TinyError, match="give 100000 x 100000 = more than 128 million pixels"):
        image.preprocess(picture(5, 5), patch_size=100_000)


def test_a_picture_that_fits_is_not_resized():
    levels = formula(64, 48)
    back = image.preprocess(Image.fromarray(levels)).transpose(1, 2, 0) * np.array(image.STD) + np.array(image.MEAN)
    assert_close(255 * back, levels, 5e-5, name="levels")
    assert np.array_equal(image.preprocess(Image.fromarray(levels)),
                          image.preprocess(Image.fromarray(levels), style="hf"))


def test_a_small_picture_costs_less_than_its_arithmetic_in_another_order():
    """All of a call, its checks too, against the plain formula with channels last. Measured: 0.44 of it."""
    given = Image.fromarray(formula(128, 128))
    levels = np.asarray(given).astype(np.float32)
    mean, std = np.array(image.MEAN, np.float32), np.array(image.STD, np.float32)

    def channels_last():
        return np.ascontiguousarray(((levels / np.float32(255) - mean) / std).transpose(2, 0, 1))

    ways, least = (lambda: image.preprocess(given), channels_last), [np.inf, np.inf]
    for _ in range(200):
        for way, run in enumerate(ways):
            start = time.process_time()
            run()
            least[way] = min(least[way], time.process_time() - start)
    assert np.array_equal(image.preprocess(given), channels_last()), "to the bit"
    assert least[0] < least[1], f"{least[0] * 1e6:.0f} and {least[1] * 1e6:.0f} microseconds"


# ---- the resize

@pytest.mark.parametrize("source, target", [(1, 16), (3, 16), (40, 16), (16, 40), (7, 7)])
def test_taps(source, target):
    """Weights add up to 1, they bring back a straight line, and no tap leaves the line of pixels."""
    indices, weights = image.cubic_taps(source, target, np.dtype(np.float64))
    assert indices.shape == weights.shape == (4, target) and weights.dtype == np.float32
    assert indices.min() >= 0 and indices.max() < source
    assert_close(weights.sum(axis=0), np.ones(target), 3e-7, name="sum of weights")
    if source == target:
        assert np.array_equal(weights, np.array([0, 1, 0, 0])[:, None].repeat(target, 1))


def test_resize_is_not_clipped_and_not_antialiased():
    edge = np.zeros((32, 32, 3), np.uint8)
    edge[:, 16:] = 255
    larger = image.resize_cubic(edge, 48, 48)
    assert larger.min() < -10 and larger.max() > 265 and larger.dtype == np.float32
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::4] = 255
    smaller = image.resize_cubic(stripes, 16, 16)  # Halfway between two pixels that are black everywhere.
    assert len(np.unique(smaller[:, 2:-2])) == 1 and abs(float(smaller[8, 8, 0]) - 255 / 4) > 50


# ---- modes

@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("mode", MODES)
def test_mode(mode, style):
    """As both references convert; LAB goes through a colour library, which may differ by a level."""
    rgb = image.open_image(of_mode(mode), style)
    assert rgb.mode == "RGB"
    assert_close(np.asarray(rgb), ODD[f"{mode}/{style}"], 1.0 if mode == "LAB" else 0.0, name=mode)


def test_blend_with_white():
    """The formula of the docstring, for every value and every alpha."""
    value, alpha = np.mgrid[:256, :256]
    t = value * alpha + 255 * (255 - alpha) + 128
    expected = (t + t // 256) // 256
    for style in STYLES:
        rgba = Image.fromarray(np.stack([value, 255 - value, value, alpha], axis=2).astype(np.uint8))
        rgb = np.asarray(image.open_image(rgba, style))
        assert rgba.mode == "RGBA" and np.array_equal(rgb[..., 0], expected) and np.array_equal(rgb[..., 1],
                                                                                                expected[::-1])


def test_deep_levels_are_clipped():
    """As in both references: what stands above 255 becomes white, and is not scaled down."""
    levels = np.array([[0, 100, 255, 256, 40000]], np.uint16)
    for deep in (Image.fromarray(levels), Image.fromarray(levels.astype(np.int32)),
                 Image.fromarray(levels.astype(np.float32))):
        with pytest.warns(UserWarning, match="up to 40000: 40% of its pixels become plain white or black"):
            assert np.asarray(image.open_image(deep))[0, :, 1].tolist() == [0, 100, 255, 255, 255]


def test_a_mode_that_pillow_cannot_convert():
    with pytest.raises(TinyError, match="The picture cannot be decoded: conversion from La"):
        image.open_image(Image.new("La", (4, 4)))


def test_the_picture_given_is_left_alone():
    for mode in ("RGB", "RGBA", "P"):
        given = of_mode(mode)
        before = given.tobytes()
        rgb = image.open_image(given)
        rgb.putpixel((0, 0), (1, 2, 3))
        assert given.mode == mode and given.tobytes() == before and rgb is not given


# ---- files

def test_files_and_pictures_are_the_same(tmp_path):
    path = tmp_path / "a picture.png"
    picture(40, 30).save(path)
    for style in STYLES:
        pixels = [image.preprocess(source, style=style) for source in (path, str(path), picture(40, 30))]
        assert pixels[0].dtype == np.float32 and pixels[0].flags.c_contiguous and pixels[0].flags.writeable
        assert np.array_equal(pixels[0], pixels[1]) and np.array_equal(pixels[0], pixels[2])


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM"])
def test_formats(kind, tmp_path):
    path = tmp_path / "picture"
    picture(40, 30).save(path, format=kind)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert image.open_image(path).size == (40, 30)


@pytest.mark.parametrize("style", STYLES)
def test_exif_orientation_is_not_followed_but_said(style, tmp_path):
    path = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6  # A quarter turn.
    picture(40, 30).save(path, exif=exif)
    assert Image.open(path).getexif()[0x0112] == 6
    with pytest.warns(UserWarning, match="turned.jpg asks viewers to turn or mirror it .EXIF orientation 6."):
        assert image.open_image(path, style).size == (40, 30)
    with pytest.warns(UserWarning, match="exif_transpose"):
        assert image.preprocess(path, style=style).shape == (3, 32, 48)


def test_animation_gives_its_first_frame(tmp_path):
    path = tmp_path / "moving.gif"
    frames = [Image.new("RGB", (20, 10), colour) for colour in ("red", "green", "blue")]
    frames[0].save(path, save_all=True, append_images=frames[1:])
    with pytest.warns(UserWarning, match="moving.gif has several frames; frame 1 alone is used"):
        assert image.open_image(path).getpixel((3, 3)) == (255, 0, 0)
    with Image.open(path) as moving:
        moving.seek(2)
        with pytest.warns(UserWarning, match="The picture has several frames; frame 3 alone is used"):
            assert image.open_image(moving).getpixel((3, 3)) == (0, 0, 255)


def png():
    return (FOLDER / "coffee_130x61.png").read_bytes()


def jpeg(tmp_path):
    picture(200, 100).save(tmp_path / "whole.jpg")
    return (tmp_path / "whole.jpg").read_bytes()


BAD = {
    "text": (lambda _: b"This is a sentence.", "is not an image"),
    "empty file": (lambda _: b"", "is not an image"),
    "signature alone": (lambda _: png()[:12], "is not an image"),
    "PNG cut in its middle": (lambda _: png()[:9000], "cannot be decoded"),
    "PNG with spoilt data": (lambda _: png()[:60] + bytes(500) + png()[560:], "cannot be decoded"),
    "JPEG cut in its middle": (lambda folder: jpeg(folder)[:2000], "cannot be decoded"),
    "bomb beyond Pillow's limit": (lambda _: bomb(60_000, 60_000), "has more than 128 million pixels"),
    "bomb beyond ours": (lambda _: bomb(12_000, 11_000), "has 12000 x 11000 = more than 128 million pixels"),
    "large picture without data": (lambda _: bomb(10_000, 10_000), "cannot be decoded"),
    "PNG of no width": (lambda _: bomb(0, 5), "is not an image: .* or without pixels"),
    "PostScript": (lambda _: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "is not an image"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_file(name, tmp_path):
    make, cause = BAD[name]
    path = tmp_path / "bad.png"
    path.write_bytes(make(tmp_path))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(TinyError, match=cause) as caught:
            image.preprocess(path)
    assert "bad.png" in caught.value.cause and caught.value.remedy
    assert "\n" not in caught.value.cause and "\n" not in caught.value.remedy


def test_no_file(tmp_path):
    for source, cause in ((tmp_path / "none.png", "none.png does not exist"),
                          (tmp_path, "cannot be read: Is a directory"), ("a\0b", "cannot be read")):
        with pytest.raises(TinyError, match=cause):
            image.open_image(source)


@pytest.mark.parametrize("source", [None, 3, b"GIF89a", [[0]], np.zeros((4, 4, 3), np.uint8)])
def test_what_is_no_picture(source):
    with pytest.raises(TinyError, match=f"A picture of type {type(source).__name__} was given"):
        image.preprocess(source)


def test_pictures_that_are_empty_or_too_large():
    with pytest.raises(TinyError, match="The picture has 0 x 5 pixels"):
        image.open_image(Image.new("RGB", (0, 5)))
    with pytest.raises(TinyError, match="The picture has 16000 x 8001 = more than 128 million pixels"):
        image.open_image(Image.new("1", (16000, 8001)))
    assert image.MAX_PIXELS == 16000 * 8000


def test_pillows_own_warning_is_not_passed_on(tmp_path):
    """Between Pillow's limit and ours a picture is read without a warning."""
    path = tmp_path / "large.tif"
    Image.new("1", (10_000, 9_000)).save(path, compression="group4")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert image.image_grid(*image.open_image(path).size) == (64, 58)


def test_many_damaged_files(tmp_path):
    """Whatever is changed in a file, the answer is a picture or an error with cause and remedy."""
    rng, refused = np.random.default_rng(0), 0
    for kind in ("PNG", "JPEG", "GIF", "TIFF", "BMP", "WEBP"):
        path = tmp_path / f"picture.{kind}"
        picture(24, 18).save(path, format=kind)
        whole = np.frombuffer(path.read_bytes(), np.uint8)
        for _ in range(40):
            spoilt = whole.copy()
            spoilt[rng.integers(0, min(len(whole), 200), 3)] = rng.integers(0, 256, 3)
            path.write_bytes(spoilt[: rng.integers(len(whole) // 2, 2 * len(whole))].tobytes())
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    assert image.preprocess(path).dtype == np.float32
                except TinyError as error:
                    refused += bool(error.cause and error.remedy)
    assert refused > 60
