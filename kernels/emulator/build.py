"""Compile a .cu file with g++ into a library, and keep it by content.

The kernel is compiled with device.h in front, which g++ reads once for each set of options and keeps in its own form;
the runtime (fibers.cpp and the other chapters) is one library that all kernels share. A library is named after
everything that shaped it: sources, options, the compiler and this package; so a change is never overlooked, and nothing
is compiled twice. Files are written beside their names and moved into place, so that processes that build the same
thing at the same time do no harm.
"""

import fcntl
import hashlib
import os
import platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import count
from pathlib import Path

from kernels.emulator import ptx
from kernels.emulator.rewrite import Source, hidden, rewrite
from tiny.config import TinyError
from tiny.tools.machine import cpu_flags

HERE = Path(__file__).parent
CHAPTERS = ("fibers", "meetings", "copies", "watch", "fences", "profile")
# No contraction, so that a * b + c rounds twice, everywhere (g++ 12 would still contract pairs of sums and differences
# where it vectorises straight lines); a pointer of one type may read what another wrote.
COMMON = ["-std=c++17", "-g", "-fPIC", "-march=native", "-ffp-contract=off", "-fno-tree-slp-vectorize",
          "-fno-strict-aliasing", "-fno-gnu-unique", "-fno-semantic-interposition", "-fno-threadsafe-statics",
          "-fwrapv", "-fno-finite-loops",
          *(["-mtls-dialect=gnu2"] if platform.machine() == "x86_64" else [])]  # shared memory is a step nearer
# Each access of the source is to be one access of the program, of the same width.
WATCHED = ["-O1", "-fsanitize=thread", "--param=tsan-instrument-func-entry-exit=0", "-fno-tree-sra",
           "-fno-tree-vectorize", "-fno-store-merging", "--param=tsan-distinguish-volatile=1",
           "-fsanitize=bounds,integer-divide-by-zero,shift-exponent,alignment"]
STRICT = ["-Werror=return-type", "-Werror=uninitialized", "-Werror=maybe-uninitialized"]
SPARE = 64  # bytes after every variable in checked mode, so that an overrun does not hit the next one


@dataclass(frozen=True)
class Built:
    """A library, the file it was made from, and the kernels in that file."""

    library: Path
    path: str
    kernels: dict[str, str]
    templates: tuple[str, ...]


def compiler() -> str:
    """The path of g++."""
    found = shutil.which("g++")
    if not found:
        raise TinyError("The emulator compiles kernels with g++, which is not on this machine.",
                        "Install it: `apt install g++` on Debian and Ubuntu, `dnf install gcc-c++` on Fedora, "
                        "`conda install gxx` anywhere.")
    return found


@lru_cache(1)
def machine(gxx: str) -> str:
    """What the compiler is and what -march=native means here."""
    version = subprocess.run([gxx, "--version"], capture_output=True, text=True).stdout
    return version + " ".join(cpu_flags())


def cache_folder() -> Path:
    """Where libraries are kept: the user's cache, or the temporary folder if that cannot be written."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    for folder in (base / "tiny-mixtral" / "emulator", Path(tempfile.gettempdir()) / f"tiny-mixtral-{os.getuid()}"):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                return folder
        except OSError:
            continue
    raise TinyError("The emulator has no folder to keep compiled kernels in.",
                    "Set XDG_CACHE_HOME to a folder that can be written.")


def read_all(path: Path, folders: list[Path]) -> dict[Path, Source]:
    """The file and the headers of the user's that it includes, rewritten, by path."""
    sources: dict[Path, Source] = {}
    numbers = count()

    def visit(file: Path) -> None:
        found: dict[Path, None] = {}

        def resolve(name: str) -> str | None:
            for folder in (file.parent, *folders):
                header = (folder / name).resolve()
                if header.is_file():
                    found[header] = None
                    return str(header)
            return None
        try:
            text = file.read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            raise TinyError(f"{file} cannot be read: {error.strerror}.", "Give the path of a .cu file.") from error
        sources[file] = rewrite(text, resolve, lambda: next(numbers))
        for header in found:
            if header not in sources:
                visit(header)
    visit(path)
    return sources


