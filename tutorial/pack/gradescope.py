"""Grade one submission as Gradescope asks for it: `python -m tutorial.pack.gradescope TOP`, in the container.

TOP is /autograder there. It holds `submission/` and `submission_metadata.json`, and gets `results/results.json`, in the
form of https://gradescope-autograders.readthedocs.io. The grader is that of `make grade`, with new numbers each time.
"""

import json
import secrets
from dataclasses import asdict
from pathlib import Path

from tiny.config import TinyError
from tiny.tools.terminal import Parser, program
from tutorial.grader import __main__ as grader
from tutorial.grader.credit import Handed, Rules, read_moment
from tutorial.grader.submissions import read_submission
from tutorial.grader.wall import find_wall
from tutorial.make_coursework import load_exercises
from tutorial.source import ROOT

RULES = "tutorial/pack/rules.json"  # how a teacher counts, in the container
WITH = ("requirements.txt", "tutorial/pack/*.py", "tutorial/pages/__init__.py", "tiny/**/*.py", "tiny/**/*.toml",
        "tutorial/grader/*.py")
NOT_HERE = "Kernels are compiled, and a container without a wall holds their results too: they are not graded here."


def container_files(rules: Rules, root: Path = ROOT) -> dict[str, bytes]:
    """The files of the container by path: the grader, the book, and the two programs that Gradescope starts."""
    files = grader.read_kit(root)
    files |= {path.relative_to(root).as_posix(): path.read_bytes() for pattern in WITH for path in root.glob(pattern)}
    programs = {path.name: path.read_bytes() for path in (root / "tutorial/pack/container").iterdir()}
    plain = {name: value for name, value in asdict(rules).items() if name != "deadline"}  # Gradescope has it
    return files | programs | {RULES: json.dumps(plain).encode()}


def times(top: Path) -> tuple[dict, Handed | None]:
    """When the submission came and when it was due, as Gradescope says; nothing where it says nothing."""
    try:
        said = json.loads((top / "submission_metadata.json").read_text(encoding="utf-8"))
        due, came = said["assignment"]["due_date"], said["created_at"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}, None
    if not due or not came:
        return {}, None
    return {"deadline": read_moment(due, "due_date")}, Handed(read_moment(came, "created_at"))


def results(top: Path, argv: list[str]) -> dict:
    """The results of the submission in this folder."""
    args = grader.read_arguments([str(top / "submission"), *argv])
    args.seed = secrets.randbelow(2**31) if args.seed is None else args.seed
    exercises = grader.choose(args)
    walled = find_wall().program is not None
    chosen = [exercise for exercise in exercises if walled or not exercise.is_kernel]
    kit = grader.read_kit()
    submission = read_submission(top / "submission", {exercise.file for exercise in load_exercises()})
    grader.check_tests(kit, chosen, args)
    due, handed = times(top)
    stored = ROOT / RULES
    rules = Rules(**json.loads(stored.read_text(encoding="utf-8")) | due) if stored.is_file() else Rules(**due)
    found = grader.gradescope(grader.grade_one(submission, kit, chosen, {}, args, rules, handed))
    notes = [found.get("output", ""), *submission.notes, *([NOT_HERE] if len(chosen) < len(exercises) else [])]
    return found | {"output": "\n".join(filter(None, notes))}


def main(argv: list[str] | None = None) -> int:
    """Grade the submission; what goes wrong on our side is said there too, and gives no points."""
    parser = Parser(prog="python -m tutorial.pack.gradescope", description="Grade one submission for Gradescope.")
    parser.add_argument("top", type=Path, help="the folder that is /autograder in the container")
    args, rest = parser.parse_known_args(argv)
    out = args.top / "results/results.json"
    out.parent.mkdir(exist_ok=True)
    try:
        found = results(args.top, rest)
    except TinyError as error:
        said = f"Not graded, and not by your fault: {error}"
        found = {"score": 0, "visibility": "visible", "output": said, "tests": []}
    grader.write_json(out, found)
    return 0


if __name__ == "__main__":
    program(main)
