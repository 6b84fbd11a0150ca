"""The grader is graded: right answers get their points, and no other way leads to any."""

import io
import json
from pathlib import Path

import impl
import numpy as np
import pytest

from tutorial.grader import __main__ as grade
from tutorial.grader.isolated import Isolated, Limits, Refused
from tutorial.grader.worker import LONGEST, Reader, Unsendable, pack
from tutorial.make_coursework import carve, load_exercises
from tutorial.source import ROOT

EXERCISES = {exercise.id: exercise for exercise in load_exercises()}
ROTATION = EXERCISES["3.1"]
RIGHT = ROTATION.equals[0].lines
SECONDS = 3

# What each submission writes into the hole of exercise 3.1, and words of the reason why it gets nothing.
TRICKS = {
    "loops": ("while True:\n    pass", "more than 3 seconds"),
    "allocates": ("rows = []\nwhile True:\n    rows.append(np.ones(1 << 22))", "Unable to allocate"),
    "deletes": ("import os\nos.remove(VICTIM)\n" + RIGHT, "may not do: os.remove"),
    "deletes_a_folder": ("import shutil\nshutil.rmtree(FOLDER)\n" + RIGHT, "may not do: shutil.rmtree"),
    "edits_the_tests": ("open(VICTIM, 'w').write('def test_all():\\n    pass')\n" + RIGHT, "for writing"),
    "edits_by_descriptor": ("import os\nos.open(VICTIM, os.O_WRONLY | os.O_TRUNC)\n" + RIGHT, "for writing"),
    "unlocks_the_guard": ("import __main__, os\n__main__.FORBIDDEN, os._exit = (), print\nos.remove(VICTIM)\n" + RIGHT,
                          "may not do: os.remove"),
    "runs_a_program": ("import subprocess\nsubprocess.run(['rm', VICTIM])\n" + RIGHT, "may not do: subprocess.Popen"),
    "ends_the_grader": ("import os\nos.kill(os.getppid(), 9)\n" + RIGHT, "may not do: os.kill"),
    "prints_a_result": ("print('44 passed in 0.01s')\nprint('{\"3.1\": {\"points\": 3}}')\nreturn x * 0",
                        "Does not hold"),
    "writes_on_the_channel": ("import os\nfor n in range(3, 12):\n    try:\n        os.write(n, b'passed' * 9)\n"
                              "    except OSError:\n        pass\nreturn x * 0", "grader's own channel"),
    "exits_early": ("import os\nos._exit(0)", "ended before it answered (exit status 0)"),
    "raises_system_exit": ("raise SystemExit(0)", "It raised rope.py:"),
    "imports_the_answer": ("import tiny.rope\nreturn tiny.rope.rope(x, cos[:, 0], sin[:, 0])", "NotImplementedError"),
    "equals_everything": ("class Yes(np.ndarray):\n    def __array_ufunc__(self, *a, **k):\n        return True\n"
                          "return np.zeros_like(x).view(Yes)", "Does not hold"),
    "changes_what_is_expected": ("x[:] = 0\nreturn x.copy()", "changed its argument x"),
    "does_not_load": (None, "rope.py does not load: rope.py:2: SystemExit"),
}


def arguments(tmp_path, *more):
    return [str(tmp_path / "submissions"), "--out", str(tmp_path / "out"), "--seconds", str(SECONDS),
            "--megabytes", "512", *more]


def submit(tmp_path, name, answers):
    folder = tmp_path / "submissions" / name
    folder.mkdir(parents=True)
    for file, text in carve([EXERCISES[id] for id in answers], answers).items():
        (folder / file).write_text(text)
    return folder


def test_no_trick_gets_points_and_the_next_one_is_graded(tmp_path, capsys):
    victim = tmp_path / "kept" / "test_rope.py"
    victim.parent.mkdir()
    victim.write_text("kept")
    for name, (lines, _) in TRICKS.items():
        if lines is None:
            submit(tmp_path, name, {"3.1": RIGHT}).joinpath("rope.py").write_text("import sys\nsys.exit(0)\n")
        else:
            lines = lines.replace("VICTIM", repr(str(victim))).replace("FOLDER", repr(str(victim.parent)))
            submit(tmp_path, name, {"3.1": lines})
    submit(tmp_path, "zz_right", {"3.1": RIGHT})
    before = grade.read_kit()
    assert grade.main(arguments(tmp_path, "--exercise", "3.1", "--seed", "5")) == 0
    print(capsys.readouterr().out)
    graded = json.loads((tmp_path / "out/grades.json").read_text())["submissions"]
    assert list(graded) == sorted([*TRICKS, "zz_right"])
    for name, (_, words) in TRICKS.items():
        (found,) = graded[name]["exercises"]
        assert found["points"] == graded[name]["points"] == 0, name
        assert words in found["why"], f"{name}: {found['why']}"
    assert graded["zz_right"]["points"] == 3, graded["zz_right"]
    assert victim.read_text() == "kept" and grade.read_kit() == before


