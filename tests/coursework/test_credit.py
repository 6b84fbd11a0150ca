"""What points become: shares, late days, tables; one student graded again; and how alike two submissions are."""

import csv
import itertools
import json
from datetime import datetime

import pytest
from answers import ANSWERS, EXERCISES, RIGHT, Answer, submit

from tiny.config import TinyError
from tiny.tools.terminal import guarded
from tutorial.grader import __main__ as grade
from tutorial.grader import credit, likeness
from tutorial.grader.credit import Handed, Rules
from tutorial.grader.submissions import Submission, read_submissions
from tutorial.make_coursework import carve

DEADLINE = datetime.fromisoformat("2026-03-01T23:59")


def at(text, late_days=None):
    return Handed(datetime.fromisoformat(text), late_days)


# ---- points

def test_a_share_of_the_points_for_a_share_of_the_ideas():
    half = Rules(partial=True)
    shares = [credit.share(5, False, holds, 4, half) for holds in range(5)]
    assert shares == [0, 1, 2, 3, 4], "the rest of the tests counts as one idea"
    assert credit.share(5, False, 4, 9, half) == 2.0, "the example of TEACHERS.md"
    assert credit.share(5, True, 4, 4, half) == 5 and credit.share(3, False, 1, 6, half) == 0.4
    assert [credit.share(5, passed, 3, 4, credit.PLAIN) for passed in (True, False)] == [5, 0]


@pytest.mark.parametrize(("when", "days"), [
    ("2026-03-01T23:59", 0), ("2026-02-01T00:00", 0), ("2026-03-01T23:59:01", 1), ("2026-03-02T23:59", 1),
    ("2026-03-03T00:00", 2), ("2026-03-11T23:59", 10)])
def test_a_day_that_is_begun_counts(when, days):
    assert credit.days_late(datetime.fromisoformat(when), DEADLINE) == days


def test_days_after_the_free_ones_cost_points():
    rules = Rules(deadline=DEADLINE, late_days=2, penalty=25)
    three = credit.lateness(40, at("2026-03-04T12:00"), rules)
    assert three == {"points": 30, "before": 40, "days_late": 3, "late_days_used": 2}
    assert credit.lateness(40, at("2026-03-04T12:00", 0), rules)["points"] == 10, "a student's own late days"
    assert credit.lateness(40, at("2026-03-03T12:00"), rules)["points"] == 40
    assert credit.lateness(40, at("2027-03-03T12:00"), rules)["points"] == 0
    assert credit.lateness(40, None, rules)["points"] == 40 and credit.lateness(40, None, Rules()) == {"points": 40}


def test_zones_are_not_guessed():
    with pytest.raises(TinyError, match="one has a time zone"):
        credit.days_late(datetime.fromisoformat("2026-03-01T23:59+01:00"), DEADLINE)
    with pytest.raises(TinyError, match="no date and time: 'tomorrow'"):
        credit.read_moment("tomorrow", "--deadline")


@pytest.mark.parametrize(("text", "words"), [
    ("name,time\nanna,2026-03-01\n", "no columns student and submitted"), ("", "no columns"),
    ("student,submitted\nanna,noon\n", "line 2: submitted is no date"),
    ("student,submitted,late_days\nanna,2026-03-01,-1\n", "line 2: late_days is no whole number: '-1'")])
def test_a_file_of_times_says_what_is_wrong_with_it(text, words, tmp_path):
    (tmp_path / "times.csv").write_text(text)
    with pytest.raises(TinyError, match=words):
        credit.read_times(tmp_path / "times.csv")
    with pytest.raises(TinyError, match="cannot be read"):
        credit.read_times(tmp_path / "nothing.csv")


def test_the_table_computes_nothing_in_a_spreadsheet():
    marks = [{"id": "3.1", "points": 2.5}, {"id": "4.2", "points": 3}]
    text = credit.table({"=1+1": {"points": 5.5, "of": 8, "exercises": marks}})
    assert text == "student,points,of,days_late,late_days_used,3.1,4.2\n'=1+1,5.5,8,,,2.5,3\n"


