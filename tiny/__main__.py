"""The command line, `python -m tiny COMMAND`: arguments, what goes to which stream, and errors in two lines.

Text goes to standard output, notes to standard error. Each command is a module of `tiny/tools/`, named like it.
"""

import argparse
import functools
import importlib
import re
import sys
import warnings
from collections.abc import Callable

from tiny.config import TinyError
from tiny.numerics import PRECISIONS
from tiny.tools.terminal import Parser, guarded, note, program

VERSION = "0.1.0"
EXAMPLES = """examples:
  python -m tiny demo
  python -m tiny generate --prompt "Once upon a time" --max-tokens 100 --temperature 0.7
  python -m tiny chat
  python -m tiny describe photo.png chart.png --question "Which image has the star?"
  python -m tiny memory DIR --context 4096

DIR is a folder in a released layout: params.json with consolidated*.safetensors, or config.json with
model*.safetensors; or a GGUF file, or a folder with one. Without --model an embedded model is used: tiny-pixtral if
there is an image, else tiny-mixtral."""


def main(argv: list[str] | None = None) -> int:
    """Run one command; return the exit status: 0, 2 after an error, 130 after Ctrl-C, 141 after a closed pipe."""
    argv = sys.argv[1:] if argv is None else list(argv)
    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        # Arithmetic on damaged weights warns; the check of the logits says it better.
        warnings.simplefilter("ignore", RuntimeWarning)
        warnings.showwarning = lambda message, *_: note(str(message))
        return guarded(lambda: run_command(argv), "--debug" in argv)


def run_command(argv: list[str]) -> int:
    """Parse the arguments and call the command."""
    if argv[:1] == ["bench"]:
        return importlib.import_module("tiny.tools.bench").main(argv[1:]) or 0
    if argv[:1] == ["evals"]:
        return importlib.import_module("tiny.evals.commands").main(argv[1:])
    if argv[:1] == ["explore"]:
        return importlib.import_module("tiny.serve.explore.command").main(argv[1:]) or 0
    if argv[:1] == ["serve"]:
        return importlib.import_module("tiny.serve.command").main(argv[1:]) or 0
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.version:
        print(versions())
    elif args.command is None:
        parser.print_help()
    else:
        if "device" in args:
            args.load = choose_loader(args)
        return importlib.import_module(f"tiny.tools.{args.command}").main(args) or 0
    return 0


def choose_loader(args: argparse.Namespace) -> Callable:
    """What opens the model: the book's `load`, or that of the kernels, imported only if --device asks for them."""
    if args.device == "cpu":
        if args.kernels is not None:
            raise TinyError("--kernels does nothing on the CPU, where every operation is NumPy's.",
                            "Add --device cuda, or --device emulator.")
        if args.weights == "int8":
            raise TinyError("--weights int8 is a form for kernels.", "Add --device cuda, or --device emulator.")
        return importlib.import_module("tiny").load
    try:
        import kernels.ops
    except ImportError as error:
        raise TinyError(f"The kernels cannot be imported: {error}.",
                        "Run from this project's folder, or install it with: pip install -e .") from error
    return functools.partial(kernels.load, device=args.device, kernels="all" if args.kernels is None else args.kernels)


