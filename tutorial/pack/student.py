"""The files of a student's archive: the repository without answers, with holes where an exercise is."""

import ast
import functools
import json
import re
import tempfile
from pathlib import Path, PurePosixPath

from tutorial.make_coursework import Exercise, carve, load_exercises, write_cases
from tutorial.pack import kept
from tutorial.pack.classroom import classroom
from tutorial.pages.chapters import PART
from tutorial.source import ROOT, read, source_of, step_lines

HERE = Path(__file__).parent
FILES = ("LICENSE", "requirements.txt", "pyproject.toml", "conftest.py", ".gitignore", "binder/*", "tiny/**/*",
         "kernels/**/*", "notebooks/*", "tutorial/*.md", "tutorial/*.py", "tutorial/exercises.toml",
         "tutorial/figures/*", "tutorial/drawings/*", "tutorial/own_run/*", "tutorial/reference/*.md",
         "tutorial/site/**/*",
         "tutorial/grader/*.py", "tutorial/pack/__init__.py", "tutorial/pack/kept.py", "tests/conftest.py",
         "tests/helpers/*.py", "tests/coursework/exercises/*.py", "tests/golden/images/*",
         "tests/golden/tokenizers_*.json", "tests/golden/pixtral-a/mistral/tekken.json", "tests/golden/verify/*.npz",
         "tests/golden/verify/*.json")
# What is for the teacher, or needs what is.
OUT = ("kernels/side_by_side.md", "tutorial/TEACHERS.md", "tutorial/quiz_answers.md", "tutorial/grader/__main__.py",
       "tutorial/grader/submissions.py", "tutorial/grader/credit.py", "tutorial/grader/likeness.py",
       "tests/helpers/answers.py", "tests/helpers/house.py", "tests/helpers/small_site.py",
       "tests/helpers/warm_tests.py", "tests/helpers/warm_worker.py", "tiny/training/corpus/*")
# Slow and plain answers to several exercises at once, which tests compare with.
OUT_OF_SIGHT = ("tests/helpers/reference.py",)
TARGETS = ("help", "demo", "doctor", "student", "try", "mine", "notebooks", "site", "clean")
MUTANTS = "tests.mutants"
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
DETAILS = re.compile(r"^<details>.*?^</details>\n\n?", re.M | re.S)
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")


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
    holes = {path: carve([exercise for exercise in exercises if exercise.path == path], root=root)[Path(path).name]
             for path in sorted({exercise.path for exercise in exercises})}
    secret = secret_lines(exercises, holes, files, root)
    shown = {path: masked(holes.get(path, data.decode()), secret) for path, data in files.items()
             if path.endswith(".py") and not path.startswith(("tests/", "notebooks/"))}
    shown |= {path: text for path, text in holes.items() if not path.endswith(".py")}
    store = {path: files[path].decode() for path in (*shown, *OUT_OF_SIGHT)
             if shown.get(path, "").encode() != files[path]}
    for path in OUT_OF_SIGHT:
        del files[path]
    files |= {path: text.encode() for path, text in shown.items()}
    files |= {kept.STORE: kept.pack(store), "tiny/kept.py": files["tutorial/pack/kept.py"],
              "tiny/__init__.py": with_stand_in(files["tiny/__init__.py"].decode()).encode(),
              "kernels/launch.py": files["kernels/launch.py"] + WHOLE_KERNELS.encode(),
              "Makefile": makefile((root / "Makefile").read_text(encoding="utf-8")).encode(),
              "README.md": (HERE / "for_students.txt").read_bytes(), **classroom(exercises)}
    files |= {f"student/{Path(path).name}": files[path] for path in holes}
    files |= cases()
    files[".gitignore"] = files[".gitignore"].replace(b"student/\n", b"student/pictures/\n")
    for name, data in files.items():
        if name.startswith("tests/") and name.endswith(".py") and MUTANTS.encode() in data:
            files[name] = without_mutants(data.decode()).encode()
        elif name.endswith(".md"):
            files[name] = page(data.decode(), holes, exercises, root).encode()
    for name, data in files.items():
        if name.endswith(".md"):
            files[name] = linked(data.decode(), PurePosixPath(name), files).encode()
        elif name.endswith(".ipynb"):
            files[name] = linked_notebook(json.loads(data), PurePosixPath(name), files).encode()
        elif name.startswith("notebooks/"):
            lines = data.decode().splitlines(keepends=True)
            files[name] = "".join(linked(line, PurePosixPath(name), files) if line.startswith("#") else line
                                  for line in lines).encode()
    return files


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
    blocks = text.split("\n\n")
    kept_blocks = [block for block in blocks if not (target := re.search(r"^([a-z-]+):", block, re.M))
                   or target[1] in TARGETS]
    return re.sub(r"^\.PHONY: .*$", f".PHONY: {' '.join(TARGETS)}", "\n\n".join(kept_blocks), flags=re.M)


