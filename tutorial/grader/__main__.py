"""Grade submissions: offline, each in a separate processes, on numbers that its author has not seen.

    python -m tutorial.grader SUBMISSIONS [--out DIR] [--seed N] [--seconds S] [--megabytes M] [--exercise ID]
                              [--partial] [--deadline TIME --times FILE] [--late-days N] [--penalty P]
    python -m tutorial.grader SUBMISSIONS --student NAME        grades one again, on the numbers of the others

SUBMISSIONS holds one folder for each student, with the student's rope.py, attention.py and so on. Everything that
grading needs is read before the first of them runs. For each, the tests are written afresh into a temporary folder and
run in a process that never loads the submission; the functions answer from further processes, behind a wall where the
system has one (see isolated.py and wall.py). An exercise gives its points if all its tests pass, or with --partial a
share. DIR gets `grades.json` and for each student Gradescope's results file, after each student: a grading that was
interrupted goes on where it was. In the end it gets `grades.csv`.
"""

import argparse
import hashlib
import json
import os
import secrets
import subprocess
import sys
import tempfile
from pathlib import Path

from tiny.config import TinyError
from tiny.system.whole import write_whole
from tiny.tools.terminal import Parser, check_numbers, one_line, program
from tutorial.grader.credit import PLAIN, Handed, Rules, lateness, read_moment, read_times, share, table
from tutorial.grader.likeness import pairs_alike
from tutorial.grader.submissions import Submission, read_submissions, same_text
from tutorial.grader.tree import write_files
from tutorial.grader.wall import Wall, find_wall
from tutorial.make_coursework import Exercise, load_exercises
from tutorial.source import ROOT

KIT = ("conftest.py", "pyproject.toml", "tests/conftest.py", "tests/helpers/*.py", "tests/mutants/*.py",
       "tests/coursework/exercises/*.py", "tests/golden/images/*",
       "tests/golden/tokenizers_tekken.json", "tests/golden/pixtral-a/mistral/tekken.json", "tiny/*.py",
       "tiny/files/*.py", "tiny/files/*.toml", "tiny/files/packed/*.py", "tiny/files/packed/*.toml",
       "tiny/files/streamed/*.py", "tiny/system/*.py",
       "tiny/tools/__init__.py", "tiny/tools/machine.py", "tiny/tools/releases.py", "tiny/tools/terminal/__init__.py",
       "tutorial/*.py", "tutorial/grader/*.py", "tutorial/exercises.toml", "tutorial/pack/__init__.py",
       "tutorial/pack/kept.py", "kernels/*.py", "kernels/*.cu*", "kernels/device/__init__.py", "kernels/device/gpus.py",
       "kernels/emulator/*")
PASSED_ON = ("PATH", "LANG", "LC_ALL", "LC_CTYPE", "TMPDIR", "LD_LIBRARY_PATH")  # of the environment, to the tests
CACHE = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")  # the emulator's own parts, compiled once
NO_TIME = "When this was handed in is not known: it counts as in time."
NO_REPORT = "The tests did not come to an end on this submission."


def read_kit(root: Path = ROOT) -> dict[str, bytes]:
    """The tests of exercises and what they need, by path. A file with an exercise may lie deeper than the book."""
    named = {path for exercise in load_exercises()
             for path in (exercise.path, *(f"{folder}/__init__.py" for folder in Path(exercise.path).parents),
                          *(test.partition("::")[0] for test in exercise.tests))}
    return {path.relative_to(root).as_posix(): path.read_bytes()
            for pattern in (*KIT, *sorted(named)) for path in root.glob(pattern) if path.is_file()}


