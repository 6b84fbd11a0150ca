"""The exercises are exercised: holes fail as they should, right answers pass, and mistakes get the hint that fits.

Each run binds one answer to every exercise at once. That is no shortcut: a test of one exercise that used the function
of another would fail with that one's message, and be seen here.
"""

import ast
import json
import re
import subprocess
import sys

import pytest

from tutorial import make_coursework
from tutorial.make_coursework import carve, is_finished, load_exercises, same_as_book, write
from tutorial.source import ROOT, source_of, step_lines, steps_of

EXERCISES = load_exercises()
BY_ID = {exercise.id: exercise for exercise in EXERCISES}
MUTANTS, EQUALS = (max(len(getattr(e, kind)) for e in EXERCISES) for kind in ("mutants", "equals"))


def run(folder, *more):
    """Test the functions of a folder, all exercises; return the verdicts by id and what was printed."""
    report = folder.parent / f"{folder.name}.json"
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", f"--impl={folder}", f"--report={report}"]
    result = subprocess.run([*command, *more], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode in (0, 1), result.stdout + result.stderr
    return {verdict["id"]: verdict for verdict in json.loads(report.read_text())}, result.stdout


def answer_all(folder, answers):
    """Carved files with these answers; exercises without one are left out."""
    write(carve([e for e in EXERCISES if e.id in answers], answers), folder, False)
    return folder, [f"--exercise={id}" for id in answers]


# ---- the list

def test_the_list_is_sound():
    assert [e.id for e in EXERCISES] == ["3.1", "4.1", "4.2", "5.1", "5.2"]
    for exercise in EXERCISES:
        names = [idea.name for idea in exercise.ideas]
        file = ROOT / exercise.tests[0]
        tests = [node.name for node in ast.parse(file.read_text()).body
                 if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")]
        assert tests == [f"test_{name}" for name in names], f"{file.name}: one test for each idea, in the same order"
        for test in exercise.tests[1:]:
            path, _, name = test.partition("::")
            others = {node.name for node in ast.parse((ROOT / path).read_text()).body
                      if isinstance(node, ast.FunctionDef)}
            assert not others & set(tests) and (not name or name in others), test
        assert set(exercise.steps) <= set(steps_of(f"{exercise.path}:{exercise.name}"))
        assert exercise.steps == list(range(exercise.steps[0], exercise.steps[-1] + 1))
        assert (ROOT / "tutorial" / exercise.chapter).exists() and exercise.points > 0
        assert len(exercise.mutants) >= 2 and exercise.equals and not any(a.idea for a in exercise.equals)
        assert {mutant.idea for mutant in exercise.mutants} == set(names), "each idea has a mutant that misses it"
        for hints in (exercise.hints, *(idea.hints for idea in exercise.ideas)):
            assert len(hints) == 2 and all(hint.endswith((".", "?", ")")) and len(hint) < 200 for hint in hints)


def test_teachers_are_told_the_same():
    text = (ROOT / "tutorial/TEACHERS.md").read_text()
    rows = re.findall(r"^\| (\d\.\d) .*? \| \[\d\]\((\S+)\) \| (\d+) \|", text, re.M)
    assert rows == [(e.id, e.chapter, str(e.points)) for e in EXERCISES]
    assert text.startswith("# For teachers\n\nFive exercises, 20 points") and sum(e.points for e in EXERCISES) == 20


# ---- carving

def test_only_the_hole_is_cut():
    files = carve(EXERCISES)
    assert set(files) == {"rope.py", "attention.py", "kv_cache.py", "router.py", "experts.py"}
    for exercise in EXERCISES:
        before, after = (ROOT / exercise.path).read_text().splitlines(), files[exercise.file].splitlines()
        first, last = step_lines(f"{exercise.path}:{exercise.name}", exercise.steps[0], exercise.steps[-1])
        tail = len(before) - last
        assert after[: first - 1] == before[: first - 1] and after[len(after) - tail :] == before[last:]
        hole = [line.strip() for line in after[first - 1 : len(after) - tail]]
        assert hole[-1] == f'raise NotImplementedError("{exercise.message}")'
        assert [line.startswith("# (") for line in hole] == [True] * (len(hole) - 1) + [False]
        assert exercise.message.startswith(f"Exercise {exercise.id}: ") and len(exercise.message) < 80
        assert not is_finished(exercise, files[exercise.file]) and is_finished(exercise, "\n".join(before))


def test_work_is_never_overwritten(tmp_path, capsys):
    student = tmp_path / "student"
    assert make_coursework.main(["--folder", str(student)]) == 0
    assert len(list(student.iterdir())) == 5 and "Left as" not in capsys.readouterr().out
    (student / "rope.py").write_text("mine")
    (student / "router.py").unlink()
    make_coursework.main(["--folder", str(student)])
    assert (student / "rope.py").read_text() == "mine" and (student / "router.py").exists()
    assert "differ from fresh ones: rope.py. --force" in capsys.readouterr().out
    make_coursework.main(["--folder", str(student), "--force"])
    assert (student / "rope.py").read_text() == carve(EXERCISES)["rope.py"]


def test_a_copy_of_the_book_is_recognised(tmp_path):
    exercise = BY_ID["5.1"]
    text = (ROOT / exercise.path).read_text()
    (tmp_path / "router.py").write_text(text.replace("# (2) the K largest", "# my own words for it"))
    assert same_as_book(exercise, tmp_path)
    (tmp_path / "router.py").write_text(re.sub(r"(?m)^    return ", "    pass\n    return ", text))
    assert not same_as_book(exercise, tmp_path)
    (tmp_path / "router.py").write_text("def route(:")
    assert not same_as_book(exercise, tmp_path)


# ---- running

@pytest.fixture(scope="module")
def carved(tmp_path_factory):
    """A carved folder, all its tests run on the holes."""
    folder = tmp_path_factory.mktemp("carved") / "student"
    make_coursework.main(["--folder", str(folder)])
    return folder, *run(folder, "--exercise=all")


def test_each_hole_fails_with_its_own_message_and_nothing_else_fails(carved):
    _, verdicts, _ = carved
    for id, verdict in verdicts.items():
        exercise = BY_ID[id]
        assert verdict["state"] == "unfinished" and verdict["failed"] > 0
        assert {f"test_{idea.name}" for idea in exercise.ideas} <= set(verdict["tests"])
        for test, message in verdict["messages"].items():
            assert exercise.message in message, f"{test}: {message}"
            assert not any(f"Exercise {other}:" in message for other in BY_ID if other != id)


def test_unfinished_functions_fall_back_to_the_book(carved):
    """One exercise is answered: without --exercise everything passes, and the report says whose function was used."""
    folder = carved[0].parent / "begun"
    write(carve(EXERCISES, {"5.1": BY_ID["5.1"].equals[0].lines}), folder, False)
    verdicts, out = run(folder, "tests/coursework/exercises", "tests/book/test_router.py", "tests/book/test_rope.py")
    assert all(verdict["failed"] == 0 and verdict["passed"] > 0 for verdict in verdicts.values())
    assert {id: verdict["state"] for id, verdict in verdicts.items()} == {
        "3.1": "unfinished", "4.1": "unfinished", "4.2": "unfinished", "5.1": "own", "5.2": "unfinished"}
    assert "5.1  Route: choose the experts and weigh them: your own  70 pass, 0 fail" in out
    assert "3.1  Apply the rotation: unfinished; the book's serves  44 pass, 0 fail" in out


@pytest.mark.parametrize("n", range(EQUALS))
def test_right_answers_pass(tmp_path, n):
    """Also in other words, and on other random numbers; the book's own text passes in the other tests of tests/."""
    answers = {e.id: e.equals[n].lines for e in EXERCISES if n < len(e.equals)}
    folder, chosen = answer_all(tmp_path / "right", answers)
    verdicts, out = run(folder, *chosen, "--seed=1")
    for id in answers:
        assert verdicts[id]["state"] == "own" and verdicts[id]["failed"] == 0 < verdicts[id]["passed"], out
        assert not verdicts[id]["same_as_book"] and verdicts[id]["hints"] == []


def test_the_book_passes_on_another_seed(tmp_path):
    for exercise in EXERCISES:
        write({exercise.file: (ROOT / exercise.path).read_text()}, tmp_path / "book", False)
    verdicts, out = run(tmp_path / "book", "--exercise=all", "--seed=2")
    assert all(v["failed"] == 0 < v["passed"] and v["same_as_book"] for v in verdicts.values()), out


@pytest.mark.parametrize("n", range(MUTANTS))
def test_mistakes_get_the_hint_of_their_idea(tmp_path, n):
    answers = {e.id: e.mutants[n] for e in EXERCISES if n < len(e.mutants)}
    folder, chosen = answer_all(tmp_path / "wrong", {id: answer.lines for id, answer in answers.items()})
    verdicts, out = run(folder, *chosen, "tests/coursework/exercises", *(["--hints=2"] if n == 0 else []))
    for id, mutant in answers.items():
        verdict, exercise = verdicts[id], BY_ID[id]
        (idea,) = (idea for idea in exercise.ideas if idea.name == mutant.idea)
        print(f"{id}  {mutant.name}  ->  {verdict['idea']}: {idea.hints[0]}")
        assert verdict["failed"] and verdict["idea"] == mutant.idea, f"{mutant.name}: {verdict['numbers']}"
        assert f"property: {idea.property}" in out and f" hint: {idea.hints[0]}" in out
        assert (f"second hint: {idea.hints[1]}" in out) == (n == 0)
        assert "against" in verdict["numbers"] and verdict["numbers"][:40] in out, "the numbers are told"


def test_the_table_of_exercises(capsys):
    """What CI prints: every exercise with its mutants and the hint that each of them gets."""
    lines = [f"{e.id} {e.title}, {e.points} points\n" + "\n".join(
        f"     {mutant.name:28} {next(i.hints[0] for i in e.ideas if i.name == mutant.idea)}" for mutant in e.mutants)
        for e in EXERCISES]
    with capsys.disabled():
        print("\n\n" + "\n".join(lines))
    assert sum(len(e.mutants) for e in EXERCISES) == sum(text.count("\n") for text in lines) >= 2 * len(EXERCISES)


def test_broken_and_missing_files_say_so(tmp_path):
    """A file that does not load fails its own exercise only; one that is not there is the book's unless asked for."""
    folder = tmp_path / "student"
    folder.mkdir()
    (folder / "rope.py").write_text("def rope(x:\n")
    (folder / "router.py").write_text("import sys\nsys.exit(0)\n")
    (folder / "experts.py").write_text("x = 1\n")
    verdicts, out = run(folder, "--exercise=all", "tests/coursework/exercises")
    assert "rope.py:1 does not load: SyntaxError" in verdicts["3.1"]["numbers"]
    assert "There is no file attention.py" in verdicts["4.1"]["numbers"]
    assert "router.py does not load: SystemExit" in verdicts["5.1"]["numbers"]
    assert "experts.py does not load: AttributeError" in verdicts["5.2"]["numbers"]
    assert all(verdict["passed"] == 0 for verdict in verdicts.values()) and "no kv_cache.py" in out


def test_unknown_exercises_and_folders(tmp_path):
    for option, words in (("--exercise=9.9", "There is no exercise 9.9; there are 3.1, 4.1, 4.2, 5.1, 5.2, and all"),
                          (f"--impl={tmp_path / 'none'}", "`make student` writes student/")):
        result = subprocess.run([sys.executable, "-m", "pytest", option], cwd=ROOT, capture_output=True, text=True)
        assert result.returncode == 4 and words in result.stderr


# ---- sources

def test_sources_are_found():
    import tiny.kv_cache
    import tiny.rope
    rope = source_of(tiny.rope.rope)
    assert rope.text.startswith("def rope(x: np.ndarray") and rope.text.splitlines()[-1].startswith("    return ")
    assert rope == source_of("tiny/rope.py:rope") and rope.place == f"tiny/rope.py:{rope.first}"
    append = source_of(tiny.kv_cache.KVCache.append)
    assert append.text.startswith("def append(self") and append.text.splitlines()[1].startswith("    ")
    assert source_of("tiny/kv_cache.py:Slot").text.startswith("@dataclass\nclass Slot")


def test_steps_end_where_they_should():
    step, _ = source_of("tiny/rope.py:rope#1").text.splitlines()
    assert step.startswith("# (1)"), "a step is its tag and what follows"
    outer, inner = (source_of(f"tiny/attention.py:attention#{n}") for n in (1, 2))
    assert outer.last + 1 == inner.first, "a step ends before the next one"
    lines = (ROOT / "tiny/attention.py").read_text(encoding="utf-8").splitlines()
    depth = [len(lines[n - 1]) - len(lines[n - 1].lstrip()) for n in (inner.first, inner.last, inner.last + 1)]
    assert depth[0] == depth[1] > depth[2], "and with its block"
    assert source_of("tiny/attention.py:attend#5") == source_of("tiny/attention.py:attend#6"), "two on one line"
    whole = source_of("tiny/attention.py:attend#3-6")
    assert whole.text.startswith("# (3) scores") and whole.last == source_of("tiny/attention.py:attend").last


@pytest.mark.parametrize("reference, words", [
    ("tiny/rope.py", "A reference looks like"), ("tiny/none.py:rope", "There is no file tiny/none.py"),
    ("tiny/rope.py:ropes", "defines no ropes"), ("tiny/rope.py:rope#9", r"has the steps \[1, 2\]; got \[9\]"),
    ("tiny/kv_cache.py:KVCache.drop", "defines no KVCache.drop"), ("tiny/rope.py:rope#2-1", "got"),
    ("../rope.py:rope", "There is no file")])
def test_references_that_lead_nowhere(reference, words):
    with pytest.raises(ValueError, match=words):
        source_of(reference)
