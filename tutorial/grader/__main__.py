"""Grade submissions: offline, each in its own processes, on numbers that its author has not seen.

    python -m tutorial.grader SUBMISSIONS [--out DIR] [--seed N] [--seconds S] [--megabytes M] [--exercise ID]

SUBMISSIONS holds one folder for each student, with the student's rope.py, attention.py and so on. Everything that
grading needs is read before the first of them runs. For each, the tests are written again into a temporary folder and
run in a process that never loads the submission; the functions answer from further processes (see isolated.py). An
exercise gives its points if all its tests pass. DIR gets `grades.json` and for each student Gradescope's results file.
"""

import argparse
import json
import os
import secrets
import subprocess
import sys
import tempfile
from pathlib import Path

from tutorial.make_coursework import Exercise, carve, load_exercises
from tutorial.source import ROOT

KIT = ("conftest.py", "pyproject.toml", "tests/conftest.py", "tests/helpers/*.py", "tests/book/*.py",
       "tests/coursework/exercises/*.py", "tiny/*.py", "tiny/files/*.py", "tutorial/*.py", "tutorial/grader/*.py",
       "tutorial/exercises.toml")
LARGEST = 1 << 20  # bytes of one file of a submission


def read_kit(root: Path = ROOT) -> dict[str, bytes]:
    """The tests and what they need, by path."""
    return {path.relative_to(root).as_posix(): path.read_bytes() for pattern in KIT for path in root.glob(pattern)}


def read_tree(exercises: list[Exercise]) -> dict[str, bytes]:
    """The book with holes, for the processes that run submissions: `from tiny.rope import rope` finds no answer."""
    holes = carve(exercises)
    tree = {}
    for path in (ROOT / "tiny").glob("*.py"):
        text = "" if path.name == "__init__.py" else holes.get(path.name) or path.read_text(encoding="utf-8")
        tree[f"tiny/{path.name}"] = text.encode()
    return tree


def read_submissions(folder: Path, exercises: list[Exercise]) -> dict[str, dict[str, bytes]]:
    """The files of every submission that an exercise asks for; links are not followed."""
    names = {exercise.file for exercise in exercises}
    return {student.name: {path.name: path.read_bytes() for path in sorted(student.iterdir())
                           if path.name in names and path.is_file() and not path.is_symlink()
                           and path.stat().st_size <= LARGEST}
            for student in sorted(folder.iterdir()) if student.is_dir() and not student.name.startswith(".")}


def write_files(files: dict[str, bytes], folder: Path) -> Path:
    """Write files below a folder."""
    folder.mkdir(parents=True)
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def run_tests(files: dict[str, bytes], kit: dict[str, bytes], tree: dict[str, bytes], chosen: list[Exercise],
              args: argparse.Namespace) -> list[dict]:
    """Test one submission; return what the tests say of each exercise, or nothing if they did not come to an end."""
    with tempfile.TemporaryDirectory(prefix="tests-") as here, tempfile.TemporaryDirectory(prefix="work-") as there:
        report = Path(here) / "report.json"
        tests = write_files(kit, Path(here) / "kit")
        work = Path(there).resolve()
        submission, holes = write_files(files, work / "submission"), write_files(tree, work / "tree")
        command = [sys.executable, "-IBm", "pytest", "-p", "no:cacheprovider", f"--impl={submission}",
                   f"--isolate={holes}", f"--report={report}", f"--seed={args.seed}", f"--seconds={args.seconds}",
                   f"--megabytes={args.megabytes}", *(f"--exercise={exercise.id}" for exercise in chosen)]
        try:
            subprocess.run(command, cwd=tests, stdin=subprocess.DEVNULL, capture_output=True,
                           timeout=60 + len(chosen) * args.seconds, env=os.environ | {"OPENBLAS_NUM_THREADS": "1"})
            return json.loads(report.read_text(encoding="utf-8"))
        except (subprocess.TimeoutExpired, OSError, ValueError):
            return []


