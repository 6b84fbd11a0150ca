"""The files of a student's archive: the repository without answers, with holes where an exercise is."""

import ast
import functools
import re
import tempfile
from pathlib import Path, PurePosixPath

from tutorial.make_coursework import carve, load_exercises, write_cases
from tutorial.pack import kept
from tutorial.pack.answers import OUT_OF_SIGHT, Answers, without_mutants
from tutorial.pack.classroom import classroom
from tutorial.pack.words import Pages, line_map
from tutorial.source import ROOT

HERE = Path(__file__).parent
FILES = ("LICENSE", "requirements.txt", "pyproject.toml", "conftest.py", ".gitignore", "binder/*", "tiny/**/*",
         "kernels/**/*", "notebooks/*", "tutorial/*.md", "tutorial/*.py", "tutorial/exercises.toml",
         "tutorial/figures/*", "tutorial/drawings/*", "tutorial/own_run/*", "tutorial/reference/*.md",
         "tutorial/site/**/*", "tutorial/grader/*.py", "tutorial/pack/__init__.py", "tutorial/pack/kept.py",
         "tutorial/pages/__init__.py", "tutorial/pages/measure.py", "tutorial/pages/records.py",
         "tutorial/pages/training_record.py", "tutorial/pages/records/*", "tests/conftest.py", "tests/helpers/*.py",
         "tests/coursework/exercises/*.py", "tests/golden/images/*", "tests/golden/tokenizers_*.json",
         "tests/golden/pixtral-a/mistral/tekken.json", "tests/golden/pixtral-a/golden*", "tests/golden/verify/*.npz",
         "tests/golden/verify/*.json", "tests/golden/FORMAT.md",
         "tests/emulator/planted/races.cu")
# What is for the teacher, or needs what is.
OUT = ("kernels/side_by_side.md", "tutorial/TEACHERS.md", "tutorial/trials.md", "tutorial/quiz_answers.md",
       "tutorial/reference/evidence.md", "tutorial/reference/clients.md", "tutorial/grader/__main__.py",
       "tutorial/grader/submissions.py", "tutorial/grader/credit.py", "tutorial/grader/likeness.py",
       "tests/helpers/answers.py", "tests/helpers/house.py", "tests/helpers/small_site.py",
       "tests/helpers/warm_emulator.py", "tests/helpers/warm_tests.py", "tests/helpers/warm_worker.py")
TARGETS = ("help", "demo", "doctor", "student", "try", "mine", "notebooks", "site", "figures", "bench", "train", "gpu",
           "clean")
# Files in which an answer loses what stands around it; tests and notebooks are written so that they hold none.
HIDDEN = r"(?:tiny|kernels|tutorial)/.*\.py|tests/(?:helpers|emulator)/.*"
MAKEFILE = """\
# Each command sets up what it needs, once; `make help` lists them.
PYTHON ?= python3
PY := .venv/bin/python"""
STAND_IN = "from tiny.kept import stand_in\n\nstand_in()  # Files have holes; what runs around them is whole.\n"
# Below kernels/launch.py: sources that are compiled are whole, too.
WHOLE_KERNELS = """

from tiny.kept import unpacked

find_in_folder = find_source


def find_source(file: str | Path) -> Path:
    \"\"\"The same, without the hole of an exercise.\"\"\"
    path = find_in_folder(file)
    return unpacked(f"kernels/{path.name}") if path.parent == HERE else path
"""
# In kernels/emulator/build.py: a header that is out of sight is found by the compiler, which is told so before these.
INCLUDES, WHOLE_HEADER = ('"-include", front(', '"-x", "c++-header"'), 'f"-I{unpacked(HALVES).parent}", '
HALVES = "kernels/emulator/halves.h"


def read_all(root: Path = ROOT) -> dict[str, bytes]:
    """The files of the repository that a student gets, as they are, by path."""
    exercises = load_exercises()
    tests = {test.partition("::")[0] for exercise in exercises for test in exercise.tests}
    found = {path.relative_to(root).as_posix(): path for pattern in (*FILES, *sorted(tests))
             for path in root.glob(pattern) if path.is_file() and "__pycache__" not in path.parts}
    return {name: path.read_bytes() for name, path in sorted(found.items())
            if not any(PurePosixPath(name).match(pattern) for pattern in OUT)}


