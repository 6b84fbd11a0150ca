"""What may be missing, old or too small where a GPU is wanted: two lines each, through kernels.load and the program."""

import json
import sys

import pytest
import strict_device
from emulator_case import needs_compiler
from oracles import GOLDEN
from strict_queue import CUDARuntimeError

import kernels
import kernels.ops
import tiny
from kernels.device import gpus, memory
from kernels.launch import Cuda
from tests.kernels.test_launch import pretended  # noqa: F401
from tests.tools.test_cli import call, fails
from tiny.config import TinyError
from tiny.tools.releases import MIXTRAL_8X7B, PIXTRAL_12B

MODEL = str(GOLDEN / "mixtral-a" / "mistral")
GB = 10**9


@pytest.fixture(autouse=True)
def anew(monkeypatch):
    """No launcher of another test is found again, and none of these by another."""
    kernels.ops.device_launcher.cache_clear()
    yield
    kernels.ops.device_launcher.cache_clear()


def refused_everywhere(capsys, cause: str, remedy: str, device: str = "cuda") -> None:
    """Two lines, with these words, from kernels.load and from the command line, and status 2."""
    with pytest.raises(TinyError) as caught:
        kernels.load(MODEL, device=device)
    said = fails(capsys, ["generate", "--model", MODEL, "--prompt", "x", "--device", device], cause)
    assert said.splitlines()[-2:] == [f"error: {caught.value.cause}", f"remedy: {caught.value.remedy}"]
    assert remedy in caught.value.remedy


# ---- CuPy, driver and GPU

def test_no_cupy(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    refused_everywhere(capsys, "CuPy cannot be imported", "[cuda13]")


@pytest.mark.parametrize("body, words, remedy", [
    ("raise ImportError('====\\nFailed to import CuPy.\\n\\nA page.\\n') from ImportError('libcuda.so.1: absent')",
     "libcuda.so.1: absent", "[cuda13]"),
    ("raise AttributeError('`np.float_` was removed\\nin NumPy 2')", "`np.float_` was removed", "[cuda13]"),
    ("raise ValueError('CUPY_GPU_MEMORY_LIMIT')", "CUPY_GPU_MEMORY_LIMIT", "environment"),
    ("", "has no attribute '__version__'", "[cuda13]")], ids=["page", "old", "environment", "folder"])
def test_a_cupy_that_does_not_import(capsys, monkeypatch, tmp_path, body, words, remedy):
    """What CuPy says fills a page, which is cut; an old one fails by NumPy's names; pip leaves folders behind."""
    (tmp_path / "cupy").mkdir()
    (tmp_path / "cupy/__init__.py").write_text(body)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "cupy", raising=False)
    refused_everywhere(capsys, "CuPy cannot be imported: ", remedy)
    monkeypatch.delitem(sys.modules, "cupy", raising=False)
    with pytest.raises(TinyError) as caught:
        gpus.import_cupy()
    assert words in caught.value.cause and "\n" not in caught.value.cause
    monkeypatch.delitem(sys.modules, "cupy", raising=False)


def test_a_gpu_that_others_fill_or_hold(capsys, pretended, monkeypatch):  # noqa: F811
    def busy(self):
        raise CUDARuntimeError(2)
    monkeypatch.setattr(strict_device.Device, "mem_info", property(busy))
    refused_everywhere(capsys, "GPU 0 cannot be used: cudaErrorMemoryAllocation: out of memory", "nvidia-smi")


def test_an_old_cupy(capsys, pretended, monkeypatch):  # noqa: F811
    monkeypatch.setattr(strict_device, "__version__", "13.6.0")
    refused_everywhere(capsys, "CuPy 13.6.0 has no arrays of bfloat16", "Install CuPy 14.1 or newer")


@pytest.mark.parametrize("driver, runtime, cause, remedy", [
    (0, 13000, "This machine has no driver of NVIDIA", "--device emulator"),
    (12080, 13000, "The driver takes CUDA 12.8 at most, and this CuPy was made with CUDA 13.0.", "'.[cuda12]'"),
    (11040, 13000, "The driver takes CUDA 11.4 at most", "Install a driver for CUDA 13.0."),
    (11080, 12090, "this CuPy was made with CUDA 12.9.", "Install a driver for CUDA 12.9.")])
