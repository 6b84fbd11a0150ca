"""tiny/system/whole.py: at whatever point writing fails, a name is absent, old and whole, or new and whole."""

import ast
import errno
import os
import signal
import subprocess
import sys

import pytest
from house import parsed, place
from oracles import ROOT

from tiny.system.whole import write_whole

OLD, NEW = b"old", b"new" * 1000


@pytest.mark.parametrize("content", ["é\n", "é\n".encode(), lambda file: [file.write(b"\xc3"), file.write(b"\xa9\n")]])
def test_text_bytes_and_functions(tmp_path, content):
    write_whole(tmp_path / "a", content)
    write_whole(str(tmp_path / "a"), content)
    assert (tmp_path / "a").read_bytes() == b"\xc3\xa9\n" and os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("before", [None, OLD])
@pytest.mark.parametrize("call", ["open", "fsync", "replace", "content"])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt(), SystemExit(143)],
                         ids=["full disk", "ctrl-c", "sigterm"])
def test_a_failure_at_any_point(tmp_path, monkeypatch, before, call, error):
    path = tmp_path / "a"
    if before is not None:
        path.write_bytes(before)

    def fail(*arguments, **more):
        raise error

    def content(file):
        file.write(NEW[:100])
        fail()

    if call != "content":
        monkeypatch.setattr(*(("builtins.open",) if call == "open" else (os, call)), fail)
    with pytest.raises(type(error)):
        write_whole(path, content if call == "content" else NEW)
    monkeypatch.undo()
    assert os.listdir(tmp_path) == ([] if before is None else ["a"])
    assert before is None or path.read_bytes() == before


@pytest.mark.parametrize("number, left", [(signal.SIGTERM, ["a"]), (signal.SIGINT, ["a"]), (signal.SIGKILL, None)])
def test_a_signal_while_writing(tmp_path, number, left):
    """A kill leaves what was there, and a rest of another name."""
    (tmp_path / "a").write_bytes(OLD)
    program = f"""import os, time
from tiny.system.whole import write_whole
from tiny.tools.terminal import program

def slowly(file):
    file.write(b"half")
    file.flush()
    os.kill(os.getpid(), {int(number)})
    time.sleep(60)

program(lambda: write_whole({str(tmp_path / "a")!r}, slowly))"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, timeout=60)
    assert done.returncode == {signal.SIGTERM: 143, signal.SIGINT: 130}.get(number, -number) and done.stderr == b""
    assert (tmp_path / "a").read_bytes() == OLD
    assert left is None or os.listdir(tmp_path) == left


def test_links_and_devices(tmp_path):
    (tmp_path / "real").write_bytes(OLD)
    (tmp_path / "link").symlink_to("real")
    write_whole(tmp_path / "link", NEW)
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real").read_bytes() == NEW
    write_whole("/dev/null", NEW)
    with pytest.raises(IsADirectoryError):
        write_whole(tmp_path, NEW)
    with pytest.raises(FileNotFoundError):
        write_whole(tmp_path / "no/folder", NEW)
    assert sorted(os.listdir(tmp_path)) == ["link", "real"]


# Files that write otherwise: to standard streams, into a scratch folder of the same run, line by line to a log, or into
# a folder that gets its name when it is whole.
OTHERWISE = {"tiny/system/whole.py", "tiny/tools/terminal.py", "tiny/tools/convert/write.py",
             "tiny/tools/verify/dump.py", "tiny/tools/verify/transformers_child.py", "tiny/training/text/train.py",
             "tiny/training/images/train.py", "kernels/emulator/build.py", "kernels/nvrtc.py",
             "tutorial/grader/tree.py"}


def test_nothing_is_written_in_place():
    """One helper writes what users keep: an output file that is there is whole."""
    found = []
    for path in (path for folder in ("tiny", "kernels", "tutorial", "notebooks")
                 for path in sorted((ROOT / folder).rglob("*.py"))):
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                modes = [word.value for word in [*node.args, *(word.value for word in node.keywords)]
                         if isinstance(word, ast.Constant) and isinstance(word.value, str)]
                opened = name.endswith("open") and any(set(mode) <= set("rwaxbt+") and set(mode) & set("wax")
                                                       for mode in modes)
                if name.endswith((".write_text", ".write_bytes")) or opened:
                    found.append((str(path.relative_to(ROOT)), place(path, node)))
                elif name.endswith((".savefig", "np.savez", "np.savez_compressed", "np.save")):
                    first = ast.unparse(node.args[0]) if node.args else ""
                    if first not in ("file", "drawn"):  # an open file, or a buffer
                        found.append((str(path.relative_to(ROOT)), place(path, node)))
    assert [where for name, where in found if name not in OTHERWISE] == []
    assert len({name for name, _ in found}) > 5, "the test finds the places that it allows"
