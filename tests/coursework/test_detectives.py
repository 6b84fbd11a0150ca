"""The cases for detectives: each has one fault, which `verify check` or the emulator finds and does not name."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from emulator_case import needs_compiler

import tiny
from tiny.experts import experts
from tiny.tools.verify import printed
from tiny.tools.verify.check import check
from tutorial import detectives, planting
from tutorial.make_coursework import load_exercises, write_cases
from tutorial.source import ROOT

CASES = {"A": detectives.case_a, "B": detectives.case_b}
FIRST = {"A": "expert_weights00", "B": "vision_attn00"}
# What the report must say for the case to be solved from it.
WORDS = {"A": "(weights of the chosen experts)",
         "B": "(from the scores to the output matrix wo); array vision_attn00, relative error "
              "4.3e-01\n         rows 0, 1, 2, 3, 4, 5, 6, 7 ...: 130 of 132; equal: 47, 131\n"}


@pytest.mark.parametrize("part", CASES)
def test_a_case_has_the_fault_of_its_answer(part, tmp_path):
    write_cases(tmp_path)
    file = tmp_path / f"case_{part.lower()}.npz"
    lines = list(printed.lines(check(planting.MODELS[part], Path(file)), False))
    at = next(n for n, line in enumerate(lines) if line.startswith("DIFFERS"))
    assert f"array {FIRST[part]}," in lines[at]
    assert WORDS[part] in "\n".join(lines)
    assert all(line.startswith(("         rows", "         also")) for line in lines[at + 1 : lines.index("", at)])
    with np.load(file) as case:
        for name in planting.NAMES[part]:
            run = planting.run(part, name)
            same = all(np.array_equal(run[array], case[array]) for array in case if array != "record")
            assert same == (name == CASES[part]()), name
            assert f"    {name}  " in CASES[part].__doc__


def emulate(folder, name, *instead):
    """The command of the docstring on the kernel with a fault, or with other options than --check."""
    command = re.search(r"^    \.venv/bin/python (-m kernels.*)", detectives.__doc__, re.M | re.S)[1]
    (folder / "case_c.cu").write_text(planting.kernel(name))
    words = command.replace("\\\n", " ").replace("student/", f"{folder}/").split()
    at = words.index("--check")
    words[at : at + bool(instead)] = instead
    return subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True)


# What the emulator says of each fault, with the code of the lines that it names.
REPORTS = {"hidden_read_too_early": ("read of uninitialised shared memory", "sum +=", "answer[d] ="),
           "hidden_overwritten": ("data race", "sum +=", "hidden[f] =", "answer[d] ="),
           "hidden_over_answer": ("data race", "answer[d] =", "sum +="),
           "total_not_zero": ("read of uninitialised shared memory", "total[d] +="),
           "one_row_too_many": ("out-of-bounds", "sum +=", "float gate ="),
           "barrier_for_some": ("divergent barrier", "__syncthreads", "__syncthreads")}


@needs_compiler
@pytest.mark.parametrize("name", planting.CHANGES)
def test_each_fault_of_a_kernel_has_a_report_of_its_own(name, tmp_path):
    ran = emulate(tmp_path, name)
    said = ran.stdout
    lines = (tmp_path / "case_c.cu").read_text().splitlines()
    named = [int(n) for n in re.findall(r"case_c\.cu:(\d+)|line (\d+)", said) for n in n if n]
    kind, *code = REPORTS[name]
    assert ran.returncode == 1 and kind in said and len(named) == len(code)
    assert all(part in lines[n - 1] for n, part in zip(named, code)), said
    assert f"    {name}  " in detectives.case_c.__doc__


def test_each_wrong_name_has_hints_of_its_own():
    """They say what that fault would be reported as, and do not name the right one."""
    exercise = next(e for e in load_exercises() if e.id == "11.4")
    idea, right = exercise.ideas[-1], detectives.case_c()
    hints = {name: idea.hints_for(f"got {name}: a kernel with this fault is reported in other words")
             for name in planting.CHANGES if name != right}
    assert len({first for first, _ in hints.values()}) == len(hints) and set(idea.reports) | {right} == {*hints, right}
    assert right not in str(hints)


@needs_compiler
def test_the_numbers_of_the_case_depend_on_the_order_of_threads(tmp_path):
    """As chapter 11 says; of the book's function they are far in both. Numbers reach some hundreds."""
    name = detectives.case_c()
    write_cases(tmp_path)
    assert (tmp_path / "case_c.cu").read_text() == planting.kernel(name)
    found = []
    for order in ("forward", "reverse"):
        out = tmp_path / f"{order}.npz"
        assert emulate(tmp_path, name, "--order", order, "--save", str(out)).returncode == 0
        with np.load(out) as saved:
            tables = [[saved[f"arg{n}_{expert}"] for expert in (0, 1)] for n in (3, 4, 5)]
            right = experts(saved["arg0"][None], saved["arg1"][None], saved["arg2"][None], *tables)
            found += [saved["arg6"], right[0]]
    assert np.array_equal(found[1], found[3])
    assert all(np.abs(found[a] - found[b]).max() > 1 for a, b in ((0, 1), (2, 1), (0, 2)))


def test_chapter_9_solves_its_case(tmp_path, monkeypatch):
    """The lines of the chapter run, and find the rows that its answer names."""
    text = (ROOT / "tutorial/09_pixtral_and_does_it_see.md").read_text(encoding="utf-8")
    lines = re.search(r"```python\n(case, trace = .*?)```", text, re.S)[1]
    (tmp_path / "student").mkdir()
    write_cases(tmp_path / "student")
    monkeypatch.chdir(tmp_path)
    names = {"np": np, "model": tiny.load("tiny-pixtral")}
    exec(lines, names)
    equal = np.flatnonzero(names["apart"] < 1e-5).tolist()
    assert equal == [47, 131] and "only rows 47 and 131 are" in " ".join(text.split())
    other = planting.run("B", "images_see_each_other")["vision_attn00"]
    assert (np.abs(other - names["trace"]["vision_attn00"]).max(axis=1) > 1e-5).all(), "no row would be equal"
    assert all(np.array_equal(names["case"][name], names["trace"][name]) for name in ("vision_q00", "vision_k00"))
