"""The options of `python -m kernels.emulator`, and what can be said of them before anything is compiled."""

import argparse
import re
from math import prod
from pathlib import Path

from kernels.emulator.values import DTYPES
from tiny.config import TinyError
from tiny.system.reading import check_plain
from tiny.tools.terminal import Parser

# What a GPU launches at most: CUDA C++ Programming Guide, technical specifications per compute capability.
GRID, BLOCK, THREADS, SHARED = (2**31 - 1, 65535, 65535), (1024, 1024, 64), 1024, 227 << 10
LARGEST_SOURCE = 1 << 24  # bytes of a .cu file
EXAMPLES = """arguments of the kernel, in its order:
  --arg float32[64,32]:random     an array; fills: random, zeros, ones, arange, empty, or a number
  --arg int32:7                   a scalar
  --arg data.npy                  a stored array
  --arg float32[8]:ones+float32[8]:ones    a table of pointers
types: {types}
random is standard normal, for whole numbers 0 to 99; what is empty counts as never written.

examples:
  python -m kernels.emulator sum.cu --kernel sum --grid 2 --block 64 --arg float32[128]:random --arg float32[1]:zeros
  ... --check                     bounds, uninitialised memory, races, alignment, barriers: FILE.cu:LINE: what happened
  ... --profile                   sectors and bank conflicts by line
  ... --order random:7            a kernel whose result depends on the order of its threads has a race"""


def build_parser() -> Parser:
    parser = Parser(prog="python -m kernels.emulator", epilog=EXAMPLES.format(types=", ".join(DTYPES)),
                    description="Run a CUDA kernel on the CPU, check every access, or count what it costs.",
                    formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, metavar="FILE.cu")
    parser.add_argument("--kernel", metavar="NAME", help="default: the only one; an instance as in 'scale<float>'")
    parser.add_argument("--grid", type=sizes, default=(1, 1, 1), metavar="X[,Y[,Z]]", help="blocks; default: 1")
    parser.add_argument("--block", type=sizes, required=True, metavar="X[,Y[,Z]]", help="threads of a block")
    parser.add_argument("--smem", type=int, default=0, metavar="BYTES", help="dynamic shared memory; default: 0")
    parser.add_argument("--arg", action="append", default=[], metavar="VALUE", help="see below; once per parameter")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--check", action="store_true", help="watch every access and report the first mistake")
    mode.add_argument("--profile", action="store_true", help="count memory transactions, show them in the source")
    parser.add_argument("--order", default="forward", metavar="forward|reverse|random:SEED",
                        help="in which threads and blocks run; default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="of the fill random; default: %(default)s")
    parser.add_argument("--save", type=Path, metavar="OUT.npz", help="keep the arrays as they are after the run")
    parser.add_argument("-D", dest="defines", action="append", default=[], metavar="NAME=VALUE", help="define a macro")
    parser.add_argument("--time-limit", type=float, default=30.0, metavar="SECONDS",
                        help="stop a kernel that does not end; default: %(default)g, without compiling")
    parser.add_argument("--strict", action="store_true",
                        help="refuse functions without `return`, and variables that are read before they are set")
    parser.add_argument("--portable", action="store_true", help="switch between threads by ucontext, not by hand")
    parser.add_argument("--debug", action="store_true", help="show where an error of this program happened")
    return parser


def sizes(text: str) -> tuple[int, int, int]:
    """One to three sizes of a grid or block."""
    if not re.fullmatch(r"\d{1,10}(,\d{1,10}){0,2}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not one to three sizes, as in 64 or 8,8")
    x, y, z, *_ = [int(size) for size in text.split(",")] + [1, 1]
    return x, y, z


def check_options(args: argparse.Namespace) -> None:
    """What can be said before anything is compiled."""
    if not args.file.exists():
        raise TinyError(f"There is no file {args.file}.", "Name a .cu file.")
    check_plain(args.file, LARGEST_SOURCE)
    for name, given, most in (("--grid", args.grid, GRID), ("--block", args.block, BLOCK)):
        if not all(1 <= size <= limit for size, limit in zip(given, most)) or (most is BLOCK and prod(given) > THREADS):
            raise TinyError(f"{name} {','.join(map(str, given))}: beyond what a GPU launches.",
                            f"Each size is at least 1 and at most {', '.join(map(str, most))}"
                            f"{f', and a block has {THREADS} threads at most' if most is BLOCK else ''}.")
    if not 0 <= args.smem <= SHARED:
        raise TinyError(f"--smem {args.smem}: not a number of bytes from 0 to {SHARED}.",
                        "A block of an H100 has 227 KiB at most.")
    if not re.fullmatch(r"forward|reverse|random:\d{1,9}", args.order):
        raise TinyError(f"--order {args.order}: there is no such order.", "Write forward, reverse or random:7.")
    if args.seed < 0 or not 0 < args.time_limit < 1e6:
        raise TinyError("--seed is negative, or --time-limit is not a number of seconds.", "Give both above zero.")
    for define in args.defines:
        if not re.fullmatch(r"[A-Za-z_]\w*(=.*)?", define):
            raise TinyError(f"-D {define}: not a macro.", "Write -D NAME or -D NAME=VALUE.")
    if args.save and (args.save.is_dir() or not args.save.resolve().parent.is_dir()):
        raise TinyError(f"--save {args.save}: there is no such folder, or it is one.", "Name a file, as in OUT.npz.")
