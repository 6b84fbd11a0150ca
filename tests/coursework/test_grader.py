"""The grader is graded: right answers get their points, and no other way leads to any."""

import inspect
import itertools
import json
import os
import random
import re
import shutil
import struct
import subprocess
import sys
import time
import tomllib
from dataclasses import replace
from pathlib import Path

import impl
import numpy as np
import pytest
from answers import EXERCISES, RIGHT, Answer, submit
from compare import assert_close

import tiny
from tiny.decoder import ForwardPass
from tiny.tools.terminal import guarded
from tutorial.grader import __main__ as grade
from tutorial.grader import isolated as grader_isolated
from tutorial.grader import wall, worker
from tutorial.grader.isolated import CHANNEL, Changed, Isolated, Limits, Refused, in_queue
from tutorial.grader.messages import HEAD, LONGEST, Reader, Unsendable, pack
from tutorial.grader.results import OtherForm, accept
from tutorial.grader.submissions import read_submissions, same_text
from tutorial.grader.tree import WORKER, read_tree
from tutorial.grader.wall import Wall, find_wall
from tutorial.make_coursework import carve
from tutorial.source import ROOT, step_lines

ROTATION = EXERCISES["4.2"]
SECONDS = 20  # of a process that may have to wait for others
NO_WALL = Wall(None, "not wanted")
READS, WRITES = "open for reading outside of its folder", "open for writing outside of its folder"

# Hostile submissions by name: the lines of each, and the reason that is given.
HOSTILE = tomllib.loads((ROOT / "tests/coursework/tricks.toml").read_text(encoding="utf-8"))
TRICKS, FORGED = HOSTILE["trick"], HOSTILE["forgery"]


@pytest.fixture(params=["wall", "guard alone"])
def around(request):
    """Both ways of running a submission."""
    if request.param == "guard alone":
        return NO_WALL
    if find_wall().program is None:
        pytest.skip(f"There is no wall to test here: {find_wall().reason}.")
    return find_wall()


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """The book with holes, for all processes."""
    return tmp_path_factory.mktemp("tree")


@pytest.fixture
def isolated(tmp_path, tree):
    """Start a function of exercise 4.2 or another in its process; all are ended with the test."""
    started = []

    def start(id, lines, around=NO_WALL, seconds=SECONDS, below=""):
        folder = submit(tmp_path / f"submission{len(started)}", Answer(id, "", lines, below=below))
        book = impl.reference(EXERCISES[id])
        started.append(Isolated(EXERCISES[id], book, folder, tree, Limits(seconds, 512), around))
        return started[-1]
    yield start
    for one in started:
        one.stop()


def turn(one):
    """One call of exercise 4.2, and the right answer to it."""
    x, angles = np.ones((1, 1, 2), np.float32), np.full((1, 1), 0.5, np.float32)
    return one.call(x, np.cos(angles), np.sin(angles)), [[[np.cos(0.5) - np.sin(0.5), np.cos(0.5) + np.sin(0.5)]]]


@pytest.mark.parametrize("name", TRICKS)
def test_no_trick_works(name, around, isolated, tmp_path):
    """Each is stopped for its own reason, and what lies outside is as it was."""
    lines, reason = TRICKS[name]["lines"], TRICKS[name]["reason"]
    prey = tmp_path / "kept" / "test_rope.py"
    prey.parent.mkdir()
    prey.write_text("kept")
    for word, path in (("PREY", prey), ("PLACE", prey.parent), ("ROOT", ROOT)):
        lines = lines.replace(word, repr(str(path)))
    one = isolated("4.2", f"{lines}\n{RIGHT['4.2']}", around, 2 if name == "loops" else SECONDS)
    with pytest.raises(Exception) as caught:
        turn(one)
    shown = impl.failure_of(ROTATION, "test_turns_forward", caught.value).words
    assert reason in drop_line(shown), shown
    assert "42" not in drop_line(shown) and "kept" not in shown
    one.stop()
    assert prey.read_text() == "kept" and os.listdir(prey.parent) == ["test_rope.py"]


def drop_line(words):
    """The words without the number of a line."""
    head, _, tail = words.partition("rope.py:")
    return f"{head}rope.py{tail.lstrip('0123456789')}" if tail else words


def test_the_same_answer_without_a_trick_is_right(around, isolated):
    got, expected = turn(isolated("4.2", RIGHT["4.2"], around))
    assert_close(got, expected, 1e-6)


