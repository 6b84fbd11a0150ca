"""The targets under atheris: a fault ends the run, what is right does not, and without atheris nothing happens."""

import importlib.util
import subprocess
import sys

import pytest
from oracles import ROOT

PROGRAM = """import sys
sys.path.insert(0, "tests/helpers")
from tests.fuzz import guided
from tests.fuzz.engine import Target
from tests.fuzz.targets import TARGETS
TARGETS["npy"] = Target("npy", lambda rng: rng.randbytes(8), lambda data, folder: {plant})
sys.argv = ["guided", "npy", "--seconds", "2"]
sys.exit(guided.main())"""


@pytest.mark.parametrize("plant, status, words", [("'read'", 0, "no fault"), ("{}['x']", 1, "a fault, of which")])
def test_a_planted_fault(plant, status, words):
    if importlib.util.find_spec("atheris") is None:
        pytest.skip("atheris, of the dev extra, is not installed.")
    done = subprocess.run([sys.executable, "-c", PROGRAM.format(plant=plant)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == status and words in done.stdout, done.stderr[-2000:]


def test_without_it(monkeypatch, capsys):
    from tests.fuzz import guided

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(sys, "argv", ["guided"])
    assert guided.main() == 0 and "atheris is not installed" in capsys.readouterr().out