def test_a_driver_that_is_missing_or_older_than_the_toolkit(capsys, pretended, driver, runtime, cause, remedy):  # noqa: F811
    pretended.update(devices=0, driver=driver, runtime=runtime)
    refused_everywhere(capsys, cause, remedy)


def test_no_gpu(capsys, pretended, monkeypatch):  # noqa: F811
    def none():
        raise CUDARuntimeError(100)
    monkeypatch.setattr(strict_device.cuda.runtime, "getDeviceCount", none)
    refused_everywhere(capsys, "CuPy finds no GPU: cudaErrorNoDevice: no CUDA-capable device", "CUDA_VISIBLE_DEVICES")
    monkeypatch.setattr(strict_device.cuda.runtime, "getDeviceCount", lambda: 0)
    refused_everywhere(capsys, "CuPy finds no GPU.", "--device emulator")


def test_a_gpu_that_the_kernels_or_the_compiler_do_not_know(capsys, pretended):  # noqa: F811
    pretended["arch"] = "75"
    refused_everywhere(capsys, "sm_75 is older than sm_80", "--device emulator")
    pretended["arch"] = "130"
    refused_everywhere(capsys, "does not compile for sm_130", "wheels")


# ---- several GPUs

def test_a_gpu_is_chosen_by_its_number(pretended):  # noqa: F811
    pretended["devices"] = 2
    assert kernels.ops.device_launcher("cuda").device == "GPU 0", "CuPy's current one"
    launcher = kernels.ops.device_launcher("cuda:1")
    assert launcher.device == "GPU 1" and launcher is kernels.ops.device_launcher("cuda:1")
    assert strict_device.cuda.Device().id == 1, "it is the current one now"
    assert Cuda().device == "GPU 1"
    with strict_device.cuda.Device(0):
        assert launcher.empty((3,), "f4").data.device_id == 1, "whatever is current"
        assert launcher.put(strict_device.np.ones(3)).data.device_id == 1


@needs_compiler
def test_kernels_run_on_the_gpu_of_their_launcher(pretended):  # noqa: F811
    pretended["devices"] = 2
    model = kernels.load(MODEL, device="cuda:1", kernels=["rms_norm"])
    with strict_device.cuda.Device(0):
        assert model([1, 2]).shape == (2, model.config.vocab_size)


def test_a_gpu_that_is_not_there(capsys, pretended):  # noqa: F811
    refused_everywhere(capsys, "There is no GPU 1: CuPy sees one, cuda:0.", "CUDA_VISIBLE_DEVICES", device="cuda:1")
    pretended["devices"] = 2
    refused_everywhere(capsys, "There is no GPU 2: CuPy sees 2, cuda:0 to cuda:1.", "Name one", device="cuda:2")


@pytest.mark.parametrize("device", ["cuda:", "cuda:x", "cuda:-1", "gpu", "CUDA", "cuda:0:1", "emulator:0", None, 0, ""])
def test_names_that_are_no_device(device):
    with pytest.raises(TinyError, match="The device .* is unknown") as caught:
        kernels.load(MODEL, device=device)
    assert "'cuda:1'" in caught.value.remedy


def test_the_command_line_knows_names_of_devices(capsys):
    for name in ("cuda:", "tpu", "cuda:x"):
        fails(capsys, ["generate", "--model", MODEL, "--prompt", "x", "--device", name], "--device", f"'{name}'")


# ---- memory

def test_memory_that_runs_out_is_two_lines(pretended):  # noqa: F811
    gpu = Cuda()
    pretended["memory"] = 1000
    for make in (lambda: gpu.empty((1001,), "u1"), lambda: gpu.put(strict_device.np.ones(126))):
        with pytest.raises(TinyError, match="The memory of the GPU is full: Out of memory allocating 1,0"):
            make()


