"""The same targets under atheris, which goes where new code is reached: `python -m tests.fuzz.guided [TARGET ...]`.

It begins with inputs of the fuzzer, and stops at the first fault of a target. Without atheris, which is in the `dev`
extra, it says so and does nothing.
"""

import argparse
import importlib.util
import os
import shutil
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests/helpers"))
# Those that read bytes; the inputs of the others are JSON of what is done, in which changed bytes say nothing.
BYTES = ("safetensors", "configuration", "torch", "sentencepiece", "tekken", "picture", "npz", "npy", "value", "state",
         "message", "source")
FIRST = 50  # inputs that a target begins with


def main() -> int:
    """Fuzz each target in a process of its own: libFuzzer ends the process that it runs in."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.guided", description=(__doc__ or "").split(":")[0])
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"some of: {', '.join(BYTES)}; default: all")
    parser.add_argument("--seconds", type=int, default=10, metavar="S", help="for each target; default: %(default)s")
    args = parser.parse_args()
    if unknown := [name for name in args.targets if name not in BYTES]:
        parser.error(f"these are not targets: {', '.join(unknown)}")
    if importlib.util.find_spec("atheris") is None:
        print("atheris is not installed, so nothing is guided by coverage: pip install -e .[dev]")
        return 0
    status = 0
    for name in args.targets or BYTES:
        folder = Path(tempfile.mkdtemp(prefix=f"guided-{name}-"))
        child = os.fork()
        if child == 0:
            guide(name, args.seconds, folder)
            os._exit(99)
        ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if ended == 0:
            shutil.rmtree(folder)
        said = f"a fault, of which {folder} has the input" if ended else "no fault"
        print(f"{name:14} {args.seconds} s under atheris: {said}", flush=True)
        status = status or ended
    return 1 if status else 0


def guide(name: str, seconds: int, folder: Path) -> None:
    """Run one target under atheris until the time is over, or a fault ends the process."""
    import atheris

    with atheris.instrument_imports(include=["tiny", "kernels", "tutorial"], enable_loader_override=False):
        from tests.fuzz.engine import Wrong, input_of, judge
        from tests.fuzz.targets import TARGETS
    target = TARGETS[name]
    (folder / "first").mkdir()
    (folder / "work").mkdir()
    for n in range(FIRST):
        (folder / f"first/{n}").write_bytes(input_of(target, 0, n))

    def one(data: bytes) -> None:
        """Judge one input; what is raised here ends the run, and libFuzzer keeps the input."""
        outcome = judge(target, data, folder / "work")
        if outcome.startswith("fault: "):
            raise Wrong(outcome)

    atheris.Setup([name, str(folder / "first"), f"-max_total_time={seconds}", f"-artifact_prefix={folder}/",
                   "-verbosity=0", "-timeout=60", "-rss_limit_mb=4000"], one)
    atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())
