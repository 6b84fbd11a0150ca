"""The notebooks: scripts and notebooks agree, show the source as it is, restate nothing, and label their figures.

`make notebooks` runs them in Jupyter. Here the scripts run as plain Python, which needs the core requirements only.
"""

import ast
import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from answers import EXERCISES, Answer, submit
from oracles import ROOT

import notebooks.show
from notebooks import build
from tiny.config import TinyError
from tiny.experts import experts
from tiny.kv_cache import KVCache
from tiny.rope import rope, rope_table
from tutorial.make_coursework import carve, write
from tutorial.source import source_of

SCRIPTS = build.scripts()
each = pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)


def texts(script):
    return [text for kind, text in build.cells(script) if kind == "markdown"]


def sections(script):
    """The numbered sections of a notebook: the source of their cells, joined."""
    whole = "\n".join(text for _, text in build.cells(script))
    return re.split(r"^## ", whole, flags=re.M)[1:]


# ---- scripts and notebooks

def test_those_of_the_course_are_there():
    assert {"03_attention", "04_rotary_positions", "05_routing_and_experts", "06_the_whole_mixtral"} <= {
        s.stem for s in SCRIPTS}
    assert {path.stem for path in build.FOLDER.glob("*.ipynb")} == {s.stem for s in SCRIPTS}


@each
def test_script_and_notebook_agree(script):
    assert build.check(script) == [], "run `make notebooks`"


def damage_cell(book):
    book["cells"][0]["source"][0] += "!"


def damage_order(book):
    next(cell for cell in book["cells"] if cell["cell_type"] == "code")["execution_count"] = 7


def damage_output(book):
    cell = [cell for cell in book["cells"] if cell["cell_type"] == "code"][-1]
    cell["outputs"] = [{"output_type": "error", "ename": "ValueError", "evalue": "", "traceback": []}]


def damage_listing(book):
    cell = next(cell for cell in book["cells"] if "show(" in "".join(cell["source"]) and cell["outputs"])
    cell["outputs"][0]["text"] = [*cell["outputs"][0]["text"][:-1], "another last line\n"]


def damage_model(book):
    book["metadata"]["tiny-mixtral"] = "0" * 16


def damage_other_model(book):
    del book["metadata"]["tiny-pixtral"]


@pytest.mark.parametrize("damage, says", [(damage_cell, "is not what"), (damage_order, "top to bottom"),
                                          (damage_output, "error"), (damage_listing, "source that has changed"),
                                          (damage_model, "another tiny-mixtral"),
                                          (damage_other_model, "another tiny-pixtral")])
def test_check_finds(damage, says, tmp_path):
    script = tmp_path / SCRIPTS[0].name
    shutil.copy(SCRIPTS[0], script)
    assert "is not built" in build.check(script)[0]
    book = json.loads(SCRIPTS[0].with_suffix(".ipynb").read_text(encoding="utf-8"))
    damage(book)
    script.with_suffix(".ipynb").write_text(json.dumps(book), encoding="utf-8")
    wrong = build.check(script)
    assert len(wrong) == 1 and says in wrong[0]


def test_a_notebook_is_held_against_the_models_that_it_names():
    named = {script.name[:2]: list(build.model_digests(script)) for script in SCRIPTS}
    assert named["00"] == named["08"] == ["tiny-mixtral", "tiny-pixtral"] and named["03"] == ["tiny-mixtral"]
    first = build.model_digests(SCRIPTS[0])
    assert first["tiny-mixtral"] != first["tiny-pixtral"]


def test_check_finds_a_large_notebook(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "LIMIT_BYTES", 10 << 10)
    assert any("the limit is 10" in line for line in build.check(SCRIPTS[0]))


@pytest.mark.parametrize("text, says", [("# %%\nx = 1\n# %% [text]\n", ":3: a cell begins with"),
                                        ("# %% [markdown]\n# One.\nx = 1\n", ":3: a cell of text"),
                                        ("x = 1\n# %%\n", ":1: the script begins")])
def test_a_broken_script_is_refused(text, says, tmp_path):
    script = tmp_path / "01_x.py"
    script.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=says):
        build.cells(script)


def test_cells_of_a_script(tmp_path):
    script = tmp_path / "01_x.py"
    script.write_text("# %% [markdown]\n# # Title\n#\n# Text.\n\n# %%\nx = 1\n\n# a comment\nprint(x)\n",
                      encoding="utf-8")
    assert build.cells(script) == [("markdown", "# Title\n\nText."), ("code", "x = 1\n\n# a comment\nprint(x)")]
    cells = build.notebook(script)["cells"]
    assert cells[1] == {"cell_type": "code", "id": "01-01", "metadata": {}, "execution_count": None, "outputs": [],
                        "source": ["x = 1\n", "\n", "# a comment\n", "print(x)"]}
    assert set(cells[0]) == {"cell_type", "id", "metadata", "source"}


