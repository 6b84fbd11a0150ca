"""The exercises are exercised: holes fail as they should, right answers pass, and mistakes get the hint that fits."""

import ast
import functools
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import impl
import pytest
from answers import ANSWERS, RIGHT, Answer, submit
from answers import EXERCISES as BY_ID
from emulator_case import needs_compiler

from tutorial import make_coursework
from tutorial.grader import __main__ as grade
from tutorial.grader import guard, wall
from tutorial.grader.isolated import PRINTED
from tutorial.grader.submissions import DEEPEST
from tutorial.grader.worker import LARGEST
from tutorial.make_coursework import carve, is_finished, same_as_book, write
from tutorial.source import ROOT, source_of, step_lines, steps_of

EXERCISES = list(BY_ID.values())
FILES = {exercise.id: exercise.file for exercise in EXERCISES}
WRONG = [answer for answer in ANSWERS if not answer.is_right]
GOOD = [answer for answer in ANSWERS if answer.is_right]


def in_a_process(arguments):
    """The exit status of pytest, in a process of its own, and what it printed."""
    ran = subprocess.run([sys.executable, "-m", "pytest", *arguments], cwd=ROOT, capture_output=True, text=True)
    return ran.returncode, ran.stdout + ran.stderr


@pytest.fixture(scope="module")
def in_a_fork():
    """The same in a fork of a process that has imported everything: tests/helpers/warm_tests.py."""
    command = [sys.executable, str(ROOT / "tests/helpers/warm_tests.py")]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          text=True) as process:
        def fork(arguments):
            print(json.dumps(arguments), file=process.stdin, flush=True)
            return json.loads(process.stdout.readline())
        yield fork


def run(folder, *more, way=in_a_process):
    """Test the functions of a folder, all exercises; return the verdicts by id and what was printed."""
    report = folder.parent / f"{folder.name}.json"
    status, out = way(["-p", "no:cacheprovider", f"--impl={folder}", f"--report={report}", *more])
    assert status in (0, 1), out
    verdicts = {verdict["id"]: verdict for verdict in json.loads(report.read_text())}
    assert status == any(v["failed"] for v in verdicts.values()) or "unfinished" in out
    return verdicts, out


# ---- the list

def test_the_list_is_sound():
    order = [tuple(map(int, e.id.split("."))) for e in EXERCISES]
    assert order == sorted(set(order)) and all(e.chapter.startswith(f"{n:02}_") for e, (n, _) in zip(EXERCISES, order))
    assert len({e.file for e in EXERCISES}) == len({e.path for e in EXERCISES}), "files of student/ have a name each"
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
        ideas = {answer.idea for answer in WRONG if answer.exercise == exercise.id} - {""}
        assert ideas == set(names), "each idea has an answer that misses it"
        assert exercise.id in RIGHT
        of_ideas = (hints for idea in exercise.ideas for hints in (idea.hints, *idea.reports.values()))
        for hints in (exercise.hints, *of_ideas):
            assert len(hints) == 2 and all(hint.endswith((".", "?", ")")) and len(hint) < 200 for hint in hints)


def test_there_are_many_answers_and_each_has_a_name():
    assert len(WRONG) >= 60 and len(GOOD) >= 20
    assert len({(answer.exercise, answer.name) for answer in ANSWERS}) == len(ANSWERS)


def test_teachers_are_told_the_same():
    text = (ROOT / "tutorial/TEACHERS.md").read_text()
    rows = re.findall(r"^\| (\d+\.\d) .*? \| \[\d+\]\((\S+)\) \| (\d+) \|", text, re.M)
    assert rows == [(e.id, e.chapter, str(e.points)) for e in EXERCISES]
    told = " ".join(text.split())
    for words in (f"in memory ({wall.SCRATCH >> 20} MiB)", f"more than {guard.FILES} files", f"{LARGEST >> 20} MiB",
                  f"kept up to {PRINTED >> 10} KiB", f"up to {('no', 'one', 'two', 'three')[DEEPEST]} folders below",
                  f"Neither is told of {', '.join(e.id for e in EXERCISES if e.one_way)},"):
        assert words in told, words


