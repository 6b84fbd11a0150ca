"""Trying an exercise: the grader's verdict in a student's words, and a picture of their own run."""

import functools
import re
from dataclasses import replace

import impl
import numpy as np
import pytest
from answers import ANSWERS, EXERCISES, RIGHT, Answer, submit
from emulator_case import needs_compiler
from PIL import Image

from tiny.tools.terminal import guarded
from tutorial import attempt, own_run
from tutorial.grader import emulated
from tutorial.make_coursework import STUDENT, carve, reference, write

each = pytest.mark.parametrize("id", [
    pytest.param(id, marks=needs_compiler) if EXERCISES[id].is_kernel else id for id in own_run.RUNS])


def book_of(exercise):
    """What a run of the book is given: the function, or what runs the file of a kernel."""
    return emulated.run if exercise.is_kernel else reference(exercise)


@functools.cache
def right_run(id):
    return own_run.RUNS[id](book_of(EXERCISES[id]))


def test_runs_are_of_exercises():
    assert set(own_run.RUNS) <= set(EXERCISES)


def test_every_hint_is_shown_and_the_summary_of_pytest_is_not():
    for line in ("2 passed in 0.31s", "1 failed, 12 passed in 61.05s (0:01:01)", "1 failed, 2 warnings in 3.10s"):
        assert attempt.SUMMARY.fullmatch(line), line
    told = [text for exercise in EXERCISES.values() for idea in (exercise, *exercise.ideas)
            for text in (*idea.hints, getattr(idea, "property", ""))]
    assert not [text for text in told if attempt.SUMMARY.search(text)] and any(" in " in text[-16:] for text in told)


def test_a_hint_that_ends_in_a_place_is_shown(tmp_path, capsys):
    wrong = next(answer for answer in ANSWERS if answer.name == "reshape_alone")
    attempt.main(["7.2", "--impl", str(submit(tmp_path / "student", wrong))])
    out = capsys.readouterr().out
    assert EXERCISES["7.2"].ideas[1].hints[0] in " ".join(out.split()) and not attempt.SUMMARY.search(out)


@each
def test_a_run_of_the_book_is_what_it_is_compared_with(id, warm_emulator_too):
    table = right_run(id)
    rows, columns = table.values.shape
    assert len(table.rows) == rows and len(table.columns) == columns and np.isfinite(table.values).any()
    assert not own_run.differ(table.values, table.values).any()


@pytest.mark.parametrize("id", [
    pytest.param(id, marks=[needs_compiler, pytest.mark.thorough]) if EXERCISES[id].is_kernel else id
    for id in own_run.RUNS])  # A compiler takes its time.
def test_a_picture_shows_mistakes(id, tmp_path, warm_emulator_too):
    """At least half of the wrong answers look wrong (a dtype cannot be seen); every right answer looks right."""
    right, seen = right_run(id), []
    exercise = EXERCISES[id]
    answers = [answer for answer in ANSWERS if answer.exercise == id]
    for n, answer in enumerate(answers[::4] if exercise.is_kernel else answers):  # A compiler takes its time.
        folder = submit(tmp_path / str(n), answer)
        one = emulated.Emulated(exercise, folder) if exercise.is_kernel else None
        function = emulated.run if one else impl.load(exercise, folder / exercise.file)
        try:
            with np.errstate(all="ignore"):
                wrong = own_run.differ(own_run.RUNS[id](function).values, right.values).any()
        except Exception:  # What stops is told in words, in the picture too.
            wrong = not answer.is_right
        if one:
            one.stop()
        assert not (answer.is_right and wrong), answer.name
        seen += [] if answer.is_right else [bool(wrong)]
    assert len(seen) >= 2 and 2 * sum(seen) >= len(seen)


@each
def test_numbers_that_are_none_are_drawn(id, warm_emulator_too):
    """A function that gives NaN and infinity gets its picture, with frames and with these words."""
    right = right_run(id)
    values = np.full(right.values.shape, np.inf)
    values[0, 0] = np.nan
    figure = own_run.draw(replace(right, values=values), right)
    figure.canvas.draw()
    assert "differ (framed)" in figure.axes[0].get_title() and "differ" not in figure.axes[1].get_title()
    assert any("inf" in text.get_text() for text in figure.axes[0].texts)


def test_both_panels_are_shaded_on_one_scale():
    right = own_run.Table(np.array([[1.0, 2.0]]), ["row"], ["a", "b"], "two numbers")
    figure = own_run.draw(replace(right, values=np.array([[1.0, 8.0]])), right)
    ours, theirs = ([patch.get_facecolor() for patch in panel.patches[:2]] for panel in figure.axes)
    assert ours[0] == theirs[0] != theirs[1] == ours[1], "what is above the largest right number is as dark as that"


def run(capsys, *argv):
    """The exit status and what is printed."""
    status = guarded(lambda: attempt.main([str(one) for one in argv]))
    printed = capsys.readouterr()
    return status, printed.out, printed.err


