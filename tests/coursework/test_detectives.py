"""The cases for detectives: each is a run with one fault, which `verify check` finds and does not name."""

from pathlib import Path

import numpy as np
import pytest

from tiny.tools.verify import printed
from tiny.tools.verify.check import check
from tutorial import detectives, planting
from tutorial.make_coursework import write_cases

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
