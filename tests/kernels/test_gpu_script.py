"""The script for a GPU, as far as it goes without one: the runner, the cases on the emulator, steps on a stand-in."""

import contextlib
import inspect
import json
import os
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import strict_device
from emulator_case import needs_compiler

from kernels import cases
from kernels.gpu import __main__ as gpu
from kernels.gpu import ahead, models, torch_peer, transformers_peer
from kernels.gpu import steps as script_steps
from tests.kernels.test_launch import pretended  # noqa: F401
from tiny.config import Config, MoeConfig, TinyError, VisionConfig

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
    results = gpu.run_all([gpu.Step(name, (name,), 20.0) for name in codes], path,
                          command=lambda words: python(codes[words[0]]))
    assert results["steps"]["look"]["rows"] == [{"seen": ["device", "crash"]}]
    assert json.loads(path.read_text()) == results
    assert [step["ok"] for step in results["steps"].values()] == [True, False, True]


def test_a_step_that_would_not_fit_is_left_out(tmp_path):
    steps = [gpu.Step("device", (), 20.0), gpu.Step("late", (), 20.0)]
    results = gpu.run_all(steps, tmp_path / "r.json", limit=0.5, command=lambda words: python("raise SystemExit(1)"))
    assert results["steps"]["device"]["error"] == "Left out: it may take 20 seconds, and 0 were left."
    codes = {"device": "", "hang": "import time; time.sleep(60)", "late": "", "short": ""}
    seconds = {"device": 6.0, "hang": 6.0, "late": 60.0, "short": 0.1}
    results = gpu.run_all([gpu.Step(name, (name,), seconds[name]) for name in codes], tmp_path / "r.json", limit=8.0,
                          command=lambda words: python(codes[words[0]]))
    found = results["steps"]
    assert found["device"]["ok"] and not found["hang"]["ok"] and found["hang"]["seconds"] < 20
    assert re.fullmatch(r"Left out: it may take 60 seconds, and \d were left.", found["late"]["error"])


def test_steps_that_measure_no_time_run_beside_each_other(tmp_path):
    """The next one that measures does not begin before all of them have ended; a crash costs one."""
    file = str(tmp_path / "order")
    say = f"import time; f = open({file!r}, 'a'); print('%s begins', file=f, flush=True); time.sleep(%g); " \
          "print('%s ends', file=f)"
    codes = {"device": "print('{}')", "a": say % ("a", 3, "a"), "b": say % ("b", 0, "b"),
             "crash": "import os; os._exit(1)", "time": say % ("time", 0, "time")}
    results = gpu.run_all([gpu.Step(name, (name,), 20.0, name in "a b crash") for name in codes], tmp_path / "r.json",
                          command=lambda words: python(codes[words[0]]))
    assert [name for name, step in results["steps"].items() if not step["ok"]] == ["crash"]
    said = Path(file).read_text().splitlines()
    assert said[-3:] == ["a ends", "time begins", "time ends"] and said.index("b ends") < said.index("a ends")


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


STRICT = """
import json, os, sys, tempfile
sys.path[:0] = {paths!r}
import strict_device
from kernels import launch
from tests.kernels.test_launch import PretendedNvrtc

def cubin(path, arch, defines=(), newest=None):
    handle, kept = tempfile.mkstemp(suffix=".cubin", dir={folder!r})
    with os.fdopen(handle, "w") as file:
        json.dump({{"source": str(path), "defines": list(defines)}}, file)
    return kept

launch.cubin, launch.nvrtc = cubin, lambda newest: PretendedNvrtc()
about = {{"name": b"pretended", "major": 9, "minor": 0, "totalGlobalMem": 1}}
known = strict_device.runtime.getDeviceProperties
strict_device.runtime.getDeviceProperties = lambda device: known(device) | about
sys.modules["cupy"] = strict_device
"""


@needs_compiler
@pytest.mark.thorough
def test_the_whole_script_on_the_strict_device(tmp_path):
    """Steps in their own processes, the record, the table: what `make gpu` does, with a GPU that is not there."""
    (tmp_path / "cupy.py").write_text(STRICT.format(paths=[str(ROOT), str(ROOT / "tests/helpers")],
                                                    folder=str(tmp_path)))
    done = subprocess.run([sys.executable, "-m", "kernels.gpu", "--out", str(tmp_path / "out"), "--steps",
                           "device,graph,agree rope,model int8"], cwd=ROOT, capture_output=True, text=True,
                          env=os.environ | {"PYTHONPATH": str(tmp_path)})
    assert done.returncode == 0, done.stdout + done.stderr
    steps = json.loads((tmp_path / "out/results.json").read_text())["steps"]
    assert set(steps) == {"device", "graph", "agree rope", "agree rope_table", "agree rope_2d_table",
                          "agree rope_into_cache", "model int8"}
    assert all(step["ok"] and step["rows"] for step in steps.values())
    assert "7 of 7 steps worked." in done.stdout and "cases as NumPy; largest error" in done.stdout