def build_parser() -> argparse.ArgumentParser:
    """All commands with their options."""
    parser = Parser(prog="python -m tiny", description="Mixtral 8x7B and Pixtral 12B from scratch, in NumPy.",
                    epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--version", action="store_true", help="versions of tiny, Python, NumPy and its BLAS")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")

    def command(name: str, help: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=help, description=help[0].upper() + help[1:] + ".")
        added.add_argument("--debug", action="store_true", help="show where an error happened")
        return added

    demo = command("demo", "show the models at work: text coloured by expert, a chat answer, two pictures described")
    write = command("generate", "continue a text, or answer a question about images")
    talk = command("chat", "talk with a model; /image PATH, /reset and /quit are commands")
    look = command("describe", "describe images, or answer a question about them")
    trace = command("trace", "run a prompt once and show every array on the way: shape, rms, largest, NaN")
    show = command("inspect", "list sizes and tensors of a checkpoint, from its headers alone")
    memory = command("memory", "say what memory a run needs, from the configuration and headers alone")
    tokens = command("tokenize", "show the tokens of a text")
    routing = command("routing", "measure which experts a model chooses over texts, as section 5 of the paper does")
    passkey = command("passkey", "measure whether a model finds five digits in a long text, wherever they stand")
    verify = command("verify", "compare with another implementation, layer by layer: dump, check, results")
    importlib.import_module("tiny.tools.verify").add_options(verify)
    convert = command("convert", "write a checkpoint, or files of torch.save, in Mistral's layout or in HF's")
    importlib.import_module("tiny.tools.convert").add_options(convert)
    quantize = command("quantize", "write a checkpoint with its matrices as int8, and say what that costs")
    importlib.import_module("tiny.tools.quantize").add_options(quantize)
    commands.add_parser("bench", help="measure speed and memory; see bench --help", add_help=False)
    commands.add_parser("evals", help="score a model by the published protocols; see evals --help", add_help=False)
    commands.add_parser("explore", help="look inside a model, on a page; see explore --help", add_help=False)
    commands.add_parser("serve", help="answer clients of OpenAI's interface; see serve --help", add_help=False)

    for added in (demo, tokens, routing, passkey):
        added.add_argument("--model", default="tiny-mixtral", metavar="DIR",
                           help="default: the embedded %(default)s")
    demo.add_argument("--vision-model", default="tiny-pixtral", metavar="DIR",
                      help="the model that describes pictures; default: the embedded %(default)s")
    for added in (write, talk, look):
        seeing = "tiny-pixtral" if added is look else "tiny-mixtral, with images tiny-pixtral"
        added.add_argument("--model", metavar="DIR", help=f"default: the embedded {seeing}")
        add_generation_options(added, 256 if added is talk else 64)
    trace.add_argument("--model", metavar="DIR", help="default: the embedded tiny-mixtral, with images tiny-pixtral")
    add_model_options(trace)
    trace.add_argument("--prompt", type=str, required=True, metavar="TEXT", help="the text; - is standard input")
    trace.add_argument("--chat", action="store_true", help="ask the prompt as one user turn, as with images")
    trace.add_argument("--image", action="extend", nargs="+", default=[], metavar="PATH", help="images before the text")
    write.add_argument("--prompt", type=str, required=True, metavar="TEXT",
                       help="the text to continue; - is standard input")
    write.add_argument("--chat", action="store_true", help="ask the prompt as one user turn, as with images")
    write.add_argument("--image", action="extend", nargs="+", default=[], metavar="PATH", help="images before the text")
    look.add_argument("images", nargs="+", metavar="IMAGE", help="a PNG, JPEG or other picture")
    look.add_argument("--question", type=str, metavar="TEXT", help="default: describe them; - is standard input")
    look.add_argument("--patches", metavar="FILE", help="draw the patches over the resized images: .png, .pdf or .svg")
    for added in (write, look, trace):
        added.add_argument("--json", action="store_true", help="print one JSON object instead of the text")
    for added in (show, memory):
        added.add_argument("folder", metavar="DIR")
    show.add_argument("--all", action="store_true", help="one line for every tensor")
    memory.add_argument("--context", type=int, metavar="N", help="tokens of prompt and answer; default: all")
    memory.add_argument("--cache", choices=PRECISIONS, default="float32", help="keys and values; default: %(default)s")
    memory.add_argument("--image", action="extend", nargs="+", default=[], metavar="WxH",
                        help="count the tokens of images of these sizes, or in these files")
    tokens.add_argument("text", type=str, metavar="TEXT", help="the text; - reads standard input")
    routing.add_argument("files", nargs="+", metavar="FILE", help="text files, each of one kind of text")
    routing.add_argument("--out", metavar="DIR", help="save figures of shares, repeats and coloured tokens there")
    add_passkey_options(passkey)
    for added in (tokens, routing, passkey):
        added.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def add_passkey_options(parser: argparse.ArgumentParser) -> None:
    """The options of `passkey`: how long the texts are, and where the digits stand."""
    option = parser.add_argument
    option("--tokens", type=numbers(int), metavar="N,N,...",
           help="tokens of the prompts; default: half, three quarters and all of the context, up to 32,768")
    option("--depths", type=numbers(float), default=[0, 25, 50, 75, 100], metavar="P,P,...",
           help="per cent of the text before the digits; default: 0,25,50,75,100")
    option("--trials", type=int, default=3, metavar="N", help="keys for each length and depth; default: %(default)s")
    option("--seed", type=int, default=0, metavar="N", help="of the keys; default: %(default)s")
    option("--figure", metavar="FILE", help="draw depth by length: .png, .pdf or .svg")
    add_model_options(parser)


def numbers(kind: type) -> Callable[[str], list]:
    """Numbers with commas between them."""
    def parse(text: str) -> list:
        try:
            return [kind(part) for part in text.split(",")]
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is no list of numbers, such as 10,20") from None
    return parse


def add_generation_options(parser: argparse.ArgumentParser, max_tokens: int) -> None:
    """The options that `generate`, `chat` and `describe` share."""
    option = parser.add_argument
    option("--max-tokens", type=int, default=max_tokens, metavar="N", help="default: %(default)s")
    option("--temperature", type=float, default=0.0, metavar="T", help="0, the default, is greedy")
    option("--top-p", type=float, default=1.0, metavar="P", help="draw from the likeliest share P only")
    option("--seed", type=int, metavar="N", help="the same seed gives the same text")
    add_model_options(parser)


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """How the weights are held, in which precision the model computes, and where."""
    option = parser.add_argument
    option("--weights", choices=("auto", "mapped", "streamed", "resident", "int8"), default="auto",
           help="resident: kept as float32, faster; mapped: read from the file; streamed: past the page cache, where "
                "the file is larger than memory; int8: half of bfloat16, for a device; default: what fits")
    option("--memory", type=float, metavar="GB", help="gigabytes for streamed weights; default: most of what is free")
    option("--precision", choices=PRECISIONS, default="float32", help="default: %(default)s")
    option("--cache", choices=PRECISIONS, help="how keys and values are kept: bfloat16 takes half the memory, "
           "and changes the numbers of float32 a little; default: as the precision")
    option("--device", type=device, default="cpu", metavar="DEVICE",
           help="cuda: kernels on a GPU, cuda:1 on the one of that number; emulator: the same kernels on this CPU, "
                "slowly; default: %(default)s, NumPy")
    option("--kernels", metavar="NAMES", help="which operations run as kernels, comma-separated; default: all")


def device(text: str) -> str:
    """The name of a device. Raises ArgumentTypeError for another; whether a GPU is there is asked later."""
    if not re.fullmatch(r"cpu|emulator|cuda(:\d{1,3})?", text):
        raise argparse.ArgumentTypeError(f"{text!r} is none of 'cpu', 'cuda', 'cuda:1' and 'emulator'")
    return text


def versions() -> str:
    """Versions to paste into a bug report."""
    import platform

    import numpy as np

    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    return (f"tiny {VERSION}, Python {platform.python_version()}, NumPy {np.__version__}, "
            f"{blas.get('name')} {blas.get('version')}, {platform.system()} {platform.machine()}")


if __name__ == "__main__":
    program(main)
