"""What a teacher hands out: an archive without answers that runs by itself, and a container that grades."""

import ast
import hashlib
import json
import os
import re
import subprocess
import sys
import zlib
from pathlib import PurePosixPath

import pytest
from answers import ANSWERS, RIGHT, Answer, submit

from tutorial.grader.credit import Rules
from tutorial.make_coursework import carve, load_exercises
from tutorial.pack import __main__ as pack
from tutorial.pack import answers, classroom, kept, student, words
from tutorial.pack.gradescope import NOT_HERE, container_files
from tutorial.source import ROOT

EXERCISES = load_exercises()
HOLES = {path: carve([e for e in EXERCISES if e.path == path])[PurePosixPath(path).name]
         for path in {e.path for e in EXERCISES}}
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {
    "OPENBLAS_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}


@pytest.fixture(scope="module")
def files():
    return student.student_files()


@pytest.fixture(scope="module")
def unpacked(files, tmp_path_factory):
    """The archive as a student unpacks it."""
    return write_all(files, tmp_path_factory.mktemp("pack"))


def write_all(files, folder):
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def run(folder, *command):
    """A command of Python in a folder, which sees nothing of this repository."""
    return subprocess.run([sys.executable, *command], cwd=folder, env=ENVIRONMENT, capture_output=True, text=True,
                          timeout=300)


# ---- the archive of the students

TEXT = (".py", ".cu", ".cuh", ".h", ".cpp", ".md", ".ipynb")


def leaks(files):
    """What files show of an answer."""
    found = answers.Answers(EXERCISES, HOLES, student.read_all())
    assert {*found.lines.values()} == {e.id for e in EXERCISES}, "each exercise has lines that nobody may see"
    assert len({*found.shapes.values()}) > len(EXERCISES) / 2, "and most have shapes"
    return [(name, *shown) for name, data in files.items() if name.endswith(TEXT)
            for shown in found.found_in(cells_of(name, data), name)]


def cells_of(name, data):
    """The text of a file; of a notebook, of all its cells and of what they printed."""
    if not name.endswith(".ipynb"):
        return data.decode()
    cells = json.loads(data)["cells"]
    return "\n".join("".join(part) for c in cells for part in (
        c["source"], *(output.get("text", "") for output in c.get("outputs", ()))))


def test_no_file_shows_an_answer(files):
    assert leaks(files) == []


def test_leaks_are_found(files):
    """The repository itself is full of them."""
    for name in ("tiny/rope.py", "tutorial/05_routing_and_experts.md", "tiny/tools/verify/torch_cpu.py",
                 "tests/helpers/small.py", "kernels/rms_norm.cu"):
        assert leaks({name: (ROOT / name).read_bytes()}), name
    assert "tests/coursework/answers.toml" not in files, "answers in other words"


@pytest.mark.parametrize("id, code", [
    ("8.1", "a = torch.hstack([np.outer(p[:, 0], f[0::2]),\n    np.outer(p[:,1],f[1::2])])"),
    ("7.3", "tokens = (([here] * w + [end_of_row]) * h)[:-1] + [last]"),
    ("12.1", "near = x + (np.uint32(0x7FFF) + odd)")])
def test_an_answer_is_found_under_other_names(id, code):
    found = leaks({"tests/helpers/other.py": f"def other():\n    {code}\n".encode()})
    assert [one[2] for one in found] == [id]
    assert not leaks({"tests/helpers/other.py": f"def other():\n    # {' '.join(code.split())}\n    pass\n".encode()})


def test_a_function_with_an_answer_loses_its_body():
    text = ("def before():\n    return 1\n\n\ndef run(img, end):\n    \"\"\"Ids.\"\"\"\n    few = img + 1\n"
            "    return (([img] * few + [end]) * few)[:-1] + [end]\n\n\nAFTER = 2\n")
    found = answers.Answers(EXERCISES, HOLES, student.read_all())
    hidden = found.hidden(text, "tests/helpers/other.py")
    assert "few" not in hidden and '    """Ids."""\n    raise NotImplementedError("An answer to exercise 7.3' in hidden
    assert hidden.startswith(text[: text.index("def run")]) and hidden.endswith("\n\nAFTER = 2\n")
    assert found.hidden("def glued():\n    return 1\n", "tutorial/own_run/part_b.py").count("7.2") == 1
    assert found.hidden("def glued():\n    return 1\n", "tutorial/own_run/part_a.py").count("7.2") == 0


def test_functions_in_other_words_are_there():
    for name, functions in answers.IN_OTHER_WORDS.items():
        named = {node.name for node in answers.functions(ast.parse((ROOT / name).read_text()))}
        assert functions.keys() <= named and {*functions.values()} <= {e.id for e in EXERCISES}


def test_the_names_of_the_faults_are_not_told(files):
    for exercise in EXERCISES:
        if exercise.path == "tutorial/detectives.py":
            text = kept.whole(exercise.path)
            true = re.search(rf'def {exercise.name}\(.*?^    return "(\w+)"', text, re.M | re.S)[1]
            assert f'return "{true}"' not in files[exercise.path].decode()


def test_nothing_is_in_it_that_is_for_teachers(files):
    for name, data in files.items():
        assert not re.search(r"mutants/|(coursework|pack)/answers\.|tricks\.toml|TEACHERS|trials|quiz_answers|runs/"
                             r"|__pycache__", name), name
        if name.endswith(".py"):
            ast.parse(data)
            assert b"tests.mutants" not in data, name
        if name.endswith(".ipynb"):
            assert [cell["cell_type"] for cell in json.loads(data)["cells"]], name
        if name.endswith(".md"):
            assert b"<summary>The book's own" not in data, name
    assert b"<summary>Answer" in files["tutorial/03_attention.md"], "answers to problems are there to be compared"
    assert {f"student/{PurePosixPath(path).name}" for path in HOLES} <= files.keys()
    assert sum(map(len, files.values())) < 40 << 20


def words_of(name, data):
    """The text of a page; of a notebook, that of its cells of text."""
    if name.endswith(".md"):
        return data.decode()
    return "\n".join("".join(c["source"]) for c in json.loads(data)["cells"] if c["cell_type"] == "markdown")


def test_its_links_lead_somewhere(files):
    for name, data in files.items():
        if name.endswith((".md", ".ipynb")):
            for target in re.findall(r"\]\(([^)\s\"]+)\)", words_of(name, data)):
                path = target.partition("#")[0]
                if path and not re.match(r"[a-z]+:", path):
                    path = os.path.normpath(PurePosixPath(name).parent / path)
                    assert path in files or any(other.startswith(f"{path}/") for other in files), (name, target)


PATH = re.compile(r"(?<![\w/.#])((?:tests|tiny|tutorial|kernels|notebooks|binder|student)/[\w./*-]*[\w*/])")
MODULE = re.compile(r"-m ((?:tiny|tutorial|kernels|notebooks|tests)[\w.]*)")
MADE = ("student/pictures/",)  # by the commands


def named_but_missing(name, text, files):
    """Files, folders, programs and commands that a page names and the archive has not."""
    folders = {f"{parent}/" for path in files for parent in PurePosixPath(path).parents}
    for path in PATH.findall(text):
        pattern = path.rstrip("/")
        there = path in files or f"{pattern}/" in folders or any(PurePosixPath(one).match(pattern) for one in files)
        if not there and not path.startswith(MADE):
            yield name, path
    for module in MODULE.findall(text):
        path = module.replace(".", "/")
        if f"{path}.py" not in files and f"{path}/__main__.py" not in files:
            yield name, module
    yield from ((name, f"make {target}") for target in words.COMMAND.findall(text) if target not in student.TARGETS)
    yield from ((name, f"make {target}") for target in re.findall(r"^make ([a-z-]+)", text, re.M)
                if f"```\nmake {target}" in text and target not in student.TARGETS)


def test_whatever_its_pages_name_is_there(files):
    pages = {name: words_of(name, data) for name, data in files.items() if name.endswith((".md", ".ipynb"))}
    assert len(pages) > 50
    assert [missing for name, text in pages.items() for missing in named_but_missing(name, text, files)] == []


def test_what_is_missing_is_found(files):
    text = ("Run `make verify`, or `.venv/bin/python -m pytest tests/kernels/test_a.py`; "
            "`python -m tutorial.grader DIR`, "
            "`make site`, `python -m tiny.training x`, `tiny/rope.py`, tests/book/, student/pictures/1.png\n\n```\n"
            "make gpu\nmake fuzz\n```\n\n```\nmake dev\n```\n")
    assert [missing for _, missing in named_but_missing("a.md", text, files)] == [
        "tests/kernels/test_a.py", "tutorial.grader", "make verify", "make dev"]


def test_modules_that_its_programs_import_are_there(files):
    """Wherever in a file the import stands; the tests of a teacher's files are none of its business."""
    here = {*files, *json.loads(zlib.decompress(files[kept.STORE])), "tutorial/pack/__init__.py"}

    def there(module):
        path = module.replace(".", "/")
        return f"{path}.py" in here or f"{path}/__init__.py" in here

    missing = set()
    for name, data in files.items():
        for node in ast.walk(ast.parse(data)) if name.endswith(".py") and not name.startswith("student/") else ():
            named = [node.module] if isinstance(node, ast.ImportFrom) else [
                alias.name for alias in getattr(node, "names", ())] if isinstance(node, ast.Import) else []
            missing |= {(name, one) for one in named if re.match(r"(tiny|tutorial|kernels|notebooks)\b", one or "")
                        and not there(one)}
    assert missing == set()


LISTED = re.compile(r"^(?:\[[^]]*\]\([./]*)?((?:tiny|kernels|tutorial)/[\w/]+\.(?:py|cuh?))(?:#L|:)(\d+)\)?\n\n"
                    r"(?:```\w+\n)?(.*)$", re.M)


def test_line_numbers_are_those_of_its_files(files):
    """Where code stands below its place, in a page or in what a notebook printed, its first line is at that place."""
    seen = set()
    for name, data in files.items():
        for path, line, first in LISTED.findall(cells_of(name, data)) if name.endswith((".md", ".ipynb")) else ():
            there = files[path].decode().splitlines()[int(line) - 1]
            assert there.strip() == first.strip(), (name, path, line)
            seen.add(path)
    assert len(seen & {*HOLES}) > 5, "files with holes are among them"
    for path, line in re.findall(r"\]\(\.\./(tiny/\w+\.py)#L(\d+)\)", files["kernels/README.md"].decode()):
        assert re.match("def |    def ", files[path].decode().splitlines()[int(line) - 1]), (path, line)


def test_line_map():
    old = "a\nb\nc\nd\ne\nf\ng"
    moved = words.line_map(old, "a\nb\nhole\ne\nf\ng\nh")
    assert [moved(n) for n in range(1, 8)] == [1, 2, 3, 3, 4, 5, 6]
    assert [words.line_map(old, old)(n) for n in range(1, 8)] == list(range(1, 8))


@pytest.fixture
def pages():
    return words.Pages(EXERCISES, {"tiny/rope.py": b"", "tutorial/README.md": b"", "tests/book/test_rope.py": b""},
                       {"tiny/rope.py": lambda line: line - 2}, ("try", "site"))


def test_dead_ends_are_left_out(pages):
    text = ("# A\n\nRun `make try EX=1`.\n\nRun `make verify`\nnow.\n\n* Teachers read [this](TEACHERS.md);\n"
            "  and that.\n* [Here](README.md) and [there](x.md).\n* `make fuzz` runs.\n\n```\nmake fuzz\n* [a](b.md)\n"
            "```\n\n`make dev` is a paragraph.\n")
    assert pages.page(text, "tutorial/a.md") == (
        "# A\n\nRun `make try EX=1`.\n\n* [Here](README.md) and there.\n\n```\nmake fuzz\n* a\n```\n")


def test_places_and_tests_of_a_notebook(pages):
    text = ("* **Test it:** `.venv/bin/python -m pytest tests/book/test_rope.py tests/book/test_chat.py`.\n"
            "* **Write it:** [rope](../tiny/rope.py#L47), or tiny/rope.py:47, not tiny/router.py:47\n")
    assert pages.words(text, "notebooks/a.ipynb") == (
        "* **Test it:** `.venv/bin/python -m pytest tests/book/test_rope.py`.\n"
        "* **Write it:** [rope](../tiny/rope.py#L45), or tiny/rope.py:45, not tiny/router.py:47\n")
    gone = "# * **Test it:** `.venv/bin/python -m pytest tests/book/test_chat.py`.\n# * **Read on:** x"
    assert pages.words(gone, "notebooks/a.py") == "# * **Read on:** x"


def test_its_commands_are_explained(unpacked):
    shown = subprocess.run(["make", "-s", "help"], cwd=unpacked, capture_output=True, text=True, check=True).stdout
    assert [line.split()[0] for line in shown.splitlines()] and {line.split()[0] for line in shown.splitlines()} == {
        *student.TARGETS}
    named = set(re.findall(r"^make ([a-z]+)", (unpacked / "README.md").read_text(), re.M))
    assert named <= {*student.TARGETS} and {"student", "try", "mine"} <= named


def test_without_an_answer_programs_run_on_the_book(unpacked):
    code = ("import tiny, tiny.rope, tutorial.detectives, numpy as np, sys; x = tiny.load('tiny-mixtral')([1, 5, 9]);"
            "print(tiny.__file__, float(x.astype(np.float64).sum()))")
    there, here = run(unpacked, "-c", code), run(ROOT, "-c", code)
    assert there.returncode == here.returncode == 0, there.stderr
    assert there.stdout.split()[1] == here.stdout.split()[1] and str(unpacked) in there.stdout
    assert kept.kept() == {} and kept.whole("tiny/rope.py") == (ROOT / "tiny/rope.py").read_text()


def test_kernels_that_are_compiled_are_whole(unpacked):
    names = sorted({PurePosixPath(e.path).name for e in EXERCISES if e.path.startswith("kernels/")} | {"rope.cu"})
    code = ("import hashlib, sys; from kernels.launch import find_source\n"
            "for path in map(find_source, sys.argv[1:]):\n"
            "    print(hashlib.sha256(path.read_bytes()).hexdigest(), (path.parent / 'numbers.cuh').is_file())")
    wanted = [f"{hashlib.sha256((ROOT / 'kernels' / name).read_bytes()).hexdigest()} True" for name in names]
    done = run(unpacked, "-c", code, *names)
    assert done.stdout.splitlines() == wanted, done.stderr


def test_a_kept_source_is_unpacked_with_its_headers(tmp_path):
    write_all({kept.STORE: kept.pack({"kernels/a.cu": "whole"}), "kernels/a.cu": b"hole", "kernels/b.cu": b"b",
               "kernels/c.cuh": b"c"}, tmp_path)
    place = kept.unpacked("kernels/a.cu", tmp_path)
    assert place.read_text() == "whole" and (place.parent / "c.cuh").read_text() == "c"
    assert kept.unpacked("kernels/b.cu", tmp_path) == tmp_path / "kernels/b.cu"
    assert kept.whole("kernels/b.cu", tmp_path) == "b" and kept.whole("kernels/a.cu", tmp_path) == "whole"


def test_the_models_run_with_right_answers_in_it(unpacked, tmp_path):
    folder = submit(tmp_path / "right", Answer("4.2", "", RIGHT["4.2"]), Answer("5.2", "", RIGHT["5.2"]))
    done = run(unpacked, "-m", "tutorial.mine", "--impl", str(folder))
    assert done.returncode == 0 and done.stdout.count("your model's logits equal transformers'") == 2, done.stdout
    assert done.stdout.startswith("Yours: ") and "rope (4.2), experts (5.2).\n" in done.stdout


def test_an_exercise_is_tried_in_it(unpacked, tmp_path):
    """Unfinished, wrong and right; an exercise stands beside another one in the same file."""
    (wrong,) = [answer for answer in ANSWERS if (answer.exercise, answer.name) == ("3.1", "not_scaled")]
    tried = {name: run(unpacked, "-m", "tutorial.attempt", "3.1", "--impl", str(folder)) for name, folder in {
        "hole": unpacked / "student", "wrong": submit(tmp_path / "wrong", wrong),
        "right": submit(tmp_path / "right", Answer("3.1", "", RIGHT["3.1"]))}.items()}
    assert {name: done.returncode for name, done in tried.items()} == {"hole": 1, "wrong": 1, "right": 0}, tried
    assert "3.1  Attention of one block of queries: unfinished  0 of 5" in tried["hole"].stdout
    assert "FAILS      scores are multiplied by 1 / sqrt(d)" in tried["wrong"].stdout
    assert "5 of 5 points" in tried["right"].stdout


@pytest.mark.thorough
def test_right_answers_get_all_points_in_it(unpacked, tmp_path):
    chosen = [e for e in EXERCISES if not e.is_kernel]
    folder = submit(tmp_path / "right", *(Answer(e.id, "", RIGHT[e.id]) for e in chosen))
    done = run(unpacked, "-m", "pytest", "-q", f"--impl={folder}", *(f"--exercise={e.id}" for e in chosen),
               f"--report={tmp_path / 'report.json'}")
    verdicts = {v["id"]: v for v in json.loads((tmp_path / "report.json").read_text())}
    assert {e.id: verdicts[e.id]["points"] for e in chosen} == {e.id: e.points for e in chosen}, done.stdout


@pytest.mark.thorough
def test_its_own_tests_pass_in_it(unpacked):
    done = run(unpacked, "-m", "pytest", "-q", "-p", "no:cacheprovider")
    assert done.returncode == 0 and "[100%]" in done.stdout, done.stdout[-2000:]


@pytest.mark.thorough
@pytest.mark.parametrize("number", ["10", "11", "12"])
def test_notebooks_run_in_it(unpacked, number):
    """Those of part C, which draw from records; each as a plain script."""
    (script,) = (unpacked / "notebooks").glob(f"{number}_*.py")
    done = run(unpacked, "-c", "import runpy, sys; runpy.run_path(sys.argv[1])", str(script))
    assert done.returncode == 0, done.stderr[-2000:]


def test_tests_without_wrong_functions():
    gone = "from tests.mutants.image import MUTANTS\nALL = list(MUTANTS)\n", "@mark(ALL)\ndef test_a(m):\n    pass\n"
    text = f"import os\n{gone[0]}\n{gone[1]}\ndef test_b():\n    assert os\n"
    assert answers.without_mutants(text) == text.replace(gone[0], "").replace(gone[1], "")
    told = "def test_bfloat16_rounds_products_and_the_sum():\n    pass\n\n\n"
    assert answers.without_mutants(told + text, "tests/book/test_rope.py") == "\n\n" + answers.without_mutants(text)


def test_classroom_has_each_exercise(files):
    tests = json.loads(files[classroom.TESTS])["tests"]
    assert [(t["run"], t["points"]) for t in tests] == [(classroom.command(e), e.points) for e in EXERCISES]
    text = files[classroom.WORKFLOW].decode()
    steps = re.findall(r"^        id: (\S+)$", text, re.M)
    assert re.search(r"^          runners: (.*)$", text, re.M)[1].split(",") == steps and len(steps) == len(EXERCISES)
    for step in steps:
        assert f"{step.upper()}_RESULTS: ${{{{ steps.{step}.outputs.result }}}}" in text
    assert sum(map(int, re.findall("max-score: (.*)", text))) == sum(e.points for e in EXERCISES)


def test_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(pack, "student_files", lambda: {"README.md": b"# A"})
    monkeypatch.setattr(pack, "container_files", lambda rules: {"run_autograder": repr(rules).encode()})
    assert pack.main(["--out", str(tmp_path / "new"), "--late-days", "2"]) == 0
    assert "student.zip: 1 files" in capsys.readouterr().out
    once = (tmp_path / "new/student.zip").read_bytes()
    assert once == pack.archive({"README.md": b"# A"}, pack.TOP)
    subprocess.run([sys.executable, "-m", "zipfile", "-e", tmp_path / "new/gradescope.zip", tmp_path], check=True)
    assert "late_days=2" in (tmp_path / "run_autograder").read_text()


# ---- the container of Gradescope

TOP_FIELDS = {"score", "output", "visibility", "stdout_visibility", "tests"}  # of those that Gradescope's page lists
FIELDS = {"number", "name", "score", "max_score", "status", "output"}


@pytest.fixture(scope="module")
def container(tmp_path_factory):
    """A folder like /autograder, with everything but a submission."""
    top = tmp_path_factory.mktemp("autograder")
    write_all(container_files(Rules(partial=True, late_days=1, penalty=20)), top / "source")
    (top / "venv/bin").mkdir(parents=True)
    (top / "venv/bin/python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (top / "venv/bin/python").chmod(0o755)
    metadata = {"created_at": "2026-03-03T22:00:00.000000-08:00",
                "assignment": {"due_date": "2026-03-01T23:59:00.000000-08:00"}}
    (top / "submission_metadata.json").write_text(json.dumps(metadata))
    return top


def test_a_submission_is_graded_as_gradescope_asks(container):
    """One exercise right, one in part, one missing; two days late, of which one is free."""
    (wrong,) = [answer for answer in ANSWERS if (answer.exercise, answer.name) == ("3.1", "not_scaled")]
    submit(container / "submission", Answer("4.2", "", RIGHT["4.2"]), wrong)
    done = subprocess.run(["bash", container / "source/run_autograder", container, "--exercise", "3.1", "--exercise",
                           "4.2", "--exercise", "5.1"], env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads((container / "results/results.json").read_text())
    assert found.keys() <= TOP_FIELDS and all(test.keys() == FIELDS for test in found["tests"])
    tests = {test["number"]: test for test in found["tests"]}
    assert [tests[id]["status"] for id in ("3.1", "4.2", "5.1")] == ["failed", "passed", "failed"]
    ideas = len(next(e for e in EXERCISES if e.id == "3.1").ideas)
    assert tests["4.2"]["score"] == 3 and tests["5.1"]["score"] == 0
    assert tests["3.1"]["score"] == int(10 * 5 * 1 / (ideas + 1)) / 10
    assert found["score"] == round(0.8 * sum(test["score"] for test in found["tests"]), 2)
    assert "Late by 2 days, 1 of them free" in found["output"] and NOT_HERE not in found["output"]


def test_the_programs_of_the_container_are_shell(container):
    for name in ("setup.sh", "run_autograder"):
        subprocess.run(["bash", "-n", container / "source" / name], check=True)
        assert (container / "source" / name).read_text().startswith("#!/usr/bin/env bash\n")
    assert (container / "source/requirements.txt").is_file()