def test_time_in_which_others_had_the_processor_is_given_back(isolated, monkeypatch):
    """A busy machine fails nobody; a loop that never ends is stopped however long it waited."""
    def run(lines, step):
        waited = itertools.count(step, step)
        monkeypatch.setattr(grader_isolated, "in_queue", lambda _: next(waited))
        try:
            return turn(isolated("4.2", lines, seconds=0.05))  # less than Python takes to start
        finally:
            asked.append(round(next(waited) / step) - 1 if step else None)
    asked = []
    with pytest.raises(Refused, match="took more than 0.05 seconds"):
        run(RIGHT["4.2"], 0)
    with pytest.raises(Refused, match="took more than 0.05 seconds"):
        run("while True:\n    pass", 0.3)
    assert asked[1:] == [3], "0.3 and 0.2 seconds are given back, ten times the limit in all, and then none"
    monkeypatch.setattr(grader_isolated, "MOST_QUEUED", 1000)
    got, expected = run(RIGHT["4.2"], 0.3)
    assert_close(got, expected, 1e-6)
    assert asked[2] > 0


def test_waiting_for_a_processor_is_counted():
    """Of the process and of what it started, as the system counts it."""
    if not (os.path.exists("/proc/self/schedstat") and os.path.exists(f"/proc/self/task/{os.getpid()}/children")):
        pytest.skip("This system does not count how long a process waits for a processor.")
    own = in_queue(os.getpid())
    assert 0 < own < time.monotonic() and in_queue(2**22 + 1) == 0
    assert in_queue(os.getppid()) >= own, "a process that this one was started by has waited as long, through it"


HARMLESS = {
    "prints": "for n in range(1 << 12):\n    print('so far', x)",
    "saves": "np.save('mine.npy', np.zeros(9))\nnp.load('mine.npy')\nimport os\nos.remove('mine.npy')",
    "saves_beside_itself": "import pathlib\n(pathlib.Path(__file__).parent / 'notes.txt').write_text('mine')",
    "imports": "import collections, dataclasses, heapq, json, logging, random, typing, subprocess, threading, uuid",
    "uses_temporary_files": "import tempfile\ntempfile.TemporaryFile().write(b'a')\nopen(tempfile.mkstemp()[1], 'w')",
    "draws_random_numbers": "np.random.default_rng().normal(size=3)",
    "asks_for_the_time": "import datetime, time\ndatetime.datetime.now()\ntime.localtime()",
    "defines_classes": "import collections, enum\ncollections.namedtuple('P', 'a b')(1, 2)\nenum.Enum('E', 'A B')",
}


@pytest.mark.parametrize("name", HARMLESS)
def test_what_does_no_harm_costs_no_points(name, around, isolated):
    got, expected = turn(isolated("4.2", f"{HARMLESS[name]}\n{RIGHT['4.2']}", around))
    assert_close(got, expected, 1e-6)


def test_a_picture_library_may_be_imported(around, isolated):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed.")
    one = isolated("4.2", RIGHT["4.2"], around, seconds=60, below="\nimport matplotlib.pyplot as plt\n")
    one.limits = Limits(60, 2048)
    got, expected = turn(one)
    assert_close(got, expected, 1e-6)


def test_prints_are_kept_up_to_a_limit(isolated):
    one = isolated("4.2", f"print('begins')\nprint('x' * (1 << 17))\n{RIGHT['4.2']}")
    turn(one)
    one.stop()
    assert one.printed.startswith(b"begins\nxxx") and len(one.printed) == 1 << 16


# ---- gradings

def arguments(tmp_path, *more):
    return [str(tmp_path / "submissions"), "--out", str(tmp_path / "out"), "--megabytes", "512", *more]


def graded(tmp_path):
    return json.loads((tmp_path / "out/grades.json").read_text())


def pretended(monkeypatch, give):
    """Let no tests run: `give(files)` says what a submission gets."""
    def verdicts(files, kit, chosen, args):
        points = give(files)
        return [{"id": e.id, "points": points, "why": "pretended", "idea": None, "holds": [], "passed": 1, "total": 1,
                 "said": "", "same_as_book": False} for e in chosen]
    monkeypatch.setattr(grade, "run_tests", verdicts)
    monkeypatch.setattr(grade, "check_tests", lambda *_: None)


