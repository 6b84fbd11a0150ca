"""How much memory this process can still take: what the system has, and what its limits leave.

Read `weights.py` next.
"""

import os
import resource
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

# Of control groups in version 2 and in version 1: where they are mounted, the limit, what is used, and which entry of
# memory.stat counts the pages of files that are dropped when memory is wanted.
VERSIONS = ((("sys/fs/cgroup", "sys/fs/cgroup/unified"), "memory.max", "memory.current", "inactive_file"),
            (("sys/fs/cgroup/memory",), "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"))
# Limits of a process (ulimit -v, ulimit -d), and which number of /proc/self/statm counts against them, in pages.
LIMITS = ((resource.RLIMIT_AS, 0), (resource.RLIMIT_DATA, 5))


def free_memory(root: Path = Path("/")) -> int:
    """Bytes that this process can still take: what Linux says is available, within all limits of the process.

    root: where /proc and /sys are, for tests
    """
    try:
        lines = dict(line.split(":") for line in (root / "proc/meminfo").read_text().splitlines())
        free = int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    return max(0, min([free, *left_by_groups(root), *left_by_limits(root)]))


def left_by_groups(root: Path) -> Iterator[int]:
    """What the process's control group, and each group around it, leaves."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        tops, limit, used, droppable = VERSIONS[bool(controllers)]
        names = [part for part in PurePosixPath(path).parts if part not in ("/", "..")]
        for folder in (root.joinpath(top, *names[:depth]) for top in tops for depth in range(len(names) + 1)):
            try:
                stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
                taken = int((folder / used).read_text()) - int(stat[droppable])
                yield int((folder / limit).read_text()) - taken
            except (OSError, ValueError, KeyError):  # without a limit ("max"), or not to be seen from here
                continue


def left_by_limits(root: Path) -> Iterator[int]:
    """What the limits of the process itself leave."""
    try:
        pages = (root / "proc/self/statm").read_text().split()
    except OSError:
        return
    for limit, place in LIMITS:
        most = resource.getrlimit(limit)[0]
        if most != resource.RLIM_INFINITY:
            yield most - int(pages[place]) * resource.getpagesize()
