"""The script for a GPU, as far as it goes without one: the runner, the cases on the emulator, steps on a stand-in."""

import contextlib
import inspect
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from emulator_case import needs_compiler

from kernels import cases
from kernels.gpu import __main__ as gpu
from kernels.gpu import steps as script_steps
from kernels.gpu import torch_peer
from kernels.launch import Emulator
from tests.kernels.test_launch import pretended  # noqa: F401
from tiny.config import TinyError

ROOT = Path(__file__).parents[2]
SOURCES = sorted(path.name for path in (ROOT / "kernels").glob("*.cu"))


def python(code):
    return [sys.executable, "-c", code]


# ---- the runner

def test_a_step_that_works():
    step = gpu.run_step(python("print('hello'); print('{\"a\": 1}'); print('[2]'); print('{\"b\": 2}')"), 20)
    assert step["ok"] and step["rows"] == [{"a": 1}, {"b": 2}] and "error" not in step


@pytest.mark.parametrize("code, error", [
    ("import sys; sys.exit('It does not\\nwork.')", "work."), ("import os; os._exit(3)", "Ended with status 3"),
    ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "Ended with status -11"),
    ("1 / 0", "ZeroDivisionError: division by zero")])
def test_a_step_that_crashes_keeps_its_rows(code, error):
    step = gpu.run_step(python(f"print('{{\"a\": 1}}', flush=True); {code}"), 20)
    assert not step["ok"] and step["rows"] == [{"a": 1}] and error in step["error"]


def test_a_step_that_hangs_is_ended_with_all_that_it_started(tmp_path):
    child = f"import time, os; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    start = time.monotonic()
    step = gpu.run_step(python("import subprocess, sys; print('{\"a\": 1}\\n{\"cut', flush=True); "
                               f"subprocess.run([sys.executable, '-c', {child!r}])"), 3)
    assert step == {"ok": False, "seconds": step["seconds"], "rows": [{"a": 1}], "error": "Stopped after 3 seconds."}
    assert time.monotonic() - start < 20
    state = Path(f"/proc/{(tmp_path / 'pid').read_text()}/stat")
    for _ in range(50):  # whoever adopts it has to collect it
        if not state.exists() or state.read_text().split()[2] == "Z":
            return
        time.sleep(0.1)
    pytest.fail("what the step had started is still running")


def test_results_are_written_after_each_step(tmp_path):
    path = tmp_path / "new" / "results.json"
    look = f"import json; steps = json.load(open({str(path)!r}))['steps']; print(json.dumps({{'seen': list(steps)}}))"
    codes = {"device": "print('{}')", "crash": "import os; os._exit(1)", "look": look}
    results = gpu.run_all([(name, (name,), 20.0) for name in codes], path,
                          command=lambda words: python(codes[words[0]]))
    assert results["steps"]["look"]["rows"] == [{"seen": ["device", "crash"]}]
    assert json.loads(path.read_text()) == results
    assert [step["ok"] for step in results["steps"].values()] == [True, False, True]


def test_without_time_left_no_step_is_started(tmp_path):
    steps = [("device", (), 20.0), ("late", (), 20.0)]
    results = gpu.run_all(steps, tmp_path / "r.json", limit=0.5, command=lambda words: python("raise SystemExit(1)"))
    assert results["steps"]["device"]["error"] == "Not run: no time was left."
    codes = {"device": "", "hang": "import time; time.sleep(60)", "late": ""}
    results = gpu.run_all([(name, (name,), 60.0) for name in codes], tmp_path / "r.json", limit=3.0,
                          command=lambda words: python(codes[words[0]]))
    assert [step["ok"] for step in results["steps"].values()] == [True, False, False]
    assert results["steps"]["hang"]["seconds"] < 20 and results["steps"]["late"]["error"].startswith("Not run")


