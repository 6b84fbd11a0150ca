"""Try one exercise: what holds, the first idea that does not, and a picture of your own run beside the right one.

    python -m tutorial.attempt 5.2                 the functions in student/
    python -m tutorial.attempt 5.2 --impl DIR      those in another folder

It takes seconds, and says what the grader says. The picture is written also when all is right.
"""

import faulthandler
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tiny.config import TinyError
from tiny.system.whole import write_whole
from tiny.tools.terminal import Parser, check_numbers, program
from tutorial import own_run
from tutorial.binding import load
from tutorial.grader.emulated import Emulated, Reported, run
from tutorial.grader.isolated import Isolated, Limits
from tutorial.grader.wall import find_wall
from tutorial.make_coursework import STUDENT, Exercise, is_finished, load_exercises, reference
from tutorial.source import ROOT

# pytest's last line, as "1 failed, 1 passed in 0.31s"; a hint may end in " in memory." and stays.
SUMMARY = re.compile(r"\d+ [a-z]+(?:, \d+ [a-z]+)* in [0-9.]+s(?: \([0-9:]+\))?")
ENDLESS = 3.0  # seconds after which the drawn case, which takes a moment, is stopped and says its line
ENDED = "The tests did not come to an end. What they said is above."


def verdict_of(exercise: Exercise, folder: Path, hints: int, seed: int | None) -> dict:
    """Run the tests of one exercise as its author and the grader do; print what they say; return the verdict."""
    with tempfile.TemporaryDirectory(prefix="try-") as scratch:
        report = Path(scratch) / "report.json"
        command = [sys.executable, "-m", "pytest", "-q", f"--impl={folder}", f"--exercise={exercise.id}",
                   f"--hints={hints}", f"--report={report}", *([] if seed is None else [f"--seed={seed}"])]
        ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        verdicts = json.loads(report.read_text(encoding="utf-8")) if report.exists() else []
    lines = ran.stdout.splitlines()
    heads = [n for n, line in enumerate(lines) if line.strip("= ") == "exercises"]
    if not heads or not verdicts:
        print(ran.stdout + ran.stderr)
        raise TinyError(ENDED, "Read its last lines; `make student` writes the files of the exercises.")
    verdict = next(one for one in verdicts if one["id"] == exercise.id)
    names = [idea.name for idea in exercise.ideas]
    for name in names:
        mark = "holds" if name in verdict["holds"] else "FAILS" if name == verdict["idea"] else "not tried"
        print(f"  {mark:9}  {next(idea.property for idea in exercise.ideas if idea.name == name)}")
    if verdict["total"] > len(names):
        print(f"  Each idea has a test; {verdict['total'] - len(names)} more are those of the book's own function.")
    told = lines[heads[-1] + 1 :]
    print("\n".join(line for line in told if not line.startswith("=") and not SUMMARY.fullmatch(line)))
    return verdict


def hints_of(exercise: Exercise, verdict: dict) -> list[str]:
    """All hints for the idea that fails, or those of the exercise."""
    idea = next((idea for idea in exercise.ideas if idea.name == verdict["idea"]), None)
    return idea.hints_for(verdict["numbers"]) if idea else exercise.hints


def command_of(exercise: Exercise, folder: Path) -> str:
    """The command that gives one hint more."""
    return f"make try EX={exercise.id} HINTS=2" if folder == STUDENT else (
        f"{sys.executable} -m tutorial.attempt {exercise.id} --impl {folder} --hints 2")


def run_of(exercise: Exercise, folder: Path, scratch: Path) -> own_run.Table | str:
    """The student's run of the case that is drawn, in a process of its own; or why there is none."""
    file = folder / exercise.file
    try:
        if not file.is_file() or not is_finished(exercise, file.read_bytes()):
            return "not written yet"
    except (SyntaxError, ValueError):
        return f"{exercise.file} does not load"
    one = Emulated(exercise, folder) if exercise.is_kernel else Isolated(
        exercise, reference(exercise), folder, scratch, Limits(), find_wall())
    try:
        return own_run.RUNS[exercise.id](run if isinstance(one, Emulated) else one.call)
    except Exception as error:  # Whatever a student's function does is said and not raised.
        stop = getattr(error, "stop", None)
        return " ".join(str(stop or error).split())[:160]
    finally:
        one.stop()


