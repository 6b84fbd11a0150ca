"""tiny/system/free_memory.py: what control groups of both versions and the limits of a process leave."""

import resource
import subprocess
import sys

import pytest
from oracles import ROOT

from tiny.system.free_memory import free_memory

GB = 10**9


def machine(root, groups="", pages="1000 1 1 1 0 500 0", available=64 * GB, **folders):
    """A /proc and /sys with so much free, and control groups: name of the folder -> limit, used, droppable.

    Of the pages that can be dropped a quarter was used again, which the system counts apart.
    """
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/meminfo").write_text(f"MemTotal: 99 kB\nMemAvailable: {available // 1024} kB\n")
    (root / "proc/self/cgroup").write_text(groups)
    (root / "proc/self/statm").write_text(pages)
    for name, (limit, used, droppable) in folders.items():
        first = "memory" in name.split("/")
        folder = root / "sys/fs/cgroup" / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ("memory.limit_in_bytes" if first else "memory.max")).write_text(f"{limit}\n")
        (folder / ("memory.usage_in_bytes" if first else "memory.current")).write_text(f"{used}\n")
        total = "total_" if first else ""
        again = droppable // 4
        (folder / "memory.stat").write_text(f"anon 5\n{total}inactive_file {droppable - again}\n"
                                            f"{total}active_file {again}\n{total}inactive_anon 7\n")
    return root


@pytest.mark.parametrize("groups, folders, left", [
    ("0::/\n", {}, 64 * GB),
    ("0::/\n", {".": (8 * GB, 3 * GB, 0)}, 5 * GB),
    ("0::/\n", {".": (8 * GB, 3 * GB, 2 * GB)}, 7 * GB),
    ("0::/\n", {".": ("max", 3 * GB, 0)}, 64 * GB),
    ("0::/a/b\n", {"a": (8 * GB, 3 * GB, 0), "a/b": ("max", 2 * GB, 0)}, 5 * GB),
    ("0::/a/b\n", {"a": (8 * GB, 3 * GB, 0), "a/b": (4 * GB, 2 * GB, 1 * GB)}, 3 * GB),
    ("0::/a b:c\n", {"a b:c": (4 * GB, 1 * GB, 0)}, 3 * GB),
    ("0::/../../a\n", {".": (4 * GB, 1 * GB, 0)}, 3 * GB),
    ("0::/not/visible\n", {".": (4 * GB, 1 * GB, 0)}, 3 * GB),
    ("0::/\n", {".": (4 * GB, 5 * GB, 0)}, 0),
    ("5:cpu:/x\n4:memory:/x/y\n0::/\n", {"memory/x": (6 * GB, 2 * GB, 1 * GB),
                                          "memory/x/y": (2**63 - 4096, GB, 0)}, 5 * GB),
    ("4:hugetlb,memory:/docker/1\n", {"memory": (6 * GB, 2 * GB, 0)}, 4 * GB),
    ("0::/s\n1:name=systemd:/s\n", {"unified/s": (2 * GB, 1 * GB, 0)}, GB),
    ("5:cpu:/x\n4:memory:/\n", {"memory/x": (GB, GB, 0)}, 64 * GB)])
def test_control_groups(tmp_path, groups, folders, left):
    assert free_memory(machine(tmp_path, groups, **folders)) == left


def test_limits_of_the_process(tmp_path, monkeypatch):
    limits = {}
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (limits.get(kind, resource.RLIM_INFINITY), 0))
    root, page = machine(tmp_path), resource.getpagesize()
    assert free_memory(root) == 64 * GB
    limits[resource.RLIMIT_AS] = 4 * GB
    assert free_memory(root) == 4 * GB - 1000 * page
    limits[resource.RLIMIT_DATA] = 1 * GB
    assert free_memory(root) == GB - 500 * page


def test_here():
    assert 2**20 < free_memory() < 2**50


def test_a_machine_that_tells_nothing(tmp_path):
    assert 2**20 < free_memory(tmp_path) < 2**50


def test_under_ulimit():
    program = "from tiny.system.free_memory import free_memory; print(free_memory())"
    done = subprocess.run(["bash", "-c", f"ulimit -v 3000000; exec {sys.executable} -c '{program}'"], cwd=ROOT,
                          capture_output=True, text=True, check=True)
    assert 2**20 < int(done.stdout) < 3_000_000 * 1024
