"""The strict device keeps the rules of CuPy and of CUDA's captures: each rule has a test that fails without it."""

import numpy as np
import pytest
import strict_device
from compare import assert_close
from emulator_case import needs_compiler
from strict_device import cuda
from strict_queue import CUDARuntimeError, Stream

from kernels import launch
from tests.kernels.test_launch import pretended, source  # noqa: F401

pytestmark = needs_compiler
SIZE = 64


def same(array, expected) -> None:
    assert_close(array, np.asarray(expected, array.dtype), atol=0, name="numbers")


def unknown(array) -> bool:
    """Whether an array holds poison, and nothing else."""
    return bool(np.isnan(array).all())


class Case:
    """A launcher on the strict device, an input of ones, two outputs, and a kernel that doubles."""

    def __init__(self, path, state):
        self.gpu, self.source, self.state = launch.Cuda(), path, state
        self.x = self.gpu.put(np.ones(SIZE, np.float32))
        self.out, self.next = (self.gpu.empty((SIZE,), np.float32) for _ in range(2))
        self.double(self.x, self.next)  # so that the kernel is loaded
        cuda.Device().synchronize()
        self.stream = cuda.Stream(non_blocking=True)
        self.counted = dict(state)

    def double(self, x, out, factor=2):
        self.gpu.launch(self.source, "scale", (1,), (SIZE,), (x, out, np.int32(SIZE), np.float32(factor)))

    def since(self, name):
        return self.state[name] - self.counted[name]

    def capture(self, *steps):
        with self.stream:
            self.stream.begin_capture()
            for step in steps:
                step()
            return self.stream.end_capture()


@pytest.fixture
def case(source, pretended):  # noqa: F811
    return Case(source, pretended)


# ---- when work happens

def test_a_missing_wait_shows(case):
    case.double(case.x, case.out)
    early = case.out.get(blocking=False)
    assert unknown(early)
    assert case.since("waits") == 0
    cuda.Stream.null.synchronize()
    same(early, [2] * SIZE)
    assert case.since("waits") == 1 and case.since("downloads") == 4 * SIZE


def test_get_waits(case):
    case.double(case.x, case.out)
    same(case.gpu.get(case.out), [2] * SIZE)
    assert case.since("waits") == 1 and case.since("uploads") == 0 == case.since("allocations")


def test_work_of_another_stream_has_not_happened_unless_an_event_says_so(case):
    with case.stream:
        case.double(case.x, case.out)
    other = cuda.Stream(non_blocking=True)
    assert unknown(case.out.get(stream=other)), "nothing orders the two streams"
    event = case.stream.record()
    assert not event.done and not case.stream.done
    other.wait_event(event)
    same(case.out.get(stream=other), [2] * SIZE)
    assert event.done


@pytest.mark.parametrize("non_blocking", [False, True])
def test_the_legacy_stream_and_blocking_streams_wait_for_each_other(case, non_blocking):
    stream = cuda.Stream(non_blocking=non_blocking)
    with stream:
        case.double(case.x, case.out)
    assert unknown(case.out.get()) == non_blocking
    late = case.gpu.empty((SIZE,), np.float32)
    case.double(case.x, late)
    assert unknown(late.get(stream=stream)) == non_blocking
    with stream:
        case.double(case.x, case.next, 7)
    last = case.gpu.empty((SIZE,), np.float32)
    case.double(case.next, last)
    other = last.get(stream=cuda.Stream(non_blocking=non_blocking))  # behind the legacy stream, and it behind the first
    assert unknown(other) if non_blocking else (other == 14).all()


def test_an_upload_takes_the_numbers_of_its_moment(case):
    host = np.ones(SIZE, np.float32)
    case.out.set(host)
    there = strict_device.asarray(host)
    host[:] = 3
    same(case.out.get(), [1] * SIZE)
    same(there.get(), [1] * SIZE)
    assert case.since("uploads") == 2 * 4 * SIZE and case.since("allocations") == 1


def test_new_memory_is_poison(case):
    assert unknown(strict_device.empty(3, np.float32).get())
    assert (strict_device.empty((2, 2), np.int32).get() > 2**29).all()
    same(strict_device.zeros(3, np.float32).get(), [0, 0, 0])


def test_memory_is_freed_with_its_last_array_and_runs_out(case):
    held = case.state["held"]
    array = strict_device.empty(1000, np.float32)
    part = array[10:]
    del array
    assert case.since("held") == 4000 and part.data.ptr % 256 == 40
    del part
    assert case.state["held"] == held
    case.state["memory"] = held + 4000
    assert cuda.Device().mem_info == (4000, held + 4000)
    with pytest.raises(MemoryError, match="Out of memory allocating 4,004 bytes"):
        strict_device.empty(1001, np.float32)


# ---- captures

def test_a_graph_runs_when_it_is_launched_and_as_often(case):
    graph = case.capture(lambda: case.double(case.x, case.out), lambda: case.double(case.out, case.next))
    assert unknown(case.out.get(stream=case.stream)), "captured is not launched"
    for factor in (1, 5):
        case.x.fill(factor)
        cuda.Device().synchronize()
        graph.launch(case.stream)
        assert unknown(case.next.get(case.stream, blocking=False)) or factor == 5
        case.stream.synchronize()
        same(case.next.get(), [4 * factor] * SIZE)
    assert case.since("replays") == 2


def test_a_replay_finds_scratch_poisoned(case):
    """A step that reads what the last one left would be right without this."""
    case.out.set(np.ones(SIZE, np.float32))
    stale = case.capture(lambda: case.double(case.out, case.next), lambda: case.double(case.x, case.out))
    right = case.capture(lambda: case.double(case.x, case.out), lambda: case.double(case.out, case.next))
    cuda.Device().synchronize()
    for graph, poisoned, bad in ((stale, (), False), (stale, (case.out,), True), (right, (case.out,), False)):
        with strict_device.scratch(*poisoned):
            graph.launch(case.stream)
            assert unknown(case.next.get(case.stream)) == bad


def test_a_graph_does_not_hold_its_memory(case):
    graph = case.capture(lambda: case.double(case.x, case.out))
    case.x = None
    graph.launch(case.stream)
    with pytest.raises(CUDARuntimeError, match="cudaErrorIllegalAddress"):
        case.stream.synchronize()


FORBIDDEN = {
    "an allocation": (lambda case: case.gpu.empty((4,), np.float32), "cudaErrorStreamCaptureUnsupported", True),
    "asarray": (lambda case: case.gpu.put(np.ones(3)), "cudaErrorStreamCaptureUnsupported", True),
    "an index of the host": (lambda case: case.x[np.array([1])], "cudaErrorStreamCaptureUnsupported", True),
    "arithmetic": (lambda case: case.x + case.x, "cudaErrorStreamCaptureUnsupported", True),
    "an upload": (lambda case: case.out.set(np.ones(SIZE, np.float32)), "H2D transfers are disallowed", False),
    "a download": (lambda case: case.gpu.get(case.out), "D2H transfers are disallowed", False),
    "a number": (lambda case: float(case.x[0]), "D2H transfers are disallowed", False),
    "a wait": (lambda case: case.stream.synchronize(), "cudaErrorStreamCaptureUnsupported", True),
    "a look": (lambda case: case.stream.done, "cudaErrorStreamCaptureUnsupported", True),
    "a wait for the device": (lambda case: cuda.Device().synchronize(), "cudaErrorStreamCaptureUnsupported", True),
    "a module": (lambda case: launch.Cuda().launch(case.source, "scale", (1,), (1,), (
        case.x, case.out, np.int32(1), np.float32(1))), "cudaErrorStreamCaptureUnsupported", True),
    "work outside": (lambda case: case.stream.wait_event(Stream.null.record()), "CaptureIsolation", True),
    "a second capture": (lambda case: case.stream.begin_capture(), "cudaErrorIllegalState", False),
    "an event": (lambda case: case.stream.record().synchronize(), "cudaErrorCapturedEvent", False),
}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_what_may_not_happen_while_a_stream_captures(case, what):
    """It fails then, and what CUDA itself refuses also spoils the capture."""
    act, match, spoils = FORBIDDEN[what]
    with case.stream:
        case.stream.begin_capture()
        case.double(case.x, case.out)
        with pytest.raises(RuntimeError, match=match):
            act(case)
        if not spoils:
            case.stream.end_capture().launch()
        else:
            with pytest.raises(CUDARuntimeError, match="cudaErrorStreamCaptureInvalidated"):
                case.double(case.x, case.out)
            with pytest.raises(RuntimeError, match="an error has invalidated the capture"):
                case.stream.is_capturing()
            with pytest.raises(CUDARuntimeError, match="cudaErrorStreamCaptureInvalidated"):
                case.stream.end_capture()
        assert not case.stream.is_capturing()
        act(case) if what not in ("a second capture", "work outside") else None


def test_captures_and_the_legacy_stream(case):
    with pytest.raises(RuntimeError, match="cannot capture on the default"):
        cuda.Stream.null.begin_capture()
    with pytest.raises(CUDARuntimeError, match="cudaErrorIllegalState"):
        case.stream.end_capture()
    case.stream.begin_capture()
    case.double(case.x, case.out)
    same(case.out.get(), [2] * SIZE)  # a stream that does not block lets the legacy one work
    case.stream.end_capture()
    blocking = cuda.Stream()
    blocking.begin_capture()
    with pytest.raises(CUDARuntimeError, match="cudaErrorStreamCaptureImplicit"):
        case.double(case.x, case.out)
    with pytest.raises(CUDARuntimeError, match="cudaErrorStreamCaptureInvalidated"):
        blocking.end_capture()
    with pytest.raises(NotImplementedError, match="created via stream capture"):
        cuda.Graph()


# ---- arrays

def test_arrays_meet_only_their_own_kind(case):
    host = np.ones(SIZE, np.float32)
    with pytest.raises(TypeError, match="Implicit conversion to a NumPy array is not allowed"):
        np.asarray(case.x)
    with pytest.raises(TypeError, match="Implicit conversion"):
        np.ascontiguousarray(case.x)
    with pytest.raises(ValueError, match="non-scalar numpy.ndarray cannot be used for fill"):
        case.x[...] = host
    for meet in (lambda: case.x + host, lambda: host + case.x, lambda: np.add(case.x, 1, out=host)):
        with pytest.raises(TypeError, match="Unsupported type"):
            meet()
    with pytest.raises(TypeError):
        np.concatenate([case.x, host])
    with pytest.raises(TypeError, match="Argument 'a' has incorrect type"):
        strict_device.ascontiguousarray(host)
    assert case.since("uploads") == 0


def test_arithmetic_is_work_too(case):
    case.double(case.x, case.out)
    total = np.sum(case.out * 3 + case.x)
    assert isinstance(total, strict_device.ndarray) and total.shape == () and case.since("waits") == 0
    case.x += case.x
    assert case.since("allocations") == 3
    assert float(total) == 7 * SIZE and case.since("waits") == 1 and case.since("downloads") == 4
    assert case.state["cupy"] == ["multiply", "add", "sum", "add"]
    same(case.x.get(), [2] * SIZE)


def test_views_share_memory_and_copies_do_not(case):
    rows = case.x.reshape(4, 16)
    assert rows.data.ptr == case.x.data.ptr and case.since("allocations") == 0
    assert rows[1:, 2].data.ptr == case.x.data.ptr + 18 * 4 and not rows.T.flags.c_contiguous
    assert rows.T.reshape(64).data.ptr != case.x.data.ptr and case.since("allocations") == 1
    rows[1] = 5
    rows[2] = rows[1]
    same(case.x[10:40].get(), [1] * 6 + [5] * 24)
    assert case.x.astype(np.float32, copy=False) is case.x is strict_device.ascontiguousarray(case.x)
    assert strict_device.ascontiguousarray(rows.T).flags.c_contiguous


def test_indices(case):
    """Of the host they are uploaded without a word; out of bounds they wrap around."""
    x = strict_device.asarray(np.arange(12, dtype=np.int32).reshape(3, 4))
    before = case.state["uploads"]
    same(x[np.array([2, 3, -1])].get(), [[8, 9, 10, 11], [0, 1, 2, 3], [8, 9, 10, 11]])
    same(x[:, [5]].get(), [[1], [5], [9]])
    assert case.state["uploads"] - before == 4 * 8
    same(x[..., strict_device.asarray(np.array([4]))].get(), [[0], [4], [8]])
    x[np.array([4]), 1:2] = 77
    same(x[1].get(), [4, 77, 6, 7])
    waits = case.state["waits"]
    assert x[x > 8].shape == (4,) and case.state["waits"] == waits + 1, "how many are chosen is known by waiting"
    for key in (3, (0, 4), (0, 0, 0)):
        with pytest.raises(IndexError):
            x[key]
    with pytest.raises(TypeError, match="Unsupported type"):
        x[[0]] = np.zeros(4, np.int32)


# ---- kernels

def test_what_cupy_does_not_check_about_a_launch(case):
    kernel = case.gpu.loaded[str(case.source), "scale", ()][0]
    one = np.array([2], np.float32)
    kernel((0,), (SIZE,), (case.x, case.out, np.int32(SIZE), one))  # launched as 1; an array of one number is a value
    same(case.out.get(), [2] * SIZE)
    with pytest.raises(TypeError, match="Only numpy.ndarrays of size one can be passed by value"):
        kernel((1,), (SIZE,), (np.ones(SIZE, np.float32), case.out, np.int32(SIZE), one))
    with pytest.raises(TypeError, match="Expected tuple"):
        kernel([1], (SIZE,), (case.x, case.out, np.int32(SIZE), one))
    with pytest.raises(TypeError, match="Unsupported type"):
        kernel((1,), (SIZE,), ("x", case.out, np.int32(SIZE), one))
    for block, shared in (((1025,), 0), ((32,), 49153)):
        with pytest.raises(RuntimeError, match="CUDA_ERROR_INVALID_VALUE"):
            kernel((1,), block, (case.x, case.out, np.int32(SIZE), one), shared_mem=shared)


def test_a_fault_of_a_kernel_shows_when_something_waits(case):
    """A table of addresses, one of which is no memory's."""
    ids, table = strict_device.asarray(np.zeros(1, np.int64)), strict_device.asarray(np.array([4096], np.uint64))
    case.gpu.launch(case.source, "gather", (1,), (32,), ([case.x], ids, case.out, np.uint32(SIZE)))
    kernel = case.gpu.loaded[str(case.source), "gather", ()][0]
    kernel((1,), (32,), (table, ids, case.out, np.uint32(SIZE)))
    with pytest.raises(CUDARuntimeError, match="cudaErrorIllegalAddress"):
        case.out.get()


# ---- devices

def test_devices(case):
    case.state["devices"] = 2
    gone = cuda.Device(5)  # nobody looks before it is used
    with pytest.raises(CUDARuntimeError, match="cudaErrorInvalidDevice"):
        gone.use()
    with cuda.Device(1):
        assert cuda.Device().id == 1
        there = strict_device.empty(SIZE, np.float32)
        with pytest.raises(RuntimeError, match="not created on device 1"):
            case.stream.use()
    assert there.data.device_id == 1 and cuda.Device().id == 0
    with pytest.raises(CUDARuntimeError, match="cudaErrorIllegalAddress"):
        case.double(there, case.out)
    case.state["devices"] = 0
    with pytest.raises(CUDARuntimeError, match="cudaErrorInsufficientDriver"):
        cuda.runtime.getDeviceCount()
