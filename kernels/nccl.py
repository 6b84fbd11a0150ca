"""The collectives of `tiny/parallel/ranks.py` over NCCL, for arrays that stay on GPUs. Not yet run on a GPU.

    ranks = NcclRanks(tiny.parallel.Ranks())

One GPU for each rank; words still travel by MPI. It pays once the arrays between two kernels stay on the device: the
operations of `tiny.parallel` take arrays of the host, where MPI works already.
"""

import socket
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np

from kernels.device.gpus import choose_gpu, import_cupy
from tiny.config import TinyError
from tiny.parallel.ranks import Group


class NcclRanks(Group):
    """The ranks of another group, each with a GPU of its own: the first rank of a machine has the first one there.

    Raises:  Together, on every rank, if one has no CuPy, no GPU or no NCCL
    """

    def __init__(self, ranks: Group, cupy: ModuleType | None = None) -> None:
        super().__init__(ranks.rank, ranks.size)
        self.ranks = ranks
        hosts = ranks.tell(socket.gethostname())
        self.xp = ranks.together(lambda: own_gpu(cupy, hosts[: ranks.rank].count(hosts[ranks.rank])))
        self.nccl = self.xp.cuda.nccl
        name = ranks.tell(self.nccl.get_unique_id() if ranks.rank == 0 else None)[0]
        self.comm = self.nccl.NcclCommunicator(ranks.size, name, ranks.rank)

    def gather(self, mine: Any, counts: Sequence[int]) -> Any:
        every = self.xp.empty((sum(counts), mine.shape[1]), mine.dtype)
        pieces = [every[sum(counts[:rank]) : sum(counts[: rank + 1])] for rank in range(self.size)]
        pieces[self.rank][...] = mine
        self.travel([mine] * self.size, pieces)
        return every

    def swap(self, rows: Any) -> Any:
        came = self.xp.empty(rows.shape, rows.dtype)
        came[self.rank] = rows[self.rank]
        self.travel(rows, came)
        return came

    def tell(self, said: Any) -> list[Any]:
        return self.ranks.tell(said)

    def travel(self, going: Any, coming: Any) -> None:
        """Send going[r] to rank r and fill coming[r] from there, all at once on the current stream; but nothing to
        itself.

        Raises:  ValueError for another type of numbers than float32
        """
        stream, kind = self.xp.cuda.get_current_stream().ptr, self.nccl.NCCL_FLOAT32
        # (1) in a group, because a send by itself may wait for its receiver
        self.nccl.groupStart()
        for peer in (rank for rank in range(self.size) if rank != self.rank):
            for array, start in ((going[peer], self.comm.send), (coming[peer], self.comm.recv)):
                if array.dtype != np.float32:
                    raise ValueError(f"NcclRanks sends float32; got {array.dtype}.")
                if array.size:
                    start(array.data.ptr, array.size, kind, peer, stream)
        self.nccl.groupEnd()


def own_gpu(cupy: ModuleType | None, number: int) -> ModuleType:
    """CuPy with the GPU of a number made the current one. Raises TinyError if there is none, or no NCCL."""
    cupy = import_cupy() if cupy is None else cupy
    choose_gpu(cupy, number)
    if not cupy.cuda.nccl.available:
        raise TinyError("This CuPy finds no NCCL.", "Install it: pip install nvidia-nccl-cu13, or -cu12.")
    return cupy
