"""Fault injection: each writing command, with its n-th write, new file, rename, mkdir, removal or flush to the disk
failing, n = 1, 2, ...

    python -m tests.fuzz.faults             all commands, until each gets through
    python -m tests.fuzz.faults routing     some of them

A step fails with "no space left" or an input/output error, or the process gets SIGTERM or SIGKILL there. Afterwards
each file is absent, old and whole, or new and whole, and nothing unfinished is left. After SIGKILL something may be,
where the disk has no files without a name, and for the moment in which a file takes the place of an old one; then the
same command, given again, removes it.
"""

import builtins
import errno
import io
import os
import re
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests/helpers"))

from tests.fuzz.engine import Wrong  # noqa: E402  needs the path above
from tests.fuzz.writers import WRITERS, Writer  # noqa: E402
from tiny.system import whole  # noqa: E402
from tiny.tools.terminal import program  # noqa: E402

KINDS: dict[str, int] = {"ENOSPC": errno.ENOSPC, "EIO": errno.EIO, "SIGTERM": signal.SIGTERM, "SIGKILL": signal.SIGKILL}
STEPS = ("os.rename", "os.link", "os.mkdir", "os.remove", "os.rmdir")  # events of Python's audit
NEW_FILE = os.O_CREAT | getattr(os, "O_TMPFILE", 0) & ~os.O_DIRECTORY
MOST = 400  # steps of one command
NEVER = 10**9


class Injector:
    """Counts the steps of a process that change files, and lets one of them fail."""

    def __init__(self, at: int, kind: str):
        self.at, self.kind, self.count, self.on = at, kind, 0, True

    def step(self) -> None:
        """One step more; the one that was chosen fails, once."""
        self.count += 1
        if self.on and self.count == self.at:
            if self.kind.startswith("SIG"):
                os.kill(os.getpid(), KINDS[self.kind])
            else:
                raise OSError(KINDS[self.kind], os.strerror(KINDS[self.kind]))

    def install(self) -> None:
        """Watch new files, renames, mkdir and removals by Python's audit, and writes by files that count."""
        injector, real, flush = self, io.open, os.fsync

        class Counting(io.FileIO):
            def write(self, data: Any) -> int:
                injector.step()
                return super().write(data)

        def counting(file: Any, mode: str = "r", buffering: int = -1, *rest: Any, **more: Any) -> Any:
            if "b" not in mode or not set(mode) & set("wxa") or more.get("opener"):
                return real(file, mode, buffering, *rest, **more)
            raw = Counting(file, mode.replace("b", ""))
            return io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)

        def counted(number: int) -> None:
            injector.step()
            flush(number)

        def audit(event: str, arguments: tuple) -> None:
            if event in STEPS or event == "open" and isinstance(arguments[2], int) and arguments[2] & NEW_FILE:
                injector.step()
        builtins.open = io.open = counting  # type: ignore[assignment]
        os.fsync = counted  # type: ignore[assignment]
        sys.addaudithook(audit)


def attempt(writer: Writer, out: Path, at: int, kind: str, named: bool) -> tuple[int, bool]:
    """Run a command in a child with the step `at` failing: its status, negative for a signal; if it had fewer steps.

    named: as on a disk that has no files without a name
    """
    reader, end = os.pipe()
    child = os.fork()
    if child == 0:
        null = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(null, stream)
        if named:
            whole.open_unnamed = lambda folder: None
        injector = Injector(at, kind)
        injector.install()
        try:
            program(lambda: status_of(writer.run(out)))
        except SystemExit as stop:
            injector.on = False
            os.write(end, b"x" * (injector.count < at))
            os._exit(int(stop.code or 0))
        finally:
            os._exit(99)
    os.close(end)
    through = os.read(reader, 1) == b"x"
    os.close(reader)
    status = os.waitpid(child, 0)[1]
    return os.waitstatus_to_exitcode(status), through


def status_of(result: object) -> int:
    """The exit status of a command that returned this."""
    return result if isinstance(result, int) else 0