# ---- a whole grading, with verdicts that are made up

@pytest.fixture
def graded(tmp_path, monkeypatch, capsys):
    """The command on two students: anna's 4.2 is right, bo's misses its last idea. What ran is counted."""
    for student in ("anna", "bo"):
        submit(tmp_path / "class" / student, Answer("4.2", "", RIGHT["4.2"] + f"\n# by {student}"))
    ran, ideas = [], EXERCISES["4.2"].ideas

    def run_tests(files, kit, chosen, args):
        right = b"# by bo" not in files["rope.py"]
        ran.append((right, args.seed))
        holds = [idea.name for idea in ideas][: None if right else -1]
        return [{"id": "4.2", "points": 3 * right, "of": 3, "why": "", "idea": None, "holds": holds, "passed": 1,
                 "total": 1, "said": "", "same_as_book": False}]
    monkeypatch.setattr(grade, "run_tests", run_tests)
    (tmp_path / "times.csv").write_text("student,submitted,late_days\nanna,2026-03-01T20:00,\nbo,2026-03-03T12:00,1\n")

    def command(*more, times=True):
        ran.clear()
        late = ["--deadline", "2026-03-01T23:59", "--times", str(tmp_path / "times.csv")] if times else []
        status = guarded(lambda: grade.main([str(tmp_path / "class"), "--exercise", "4.2", *late, *more]))
        out = tmp_path / "class-grades"
        read = json.loads((out / "grades.json").read_text()) if (out / "grades.json").exists() else None
        printed = capsys.readouterr()
        return status, read, printed.out + printed.err, list(ran), out
    return command


def test_grades_with_shares_and_late_days(graded):
    status, grades, printed, _, out = graded("--partial", "--penalty", "50")
    share = int(10 * 3 * 5 / 7) / 10
    assert status == 0 and grades["submissions"]["anna"]["points"] == 3
    bo = grades["submissions"]["bo"]
    assert (bo["before"], bo["points"], bo["days_late"], bo["late_days_used"]) == (share, round(share / 2, 2), 2, 1)
    assert "Late by 2 days, 1 of them free" in printed
    rows = {row["student"]: row for row in csv.DictReader((out / "grades.csv").open())}
    assert rows["bo"]["4.2"] == str(share) and rows["bo"]["points"] == str(bo["points"]) and rows["anna"]["of"] == "3"
    sent = json.loads((out / "bo.results.json").read_text())
    assert sent["score"] == bo["points"] and sent["tests"][0]["status"] == "failed" and "Late by" in sent["output"]


def test_a_deadline_needs_times(graded):
    status, *_, printed, _, _ = graded("--deadline", "2026-03-01", times=False)
    assert status == 2 and "says nothing without the times" in printed


def test_one_student_is_graded_again(graded):
    assert graded("--student", "bo")[0] == 2, "there is nothing yet to put it into"
    _, first, _, ran, _ = graded("--seed", "5")
    assert [seed for _, seed in ran] == [5, 5, 5], "the book, anna, bo"
    status, second, printed, ran, out = graded("--student", "bo")
    assert status == 0 and ran == [(True, 5), (False, 5)], "the book and bo, on the numbers of the others"
    assert second["submissions"] == first["submissions"] and second["finished"] and "to be fair" not in printed
    assert [row["student"] for row in csv.DictReader((out / "grades.csv").open())] == ["anna", "bo"]
    assert "to be fair" in graded("--student", "bo", "--partial")[2]
    status, _, printed, _, _ = graded("--student", "cy")
    assert status == 2 and "no submission of cy" in printed and "There are anna, bo" in printed


# ---- likeness

def written(id, lines):
    return Submission({EXERCISES[id].file: carve([EXERCISES[id]], {id: lines})[EXERCISES[id].file].encode()})


