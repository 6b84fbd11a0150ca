"""The syllabus: every chapter and exercise has its week, and what its table adds up is what the sources say."""

import re

from tutorial.make_coursework import load_exercises
from tutorial.pages import chapters, syllabus

TEXT = syllabus.PAGE.read_text(encoding="utf-8")
ROWS = [line.strip("| ").split(" | ") for line in syllabus.weeks_block().splitlines()[2:]]


def test_every_chapter_and_exercise_has_a_week():
    assert [number for week in syllabus.WEEKS for number in week] == [*range(13)]
    assert {int(path.name[:2]) for path in chapters.chapters()} <= {*range(13)}
    listed = [id for row in ROWS[:-1] for id in re.findall(r"\d+\.\d+", row[2])]
    assert listed == [exercise.id for exercise in load_exercises()]


def test_points_and_minutes_add_up():
    assert len(ROWS) == 7 and sum(int(row[-2]) for row in ROWS[:-1]) == int(ROWS[-1][-2])
    assert int(ROWS[-1][-2]) == sum(exercise.points for exercise in load_exercises())
    assert sum(int(row[-1]) for row in ROWS[:-1]) == int(ROWS[-1][-1])
    assert syllabus.minutes().keys() == {exercise.id for exercise in load_exercises()}, "TEACHERS.md has the minutes"
    pages = len(chapters.chapters())
    reading, quiz = syllabus.CHAPTER_MINUTES * pages, syllabus.QUIZ_MINUTES * (pages - 1)  # page 0 has no quiz
    assert int(ROWS[-1][-1]) == sum(syllabus.minutes().values()) + reading + quiz
    assert "\n".join(syllabus.weeks_block().splitlines()) in TEXT
