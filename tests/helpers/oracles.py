"""The oracle checkpoints, and the folders that several test files share."""

import json
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests/golden"


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