# ---- carving

def test_only_the_hole_is_cut():
    assert set(carve(EXERCISES)) == {e.file for e in EXERCISES}
    for exercise in EXERCISES:
        files = carve([exercise])
        before, after = (ROOT / exercise.path).read_text().splitlines(), files[exercise.file].splitlines()
        first, last = step_lines(f"{exercise.path}:{exercise.name}", exercise.steps[0], exercise.steps[-1])
        tail = len(before) - last
        assert after[: first - 1] == before[: first - 1] and after[len(after) - tail :] == before[last:]
        hole = [line.strip() for line in after[first - 1 : len(after) - tail]]
        assert hole[-1] == exercise.hole
        assert [line.startswith(("# (", "// (")) for line in hole] == [True] * (len(hole) - 1) + [False]
        assert exercise.message.startswith(f"Exercise {exercise.id}: ") and len(exercise.message) < 80
        assert not is_finished(exercise, files[exercise.file]) and is_finished(exercise, "\n".join(before))


def test_work_is_never_overwritten(tmp_path, capsys):
    student = tmp_path / "student"
    assert make_coursework.main(["--folder", str(student)]) == 0
    assert {path.name for path in student.glob("*.[cp]*")} == {*carve(EXERCISES), "case_c.cu"}
    assert "Left as" not in capsys.readouterr().out
    (student / "rope.py").write_text("mine")
    (student / "router.py").unlink()
    make_coursework.main(["--folder", str(student)])
    assert (student / "rope.py").read_text() == "mine" and (student / "router.py").exists()
    assert "differ from fresh ones: rope.py. To begin one again, move it away" in capsys.readouterr().out
    for n, words in enumerate(("mine", "mine, once more"), 1):
        (student / "rope.py").write_text(words)
        make_coursework.main(["--folder", str(student), "--force"])
        assert (student / "rope.py").read_text() == carve(EXERCISES)["rope.py"]
        assert (student / f"rope.py.{n}").read_text() == words
    assert len(list(student.glob("*.py.*"))) == 2, "what is as it was needs no copy"


def test_a_copy_of_the_book_is_recognised(tmp_path):
    exercise = BY_ID["5.2"]
    text = (ROOT / exercise.path).read_text()
    for same, old, new in ((True, "# (2) the expert's", "# my own words for the"),
                           (True, "tokens, rank", "rows, place"), (False, "answer *= ", "answer = answer * "),
                           (False, "def experts", "def experts(:")):
        assert old in text
        renamed = text.replace(old, new) if old != "tokens, rank" else re.sub(r"\btokens\b", "rows", text)
        (tmp_path / "experts.py").write_text(renamed)
        assert same_as_book(exercise, tmp_path) == same, new
    (tmp_path / "router.py").write_text((ROOT / "tiny/router.py").read_text())
    assert not same_as_book(BY_ID["5.1"], tmp_path), "its text leaves one way to write it"


@pytest.mark.parametrize("finished, change", [
    (False, lambda hole: hole), (True, lambda hole: hole.replace("    raise", "    return x\n    raise")),
    (True, lambda hole: hole.replace("    raise", "    if True:\n        return x\n    return -x\n    raise")),
    (False, lambda hole: hole.replace("    raise", "    if x is None:\n        return x\n    raise")),
    (True, lambda hole: hole.replace("    raise", "    # raise") + "    return x\n"),
    (True, lambda hole: "def old(x):\n    raise NotImplementedError('Exercise 4.2: mine')\n"
                        + hole.replace("    raise", "    return x #")),
    (False, lambda hole: hole.replace("    raise", "    out = x\n    raise")),
    (True, lambda hole: "\ufeff" + hole.replace("    raise", "    return x\n    raise"))])