@pytest.mark.parametrize("file, text, said", [
    ("cupy.py", "raise ImportError('no cupy here')", "CuPy cannot be imported: no cupy here."),
    ("cupy.py", "__version__ = '13.6'", "CuPy 13.6 has no arrays of bfloat16."),
    ("PIL.py", "raise ModuleNotFoundError('no PIL', name='PIL')", "The Python module PIL is missing.")])
def test_without_a_gpu_one_sentence_and_status_2(tmp_path, file, text, said):
    (tmp_path / file).write_text(text)
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-m", "kernels.gpu", "--out", str(tmp_path / "out")], cwd=ROOT,
                          env=environment, capture_output=True, text=True)
    assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "out" / "results.json").exists(), "an earlier result stays"


# ---- the plan and the table

def test_the_plan():
    steps, operations = gpu.plan(), cases.operations()
    assert steps[0][0] == "device" and len({name for name, _, _ in steps}) == len(steps)
    assert {words[0] for _, words, _ in steps} == script_steps.STEPS.keys() - {"small"}
    for first in ("agree", "time"):
        assert [words[1] for _, words, _ in steps if words[0] == first] == [o.name for o in operations]
    assert gpu.LIMIT < 8 * 60 and all(0 < seconds <= 75 for _, _, seconds in steps)


MADE_UP = {"steps": {  # No GPU has ever shown these numbers.
    "device": {"ok": True, "seconds": 1.0, "rows": [{"name": "made up"}]},
    "agree experts": {"ok": False, "seconds": 1.0, "error": "1 cases differ from NumPy.", "rows": [
        {"version": "v1", "precision": "float32", "ok": True, "error": 1e-7},
        {"version": "v1", "precision": "bfloat16", "ok": False, "error": 0.5},
        {"version": "v2", "precision": "float32", "ok": True, "refused": "not for float32"}]},
    "copy": {"ok": True, "seconds": 1.0, "rows": [{"TB_per_s": 2.0}]},
    "cublas": {"ok": True, "seconds": 1.0, "rows": [{"TFLOP_per_s": 50.0}, {"TFLOP_per_s": 500.0}]},
    "time experts": {"ok": True, "seconds": 1.0, "rows": [
        {"operation": "experts", "version": "v2", "shape": "S", "bytes": 4_000_000, "flop": 5_000_000, "us": 4.0,
         "spread": 0.01},
        {"operation": "experts", "version": "v3", "shape": "L", "bytes": 4_000_000, "flop": 5_000_000_000, "us": 20.0,
         "spread": 0.01},
        {"operation": "experts", "version": "v1", "shape": "S", "refused": "too wide"}]},
    "torch": {"ok": True, "seconds": 1.0, "rows": [{"operation": "experts", "shape": "S", "us": 8.0}]}}}


def test_the_table_of_a_made_up_result():
    rows = gpu.rows_of_table(MADE_UP)
    assert [(row["version"], row["floor_us"], row["fraction"], row["torch_us"]) for row in rows] == [
        ("v2", 2.0, 0.5, 8.0), ("v3", 10.0, 0.5, None)], "bytes / 2 TB/s, then operations / 500 TFLOP/s"
    text = gpu.show(MADE_UP | {"table": rows})
    assert "1 of 2 cases as NumPy; largest error 1.0e-07 in float32, 5.0e-01 in bfloat16" in text
    assert "50%        8.0" in text and "5 of 6 steps worked." in text and "agree experts: 1 cases differ" in text


def test_without_ceilings_there_is_no_floor():
    for missing in ("copy", "cublas"):
        steps = {name: step for name, step in MADE_UP["steps"].items() if name != missing}
        rows = gpu.rows_of_table({"steps": steps})
        assert [row["floor_us"] for row in rows] == [None, None]
        assert gpu.show({"steps": steps, "table": rows})


# ---- the cases

def test_every_kernel_is_found():
    for name in SOURCES:
        text = (ROOT / "kernels" / name).read_text()
        assert len(cases.kernels_of(name)) == text.count("__global__ ") > 0, name
    assert cases.versions_of("experts.cu", "experts") == ("v1", "v2", "v3")