def test_right_wrong_and_unwritten(tmp_path, capsys):
    """Also in a folder with a space in its name, named by an option with a space before it."""
    wrong = next(a for a in ANSWERS if a.exercise == "5.2" and a.idea == "answers_add_up")
    folder = submit(tmp_path / "ann lee", Answer("4.2", "", RIGHT["4.2"]), wrong)
    write(carve([EXERCISES["5.1"]]), folder, False)

    status, out, _ = run(capsys, "4.2", "--impl", folder)
    assert status == 0 and "3 of 3 points" in out and "FAILS" not in out and "not tried" not in out
    assert out.count("  holds  ") == len(EXERCISES["4.2"].ideas)
    passed, more = (int(re.search(rf"(\d+) {words}", out)[1]) for words in ("pass, 0 fail", "more are those of the"))
    assert passed == more + len(EXERCISES["4.2"].ideas)

    status, out, _ = run(capsys, "5.2", "--impl", folder)
    idea = next(i for i in EXERCISES["5.2"].ideas if i.name == wrong.idea)
    assert status == 1 and f"  FAILS      {idea.property}" in out and "got " in out and idea.hints[0] in out
    more = re.search("^One hint more: (.*)$", out, re.M)[1]
    assert more.endswith(f"-m tutorial.attempt 5.2 --impl {folder} --hints 2")
    status, out, _ = run(capsys, "5.2", "--impl", folder, "--hints", 2)
    assert status == 1 and idea.hints[1] in out and "One hint more" not in out
    assert attempt.command_of(EXERCISES["5.2"], STUDENT) == "make try EX=5.2 HINTS=2"

    status, out, _ = run(capsys, "5.1", "--impl", folder)
    assert status == 1 and "unfinished" in out and "holds" not in out
    for id in ("4.2", "5.2", "5.1"):
        file = folder / "pictures" / f"{id}.png"
        with Image.open(file) as image:
            assert image.width > 600 and image.height > 200
    assert f"Your own run, beside the right one: {folder / 'pictures/5.1.png'}" in out


def test_what_stops_is_said_in_the_picture(tmp_path):
    folder = submit(tmp_path / "s", Answer("4.2", "", "return x[99]"))
    words = attempt.run_of(EXERCISES["4.2"], folder, tmp_path)
    assert words.startswith("rope.py:") and words.endswith("stops with IndexError")
    (folder / "rope.py").write_text("def rope(")
    assert attempt.run_of(EXERCISES["4.2"], folder, tmp_path) == "rope.py does not load"
    assert attempt.run_of(EXERCISES["5.1"], folder, tmp_path) == "not written yet"


def test_a_loop_that_never_ends_is_waited_for_once(tmp_path, capsys, monkeypatch):
    folder = submit(tmp_path / "s", Answer("4.2", "", "while True:\n    pass"))
    asked = []
    verdict = {"refused": "It took more than 20 seconds: does a loop never end?", "points": 0, "hints": []}
    monkeypatch.setattr(attempt, "verdict_of", lambda *args: verdict)
    monkeypatch.setattr(attempt, "run_of", lambda *args: asked.append(args) or "not written yet")
    monkeypatch.setattr(attempt, "where_endless", lambda *args: "rope.py:7")
    status, out, _ = run(capsys, "4.2", "--impl", folder)
    assert status == 1 and not asked and "it was at rope.py:7.\n" in out
    assert (folder / "pictures/4.2.png").is_file()
    verdict["refused"] = "rope.py stops with MemoryError"
    assert run(capsys, "4.2", "--impl", folder)[0] == 1 and len(asked) == 1


def test_a_loop_that_never_ends_is_told_by_its_line(tmp_path, monkeypatch):
    """By Python itself; a loop that the drawn case does not come to is not found."""
    monkeypatch.setattr(attempt, "ENDLESS", 1)
    spins = submit(tmp_path / "spins", Answer("4.2", "", "while True:\n    x = x + 0"))
    file, _, line = attempt.where_endless(EXERCISES["4.2"], spins).partition(":")
    assert file == "rope.py"
    assert (spins / file).read_text().splitlines()[int(line) - 1].strip() in ("while True:", "x = x + 0")
    never = f"if len(x) == 99:\n    while True:\n        pass\n{RIGHT['4.2']}"
    assert attempt.where_endless(EXERCISES["4.2"], submit(tmp_path / "ends", Answer("4.2", "", never))) == ""


def test_no_such_exercise_and_no_such_folder(tmp_path, capsys):
    status, _, err = run(capsys, "9.99", "--impl", tmp_path)
    assert status == 2 and "There is no exercise 9.99." in err and ", ".join(EXERCISES) in err
    status, _, err = run(capsys, "4.2", "--impl", tmp_path, "--hints", "3")
    assert status == 2 and "HINTS is 0, 1 or 2." in err
    status, _, err = run(capsys, "4.2", "--impl", tmp_path / "none")
    assert status == 2 and "make student" in err
