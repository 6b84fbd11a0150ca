"""Opening picture files: which formats are read, what is refused as what it is, and what a warning says."""

import base64
import io
import json
import os
import subprocess
import sys
import warnings

import numpy as np
import pytest
from oracles import ROOT
from pictures import MODES, of_mode, picture
from PIL import Image

import tiny
from tiny.__main__ import main
from tiny.config import TinyError
from tiny.system import pictures
from tiny.system.pictures import FORMATS, open_image
from tiny.tools import memory, prompt_images

CORPUS = ROOT / "tests/fuzz/corpus/picture"
ALL = ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "PPM")
Image.init()  # Pillow fills SAVE only when it is needed.


def said(act) -> list[str]:
    """The warnings of a call."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        act()
    return [str(warning.message) for warning in caught]


# ---- formats

@pytest.mark.parametrize("kind", sorted(Image.SAVE))
def test_no_other_format_is_opened(kind, tmp_path):
    """Whatever Pillow can write, under a name that says PNG."""
    path = tmp_path / "picture.png"
    data = io.BytesIO()  # Pillow's writer of SPIDER makes the extension of a named file its own, for all that follow.
    try:
        picture(40, 30).save(data, format=kind)
    except (OSError, KeyError, ValueError, SystemError):
        pytest.skip(f"Pillow cannot write a picture in mode RGB as {kind} here.")
    path.write_bytes(data.getvalue())
    try:
        size = open_image(path).size
    except TinyError as error:
        assert kind not in (*FORMATS, "MPO") and "is not an image: of none of the formats PNG, JPEG" in str(error)
    else:  # DIB is a BMP without its first 14 bytes; Pillow 13 no longer takes it for one.
        assert kind in (*FORMATS, "DIB", "MPO") and size == (40, 30)


def test_the_formats_are_named():
    assert FORMATS == ALL


@pytest.mark.parametrize("name", ["iptc_postscript_draws.png", "iptc_hides_177_megapixels.png"])
def test_a_container_is_neither_opened_nor_run(name, tmp_path, monkeypatch, capsys):
    """IPTC hides PostScript, or a picture of another size. A program `gs` would leave a trace."""
    trace = tmp_path / "ran"
    (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch {trace}\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(TinyError, match="is not an image"):
        open_image(CORPUS / name)
    assert main(["describe", str(CORPUS / name)]) == 2
    assert "is not an image" in capsys.readouterr().err
    with Image.open(CORPUS / name) as opened, pytest.raises(TinyError, match="format IPTC that is not decoded yet"):
        open_image(opened)
    assert not trace.exists()


def test_what_was_decoded_by_others_is_taken(tmp_path):
    picture(40, 30).save(tmp_path / "a.ico")
    with Image.open(tmp_path / "a.ico") as opened:
        opened.load()
        assert open_image(opened).mode == "RGB"


# ---- sizes

def test_the_size_is_checked_again_after_decoding(monkeypatch):
    """A reader that returns more pixels than the header said."""
    monkeypatch.setattr(pictures, "MAX_PIXELS", 1000)

    class Growing(Image.Image):
        def load(self):
            self.im = Image.new("RGB", (200, 100)).im
            self._size = (200, 100)
            return self.im.pixel_access(0)

    small = Growing()
    small.im, small._mode, small._size = Image.new("RGB", (2, 2)).im, "RGB", (2, 2)
    with pytest.raises(TinyError, match="has 200 x 100 = more than"):
        open_image(small)


def test_a_small_file_that_becomes_large_is_refused(tmp_path):
    for kind, size in (("PNG", (11_000, 11_000)), ("WEBP", (8_000, 8_000))):
        Image.new("L" if kind == "PNG" else "RGB", size).save(tmp_path / "blank", format=kind)
        with pytest.raises(TinyError, match="a small file that would take 1.. GB of memory"):
            open_image(tmp_path / "blank")
        os.truncate(tmp_path / "blank", pictures.SMALL_FILE)
        with pictures.open_file(tmp_path / "blank") as opened:
            assert opened.size == size


@pytest.mark.skipif(sys.platform != "linux", reason="Only Linux says in /proc what a process has taken at most.")
@pytest.mark.parametrize("kind, mode", [("PNG", "RGB"), ("PNG", "RGBA"), ("TIFF", "1"), ("JPEG", "RGB"), ("GIF", "P"),
                                        ("WEBP", "RGB")])
def test_decoding_takes_what_is_said(kind, mode, tmp_path):
    """The peak of a fresh process, less what it takes for a picture of one pixel."""
    peaks = []
    for size in ((1, 1), (4000, 3000)):
        Image.new(mode, size).save(tmp_path / "a", format=kind)
        program = ("import sys; from tiny.system.pictures import open_file, open_image, decoding_bytes\n"
                   "open_image(sys.argv[1]); lines = open('/proc/self/status').read().split('\\n')\n"
                   "print(*[int(line.split()[1]) * 1024 for line in lines if line.startswith('VmHWM')],"
                   "decoding_bytes(open_file(sys.argv[1])))")
        found = subprocess.run([sys.executable, "-c", program, tmp_path / "a"], capture_output=True, text=True,
                               check=True, cwd=ROOT).stdout
        peaks.append([int(n) for n in found.split()])
    used = peaks[1][0] - peaks[0][0]
    assert 0.4 * peaks[1][1] < used < peaks[1][1] + 16e6, f"{used:,} bytes, {peaks[1][1]:,} said"


def test_decoding_is_counted_and_said(capsys):
    path = CORPUS / "image_gigabyte.png"
    vision = tiny.load("tiny-pixtral").config.vision
    found = prompt_images.measure_picture(path, vision)
    assert found.decoding == pictures.DECODING * found.width * found.height
    assert f"decoding it takes about {found.decoding / 1e9:.1f} GB" in str(found)
    assert main(["memory", "tiny-pixtral", "--image", str(path)]) == 0
    assert f"decoding of the largest image {memory.amount(found.decoding)}" in " ".join(capsys.readouterr().out.split())
    small = prompt_images.picture_of("small", 64, 64, vision)
    assert "decoding" not in str(small)


def test_what_cannot_be_decoded_in_the_free_memory_is_refused_before(capsys, monkeypatch):
    monkeypatch.setattr(prompt_images, "free_memory", lambda: 10**8)
    monkeypatch.setattr(pictures, "decode", None)
    assert main(["describe", str(CORPUS / "image_gigabyte.png")]) == 2
    err = capsys.readouterr().err
    assert "GB, and 0.1 GB are free" in err and "Shrink the picture first" in err


def test_too_little_memory_while_decoding(monkeypatch, tmp_path):
    picture(40, 30).save(tmp_path / "a.png")

    def full(*_):
        raise MemoryError
    monkeypatch.setattr(pictures, "convert_to_rgb", full)
    with pytest.raises(TinyError, match="not enough memory to decode .*a.png, 40 x 30 pixels"):
        open_image(tmp_path / "a.png")


@pytest.mark.parametrize("mode", MODES)
def test_strips_are_the_same_bits(mode, monkeypatch):
    """Large pictures are converted strip by strip, with the pixels that they have whole."""
    for style in pictures.STYLES:
        whole = open_image(of_mode(mode), style)
        monkeypatch.setattr(pictures, "BAND", 2 * whole.width)
        strips = open_image(of_mode(mode), style)
        assert np.array_equal(pictures.levels_of(strips), np.asarray(whole))
        monkeypatch.undo()


# ---- notes

@pytest.mark.parametrize("turn", range(1, 9))
def test_exif(turn, tmp_path):
    exif = Image.Exif()
    exif[pictures.ORIENTATION] = turn
    for kind in ("JPEG", "PNG", "WEBP"):
        picture(40, 30).save(tmp_path / "a", format=kind, exif=exif)
        notes = said(lambda: open_image(tmp_path / "a"))
        assert len(notes) == (turn > 1) and all(f"EXIF orientation {turn}" in note for note in notes), kind
        with Image.open(tmp_path / "a") as opened:
            assert len(said(lambda opened=opened: open_image(opened))) == (turn > 1)
            assert not said(lambda opened=opened: open_image(open_image(opened.copy())))


@pytest.mark.parametrize("spoilt", [b"", b"Exif\0\0",
                                    b"Exif\0\0II*\0\xff\xff\xff\xff",
                                    b"Exif\0\0MM\0*\0\0\0\x08\xff\xff"])
def test_damaged_exif_in_a_whole_picture(spoilt, tmp_path):
    picture(40, 30).save(tmp_path / "a.jpg", exif=spoilt)
    assert not said(lambda: open_image(tmp_path / "a.jpg"))


def test_exif_of_stored_pictures():
    """What viewers show turned is stored sideways in JPEG; Pillow turns TIFF by itself, and there is nothing to say."""
    for name, size, notes in (("exif3.jpg", (60, 40), 1), ("exif6.jpg", (60, 40), 1), ("exif6.tif", (40, 60), 0)):
        found: list[Image.Image] = []
        assert len(said(lambda name=name, found=found: found.append(open_image(CORPUS / name)))) == notes
        assert found[0].size == size, name


def test_a_note_of_the_command_line(capsys):
    assert main(["describe", str(CORPUS / "exif6.jpg"), "--max-tokens", "1", "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["images"][0]["width"] == 60
    assert err.count("EXIF orientation 6") == 1 and "note: " in err


@pytest.mark.parametrize("name, words", [("gray16.png", "of its pixels become plain white or black"),
                                         ("float01.tif", "grey levels of 0 to 1, which all become black")])
def test_deep_greys_are_not_silent(name, words):
    notes = said(lambda: open_image(CORPUS / name))
    assert len(notes) == 1 and words in notes[0] and notes[0].endswith("Scale it to 8 bits first.")


def test_deep_modes_with_shallow_levels_say_nothing():
    levels = np.array([[0, 3, 255]])
    for dtype in (np.uint16, np.int32, np.float32):
        assert not said(lambda dtype=dtype: open_image(Image.fromarray(levels.astype(dtype))))
    assert not said(lambda: open_image(Image.new("F", (3, 3))))
    nan = Image.fromarray(np.full((2, 2), np.nan, np.float32))
    assert "100% of its pixels" in said(lambda: open_image(nan))[0]


# ---- what is no file

ADDRESSES = ["http://example.com/cat.png", "https://example.com/cat.png", "file:///a/x.png", "ftp://a/b.png",
             "HTTPS://EXAMPLE.COM/A.PNG", "s3://bucket/key"]


@pytest.mark.parametrize("source", ADDRESSES)
def test_addresses_are_refused_as_addresses(source, capsys):
    with pytest.raises(TinyError, match="is an address, and only files are read here.\nSave the picture"):
        open_image(source)
    assert main(["describe", source]) == 2
    assert "is an address" in capsys.readouterr().err


def test_a_data_url_is_refused_and_cut():
    source = "data:image/png;base64," + base64.b64encode(bytes(300_000)).decode()
    with pytest.raises(TinyError, match="is a data URL of 400,022 characters") as caught:
        open_image(source)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("source", ["x" * 100_000, "/" + 5000 * "a/", "\ud800", "a\0b"])
def test_names_that_are_no_files(source):
    with pytest.raises(TinyError) as caught:
        open_image(source)
    assert len(caught.value.cause) < 300 and "\n" not in caught.value.cause


@pytest.mark.parametrize("source", [b"\x89PNG", bytearray(b"GIF89a"), memoryview(b"x"), io.BytesIO(b"\x89PNG")])
def test_bytes_get_a_remedy_that_fits(source):
    with pytest.raises(TinyError, match=f"type {type(source).__name__} was given.*\n.*Image.open of io.BytesIO"):
        open_image(source)


def test_pipes_and_devices_are_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    for source in (tmp_path / "pipe.png", "/dev/zero", "/dev/null"):
        with pytest.raises(TinyError, match="is a pipe or a device"):
            open_image(source)
