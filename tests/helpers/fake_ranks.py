"""Ranks that are threads of one process: what ranks say to each other is tested without MPI."""

import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from tiny.parallel.ranks import Group, Together


class Table:
    """What the threads of one group share: a place for each rank, and a barrier around it."""

    def __init__(self, size: int, patience: float):
        self.places: list[Any] = [None] * size
        self.barrier = threading.Barrier(size, timeout=patience)


class FakeRanks(Group):
    """One of several threads. Each collective is one exchange over the table: all put, all take, all leave."""

    def __init__(self, rank: int, size: int, table: Table):
        super().__init__(rank, size)
        self.table = table

    def tell(self, said):
        self.table.places[self.rank] = said
        self.table.barrier.wait()
        every = list(self.table.places)
        self.table.barrier.wait()
        return every

    def gather(self, mine, counts):
        assert mine.shape[0] == counts[self.rank] and mine.flags.c_contiguous
        every = self.tell(mine.copy())
        assert [len(rows) for rows in every] == list(counts), "MPI would cut the message or wait"
        return np.concatenate(every)

    def swap(self, rows):
        assert len(rows) == self.size and rows.flags.c_contiguous
        return np.stack([every[self.rank] for every in self.tell(rows.copy())])


def run_ranks(size: int, work: Callable[[FakeRanks], Any], patience: float = 20.0) -> list[Any]:
    """Run work(ranks) as so many ranks; return what each returned or raised. One that raises ends the wait of all."""
    table, results = Table(size, patience), [None] * size

    def run(rank: int) -> None:
        try:
            results[rank] = work(FakeRanks(rank, size, table))
        except BaseException as error:
            results[rank] = error
            if not isinstance(error, Together):  # which all raise, some a moment later
                table.barrier.abort()

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def run_well(size: int, work: Callable[[FakeRanks], Any]) -> list[Any]:
    """What each rank returned; the first error of a rank is raised here."""
    results = run_ranks(size, work)
    errors = [result for result in results if isinstance(result, BaseException)]
    for error in sorted(errors, key=lambda error: isinstance(error, threading.BrokenBarrierError)):
        raise error
    return results
