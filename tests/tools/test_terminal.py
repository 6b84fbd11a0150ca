"""The edges of a program: closed and broken streams, other locales, signals, and text that is not what it should be.

Each command runs as a user runs it, in a process of its own.
"""

import functools
import io
import json
import os
import pty
import select
import shutil
import signal
import subprocess
import sys
import time

import pytest
from oracles import ROOT
from PIL import Image

import tiny
from tests.tools.test_cli import fails
from tiny.config import TinyError
from tiny.tools import chat, session
from tiny.tools.terminal import as_text, clean, explain, note, one_line, tell

TWO = ["--max-tokens", "2"]


def run(*arguments, stdin=b"", redirect="", **environment):
    """Status, standard output and standard error of a command, through a shell with redirections."""
    words = [word if isinstance(word, bytes) else str(word).encode() for word in (sys.executable, *arguments)]
    line = b'exec "$@" ' + redirect.encode()
    done = subprocess.run([b"bash", b"-c", line, b"bash", *words], input=stdin, capture_output=True, cwd=ROOT,
                          env=os.environ | environment, timeout=120)
    return done.returncode, done.stdout, done.stderr


def program(*arguments, **more):
    return run("-m", "tiny", *arguments, **more)


@functools.cache
def ids_of(stdin):
    status, out, err = program("generate", "--prompt", "-", *TWO, "--json", stdin=stdin)
    assert status == 0, err
    return json.loads(out)["prompt_ids"]


def refused(status, err, *words):
    """Whether a command ended in two lines."""
    lines = [line for line in err.decode().splitlines() if not line.startswith("note: ")]
    assert status == 2 and [line.split(":")[0] for line in lines] == ["error", "remedy"], err
    assert all(word in lines[0] for word in words), lines
    return True


@pytest.mark.parametrize("same", [b"Hello\r\nthere\r\n", b"\xef\xbb\xbfHello\nthere\n", b"Hello\nthere",
                                  b"\xef\xbb\xbfHello\r\nthere\r\n"])
def test_windows_line_ends_and_byte_order_marks_are_no_text(same):
    assert ids_of(same) == ids_of(b"Hello\nthere\n")


def test_what_is_text_stays_text():
    assert as_text("\r", "") == "\r" and as_text("a\ufeff", "") == "a\ufeff" and as_text("\ud800", "") == "\ud800"
    assert as_text("\udcc3\udca9", "") == "é", "an argument in a locale without UTF-8"


@pytest.mark.parametrize("data, words", [(b"caf\xe9", "0xE9 at place 3"), (b"\xff\xfeH\0", "0xFF at place 0")])
def test_what_is_not_utf8_is_refused_with_a_remedy_for_a_shell(data, words):
    status, out, err = program("generate", "--prompt", "-", stdin=data)
    assert refused(status, err, "Standard input is not UTF-8", words) and out == b""
    assert b"iconv -f UTF-16" in err if data[:1] == b"\xff" else b"iconv -f LATIN1" in err
    if b"\0" not in data:
        for arguments in (["generate", "--prompt", data], ["generate", "--model", "tiny-pixtral", "--prompt", data],
                          ["tokenize", data], ["trace", "--prompt", data]):
            status, out, err = program(*arguments)
            assert refused(status, err, words) and b"iconv" in err and out == b""


def test_an_argument_in_a_locale_without_utf8():
    status, out, err = program("tokenize", "--json", "é".encode(), LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    ids = tiny.load_tokenizer(tiny.model_folder("tiny-mixtral")).encode("é")
    assert status == 0 and json.loads(out)["ids"] == ids, err


@pytest.mark.parametrize("lines, answers", [(b"Reverse: cat\ncaf\xe9\nReverse: dog\n", 2), (b"\xe9\n", 0),
                                            (b"\xff\xfe\nReverse: dog", 1)])
def test_a_broken_byte_does_not_end_a_chat(lines, answers):
    status, out, err = program("chat", *TWO, stdin=lines)
    assert status == 0 and err.count(b"prompt tokens") == answers, err
    assert b"is not UTF-8 text" in err and b"type it again" in err


def test_lines_of_windows_in_a_chat():
    plain, windows = (program("chat", "--max-tokens", "4", stdin=mark + b"Reverse: cat" + end)
                      for mark, end in ((b"", b"\n"), (b"\xef\xbb\xbf", b"\r\n")))
    assert plain[:2] == windows[:2] and b" prompt tokens" in plain[2]


@pytest.mark.parametrize("redirect", ["2>&-", "2>&- <&-"])
@pytest.mark.parametrize("more", [[], ["--json"]])
def test_a_closed_stream_changes_nothing_on_the_others(redirect, more):
    arguments = ["generate", "--prompt", "Hello", *TWO, *more]
    good, closed = program(*arguments), program(*arguments, redirect=redirect)
    if more:
        assert closed[0] == 0 and json.loads(closed[1])["ids"] == json.loads(good[1])["ids"]
    else:
        assert closed[:2] == good[:2]


@pytest.mark.parametrize("redirect", [">&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize("arguments", [
    ["generate", "--prompt", "Hello", *TWO], ["inspect", "tiny-mixtral"], ["memory", "tiny-mixtral"],
    ["tokenize", "a"], ["chat"]], ids=lambda words: words[0])
def test_without_standard_output_a_command_ends_in_silence(arguments, redirect):
    status, out, err = program(*arguments, redirect=redirect)
    assert status == 0 and out == b"" and all(line.startswith(b"note: ") for line in err.splitlines()), err


def test_an_error_without_standard_error_says_nothing_anywhere():
    assert program("inspect", "no/folder", redirect="2>&-") == (2, b"", b"")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="This system has no /dev/full.")
