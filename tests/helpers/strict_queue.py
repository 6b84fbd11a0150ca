"""When a GPU does its work: streams whose work runs only when something waits, events, captures and graphs.

A launch, a copy or a poisoning is queued. It runs when the host waits for its stream, so a result that nobody waited
for is still poison, and work of another stream that no event orders has not happened. The rules of captures are those
of the CUDA Programming Guide, "Creating a Graph Using Stream Capture", and of CuPy 14.2, which refuses some earlier.
"""

import threading
import weakref
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

DEFAULTS = {
    # what the machine is
    "devices": 1, "arch": "90", "driver": 13000, "runtime": 13000, "shared": 232448, "memory": 80 << 30,
    # what CuPy's environment says: a limit of its memory in bytes, whether each thread has a default stream, and
    # whether the host may be given memory of the device as it is
    "limit": 0, "ptds": False, "shared memory": False,
    # what was counted: bytes for uploads, downloads and memory that is and was at most held; the rest are numbers
    "uploads": 0, "downloads": 0, "waits": 0, "allocations": 0, "held": 0, "peak": 0, "replays": 0,
    # names and -D options of our kernels that were launched, and the names of CuPy's own
    "launches": [], "cupy": [],
    # milliseconds that have passed on the device: each event that is reached takes half of one
    "clock": 0.0,
    # arrays that every replay of a graph finds poisoned
    "scratch": []}
STATE: dict[str, Any] = {}
ERRORS = {2: "cudaErrorMemoryAllocation: out of memory",
          35: "cudaErrorInsufficientDriver: CUDA driver version is insufficient for CUDA runtime version",
          101: "cudaErrorInvalidDevice: invalid device ordinal",
          401: "cudaErrorIllegalState: the operation cannot be performed in the present state",
          100: "cudaErrorNoDevice: no CUDA-capable device is detected",
          600: "cudaErrorNotReady: device not ready",
          700: "cudaErrorIllegalAddress: an illegal memory access was encountered",
          900: "cudaErrorStreamCaptureUnsupported: operation not permitted when stream is capturing",
          901: "cudaErrorStreamCaptureInvalidated: operation failed due to a previous error during capture",
          905: "cudaErrorStreamCaptureIsolation: dependency created on uncaptured work in another stream",
          906: "cudaErrorStreamCaptureImplicit: operation would make the legacy stream depend on a capturing blocking "
               "stream",
          907: "cudaErrorCapturedEvent: operation not permitted on an event last recorded in a capturing stream"}


class CUDARuntimeError(RuntimeError):
    """What CuPy raises when CUDA's runtime refuses."""

    def __init__(self, status):
        self.status = status
        super().__init__(ERRORS[status])


class Work:
    """One piece of work: what it does, and the work that comes before it."""

    def __init__(self, action: Callable[[], None], after: Sequence["Work | None"]):
        self.action, self.after = action, [work for work in after if work is not None and work.action]

    def finish(self) -> None:
        """Do what has to come before, then this. Chains are long, so this is no recursion."""
        stack = [self]
        while stack:
            work = stack[-1]
            waiting = [other for other in work.after if other.action]
            if waiting:
                stack += waiting
                continue
            stack.pop()
            action, work.action, work.after = work.action, None, []
            if action:
                action()


class Line:
    """The queue of a stream: its last work, and the capture that goes on."""

    def __init__(self, blocking: bool):
        self.blocking, self.last, self.capture = blocking, None, None
        self.device = current_device()
        LINES.add(self)


class Capture:
    """What a stream has captured so far."""

    def __init__(self):
        self.nodes: list[Node] = []
        self.valid = True


class Node(NamedTuple):
    """Work of a graph: its arrays are held by address only, as a graph of CUDA does."""

    name: str
    run: Callable
    places: list


class Here(threading.local):
    """What is current in a thread: a device, and a stack of streams."""

    def __init__(self):
        self.device, self.streams, self.line = 0, [], None


