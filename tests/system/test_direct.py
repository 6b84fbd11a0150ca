"""tiny/system/direct.py: which bytes come, what happens when they do not, and that no thread stays."""

import errno
import mmap
import os
import tempfile
import threading
import time

import numpy as np
import pytest
from small import file_bytes

from tiny.config import TinyError
from tiny.files.safetensors import read_safetensors
from tiny.system import direct
from tiny.system.direct import PAGE, DirectReader, Refused, Span, check_direct, find_spans, pages_for

RNG = np.random.default_rng(0)
# Nothing begins at a page: some within one page, some over several, one of exactly a page, and the last one in a page
# that the file ends.
TENSORS = {name: RNG.standard_normal(shape).astype(np.float32) for name, shape in {
    "few": (3,), "page": (PAGE // 4,), "many": (5, 7001), "none like it": (PAGE // 2 + 1,), "last": (77,)}.items()}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(file_bytes(TENSORS))
    try:
        DirectReader([str(path)])
    except Refused as error:
        pytest.skip(f"Where the tests write, {error}.")
    return path


def started(path):
    """A file opened in both ways: views, where they are, and a reader."""
    views = read_safetensors(path)
    spans = find_spans(views)
    return views, spans, DirectReader({span.path for span in spans.values()})


def read(reader, name, span):
    arrival = reader.read(name, span, mmap.mmap(-1, pages_for(span.size)))
    reader.wait(arrival)
    return arrival.buffer[arrival.skip : arrival.skip + span.size]


def no_thread_stays(within=1.0):
    end = time.monotonic() + within
    while any(thread.name == "direct read" for thread in threading.enumerate()):
        assert time.monotonic() < end, "a thread still reads"
        time.sleep(0.005)


@pytest.mark.parametrize("piece", [PAGE, 3 * PAGE, direct.PIECE])
def test_every_byte_comes(file, monkeypatch, piece):
    monkeypatch.setattr(direct, "PIECE", piece)
    views, spans, reader = started(file)
    data, size = file.read_bytes(), file.stat().st_size
    pages = 0
    for name, x in TENSORS.items():
        span = spans[name]
        assert span.path == str(file) and span.size == x.nbytes and span.start % PAGE
        assert data[span.start : span.start + span.size] == x.tobytes() == read(reader, name, span)
        pages += min(size, direct.whole_pages(span.start + span.size)) - span.start // PAGE * PAGE
    assert reader.bytes_read == pages and 0 < reader.seconds < 10
    check_direct(reader, views, spans)
    no_thread_stays()


def test_many_at_once(file, monkeypatch):
    monkeypatch.setattr(direct, "PIECE", PAGE)
    _, spans, reader = started(file)
    names = [*spans] * 20
    arrivals = [reader.read(name, spans[name], mmap.mmap(-1, pages_for(spans[name].size))) for name in names]
    assert reader.running <= direct.THREADS
    for name, arrival in zip(names, arrivals):
        reader.wait(arrival)
        assert arrival.buffer[arrival.skip : arrival.skip + spans[name].size] == TENSORS[name].tobytes()
    no_thread_stays()


def broken_reads(monkeypatch, change):
    """Let the second read of a page and all after it be `change` of the number of bytes that came."""
    real, seen = os.preadv, []

    def preadv(*arguments):
        seen.append(arguments)
        return real(*arguments) if len(seen) < 2 else change(real(*arguments))
    monkeypatch.setattr(os, "preadv", preadv)


def disk_error(count):
    raise OSError(errno.EIO, os.strerror(errno.EIO))


@pytest.mark.parametrize("change, said", [
    (disk_error, "cannot be read at byte .*: Input/output error"), (lambda count: 0, "bytes came of"),
    (lambda count: count - 1, "bytes came of"), (lambda count: PAGE // 2, "bytes came of")])
def test_a_read_that_fails_names_tensor_and_file(file, monkeypatch, change, said):
    monkeypatch.setattr(direct, "PIECE", 2 * PAGE)
    _, spans, reader = started(file)
    broken_reads(monkeypatch, change)
    with pytest.raises(TinyError, match=said) as caught:
        read(reader, "many", spans["many"])
    assert str(file) in caught.value.cause and "tensor many" in caught.value.cause and caught.value.remedy
    monkeypatch.undo()
    assert read(reader, "many", spans["many"]) == TENSORS["many"].tobytes(), "and the next read is whole again"
    no_thread_stays()


def test_a_read_that_brings_whole_pages_only_goes_on(file, monkeypatch):
    _, spans, reader = started(file)
    real = os.preadv
    monkeypatch.setattr(os, "preadv", lambda number, buffers, at: real(number, [buffers[0][:PAGE]], at))
    assert read(reader, "many", spans["many"]) == TENSORS["many"].tobytes()


def test_a_file_that_is_cut_while_it_is_read(file):
    _, spans, reader = started(file)
    size = file.stat().st_size
    read(reader, "last", spans["last"])
    os.truncate(file, size - 10)
    with pytest.raises(TinyError, match=f"tensor last cannot be read whole: the file has {size - 10:,} bytes and had"):
        read(reader, "last", spans["last"])
    os.truncate(file, 100)
    with pytest.raises(TinyError, match="the file has 100 bytes"):
        read(reader, "many", spans["many"])


def test_stopping_gives_up_what_was_not_begun(file, monkeypatch):
    monkeypatch.setattr(direct, "PIECE", PAGE)
    _, spans, reader = started(file)
    real, go = os.preadv, threading.Event()

    def slow(*arguments):
        go.wait(5)
        return real(*arguments)
    monkeypatch.setattr(os, "preadv", slow)
    arrival = reader.read("many", spans["many"], mmap.mmap(-1, pages_for(spans["many"].size)))
    reader.stop()
    with pytest.raises(TinyError, match="Reading many was stopped"):
        reader.wait(arrival)
    go.set()
    no_thread_stays()
    assert arrival.left and not reader.running


def test_what_has_no_direct_reads_is_refused(file, monkeypatch):
    with monkeypatch.context() as patch:
        patch.delattr(os, "O_DIRECT")  # macOS, Windows
        with pytest.raises(Refused, match="this system has none"):
            DirectReader([str(file)])
    real = os.open

    def refusing(path, flags, *more):
        if flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, "Invalid argument")  # tmpfs, and other file systems in memory
        return real(path, flags, *more)
    monkeypatch.setattr(os, "open", refusing)
    with pytest.raises(Refused, match="Invalid argument"):
        DirectReader([str(file)])


def test_reads_that_do_not_work_or_bring_another_file_are_refused(file, tmp_path, monkeypatch):
    views, spans, reader = started(file)
    other = tmp_path / "b.safetensors"
    other.write_bytes(file_bytes({name: x + 1 for name, x in TENSORS.items()}))
    moved = {name: span._replace(path=str(other)) for name, span in spans.items()}
    with pytest.raises(Refused, match="another file"):
        check_direct(DirectReader([str(other)]), views, moved)
    monkeypatch.setattr(os, "preadv", lambda *arguments: disk_error(0))
    with pytest.raises(Refused, match="Input/output"):
        check_direct(reader, views, spans)


def test_what_is_no_part_of_a_file_is_refused(file, monkeypatch):
    views = read_safetensors(file)
    for bad in (TENSORS["many"], views["many"][:, ::2], [1.0], views["many"].astype(np.float64)):
        with pytest.raises(Refused, match="x is no plain part of a file"):
            find_spans({"x": bad})
    assert find_spans({"x": views["many"][1:3]})["x"].size == 2 * 7001 * 4
    assert find_spans({"x": views["many"].T})["x"] == find_spans(views)["many"]
    assert find_spans({}) == {}
    monkeypatch.setattr(direct, "read", lambda path: "")
    with pytest.raises(Refused, match="does not say of which"):
        find_spans(views)


def test_files_are_closed_with_their_reader(file):
    before = os.listdir("/proc/self/fd")
    reader = DirectReader([str(file)])
    assert len(os.listdir("/proc/self/fd")) == len(before) + 1
    del reader
    assert len(os.listdir("/proc/self/fd")) == len(before)
    with pytest.raises(Refused):
        DirectReader([str(file), str(file) + " is not there"])
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_where_there_is_no_disk():
    """tmpfs refuses direct reads, or serves them from memory: newer kernels."""
    if not os.access("/dev/shm", os.W_OK):
        pytest.skip("There is no /dev/shm here, where files are in memory.")
    with tempfile.NamedTemporaryFile(dir="/dev/shm") as shared:
        shared.write(b"x" * 5000)
        shared.flush()
        try:
            assert read(DirectReader([shared.name]), "x", Span(shared.name, 10, 4990)) == b"x" * 4990
        except Refused as error:
            assert "Invalid argument" in str(error)