# ---- the plan and the table

def test_the_plan():
    steps, operations = gpu.plan(), cases.operations()
    assert steps[0].name == "device" and len({step.name for step in steps}) == len(steps)
    assert {step.words[0] for step in steps} == script_steps.STEPS.keys() - {"small"}
    for first in ("agree", "time"):
        assert [step.words[1] for step in steps if step.words[0] == first] == [o.name for o in operations]
    assert gpu.LIMIT < 8 * 60 and all(0 < step.seconds <= 120 for step in steps)
    assert {step.words[0] for step in steps if step.together} == {"bfloat16", "cubin", "sm_90a", "graph", "agree",
                                                                  "model"}, "what measures no time"


MADE_UP = {"steps": {  # No GPU has ever shown these numbers.
    "device": {"ok": True, "seconds": 1.0, "rows": [{"name": "made up"}]},
    "agree experts": {"ok": False, "seconds": 1.0, "error": "1 cases differ from NumPy.", "rows": [
        {"version": "v1", "precision": "float32", "ok": True, "error": 1e-7},
        {"version": "v1", "precision": "bfloat16", "ok": False, "error": 0.5},
        {"version": "v2", "precision": "float32", "ok": True, "refused": "not for float32"}]},
    "copy": {"ok": True, "seconds": 1.0, "rows": [{"TB_per_s": 1.5}]},
    "read": {"ok": True, "seconds": 1.0, "rows": [{"TB_per_s": 2.0}]},
    "cublas": {"ok": True, "seconds": 1.0, "rows": [{"TFLOP_per_s": 50.0}, {"TFLOP_per_s": 500.0}]},
    "time experts": {"ok": True, "seconds": 1.0, "rows": [
        {"operation": "experts", "version": "v2", "shape": "S", "bytes": 4_000_000, "flop": 5_000_000, "us": 4.0,
         "spread": 0.01},
        {"operation": "experts", "version": "v3", "shape": "L", "bytes": 4_000_000, "flop": 5_000_000_000, "us": 20.0,
         "spread": 0.01},
        {"operation": "experts", "version": "v1", "shape": "S", "refused": "too wide"}]},
    "torch": {"ok": True, "seconds": 1.0, "rows": [{"operation": "experts", "shape": "S", "us": 8.0}]},
    "speed m": {"ok": True, "seconds": 1.0, "rows": [
        {"model": "m", "layers": 3, "of": 4, "what": "weights", "bytes": 9, "seconds": 2.0},
        {"model": "m", "layers": 3, "of": 4, "what": "token", "bytes": 4_000_000_000, "ms": 4.0}]},
    "transformers m": {"ok": True, "seconds": 1.0, "rows": [
        {"model": "m", "layers": 3, "of": 4, "transformers": "0", "experts": "eager", "what": "prompt", "bytes": None,
         "ms": 8.0},
        {"model": "m", "layers": 3, "of": 4, "transformers": "0", "experts": "eager", "refused": "not captured"}]}}}


def test_the_table_of_a_made_up_result():
    rows = gpu.rows_of_table(MADE_UP)
    assert [(row["version"], row["floor_us"], row["fraction"], row["torch_us"]) for row in rows] == [
        ("v2", 2.0, 0.5, 8.0), ("v3", 10.0, 0.5, None)], "bytes / 2 TB/s, then operations / 500 TFLOP/s"
    text = gpu.show(MADE_UP | {"table": rows})
    assert "1 of 2 cases as NumPy; largest error 1.0e-07 in float32, 5.0e-01 in bfloat16" in text
    assert "50%        8.0" in text and "8 of 9 steps worked." in text and "agree experts: 1 cases differ" in text
    models = [line.split() for line in text.split("whole models, random weights:\n")[1].split("\n\n")[0].splitlines()]
    assert [line[-6:] for line in models[:2]] == [["token", "4.00", "ms", "50%", "of", "floor"],
                                                  ["prompt", "8.00", "ms", "-", "of", "floor"]]
    assert models[2] == ["m", "3", "of", "4", "layers", "transformers", "eager", "not", "captured"]