def run_tests(files: dict[str, bytes], kit: dict[str, bytes], chosen: list[Exercise],
              args: argparse.Namespace) -> list[dict]:
    """Test one submission as its author would; return the verdicts, or nothing if the tests did not come to an end.

    The report goes to a file without a name, which no process of a submission has, and counts if pytest ended well.
    """
    with (tempfile.TemporaryDirectory(prefix="tests-") as here, tempfile.TemporaryDirectory(prefix="work-") as there,
          tempfile.TemporaryFile() as report, tempfile.TemporaryFile() as printed):
        tests, submission = write_files(kit, Path(here) / "kit"), write_files(files, Path(there).resolve() / "given")
        command = [sys.executable, "-IBm", "pytest", "-p", "no:cacheprovider", f"--impl={submission}",
                   f"--report=/dev/fd/{report.fileno()}", f"--seed={args.seed}", f"--seconds={args.seconds}",
                   f"--megabytes={args.megabytes}", *(f"--exercise={exercise.id}" for exercise in chosen),
                   *["--walled"] * (find_wall().program is not None)]  # What was said holds for each of them.
        passed_on = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        try:
            ran = subprocess.run(command, cwd=tests, stdin=subprocess.DEVNULL, stdout=printed, stderr=printed,
                                 pass_fds=[report.fileno()], timeout=60 + len(chosen) * args.seconds,
                                 env=passed_on | {"HOME": here, "OPENBLAS_NUM_THREADS": "1", "XDG_CACHE_HOME": CACHE})
            report.seek(0)
            return json.loads(report.read()) if ran.returncode in (0, 1) else []
        except (subprocess.TimeoutExpired, ValueError):
            return []


def check_tests(kit: dict[str, bytes], chosen: list[Exercise], args: argparse.Namespace) -> None:
    """The book's own functions must get all points, on these numbers and this machine, before anybody else is graded.

    Raises:  TinyError if they do not
    """
    verdicts = run_tests({exercise.file: kit[exercise.path] for exercise in chosen}, kit, chosen, args)
    lost = [v for v in verdicts if v["points"] < v["of"] and v["id"] in {exercise.id for exercise in chosen}]
    if not verdicts or lost:
        found = f"exercise {lost[0]['id']}: {lost[0]['why']}" if lost else NO_REPORT
        raise TinyError(f"The book's own functions do not pass the tests here, so nobody is graded ({found})",
                        "Run `make test`. On a machine under load, --seconds gives the tests more time.")


def mark(exercise: Exercise, verdict: dict | None, alike: list[str], rules: Rules = PLAIN) -> dict:
    """Points and an explanation for one exercise, from what its tests say."""
    found = verdict or {"points": 0, "why": NO_REPORT, "idea": None, "holds": [], "passed": 0, "total": 0, "said": "",
                        "same_as_book": False}
    points = share(exercise.points, found["points"] > 0, len(found["holds"]), len(exercise.ideas), rules)
    return {"id": exercise.id, "title": exercise.title, "points": points, "of": exercise.points,
            "why": found["why"], "idea": found["idea"], "holds": found["holds"], "passed": found["passed"],
            "tests": found["total"], "said": found["said"], "same_as_book": found["same_as_book"],
            "same_text_as": alike}


def gradescope(graded: dict) -> dict:
    """The same as Gradescope's results.json. What a submission said in its own words is not in it."""
    late = {"output": told_late(graded)} if graded.get("days_late") else {}
    return {"score": graded["points"], "stdout_visibility": "hidden", "visibility": "visible", **late,
            "tests": [{"number": m["id"], "name": m["title"], "score": m["points"], "max_score": m["of"],
                       "status": "passed" if m["points"] == m["of"] else "failed", "output": m["why"]}
                      for m in graded["exercises"]]}


def told_late(graded: dict) -> str:
    """What a submission after the deadline cost."""
    return (f"Late by {graded['days_late']} days, {graded['late_days_used']} of them free: "
            f"{graded['points']:g} of {graded['before']:g} points are left.")


def grade_one(submission: Submission, kit: dict[str, bytes], chosen: list[Exercise], alike: dict[str, list[str]],
              args: argparse.Namespace, rules: Rules = PLAIN, handed: Handed | None = None) -> dict:
    """The grades of one student."""
    verdicts = {verdict["id"]: verdict for verdict in run_tests(submission.files, kit, chosen, args)}
    marks = [mark(exercise, verdicts.get(exercise.id), alike.get(exercise.id, []), rules) for exercise in chosen]
    timed = lateness(round(sum(m["points"] for m in marks), 1), handed, rules)
    notes = [*submission.notes, *([NO_TIME] if rules.deadline and not handed else [])]
    return timed | {"of": sum(m["of"] for m in marks), "notes": notes, "submitted": submission.digest(),
                    "exercises": marks}


