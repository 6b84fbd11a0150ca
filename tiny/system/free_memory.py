"""How much memory this process can still take: what the system has, and what its limits leave.

Read `direct.py` next.
"""

import os
import re
import resource
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tiny.config import TinyError

# Of control groups in version 2 and in version 1: where they are mounted, the limit, what is used, and which entries of
# memory.stat count the pages of files: used once or again, they are dropped when memory is wanted.
VERSIONS = ((("sys/fs/cgroup", "sys/fs/cgroup/unified"), "memory.max", "memory.current", "(?:in)?active_file"),
            (("sys/fs/cgroup/memory",), "memory.limit_in_bytes", "memory.usage_in_bytes", "total_(?:in)?active_file"))
# Limits of a process (ulimit -v, ulimit -d), and which number of /proc/self/statm counts against them, in pages.
LIMITS = ((resource.RLIMIT_AS, 0), (resource.RLIMIT_DATA, 5))


def free_memory(root: Path = Path("/")) -> int:
    """Bytes that this process can still take: what Linux says is available, within all limits of the process.

    root: where /proc and /sys are, for tests
    """
    found, pages = re.search(r"MemAvailable:\s+(\d+)", read(f"{root}/proc/meminfo")), os.sysconf("SC_PHYS_PAGES")
    free = int(found[1]) * 1024 if found else os.sysconf("SC_PAGE_SIZE") * pages // 2
    return max(0, min([free, *left_by_groups(root, free), *left_by_limits(root)]))


def choose_mode(weights: str, tensors: Mapping[str, Any]) -> str:
    """Settle "auto": resident if 4 bytes a parameter fit in half of the free memory; else mapped if the files fit in
    all of it, so that the system can keep them; else streamed.

    Raises:  TinyError for any other word
    """
    if weights not in ("auto", "mapped", "streamed", "resident"):
        raise TinyError(f"weights={weights!r} is unknown.", "Use 'auto', 'mapped', 'streamed' or 'resident'.")
    if weights != "auto":
        return weights
    free = free_memory()
    if 4 * sum(tensor.size for tensor in tensors.values()) <= free / 2:
        return "resident"
    return "mapped" if sum(tensor.nbytes for tensor in tensors.values()) <= free else "streamed"


def left_by_groups(root: Path, free: int) -> Iterator[int]:
    """What the process's control group, and each group around it, leaves, where that is less than `free`."""
    groups = re.findall(r"^\d+:((?:.*,)?memory(?:,.*?)?|):/(.*)$", read(f"{root}/proc/self/cgroup"), re.M)
    for controllers, path in groups:
        tops, most, now, droppable = VERSIONS[bool(controllers)]
        names = [name for name in path.split("/") if name not in ("", "..")]
        for folder in ("/".join([str(root), top, *names[:depth]]) for top in tops for depth in range(len(names) + 1)):
            limit = read(f"{folder}/{most}").strip()
            if limit.isdigit() and (used := read(f"{folder}/{now}").strip()).isdigit():  # else no limit is to be seen
                left = int(limit) - int(used)
                if left < free:
                    yield left + sum(map(int, re.findall(rf"^{droppable} (\d+)", read(f"{folder}/memory.stat"), re.M)))


def left_by_limits(root: Path) -> Iterator[int]:
    """What the limits of the process itself leave."""
    for limit, place in LIMITS:
        most = resource.getrlimit(limit)[0]
        if most != resource.RLIM_INFINITY and (pages := read(f"{root}/proc/self/statm").split()):
            yield most - int(pages[place]) * resource.getpagesize()


def read(path: str) -> str:
    """The text of a file of the system; nothing if it is not there."""
    try:
        with open(path, "rb") as file:
            return file.read().decode(errors="replace")
    except OSError:
        return ""