def test_without_ceilings_there_is_no_floor():
    for missing in (("copy", "read"), ("cublas",)):
        steps = {name: step for name, step in MADE_UP["steps"].items() if name not in missing}
        rows = gpu.rows_of_table({"steps": steps})
        assert [row["floor_us"] for row in rows] == [None, None]
        assert gpu.show({"steps": steps, "table": rows})


# ---- the cases

def test_every_kernel_is_found():
    for name in SOURCES:
        text = (ROOT / "kernels" / name).read_text()
        assert len(cases.kernels_of(name)) == text.count("__global__ ") > 0, name
    assert cases.versions_of("experts.cu", "experts") == ("v1", "v2", "v3", "v4")


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


# ---- the steps, on the strict device, whose time is made up: half a millisecond from event to event

def test_measuring(pretended):  # noqa: F811
    runs = []
    found = script_steps.time_runs(strict_device, [lambda: runs.append("a"), lambda: runs.append("b")])
    assert found == {"us": 500 / 20, "spread": 0.0, "launches": 20, "replays": 40}, "0.5 ms for each pair of events"
    assert runs[1:] == ["a", "b"] * 15, "after the first, ten warm-ups and the captured ones take turns"


@needs_compiler
def test_probing_steps(pretended):  # noqa: F811
    pretended["arch"] = "80"
    assert list(script_steps.graph())[0]["us_per_launch_in_graph"] == 2.5
    [row] = script_steps.bfloat16_arrays()
    assert row == {"dtype": "bfloat16", "rounds_as_numpy": True, "converts_back": True, "reshapes": True}
    assert "absent" in list(script_steps.sm_90a())[0]


@needs_compiler
@pytest.mark.parametrize("mistake", [None, "x + 4 * i + 1", "i + 1 < chunks"])
def test_what_a_kernel_can_read(pretended, monkeypatch, mistake):  # noqa: F811
    """It reads every number, which it counts: of wrong addresses and of too few numbers there is no time."""
    monkeypatch.setattr(script_steps, "READ_NUMBERS", 4 * 6000)
    monkeypatch.setattr(script_steps, "time_runs", lambda cupy, runs: {"us": 2.0})
    properties = strict_device.runtime.getDeviceProperties(0) | {"multiProcessorCount": 1}
    monkeypatch.setattr(strict_device.runtime, "getDeviceProperties", lambda device: properties)
    if mistake is None:
        assert list(script_steps.read()) == [{"us": 2.0, "bytes": 96000, "TB_per_s": 0.048}]
        return
    right = {"x + 4 * i + 1": "x + 4 * i", "i + 1 < chunks": "i < chunks"}[mistake]
    assert script_steps.READ.count(right) == 1
    monkeypatch.setattr(script_steps, "READ", script_steps.READ.replace(right, mistake))
    with pytest.raises(Exception, match="threads have read|misaligned|multiple of 16|address"):
        list(script_steps.read())


@needs_compiler
def test_timing_and_comparing_steps(pretended, monkeypatch):  # noqa: F811
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


def test_a_failing_step_says_why(monkeypatch, capsys):
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


# ---- whole models

VISION = VisionConfig(hidden_size=32, num_channels=3, image_size=16, patch_size=4, rope_theta=1e4, intermediate_size=48,
                      num_hidden_layers=2, num_attention_heads=2, image_token_id=10, max_image_size=8)
SMALL = Config(dim=64, n_layers=3, head_dim=16, hidden_dim=80, n_heads=4, n_kv_heads=2, norm_eps=1e-5, vocab_size=40,
               rope_theta=1e4, max_seq_len=64, moe=MoeConfig(4, 2))
RELEASES = {"mixtral-int8": models.Release(SMALL, "int8"),
            "pixtral-bfloat16": models.Release(replace(SMALL, moe=None, vision=VISION), "bfloat16")}


@pytest.fixture
def small_releases(pretended, monkeypatch):  # noqa: F811
    """Models of a few numbers in place of the releases, on the strict device."""
    for name, value in (("RELEASES", RELEASES), ("PROMPT", 5), ("TOKENS", 2), ("SEQUENCES", 2), ("SPARE", 0)):
        monkeypatch.setattr(models, name, value)
    return pretended


