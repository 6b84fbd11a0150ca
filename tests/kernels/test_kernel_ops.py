"""The seam: the same names and signatures, kernels by name, arrays of both devices, weights uploaded once, the CLI."""

import ast
import inspect
import json
import subprocess
import sys

import numpy as np
import pytest
import strict_device
from compare import assert_close
from emulator_case import needs_compiler
from oracles import GOLDEN, ROOT
from tolerances import ORACLE

import kernels
import kernels.ops
import tiny
from kernels.launch import Cuda, Emulator
from tests.kernels.test_launch import pretended  # noqa: F401
from tests.tools.test_cli import call, fails
from tiny.config import TinyError

MODEL = str(GOLDEN / "mixtral-a" / "mistral")
FIVE = ["attention", "experts", "rms_norm", "rope", "route"]
IDS = [1, 20, 7, 33, 5]


# ---- names

def test_both_modules_agree_name_for_name_and_signature_for_signature():
    assert kernels.ops.__all__ == tiny.ops.__all__
    for name in tiny.ops.__all__:
        ours, theirs = getattr(kernels.ops, name), getattr(tiny.ops, name)
        assert inspect.signature(ours) == inspect.signature(theirs), name
        assert (ours is theirs) == (name not in FIVE), name
    assert sorted(kernels.ops.SHIPPED) == FIVE


def test_the_shipped_versions_are_there():
    for name, shipped in kernels.ops.SHIPPED.items():
        source = (ROOT / "kernels" / f"{name}.cu").read_text(encoding="utf-8")
        for version in shipped.values() if isinstance(shipped, dict) else [shipped]:
            assert version is None or f"{name}_{version}(" in source


def test_importing_kernels_imports_nothing_and_gives_no_version():
    code = ("import sys; before = set(sys.modules); import kernels; "
            "print(sorted(set(sys.modules) - before), hasattr(kernels, '__version__'))")
    child = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert child.stdout == "['kernels'] False\n"


def test_importing_the_seam_needs_neither_cupy_nor_compiler():
    code = "import sys, kernels.ops; print({'cupy', 'kernels.emulator', 'subprocess'} & set(sys.modules))"
    child = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert child.stdout in ("set()\n", "{'subprocess'}\n")


def test_arrows_point_from_kernels_to_tiny():
    """kernels knows the book and the command line's manners; nothing of tiny knows kernels, except __main__."""
    for path in (ROOT / "kernels").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else \
                [node.module] if isinstance(node, ast.ImportFrom) else []
            assert not any(name.split(".")[0] in ("tests", "conftest", "compare", "tutorial") for name in names), path


# ---- choosing

@needs_compiler
def test_only_what_is_named_runs_as_a_kernel():
    chosen = kernels.ops.choose(["rope", "rms_norm"], "emulator")
    assert chosen.kernels == ["rms_norm", "rope"]
    for name in tiny.ops.__all__:
        ours, theirs = getattr(chosen, name), getattr(tiny.ops, name)
        assert (ours is theirs) == (name not in ("rope", "rms_norm")), name
        assert inspect.signature(ours) == inspect.signature(theirs), name
    assert kernels.ops.choose("all", "emulator").kernels == FIVE == kernels.ops.choose(FIVE[::-1], "emulator").kernels
    assert kernels.ops.choose("none", "emulator").kernels == [] == kernels.ops.choose([], "emulator").kernels
    assert kernels.ops.choose("route,experts", "emulator").kernels == ["experts", "route"]


@pytest.mark.parametrize("names", ["softmax", ["rope", "softmax"], "rope,", "", "linear"])
def test_an_unknown_kernel_is_refused_with_the_list(names):
    with pytest.raises(TinyError, match="There is no kernel") as caught:
        kernels.ops.choose(names, "emulator")
    assert caught.value.remedy == "Use attention, experts, rms_norm, rope, route; or all, or none."


def test_an_unknown_device_is_refused():
    with pytest.raises(TinyError, match="device 'tpu' is unknown") as caught:
        kernels.load(MODEL, device="tpu")
    assert "'cuda', 'emulator'" in caught.value.remedy


# ---- arguments of small operations