def judged():
    """Exercises that have several right answers, and of which likeness means something."""
    right = {}
    for answer in ANSWERS:
        exercise = EXERCISES[answer.exercise]
        if answer.is_right and not exercise.one_way and not exercise.is_kernel:
            right.setdefault(answer.exercise, {})[answer.name] = written(answer.exercise, answer.lines)
    return right


def test_right_answers_of_their_own_are_not_alike():
    for id, submissions in judged().items():
        pairs = likeness.pairs_alike(submissions, [EXERCISES[id]], 0.0)
        assert len(pairs) == len(list(itertools.combinations(submissions, 2))), id
        assert all(pair["likeness"] <= 0.4 for pair in pairs), pairs[:1]


def test_a_copy_with_other_names_is_found(tmp_path):
    """Names, comments, a line break and a print changed, one line swapped: found; and by the command, too."""
    lines = RIGHT["3.1"]
    own = {name for name in ("out", "seen", "scaled") if f"{name} = " in lines}
    assert own, "the answer has variables of its own"
    copy = "# All my own work.\n" + lines
    for n, name in enumerate(sorted(own)):
        copy = copy.replace(name, f"banana{n}")
    copy = copy.replace("np.float32(d**-0.5)", "np.float32(\n    d**-0.5)")
    submissions = {"anna": written("3.1", lines), "bo": written("3.1", copy), "cy": written("3.1", "return None")}
    (pair,) = likeness.pairs_alike(submissions, [EXERCISES["3.1"]])
    assert pair == {"exercise": "3.1", "students": ["anna", "bo"], "likeness": 1.0}
    changed = written("3.1", copy.replace("return ", 'print("done")\nreturn '))
    (pair,) = likeness.pairs_alike({"anna": submissions["anna"], "bo": changed}, [EXERCISES["3.1"]])
    assert likeness.LEAST <= pair["likeness"] < 1


def test_what_the_hole_gave_and_one_way_answers_are_not_alike(tmp_path):
    untouched = {name: written("3.1", 'raise NotImplementedError("mine")') for name in ("anna", "bo")}
    assert likeness.pairs_alike(untouched, [EXERCISES["3.1"]], 0.0) == []
    assert EXERCISES["5.1"].one_way
    assert likeness.pairs_alike(dict.fromkeys(("a", "b"), written("5.1", RIGHT["5.1"])), [EXERCISES["5.1"]], 0.0) == []
    broken = dict.fromkeys(("a", "b"), Submission({"attention.py": b"def attend(:\n"}))
    assert likeness.pairs_alike(broken, [EXERCISES["3.1"]], 0.0) == []


def test_helpers_that_a_student_wrote_count(tmp_path):
    """The whole work moved into a helper is as alike as before."""
    body = "\n".join(f"    {line}" for line in RIGHT["3.1"].splitlines())
    texts = [f"def work(q, keys, values, causal):\n{body}\n" for _ in range(2)]
    hole = carve([EXERCISES["3.1"]], {"3.1": "return work(q, keys, values, causal)"})["attention.py"]
    for student, text in zip(("anna", "bo"), texts):
        (tmp_path / student).mkdir()
        (tmp_path / student / "attention.py").write_text(hole + "\n\n" + text)
    found = likeness.pairs_alike(read_submissions(tmp_path, [EXERCISES["3.1"]]), [EXERCISES["3.1"]])
    assert [pair["likeness"] for pair in found] == [1.0]


def test_kernels_are_compared_without_names():
    one = "__global__ void k(float* x) { float sum = 0; for (int i = 0; i < 4; ++i) sum += x[i]; x[0] = sum; } // a"
    other = one.replace("sum", "total").replace("// a", "/* none */")
    assert likeness.kernel_tokens(one) == likeness.kernel_tokens(other) != likeness.kernel_tokens(other + "x")
    assert likeness.kernel_tokens(one).count("name") == 10, "x and sum three times, i four times"