@needs_compiler
@pytest.mark.parametrize("name", ["mixtral-int8", pytest.param("pixtral-bfloat16", marks=pytest.mark.thorough)])
def test_the_speed_of_a_whole_model(small_releases, name):
    """Every row is there, has a time, and comes from kernels that ran; a graph is what makes the second token."""
    rows = list(models.speed(name))
    assert [row["what"] for row in rows] == ["weights", "prompt", "token", "token without graph",
                                             "token chosen on device", "token drawn on device", "token of 2 sequences",
                                             *["image"] * name.startswith("pixtral")]
    assert all(row["model"] == name and (row["layers"], row["of"]) == (3, 3) for row in rows)
    assert all(row["ms"] > 0 for row in rows[1:]) and all(json.dumps(row) for row in rows)
    launched = {kernel for kernel, _ in small_releases["launches"]}
    assert launched >= {"advance", "embed_v2", "experts_v4", "experts_v4_down", "linear_v3", "attention_decode_v2"}
    assert ("route_v3" in launched, "splice_v2" in launched) == (name == "mixtral-int8", name == "pixtral-bfloat16")


@needs_compiler
@pytest.mark.thorough
@pytest.mark.parametrize("form", models.AGREE)
def test_the_embedded_model_on_the_device_is_numpys(pretended, form):  # noqa: F811
    rows = list(models.agree(form))
    assert len(rows) == 9 and all(row["ok"] for row in rows)


def test_a_model_that_does_not_fit_gets_fewer_layers(monkeypatch):
    mixtral, pixtral = models.MIXTRAL_8X7B, models.PIXTRAL_12B
    assert models.fitting(mixtral, "int8", 4096, 80 * 10**9).n_layers == 32, "46.9 GB"
    assert models.fitting(mixtral, "bfloat16", 4096, 80 * 10**9).n_layers in range(20, 28), "2.9 GB each"
    assert models.fitting(mixtral, "bfloat16", 4096, 141 * 10**9).n_layers == 32, "93.4 GB"
    assert models.fitting(pixtral, "bfloat16", 4096, 80 * 10**9).n_layers == 40
    with pytest.raises(TinyError, match="Not one layer fits into 5.0 GB"):
        models.fitting(mixtral, "int8", 1, 5 * 10**9)


def test_what_a_token_must_read():
    """Of Mixtral 12.75 billion parameters and scales, of Pixtral all but embeddings and encoder; and the cache."""
    mixtral, pixtral = models.MIXTRAL_8X7B, models.PIXTRAL_12B
    assert round(models.token_bytes(mixtral, "bfloat16", 0) / 1e9, 1) == 25.5
    assert round(models.token_bytes(mixtral, "int8", 0) / 1e9, 2) == 12.76
    assert round(models.token_bytes(pixtral, "bfloat16", 0) / 1e9, 1) == 23.2
    more = models.token_bytes(mixtral, "int8", 100, 4) - models.token_bytes(mixtral, "int8", 0, 4)
    assert more == 4 * 100 * 2 * 32 * 8 * 128 * 2
    assert models.token_bytes(mixtral, "int8", 0, 4) == models.token_bytes(mixtral, "int8", 0, 100), "all experts"


def test_what_is_not_installed_is_said(monkeypatch, capsys):
    """Torch and transformers are compared with where they are; any other missing module is a failure."""
    def needs(name):
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        yield

    monkeypatch.setitem(script_steps.STEPS, "needs", needs)
    assert script_steps.main(["needs", "torch"]) == 0
    assert json.loads(capsys.readouterr().out)["absent"].startswith("torch is not installed here")
    assert script_steps.main(["needs", "regex"]) == 1


class Tensor:
    """What the sessions of torch need of a tensor."""

    shape, logits = (1, 5), property(lambda self: self)

    def argmax(self, axis):
        return self

    def copy_(self, other):
        assert isinstance(other, Tensor)


class MixtralForCausalLM:
    """What the sessions need of a model: `forward` with the cache under its name; it refuses to be captured."""

    capturing = False

    def __init__(self, config):
        self.config, self.asked = config, []

    def eval(self):
        return self

    def set_experts_implementation(self, name):
        if name == "eager":
            raise ValueError("no such way")
        self.asked.append(name)

    def __call__(self, ids, **options):
        return self.forward(ids, **options)

    def forward(self, ids, *, past_key_values, use_cache, logits_to_keep):
        if MixtralForCausalLM.capturing and self.asked[-1] == "grouped_mm":
            raise RuntimeError("not while capturing\nand more")
        return Tensor()


