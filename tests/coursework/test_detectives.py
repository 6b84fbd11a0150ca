"""The cases for detectives: each is a run with one fault, which `verify check` finds and does not name."""

import re
from pathlib import Path

import numpy as np
import pytest

import tiny
from tiny.tools.verify import printed
from tiny.tools.verify.check import check
from tutorial import detectives, planting
from tutorial.make_coursework import write_cases
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