LINES: "weakref.WeakSet[Line]" = weakref.WeakSet()
HERE = Here()


def reset() -> dict[str, Any]:
    """A machine on which nothing has happened yet."""
    STATE.clear()
    STATE.update(DEFAULTS, launches=[], cupy=[], scratch=[], machine=object())
    LINES.clear()
    HERE.device, HERE.streams, HERE.line = 0, [], None
    Stream.null._line = Line(blocking=True)
    return STATE


def current_device() -> int:
    return HERE.device


def current_line() -> Line:
    return current_stream()._line


def current_stream() -> "Stream":
    return HERE.streams[-1] if HERE.streams else Stream.ptds if STATE["ptds"] else Stream.null


def line_of(stream) -> Line:
    return current_line() if stream is None else stream._line


def capturing(line: Line) -> bool:
    """cudaStreamIsCapturing, as CuPy asks it before every copy."""
    check_legacy(line)
    if line.capture and not line.capture.valid:
        raise RuntimeError("the stream was capturing, but an error has invalidated the capture sequence")
    return line.capture is not None


def check_legacy(line: Line) -> None:
    """The legacy stream waits for all blocking streams, which one that captures cannot let happen."""
    others = [other for other in LINES if other is not line and other.blocking and other.capture]
    if line is Stream.null._line and others:
        refuse(906, others)


def refuse(status: int, lines: Sequence[Line]):
    """An operation that is not permitted while these streams capture: it also invalidates what they captured."""
    for line in lines:
        line.capture.valid = False
    raise CUDARuntimeError(status)


def forbid_in_capture() -> None:
    """For what may not happen while any stream captures: memory, modules, waiting for the whole device."""
    busy = [line for line in LINES if line.capture]
    if busy:
        refuse(900, busy)


def submit(name: str, run: Callable, arrays: Sequence[Any], stream=None) -> None:
    """Queue run(*host arrays) on a stream; a stream that captures adds it to its graph instead."""
    line = line_of(stream)
    check_legacy(line)
    if name.startswith("cupy_"):
        STATE["cupy"].append(name.removeprefix("cupy_"))
    if line.capture:
        if not line.capture.valid:
            raise CUDARuntimeError(901)
        line.capture.nodes.append(Node(name, run, [array._place() for array in arrays]))
        return
    kept = [(array.data.mem, array._host()) for array in arrays]
    add(line, lambda: run(*[host for _, host in kept]))


def add(line: Line, action: Callable[[], None]) -> None:
    """Queue an action behind what its stream has, and, as the legacy stream does, behind others."""
    legacy = Stream.null._line
    others = [other.last for other in LINES if other.blocking] if line is legacy else \
        [legacy.last] if line.blocking else []
    line.last = Work(action, [line.last, *others])


def wait(line: Line) -> None:
    """The host waits for a stream."""
    if line.capture:
        refuse(900, [line])
    check_legacy(line)
    STATE["waits"] += 1
    finish(line)


def finish(line: Line) -> None:
    lasts = [other.last for other in LINES if other.blocking] if line is Stream.null._line else [line.last]
    for work in lasts:
        if work:
            work.finish()


def wait_for_device() -> None:
    """cudaDeviceSynchronize."""
    forbid_in_capture()
    STATE["waits"] += 1
    for line in list(LINES):
        finish(line)


class Stream:
    """CuPy's stream: work on it runs in order."""

    null: "Stream"
    ptds: "Stream"

    def __init__(self, null=False, non_blocking=False, ptds=False, priority=None):
        assert not ptds, "it is there already, as Stream.ptds"
        self._line = Stream.null._line if null else Line(blocking=not non_blocking)
        self.device_id = -1 if null else current_device()

    @property
    def ptr(self):
        return 0 if self._line is Stream.null._line else id(self._line)

    def __enter__(self):
        self._check_device()
        HERE.streams.append(self)
        return self

    def __exit__(self, *args):
        HERE.streams.pop()

    def use(self):
        self._check_device()
        HERE.streams[:] = [self]
        return self

    def _check_device(self):
        if self.device_id not in (-1, current_device()):
            raise RuntimeError(f"This stream was not created on device {current_device()}")

    @property
    def done(self):
        if self._line.capture:
            refuse(900, [self._line])
        return not (self._line.last and self._line.last.action)

    def synchronize(self):
        wait(self._line)

    def is_capturing(self):
        return capturing(self._line)

    def begin_capture(self, mode=None):
        if self.ptr == 0:
            raise RuntimeError("cannot capture on the default (legacy) stream")
        if self._line.capture:
            raise CUDARuntimeError(401)
        self._line.capture = Capture()

    def end_capture(self):
        capture, self._line.capture = self._line.capture, None
        if capture is None:
            raise CUDARuntimeError(401)
        if not capture.valid:
            raise CUDARuntimeError(901)
        graph = object.__new__(Graph)
        graph._nodes = capture.nodes
        return graph

    def record(self, event=None):
        event = Event() if event is None else event
        event.record(self)
        return event

    def wait_event(self, event):
        if self._line.capture:
            refuse(905, [self._line])
        self._line.last = Work(lambda: None, [self._line.last, event._work])


class Event:
    """A place in a stream."""

    def __init__(self, block=False, disable_timing=False, interprocess=False):
        self._work, self._captured, self._at = None, False, None

    def record(self, stream=None):
        line = line_of(stream)
        self._captured = line.capture is not None
        if not self._captured:
            add(line, self._reach)
            self._work = line.last

    def _reach(self):
        STATE["clock"] += 0.5
        self._at = STATE["clock"]

    @property
    def done(self):
        if self._captured:
            raise CUDARuntimeError(907)
        return not (self._work and self._work.action)

    def synchronize(self):
        if self._captured:
            raise CUDARuntimeError(907)
        STATE["waits"] += 1
        if self._work:
            self._work.finish()


def get_elapsed_time(start_event, end_event):
    """Milliseconds between two events, if the host has waited for the later one."""
    if not (start_event._at and end_event._at):
        raise CUDARuntimeError(600)
    return end_event._at - start_event._at


class Graph:
    """What a stream captured. A replay finds scratch memory poisoned, and memory that was freed since is an error."""

    def __init__(self, *args, **kwargs):
        raise NotImplementedError("currently this class cannot be initiated by the user and must be created via "
                                  "stream capture")

    def launch(self, stream=None):
        line = line_of(stream)
        check_legacy(line)
        if line.capture:
            line.capture.nodes += self._nodes
            return
        STATE["replays"] += 1
        scratch = list(STATE["scratch"])
        add(line, lambda: self._replay(scratch))

    def upload(self, stream=None):
        pass

    def _replay(self, scratch):
        for array in scratch:
            array._poison()
        for node in self._nodes:
            node.run(*[place.host() for place in node.places])


class Place(NamedTuple):
    """Where an array lies, without holding its memory."""

    lease: Any
    offset: int
    shape: tuple
    strides: tuple
    dtype: np.dtype

    def host(self) -> np.ndarray:
        lease = self.lease()
        if lease is None:
            raise CUDARuntimeError(700)
        return np.ndarray(self.shape, self.dtype, lease.memory.bytes, self.offset, self.strides)


class OfThread(Stream):
    """The default stream of each thread: the legacy stream and it wait for each other, other streams do not."""

    def __init__(self):
        self.device_id = -1

    @property
    def _line(self):
        HERE.line = HERE.line or Line(blocking=True)
        return HERE.line


Stream.ptds = OfThread()
Stream.null = object.__new__(Stream)
Stream.null.device_id, Stream.null._line = -1, Line(blocking=True)
reset()