def student_files(root: Path = ROOT) -> dict[str, bytes]:
    """Every file of the archive by path."""
    exercises, files = load_exercises(), read_all(root)
    whole = {path: data.decode() for path, data in files.items() if path.endswith((".py", ".cu", ".cuh", ".h"))}
    shown = with_holes(whole, Answers(exercises, holes_in(root), files), root)
    store = {path: text for path, text in whole.items() if shown.get(path, text) != text or path in OUT_OF_SIGHT}
    for path in OUT_OF_SIGHT:
        del files[path]
    files |= {path: shown[path].encode() for path in store if path in files}
    for path in files:
        if re.fullmatch(r"tests/(?!helpers/).*\.py", path):
            files[path] = without_mutants(files[path].decode(), path).encode()
    files |= around(files, root) | {kept.STORE: kept.pack(store)} | classroom(exercises)
    files |= {f"student/{Path(path).name}": files[path] for path in holes_in(root)} | cases()
    moved = {path: line_map(whole[path], files[path].decode()) for path in store if path in files}
    pages = Pages(exercises, files, moved, TARGETS)
    for name, data in files.items():
        if name.endswith(".md"):
            files[name] = pages.page(data.decode(), name).encode()
        elif name.endswith(".ipynb"):
            files[name] = pages.notebook(data.decode(), name).encode()
        elif re.fullmatch(r"notebooks/\d.*\.py", name):
            files[name] = pages.words(data.decode(), name).encode()
    return files


@functools.cache
def holes_in(root: Path) -> dict[str, str]:
    """The files of the book that have exercises, with their holes."""
    exercises = load_exercises()
    return {path: carve([exercise for exercise in exercises if exercise.path == path], root=root)[Path(path).name]
            for path in sorted({exercise.path for exercise in exercises})}


def with_holes(whole: dict[str, str], answers: Answers, root: Path) -> dict[str, str]:
    """The programs, with holes and without functions that hold an answer. Tests are held against answers.py, too."""
    shown = {path: holes_in(root).get(path, text) for path, text in whole.items()}
    return {path: answers.hidden(text, path) if re.match(HIDDEN, path) else text for path, text in shown.items()}


def around(files: dict[str, bytes], root: Path) -> dict[str, bytes]:
    """The files that are others in the archive: what finds the whole functions, the commands, the front page."""
    build = files["kernels/emulator/build.py"].decode()
    for include in INCLUDES:
        assert build.count(include) == 1, "the place where the compiler is told its headers"
        build = build.replace(include, WHOLE_HEADER + include)
    build += f'\n\nfrom tiny.kept import unpacked\n\nHALVES = "{HALVES}"\n'
    return {"tiny/kept.py": files["tutorial/pack/kept.py"],
            "tiny/__init__.py": with_stand_in(files["tiny/__init__.py"].decode()).encode(),
            "kernels/launch.py": files["kernels/launch.py"] + WHOLE_KERNELS.encode(),
            "kernels/emulator/build.py": build.encode(),
            "Makefile": makefile((root / "Makefile").read_text(encoding="utf-8")).encode(),
            "README.md": (HERE / "for_students.txt").read_bytes(),
            ".gitignore": files[".gitignore"].replace(b"student/\n", b"student/pictures/\n")}


@functools.cache
def cases() -> dict[str, bytes]:
    """The runs with a fault, which two exercises ask about: written here, so that nothing has to plant them there."""
    with tempfile.TemporaryDirectory(prefix="cases-") as name:
        write_cases(Path(name))
        return {f"student/{path.name}": path.read_bytes() for path in sorted(Path(name).iterdir())}


def with_stand_in(text: str) -> str:
    """tiny/__init__.py, which first lets Python import whole files."""
    docstring = ast.parse(text).body[0].end_lineno
    lines = text.splitlines(keepends=True)
    return "".join([*lines[:docstring], "\n", STAND_IN, *lines[docstring:]])


def makefile(text: str) -> str:
    """The commands that work in the archive, with what they set up."""
    blocks = text.split("\n\n")[1:]
    names = [re.search(r"^([a-z./-]+):(?: (\S+))?", block, re.M) for block in blocks]
    needed = {name[2] for name in names if name and name[1] in TARGETS} | {".venv/core"}
    blocks = [block for block, name in zip(blocks, names) if name and name[1] in {*TARGETS, *needed}]
    return "\n\n".join([f"{MAKEFILE}\n\n.PHONY: {' '.join(TARGETS)}", *blocks]).rstrip() + "\n"