@needs_compiler
def test_the_cases_launch_every_kernel_and_agree(pretended, monkeypatch):  # noqa: F811
    """Through the launcher of a GPU, on a CuPy as strict as the real one, whose kernels run on the emulator."""
    one_case = [replace(operation, small=operation.small[:1]) for operation in cases.operations()]
    monkeypatch.setattr(cases, "operations", lambda: one_case)
    rows = list(script_steps.small())
    assert len(rows) == sum(len(operation.versions) for operation in one_case) and all(row["ok"] for row in rows)
    assert not any("refused" in row for row in rows)
    names = {name for name, _ in pretended["launches"]}
    assert names == {kernel for name in SOURCES for kernel in cases.kernels_of(name)}


def test_a_wrong_result_is_seen():
    operation = next(o for o in cases.operations() if o.name == "rope")

    def compare(change):
        host = lambda launcher, *arguments, **options: change(operation.expected(*arguments))
        there = SimpleNamespace(put=lambda array: array, get=lambda array: array)
        return cases.agree(there, replace(operation, host=host), operation.small[0], cases.STORAGES[0], None)

    assert compare(lambda y: y) == {"ok": True, "error": 0.0}
    assert not compare(lambda y: y * 1.001)["ok"] and not compare(lambda y: y[:1])["ok"]
    assert not compare(lambda y: np.where(y == y.max(), np.nan, y))["ok"]
    assert cases.largest_error(np.array([1, 9]), np.array([1, 8])) == np.inf

    def refuse(y):
        raise ValueError("not this shape")
    assert compare(refuse) == {"ok": True, "refused": "not this shape"}

    def fail(y):
        raise TinyError("No compiler.", "Install one.")
    with pytest.raises(TinyError, match="No compiler"):
        compare(fail)


def test_floors_of_published_shapes():
    floors = {(o.name, label): o.floor(**sizes) for o in cases.operations() for label, sizes in o.published.items()}
    assert all(moved > 0 and flop >= 0 for moved, flop in floors.values())
    assert 704e6 < floors["experts", "Mixtral, 1 token"][0] < 706e6
    assert floors["experts", "Mixtral, 4 tokens"][0] // floors["experts", "Mixtral, 1 token"][0] in (3, 4)


# ---- the steps, on a stand-in for CuPy that runs on NumPy

class StandIn:
    """NumPy with the few names of CuPy that the steps use. A graph runs what was captured; time is made up."""

    __version__ = "0.0 (a stand-in)"
    clock = 0.0

    def __init__(self):
        runtime = SimpleNamespace(getDeviceProperties=lambda n: {"l2CacheSize": 4096}, driverGetVersion=lambda: 13000)
        self.cuda = SimpleNamespace(Stream=lambda non_blocking: Stream(), Event=Event, runtime=runtime,
                                    Device=lambda: SimpleNamespace(synchronize=lambda: None, compute_capability="80"),
                                    get_elapsed_time=lambda start, stop: stop.at - start.at)

    def __getattr__(self, name):
        return getattr(np, name)

    def asnumpy(self, x):
        return x

    def RawKernel(self, code, name):
        def add(grid, block, args):
            if not Stream.capturing:
                args[0][...] += 1
            Stream.captured.append(lambda: args[0].__iadd__(1))
        return add


class Event:
    def record(self, stream):
        StandIn.clock += 0.5
        self.at = StandIn.clock

    def synchronize(self):
        assert self.at


class Stream(contextlib.nullcontext):
    capturing, captured = False, []

    def synchronize(self):
        assert not Stream.capturing, "a stream that is captured cannot be waited for"

    def begin_capture(self):
        Stream.capturing, Stream.captured = True, []

    def end_capture(self):
        Stream.capturing, calls = False, Stream.captured
        return SimpleNamespace(launch=lambda stream: [call() for call in calls])


