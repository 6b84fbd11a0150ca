"""Paths and the oracle checkpoints that several test files share."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
GOLDEN = Path(__file__).parent / "golden"
for folder in (ROOT, Path(__file__).parent):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


class Oracle:
    """One reference checkpoint: its folders and what the reference implementations computed with it."""

    def __init__(self, name: str):
        self.name, self.folder = name, GOLDEN / name
        self.info = json.loads((self.folder / "golden.json").read_text())
        self.cases = self.info["cases"]
        self.mistral = dict(np.load(self.folder / "golden_mistral.npz"))
        self.hf = dict(np.load(self.folder / "golden_hf.npz"))

    def arrays(self, case: str) -> dict[str, np.ndarray]:
        """mistral-inference's arrays of one case, by their stable names."""
        return {key.split("/", 1)[1]: x for key, x in self.mistral.items() if key.startswith(case + "/")}


@pytest.fixture(scope="session", params=["mixtral-a", "mixtral-b"])
def oracle(request) -> Oracle:
    return Oracle(request.param)


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder of stored reference data."""
    return GOLDEN


@pytest.fixture
def float64_too(monkeypatch):
    """Let the operations compute in float64 as well, where finite differences are exact enough to judge gradients."""
    from tiny import numerics

    monkeypatch.setattr(numerics, "ACTIVATIONS", (*numerics.ACTIVATIONS, np.dtype(np.float64)))


@pytest.fixture(scope="session")
def released_tekken():
    """The tokenizer of the release of Pixtral."""
    from fetch_tokenizer import PIXTRAL, find_released

    from tiny.tokenizer_files import load_tokenizer

    path = find_released(PIXTRAL)
    if path is None:
        pytest.skip("The released tekken.json is not here; `make dev-data` fetches it.")
    return load_tokenizer(path)
