"""One server of the page for all tests of this folder, in a thread of this process, with both embedded models."""

import threading
from pathlib import Path

import pytest

from tests.explore.cases import model_of

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.parent == HERE and "served" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.xdist_group("explore"))


@pytest.fixture(scope="session")
def served():
    """A client of the server."""
    for package in ("starlette", "uvicorn"):
        pytest.importorskip(package, reason="The server needs the extra `serve`, which is not installed.")
    import uvicorn

    from tests.serve.served import Client
    from tiny.serve.command import listen
    from tiny.serve.connection import configure
    from tiny.serve.explore.app import build
    from tiny.serve.worker import Worker

    worker, listener = Worker(64, 600), listen("127.0.0.1", 0)
    models = {f"tiny-{name}": model_of(kind) for name, kind in (("mixtral", "text"), ("pixtral", "picture"))}
    server = uvicorn.Server(configure(build(models, worker)))
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    yield Client(listener.getsockname()[1])
    worker.stop()
    server.should_exit = True
    thread.join()
    worker.thread.join()
    listener.close()
