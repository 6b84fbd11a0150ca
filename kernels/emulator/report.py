"""What the emulator says about a kernel, with the line of the source that it is about."""

import os
import re
import subprocess
from pathlib import Path

from tiny.config import TinyError

HERE = Path(__file__).resolve().parent
REMEDY = {
    "data race": "Put __syncthreads() between the two (__syncwarp() within a warp), or use atomics.",
    "out-of-bounds": "Guard the access with the size of the array, or correct the index.",
    "uninitialised": "Write the place first, and put a barrier between the write and the read.",
    "divergent": "Every thread of the block must reach the same barrier, every lane of the mask the same operation.",
    "misaligned": "A vector of n bytes must begin at a multiple of n.",
    "cp.async": "Wait with cp.async.wait_group, then __syncthreads().",
    "const": "Write to another array, or take const away from the parameter.",
}


class Report(TinyError):
    """Something that a kernel did wrong. `str` is `FILE.cu:LINE: what happened`, then where in the launch."""

    def __init__(self, file: str, line: int, what: str, kernel: str, block: tuple, thread: tuple):
        remedy = next((text for word, text in REMEDY.items() if word in what), "See the line.")
        super().__init__(f"{file}:{line}: {what} (in {kernel}, block {block}, thread {thread})", remedy)
        self.file, self.line, self.what = file, line, what
        self.kernel, self.block, self.thread = kernel, block, thread

    def __str__(self) -> str:
        return self.cause


class Lines:
    """Finds the line of the source for an address in a library."""

    def __init__(self, library: Path, path: str):
        self.library, self.path = library, path
        self.main = Path(path).resolve()
        self.known: dict[int, list[tuple[str, int]]] = {}

    def shown(self, file: str) -> str:
        """A file's name as the user would write it."""
        found = Path(file).resolve()
        if found == self.main:
            return self.path
        return os.path.normpath(Path(self.path).parent / os.path.relpath(found, self.main.parent))

    def of(self, offsets: list[int]) -> list[tuple[str, int]]:
        """(file, line) for each address: the innermost of the user's own files."""
        return [chain[0] for chain in self.chains(offsets)]

    def chains(self, offsets: list[int]) -> list[list[tuple[str, int]]]:
        """(file, line) for each address, then for the calls that led there, as far as they were compiled in line."""
        fresh = [offset for offset in dict.fromkeys(offsets) if offset not in self.known]
        if fresh:
            command = ["addr2line", "-a", "-i", "-e", str(self.library), *map(hex, fresh)]
            output = subprocess.run(command, capture_output=True, text=True).stdout
            for offset, frames in zip(fresh, re.split(r"^0x[0-9a-f]+\n", output, flags=re.M)[1:]):
                self.known[offset] = self.chain(frames)
        return [self.known.get(offset, [(self.path, 0)]) for offset in offsets]

    def chain(self, frames: str) -> list[tuple[str, int]]:
        """Of calls, from the innermost on, those that are the user's; of the shared headers only if alone."""
        found = re.findall(r"^(.+?):(\d+)(?: \(.*)?$", frames, re.M)
        own = [(file, int(line)) for file, line in found if not self.is_emulator(file)]
        best = [place for place in own if not is_shared_header(place[0])] or own or [(self.path, 0)]
        return [(self.shown(file), line) for file, line in best]

    @staticmethod
    def is_emulator(file: str) -> bool:
        """Whether a file belongs to the emulator or to the system."""
        return Path(file).resolve().is_relative_to(HERE) or file.startswith(("/usr/", "?"))


def is_shared_header(file: str) -> bool:
    """Whether a file is one of the headers of `kernels`, whose callers are the ones to blame."""
    return file.endswith(".cuh") and Path(file).resolve().parent == HERE.parent


def from_finding(finding, lines: Lines, kernel: str) -> TinyError:
    """Turn the runtime's finding into a Report, or a TinyError if the emulator simply does not support the feature."""
    what, file, line, callers = finding.what.decode(errors="replace"), finding.file.decode(), finding.line, []
    if not file or is_shared_header(file):
        (at, number), *callers = lines.chains([finding.code])[0]
        file, line = (at, number) if number or not file else (file, line)
    else:
        file = lines.shown(file)

    def place(match: re.Match) -> str:
        if match[1]:
            other, number = lines.shown(match[1]), int(match[2])
        else:
            other, number = lines.of([int(match[3], 16) - 1])[0]
        return f"(line {number})" if other == file else f"({other}:{number})"
    if finding.found == 2:
        return TinyError(f"{file}:{line}: the emulator does not model {what}.",
                         "kernels/emulator/__init__.py lists what it does not model.")
    what = re.sub(r"@PLACE (.*?):(\d+)@|@CODE ([0-9a-f]+)@", place, what)
    if callers and callers[0] != (file, line):
        what += f"; called from {callers[0][0]}:{callers[0][1]}".replace(f" {file}:", " line ")
    return Report(file, line, what, kernel, tuple(finding.block), tuple(finding.thread))