def is_endless(found: str) -> bool:
    """Whether the tests waited in vain."""
    return "seconds" in found or "endless loop" in found


def where_endless(exercise: Exercise, folder: Path) -> str:
    """The line that the drawn case is at when it should long be over, as "rope.py:12"; nothing if it ends.

    Python says the line itself, in a process of its own.
    """
    command = [sys.executable, "-c", "import sys; from tutorial.attempt import run_here; run_here(*sys.argv[1:])",
               exercise.id, str(folder), str(ENDLESS)]
    file = folder / exercise.file
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, stdin=subprocess.DEVNULL).stderr
    lines = re.findall(rf'File "{re.escape(str(file))}", line (\d+)', said) if "Timeout" in said else []
    return f"{file.name}:{lines[0]}" if lines else ""


def run_here(id: str, folder: str, seconds: str) -> None:
    """The drawn case with a student's function, in this process, which ends after some seconds and says where it is."""
    exercise = next(one for one in load_exercises() if one.id == id)
    faulthandler.dump_traceback_later(float(seconds), exit=True)
    own_run.RUNS[id](load(exercise, Path(folder) / exercise.file))


def picture(exercise: Exercise, folder: Path, found: str = "") -> Path | None:
    """Draw the student's own run beside the right one, into the folder `pictures` of theirs.

    What the tests have waited for in vain is not waited for once more: `found` is what they said. Without a compiler
    there is no picture of a kernel.
    """
    if exercise.id not in own_run.RUNS:
        return None
    case: Callable = own_run.RUNS[exercise.id]
    with tempfile.TemporaryDirectory(prefix="try-") as scratch, np.errstate(all="ignore"):
        try:
            right = case(run if exercise.is_kernel else reference(exercise))
        except Reported:
            return None
        mine = found[:160] if is_endless(found) else run_of(exercise, folder, Path(scratch).resolve())
        figure = own_run.draw(mine, right)
    path = folder / "pictures" / f"{exercise.id}.png"
    path.parent.mkdir(exist_ok=True)
    write_whole(path, lambda file: figure.savefig(file, format="png", dpi=110))
    return path


def shown(path: Path) -> str:
    """A path as a student would type it here."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def main(argv: list[str] | None = None) -> int:
    """Try an exercise; return 0 if it is right."""
    parser = Parser(prog="python -m tutorial.attempt", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("exercise", help="its number: 5.2")
    parser.add_argument("--impl", type=Path, default=STUDENT, metavar="DIR", help="the folder (default: student/)")
    parser.add_argument("--hints", type=int, default=1, metavar="0|1|2", help="how many hints a failure gives")
    parser.add_argument("--seed", type=int, help="other random numbers")
    args = parser.parse_args(argv)
    check_numbers(args, {"seed": (0, 2**63)})
    if args.hints not in (0, 1, 2):
        raise TinyError(f"HINTS={args.hints}: there are two hints at most.", "HINTS is 0, 1 or 2.")
    known = {exercise.id: exercise for exercise in load_exercises()}
    if args.exercise not in known:
        raise TinyError(f"There is no exercise {args.exercise}.", f"There are {', '.join(known)}.")
    if not args.impl.is_dir():
        raise TinyError(f"There is no folder {args.impl}.", "`make student` writes student/; or name yours by --impl.")
    exercise, folder = known[args.exercise], args.impl.resolve()
    verdict = verdict_of(exercise, folder, args.hints, args.seed)
    if 0 < len(verdict["hints"]) < len(hints_of(exercise, verdict)):
        print(f"One hint more: {command_of(exercise, args.impl)}")
    found = verdict["refused"] or verdict["numbers"]
    if is_endless(found) and not exercise.is_kernel and exercise.id in own_run.RUNS:
        place = where_endless(exercise, folder)
        print(f"After {ENDLESS:g} seconds of the run that is drawn, it was at {place}." if place else
              "The run that is drawn comes to its end: the loop depends on the numbers.")
    file = picture(exercise, folder, found)
    if file:
        print(f"Your own run, beside the right one: {shown(file)}")
    return 0 if verdict["points"] else 1


if __name__ == "__main__":
    program(main)
