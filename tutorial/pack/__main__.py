"""Write what a teacher hands out and uploads: `python -m tutorial.pack`.

    python -m tutorial.pack                writes runs/pack/student.zip and runs/pack/gradescope.zip
    python -m tutorial.pack --out DIR      into another folder

How Gradescope counts: --partial, --late-days N and --penalty P, as in `python -m tutorial.grader`.
"""

import io
import zipfile
from pathlib import Path

from tiny.system.whole import write_whole
from tiny.tools.terminal import Parser, check_numbers, program
from tutorial.grader.credit import Rules
from tutorial.pack.gradescope import container_files
from tutorial.pack.student import student_files
from tutorial.source import ROOT

OUT = ROOT / "runs/pack"
TOP = "tiny-mixtral-course"  # the folder that the student's archive unpacks to
EXECUTABLE = (".sh", "run_autograder")


def archive(files: dict[str, bytes], top: str = "") -> bytes:
    """A ZIP archive of these files, the same bytes for the same files."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, data in sorted(files.items()):
            entry = zipfile.ZipInfo(f"{top}/{name}" if top else name)
            entry.external_attr = (0o755 if name.endswith(EXECUTABLE) else 0o644) << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            packed.writestr(entry, data)
    return out.getvalue()


def main(argv: list[str] | None = None) -> int:
    """Write both archives."""
    parser = Parser(prog="python -m tutorial.pack", description=(__doc__ or "").partition(":")[0] + ".")
    parser.add_argument("--out", type=Path, default=OUT, help="the folder (default: runs/pack)")
    parser.add_argument("--partial", action="store_true", help="Gradescope: part of the points for part of the ideas")
    parser.add_argument("--late-days", type=int, default=0, help="Gradescope: free days after the deadline")
    parser.add_argument("--penalty", type=float, default=10.0, help="Gradescope: per cent for each later day")
    args = parser.parse_args(argv)
    check_numbers(args, {"late_days": (0, 1e4), "penalty": (0, 100)})
    out, rules = args.out, Rules(args.partial, None, args.late_days, args.penalty)
    out.mkdir(parents=True, exist_ok=True)
    for name, files, top in (("student.zip", student_files(), TOP), ("gradescope.zip", container_files(rules), "")):
        data = archive(files, top)
        write_whole(out / name, data)
        print(f"{out / name}: {len(files)} files, {len(data) / (1 << 20):.1f} MiB")
    return 0


if __name__ == "__main__":
    program(main)