def contents(folder: Path) -> dict[str, bytes]:
    """All files below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def inject(name: str, kinds: tuple[str, ...], old: bool, named: bool, every: int = 1) -> int:
    """Let each step of a command fail once, in these kinds by turns; return how many there are, about.

    old: whether its files are there before; every: 3 tries one step in three

    Raises:  Wrong if a file is neither old nor new, or something unfinished is left
    """
    writer = WRITERS[name]
    with tempfile.TemporaryDirectory(prefix="faults-") as scratch:
        right = Path(scratch) / "right"
        right.mkdir()
        versions = written(writer, right)
        new = contents(right)
        before = dict.fromkeys(new, b"old") if old and not writer.keeps and not writer.folder else {}
        for at in range(1, MOST, every):
            out, kind = Path(scratch) / f"out{at}", kinds[at // every % len(kinds)]
            out.mkdir()
            for file, data in before.items():
                (out / file).parent.mkdir(parents=True, exist_ok=True)
                (out / file).write_bytes(data)
            where = f"{name}: {kind} at step {at}{', named' * named}"
            status, through = attempt(writer, out, at, kind, named)
            may_leave = kind == "SIGKILL" and (named or bool(before) or writer.folder)
            check(where, before, versions, without_kept(where, writer, before, contents(out)), may_leave)
            if (out / "copy").exists() and len(contents(out / "copy")) < len(new):
                raise Wrong(f"{where} leaves a part of the folder")
            if status not in (0, 2, 143, -9) or status == 0 and without_kept(
                    where, writer, before, contents(out)) != new:
                raise Wrong(f"{where} ends in status {status}")
            if through:
                return at - 1
            check_again(where, writer, out, before, new, named)
    raise Wrong(f"{name} has more than {MOST} steps")


def written(writer: Writer, out: Path) -> dict[str, set[bytes]]:
    """Run a command; what each of its files held whenever one got its name, for some are written several times."""
    versions: dict[str, set[bytes]] = {}

    def noted(rename: Callable) -> Callable:
        def call(source: object, name: object, **more: Any) -> None:
            rename(source, name, **more)
            for file, data in contents(out).items():
                versions.setdefault(file, set()).add(data)
        return call
    with patch.object(os, "link", noted(os.link)), patch.object(os, "replace", noted(os.replace)):
        if status_of(writer.run(out)):
            raise Wrong("the command fails by itself")
    for file, data in contents(out).items():
        versions.setdefault(file, set()).add(data)
    return versions


def check(where: str, before: dict[str, bytes], versions: dict[str, set[bytes]], after: dict[str, bytes],
          may_leave: bool) -> None:
    """Hold what is there after a failed step against what may be."""
    parts = [file for file in after if ".part" in file]
    if parts and not may_leave:
        raise Wrong(f"{where} leaves {parts[0]}")
    for file in (set(after) | set(before)) - set(parts):
        if after.get(file) not in (before.get(file), *versions.get(file, ())):
            raise Wrong(f"{where} leaves {file} neither old nor new")


def without_kept(where: str, writer: Writer, before: dict[str, bytes], found: dict[str, bytes]) -> dict[str, bytes]:
    """The files that a command writes, without those where it keeps old ones. Raises Wrong if an old one is lost."""
    if not writer.keeps_old:
        return found
    kept = {file: data for file, data in found.items() if re.fullmatch(r".*\.\d+", file)}
    for file, data in kept.items():
        if data != before.get(file.rpartition(".")[0]):
            raise Wrong(f"{where} leaves {file}, which holds no old file")
    for file, data in before.items():
        if found.get(file) != data and not any(name.rpartition(".")[0] == file for name in kept):
            raise Wrong(f"{where} loses what {file} held")
    return {file: data for file, data in found.items() if file not in kept}


def check_again(where: str, writer: Writer, out: Path, before: dict[str, bytes], new: dict[str, bytes],
                named: bool) -> None:
    """The same command, given again, does all of it, and removes what a killed one has left."""
    if not (out / "copy").exists():  # `convert` writes to no folder that is there
        attempt(writer, out, NEVER, "EIO", named)
    if without_kept(where, writer, before, contents(out)) != new:
        raise Wrong(f"{where}, and the same command again leaves something else")


def main() -> int:
    """Inject faults into the commands that are named, or into all."""
    for name in sys.argv[1:] or WRITERS:
        for kind in KINDS:
            for old in (False, True):
                for named in (False, True):
                    steps = inject(name, (kind,), old, named)
                    print(f"{name}, {kind}, {'over old files' if old else 'new'}{', named' * named}: {steps} steps",
                          flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
