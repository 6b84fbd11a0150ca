"""The options of the coursework: they must be known before pytest looks into tests/. See tests/helpers/impl.py."""

import os

if "PYTEST_XDIST_WORKER" in os.environ:  # Processes that run side by side take one core each. Read when NumPy loads.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import impl  # noqa: E402


def pytest_addoption(parser):
    impl.options(parser)


def pytest_configure(config):
    config.pluginmanager.register(impl.Coursework(config), "coursework")