def test_no_forgery_gets_points_and_the_next_one_is_graded(around, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("SECRET", "the secret is 43")
    forged = FORGED
    if around is NO_WALL:
        if find_wall().program is not None:  # What the wall makes no difference to was tried behind it.
            forged = {name: FORGED[name] for name in ("tells_42", "asks_for_the_environment")}
        monkeypatch.setenv("PATH", str(tmp_path))
    find_wall.cache_clear()
    for name, forgery in forged.items():
        submit(tmp_path / "submissions" / name, Answer("4.2", name, forgery["lines"]))
    broken = submit(tmp_path / "submissions/does_not_load", Answer("4.2", "", ""))
    (broken / "rope.py").write_text("def rope(x:\n")
    submit(tmp_path / "submissions/zz_right", Answer("4.2", "right", RIGHT["4.2"]))
    before = grade.read_kit()
    assert grade.main(arguments(tmp_path, "--exercise", "4.2", "--seed", "5", "--seconds", "5")) == 0
    out = capsys.readouterr().out
    assert out.startswith(grade.about(find_wall())) and "Seed 5" in out and grade.read_kit() == before
    submissions = graded(tmp_path)["submissions"]
    for name, forgery in (forged | {"does_not_load": {"reason": "rope.py does not load: SyntaxError"}}).items():
        (found,) = submissions[name]["exercises"]
        assert found["points"] == 0 and forgery["reason"] in drop_line(found["why"]), f"{name}: {found['why']}"
    assert submissions["zz_right"]["points"] == 3, submissions["zz_right"]
    shown = out + "".join(path.read_text() for path in (tmp_path / "out").glob("*.results.json"))
    assert "the secret" not in shown and submissions["tells_42"]["exercises"][0]["said"] == "the secret is 42"
    assert "43" not in submissions["asks_for_the_environment"]["exercises"][0]["said"]
    assert graded(tmp_path)["wall"] == (around is not NO_WALL)
    find_wall.cache_clear()


def test_points_reports_and_other_files(tmp_path, capsys, monkeypatch):
    """Three exercises right, one wrong, one unfinished; what else is in the folder is not looked at."""
    monkeypatch.setattr(grade, "check_tests", lambda *_: None)  # It has its own test.
    wrong = Answer("5.1", "", "expert_ids = np.argsort(-logits, axis=1, kind='stable')[:, :num_experts_per_tok]\n"
                              "return logits, expert_ids, np.take_along_axis(softmax(logits), expert_ids, axis=1)")
    right = [Answer(id, "", RIGHT[id]) for id in ("4.2", "6.2", "5.2")]
    folder = submit(tmp_path / "submissions/ann/student", *right, wrong)
    # All other exercises are holes, also those of the same files.
    for name, text in carve(list(EXERCISES.values()), {a.exercise: a.lines for a in (*right, wrong)}).items():
        (folder / name).write_text(text)
    (folder / "conftest.py").write_text("raise SystemExit('never read')")
    assert grade.main(arguments(tmp_path, "--seed", "11")) == 0
    possible = sum(exercise.points for exercise in EXERCISES.values())
    assert f"ann: 11 of {possible}" in capsys.readouterr().out
    record = graded(tmp_path)
    marks = {m["id"]: m for m in record["submissions"]["ann"]["exercises"]}
    assert {id: m["points"] for id, m in marks.items() if m["points"]} == {"4.2": 3, "5.2": 5, "6.2": 3}
    assert record["seed"] == 11 and record["finished"] and marks["3.1"]["why"].startswith("Unfinished")
    assert marks["5.1"]["idea"] == "weights_add_up_to_one" and "add up to 1" in marks["5.1"]["why"]
    assert not any(m["same_as_book"] for m in marks.values())
    results = json.loads((tmp_path / "out/ann.results.json").read_text())
    assert results["score"] == 11 and [t["score"] for t in results["tests"]] == [m["points"] for m in marks.values()]
    assert sum(t["max_score"] for t in results["tests"]) == possible
    assert {t["status"] for t in results["tests"]} == {"passed", "failed"}


@pytest.mark.parametrize("status, text", [(2, "[]"), (-9, '[{"id": "4.2", "points": 3}]'), (0, ""), (0, "[{"),
                                          (0, "\xff")])
def test_a_report_counts_only_if_the_tests_ended_well(status, text, tmp_path, monkeypatch):
    def run(command, pass_fds, **options):
        os.write(pass_fds[0], text.encode("latin-1"))
        return subprocess.CompletedProcess(command, status)
    monkeypatch.setattr(subprocess, "run", run)
    args = grade.read_arguments([str(tmp_path), "--seed", "1"])
    monkeypatch.setattr(grade, "find_wall", lambda: NO_WALL)
    assert grade.run_tests({}, {}, [ROTATION], args) == []
    assert grade.mark(ROTATION, None, [])["why"] == grade.NO_REPORT


def test_nobody_is_graded_by_tests_that_the_book_fails(tmp_path, capsys, monkeypatch):
    """A kit in which something is missing, or a test that does not hold here: said at once, and no points are lost."""
    submit(tmp_path / "submissions/ann", Answer("4.2", "", RIGHT["4.2"]))
    whole = grade.read_kit()
    wrong = b"def test_all():\n    assert 1 == 2\n"
    for name, text, words in (("tests/helpers/tolerances.py", None, grade.NO_REPORT),
                              ("tests/book/test_rope.py", wrong, "got 1, expected 2")):
        kit = whole | {name: text} if text else {path: data for path, data in whole.items() if path != name}
        monkeypatch.setattr(grade, "read_kit", lambda kit=kit: kit)
        assert guarded(lambda: grade.main(arguments(tmp_path, "--exercise", "4.2"))) == 2
        assert "nobody is graded" in (said := capsys.readouterr().err) and words in said
    assert not (tmp_path / "out/grades.json").exists()


def test_an_interrupted_grading_goes_on_where_it_was(tmp_path, capsys, monkeypatch):
    for name in ("ann", "bob", "cyd"):
        submit(tmp_path / "submissions" / name, Answer("4.2", "", RIGHT["4.2"], below=f"# {name}\n"))
    asked = []

    def until_cyd(files):
        asked.append(files["rope.py"][-4:-1].decode())
        if asked == ["ann", "bob", "cyd"]:
            raise KeyboardInterrupt
        return 3
    pretended(monkeypatch, until_cyd)
    assert grade.main(arguments(tmp_path, "--exercise", "4.2")) == 130
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith("error: Interrupted. 2 students are graded")
    assert said[1].startswith("remedy: ") and len(said) == 2
    first = graded(tmp_path)
    assert not first["finished"] and list(first["submissions"]) == ["ann", "bob"]
    submit(tmp_path / "submissions/bob", Answer("4.2", "", RIGHT["4.2"], below="# new\n"))
    assert grade.main(arguments(tmp_path, "--exercise", "4.2")) == 0
    assert asked == ["ann", "bob", "cyd", "new", "cyd"], "who changed the answer since is graded again"
    second = graded(tmp_path)
    assert second["finished"] and second["seed"] == first["seed"]
    assert list(second["submissions"]) == ["ann", "bob", "cyd"]
    assert grade.main(arguments(tmp_path, "--exercise", "4.2", "--seed", "3")) == 0
    assert len(asked) == 8 and graded(tmp_path)["seed"] == 3, "a finished grading is not gone on with"
    assert not list((tmp_path / "out").glob("*.part"))


def test_what_cannot_be_done_is_said_first_in_two_lines(tmp_path, capsys, monkeypatch):
    submit(tmp_path / "submissions/ann", Answer("4.2", "", RIGHT["4.2"]))
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    pretended(monkeypatch, lambda files: pytest.fail("nothing is to be graded"))
    for more, words in ((["--out", str(tmp_path / "file/out")], "cannot be written"),
                        (["--exercise", "9.9"], "no exercise 9.9")):
        assert guarded(lambda: grade.main([str(tmp_path / "submissions"), *more])) == 2  # noqa: B023
        said = capsys.readouterr().err.splitlines()
        assert words in said[0] and said[0].startswith("error: ") and said[1].startswith("remedy: ") and len(said) == 2
    for folder, words in (("none", "There is no folder"), ("empty", "There are no students"),
                          ("submissions/ann", "name the folder above")):
        assert guarded(lambda: grade.main([str(tmp_path / folder), "--out", str(tmp_path / "out")])) == 2  # noqa: B023
        assert words in capsys.readouterr().err.splitlines()[0]


def test_which_files_are_read(tmp_path):
    answer = Answer("4.2", "", RIGHT["4.2"])
    ours = {name: submit(tmp_path / "s" / name, answer) for name in ("ann", "bob/student", "cyd")}
    shutil.copytree(ours["ann"], tmp_path / "s/ann/__MACOSX")
    shutil.copytree(ours["ann"], tmp_path / "s/ann/old")
    (tmp_path / "s/dan").symlink_to(ours["ann"])
    (tmp_path / "s/eve").mkdir()
    (tmp_path / "s/eve/rope.py").symlink_to(ours["ann"] / "rope.py")
    (tmp_path / "s/fay").mkdir()
    (tmp_path / "s/fay/inside").symlink_to(ours["ann"])
    (tmp_path / "s/cyd/rope.py").write_bytes(b"#" * (2 << 20))
    found = read_submissions(tmp_path / "s", [ROTATION])
    assert [name for name, one in found.items() if one.files] == ["ann", "bob"]
    assert found["ann"].notes == ["Of 2 files rope.py, rope.py is read."] and not found["bob"].notes
    assert "larger than 1 MiB" in found["cyd"].notes[0] and found["dan"].notes == ["Not read: the folder is a link."]
    assert found["eve"].notes[0] == "Not read: rope.py is a link, or in one."
    assert "is a link, or in one" in found["fay"].notes[0] or "None of rope.py" in found["fay"].notes[0]


def test_the_same_text_is_told(tmp_path):
    for name, lines in (("ann", RIGHT["4.2"]), ("bob", RIGHT["4.2"] + " \n"), ("cyd", "# mine\n" + RIGHT["4.2"])):
        submit(tmp_path / name, Answer("4.2", "", lines), Answer("6.2", "", RIGHT["6.2"]))
    (tmp_path / "dan").mkdir()
    (tmp_path / "dan/rope.py").write_bytes(b"\xff def rope(")
    found = read_submissions(tmp_path, [ROTATION, EXERCISES["6.2"]])
    assert same_text(found, ROTATION) == {"ann": ["bob"], "bob": ["ann"], "cyd": []}
    assert same_text(found, EXERCISES["6.2"]) == {}, "the text of 6.2 leaves one way to write it"


def test_the_kit_is_complete():
    kit = grade.read_kit()
    for exercise in EXERCISES.values():
        assert {test.partition("::")[0] for test in exercise.tests} <= set(kit)
        assert exercise.path in kit
    kernels = {exercise.path for exercise in EXERCISES.values() if exercise.is_kernel}
    code = [name for name in kit if not name.startswith(("tests/golden/", "kernels/")) and name not in kernels]
    assert all(Path(name).suffix in (".py", ".toml") for name in code) and "tests/coursework/answers.toml" not in kit
    assert sum(len(kit[name]) for name in kit) < 3 << 20, "it is written anew for each submission"


# ---- the wall, and what stands in its place

UNGUARDED = """
import os, socket, sys
tried = {}
def attempt(name, act):
    try:
        tried[name] = repr(act())
    except OSError as error:
        tried[name] = type(error).__name__
attempt("read", lambda: open(PREY).read())
attempt("write", lambda: open(PREY, "w"))
attempt("list", lambda: os.listdir(PLACE))
attempt("book", lambda: open(ROOT + "/tiny/rope.py"))
attempt("net", lambda: socket.create_connection(("127.0.0.1", PORT), 2))
attempt("kill", lambda: os.kill(PARENT, 0))
attempt("home", lambda: open(os.path.expanduser("~root") + "/planted", "w"))
attempt("python", lambda: open(os.__file__, "a"))
attempt("tree", lambda: open("/book/planted", "w"))
attempt("own", lambda: open("mine", "w").write("mine"))
print(sorted(tried.items()), len(os.environ))
"""


def test_behind_the_wall_there_is_nothing_to_reach(tmp_path):
    """Without any guard: no other file, no process, no network, no environment; only the own folder can be written."""
    if find_wall().program is None:
        pytest.skip(f"There is no wall to test here: {find_wall().reason}.")
    import socket
    prey = tmp_path / "prey.txt"
    prey.write_text("kept")
    given = tmp_path / "given"
    given.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as server:
        code = UNGUARDED
        for word, value in (("PREY", str(prey)), ("PLACE", str(tmp_path)), ("ROOT", str(ROOT)),
                            ("PORT", server.getsockname()[1]), ("PARENT", os.getpid())):
            code = code.replace(word, repr(value))
        ran = subprocess.run([*find_wall().command(given, given), wall.interpreter(), "-ISc", code], env={"A": "1"},
                             capture_output=True, text=True)
    tried = dict(eval(ran.stdout.rpartition("]")[0] + "]"))
    assert tried == {"read": "FileNotFoundError", "write": "FileNotFoundError", "list": "FileNotFoundError",
                     "book": "FileNotFoundError", "net": "ConnectionRefusedError", "kill": "ProcessLookupError",
                     "home": "FileNotFoundError", "python": "OSError", "tree": "OSError", "own": "4"}, ran.stderr
    assert prey.read_text() == "kept" and not list(given.iterdir())


ORPHAN = """
import os, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.close(1)
        open(PIPE, "w").write(str(os.getpid()))
        time.sleep(60)
    os._exit(0)
print("started", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("ends", ["told", "alone"])
def test_no_process_outlives_its_submission_without_a_wall(ends, tmp_path):
    """A process of another session, whose parent has ended, is ended with the rest."""
    if sys.platform != "linux":
        pytest.skip("Only Linux hands over processes whose parent has ended.")
    pipe = tmp_path / "pid"
    code = ORPHAN.replace("PIPE", repr(str(pipe)))
    code = code if ends == "told" else code.replace('flush=True)\ntime.sleep(60)', "flush=True)\ntime.sleep(1)")
    process = subprocess.Popen([*NO_WALL.command(tmp_path, tmp_path), sys.executable, "-c", code],
                               stdout=subprocess.PIPE, start_new_session=True)
    process.stdout.readline()
    while not pipe.exists() or not pipe.read_text():
        time.sleep(0.01)
    if ends == "told":
        process.terminate()
    process.wait(20)
    process.stdout.close()
    with pytest.raises(ProcessLookupError):
        os.kill(int(pipe.read_text()), 0)


def test_no_process_outlives_the_tests(tmp_path):
    """Where the process that runs the tests is killed, its submissions end with it."""
    if sys.platform != "linux":
        pytest.skip("Only Linux tells a process that its parent has ended.")
    keeper = NO_WALL.command(tmp_path, tmp_path)
    code = (f"import subprocess, sys\np = subprocess.Popen({keeper!r} + [sys.executable, '-c', "
            " 'import os, time; print(os.getpid(), flush=True); time.sleep(60)'])\np.wait()")
    tests = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    worker = int(tests.stdout.readline())
    tests.kill()
    tests.communicate(timeout=20)  # The worker has its standard output, and closes it when it ends.
    with pytest.raises(ProcessLookupError):
        for _ in range(200):
            os.kill(worker, 0)
            time.sleep(0.05)


def test_a_system_without_a_wall_says_so(monkeypatch, tmp_path):
    find_wall.cache_clear()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_wall() == Wall(None, "bubblewrap (bwrap) is not installed")
    program = tmp_path / "bwrap"
    program.write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n")
    program.chmod(0o755)
    find_wall.cache_clear()
    assert find_wall().reason == "bubblewrap does not work here (bwrap: No permissions to create new namespace)"
    assert grade.about(find_wall()).startswith("There is no wall around submissions: bubblewrap does not work here")
    find_wall.cache_clear()


def test_an_installed_copy_of_the_answers_is_hidden(monkeypatch, tmp_path):
    (tmp_path / "tiny").mkdir()
    monkeypatch.setattr(wall, "packages", lambda: [str(tmp_path)])
    assert wall.hidden() == [str(tmp_path / "tiny")]
    assert wall.hidden_mounts() == ["--tmpfs", str(tmp_path / "tiny")]


def test_the_process_of_a_submission_is_given_no_answer():
    for exercise in EXERCISES.values():
        tree = read_tree(exercise)
        holed = tree[exercise.path].decode()
        assert exercise.message in holed and not any(name.startswith("tests/") for name in tree)
        first, last = step_lines(f"{exercise.path}:{exercise.name}", exercise.steps[0], exercise.steps[-1])
        lines = (ROOT / exercise.path).read_text().splitlines()
        assert "\n".join(lines[first - 1 : last]) not in holed and "\n".join(lines[last:]) in holed
        assert not any("pickle." in text.decode() for name, text in tree.items() if name in WORKER)


def test_around_a_submission_stands_the_book(tmp_path, monkeypatch):
    """Another exercise of the same file, unfinished or wrong, is the book's in the process of this one."""
    whole = replace(EXERCISES["3.1"], id="3.0", function="tiny.attention.attention", steps=[1, 2], written=[])
    monkeypatch.setattr(grader_isolated, "load_exercises", lambda: [whole, EXERCISES["3.1"]])
    q, keys = np.ones((3, 2, 4), np.float32), np.ones((3, 1, 4), np.float32)
    for hole in ("raise NotImplementedError('Exercise 3.1: not yet')", "return 'wrong'"):
        text = carve([EXERCISES["3.1"]], {"3.1": hole})["attention.py"]
        folder = tmp_path / str(len(hole))
        folder.mkdir()
        (folder / "attention.py").write_text(text)
        one = Isolated(whole, impl.reference(whole), folder, tmp_path / f"tree{len(hole)}", Limits(SECONDS), NO_WALL)
        try:
            assert_close(one.call(q, keys, keys, [3], [(0, 3)]), q, 1e-6, name="all values are 1")
        finally:
            one.stop()


# ---- calls

def test_a_refusal_stands_for_every_later_call(isolated):
    one = isolated("4.2", "import os\nos._exit(0)")
    for _ in range(2):
        with pytest.raises(Refused, match="ended before it answered"):
            turn(one)
    assert one.process is None


def test_errors_come_back_with_their_line(isolated):
    one = isolated("4.2", "if x[0, 0, 0]:\n    return x[99]\nreturn {1, 2}")
    x, table = np.ones((1, 1, 2), np.float32), np.zeros((1, 1), np.float32)
    with pytest.raises(IndexError, match="index 99 is out of bounds") as caught:
        one.call(x, table, table)
    assert str(caught.value.stop).endswith("stops with IndexError") and 40 < caught.value.stop.line < 80
    with pytest.raises(TypeError, match="a set"):
        one.call(0 * x, table, table)
    with pytest.raises(ValueError, match="rope expects cos and sin"):
        one.call(x, table[:0], table)


def test_a_changed_argument_is_told_by_name(isolated):
    with pytest.raises(Changed, match="rope changed its argument x"):
        turn(isolated("4.2", "x[:] = 0\nreturn x.copy()"))


PAIRS = inspect.signature(impl.reference(EXERCISES["6.2"])).return_annotation
THREE = inspect.signature(impl.reference(EXERCISES["5.1"])).return_annotation


@pytest.mark.parametrize("value", [[(0, 2), (4, 5)], [[0, 2], [4, 5]], ((0, 2), (4, 5)), np.array([[0, 2], [4, 5]]),
                                   [np.array([0, 2]), (np.int64(4), 5)]])
def test_spans_are_taken_by_value(value):
    assert accept("append", PAIRS, value) == [(0, 2), (4, 5)]


@pytest.mark.parametrize("name, wanted, value, words", [
    ("rope", np.ndarray, None, "rope returned None: is there a `return` at its end?"),
    ("rope", np.ndarray, [1.0], "rope returned a list of 1, where an array is meant"),
    ("rope", np.ndarray, 1.0, "rope returned a number"), ("rope", np.ndarray, "x", "rope returned a text"),
    ("route", THREE, (np.ones(1), np.ones(1)), "route returns three arrays; got a tuple of 2"),
    ("route", THREE, np.ones(3), "route returns three arrays; got an array"),
    ("route", THREE, (np.ones(1), [0], np.ones(1)), "route returned a list of 1 as number 2 of its three"),
    ("append", PAIRS, [(0, 2.5)], "append returns a list with one pair"), ("append", PAIRS, [0, 2], "one pair"),
    ("append", PAIRS, [(True, False)], "one pair"), ("append", PAIRS, 7, "got a number")])
def test_other_forms_are_told_in_words(name, wanted, value, words):
    with pytest.raises(OtherForm) as caught:
        accept(name, wanted, value)
    assert words in str(caught.value)


def test_a_list_of_arrays_is_as_good_as_a_tuple():
    assert isinstance(accept("route", THREE, [np.ones(1)] * 3), tuple)


@pytest.mark.parametrize("value", [(3, 2), [3, 2], np.array([3, 2]), (np.int64(3), 2)])
def test_whole_numbers_of_any_form_are_accepted(value):
    for wanted, kind in ((tuple[int, int], tuple), (list[int], list)):
        numbers = accept("image_grid", wanted, value)
        assert numbers == kind((3, 2)) and all(type(one) is int for one in numbers)
    assert accept("image_tokens", list[int], [1, 2, 3]) == [1, 2, 3] and accept("image_tokens", list[int], []) == []


@pytest.mark.parametrize("value, words", [
    ((3.0, 2), "returns two whole numbers; number 1 of what it returned is not a whole number: int(...) makes one"),
    ((3, b"a"), "number 2 of what it returned is bytes, not a whole number: the token's id is wanted"),
    ((3, True), "number 2"), ((3, [2]), "number 2"), ((3, 2, 1), "two whole numbers; got a tuple of 3"),
    (3, "got a number"), (None, "returned None")])
def test_other_things_than_two_whole_numbers_are_told(value, words):
    with pytest.raises(OtherForm, match=re.escape(words)):
        accept("image_grid", tuple[int, int], value)


# ---- messages

def filler(data):
    """A function that gives the next n of these bytes, as the channel does; at its end there are no more."""
    place = 0

    def fill(n):
        nonlocal place
        place += n
        if place > len(data):
            raise ValueError("the end")
        return data[place - n : place]
    return fill


@pytest.mark.parametrize("value", [
    None, True, 3, -2.5, "text", b"\x00\xff", {b"a": 1, 2: "b"},
    [1, (2, [3.0])], {"a": [1]}, np.float32(1.5), np.float64(2.5), np.int64(7),
    np.zeros((0, 3), np.int8), np.arange(6.0).reshape(2, 3).T, np.array(5, np.float16), np.array([True, False])])
def test_messages_come_through_as_they_are(value):
    data = pack({"value": value})
    back = Reader(filler(data)).message()["value"]
    assert type(back) is type(value) and repr(back) == repr(value)


def test_calls_hold_what_is_the_books():
    """Configurations, passes, modules, functions and generators go over in a call, and nothing of that comes back."""
    config = tiny.load("tiny-pixtral").config
    passed = ForwardPass([2], np.ones(1), np.ones(1), None, None, tiny.ops, "float32")
    rng = np.random.default_rng(3)
    rng.random(5)
    value = {"config": config, "run": passed, "f": tiny.ops.route, "rng": rng, "ranks": {b"a": 1, b"\xff": 2}}
    data = pack({"value": value}, call=True)
    back = Reader(filler(data), worker.make).message()["value"]
    assert back["config"] == config and back["f"] is tiny.ops.route and back["ranks"] == value["ranks"]
    assert vars(back["run"]) == vars(passed) and back["rng"].random() == rng.random()
    with pytest.raises(ValueError, match="a value that no message holds"):
        Reader(filler(data)).message()
    for one in (config, tiny.ops, tiny.ops.route, rng):
        with pytest.raises(Unsendable):
            pack({"value": one})


@pytest.mark.parametrize("wanted, value, back", [
    (float, np.float32(1.5), 1.5), (float, 2, 2.0), (int, np.int64(3), 3), (str, "a", "a"), (bytes, b"\xff", b"\xff"),
    (tuple[str, bytes], ["a", b"b"], ("a", b"b")), (tuple[float, np.ndarray], (1, np.ones(1)), (1.0, np.ones(1))),
    (list[str], ("a", "b"), ["a", "b"]), (list[np.ndarray], [np.ones(1)], [np.ones(1)]), (bool, np.bool_(True), True)])
def test_other_kinds_of_results_are_accepted(wanted, value, back):
    found = accept("f", wanted, value)
    assert type(found) is type(back) and repr(found) == repr(back)


@pytest.mark.parametrize("wanted, value, words", [
    (float, "1", "f returns a number; got a text"), (int, 1.5, "f returns a whole number; got a number"),
    (int, True, "a whole number"), (str, b"a", "f returns a text"), (bytes, "a", "f returns bytes"),
    (tuple[str, bytes], "ab", "f returns two values"), (tuple[str, bytes], ("a", "b"), "f returns bytes"),
    (list[str], "ab", "f returns a list; got a text"), (list[str], [1], "f returns a text"),
    (dict[str, int], [1], "not what its signature says")])
def test_other_kinds_of_results_are_refused_in_words(wanted, value, words):
    with pytest.raises(OtherForm, match=re.escape(words)):
        accept("f", wanted, value)


@pytest.mark.parametrize("value", [{1}, np.array([None]), object(), len, np.array(["a"]), np.array([0], "M8[s]"),
                                   np.zeros(2, [("a", int)]), 1j])
def test_messages_hold_plain_values_only(value):
    with pytest.raises(Unsendable):
        pack({"value": value})


def framed(head, body=b""):
    return struct.pack("<QQ", len(head), len(body)) + head + body


HEADS = [b'{"dict": {"v": {"array": ["float64", [9], false]}}}', b'{"dict": {"v": {"array": ["O", [1], false]}}}',
         b"[1]",
         b'{"dict": {"v": {"array": ["int8", [-1], false]}}}', b'{"dict": {"v": {"array": [[], [1], false]}}}',
         b'{"dict": {"v": {"array": ["int8", ["x"], false]}}}', b'{"dict": {"v": {"array": ["int8", [1e99], false]}}}',
         b'{"dict": {"v": {"array": 5}}}', b'{"dict": []}', b'{"dict": 5}', b'{"list": 5}', b'{"tuple": {}}', b"{}",
         b'{"dict": {"v": {}}}', b'{"dict": {"v": {"a": 1, "b": 2}}}', b"", b"[" * 100_000, b"\xff", b"null", b"NaN",
         b'{"dict": {"v": {"array": ["int8", [4294967296, 4294967296, 0], false]}}}',
         b'{"dict": {"v": {"array": ["int8", %s, false]}}}' % str([1] * 65).encode(), b"9" * 5000,
         b'{"dict": {"v": {"array": ["int8", [true], false]}}}', b'{"dict": {"v": {"array": ["int8", [1], 1]}}}']


@pytest.mark.parametrize("head", HEADS, ids=range(len(HEADS)))
def test_a_reader_refuses_what_is_no_message(head):
    for body in (b"", b"8" * 8):
        with pytest.raises(ValueError):
            Reader(filler(framed(head, body))).message()


def test_a_reader_refuses_a_message_that_is_too_long():
    for lengths in ((HEAD + 1, 0), (1, LONGEST + 1), (2**64 - 1, 2**64 - 1)):
        with pytest.raises(ValueError, match="a message of"):
            Reader(lambda n: struct.pack("<QQ", *lengths)).message()  # noqa: B023  # It is called here.


def test_damaged_messages_never_crash_the_reader():
    """Bytes changed, parts of the JSON exchanged: a dictionary comes out, or ValueError."""
    rng = random.Random(12)
    whole = pack({"result": [np.ones((2, 3), np.float32), (1, "x", None)], "changed": [0],
                  "owner": {"slots": [(1, 2, 3)]}})
    size = struct.unpack("<Q", whole[:8])[0]
    pieces = [b'"array"', b'"dict"', b'"list"', b'"tuple"', b"1e400", b"-1", b"[]", b"{}", b"null", b'"float32"',
              b"[2, 3]", b"99999999999999999999", b'"object"', b"true", b'""']
    kept = 0
    for _ in range(5000):
        head, body = bytearray(whole[16 : 16 + size]), whole[16 + size :]
        for _ in range(rng.randrange(1, 4)):
            at = rng.randrange(len(head))
            if rng.random() < 0.5:
                head[at] = rng.randrange(256)
            else:
                head[at : at + rng.randrange(12)] = rng.choice(pieces)
        try:
            assert isinstance(Reader(filler(framed(bytes(head), body))).message(), dict)
            kept += 1
        except ValueError:
            pass
    assert 0 < kept < 4000


@pytest.mark.parametrize("message", [
    {}, {"result": 1}, {"raised": 5}, {"raised": "ValueError"}, {"raised": ["ValueError"], "text": "", "line": 0},
    {"raised": "print", "text": "", "line": 1}, {"raised": "No", "text": ""}, {"forbidden": ["x"]}, {"get": []},
    {"forbidden": "words of its own"}, {"result": 1, "changed": 0, "owner": None}, {"get": "w1", "index": "x"},
    {"result": 1, "changed": [], "owner": [1]}])
def test_messages_of_another_form_are_the_submissions_doing(message, isolated, monkeypatch):
    one = isolated("4.2", RIGHT["4.2"])
    turn(one)
    replies = iter([message, {}])
    monkeypatch.setattr(one, "exchange", lambda call: next(replies) if one.receive() else None)
    monkeypatch.setattr(one, "receive", lambda: True)
    if "forbidden" in message:
        monkeypatch.undo()
        monkeypatch.setattr(one, "read", filler(pack(message)))
    with pytest.raises((Refused, KeyError, ValueError)) as caught:
        turn(one)
    assert isinstance(caught.value, Refused) and CHANNEL in str(caught.value) or "get" in message