def tell(student: str, graded: dict) -> None:
    """Print the grades of one student."""
    print(one_line(f"{student}: {graded['points']:g} of {graded['of']}"), flush=True)
    if graded.get("days_late"):
        print(one_line(f"    {told_late(graded)}"), flush=True)
    for note in graded["notes"]:
        print(one_line(f"    {note}"), flush=True)
    for m in graded["exercises"]:
        book = "; the same as the book's" if m["same_as_book"] else ""
        others = f"; the same text as {', '.join(m['same_text_as'])}" if m["same_text_as"] else ""
        print(one_line(f"    {m['id']}  {m['points']:g}/{m['of']}  {m['why']}{book}{others}"), flush=True)


def write_json(path: Path, value: dict) -> None:
    """Write a JSON file so that under its name there is always a whole one."""
    write_whole(path, json.dumps(value, indent=1) + "\n")


def begun(out: Path, fingerprint: str, seed: int | None) -> tuple[int | None, dict[str, dict]]:
    """Seed and grades of a grading that was interrupted, if it was of the same tests and limits; else nothing."""
    try:
        old = json.loads((out / "grades.json").read_text(encoding="utf-8"))
        same = not old["finished"] and old["tests"] == fingerprint and seed in (None, old["seed"])
        return (old["seed"], old["submissions"]) if same else (None, {})
    except (OSError, ValueError, KeyError, TypeError):
        return None, {}


def choose(args: argparse.Namespace) -> list[Exercise]:
    """The exercises to grade."""
    exercises = load_exercises()
    unknown = set(args.exercise or ()) - {e.id for e in exercises}
    if unknown:
        raise TinyError(f"There is no exercise {', '.join(sorted(unknown))}.",
                        f"Choose from {', '.join(e.id for e in exercises)}.")
    return [e for e in exercises if not args.exercise or e.id in args.exercise]


