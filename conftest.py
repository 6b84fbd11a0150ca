"""The options of the coursework: they must be known before pytest looks into tests/. See tests/helpers/impl.py."""

import os
import signal
import sys

# Hundreds of programs start in a run of all tests: what Python compiled for the first is kept for the others.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
if "PYTEST_XDIST_WORKER" in os.environ:  # Processes that run side by side take one core each. Read when NumPy loads.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import impl  # noqa: E402
import pytest  # noqa: E402


def pytest_addoption(parser):
    impl.options(parser)


def pytest_configure(config):
    config.pluginmanager.register(impl.Coursework(config), "coursework")


@pytest.fixture
def signals_heard():
    """Programs that a test starts hear Ctrl-C and a lost terminal, also if the tests run behind `nohup` or `&`."""
    deaf = [number for number in (signal.SIGINT, signal.SIGHUP) if signal.getsignal(number) == signal.SIG_IGN]
    for number in deaf:
        signal.signal(number, signal.SIG_DFL)
    yield
    for number in deaf:
        signal.signal(number, signal.SIG_IGN)
