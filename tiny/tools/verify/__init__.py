"""The command `verify`: is another implementation the same model? `dump` records it, `check` compares, `results` lists.
`server` asks a running server instead, and names what is wrong with it.

The exit status of `check` is 0 if enough was compared and is the same, 1 if something differs or too little was
compared, 2 if it could not be run. That of `server` is 0 for a healthy one, 1 for a faulty one, 2 if
nothing can be told.
"""

import argparse
import importlib
import sys


def add_options(parser: argparse.ArgumentParser) -> None:
    """The four tasks of `python -m tiny verify` with their options."""
    tasks = parser.add_subparsers(dest="task", metavar="TASK", required=True)
    dump = tasks.add_parser("dump", help="run a reference implementation on a checkpoint and keep every array")
    check = tasks.add_parser("check", help="compare a checkpoint, or a file, with a file of another implementation")
    results = tasks.add_parser("results", help="write RESULTS.md from the output of check --json")
    server = tasks.add_parser("server", help="does a running server compute the right model? If not, what is wrong?")
    for task in (dump, check, results, server):
        task.add_argument("--debug", action="store_true", help="show where an error happened")
    option = dump.add_argument
    option("folder", metavar="DIR", help="a folder in either released layout, or tiny-mixtral or tiny-pixtral")
    option("out", metavar="OUT.npz")
    option("--reference", choices=("transformers", "mistral"), default="transformers", help="default: %(default)s")
    option("--prompt", type=str, default="Once upon a time", metavar="TEXT", help="default: %(default)s")
    option("--image", action="extend", nargs="+", default=[], metavar="PATH", help="images before the text")
    option("--tokenizer", metavar="PATH", help="a tokenizer's file or folder, if DIR has none")
    option("--chat", action="store_true", help="ask the prompt as one user turn, as with images")
    option("--precision", choices=("float32", "bfloat16"), default="float32", help="default: %(default)s")
    option("--attention", choices=("eager", "sdpa"), default="eager", help="default: %(default)s")
    option("--experts", choices=("eager", "grouped_mm", "batched_mm"), default="eager", help="default: %(default)s")
    option("--layers", type=numbers, metavar="0,2", help="keep these layers only")
    option("--positions", type=numbers, metavar="0,5,-1", help="keep the rows of these tokens only; -1 is the last")
    option("--max-tokens", type=int, default=8, metavar="N", help="greedy tokens to record; default: %(default)s")
    option("--threads", type=int, default=1, metavar="N", help="of the reference; default: %(default)s")
    option("--load", choices=("auto", "whole", "layers"), default="auto",
           help="layers: weights are read when they are used, for models larger than the memory")
    option("--python", default=sys.executable, metavar="PATH", help="an interpreter that has torch and transformers")
    option("--scratch", metavar="DIR", help="where a converted copy may lie for the time of the run")
    option = check.add_argument
    option("ours", metavar="DIR_OR_NPZ", help="a checkpoint, which is run here, or another file")
    option("theirs", metavar="OUT.npz", help="the file to compare with")
    option("--json", action="store_true", help="print one JSON object instead of the table")
    option("--plot", metavar="OUT.png", help="draw the error by layer")
    option("--all", action="store_true", help="one line for every array, not only for the notable ones")
    option("--weights", choices=("auto", "mapped", "streamed", "resident"), default="auto", help="as for generate")
    option("--partial", action="store_true", help="judge what the file holds, even if it is not the whole model")
    results.add_argument("files", nargs="*", metavar="FILE.json", help="outputs of check --json, one run each")
    results.add_argument("--out", default="RESULTS.md", metavar="FILE", help="default: %(default)s")
    add_server_options(server)


def add_server_options(parser: argparse.ArgumentParser) -> None:
    """The options of `verify server`."""
    option = parser.add_argument
    option("url", metavar="URL", help="the address of the server, as http://127.0.0.1:8000")
    option("--model", required=True, metavar="DIR", help="the model that it should serve: a folder, or the very GGUF "
           "file that it reads")
    option("--served-as", metavar="KIND", help="how the server rounds weights: float32, bfloat16, q8_0, q4_0, ...; by "
           "default nothing is known of it")
    option("--texts", metavar="FILE", help="a text of your own; default: two that the embedded models never saw")
    option("--tokens", type=int, default=800, metavar="N", help="tokens in all texts together; default: %(default)s")
    option("--deep", action="store_true", help="also ask whether one expert, head or layer is dead or swapped: that "
           "takes many more runs of the reference")
    option("--quick", action="store_true", help="one text of 400 tokens, and no search for exact values")
    option("--name", metavar="NAME", help="the name of the model, if the server has several")
    option("--token", metavar="FILE", help="a file with the token that the server wants")
    option("--timeout", type=float, default=600.0, metavar="S", help="seconds for one answer; default: %(default)g")
    option("--keep", metavar="DIR", help="where results of the reference are kept; default: the user's cache folder")
    option("--weights", choices=("auto", "mapped", "streamed", "resident"), default="auto", help="as for generate")
    option("--json", metavar="FILE", help="write all that was found as JSON; - is standard output")
    option("--plot", metavar="OUT.png", help="draw the difference by position")


def numbers(text: str) -> list[int]:
    """Whole numbers between commas."""
    return [int(part) for part in text.split(",")]


def main(args: argparse.Namespace) -> int:
    """Run one task; return the exit status."""
    return importlib.import_module(f"tiny.tools.verify.{args.task}").main(args)