@needs_compiler
def test_the_limit_that_cupy_has_is_what_is_free(pretended):  # noqa: F811
    """CUPY_GPU_MEMORY_LIMIT: what CuPy holds already counts, and no weight is uploaded in vain."""
    pretended["limit"] = needed("bfloat16", 10)
    gpu = kernels.ops.device_launcher("cuda")
    held = gpu.empty((1000,), "u1")
    assert gpu.free_bytes() == pretended["limit"] - held.nbytes
    del held
    model = kernels.load(MODEL, device="cuda")
    with pytest.raises(TinyError, match=r"and 11 tokens \(.*of GPU 0 are free"):
        model.new_cache(11)
    assert model([1, 2, 3], cache=model.new_cache(10), last_only=True).shape[0] == 1


def needed(form: str, tokens: int, precision: str = "float32", sequences: int = 1) -> int:
    return memory.need(tiny.load(MODEL).config, form, tokens, precision, (), sequences).total


def test_too_little_memory_is_said_before_anything_is_uploaded(capsys, pretended):  # noqa: F811
    """By kernels.load, where not even one token fits; by new_cache and the command line, for a whole run."""
    pretended["memory"] = needed("bfloat16", 1) - 1
    refused_everywhere(capsys, "Weights as bfloat16", "What fits: weights as int8")
    pretended["memory"] = needed("bfloat16", 10)
    model = kernels.load(MODEL, device="cuda")
    with pytest.raises(TinyError, match=r"and 11 tokens \(.*of GPU 0 are free") as caught:
        model.new_cache(11)
    assert caught.value.remedy.startswith("What fits: at most 10 tokens; or weights as int8")
    ask = ["generate", "--model", MODEL, "--prompt", "x", "--device", "cuda", "--max-tokens", "40"]
    assert "at most 10 tokens" in fails(capsys, ask, "Weights as")
    assert pretended["uploads"] == 0 == pretended["allocations"]
    model.new_cache(10)
    pretended["memory"] = needed("bfloat16", 10, sequences=2)
    with pytest.raises(TinyError, match="and 11 tokens") as caught:
        model.new_cache([5, 6])
    assert caught.value.remedy.startswith("What fits: at most 10 tokens")


@needs_compiler
def test_a_run_takes_no_more_than_was_said(pretended):  # noqa: F811
    """Weights to the byte; with the arrays of a pass it is less than was said, and more than half of it."""
    for form in ("bfloat16", "int8"):
        pretended["memory"] = said = needed(form, 30, "bfloat16")
        model = kernels.load(MODEL, device="cuda", precision="bfloat16", weights=form)
        cache = model.new_cache(30)
        held = pretended["held"]
        for name in model.weights:
            model.weights[name]
        assert pretended["held"] - held == memory.weight_bytes(model.config, form)
        model(list(range(1, 25)), cache=cache, last_only=True)
        for _ in range(3):
            model([7], cache=cache, last_only=True)
        assert said / 2 < pretended["peak"] <= said
        strict_device.reset()
        kernels.ops.device_launcher.cache_clear()


@needs_compiler
@pytest.mark.parametrize("choose", [False, True])
def test_a_batch_takes_no_more_than_was_said(pretended, choose):  # noqa: F811
    """Texts end one after another, so that each number of them is a step of its own; the graphs of two are kept."""
    model = kernels.load(MODEL, device="cuda", precision="bfloat16", weights="int8")
    for name in model.weights:
        model.weights[name]
    prompts = [[1, 7, 20 + n] for n in range(12)]
    said = needed("int8", 12 * 15, "bfloat16", 12)
    for _ in range(2):
        cache = model.new_cache([len(ids) + 12 for ids in prompts])
        pretended["peak"] = 0
        model([id for ids in prompts for id in ids], cache=cache, lengths=[3] * 12, last_only=True)
        for n in range(12, 0, -1):
            part = cache.subset(range(n))
            model.choose(part, [5] * n) if choose else model([5] * n, cache=part, lengths=[1] * n, last_only=True)
            assert len(cache.steps) <= memory.STEPS
        assert said / 2 < pretended["peak"] <= said
        del cache, part


