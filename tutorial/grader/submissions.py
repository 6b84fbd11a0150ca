"""Which files were submitted by whom, and which of them are alike."""

import ast
import hashlib
from dataclasses import dataclass, field
from pathlib import Path

from tiny.config import TinyError
from tutorial.make_coursework import Exercise

LARGEST = 1 << 20  # bytes of one file of a submission
DEEPEST = 3  # folders below a student's own: a zipped student/ is one


@dataclass(frozen=True)
class Submission:
    """The files of one student by name, and what the teacher should know of those that were not taken."""

    files: dict[str, bytes] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def digest(self) -> str:
        """A fingerprint of the files."""
        parts = [part for name, data in sorted(self.files.items()) for part in (name.encode(), data)]
        return hashlib.sha256(b"".join(len(part).to_bytes(8, "little") + part for part in parts)).hexdigest()


def read_submissions(folder: Path, exercises: list[Exercise]) -> dict[str, Submission]:
    """Every submission of a folder, by the name of the student's own folder.

    Raises:  TinyError if there are none
    """
    names = {exercise.file for exercise in exercises}
    found = {student.name: read_submission(student, names) for student in sorted(folder.iterdir())
             if (student.is_dir() or student.is_symlink()) and not skipped(student.name)}
    if not found:
        loose = sorted(names & {path.name for path in folder.iterdir()})
        hint = f" {loose[0]} is in it, as in one student's folder: name the folder above." if loose else ""
        raise TinyError(f"There are no students in {folder}.{hint}",
                        "Give a folder that holds one folder for each student, with rope.py and so on in it.")
    return found


def read_submission(student: Path, names: set[str]) -> Submission:
    """The files that an exercise asks for, from a student's folder or one inside it. Links are not followed."""
    if student.is_symlink():
        return Submission(notes=["Not read: the folder is a link."])
    files, notes = {}, []
    by_name: dict[str, list[Path]] = {}
    for path in candidates(student, names):
        if any(part.is_symlink() for part in (path, *path.parents[: len(path.relative_to(student).parts) - 1])):
            notes.append(f"Not read: {path.relative_to(student)} is a link, or in one.")
        else:
            by_name.setdefault(path.name, []).append(path)
    for name, paths in sorted(by_name.items()):
        first = paths[0]
        if len(paths) > 1:
            notes.append(f"Of {len(paths)} files {name}, {first.relative_to(student)} is read.")
        if first.stat().st_size > LARGEST:
            notes.append(f"Not read: {first.relative_to(student)} is larger than {LARGEST >> 20} MiB.")
        else:
            files[name] = first.read_bytes()
    if not files:
        notes.append(f"None of {', '.join(sorted(names))} is in this folder or {DEEPEST} levels below it.")
    return Submission(files, notes)


def candidates(student: Path, names: set[str]) -> list[Path]:
    """The files and links with these names, those in the student's own folder first."""
    found = [path for depth in range(DEEPEST + 1) for path in sorted(student.glob("*/" * depth + "*"))]
    return [path for path in found if path.name in names and (path.is_file() or path.is_symlink())
            and not any(map(skipped, path.relative_to(student).parts))]


def skipped(name: str) -> bool:
    """Whether a folder or file is no student's work: hidden, or what macOS puts beside the files of an archive."""
    return name.startswith((".", "__"))


def same_text(submissions: dict[str, Submission], exercise: Exercise) -> dict[str, list[str]]:
    """For each student who handed in a function, the others whose function is the same to the letter, comments too.

    Not for an exercise whose text leaves one way to write it.
    """
    groups: dict[str, list[str]] = {}
    for student, submission in submissions.items():
        text = None if exercise.one_way else text_of(exercise, submission.files.get(exercise.file))
        if text is not None:
            groups.setdefault(text, []).append(student)
    return {student: [other for other in group if other != student] for group in groups.values() for student in group}


def text_of(exercise: Exercise, data: bytes | None) -> str | None:
    """A student's function as it is written, or None."""
    if exercise.is_kernel:
        found = (data or b"").decode("utf-8", "replace")
        return None if not found or exercise.hole in found else found
    try:
        source = (data or b"").decode("utf-8-sig")
        node: ast.AST = ast.parse(source)
        for part in exercise.name.split("."):
            node = next(child for child in node.body if getattr(child, "name", "") == part)
        text = ast.get_source_segment(source, node)
    except (ValueError, SyntaxError, RecursionError, MemoryError, StopIteration, AttributeError):
        return None
    return None if text is None or exercise.hole in text else "\n".join(line.rstrip() for line in text.splitlines())
