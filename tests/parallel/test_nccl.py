"""The collectives over NCCL on a stand-in: threads for ranks, memory of the host for that of GPUs.

The stand-in is strict: arrays are known by their addresses alone, new ones hold NaN, a send outside of a group would
wait for ever and is refused, and a message must have the length that its receiver asks for.
"""

import ctypes
import queue
from types import SimpleNamespace

import numpy as np
import pytest
from compare import assert_close
from fake_ranks import run_ranks, run_well

from kernels.nccl import NcclRanks
from tiny.parallel.ranks import Together

FLOAT32 = 7


class OnDevice(np.ndarray):
    """An array that has an address, as CuPy's."""

    @property
    def data(self):
        return SimpleNamespace(ptr=self.__array_interface__["data"][0])


def device(array):
    return np.ascontiguousarray(array).copy().view(OnDevice)


def empty(shape, dtype):
    return device(np.full(shape, np.nan, dtype))


class Wire:
    """What all ranks share: a queue from each rank to each other one."""

    def __init__(self, size):
        self.queues = {(a, b): queue.Queue() for a in range(size) for b in range(size)}


class Nccl:
    """The names of cupy.cuda.nccl that are used, for one rank."""

    NCCL_FLOAT32 = FLOAT32

    def __init__(self, wire, available=True):
        self.wire, self.available, self.pending = wire, available, None

    def get_unique_id(self):
        return (7,) * 128

    def groupStart(self):
        assert self.pending is None
        self.pending = []

    def groupEnd(self):
        calls, self.pending = self.pending, None
        for send in (True, False):
            for call in (call for is_send, call in calls if is_send == send):
                call()

    def NcclCommunicator(self, size, name, rank):
        assert name == (7,) * 128 and 0 <= rank < size
        return Communicator(self, rank)


class Communicator:
    def __init__(self, nccl, rank):
        self.nccl, self.rank = nccl, rank

    def add(self, is_send, kind, stream, call):
        assert self.nccl.pending is not None, "outside of a group it would wait for ever"
        assert (kind, stream) == (FLOAT32, 42)
        self.nccl.pending.append((is_send, call))

    def send(self, address, count, kind, peer, stream):
        self.add(True, kind, stream, lambda: self.nccl.wire.queues[self.rank, peer].put(
            ctypes.string_at(address, 4 * count)))

    def recv(self, address, count, kind, peer, stream):
        def take():
            data = self.nccl.wire.queues[peer, self.rank].get(timeout=10)
            assert len(data) == 4 * count
            ctypes.memmove(address, data, len(data))
        self.add(False, kind, stream, take)


def cupy(wire, gpus=8, available=True):
    """CuPy for one rank: `used` is the number of the GPU that it made its own."""
    found = SimpleNamespace(empty=empty, zeros=lambda shape, dtype: device(np.zeros(shape, dtype)),
                            ascontiguousarray=lambda x: x if x.flags.c_contiguous else device(x))

    def use(number):
        found.used = number
    found.cuda = SimpleNamespace(
        nccl=Nccl(wire, available), get_current_stream=lambda: SimpleNamespace(ptr=42),
        runtime=SimpleNamespace(getDeviceCount=lambda: gpus),
        Device=lambda number=0: SimpleNamespace(use=lambda: use(number)))
    return found


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_the_five_collectives_over_nccl_are_those_of_the_host(size):
    rng, wire = np.random.default_rng(size), Wire(size)
    parts = rng.standard_normal((size, 5, 7)).astype(np.float32)
    counts = [rank % 3 for rank in range(size)]
    square = rng.standard_normal((size, size, 4)).astype(np.float32)

    def work(host):
        library = cupy(wire)
        ranks = NcclRanks(host, library)
        r = ranks.rank
        assert library.used == r, "ranks of one machine have a GPU each"
        ranks.agree({"all": "alike"}, "")
        gpu = [ranks.sum(device(parts[r])), ranks.columns(device(parts[r])),
               ranks.rows(device(parts[r, : counts[r]]), counts), ranks.exchange(device(square[r]))]
        assert all(isinstance(array, OnDevice) for array in gpu)
        cpu = [host.sum(parts[r]), host.columns(parts[r]), host.rows(parts[r, : counts[r]], counts),
               host.exchange(square[r])]
        return gpu, cpu, ranks.received == host.received and ranks.calls == host.calls

    for gpu, cpu, counted in run_well(size, work):
        assert counted
        for name, got, expected in zip(("sum", "columns", "rows", "exchange"), gpu, cpu):
            if expected.size:
                assert_close(got.view(np.ndarray), expected, atol=0.0, name=name)


def test_a_rank_without_a_gpu_or_without_nccl_is_named_by_all():
    wire = Wire(2)
    for library, words in ((lambda: cupy(wire, gpus=1), "rank 1: There is no GPU 1"),
                           (lambda: cupy(wire, available=False), "This CuPy finds no NCCL.")):
        found = run_ranks(2, lambda host, library=library: NcclRanks(host, library()))
        assert all(isinstance(error, Together) and str(error).startswith(words) for error in found)


def test_other_numbers_than_float32_are_refused():
    wire = Wire(2)
    errors = run_ranks(2, lambda host: NcclRanks(host, cupy(wire)).swap(device(np.zeros((2, 3)))))
    assert any(isinstance(error, ValueError) and "got float64" in str(error) for error in errors)


def test_the_stand_in_refuses_what_would_wait():
    ranks = NcclRanks(run_well(1, lambda host: host)[0], cupy(Wire(1)))
    with pytest.raises(AssertionError, match="outside of a group"):
        ranks.comm.send(0, 1, FLOAT32, 0, 42)
