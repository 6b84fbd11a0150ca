"""What the process of a submission can import: the book with holes, and the worker itself."""

from pathlib import Path

from tutorial.make_coursework import Exercise, carve
from tutorial.source import ROOT

WORKER = ("tutorial/__init__.py", "tutorial/grader/__init__.py", *(
    f"tutorial/grader/{name}.py" for name in ("doors", "guard", "messages", "worker")))


def read_tree(exercises: list[Exercise], root: Path = ROOT) -> dict[str, bytes]:
    """The files by path: no answer is among them, wherever a submission looks."""
    holes = carve(exercises, root=root)
    tree = {name: (root / name).read_bytes() for name in WORKER}
    for path in (root / "tiny").glob("*.py"):
        text = "" if path.name == "__init__.py" else path.read_text(encoding="utf-8")
        tree[f"tiny/{path.name}"] = text.encode()
    for exercise in exercises:
        tree |= {f"{folder}/__init__.py": b"" for folder in map(str, Path(exercise.path).parents) if folder != "."}
        tree[exercise.path] = holes[exercise.file].encode()
    return tree


def write_files(files: dict[str, bytes], folder: Path) -> Path:
    """Write files below a folder, which is made."""
    folder.mkdir(parents=True)
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder
