"""The strict device against the real CuPy, which imports without a driver: names, signatures, and what can be seen so.

Runs where CuPy is installed; `.ci/run` installs it in a folder of its own.
"""

import importlib
import inspect
import re

import numpy as np
import pytest
import strict_arrays
import strict_device
import strict_queue

cupy = pytest.importorskip("cupy", reason="CuPy is not installed; pip install cupy-cuda12x needs no GPU.")
CLASSES = [(strict_device.ndarray, "ndarray"), (strict_device.Stream, "cuda.Stream"),
           (strict_device.Event, "cuda.Event"), (strict_device.Graph, "cuda.Graph"),
           (strict_device.Device, "cuda.Device"), (strict_device.RawModule, "RawModule"),
           (strict_device.RawKernel, "RawKernel"),
           (strict_arrays.MemoryPointer, "cuda.MemoryPointer"), (strict_arrays.Generator, "random.Generator"),
           (strict_queue.CUDARuntimeError, "cuda.runtime.CUDARuntimeError"),
           (strict_device.MemoryPool, "cuda.MemoryPool"),
           (strict_device.CUDADriverError, "cuda.driver.CUDADriverError"),
           (strict_arrays.OutOfMemoryError, "cuda.memory.OutOfMemoryError")]
FUNCTIONS = ["array", "asarray", "ascontiguousarray", "asnumpy", "copyto", "empty", "empty_like", "full", "ones",
             "zeros", "get_default_memory_pool", "random.default_rng", "cuda.get_current_stream",
             "cuda.get_elapsed_time"]
OBJECT = {*dir(type("Plain", (), {})), "__annotations__", "__firstlineno__", "__static_attributes__"}


def real(dotted):
    """What CuPy has of this name; `cuda.driver` and others are modules."""
    found = cupy
    for part in dotted.split("."):
        found = getattr(found, part, None) or importlib.import_module(f"{found.__name__}.{part}")
    return found


def parameters(function) -> list[tuple]:
    """Name, kind and default of each parameter, from Python or, for compiled code, from the first line of its words."""
    text = (function.__doc__ or "").strip().split("\n")[0]
    found = re.search(r"\w\((.*)\)", text)
    try:
        signature = inspect.signature(function)
    except (ValueError, TypeError):
        signature = None
    if found and (signature is None or "kwargs" in str(signature)):
        names = re.sub(r"\b(?:str|tuple|bool|int|size_t|Py_ssize_t) (\w)", r"\1", found[1].replace("\\", ""))
        space: dict = {}
        exec(f"def function({names}): pass", space)
        signature = inspect.signature(space["function"])
    assert signature is not None, f"{text!r} says no parameters"
    return [(p.name, p.kind, p.default) for p in signature.parameters.values() if p.name != "self"]


def members():
    """Every public or special name of the classes of the strict device, with where CuPy has it."""
    for ours, dotted in CLASSES:
        instance = strict_device.empty((2, 2)) if ours is strict_device.ndarray else None
        names = {*vars(ours), *(vars(instance) if instance is not None else ())} - OBJECT
        for name in sorted(name for name in names if not name.startswith("_") or name.startswith("__")):
            yield pytest.param(ours, dotted, name, id=f"{dotted}.{name}")


@pytest.mark.parametrize("ours, dotted, name", list(members()))
def test_every_member_is_cupy_s_with_its_parameters(ours, dotted, name):
    there = cupy.cuda.Stream.null if name == "ptr" and ours is strict_device.Stream else real(dotted)
    theirs, mine = getattr(there, name), getattr(ours, name, None)
    if inspect.isfunction(mine):
        assert callable(theirs)
        assert name.startswith("__") or parameters(mine) == parameters(theirs)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_function_is_cupy_s_with_its_parameters(name):
    ours = strict_device
    for part in name.split("."):
        ours = getattr(ours, part)
    assert parameters(ours) == parameters(real(name))