@contextlib.contextmanager
def capturing(graph):
    MixtralForCausalLM.capturing = True
    try:
        yield
    finally:
        MixtralForCausalLM.capturing = False


@pytest.fixture
def pretended_torch(monkeypatch):
    cuda = SimpleNamespace(mem_get_info=lambda: (10**9, 10**9), synchronize=lambda: None, graph=capturing,
                           CUDAGraph=lambda: SimpleNamespace(replay=lambda: None), stream=contextlib.nullcontext)
    cuda.Stream = cuda.current_stream = lambda: SimpleNamespace(wait_stream=lambda stream: None)
    torch = SimpleNamespace(cuda=cuda, bfloat16="bfloat16", set_default_dtype=lambda dtype: None, __version__="t",
                            no_grad=contextlib.nullcontext, device=contextlib.nullcontext,
                            full=lambda shape, value, device: Tensor(), compile=lambda forward, mode: forward,
                            randint=lambda low, high, shape, device: Tensor())
    transformers = SimpleNamespace(MixtralConfig=lambda **sizes: SimpleNamespace(**sizes), __version__="h",
                                   MixtralForCausalLM=MixtralForCausalLM,
                                   StaticCache=lambda config, max_cache_len: max_cache_len)
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "transformers", transformers)


def test_transformers_is_asked_at_our_sizes(small_releases, pretended_torch):
    """Each way to run its experts, with and without a graph; one that it does not have costs no other."""
    rows = list(transformers_peer.speed("mixtral-int8"))
    assert [(row["experts"], row.get("what", row.get("refused"))) for row in rows] == [
        *(("batched_mm", what) for what in ("prompt", "token without graph", "token")),
        *(("grouped_mm", what) for what in ("prompt", "token without graph", "not while capturing")),
        ("eager", "no such way")]
    assert all(row["layers"] == 3 and (row.get("ms", 1) > 0) and json.dumps(row) for row in rows)
    config = transformers_peer.prepared("mixtral-int8")[2].config
    assert (config.hidden_size, config.head_dim, config.num_local_experts, config.num_experts_per_tok) == (64, 16, 4, 2)
    [row] = transformers_peer.compiled("mixtral-int8")
    assert row["what"] == "token, compiled" and row["ms"] > 0


# ---- compiled ahead

def test_what_the_steps_launch_is_asked_for_without_a_gpu(small_releases, monkeypatch):
    operation = next(o for o in cases.operations() if o.name == "rope")
    monkeypatch.setattr(cases, "operations", lambda: [replace(operation, published={})])
    by_cases = {(path.name, defines): kernels for (path, defines), kernels in ahead.asked_by_cases().items()}
    assert by_cases == {("rope.cu", ("STORE=float",)): {"rope_v1", "rope_v2"},
                        ("rope.cu", ("STORE=__nv_bfloat16",)): {"rope_v1", "rope_v2"}}
    launched = set().union(*ahead.asked_by_models().values())
    assert launched >= {"experts_v4", "experts_v4_down", "linear_v3", "route_v3", "attention_v3", "splice_v2"}
    assert any(name.startswith("sample") for name in launched)


def test_all_that_is_asked_for_is_compiled(pretended, monkeypatch):  # noqa: F811
    """In other processes: a file that does not compile is named, and costs no other."""
    good, bad = (ROOT / "kernels/rope.cu", ("STORE=float",)), (ROOT / "kernels/rope.cu", ("STORE=floot",))
    monkeypatch.setattr(ahead, "asked_by_cases", lambda: {good: {"rope_v1"}})
    monkeypatch.setattr(ahead, "asked_by_models", lambda: {bad: {"rope_v1"}})
    here = contextlib.nullcontext(SimpleNamespace(map=map))
    monkeypatch.setattr(ahead, "ProcessPoolExecutor", lambda cores, how: here)
    monkeypatch.setattr(ahead, "cubin", lambda path, arch, defines, newest: refuse(defines))

    def refuse(defines):
        if defines == bad[1]:
            raise TinyError("rope.cu:1: floot is undefined.", "Correct it.")

    found = []
    with pytest.raises(TinyError, match="1 of 2 do not compile: rope.cu:1: floot is undefined."):
        found += ahead.compile_all()
    found = ahead.compile_all()
    assert next(found)["failed"] == ["rope.cu:1: floot is undefined."]