def old_grades(out: Path, students: list[str], submissions: dict[str, Submission]) -> dict:
    """The grades among which some students are graded again.

    Raises:  TinyError if there are none, or one of the students handed in nothing
    """
    missing = [student for student in students if student not in submissions]
    if missing:
        raise TinyError(f"There is no submission of {', '.join(missing)}.", f"There are {', '.join(submissions)}.")
    try:
        old = json.loads((out / "grades.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        old = {}
    if not old.get("finished"):
        raise TinyError(f"There is no finished grading in {out}.", "Grade all of them first.")
    return old


def grade(args: argparse.Namespace, out: Path) -> None:
    """Grade every submission of a folder, or some of them again, and write the results after each."""
    chosen = choose(args)
    rules = Rules(args.partial, args.deadline, args.late_days, args.penalty)
    times = read_times(args.times) if args.times else {}
    kit, submissions = read_kit(), read_submissions(args.submissions, chosen)
    settings = [kit[name] for name in sorted(kit)]
    settings.append(repr((args.seconds, args.megabytes, args.exercise, rules, times)).encode())
    fingerprint = hashlib.sha256(b"\0".join(settings)).hexdigest()
    again = old_grades(out, args.student, submissions) if args.student else {}
    seed, done = (again["seed"], again["submissions"]) if again else begun(out, fingerprint, args.seed)
    args.seed = next((n for n in (args.seed if again else None, seed, args.seed) if n is not None),
                     secrets.randbelow(2**31))
    alike = {exercise.id: same_text(submissions, exercise) for exercise in chosen}
    wall = find_wall()
    print(about(wall), flush=True)
    if again and (again["tests"], again["seed"]) != (fingerprint, args.seed):
        print("The others were graded with other tests, rules or numbers than these: grade all again to be fair.")
    if wall.program is None and any(exercise.is_kernel for exercise in chosen):
        print("Kernels are compiled, and nothing but a wall holds them: their exercises are not graded here.")
        chosen = [exercise for exercise in chosen if not exercise.is_kernel]
    check_tests(kit, chosen, args)
    likeness = pairs_alike(submissions, chosen)
    record = {"seed": args.seed, "wall": wall.program is not None, "tests": fingerprint, "finished": False,
              "alike": likeness, "submissions": dict(done) if again else {}}
    for n, (student, submission) in enumerate(submissions.items(), 1):
        if args.student and student not in args.student:
            continue
        graded = None if args.student else done.get(student)
        if graded is None or graded["submitted"] != submission.digest():
            graded = grade_one(submission, kit, chosen, {e.id: alike[e.id].get(student, []) for e in chosen}, args,
                               rules, times.get(student))
        record["submissions"][student] = graded
        tell(student, graded)
        write_json(out / f"{student}.results.json", gradescope(graded))
        rest = {name: old for name, old in done.items() if name in submissions}
        write_json(out / "grades.json", record | {"finished": bool(again), "submissions": rest | record["submissions"]})
        args.done = n
    write_json(out / "grades.json", record | {"finished": True})
    write_whole(out / "grades.csv", table(record["submissions"]))
    for pair in likeness:
        print(one_line(f"Alike in {pair['exercise']} ({pair['likeness']:.2f}): {' and '.join(pair['students'])}"))
    print(f"Seed {args.seed}. Results are in {out}.")


def about(wall: Wall) -> str:
    """One line on what stands between a submission and this machine."""
    if wall.program is not None:
        return "Each submission runs behind a wall of the system (bubblewrap), with the guard as second layer."
    return f"There is no wall around submissions: {wall.reason}. Only the guard inside Python stands; see TEACHERS.md."


def read_arguments(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = Parser(prog="python -m tutorial.grader", description="Grade submissions, offline.")
    parser.add_argument("submissions", type=Path, help="a folder that holds one folder for each student")
    parser.add_argument("--out", type=Path, help="where the results go (default: SUBMISSIONS-grades beside it)")
    parser.add_argument("--seed", type=int, help="of the tests' random numbers (default: a new one, which is recorded)")
    parser.add_argument("--seconds", type=float, default=20.0, help="of time for each exercise (default: 20)")
    parser.add_argument("--megabytes", type=int, default=1024, help="of memory for each exercise (default: 1024)")
    parser.add_argument("--exercise", action="append", metavar="ID", help="only this exercise (may be repeated)")
    parser.add_argument("--student", action="append", metavar="NAME", help="grade this one again (may be repeated)")
    parser.add_argument("--partial", action="store_true", help="part of the points for part of the ideas")
    parser.add_argument("--deadline", metavar="TIME", help="2026-03-01T23:59, with a zone or without")
    parser.add_argument("--times", type=Path, metavar="FILE", help="CSV with columns student,submitted,late_days")
    parser.add_argument("--late-days", type=int, default=0, help="free days after the deadline (default: 0)")
    parser.add_argument("--penalty", type=float, default=10.0, help="per cent for each later day (default: 10)")
    args = parser.parse_args(argv)
    check_numbers(args, {"seed": (0, 2**63), "seconds": (0.01, 1e6), "megabytes": (1, 2**20), "late_days": (0, 1e4),
                         "penalty": (0, 100)})
    if args.deadline:
        args.deadline = read_moment(args.deadline, "--deadline")
        if not args.times:
            raise TinyError("A deadline says nothing without the times at which students handed in.",
                            "Give a file of them with --times.")
    return args


def main(argv: list[str] | None = None) -> int:
    """Grade; return the exit status."""
    args = read_arguments(argv)
    args.done = 0
    out = args.out or args.submissions.resolve().with_name(args.submissions.resolve().name + "-grades")
    if not args.submissions.is_dir():
        raise TinyError(f"There is no folder {args.submissions}.", "Name the folder with the students' folders.")
    try:
        out.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=out).close()
    except OSError as error:
        raise TinyError(f"The results cannot be written to {out}: {error.strerror}.",
                        "Choose another folder with --out.") from error
    try:
        grade(args, out)
    except KeyboardInterrupt:
        print(f"error: Interrupted. {args.done} students are graded, and their results are in {out}.\n"
              "remedy: Give the same command again, and it goes on with the others.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    program(main)