def without_mutants(text: str) -> str:
    """A test file without what needs wrong functions: the import, and each statement that uses its names, in turn."""
    tree, gone = ast.parse(text), set()
    lines = text.splitlines(keepends=True)
    for node in tree.body:
        imported = isinstance(node, ast.ImportFrom) and (node.module or "").startswith(MUTANTS.partition(".")[0])
        used = {leaf.id for leaf in ast.walk(node) if isinstance(leaf, ast.Name)} & gone
        if imported:
            gone |= {alias.asname or alias.name for alias in node.names}
        elif used and isinstance(node, ast.FunctionDef):
            gone.add(node.name)
        elif used:
            named = [leaf for leaf in ast.walk(node) if isinstance(leaf, ast.Name)]
            gone |= {leaf.id for leaf in named if isinstance(leaf.ctx, ast.Store)}
        if imported or used:
            first = min([node.lineno, *(decorator.lineno for decorator in getattr(node, "decorator_list", ()))])
            lines[first - 1 : node.end_lineno] = [""] * (node.end_lineno - first + 1)
    return "".join(lines)


def page(text: str, holes: dict[str, str], exercises: list[Exercise], root: Path) -> str:
    """A page without the folded answers of exercises; code that is shown has the hole."""
    def spoils(reference: str) -> bool:
        if reference.startswith("exercise ") or ".py:" not in reference and ".cu" not in reference:
            return False
        source = source_of(reference, root)
        return any(first <= source.last and source.first <= last for exercise in exercises
                   if exercise.path == source.path for first, last in [hole_of(exercise, root)])

    def block(match: re.Match) -> str:
        return "" if any(spoils(part[1]) for part in PART.finditer(match[0])) else match[0]

    def part(match: re.Match) -> str:
        return "This is the code of an exercise: it is yours to write." if spoils(match[1]) else match[0]

    return PART.sub(part, DETAILS.sub(block, text))


def hole_of(exercise: Exercise, root: Path = ROOT) -> tuple[int, int]:
    """First and last line of what is to be written, in the whole file."""
    return step_lines(f"{exercise.path}:{exercise.name}", exercise.steps[0], exercise.steps[-1], root)


def answer_lines(exercise: Exercise, root: Path = ROOT) -> list[str]:
    """The lines of code that fill a hole, without comments and those that say little."""
    first, last = hole_of(exercise, root)
    lines = [code_of(line) for line in read(exercise.path, root)[first - 1 : last]]
    return [line for line in lines if len(line) >= 20 and not re.fullmatch(r"return [\w, ]+|.*:|.*[{(]", line)]


def code_of(line: str) -> str:
    """A line without its comment."""
    return re.split(r"(?:^|\s+)(?:#|//) ", line)[0].strip()


def secret_lines(exercises: list[Exercise], holes: dict[str, str], files: dict[str, bytes],
                 root: Path = ROOT) -> dict[str, str]:
    """The lines that no file may show, with their exercise: what fills a hole, and neither a hint gives away nor the
    book shows somewhere else.
    """
    hints = "\n".join(hint for e in exercises for hint in (*e.hints, *(h for idea in e.ideas for h in idea.hints)))
    book = [holes.get(path, data.decode()) for path, data in files.items()
            if re.fullmatch(r"tiny/\w+\.py|(?:kernels|tutorial/drawings)/\w+\.cuh?", path)]
    common = {code_of(line) for text in book for line in text.splitlines()}
    return {line: exercise.id for exercise in exercises for line in answer_lines(exercise, root)
            if line not in common and line not in hints}


def masked(text: str, secret: dict[str, str]) -> str:
    """A program without lines that are an answer, where another part of it needs the same; the whole one is kept."""
    lines = text.splitlines(keepends=True)
    found = [n for n, line in enumerate(lines) if code_of(line) in secret]
    for n in found:
        indent = lines[n][: len(lines[n]) - len(lines[n].lstrip())]
        words = f"A line of exercise {secret[code_of(lines[n])]} belongs here."
        lines[n] = f'{indent}raise NotImplementedError("{words}")\n'
    return "".join(lines)


def linked(text: str, page: PurePosixPath, files: dict[str, bytes]) -> str:
    """A page whose links lead somewhere; of others the words stay."""
    def link(match: re.Match) -> str:
        target = match[3].partition("#")[0]
        if not target or re.match(r"[a-z]+:", target):
            return match[0]
        parts: list[str] = []
        for piece in (page.parent / target).parts:
            parts = parts[:-1] if piece == ".." else [*parts, piece]
        path = "/".join(parts)
        return match[0] if path in files or any(name.startswith(f"{path}/") for name in files) else match[2]
    return LINK.sub(link, text)


def linked_notebook(notebook: dict, page: PurePosixPath, files: dict[str, bytes]) -> str:
    """A notebook whose cells of text have links that lead somewhere."""
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            cell["source"] = linked("".join(cell["source"]), page, files).splitlines(keepends=True)
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"
