"""Two servers that the tests of this folder share."""

from pathlib import Path

import pytest

from tests.serve.served import running

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.parent == HERE:
            item.add_marker(pytest.mark.xdist_group(f"serve/{item.path.name}"))


@pytest.fixture(scope="session", autouse=True)
def extra():
    for package in ("starlette", "uvicorn"):
        pytest.importorskip(package, reason="The server needs the extra `serve`, which is not installed.")


@pytest.fixture(scope="module")
def mixtral():
    with running("--model", "tiny-mixtral") as server:
        yield server


@pytest.fixture(scope="module")
def pixtral():
    with running("--model", "tiny-pixtral") as server:
        yield server
