"""tiny/system/whole.py: at whatever point writing fails, a name is absent, old and whole, or new and whole."""

import errno
import os
import signal
import subprocess
import sys

import pytest
from oracles import ROOT

from tiny.system import whole
from tiny.system.whole import whole_folder, write_whole

OLD, NEW = b"old", b"new" * 1000


def refuse(*arguments, **more):
    raise OSError(errno.EPERM, "refused")


@pytest.fixture(params=["unnamed", "named", "no links"])
def way(request, monkeypatch):
    """Files without a name; where there are none; and where they cannot get one, as in some containers."""
    if request.param == "named":
        monkeypatch.setattr(whole, "open_unnamed", lambda folder: None)
    elif whole.open_unnamed(request.getfixturevalue("tmp_path")) is None:
        pytest.skip("This disk has no files without a name.")
    elif request.param == "no links":
        monkeypatch.setattr(os, "link", refuse)
    return request.param


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("content", ["é\n", "é\n".encode(), lambda file: [file.write(b"\xc3"), file.write(b"\xa9\n")]])
def test_text_bytes_and_functions(tmp_path, content):
    mask = os.umask(0o027)
    try:
        for name in (tmp_path / "a", str(tmp_path / "a")):
            write_whole(name, content)
            assert (tmp_path / "a").read_bytes() == b"\xc3\xa9\n" and os.listdir(tmp_path) == ["a"]
            assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640, "it has the rights of every new file"
    finally:
        os.umask(mask)


@pytest.mark.parametrize("before", [None, OLD])
@pytest.mark.parametrize("call", ["part_of", "fsync", "replace", "content"])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt(), SystemExit(143)],
                         ids=["full disk", "ctrl-c", "sigterm"])
def test_a_failure_at_any_point(tmp_path, monkeypatch, before, call, error, way):
    path = tmp_path / "a"
    if before is not None:
        path.write_bytes(before)
    elif call == "replace" and way == "unnamed":
        pytest.skip("Nothing is replaced: the file gets its own name at once.")

    def fail(*arguments, **more):
        raise error

    def content(file):
        file.write(NEW[:100])
        fail()

    if call != "content":
        monkeypatch.setattr(whole if call == "part_of" else os, call, fail)
    with pytest.raises(type(error)):
        write_whole(path, content if call == "content" else NEW)
    monkeypatch.undo()
    assert os.listdir(tmp_path) == ([] if before is None else ["a"])
    assert before is None or path.read_bytes() == before


PROGRAM = """import os, time
from tiny.system import whole
from tiny.tools.terminal import program

def slowly(file):
    file.write(b"half")
    file.flush()
    os.kill(os.getpid(), {number})
    time.sleep(60)

if {way!r} == "named":
    whole.open_unnamed = lambda folder: None
program(lambda: whole.write_whole({path!r}, slowly))"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_signal_while_writing(tmp_path, number, way, signals_heard):
    """A kill leaves what was there; a rest has another name, and the next write removes it."""
    (tmp_path / "a").write_bytes(OLD)
    program = PROGRAM.format(number=int(number), way=way, path=str(tmp_path / "a"))
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, timeout=60)
    assert done.returncode == {signal.SIGTERM: 143, signal.SIGINT: 130}.get(number, -number) and done.stderr == b""
    assert (tmp_path / "a").read_bytes() == OLD
    assert len(os.listdir(tmp_path)) == 1 + (number == signal.SIGKILL and way == "named")
    write_whole(tmp_path / "a", NEW)
    assert os.listdir(tmp_path) == ["a"]


def test_what_others_write_stays(tmp_path, monkeypatch):
    """A leftover is what has this name and no writer that lives; files of similar names are nobody's leftovers."""
    monkeypatch.setattr(whole, "open_unnamed", lambda folder: None)
    for name in ("b.01234567.part", "a.part", "a.0123456789.part", "a.0123456z.part"):
        (tmp_path / name).write_bytes(OLD)
    for name in ("a.01234567.part", "a.89abcdef.part"):
        (tmp_path / name).write_bytes(OLD)
    kept = set(os.listdir(tmp_path)) - {"a.01234567.part", "a.89abcdef.part"}

    def twice(file):
        """Another writer of the same name, while this one is at work."""
        file.write(NEW)
        assert len(whole.unfinished(tmp_path / "a")) == 1
        write_whole(tmp_path / "a", OLD)
        assert (tmp_path / "a").read_bytes() == OLD

    write_whole(tmp_path / "a", twice)
    assert (tmp_path / "a").read_bytes() == NEW and set(os.listdir(tmp_path)) == kept | {"a"}


