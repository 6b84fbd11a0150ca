"""Real clients: where their environments are, how they are run, and a server of ours for them.

Each client is installed in an environment of its own, and an environment variable names the Python of that. The README
of tests/verify/clients says how to make them.
"""

import importlib.util
import json
import os
import re
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from oracles import ROOT

NEEDED = ("starlette", "uvicorn", "pyarrow")  # of the Python that runs the tests
PATIENCE = 600  # seconds until a program that says nothing is taken for stuck


def needs_extras():
    """The mark of a test that imports data or serves."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"This check needs {', '.join(missing)} (extras serve and evals).")


def python_of(variable: str) -> str:
    """The Python of a client's environment; skips the test if nobody named one."""
    if not os.environ.get(variable):
        pytest.skip(f"Set {variable} to the Python of that client's environment (see tests/verify/clients/README.md).")
    return os.environ[variable]


def run(command: list, folder: Path, fails: bool = False, **variables: str) -> subprocess.CompletedProcess:
    """Run a program in a folder, offline and with one thread; it has to succeed, or to fail."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([str(word) for word in command], cwd=folder, env=kept | offline | variables,
                          capture_output=True, text=True, timeout=PATIENCE)
    assert (done.returncode != 0) == fails, f"{command}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done


def tiny_command(*words, folder: Path) -> subprocess.CompletedProcess:
    """Run a command of ours as a user does."""
    return run([sys.executable, "-m", "tiny", *words], folder, PYTHONPATH=str(ROOT))


def version_in(python: str, package: str) -> str:
    """The version of a package in a client's environment."""
    program = f"import importlib.metadata as found; print(found.version({package!r}))"
    return subprocess.run([python, "-c", program], capture_output=True, text=True, check=True).stdout.strip()


@contextmanager
def served(model: str, folder: Path):
    """Serve a model on a free port in a process of its own; give the address."""
    log = folder / f"serve-{model}.txt"
    with log.open("w", encoding="utf-8") as out:
        process = subprocess.Popen([sys.executable, "-u", "-m", "tiny", "serve", "--model", model, "--port", "0"],
                                   cwd=ROOT, stdout=out, stderr=subprocess.STDOUT)
    try:
        end = time.monotonic() + PATIENCE
        while not (found := re.search(r"http://127\.0\.0\.1:\d+", log.read_text(encoding="utf-8"))):
            assert process.poll() is None and time.monotonic() < end, log.read_text(encoding="utf-8")
            time.sleep(0.1)
        yield found[0]
        assert process.poll() is None, f"the server ended by itself: {log.read_text(encoding='utf-8')[-4000:]}"
    finally:
        process.terminate()
        process.wait(PATIENCE)
    assert "Traceback" not in log.read_text(encoding="utf-8"), log.read_text(encoding="utf-8")[-4000:]


def read_lines(path: Path) -> list[dict]:
    """The objects of a file with one a line."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