def test_points_reports_and_other_files(tmp_path, capsys):
    """Three exercises right, one wrong, one unfinished; what else lies there is not looked at."""
    answers = {id: EXERCISES[id].equals[0].lines for id in ("3.1", "4.2", "5.2")}
    folder = submit(tmp_path, "ann", answers | {"5.1": EXERCISES["5.1"].mutants[3].lines})
    (folder / "attention.py").write_text(carve([EXERCISES["4.1"]])["attention.py"])
    (folder / "conftest.py").write_text("raise SystemExit('never read')")
    submit(tmp_path, "bob", {"3.1": RIGHT})
    assert grade.main(arguments(tmp_path, "--seed", "11")) == 0
    out = capsys.readouterr().out
    assert "ann: 11 of 20" in out and "bob: 3 of 20" in out and "Seed 11" in out
    graded = json.loads((tmp_path / "out/grades.json").read_text())
    marks = {m["id"]: m for m in graded["submissions"]["ann"]["exercises"]}
    assert {id: m["points"] for id, m in marks.items()} == {"3.1": 3, "4.1": 0, "4.2": 3, "5.1": 0, "5.2": 5}
    assert graded["seed"] == 11 and marks["4.1"]["why"].startswith("Unfinished")
    assert marks["5.1"]["idea"] == "weights_add_up_to_one" and "add up to 1" in marks["5.1"]["why"]
    assert not any(m["same_as_book"] for m in marks.values())
    assert graded["submissions"]["bob"]["exercises"][1]["why"] == "There is no file attention.py."
    results = json.loads((tmp_path / "out/ann.results.json").read_text())
    assert results["score"] == 11 and [t["score"] for t in results["tests"]] == [3, 0, 3, 0, 5]
    assert sum(t["max_score"] for t in results["tests"]) == 20
    assert {t["status"] for t in results["tests"]} == {"passed", "failed"}


@pytest.fixture
def isolated(tmp_path):
    """Start a function of exercise 3.1 or another in its process; all are ended with the test."""
    started = []

    def start(id, lines, seconds=SECONDS):
        exercise = EXERCISES[id]
        folder = grade.write_files({n: t.encode() for n, t in carve([exercise], {id: lines}).items()}, tmp_path / "s")
        tree = grade.write_files(grade.read_tree(list(EXERCISES.values())), tmp_path / "t")
        started.append(Isolated(exercise, impl.reference(exercise), folder, tree, Limits(seconds)))
        return started[-1]
    yield start
    for one in started:
        one.stop()


def test_a_refusal_stands_for_every_later_call(isolated):
    one = isolated("3.1", "import os\nos._exit(0)")
    x, table = np.zeros((1, 1, 2), np.float32), np.zeros((1, 1), np.float32)
    for _ in range(2):
        with pytest.raises(Refused, match="ended before it answered"):
            one.call(x, table, table)
    assert one.process is None


def test_errors_come_back_with_their_line(isolated):
    one = isolated("3.1", "if x[0, 0, 0]:\n    return even[99]\nreturn {1, 2}")
    x, table = np.ones((1, 1, 2), np.float32), np.zeros((1, 1), np.float32)
    with pytest.raises(IndexError, match=r"rope.py:\d+: index 99 is out of bounds"):
        one.call(x, table, table)
    with pytest.raises(TypeError, match="a set"):
        one.call(0 * x, table, table)
    with pytest.raises(ValueError, match="rope expects cos and sin"):
        one.call(x, table[:0], table)


def filler(data):
    """A function that gives the next n of these bytes."""
    return io.BytesIO(data).read


@pytest.mark.parametrize("value", [
    None, True, 3, -2.5, "text", [1, (2, [3.0])], {"a": [1]}, np.float32(1.5), np.int64(7), np.zeros((0, 3), np.int8),
    np.arange(6.0).reshape(2, 3).T, np.array(5, np.float16), np.array([True, False])])
def test_messages_come_through_as_they_are(value):
    fill = filler(pack({"value": value}))
    back = Reader(fill).message()["value"]
    assert type(back) is type(value) and not fill(1)
    assert repr(back) == repr(value)


def test_messages_refuse_what_they_cannot_hold():
    for value in ({1}, np.array([None]), object(), lambda: 0, np.array(["a"])):
        with pytest.raises(Unsendable):
            pack({"value": value})
    for head, body in ((b'{"dict": {"v": {"array": ["float64", [9], false]}}}', b"too short"),
                       (b'{"dict": {"v": {"array": ["O", [1], false]}}}', b"8" * 8), (b"[1]", b""),
                       (b'{"dict": {}}', b"left over"), (b'{"dict": {"v": {"array": ["int8", [-1], false]}}}', b"")):
        lengths = len(head).to_bytes(8, "little") + len(body).to_bytes(8, "little")
        with pytest.raises((ValueError, TypeError)):
            Reader(filler(lengths + head + body)).message()
    with pytest.raises(ValueError, match="a message of"):
        Reader(lambda n: (LONGEST + 1).to_bytes(8, "little") * 2).message()


def test_the_kit_is_complete_and_nothing_is_pickled():
    kit = grade.read_kit()
    for exercise in EXERCISES.values():
        assert {test.partition("::")[0] for test in exercise.tests} <= set(kit)
        assert exercise.path in kit
    for name in ("worker", "isolated", "__main__"):
        assert "pickle." not in (ROOT / f"tutorial/grader/{name}.py").read_text()
    assert all(Path(name).suffix in (".py", ".toml") for name in kit)