def small_case() -> dict[str, tuple]:
    """Arguments of the five operations, small."""
    random = np.random.default_rng(5)

    def draw(*shape):
        return random.standard_normal(shape, dtype=np.float32)

    cos, sin = tiny.ops.rope_table(np.arange(3), 16, 1e4)
    matrices = [[draw(*shape) / np.float32(5) for _ in range(4)] for shape in ((24, 32), (32, 24), (24, 32))]
    expert_ids, expert_weights = np.array([[0, 3], [3, 1], [0, 1]]), np.full((3, 2), 0.5, np.float32)
    return {"rms_norm": (draw(3, 32), draw(32), 1e-5), "rope": (draw(3, 2, 16), cos, sin),
            "route": (draw(3, 32), draw(4, 32), 2), "experts": (draw(3, 32), expert_ids, expert_weights, *matrices),
            "attention": (draw(3, 4, 16), draw(3, 2, 16), draw(3, 2, 16), [2, 1], [(0, 2), (2, 3)])}


def compare(name: str, results, expected) -> None:
    results, expected = (x if isinstance(x, tuple) else (x,) for x in (results, expected))
    for n, (actual, want) in enumerate(zip(results, expected, strict=True)):
        assert actual.dtype == want.dtype
        assert_close(actual, want, atol=4e-6, name=f"{name} {n}")  # measured: at most 9.6e-7, the router's logits


@needs_compiler
@pytest.mark.parametrize("name", FIVE)
def test_numpy_arrays_go_through_the_emulator(name):
    args = small_case()[name]
    result = getattr(kernels.ops, name)(*args)
    compare(name, result, getattr(tiny.ops, name)(*args))


@needs_compiler
@pytest.mark.parametrize("name", FIVE)
def test_cupy_arrays_stay_on_the_gpu(name, pretended, monkeypatch):  # noqa: F811
    """Every line of the GPU path, from the seam to the launch: no argument meets NumPy on its way."""
    gpu = Cuda(poisoned=True)
    monkeypatch.setattr(kernels.ops, "device_launcher", {"cuda": gpu}.__getitem__)
    args = small_case()[name]
    placed = [[gpu.put(item) for item in arg] if isinstance(arg, list) and isinstance(arg[0], np.ndarray)
              else gpu.put(arg) if isinstance(arg, np.ndarray) else arg for arg in args]
    for precision in ("float32", "bfloat16"):
        result = getattr(kernels.ops, name)(*placed, precision=precision)
        many = result if isinstance(result, tuple) else (result,)
        assert all(isinstance(x, strict_device.ndarray) for x in many)
        if precision == "float32":
            compare(name, tuple(map(gpu.get, many)), getattr(tiny.ops, name)(*args))
    assert pretended["launches"]


@needs_compiler
@pytest.mark.parametrize("name", FIVE)
def test_a_model_s_operations_bring_arrays_there_and_back(name, pretended):  # noqa: F811
    """As a model calls them: NumPy arrays in and out, the second time without the weights."""
    args = small_case()[name]
    operation = getattr(kernels.ops.choose([name], Cuda()), name)
    expected, uploads = getattr(tiny.ops, name)(*args), []
    for _ in range(2):
        pretended["uploads"] = 0
        compare(name, operation(*args), expected)
        uploads.append(pretended["uploads"])
    weights = args[1:2] if name in ("rms_norm", "route") else sum(args[3:], []) if name == "experts" else []
    tables = 3 * 4 * 8 if name == "experts" else 0  # of pointers, which are kept too
    assert uploads[0] - uploads[1] == sum(weight.nbytes for weight in weights) + tables


def without_tokens(name: str) -> tuple:
    """The arguments of `small_case` with T = 0."""
    def cut(key, value):
        rows = {"x", "q", "cos", "sin", "expert_ids", "expert_weights", "lengths", "spans"}
        return value[:0] if key in rows else value

    names = inspect.signature(getattr(tiny.ops, name)).parameters
    return tuple(cut(key, value) for key, value in zip(names, small_case()[name]))


def outcome(function, args) -> list | str:
    """Types and shapes of what a function returns, or the words of its ValueError."""
    try:
        result = function(*args)
    except ValueError as error:
        return str(error)
    return [(x.dtype, x.shape) for x in (result if isinstance(result, tuple) else (result,))]


@needs_compiler
@pytest.mark.parametrize("name", FIVE)
def test_without_tokens_kernels_do_what_the_book_does(name):
    """An empty result; attention, which is about sequences, refuses in the same words to have none."""
    args = without_tokens(name)
    expected = outcome(getattr(tiny.ops, name), args)
    for precision in ("float32", "bfloat16"):
        assert outcome(getattr(kernels.ops, name), (*args, *[True] * (name == "attention"), precision)) == expected
    assert isinstance(expected, str) == (name == "attention")