def run_compiler(command: list) -> subprocess.CompletedProcess:
    """Run a program to its end."""
    return subprocess.run([str(part) for part in command], capture_output=True, text=True)


def once(part: Path, make: Callable[[Path], subprocess.CompletedProcess]) -> Path:
    """What all kernels share is made by one process, while others that need it wait. make(place) runs g++."""
    if part.exists():
        return part
    with locked(part.parent), tempfile.TemporaryDirectory(dir=part.parent) as folder:
        if not part.exists():
            made = Path(folder) / part.name
            result = make(made)
            if result.returncode:
                raise TinyError(f"The emulator itself does not compile:\n{result.stderr[:2000]}",
                                "It needs g++ 11 or newer; see g++ --version.")
            os.replace(made, part)
    return part


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep a folder for this thread, until the end."""
    place = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(place, fcntl.LOCK_EX)
        yield
    finally:
        os.close(place)


def runtime(gxx: str, cache: Path, portable: bool) -> Path:
    """The library that all kernels share."""
    parts = [*(HERE / f"{name}.cpp" for name in CHAPTERS), HERE / "runtime.h"]
    options = ["-std=c++17", "-O2", "-g", "-fPIC", "-fvisibility=hidden", "-w", *(["-DPORTABLE"] if portable else [])]
    key = digest(machine(gxx), options, *(part.read_text() for part in parts))
    return once(cache / f"runtime-{key}.so",
                lambda made: run_compiler([gxx, *options, "-shared", "-pthread", *parts[:-1], "-o", made, "-ldl"]))


def front(gxx: str, cache: Path, options: list[str]) -> Path:
    """A header that stands for device.h, and beside it what g++ made of that, which it takes if it fits: if no macro of
    the kernel's has a name that device.h uses. Else it reads device.h, which takes as long as most kernels do.
    """
    key = digest(machine(gxx), HERE, options, *(part.read_text() for part in sorted(HERE.glob("*.h"))))
    header = cache / f"device-{key}.h"

    def make(made: Path) -> subprocess.CompletedProcess:
        written = made.with_suffix("")
        written.write_text(f'#include "{HERE / "device.h"}"\n', encoding="utf-8")
        os.replace(written, header)
        return run_compiler([gxx, *options, "-x", "c++-header", header, "-o", made])
    return once(header.with_suffix(".h.gch"), make).with_suffix("")


def digest(*parts) -> str:
    """A short name for content."""
    return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()[:20]


def build(path: Path, defines=(), instances=(), watched=False, portable=False, debug=False,
          strict=False) -> Built:
    """Compile a file of kernels, unless that has been done before."""
    gxx, cache = compiler(), cache_folder()
    absolute = Path(path).resolve()
    sources = read_all(absolute, [absolute.parent, HERE.parent])
    shared = runtime(gxx, cache, portable)
    options = options_of(watched, debug, strict)
    own = [*sorted(HERE.glob("*.h")), *(HERE / f"{name}.py" for name in ("build", "ptx", "rewrite"))]
    headers = [part.read_text() for part in own]
    key = digest(machine(gxx), shared.name, options, defines, instances,
                 *(f"{file}\0{source.text}" for file, source in sources.items()), *headers)
    library = cache / f"{absolute.stem}-{key}.so"
    if not library.exists():
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            inputs = [f"-I{absolute.parent}", *(f"-D{define}" for define in defines),
                      "-include", front(gxx, cache, options)]
            made = compile_all(gxx, Path(folder), path, sources, instances, options, inputs, shared, watched)
            os.replace(made, library)
    kernels = {name: text for source in sources.values() for name, text in source.kernels.items()}
    return Built(library, str(path), kernels, tuple(name for source in sources.values() for name in source.templates))


def parts(strict: bool) -> list[Path]:
    """The files that kernels share, checked or not."""
    gxx, cache = compiler(), cache_folder()
    headers = [front(gxx, cache, options_of(watched, False, strict)) for watched in (False, True)]
    return [runtime(gxx, cache, False), *headers, *(header.with_suffix(".h.gch") for header in headers)]


def options_of(watched: bool, debug: bool, strict: bool) -> list[str]:
    """What g++ is told of every kernel in these modes."""
    return [*COMMON, *(WATCHED if watched else ["-O2"]), *(["-O0"] if debug else []), *(STRICT if strict else ["-w"])]


def compile_all(gxx: str, folder: Path, path: Path, sources: dict[Path, Source], instances, options: list[str],
                inputs: list, shared: Path, watched: bool) -> Path:
    """From rewritten sources to a library in `folder`; inputs: what g++ is told of this kernel."""
    copies = {file: folder / f"{number}-{file.name}" for number, file in enumerate(sources)}
    main = Path(path).resolve()
    for file, source in sources.items():
        text = source.text
        for name in source.includes:
            text = text.replace(f'"{name}"', f'"{copies[Path(name)]}"')
        tail = "".join(f'\nEMULATOR_KERNEL(instance_{n}, "{name}", {name})' for n, name in enumerate(instances))
        copies[file].write_text(f'#line 1 "{file}"\n{text}' + (tail + "\n" if file == main else ""), encoding="utf-8")
    assembly, library = folder / "kernel.s", folder / "kernel.so"
    inputs = [*inputs, "-x", "c++", copies[main]]
    if any(ptx.STATEMENT.search(source.text) for source in sources.values()):
        result = run_compiler([gxx, *options, *inputs, "-E", "-fpch-preprocess"])
        if result.returncode:
            raise refused(result.stderr, path, sources[main].text)
        text = ptx.rewrite(result.stdout, hidden(result.stdout), set(map(str, sources)))
        (folder / "kernel.ii").write_text(text, encoding="utf-8")
        inputs = ["-fpreprocessed", folder / "kernel.ii"]
    result = run_compiler([gxx, *options, *inputs, "-S", "-o", assembly])
    if result.returncode:
        raise refused(result.stderr, path, sources[main].text)
    if watched:
        assembly.write_text(with_spare_bytes(assembly.read_text()))
    result = run_compiler([gxx, "-shared", "-nodefaultlibs", "-Wl,-Bsymbolic,--no-as-needed", assembly, shared, "-lgcc",
                           "-o", library])
    if result.returncode:
        raise TinyError(f"{path} does not link:\n{result.stderr[:1000]}", "Define what is declared but not there.")
    return library


def with_spare_bytes(assembly: str) -> str:
    """Add some bytes after every variable that begins as zeros; call our functions in place of memcpy and memset."""
    def grow(match: re.Match) -> str:
        return f"{match[1]}{int(match[2]) + SPARE}"
    assembly = re.sub(r"(?m)^(\s+\.(?:local_)?comm\s+[^,\n]+,)(\d+)", grow, assembly)
    assembly = re.sub(r"(?m)^(\s+\.size\s+(?:\S+), (\d+)\n\S+:\n\s+\.zero\s+)\2$", grow, assembly)
    return re.sub(r"\b(call|jmp|bl|b)(\s+)(memcpy|memset|memmove)\b", r"\1\2emulator_\3", assembly)


def refused(messages: str, path: Path, text: str) -> TinyError:
    """The compiler's first error, with the file's own line."""
    error = re.search(r"^(?P<file>[^:\n]+):(?P<line>\d+):(?:\d+:)? (?:fatal )?error: (?P<what>.*)", messages, re.M)
    what = f"{error['file']}:{error['line']}: {error['what'].partition(' [-W')[0]}" if error else messages[:500]
    if error and "does not know the PTX instruction" in error["what"]:
        return TinyError(what.replace("static assertion failed: ", ""),
                         "kernels/emulator/ptx.py lists the instructions; there a meaning can be added.")
    if "<<<" in hidden(text):
        return TinyError(f"{path} does not compile: {what}",
                         "A launch `<<<...>>>` from a kernel is not modelled; leave it out with "
                         "#ifndef __CUDA_EMULATOR__.")
    return TinyError(f"{path} does not compile: {what}", "Correct the line; nvcc or NVRTC say more about CUDA itself.")
