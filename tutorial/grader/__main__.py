"""Grade submissions: offline, each in a separate processes, on numbers that its author has not seen.

    python -m tutorial.grader SUBMISSIONS [--out DIR] [--seed N] [--seconds S] [--megabytes M] [--exercise ID]

SUBMISSIONS holds one folder for each student, with the student's rope.py, attention.py and so on. Everything that
grading needs is read before the first of them runs. For each, the tests are written afresh into a temporary folder and
run in a process that never loads the submission; the functions answer from further processes, behind a wall where the
system has one (see isolated.py and wall.py). An exercise gives its points if all its tests pass. DIR gets
`grades.json` and for each student Gradescope's results file, after each student: a grading that was interrupted goes
on where it was.
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
from tiny.tools.terminal import Parser, one_line, program
from tutorial.grader.submissions import Submission, read_submissions, same_text
from tutorial.grader.tree import write_files
from tutorial.grader.wall import Wall, find_wall
from tutorial.make_coursework import Exercise, load_exercises
from tutorial.source import ROOT

KIT = ("conftest.py", "pyproject.toml", "tests/conftest.py", "tests/helpers/*.py", "tests/mutants/*.py",
       "tests/book/*.py", "tests/coursework/exercises/*.py", "tests/golden/images/*",
       "tests/golden/tokenizers_tekken.json", "tests/golden/pixtral-a/mistral/tekken.json", "tiny/*.py",
       "tiny/files/*.py", "tiny/files/*.toml", "tiny/system/*.py", "tiny/tools/__init__.py", "tiny/tools/machine.py",
       "tiny/tools/terminal.py", "tutorial/*.py", "tutorial/grader/*.py", "tutorial/exercises.toml", "kernels/*.py",
       "kernels/*.cu*", "kernels/emulator/*")
PASSED_ON = ("PATH", "LANG", "LC_ALL", "LC_CTYPE", "TMPDIR", "LD_LIBRARY_PATH")  # of the environment, to the tests
CACHE = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")  # the emulator's own parts, compiled once
NO_REPORT = "The tests did not come to an end on this submission."


def read_kit(root: Path = ROOT) -> dict[str, bytes]:
    """The tests and what they need, by path. A module with an exercise may lie deeper than the book."""
    modules = {path for exercise in load_exercises() if not exercise.is_kernel
               for path in (exercise.path, *(f"{folder}/__init__.py" for folder in Path(exercise.path).parents))}
    return {path.relative_to(root).as_posix(): path.read_bytes()
            for pattern in (*KIT, *sorted(modules)) for path in root.glob(pattern)}


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


def mark(exercise: Exercise, verdict: dict | None, alike: list[str]) -> dict:
    """Points and an explanation for one exercise, from what its tests say."""
    found = verdict or {"points": 0, "why": NO_REPORT, "idea": None, "holds": [], "passed": 0, "total": 0, "said": "",
                        "same_as_book": False}
    return {"id": exercise.id, "title": exercise.title, "points": found["points"], "of": exercise.points,
            "why": found["why"], "idea": found["idea"], "holds": found["holds"], "passed": found["passed"],
            "tests": found["total"], "said": found["said"], "same_as_book": found["same_as_book"],
            "same_text_as": alike}


def gradescope(marks: list[dict]) -> dict:
    """The same as Gradescope's results.json. What a submission said in its own words is not in it."""
    return {"score": sum(m["points"] for m in marks), "stdout_visibility": "hidden", "visibility": "visible",
            "tests": [{"number": m["id"], "name": m["title"], "score": m["points"], "max_score": m["of"],
                       "status": "passed" if m["points"] else "failed", "output": m["why"]} for m in marks]}


def grade_one(submission: Submission, kit: dict[str, bytes], chosen: list[Exercise], alike: dict[str, list[str]],
              args: argparse.Namespace) -> dict:
    """The grades of one student."""
    verdicts = {verdict["id"]: verdict for verdict in run_tests(submission.files, kit, chosen, args)}
    marks = [mark(exercise, verdicts.get(exercise.id), alike[exercise.id]) for exercise in chosen]
    return {"points": sum(m["points"] for m in marks), "of": sum(m["of"] for m in marks), "notes": submission.notes,
            "submitted": submission.digest(), "exercises": marks}


def tell(student: str, graded: dict) -> None:
    """Print the grades of one student."""
    print(one_line(f"{student}: {graded['points']} of {graded['of']}"), flush=True)
    for note in graded["notes"]:
        print(one_line(f"    {note}"), flush=True)
    for m in graded["exercises"]:
        book = "; the same as the book's" if m["same_as_book"] else ""
        others = f"; the same text as {', '.join(m['same_text_as'])}" if m["same_text_as"] else ""
        print(one_line(f"    {m['id']}  {m['points']}/{m['of']}  {m['why']}{book}{others}"), flush=True)


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


def grade(args: argparse.Namespace, out: Path) -> None:
    """Grade every submission of a folder and write the results after each."""
    exercises = load_exercises()
    unknown = set(args.exercise or ()) - {e.id for e in exercises}
    if unknown:
        raise TinyError(f"There is no exercise {', '.join(sorted(unknown))}.",
                        f"Choose from {', '.join(e.id for e in exercises)}.")
    chosen = [e for e in exercises if not args.exercise or e.id in args.exercise]
    kit, submissions = read_kit(), read_submissions(args.submissions, chosen)
    settings = [kit[name] for name in sorted(kit)] + [repr((args.seconds, args.megabytes, args.exercise)).encode()]
    fingerprint = hashlib.sha256(b"\0".join(settings)).hexdigest()
    seed, done = begun(out, fingerprint, args.seed)
    args.seed = next((n for n in (seed, args.seed) if n is not None), secrets.randbelow(2**31))
    alike = {exercise.id: same_text(submissions, exercise) for exercise in chosen}
    wall = find_wall()
    print(about(wall), flush=True)
    if wall.program is None and any(exercise.is_kernel for exercise in chosen):
        print("Kernels are compiled, and nothing but a wall holds them: their exercises are not graded here.")
        chosen = [exercise for exercise in chosen if not exercise.is_kernel]
    check_tests(kit, chosen, args)
    record = {"seed": args.seed, "wall": wall.program is not None, "tests": fingerprint, "finished": False,
              "submissions": {}}
    for n, (student, submission) in enumerate(submissions.items(), 1):
        graded = done.get(student)
        if graded is None or graded["submitted"] != submission.digest():
            graded = grade_one(submission, kit, chosen,
                               {e.id: alike[e.id].get(student, []) for e in chosen}, args)
        record["submissions"][student] = graded
        tell(student, graded)
        write_json(out / f"{student}.results.json", gradescope(graded["exercises"]))
        rest = {name: old for name, old in done.items() if name in submissions}
        write_json(out / "grades.json", record | {"submissions": rest | record["submissions"]})
        args.done = n
    write_json(out / "grades.json", record | {"finished": True})
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
    return parser.parse_args(argv)


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