def test_makers_take_what_cupy_s_take():
    """Compiled classes say in their words how they are made."""
    for ours, name in ((strict_device.RawModule, "RawModule"), (strict_device.RawKernel, "RawKernel")):
        theirs = [(p[0], p[2]) for p in parameters(real(name))]
        assert [(p[0], p[2]) for p in parameters(ours.__init__)] == theirs, name
    assert [p[0] for p in parameters(strict_device.RawKernel.__call__)] == ["grid", "block", "args", "shared_mem"]
    for ours, name in ((strict_device.Stream, "cuda.Stream"), (strict_device.Event, "cuda.Event"),
                       (strict_arrays.OutOfMemoryError, "cuda.memory.OutOfMemoryError"),
                       (strict_queue.CUDARuntimeError, "cuda.runtime.CUDARuntimeError")):
        assert parameters(ours.__init__) == parameters(real(name).__init__), name
    assert "__init__(shape, dtype=float, memptr=None, strides=None, order='C')" in cupy.ndarray.__doc__
    assert [(p[0], p[2]) for p in parameters(strict_device.ndarray.__init__)] == [
        ("shape", inspect.Parameter.empty), ("dtype", float), ("memptr", None), ("strides", None), ("order", "C")]


def test_the_names_of_the_runtime_are_there_and_its_constants_are_equal():
    for name, value in vars(strict_device.cuda.runtime).items():
        theirs = getattr(cupy.cuda.runtime, name)
        assert not isinstance(value, int) or theirs == value, name
    for name in vars(strict_device.cuda):
        assert hasattr(cupy.cuda, name) or importlib.import_module(f"cupy.cuda.{name}"), name


def test_functions_of_numpy_that_reach_the_device_reach_cupy():
    """And those that wait there are functions that wait here."""
    for name in strict_arrays.FUNCTIONS | {*strict_arrays.UFUNCS.values(), *strict_arrays.COMPARISONS.values()}:
        assert callable(getattr(cupy, name)), name
    assert not hasattr(cupy, "errstate")


def test_words_and_ancestors_of_errors():
    for status, words in strict_queue.ERRORS.items():
        assert str(cupy.cuda.runtime.CUDARuntimeError(status)) == words
    for ours, dotted in CLASSES[-3:]:
        mine, theirs = ([c.__name__ for c in found.__mro__] for found in (ours, real(dotted)))
        assert mine == theirs
    assert str(cupy.cuda.memory.OutOfMemoryError(4, 8)) == str(strict_arrays.OutOfMemoryError(4, 8))
    assert int(strict_device.__version__.split(".")[0]) == int(cupy.__version__.split(".")[0])


def outcome(act) -> str:
    """The kind of an error and its words."""
    try:
        return repr(act())
    except Exception as error:
        return f"{type(error).__name__}: {error}"


@pytest.mark.parametrize("act", [
    lambda c: c.cuda.runtime.getDeviceCount(), lambda c: c.cuda.runtime.getDevice(), lambda c: c.cuda.Device(),
    lambda c: c.cuda.Device(3).id, lambda c: c.cuda.Device(3).use(), lambda c: c.cuda.Device(0).mem_info,
    lambda c: c.cuda.Device(0).compute_capability, lambda c: c.cuda.runtime.driverGetVersion(),
    lambda c: c.cuda.Stream.null.begin_capture(), lambda c: c.cuda.Stream.null.ptr, lambda c: c.cuda.Graph(),
    lambda c: c.RawModule(), lambda c: bool(c.RawModule(path="/no/such.cubin")), lambda c: c.asnumpy(np.ones(2)),
    lambda c: c.ascontiguousarray(np.ones(2))])
def test_without_a_driver_both_answer_the_same(act, monkeypatch):
    if outcome(cupy.cuda.runtime.getDeviceCount).isdigit():
        pytest.skip("There is a GPU: this is about machines without one.")
    state = strict_device.reset()
    state.update(devices=0, driver=0)
    assert outcome(lambda: act(strict_device)) == outcome(lambda: act(cupy))
    strict_device.reset()


def test_implicit_conversion_is_refused_in_cupy_s_words():
    """No array can be made without a GPU, but a method can be called."""
    theirs = outcome(lambda: cupy.ndarray.__array__(cupy.ndarray.__new__(cupy.ndarray, _no_init=True)))
    assert theirs == outcome(lambda: np.asarray(strict_device.empty(3)))
