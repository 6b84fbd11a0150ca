"""The table of the syllabus: weeks with their chapters, exercises, points and minutes, from the sources of each.

    python -m tutorial.pages.syllabus            write it
    python -m tutorial.pages.syllabus --check    exit with 1 if it is not up to date
"""

import re

from tiny.tools.markdown import fill, refresh, table
from tiny.tools.terminal import Parser, program
from tutorial.make_coursework import load_exercises
from tutorial.pages.chapters import FOLDER, chapters

PAGE = FOLDER / "syllabus.md"
TEACHERS = FOLDER / "TEACHERS.md"  # where the minutes of each exercise are
COMMAND = "python -m tutorial.pages.syllabus"
WEEKS = ((0, 1, 2), (3, 4), (5, 6), (7, 8), (9, 10), (11, 12))
CHAPTER_MINUTES, QUIZ_MINUTES = 10, 5  # of each chapter: to read it, to answer its questions


def minutes() -> dict[str, int]:
    """The minutes of each exercise, from the teachers' table."""
    rows = re.findall(r"^\| (\d+\.\d+) .*\| (\d+) min \|", TEACHERS.read_text(encoding="utf-8"), re.M)
    return {id: int(number) for id, number in rows}


def weeks_block() -> str:
    """A row for each week, and one for all."""
    pages = {int(path.name[:2]): path.name for path in chapters()}
    known, rows, sums = minutes(), [], [0, 0]
    for week, numbers in enumerate(WEEKS, 1):
        here = [exercise for exercise in load_exercises() if int(exercise.id.partition(".")[0]) in numbers]
        points = sum(exercise.points for exercise in here)
        time = (sum(known.get(exercise.id, 0) for exercise in here)
                + sum(CHAPTER_MINUTES + QUIZ_MINUTES * (number > 0) for number in numbers if number in pages))
        sums = [sums[0] + points, sums[1] + time]
        links = ", ".join(f"[{number}]({pages[number]})" if number in pages else str(number) for number in numbers)
        rows.append([str(week), links, ", ".join(exercise.id for exercise in here), str(points), str(time)])
    return table(["week", "chapters", "exercises", "points", "minutes"], [*rows, ["all", "", "", *map(str, sums)]])


def main(argv: list[str] | None = None) -> int:
    """Write or check the page; return the exit status."""
    parser = Parser(prog=COMMAND, description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; 1 if something would change")
    check = parser.parse_args(argv).check
    return refresh(PAGE, fill(PAGE.read_text(encoding="utf-8"), {"weeks": weeks_block}, PAGE.name), check, COMMAND)


if __name__ == "__main__":
    program(main)