def test_a_notebook_that_stops_keeps_no_other_from_being_built(tmp_path, monkeypatch, capsys):
    """What it raised is said in a line without colours; of numbers that are given, only those are built."""
    def execute(book):
        if book["cells"][0]["source"] == ["x = 1"]:
            raise RuntimeError("Traceback\n  cell\n\x1b[31mModuleNotFoundError\x1b[0m: No module named 'x'\n\n")
        return book | {"cells": [cell | {"execution_count": 1} for cell in book["cells"]]}

    for number in (1, 2):
        (tmp_path / f"0{number}_a.py").write_text(f"# %%\nx = {number}\n")
    monkeypatch.setattr(build, "FOLDER", tmp_path)
    monkeypatch.setattr(build, "execute", execute)
    assert build.main([]) == 1
    assert capsys.readouterr().err.strip() == "01_a.ipynb stops: ModuleNotFoundError: No module named 'x'"
    assert not (tmp_path / "01_a.ipynb").exists() and (tmp_path / "02_a.ipynb").exists()
    assert build.main(["02"]) == 0 and build.last_line(ValueError()) == "ValueError"
    with pytest.raises(TinyError, match="no notebook 07"):
        build.main(["07"])


# ---- what a notebook says

@each
def test_nothing_of_tiny_is_defined_again(script):
    """No cell defines a name that tiny defines, and no function of a notebook is longer than six lines."""
    taken = {node.name for path in (ROOT / "tiny").rglob("*.py")
             for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
             if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    assert {"rope", "attend", "append", "route", "experts"} <= taken
    for node in ast.walk(ast.parse(script.read_text(encoding="utf-8"))):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            assert node.name not in taken, f"{script.name}:{node.lineno} defines {node.name} again"
            assert node.end_lineno - node.lineno < 6, f"{script.name}:{node.lineno} is a long function"
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Lambda):
            names = {target.id for target in node.targets if isinstance(target, ast.Name)}
            assert not names & taken, f"{script.name}:{node.lineno} defines {names} again"


@each
def test_the_rhythm(script):
    """A section asks, calls, shows at most one figure, and ends with something to change."""
    *numbered, last = sections(script)
    assert len(numbered) >= 3 and last.startswith("Where to go")
    for number, section in enumerate(numbered, 1):
        title = section.splitlines()[0]
        assert title.startswith(f"{number}. "), title
        assert "?" in section and section.count("**Now change this:**") == 1, title
        assert section.count("Picture(") <= 1 and "print(" in section, title
    assert sum("show(" in section for section in numbered) >= 3
    assert "**Test it:**" in last and "**Write it:**" in last
    assert f"(../tutorial/{script.stem}.md)" in last and f"(../tutorial/{script.stem}.md)" in texts(script)[0]


@each
def test_links_and_commands(script):
    for text in texts(script):
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            assert target.startswith("https://") or (script.parent / target).exists(), f"{script.name}: {target}"
        for command in re.findall(r"`\.venv/bin/python -m pytest ([^`]+)`", text):
            assert all((ROOT / name).exists() for name in command.split()), f"{script.name}: {command}"


@each
def test_outputs_name_no_machine(script):
    text = script.with_suffix(".ipynb").read_text(encoding="utf-8")
    assert not re.search(r"[\"' (=]/(?:\w+)/\w+| at 0x[0-9a-f]{6}|site-packages", text)


# ---- running them

def labelled(panel):
    """Whether a reader can tell what both axes are: by labels, by words at the ticks, or by the panel's title. A bar
    of colours may leave it to the title of the panel it belongs to.
    """
    if panel.get_label() == "<colorbar>":
        return bool(panel.get_ylabel() or panel.figure.axes[0].get_title())
    ticks = [label.get_text() for label in panel.get_yticklabels()]
    words = any(re.search(r"[a-z]{2}", tick) for tick in ticks)
    shared = any(other.get_ylabel() for other in panel.get_shared_y_axes().get_siblings(panel))
    return bool(panel.get_xlabel()) and bool(panel.get_ylabel() or words or shared or panel.get_title())