@needs_compiler
def test_weights_are_the_same_array_at_the_same_address_only():
    class Counting(Emulator):
        puts = 0

        def put(self, array):
            self.puts += 1
            return array

    weights = kernels.ops.DeviceWeights(launcher := Counting())
    weight = np.ones((4, 4), np.float32)
    assert weights.put(weight) is weights.put(weight) and launcher.puts == 1
    weights.put(weight[:]), weights.put(weight[:2]), weights.put(weight.T), weights.put(weight.view(np.int32))
    assert launcher.puts == 4 and len(weights.arrays) == 4


@needs_compiler
def test_keywords_work_as_in_the_book():
    q, keys, values, lengths, spans = small_case()["attention"]
    chosen = kernels.ops.choose(["attention"], "emulator")
    result = chosen.attention(q=q, keys=keys, values=values, lengths=lengths, spans=spans, causal=False)
    compare("attention", result, tiny.ops.attention(q, keys, values, lengths, spans, causal=False))
    with pytest.raises(TypeError, match="missing a required argument: 'keys'"):
        chosen.attention(q)


# ---- models

@needs_compiler
@pytest.mark.parametrize("names", ["none", ["rms_norm"], "all"])
def test_a_model_with_kernels_gives_the_logits_of_the_book(names):
    model = kernels.load(MODEL, device="emulator", kernels=names)
    assert_close(model(IDS), tiny.load(MODEL)(IDS), atol=ORACLE["logits"], name=f"logits with {names}")


@needs_compiler
def test_a_model_on_the_pretended_gpu(pretended, monkeypatch):  # noqa: F811
    monkeypatch.setattr(kernels.ops, "device_launcher", {"cuda": Cuda()}.__getitem__)
    model = kernels.load(MODEL, device="cuda")
    cache = model.new_cache(8)
    expected = tiny.load(MODEL)(IDS)
    assert_close(model(IDS[:4], cache=cache), expected[:4], atol=ORACLE["logits"], name="prompt")
    assert_close(model(IDS[4:], cache=cache), expected[4:], atol=ORACLE["logits"], name="next token")
    assert {name.split("_v")[0] for name, _ in pretended["launches"]} >= {*FIVE, "attention_decode"}


# ---- the command line

@needs_compiler
def test_generate_on_the_emulator_writes_the_text_of_the_cpu(capsys):
    ask = ["generate", "--model", MODEL, "--prompt", "One day", "--max-tokens", "3", "--json"]
    said = json.loads(call(capsys, *ask)[0])
    assert (said["device"], said["kernels"]) == ("cpu", [])
    out, notes, _ = call(capsys, *ask, "--device", "emulator", "--kernels", "rope,rms_norm")
    assert "note: as kernels on device emulator: rms_norm, rope" in notes
    ours = json.loads(out)
    assert (ours["device"], ours["kernels"]) == ("emulator", ["rms_norm", "rope"])
    assert ours["text"] == said["text"] and ours["ids"] == said["ids"]
    out, notes, _ = call(capsys, *ask, "--device", "emulator", "--weights", "int8")
    ours = json.loads(out)
    assert "weights int8" in notes[0] and notes[1] == "note: as kernels on device emulator: all"
    assert (ours["weights"], ours["kernels"], len(ours["ids"])) == ("int8", ["all"], 3)


def test_bad_use_of_the_command_line(capsys, monkeypatch):
    ask = ["generate", "--model", MODEL, "--prompt", "x"]
    assert "--device emulator" in fails(capsys, [*ask, "--kernels", "rope"], "--kernels does nothing on the CPU")
    assert "attention, experts" in fails(capsys, [*ask, "--device", "emulator", "--kernels", "rope,dot"], "'dot'")
    assert "--device emulator" in fails(capsys, [*ask, "--weights", "int8"], "--weights int8 is a form for kernels")
    fails(capsys, [*ask, "--device", "emulator", "--kernels", ""], "--kernels: it is empty")
    assert "attention, experts" in fails(capsys, [*ask, "--device", "emulator", "--kernels", ","], "no kernel ''")
    fails(capsys, [*ask, "--device", "tpu"], "--device", "'emulator'")
    kernels.ops.device_launcher.cache_clear()
    monkeypatch.setitem(sys.modules, "cupy", None)
    assert "[cuda13]" in fails(capsys, ["chat", "--model", MODEL, "--device", "cuda"], "CuPy cannot be imported")
    monkeypatch.setenv("PATH", "")
    assert "apt-get" in fails(capsys, [*ask, "--device", "emulator"], "g++")
    monkeypatch.setitem(sys.modules, "kernels.ops", None)
    assert "pip install -e ." in fails(capsys, [*ask, "--device", "emulator"], "cannot be imported")
