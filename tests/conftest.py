"""Fixtures that several test files share."""

from pathlib import Path

import numpy as np
import pytest
from oracles import GOLDEN, Oracle


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

    from tiny.files.tokenizer_files import load_tokenizer

    path = find_released(PIXTRAL)
    if path is None:
        pytest.skip("The released tekken.json is not here; `make dev-data` fetches it.")
    return load_tokenizer(path)
