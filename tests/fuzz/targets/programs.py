"""Targets: CUDA sources before they are compiled, and command lines."""

import contextlib
import io
import itertools
import json
import os
import random
import sys
import warnings
from functools import cache
from pathlib import Path

import numpy as np
from oracles import GOLDEN

import tiny
from kernels import signature
from kernels.emulator.rewrite import hidden, rewrite
from tests.fuzz import mutate
from tests.fuzz.engine import ROOT, Target, Wrong
from tiny.__main__ import main

# ---- sources: the text keeps its lines, what is hidden keeps its length, and nothing takes long

@cache
def sources() -> list[str]:
    """The kernels of this repository, and students' ones."""
    paths = *sorted((ROOT / "kernels").glob("*.cu")), ROOT / "tests/emulator/students.cu"
    return [path.read_text() for path in paths]


def make_source(rng: random.Random) -> bytes:
    text = rng.choice(sources()).encode()
    if rng.random() < 0.5:
        start = rng.randrange(len(text))
        text = text[start : start + 3000]
    text = mutate.bytes_of(rng, text)
    if rng.random() < 0.3:
        at = rng.randrange(len(text) + 1)
        word = rng.choice((b"(", b"/*", b"//", b"<<<", b"{", b"__global__ void f(", b"__launch_bounds__(", b'"', b"'",
                           b"\\\n", b" ", b"__shared__ ", b"extern __shared__ float a[];", b"#define X "))
        text = text[:at] + word * rng.choice((1, 50, 2000)) + text[at:]
    return text


def run_source(data: bytes, folder: Path) -> str:
    text = data.decode("latin1")
    if len(hidden(text)) != len(text):
        raise Wrong("what is hidden has another length")
    written = rewrite(text, lambda *_: None, itertools.count().__next__)
    if written.text.count("\n") != text.replace("\r\n", "\n").count("\n"):
        raise Wrong("the rewritten text has other lines")
    signature.declared(text)
    signature.macros(text, ["A=B"])
    for name in ("rms_norm", "f"):
        with contextlib.suppress(tiny.TinyError):
            signature.parameters(text, name)
    return "rewritten"


# ---- command lines: status 0 or 1, or status 2 and two lines

NUMBERS = ("-1", "0", "1", "3", "1e18", "1000000000000000000", "nan", "inf", "-inf", "", "abc", "9" * 5000, "0x10",
           "1_0", "٣", " 5", "2.5", "\ud800", "\x1b[31m", "-")
PATHS = ("tiny-mixtral", "tiny-pixtral", "/nonexistent", "", ".", "/dev/null", "x" * 5000,
         str(GOLDEN / "mixtral-b/hf"), str(GOLDEN / "pixtral-a/hf"), str(ROOT / "README.md"), "\udcff", "-")
IMAGES = (str(GOLDEN / "verify/left.png"), str(ROOT / "README.md"), "/nonexistent", "", ".", "10x10", "0x0",
          "999999999x999999999", "1x1", "/dev/null", "~x", "https://example.com/a.png",
          "data:image/png;base64,xx")
OPTIONS = {"--temperature": NUMBERS, "--top-p": NUMBERS, "--seed": NUMBERS, "--model": PATHS, "--image": IMAGES,
           "--weights": ("auto", "mapped", "streamed", "resident", "x"), "--memory": NUMBERS,
           "--precision": ("float32", "bfloat16", "f"), "--kernels": NUMBERS, "--json": (), "--chat": ()}


def make_command(rng: random.Random) -> bytes:
    command = rng.choice(("generate", "describe", "inspect", "memory", "tokenize", "trace", "verify", "convert", ""))
    words = [command]
    pick = rng.choice
    if command == "generate":
        words += ["--prompt", pick(("hi", "", "\ud800", "x" * 3000, "<s>", "日本")), "--max-tokens",
                  pick(("1", "2", pick(NUMBERS)))]
        for option, choices in OPTIONS.items():
            if rng.random() < 0.25:
                words += [option, pick(choices)] if choices else [option]
    elif command == "describe":
        words += [pick(IMAGES) for _ in range(rng.randrange(3))] + ["--max-tokens", pick(("1", pick(NUMBERS)))]
    elif command in ("inspect", "memory"):
        words += [pick(PATHS)]
        if command == "memory":
            words += ["--context", pick(NUMBERS)] * rng.randrange(2) + ["--image", pick(IMAGES)] * rng.randrange(2)
    elif command in ("tokenize", "trace"):
        words += ["--prompt"] * (command == "trace") + [pick(("hi", "\ud800", "<s>", "\x1b[31m", ""))]
        words += ["--model", pick(PATHS)] * rng.randrange(2)
    elif command == "verify":
        words += [pick(("check", "results", "x")), pick(PATHS), pick((str(GOLDEN / "verify/tiny-mixtral.npz"), *PATHS))]
    elif command == "convert":
        words += [pick(PATHS), pick(("/dev/null/x", "out")), "--shard-size", pick(NUMBERS)]
        words += ["--to", pick(("hf", "mistral"))]
    if rng.random() < 0.1:
        del words[rng.randrange(len(words))]
    return json.dumps(words).encode()


def run_command(data: bytes, folder: Path) -> str:
    os.chdir(folder)
    out, err, old = io.StringIO(), io.StringIO(), sys.stdin
    sys.stdin = io.StringIO("hello")
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), warnings.catch_warnings(), np.errstate(
                all="ignore"):
            status = main(json.loads(data))
    finally:
        sys.stdin = old
    if status not in (0, 1, 2):
        raise Wrong(f"status {status}")
    lines = [line for line in err.getvalue().split("\n")[:-1] if not line.startswith("note: ")]
    if status == 2 and (len(lines) != 2 or not lines[0].startswith("error: ") or not lines[1].startswith("remedy: ")):
        raise Wrong(f"not two lines: {lines[:3]}")
    if "This is unexpected" in err.getvalue() or "Memory ran out" in err.getvalue():
        raise Wrong(lines[0][:150])
    return "refused" if status == 2 else "ran"


TARGETS = [Target("source", make_source, run_source, 0.3), Target("command", make_command, run_command, 0.14)]