def test_a_hole_is_finished_when_its_line_is_not_reached(finished, change):
    text = carve(EXERCISES)["rope.py"]
    start = text.index("def rope(")
    end = text.index("def ", start + 4)
    head, hole, rest = text[:start], text[start:end], text[end:]
    changed = change(hole)
    text = "\ufeff" + head + changed[1:] + rest if changed.startswith("\ufeff") else head + changed + rest
    assert is_finished(BY_ID["4.2"], text.encode()) == finished


# ---- running

@pytest.fixture(scope="module")
def carved(tmp_path_factory):
    """A carved folder, with all its tests asked for."""
    folder = tmp_path_factory.mktemp("carved") / "student"
    make_coursework.main(["--folder", str(folder)])
    return folder, *run(folder, "--exercise=all")


def test_a_hole_is_unfinished_and_nothing_is_tried(carved):
    _, verdicts, out = carved
    for id, verdict in verdicts.items():
        assert verdict["state"] == "unfinished" and verdict["points"] == verdict["passed"] == verdict["failed"] == 0
        assert f"{id}  {verdict['title']}: unfinished  0 of {verdict['of']} points" in out
    assert out.count("Write your code in its place") == len(EXERCISES) and "skipped" not in out


def first_idea(exercise):
    """The test of the first idea of an exercise."""
    name = Path(exercise.tests[0]).stem
    spec = importlib.util.spec_from_file_location(f"ideas_{name}", ROOT / exercise.tests[0])
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, f"test_{exercise.ideas[0].name}")


def test_each_hole_says_which_it_is(tmp_path, carved):
    """Called all the same, it fails in every test of its exercise, and in none of another. (Of a kernel, the compiler
    says it: test_kernel_exercises.py.)
    """
    for exercise in EXERCISES:
        if exercise.is_kernel:
            continue
        namespace = {"__name__": "carved"}
        exec(compile((carved[0] / exercise.file).read_text(), exercise.file, "exec"), namespace)
        first, *rest = exercise.name.split(".")
        old = impl.bind(exercise, functools.reduce(getattr, rest, namespace[first]))
        try:
            with pytest.raises(NotImplementedError, match=re.escape(exercise.message)):
                first_idea(exercise)()
        finally:
            impl.bind(exercise, old)


def test_unfinished_functions_fall_back_to_the_book(carved, in_a_fork):
    """One exercise is answered: without --exercise everything passes, and the report says whose function was used."""
    folder = submit(carved[0].parent / "begun", Answer("5.1", "", RIGHT["5.1"]))
    write(carve([e for e in EXERCISES if e.id != "5.1"]), folder, False)
    files = ("tests/coursework/exercises", "tests/book/test_router.py", "tests/book/test_rope.py")
    verdicts, out = run(folder, *files, way=in_a_fork)
    assert all(verdict["failed"] == 0 and verdict["passed"] > 0 for verdict in verdicts.values())
    assert [id for id, verdict in verdicts.items() if verdict["state"] != "unfinished"] == ["5.1"]
    for words in ("5.1  Route: choose the experts and weigh them: your own",
                  "4.2  Apply the rotation: unfinished; the book's is used"):
        assert re.search(re.escape(words) + r"  \d\d pass, 0 fail\n", out)


def test_the_book_passes_on_another_seed(tmp_path, in_a_fork):
    for exercise in EXERCISES:
        write({exercise.file: (ROOT / exercise.path).read_text()}, tmp_path / "book", False)
    verdicts, out = run(tmp_path / "book", "--exercise=all", "--seed=2", way=in_a_fork)
    for id, verdict in verdicts.items():
        tried = verdict["passed"] > 0 or BY_ID[id].is_kernel and "not on this machine" in verdict["why"]
        assert verdict["failed"] == 0 and tried and verdict["same_as_book"] != BY_ID[id].one_way, out


def batches(answers):
    """Groups of answers that can be judged in one run: each fills a hole in a file of its own."""
    groups, files = [], []
    for answer in answers:
        file = FILES[answer.exercise]
        n = next((n for n, taken in enumerate(files) if file not in taken), len(groups))
        if n == len(groups):
            groups.append([])
            files.append(set())
        groups[n].append(answer)
        files[n].add(file)
    return groups