@pytest.mark.thorough  # `make notebooks` runs them too
@each
def test_it_runs_and_labels_its_figures(script, monkeypatch, capsys):
    figures = []
    monkeypatch.setattr(notebooks.show, "Picture", figures.append)
    monkeypatch.setattr(sys, "path", sys.path[:])
    monkeypatch.chdir(build.FOLDER)
    with np.printoptions():
        exec(compile(script.read_text(encoding="utf-8"), str(script), "exec"), {"__name__": "notebook"})
    assert "tiny/" in capsys.readouterr().out and len(figures) >= 2
    for figure in figures:
        panels = [panel for panel in figure.axes if panel.axison]
        assert all(map(labelled, panels)), f"{figure}: {[panel.get_title() for panel in panels]}"
        assert panels or all(panel.get_title(loc="left") or panel.get_title() for panel in figure.axes)


def test_an_unlabelled_figure_is_found():
    from matplotlib.figure import Figure

    panel = Figure().subplots()
    assert not labelled(panel)
    panel.set(xlabel="token")
    assert not labelled(panel)
    panel.set(ylabel="share")
    assert labelled(panel)


@pytest.mark.parametrize("folder", [".", "notebooks"])
def test_it_finds_tiny_from_both_folders(folder):
    """The first cell, in a process whose path holds its folder only, as Jupyter's does."""
    setup = next(text for kind, text in build.cells(SCRIPTS[0]) if kind == "code")
    code = setup + "\nfrom tiny.rope import rope\nshow(rope)"
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT / folder, env={"PATH": ""}, capture_output=True,
                         text=True)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith("tiny/rope.py:")


# ---- show and Picture

@pytest.mark.parametrize("function, steps, first", [
    (rope_table, (), "def rope_table("), (KVCache.append, (), "def append("),
    (rope, (2,), "# (2) rotate"), (rope, (1, 2), "# (1) the two")])
def test_show(function, steps, first, capsys):
    notebooks.show.show(function, *steps)
    head, empty, *lines = capsys.readouterr().out.splitlines()
    path, line = head.split(":")
    source = (ROOT / path).read_text(encoding="utf-8").splitlines()
    assert empty == "" and lines[0].startswith(first) and source[int(line) - 1].strip() == lines[0]
    assert ("# (2)" in "\n".join(lines)) == (2 in steps or function is KVCache.append or function is rope_table)


SHOWN = {"4.2": (rope, ()), "6.2": (KVCache.append, ()), "5.2": (experts, (1, 3)),
         "11.1": ("kernels/rms_norm.cu:block_sum", ())}


@pytest.mark.parametrize("id", SHOWN)
def test_an_exercise_is_shown_with_its_hole_until_it_is_written(id, tmp_path, monkeypatch, capsys):
    """Signature, docstring and tags stay; then the reader's own function is shown, and theirs alone."""
    function, steps = SHOWN[id]
    exercise = EXERCISES[id]
    write(carve([exercise]), tmp_path, False)
    for folder in (None, tmp_path / "none", tmp_path):
        monkeypatch.setattr(notebooks.show, "STUDENT", folder)
        notebooks.show.show(function, *steps)
        out = capsys.readouterr().out
        assert f" of exercise {id} go" in out and " here" in out and exercise.hole not in out
        answer = source_of(f"{exercise.path}:{exercise.name}#{exercise.steps[-1]}").text.splitlines()
        assert answer[0] in out and answer[-1].strip() not in out and out.startswith(f"{exercise.path}:")
    (tmp_path / exercise.file).write_text("def broken(:")
    notebooks.show.show(function, *steps)
    assert f" of exercise {id} go" in capsys.readouterr().out
    submit(tmp_path, Answer(id, "", "return 'mine'"))
    notebooks.show.show(function, *steps)
    out = capsys.readouterr().out
    assert out.startswith(f"student/{exercise.file}:") and "return 'mine'" in out and "goes here" not in out
    assert out.partition("\n")[0].endswith("  (the cells run the book's)")


def test_no_notebook_gives_an_exercise_away():
    """No line of code of a hole is in a notebook that is kept, but what stands elsewhere too."""
    kept = "\n".join(script.with_suffix(".ipynb").read_text(encoding="utf-8") for script in SCRIPTS)
    book = [path.read_text(encoding="utf-8") for path in (ROOT / "tiny").glob("*.py")]
    for exercise in EXERCISES.values():
        for step in exercise.steps:
            text = source_of(f"{exercise.path}:{exercise.name}#{step}").text
            *_, last = (line for line in text.splitlines() if line.strip() != "}")
            given = last.strip() in ("first += length", "__syncthreads();") or sum(last in text for text in book) > 1
            assert given or json.dumps(last.strip())[1:-1] not in kept, exercise.id


def test_picture():
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1, 1))
    figure.subplots().set(title="shares", xlabel="expert")
    picture = notebooks.show.Picture(figure)
    assert repr(picture) == "figure: shares" and picture._repr_png_().startswith(b"\x89PNG")
    assert picture._repr_png_() == picture._repr_png_()