@pytest.fixture
def stand_in(monkeypatch):
    cupy = StandIn()
    monkeypatch.setattr(script_steps, "import_cupy", lambda: cupy)

    def launcher(poisoned=False):
        made = Emulator()
        made.cupy = cupy
        return made
    monkeypatch.setattr(script_steps, "Cuda", launcher)
    return cupy


def test_measuring(stand_in):
    runs = []
    found = script_steps.time_runs(stand_in, [lambda: runs.append("a"), lambda: runs.append("b")])
    assert found == {"us": 500 / 20, "spread": 0.0, "launches": 20, "replays": 40}, "0.5 ms for each pair of events"
    assert runs[1:] == ["a", "b"] * 15, "after the first, ten warm-ups and the captured ones take turns"


def test_probing_steps(stand_in):
    assert list(script_steps.graph())[0]["us_per_launch_in_graph"] == 2.5
    [row] = script_steps.bfloat16_arrays()
    assert row == {"dtype": "bfloat16", "rounds_as_numpy": True, "converts_back": True, "reshapes": True}
    assert "absent" in list(script_steps.sm_90a())[0]


@needs_compiler
def test_timing_and_comparing_steps(stand_in, monkeypatch):
    operation = next(o for o in cases.operations() if o.name == "rope")
    small = replace(operation, published={"small": operation.small[0]})
    monkeypatch.setattr(cases, "operations", lambda: [small])
    rows = list(script_steps.times("rope"))
    assert [(row["version"], row["shape"], row["sets"], row["us"]) for row in rows] == [
        ("v1", "small", 3, 25.0), ("v2", "small", 3, 25.0)]
    rows = list(script_steps.agree("rope", cases.STORAGES[-1:]))
    assert len(rows) == 4 and all(row["ok"] and json.dumps(row) for row in rows)
    monkeypatch.setattr(cases, "operations", lambda: [replace(small, expected=lambda x, cos, sin: x)])
    with pytest.raises(TinyError, match="4 cases differ"):
        list(script_steps.small())


def test_torch_is_asked_at_our_shapes():
    shapes = {o.name: list(o.published.values()) for o in cases.operations()}
    for name, peer in torch_peer.PEERS.items():
        for sizes in shapes[name]:
            inspect.signature(peer).bind(None, **sizes)


def test_measuring_torch():
    """On a stand-in whose graph replays what was captured, and whose events are half a millisecond apart."""
    cuda, runs = SimpleNamespace(), []
    cuda.Stream = cuda.current_stream = lambda: SimpleNamespace(wait_stream=lambda stream: None)
    cuda.stream = contextlib.nullcontext
    cuda.CUDAGraph = lambda: SimpleNamespace(replay=lambda: runs.append("replay"))
    cuda.graph = contextlib.nullcontext
    cuda.Event = lambda enable_timing: SimpleNamespace(record=lambda: None, synchronize=lambda: None,
                                                       elapsed_time=lambda stop: 0.5)
    found = torch_peer.time_runs(SimpleNamespace(cuda=cuda), [lambda: runs.append("a"), lambda: runs.append("b")])
    assert found == {"us": 25.0, "spread": 0.0} and runs[6:] == ["a", *"ab" * 10, *["replay"] * 81]


def test_a_failing_step_says_why(stand_in, monkeypatch, capsys):
    def fail():
        yield {"first": 1}
        raise TinyError("It is broken.", "Mend it.")
    monkeypatch.setitem(script_steps.STEPS, "fail", fail)
    assert script_steps.main(["fail"]) == 1
    assert capsys.readouterr() == ('{"first": 1}\n', "It is broken. Mend it.\n")


def test_without_the_sanitizer_that_is_said(monkeypatch):
    monkeypatch.setattr(script_steps.shutil, "which", lambda name: None)
    monkeypatch.setattr(script_steps, "Path", lambda name: SimpleNamespace(is_file=lambda: False))
    [row] = script_steps.sanitizer("memcheck")
    assert row["tool"] == "memcheck" and "not installed" in row["absent"]