def mark(exercise: Exercise, verdict: dict | None) -> dict:
    """Points and an explanation for one exercise, from what its tests say."""
    if verdict is None:
        points, why = 0, "The tests did not come to an end on this submission."
    elif verdict["state"] == "missing":
        points, why = 0, f"There is no file {exercise.file}."
    elif verdict["state"] == "unfinished":
        points, why = 0, "Unfinished: the hole still raises its NotImplementedError."
    elif verdict["refused"]:
        points, why = 0, verdict["refused"]
    elif verdict["failed"] or not verdict["passed"]:
        points, why = 0, explanation(verdict)
    else:
        points, why = exercise.points, f"All {verdict['passed']} tests pass."
    found = verdict or {}
    return {"id": exercise.id, "title": exercise.title, "points": points, "of": exercise.points, "why": why,
            "idea": found.get("idea"), "holds": found.get("holds", []), "passed": found.get("passed", 0),
            "failed": found.get("failed", 0), "same_as_book": found.get("same_as_book", False)}


def explanation(verdict: dict) -> str:
    """What does not hold, and the numbers that show it."""
    total = verdict["passed"] + verdict["failed"]
    lead = f"Does not hold: {verdict['property']}. " if verdict["property"] else ""
    return f"{verdict['failed']} of {total} tests fail. {lead}{' '.join(verdict['numbers'].split())[:400]}"


def gradescope(marks: list[dict]) -> dict:
    """The same as Gradescope's results.json."""
    return {"score": sum(m["points"] for m in marks), "stdout_visibility": "hidden", "visibility": "visible",
            "tests": [{"number": m["id"], "name": m["title"], "score": m["points"], "max_score": m["of"],
                       "status": "passed" if m["points"] else "failed", "output": m["why"]} for m in marks]}


def grade(folder: Path, args: argparse.Namespace) -> dict:
    """Grade every submission of a folder."""
    exercises = load_exercises()
    chosen = [e for e in exercises if not args.exercise or e.id in args.exercise]
    kit, tree, submissions = read_kit(), read_tree(exercises), read_submissions(folder, chosen)
    grades = {}
    for student, files in submissions.items():
        verdicts = {verdict["id"]: verdict for verdict in run_tests(files, kit, tree, chosen, args)}
        marks = [mark(exercise, verdicts.get(exercise.id)) for exercise in chosen]
        grades[student] = {"points": sum(m["points"] for m in marks), "of": sum(m["of"] for m in marks),
                           "exercises": marks}
        print(f"{student}: {grades[student]['points']} of {grades[student]['of']}", flush=True)
        for m in marks:
            book = "; the same as the book's" if m["same_as_book"] else ""
            print(f"    {m['id']}  {m['points']}/{m['of']}  {m['why']}{book}", flush=True)
    return {"seed": args.seed, "submissions": grades}


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tutorial.grader", description="Grade submissions, offline.")
    parser.add_argument("submissions", type=Path, help="a folder that holds one folder for each student")
    parser.add_argument("--out", type=Path, help="where the results go (default: SUBMISSIONS-grades beside it)")
    parser.add_argument("--seed", type=int, help="of the tests' random numbers (default: a new one, which is recorded)")
    parser.add_argument("--seconds", type=float, default=20.0, help="of time for each exercise (default: 20)")
    parser.add_argument("--megabytes", type=int, default=1024, help="of memory for each exercise (default: 1024)")
    parser.add_argument("--exercise", action="append", metavar="ID", help="only this exercise (may be repeated)")
    args = parser.parse_args(argv)
    if not args.submissions.is_dir():
        parser.error(f"there is no folder {args.submissions}")
    args.seed = secrets.randbelow(2**31) if args.seed is None else args.seed
    out = args.out or args.submissions.resolve().with_name(args.submissions.resolve().name + "-grades")
    result = grade(args.submissions, args)
    out.mkdir(parents=True, exist_ok=True)
    (out / "grades.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    for student, graded in result["submissions"].items():
        text = json.dumps(gradescope(graded["exercises"]), indent=1) + "\n"
        (out / f"{student}.results.json").write_text(text, encoding="utf-8")
    print(f"Seed {args.seed}. Results are in {out}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