def test_a_full_disk_ends_in_two_lines():
    for arguments in (["inspect", "tiny-mixtral"], ["generate", "--prompt", "a", *TWO, "--json"]):
        status, _, err = program(*arguments, redirect=">/dev/full")
        assert refused(status, err, "No space left")


def typed(feed: bytes, arguments, seconds=30, **environment):
    """Type into a command in a terminal once it asks; what is shown after that, and its status."""
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(ROOT)
        os.environ.update(environment)
        os.execv(sys.executable, [sys.executable, "-m", "tiny", *arguments])
    shown, fed, end = b"", False, time.monotonic() + seconds
    while time.monotonic() < end:
        if select.select([terminal], [], [], 0.2)[0]:
            try:
                shown += os.read(terminal, 65536)
            except OSError:
                break
        if not fed and b"> " in shown:
            os.write(terminal, feed)
            fed = True
    os.close(terminal)
    return shown.split(b"> ", 1)[-1], os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("environment", [{"LC_ALL": "C"}, {"LC_ALL": "POSIX"}, {"LC_ALL": "C.UTF-8"}],
                         ids=lambda environment: environment["LC_ALL"])
def test_typed_characters_arrive_in_every_locale(environment):
    shown, status = typed("中文 été\r/quit\r".encode(), ["chat", *TWO], TERM="xterm", **environment)
    assert "中文 été".encode() in shown and b"prompt tokens" in shown and status == 0, shown


