"""Answers to the exercises, right and wrong, and how to write them down as a student would."""

import tomllib
from dataclasses import dataclass, replace
from pathlib import Path

from tutorial.make_coursework import carve, load_exercises, write
from tutorial.source import ROOT

EXERCISES = {exercise.id: exercise for exercise in load_exercises()}


@dataclass(frozen=True)
class Answer:
    """Lines that fill a hole. A wrong one names the idea that it misses or what it is shown; a right one neither."""

    exercise: str
    name: str
    lines: str
    idea: str = ""
    shown: str = ""
    below: str = ""  # at the end of the file

    @property
    def is_right(self) -> bool:
        """Whether it deserves its points."""
        return not self.idea and not self.shown


def load_answers() -> list[Answer]:
    """All answers of tests/coursework/answers.toml, each after the line that gives it its names."""
    content = tomllib.loads((ROOT / "tests/coursework/answers.toml").read_text(encoding="utf-8"))
    answers = [Answer(**entry) for entry in content["answer"]]
    return [replace(answer, lines=f"{content['names'].get(answer.exercise, '')}\n{answer.lines}".lstrip("\n"))
            for answer in answers]


ANSWERS = load_answers()
RIGHT = {answer.exercise: answer.lines for answer in reversed(ANSWERS) if answer.is_right}  # the first of each


def submit(folder: Path, *answers: Answer) -> Path:
    """Write one answer for each exercise into a folder, and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = {answer.exercise: answer.lines for answer in answers}
    files = carve([EXERCISES[id] for id in lines], lines)
    for answer in answers:
        files[EXERCISES[answer.exercise].file] += answer.below
    write(files, folder, True)
    return folder