def each(answers):
    """A test for each answer; those of a batch one after the other in one process, so that it is judged once.

    Those beyond the first right and the first wrong one of an exercise are left to .ci/run.
    """
    kind, known, more = "right" if answers[0].is_right else "wrong", set(), []
    for answer in answers:
        more += [answer] * (answer.exercise in known)
        known.add(answer.exercise)
    groups = [*batches([answer for answer in answers if answer not in more]), *batches(more)]
    return pytest.mark.parametrize("answer", [
        pytest.param(answer, id=f"{answer.exercise}-{answer.name}", marks=[
            pytest.mark.xdist_group(f"{kind} {n}"), *[needs_compiler] * BY_ID[answer.exercise].is_kernel,
            *[pytest.mark.thorough] * (answer in more)])
        for n, group in enumerate(groups) for answer in group])


@pytest.fixture(scope="module")
def judge(request, tmp_path_factory, in_a_fork):
    """The verdict on an answer, and what was printed. Answers that are to be tested now are judged in batches."""
    asked = [item.callspec.params["answer"] for item in request.session.items
             if "judge" in getattr(item, "fixturenames", ()) and "answer" in getattr(item, "callspec", item).params]
    groups = [*batches(a for a in asked if not a.is_right), *batches(a for a in asked if a.is_right)]

    @functools.cache
    def judged(n):
        folder = submit(tmp_path_factory.mktemp("answers") / "student", *groups[n])
        right = groups[n][0].is_right
        chosen = [f"--exercise={answer.exercise}" for answer in groups[n]]
        return run(folder, *chosen, *["--seed=1"] * right, way=in_a_fork)

    def judge_one(answer):
        verdicts, out = judged(next(n for n, group in enumerate(groups) if answer in group))
        return verdicts[answer.exercise], out
    return judge_one


@each(GOOD)
def test_right_answers_pass(answer, judge):
    """Also in other words, and on other random numbers; the book's own text passes in the other tests of tests/."""
    verdict, out = judge(answer)
    assert verdict["points"] == verdict["of"] and not verdict["same_as_book"] and verdict["hints"] == [], out


@each(WRONG)
def test_mistakes_get_the_hint_of_their_idea(answer, judge):
    """The first idea that a wrong answer misses is its own; where no idea is to blame, none is blamed."""
    verdict, _ = judge(answer)
    words = verdict["numbers"]
    print(f"{answer.exercise}  {answer.name}  ->  {verdict['idea']}: {words}")
    assert verdict["failed"] and verdict["points"] == 0, "no test fails"
    assert verdict["test"] in {f"test_{idea.name}" for idea in BY_ID[answer.exercise].ideas}, "no idea is missed"
    if answer.idea:
        assert verdict["idea"] == answer.idea, words
        assert "got" in words or answer.idea.endswith("left_alone")
    else:
        assert verdict["idea"] is None and answer.shown in words
    assert "np." not in words.replace("np.array(...)", "") and "tolerance" not in words


def test_both_ways_of_judging_agree(tmp_path, in_a_fork):
    """As students are judged, each function behind a wall, and as the answers above are: the same verdicts.

    One wrong answer of each chapter, and a right one.
    """
    chapters = {BY_ID[answer.exercise].chapter: answer for answer in reversed(WRONG)}
    there = [answer for answer in chapters.values() if shutil.which("g++") or not BY_ID[answer.exercise].is_kernel]
    sample = batches([GOOD[0], *there])[0]
    assert len(sample) > 2
    folder = submit(tmp_path / "student", *sample)
    chosen = [f"--exercise={answer.exercise}" for answer in sample]
    (walled, _), (forked, _) = run(folder, *chosen), run(folder, *chosen, way=in_a_fork)
    assert walled == forked and [forked[answer.exercise]["points"] > 0 for answer in sample] == [
        answer.is_right for answer in sample]


