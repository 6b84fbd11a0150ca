"""What the process of a submission can import: the book with one hole, and the worker itself."""

import tempfile
from pathlib import Path

from tutorial.make_coursework import Exercise, carve, load_exercises
from tutorial.pack.kept import whole
from tutorial.source import ROOT

WORKER = ("tutorial/__init__.py", "tutorial/grader/__init__.py", *(
    f"tutorial/grader/{name}.py" for name in ("doors", "guard", "messages", "worker")))


def read_tree(exercise: Exercise | None, root: Path = ROOT) -> dict[str, bytes]:
    """The files by path. The answer is not among them, wherever a submission looks; those of other exercises are, for
    what stands around a submission is the book's. Without an exercise it is the whole book.
    """
    tree = {name: (root / name).read_bytes() for name in WORKER}
    for path in (root / "tiny").rglob("*"):
        if path.suffix in (".py", ".toml"):
            tree[path.relative_to(root).as_posix()] = path.read_bytes()
    exercises = [other for other in load_exercises() if not other.is_kernel]
    tree |= {other.path: whole(other.path, root).encode() for other in exercises
             if exercise is None or other.path in tree}
    hole = {exercise.path: with_one_hole(exercise, root)} if exercise else {}
    return tree | {"tiny/__init__.py": b""} | hole


def with_one_hole(exercise: Exercise, root: Path) -> bytes:
    """The file of an exercise: all of it is the book's but for this one hole."""
    with tempfile.TemporaryDirectory(prefix="book-") as name:
        folder = write_files({exercise.path: whole(exercise.path, root).encode()}, Path(name) / "book")
        return carve([exercise], root=folder)[exercise.file].encode()


def tree_of(exercise: Exercise | None, folder: Path) -> Path:
    """The tree of an exercise in a folder of its own below this one, written if it is not there."""
    path = folder / (exercise.id if exercise else "book")
    return path if path.exists() else write_files(read_tree(exercise), path)


def write_files(files: dict[str, bytes], folder: Path) -> Path:
    """Write files below a folder, which is made."""
    folder.mkdir(parents=True)
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder
