"""How the tests of the coursework run kernels."""

import pytest
import warm_emulator

from tutorial.grader import emulated


@pytest.fixture
def warm_emulator_too(monkeypatch):
    """Kernels run in forks of this process."""
    monkeypatch.setattr(emulated, "launched", warm_emulator.forked)


@pytest.fixture(autouse=True)
def the_books_kernels_run_warm(request):
    """Tests of exercises, on the book's kernels. A student's run as the grader runs them."""
    if request.path.parent.name == "exercises" and request.config.getoption("impl") == "reference":
        request.getfixturevalue("warm_emulator_too")