def test_a_failure_is_told_as_the_grader_tells_it(tmp_path, monkeypatch):
    """The student's own command and the grader: the same tests, counts, points and reasons, right or wrong."""
    monkeypatch.setattr(grade, "check_tests", lambda *_: None)  # It has its own test.
    wrong = {answer.exercise: answer for answer in reversed(WRONG) if answer.idea}
    stops = Answer("6.2", "stops", "od", below="\nprint('read')\n")
    answers = [wrong["3.1"],
               Answer("4.2", "", RIGHT["4.2"] + "print('below')\nraise NotImplementedError('Exercise 4.2: left')"),
               Answer("5.1", "", "return logits, logits"), wrong["5.2"], stops]
    folder = submit(tmp_path / "submissions/ann", *answers)
    verdicts, out = run(folder, "--exercise=all", "--seed=4", "--hints=2")
    assert grade.main([str(tmp_path / "submissions"), "--seed", "4", "--out", str(tmp_path / "out")]) == 0
    graded = json.loads((tmp_path / "out/grades.json").read_text())["submissions"]["ann"]["exercises"]
    for mark in graded:
        mine = verdicts[mark["id"]]
        assert [mark[key] for key in ("points", "of", "why", "idea", "holds", "passed", "said")] == [
            mine[key] for key in ("points", "of", "why", "idea", "holds", "passed", "said")]
    answered = {answer.exercise for answer in answers}  # Another exercise of the same file is the book's.
    assert {mark["id"]: mark["points"] for mark in graded if mark["points"] and mark["id"] in answered} == {"4.2": 3}
    idea = next(i for i in BY_ID["3.1"].ideas if i.name == wrong["3.1"].idea)
    for words in (f"property: {idea.property}", f" hint: {idea.hints[0]}", f"second hint: {idea.hints[1]}"):
        assert words in out
    assert re.search(r"found: kv_cache.py:\d+ stops with NameError\n +it says: name 'od' is not defined", out)
    assert "route returns three arrays; got a tuple of 2" in out and "printed:\n       read" in out


def test_broken_and_missing_files_say_so(tmp_path):
    """A file that does not load fails its own exercise only; one that is not there is the book's unless asked for."""
    folder = tmp_path / "student"
    folder.mkdir()
    (folder / "rope.py").write_text("def rope(x:\n")
    (folder / "router.py").write_text("import sys\nsys.exit(0)\n")
    (folder / "experts.py").write_text("x = 1\n")
    verdicts, out = run(folder, "--exercise=all")
    assert verdicts["4.2"]["why"] == "rope.py:1 does not load: SyntaxError." and "was never closed" in out
    assert verdicts["3.1"]["why"] == "There is no file attention.py."
    assert verdicts["5.1"]["why"] == "router.py:2 does not load: SystemExit."
    assert verdicts["5.2"]["why"] == "experts.py does not load: AttributeError." and "has no attribute 'experts'" in out
    assert all(verdict["passed"] == 0 for verdict in verdicts.values()) and "no kv_cache.py" in out


def test_an_exercise_can_be_kept_behind_a_wall(tmp_path):
    """With --walled nothing runs where there is none."""
    submit(tmp_path / "student", Answer("4.2", "", RIGHT["4.2"]))
    command = [sys.executable, "-m", "pytest", f"--impl={tmp_path / 'student'}", "--exercise=4.2", "--walled"]
    ran = subprocess.run(command, cwd=ROOT, env={"PATH": str(tmp_path)}, capture_output=True, text=True)
    assert ran.returncode == 4 and "There is no wall: bubblewrap (bwrap) is not installed." in ran.stderr


def test_unknown_exercises_and_folders(tmp_path):
    for options, words in ((["--exercise=9.9"], f"There is no exercise 9.9; there are {', '.join(BY_ID)}, and all"),
                           ([f"--impl={tmp_path / 'none'}"], "`make student` writes student/"),
                           ([f"--impl={tmp_path}", "-n2"], "Leave out -n")):
        status, out = in_a_process(options)
        assert status == 4 and words in out


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
