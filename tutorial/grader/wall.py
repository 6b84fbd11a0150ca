"""The first layer: a submission's process sees Python, the book with holes and its own copy, and nothing else.

bubblewrap builds it from what the kernel offers to everybody: separate namespaces for files, processes, users and
network. Inside there is no home folder, no other submission, no grader and no network to be found; the only folder to
write in is in memory and is gone with the process, as is whatever it started. Where bubblewrap is not installed, or
the system refuses namespaces, `find_wall` says so, and the guard (guard.py) stands alone.
"""

import functools
import os
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np

HOME = "/submission"  # where a submission finds itself
TREE, SOURCE = "/book", "/source"  # the book with holes, and what was submitted
KEEPER = Path(__file__).with_name("keeper.py")
SCRATCH = 64 << 20  # bytes that it may write
OURS = ("tiny", "tutorial", "kernels", "tests")  # packages that hold answers, if they were installed
SHARED = ("/usr/lib", "/usr/lib64", "/usr/lib32", "/usr/share", "/lib", "/lib64", "/etc/ld.so.cache",
          "/etc/alternatives", "/etc/localtime", "/etc/fonts")


@dataclass(frozen=True)
class Wall:
    """How to start a program behind a wall; without one, why there is none."""

    program: str | None
    reason: str = ""

    def command(self, tree: Path, source: Path) -> list[str]:
        """What goes before a command, which then reads `tree` as TREE and `source` as SOURCE, and writes in HOME."""
        if self.program is None:
            return [interpreter(), "-IS", str(KEEPER)]
        size = ["--size", str(SCRATCH)] if "--size" in usage(self.program) else []
        return [self.program, "--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL",
                *bound(), *hidden_mounts(), "--dev", "/dev", "--ro-bind", str(tree), TREE,
                "--ro-bind", str(source), SOURCE, *size, "--tmpfs", HOME, "--remount-ro", "/",
                "--remount-ro", "/dev", "--chdir", HOME]


def interpreter() -> str:
    """The interpreter itself, not the link to it in a virtual environment."""
    return os.path.realpath(sys.executable)


def packages() -> list[str]:
    """The folders from which a submission may import: where NumPy and whatever else is installed."""
    paths = sysconfig.get_paths()
    folders = [paths["purelib"], paths["platlib"], *(str(Path(m.__file__ or "").parents[1]) for m in (np, ml_dtypes))]
    return [folder for folder in dict.fromkeys(folders) if os.path.isdir(folder)]


def readable() -> list[str]:
    """Python's own files and those that its libraries share."""
    base = sys.base_prefix
    wanted = [interpreter(), f"{base}/lib", f"{base}/lib64", os.path.dirname(os.__file__), *packages(),
              *SHARED]
    return [path for path in dict.fromkeys(wanted) if os.path.exists(path)]


def hidden() -> list[str]:
    """This project, where it was installed as a package: it holds the answers."""
    return [path for folder in packages() for name in OURS if os.path.isdir(path := os.path.join(folder, name))]


def bound() -> list[str]:
    """bubblewrap's arguments for `readable`; links at the root, as /lib often is, stay links."""
    arguments = []
    for path in readable():
        if os.path.islink(path) and path.count("/") == 1:
            arguments += ["--symlink", os.readlink(path), path]
        else:
            arguments += ["--ro-bind", path, path]
    return arguments


def hidden_mounts() -> list[str]:
    """bubblewrap's arguments for `hidden`: something empty lies over each."""
    return [part for path in hidden() for part in ("--tmpfs", path)]


@functools.cache
def usage(program: str) -> str:
    """What bubblewrap says that it can do."""
    return subprocess.run([program, "--help"], capture_output=True, text=True, timeout=20).stdout


@functools.cache
def find_wall() -> Wall:
    """bubblewrap, if it is installed and the system lets it work; tried with an interpreter that imports NumPy."""
    program = shutil.which("bwrap")
    if program is None:
        return Wall(None, "bubblewrap (bwrap) is not installed")
    here, code = Path(__file__).parent, f"import sys; sys.path += {packages()}; import numpy, ml_dtypes"
    try:
        tried = subprocess.run([*Wall(program).command(here, here), interpreter(), "-ISc", code],
                               stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Wall(None, f"bubblewrap does not work here ({type(error).__name__})")
    if tried.returncode:
        said = " ".join(tried.stderr.split())[:120] or f"exit status {tried.returncode}"
        return Wall(None, f"bubblewrap does not work here ({said})")
    return Wall(program)