@needs_compiler
def test_the_command_line_writes_the_text_of_the_cpu_on_a_gpu(capsys, pretended):  # noqa: F811
    ask = ["generate", "--model", MODEL, "--prompt", "One day", "--max-tokens", "4", "--json"]
    said, ours = (json.loads(call(capsys, *ask, *more)[0]) for more in ((), ("--device", "cuda:0")))
    assert ours["device"] == "cuda:0" and ours["ids"] == said["ids"] and pretended["replays"] == 2
    out, notes, _ = call(capsys, *ask, "--device", "cuda", "--weights", "int8")
    assert json.loads(out)["weights"] == "int8"


def test_what_images_take():
    """The encoder and the adapter, for one image at a time, and the vectors of one image that wait."""
    small, large = (memory.need(PIXTRAL_12B, "bfloat16", 4500, patches=[4096] * n).work for n in (1, 4))
    assert memory.need(PIXTRAL_12B, "bfloat16", 4500).work < small == large
    assert small < 2 * GB


def test_what_weights_take():
    """Of the stored models: what is in the files, in bfloat16 and float32; int8 as `kernels.int8` makes it."""
    from kernels.int8 import int8_model
    for name in ("tiny-mixtral", "tiny-pixtral"):
        model = tiny.load(name, weights="mapped")
        sizes = [model.weights.tensors[key] for key in model.weights.tensors]
        assert memory.weight_bytes(model.config, "bfloat16") == 2 * sum(tensor.size for tensor in sizes)
        assert memory.weight_bytes(model.config, "float32") == 4 * sum(tensor.size for tensor in sizes)
        small = int8_model(model).weights
        kept = sum(2 * tensor.size for tensor in small.kept.values())
        parts = sum(whole.nbytes + scale.nbytes for whole, scale in small.parts.values())
        assert memory.weight_bytes(model.config, "int8") == kept + parts


def test_what_a_card_of_80_gb_takes():
    """Mixtral in bfloat16 does not fit and is told that int8 does, with the whole context; Pixtral fits."""
    memory.require_room(PIXTRAL_12B, "bfloat16", 16384, 80 * GB)
    memory.require_room(MIXTRAL_8X7B, "int8", 32768, 80 * GB)
    with pytest.raises(TinyError, match=r"Weights as bfloat16 \(93.4 GB\) and 4,096 tokens") as caught:
        memory.require_room(MIXTRAL_8X7B, "bfloat16", 4096, 80 * GB, device="GPU 0")
    assert caught.value.cause.endswith("need 94.3 GB; 80.0 GB of GPU 0 are free.")
    assert caught.value.remedy == "What fits: weights as int8, 46.9 GB, with up to 32,768 tokens."


def test_what_fits_is_said():
    config = tiny.load("tiny-mixtral", weights="mapped").config
    weights = {form: memory.weight_bytes(config, form) for form in ("float32", "bfloat16", "int8")}
    full = memory.need(config, "bfloat16", 512).total
    memory.require_room(config, "bfloat16", 512, full)
    with pytest.raises(TinyError, match="Weights as bfloat16 .* and 512 tokens .* of the GPU are free") as caught:
        memory.require_room(config, "bfloat16", 512, full - 1)
    assert caught.value.remedy.startswith("What fits: at most 511 tokens; or weights as int8")
    with pytest.raises(TinyError) as caught:
        memory.require_room(config, "bfloat16", 4, weights["bfloat16"])
    assert caught.value.remedy.startswith("What fits: weights as int8") and "up to" in caught.value.remedy
    with pytest.raises(TinyError) as caught:
        memory.require_room(config, "bfloat16", 4, weights["int8"])
    assert "No form of these weights fits" in caught.value.remedy


@pytest.mark.parametrize("form", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("tokens", [1, 2, 100, 3000])
def test_the_most_tokens_are_the_most(form, tokens):
    config = tiny.load("tiny-mixtral", weights="mapped").config
    free = memory.need(config, form, tokens).total
    assert memory.most_tokens(config, form, free) == tokens
    assert memory.most_tokens(config, form, free - 1) == tokens - 1


def test_the_words_of_an_old_driver():
    assert gpus.no_driver(12020, 13000).cause.startswith("The driver takes CUDA 12.2 at most")