def test_sigterm_ends_a_chat_and_cleans_up(signals_heard):
    for number, status in ((signal.SIGTERM, 143), (signal.SIGHUP, 129)):
        running = subprocess.Popen([sys.executable, "-m", "tiny", "chat"], cwd=ROOT, stdin=subprocess.PIPE,
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        while b"Commands" not in running.stderr.readline():
            pass
        running.send_signal(number)
        out, err = running.communicate(timeout=60)
        assert running.returncode == status and b"Traceback" not in err


# ---- control characters

def test_clean_text():
    assert clean("a\x1b[2J\x07\x9b\u202eb\n") == "a\ufffd[2J\ufffd\ufffd\ufffdb\ufffd"
    assert clean("a\n\tb", keep="\n\t") == "a\n\tb" and clean("é語👩\u200d🚀") == "é語👩\u200d🚀"
    assert one_line("a\nerror: b") == "a error: b" and len(one_line("x" * 5000)) == 1004 and one_line(7) == "7"


def test_notes_are_one_clean_line(capsys):
    note("a\nerror: forged\x1b[31m")
    assert capsys.readouterr().err == "note: a error: forged\ufffd[31m\n"


def test_a_line_on_standard_error_is_one_write(monkeypatch):
    """Several processes write there, and what is written in pieces is mixed: print writes the end of a line apart."""
    written = []

    class Stream(io.StringIO):
        def write(self, text):
            written.append(text)
            return len(text)
    monkeypatch.setattr(sys, "stderr", Stream())
    note("a")
    tell(TinyError("b", "c"), False, "")
    assert written == ["note: a\n", "error: b\n", "remedy: c\n"]


EVIL = "e\x1b]0;t\x07\nerror: forged"


def clean_bytes(*streams):
    """Whether nothing could command a terminal, and no line is forged."""
    for stream in streams:
        assert not any(byte in stream for byte in (b"\x1b", b"\x07", b"\xc2\x9b")), stream
        assert not any(line.startswith(b"error: forged") for line in stream.splitlines()), stream


def test_names_in_files_do_not_command_the_terminal(tmp_path):
    model = tmp_path / EVIL
    model.mkdir()
    for file in tiny.model_folder("tiny-mixtral").iterdir():
        if file.suffix in (".json", ".safetensors", ".model"):
            (model / file.name).write_bytes(file.read_bytes())
    params = json.loads((model / "params.json").read_text())
    (model / "params.json").write_text(json.dumps(params | {EVIL: 1}))
    picture, text = tmp_path / f"{EVIL}.png", tmp_path / f"{EVIL}.txt"
    Image.new("RGB", (20, 20), "red").save(picture)
    text.write_text("Once upon a time there was a cat.")
    (tmp_path / f"not {EVIL}.png").write_text("none")
    for arguments in (["inspect", model], ["memory", model], ["generate", "--model", model, "--prompt", "a", *TWO],
                      ["describe", picture, *TWO], ["describe", tmp_path / f"not {EVIL}.png"],
                      ["memory", "tiny-pixtral", "--image", picture], ["routing", text],
                      ["generate", "--model", tmp_path / EVIL / EVIL, "--prompt", "a"],
                      ["convert", model, tmp_path / f"{EVIL} out", "--to", "hf"], ["tokenize", "--model", model, EVIL]):
        status, out, err = program(*arguments)
        assert status in (0, 2) and b"Traceback" not in err, err
        clean_bytes(out.replace(EVIL.encode(), b"") if arguments[0] == "tokenize" else out, err)


# ---- dropped files

def test_names_as_terminals_write_dropped_files(tmp_path):
    for name in ("a b.png", "it's (1).png", "plain.png", "tab\\back.png", "c.png"):
        (tmp_path / name).touch()
    at = f"{tmp_path}/"
    for text, names in (
            (f"{at}a\\ b.png", ["a b.png"]), (f"{at}a b.png", ["a b.png"]), (f"'{at}a b.png'", ["a b.png"]),
            (f'"{at}a b.png"', ["a b.png"]), (f"'{at}it'\\''s (1).png'", ["it's (1).png"]),
            (f"{at}it's (1).png", ["it's (1).png"]), (f"{at}it\\'s\\ \\(1\\).png", ["it's (1).png"]),
            (f"{at}tab\\back.png", ["tab\\back.png"]), (f"{at}plain.png '{at}a b.png'", ["plain.png", "a b.png"]),
            (f"{at}plain.png {at}c.png", ["plain.png", "c.png"])):
        assert chat.paths_of(text) == [at + name for name in names], text
    assert chat.paths_of("gone\\ x.png") == ["gone x.png"] and chat.paths_of("gone x.png") == ["gone x.png"]
    assert chat.paths_of("it's") == ["it's"] and chat.paths_of("~/x.png") == [os.path.expanduser("~/x.png")]


@pytest.mark.parametrize("text", ["", "~nobodyhere/x.png", "~nobodyhere", "'~nobodyhere/x.png'"])
def test_names_that_name_nothing(text):
    with pytest.raises(TinyError):
        chat.paths_of(text)


def test_a_bad_name_does_not_end_a_chat():
    status, out, err = program("chat", *TWO, stdin=b"/image ~nobodyhere/x.png\n/image '\n/image\nReverse: cat\n")
    assert status == 0 and b"prompt tokens" in err and b"who is not here" in err and b"Traceback" not in err


# ---- the two lines

def test_every_error_has_a_cause_and_a_remedy():
    assert explain(MemoryError())[0] == "Memory ran out." and explain(MemoryError("x"))[0] == "Memory ran out: x."
    assert explain(OSError(28, "No space"))[0] == "No space." and "iconv" in explain(
        UnicodeDecodeError("utf-8", b"\xe9", 0, 1, "bad"))[1]
    assert explain(ZeroDivisionError("a"))[0] == "ZeroDivisionError: a"


def test_the_text_of_an_argument(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.StringIO("\ufeffa\r\nb\r\n"))
    assert session.read_text("-") == "a\nb" and session.read_text("\u00e9") == "é"
    fails(capsys, ["tokenize", "caf\udce9"], "0xE9")


CUT = """
import os, shutil, sys, tiny
from tiny.tools import session
from tiny.__main__ import main
from tiny.tools.terminal import program
ready = session.load_weights
def cut_then(*arguments, **options):
    ready(*arguments, **options)
    os.truncate(sys.argv[3] + "/consolidated.safetensors", 5000)
session.load_weights = cut_then
program(main)
"""


@pytest.mark.parametrize("mode", ["mapped", "streamed"])
def test_a_file_that_is_cut_while_a_model_runs_ends_it_in_two_lines(tmp_path, mode):
    """Mapped, the system sends SIGBUS to whoever reads behind the end: without a handler there would be no word."""
    folder = shutil.copytree(tiny.model_folder("tiny-mixtral"), tmp_path / "m")
    options = ["--prompt", "One day", "--weights", mode, *(["--memory", "0.0006"] if mode == "streamed" else [])]
    done = subprocess.run([sys.executable, "-c", CUT, "generate", "--model", str(folder), *options], cwd=ROOT,
                          capture_output=True, text=True, timeout=60)
    lines = [line for line in done.stderr.splitlines() if not line.startswith("note: ")]
    if "weights mapped" in done.stderr and mode == "streamed":
        pytest.skip("Direct reads are refused where the tests write.")
    assert done.returncode == 2 and done.stdout.strip() == "", (done.returncode, done.stderr)
    assert len(lines) == 2 and "consolidated.safetensors" in lines[0] and lines[1].startswith("remedy: Leave the file")
    assert "was cut" in lines[0] if mode == "mapped" else "the file has 5,000 bytes" in lines[0]
