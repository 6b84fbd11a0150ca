"""What ranks say to each other: five collectives for arrays and words, with the bytes of each counted.

Every rank calls the same ones in the same order, or all of them wait forever. `Group` has what is the same whatever
carries the bytes; `Ranks` carries them by MPI. Read `shards.py` next.
"""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tiny.config import TinyError


class Together(TinyError):
    """An error that all ranks raise at the same moment, so that no rank waits for another one."""


class Group(ABC):
    """`size` processes, of which this one is number `rank`.

    received: bytes of arrays that this rank got from others, by collective; calls: how often each was called
    xp:       the library that the arrays are of: NumPy, or CuPy
    """

    xp: Any = np

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size
        self.received: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()

    @abstractmethod
    def gather(self, mine: Any, counts: Sequence[int]) -> Any:
        """The rows of all ranks, one after the other; counts[r] of them are rank r's.

        Shapes:  mine (counts[rank], n) -> (sum of counts, n)
        """

    @abstractmethod
    def swap(self, rows: Any) -> Any:
        """Row r goes to rank r; row r of the result came from rank r. Shapes:  rows (size, n) -> (size, n)."""

    @abstractmethod
    def tell(self, said: Any) -> list[Any]:
        """What each rank says, in the order of ranks: small values of Python, not counted."""

    def rows(self, mine: Any, counts: Sequence[int]) -> Any:
        """Put the rows of all ranks one after the other; counts[r] of them are rank r's.

        Shapes:  mine (counts[rank], n) -> (sum of counts, n)
        """
        every = self.gather(self.xp.ascontiguousarray(mine), counts)
        return self.count("rows", every.nbytes - mine.nbytes, every)

    def columns(self, mine: Any) -> Any:
        """Put the columns of all ranks side by side. Shapes:  mine (T, n) -> (T, size n)."""
        T, n = mine.shape
        every = self.gather(self.xp.ascontiguousarray(mine), [T] * self.size)
        wide = every.reshape(self.size, T, n).swapaxes(0, 1).reshape(T, self.size * n)
        return self.count("columns", every.nbytes - mine.nbytes, wide)

    def exchange(self, rows: Any) -> Any:
        """Row r goes to rank r; row r of the result came from rank r. Shapes:  rows (size, n) -> (size, n)."""
        return self.count("exchange", rows[1:].nbytes, self.swap(self.xp.ascontiguousarray(rows)))

    def sum(self, part: Any) -> Any:
        """Add the arrays of all ranks: the same bits on every rank, whatever carries them.

        Shapes:  part (T, n) -> (T, n)
        Order:   each rank adds one piece, in the order of ranks, and the pieces are gathered; so no two ranks can add
                 in two orders, which MPI does not promise of Allreduce
        """
        # (1) as many pieces as ranks, of one length
        n = -(-part.size // self.size)
        pieces = self.xp.zeros((self.size, n), part.dtype)
        pieces.reshape(-1)[: part.size] = part.reshape(-1)
        # (2) each rank adds its own piece
        came = self.swap(pieces)
        total = came[0].copy()
        for piece in came[1:]:
            total += piece
        # (3) and all get all sums
        every = self.gather(total[None], [1] * self.size)
        return self.count("sum", 2 * pieces[1:].nbytes, every.reshape(-1)[: part.size].reshape(part.shape))

    def count(self, kind: str, nbytes: int, result: Any) -> Any:
        """Note one call and the bytes that it brought here; return the result."""
        self.received[kind] += nbytes
        self.calls[kind] += 1
        return result

    def agree(self, what: dict[str, Any], remedy: str, error: Exception | None = None) -> None:
        """Raise on every rank if one comes with an error; or, naming who differs and in what, unless all say the same.

        Raises:  Together
        """
        every = self.tell((what, error and words_of(error)))
        if failed := [rank for rank, (_, words) in enumerate(every) if words]:
            cause, why = every[failed[0]][1]
            alike = [rank for rank in failed if every[rank][1] == (cause, why)]
            raise Together(cause if len(alike) == self.size else f"{named(alike)}: {cause}", why)
        first = every[0][0]
        if others := [rank for rank, (said, _) in enumerate(every) if said != first]:
            keys = [key for key in first if any(every[rank][0].get(key) != first[key] for rank in others)]
            raise Together(f"{named(others).capitalize()} {'differs' if len(others) == 1 else 'differ'} from rank 0 in "
                           f"{', '.join(keys)}.", remedy)

    def meet(self, error: Exception | None = None) -> None:
        """Wait until all ranks are here; raise on all of them if one comes with an error. Raises Together."""
        self.agree({"what they run": "nothing"}, "Let every rank make the same calls.", error)

    def together(self, work: Callable[[], Any]) -> Any:
        """Do some work that only some ranks may fail at; then all of them raise.

        Raises:  Together, with the first error and the ranks that had it
        """
        try:
            done, error = work(), None
        except Exception as caught:
            done, error = None, caught
        self.meet(error)
        return done


def named(ranks: Sequence[int]) -> str:
    """Ranks in words."""
    return f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {', '.join(map(str, ranks))}"


def words_of(error: Exception) -> tuple[str, str]:
    """Cause and remedy of an error as text, which can be sent."""
    if isinstance(error, TinyError):
        return error.cause, error.remedy
    return f"{type(error).__name__}: {error}", "This is unexpected: --debug shows where it happened."


class Ranks(Group):
    """The processes that one mpiexec started, or those of another communicator of mpi4py.

    Raises:  TinyError if mpi4py or MPI is not installed
    """

    def __init__(self, comm: Any = None) -> None:
        if comm is None:
            try:
                from mpi4py import MPI
            except (ImportError, RuntimeError) as error:  # RuntimeError: mpi4py is there, and no MPI
                raise TinyError(f"mpi4py cannot be imported: {error}.",
                                "Install the extra: pip install -e '.[parallel]', or make .venv/parallel.") from error
            comm = MPI.COMM_WORLD
        super().__init__(comm.Get_rank(), comm.Get_size())
        self.comm = comm

    def gather(self, mine: np.ndarray, counts: Sequence[int]) -> np.ndarray:
        every = np.empty((sum(counts), mine.shape[1]), mine.dtype)
        self.comm.Allgatherv(mine, [every, [count * mine.shape[1] for count in counts]])
        return every

    def swap(self, rows: np.ndarray) -> np.ndarray:
        came = np.empty_like(rows)
        self.comm.Alltoall(rows, came)
        return came

    def tell(self, said: Any) -> list[Any]:
        return self.comm.allgather(said)