def test_a_writer_whose_file_was_taken_for_a_leftover_makes_another(tmp_path, monkeypatch):
    """Between the making of a file and its lock another process may remove it."""
    real, taken = whole.lock, []

    def late(number, wait=False):
        if not taken:
            taken.extend(tmp_path.iterdir())
            taken[0].unlink()
        return real(number, wait)

    monkeypatch.setattr(whole, "open_unnamed", lambda folder: None)
    monkeypatch.setattr(whole, "lock", late)
    monkeypatch.setattr(whole, "unfinished", lambda path: [])
    write_whole(tmp_path / "a", NEW)
    assert taken and os.listdir(tmp_path) == ["a"] and (tmp_path / "a").read_bytes() == NEW


def test_folders(tmp_path):
    left = tmp_path / "a.01234567.part"
    left.mkdir()
    (left / "x").write_bytes(OLD)
    with whole_folder(tmp_path / "a") as part:
        (part / "x").write_bytes(NEW)
        assert os.listdir(tmp_path) == [part.name] and not left.exists()
        with pytest.raises(BlockingIOError), whole_folder(tmp_path / "a"):
            pass
        write_whole(tmp_path / "b", NEW)
    assert sorted(os.listdir(tmp_path)) == ["a", "b"] and (tmp_path / "a/x").read_bytes() == NEW
    with pytest.raises(SystemExit), whole_folder(tmp_path / "c") as part:
        (part / "x").write_bytes(NEW)
        sys.exit(143)
    with pytest.raises(OSError), whole_folder(tmp_path / "a") as part:
        (part / "x").write_bytes(OLD)
    assert sorted(os.listdir(tmp_path)) == ["a", "b"] and (tmp_path / "a/x").read_bytes() == NEW


def test_links_and_devices(tmp_path):
    (tmp_path / "real").write_bytes(OLD)
    (tmp_path / "link").symlink_to("real")
    write_whole(tmp_path / "link", NEW)
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real").read_bytes() == NEW
    write_whole("/dev/null", NEW)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError):  # Nobody reads it, and this does not wait for somebody.
        write_whole(tmp_path / "pipe", NEW)
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    write_whole(tmp_path / "pipe", NEW)
    assert os.read(reader, 10_000) == NEW
    os.close(reader)
    (tmp_path / "pipe").unlink()
    with pytest.raises(IsADirectoryError):
        write_whole(tmp_path, NEW)
    with pytest.raises(FileNotFoundError):
        write_whole(tmp_path / "no/folder", NEW)
    assert sorted(os.listdir(tmp_path)) == ["link", "real"]


@pytest.mark.parametrize("pipe", [True, False])
def test_standard_streams(tmp_path, pipe):
    """They may lead to a pipe or to a plain file, where what was printed before stays, and what comes later follows."""
    program = """import os
from tiny.system.whole import write_whole
os.write(1, b"before ")
write_whole("/dev/stdout", "it ")
write_whole("/dev/fd/1", "again ")
os.write(1, b"after")"""
    with open(tmp_path / "out", "wb") as file:
        done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True,
                              stdout=subprocess.PIPE if pipe else file)
    assert (done.stdout if pipe else (tmp_path / "out").read_bytes()) == b"before it again after"
