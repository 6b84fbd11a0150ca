"""The options of the coursework: they must be known before pytest looks into tests/. See tests/impl.py."""

import sys
from pathlib import Path

for folder in (Path(__file__).parent, Path(__file__).parent / "tests"):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def pytest_addoption(parser):
    import impl
    impl.options(parser)


def pytest_configure(config):
    import impl
    config.pluginmanager.register(impl.Coursework(config), "coursework")
