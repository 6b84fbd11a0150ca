"""The options of the coursework: they must be known before pytest looks into tests/. See tests/helpers/impl.py."""

import impl


def pytest_addoption(parser):
    impl.options(parser)


def pytest_configure(config):
    config.pluginmanager.register(impl.Coursework(config), "coursework")
