"""What the commands share around a run: opening a model, showing how its weights load, streaming text, and
measuring it.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

import tiny
from tiny.config import TinyError
from tiny.files.weights import Tensors
from tiny.sampling import check_sampling
from tiny.tools import streaming
from tiny.tools.memory import amount, parameters, require_fit
from tiny.tools.terminal import as_text, note, printable

LARGE = 200_000_000  # bytes of a file whose loading is announced even without a terminal
LONGEST_TEXT = 1 << 24  # characters of standard input, or bytes of a file of text
PATIENCE = 0.5  # seconds before progress shows itself in a terminal


def check_options(args: argparse.Namespace) -> None:
    """Check the numbers of a run before anything is opened. Raises TinyError."""
    check_sampling(args.max_tokens, args.temperature, args.top_p, args.seed)


def choose_seed(args: argparse.Namespace) -> int | None:
    """The seed that was asked for; or, if one is needed, a new one, printed so that the text can be repeated."""
    if args.seed is not None or args.temperature == 0:
        return args.seed
    seed = int.from_bytes(os.urandom(4), "little")
    note(f"seed {seed} (--seed {seed} gives the same text again)")
    return seed


def read_text(text: str) -> str:
    """The text of an argument; - reads standard input, without the line end at its end.

    Raises:  TinyError if it is not UTF-8, or standard input does not end
    """
    if text != "-":
        return as_text(text, "The text")
    found = sys.stdin.read(LONGEST_TEXT + 1)
    if len(found) > LONGEST_TEXT:
        raise TinyError(f"Standard input has more than {LONGEST_TEXT:,} characters.", "Give a shorter text.")
    return as_text(found, "Standard input").removesuffix("\n")


def open_model(args: argparse.Namespace):
    """Open the model of `--model` and say what was found. Only headers are read."""
    load = getattr(args, "load", tiny.load)
    model: Any = load(args.model, precision=getattr(args, "precision", "float32"),
                      weights=getattr(args, "weights", "auto"), cache=getattr(args, "cache", None))
    tokenizer = model.tokenizer  # Fail now, before loading, if there is none.
    layout = {"mistral": "Mistral's", "hf": "HF's", "gguf": "GGUF"}[model.checkpoint.layout]
    total, active = parameters(model.checkpoint.config)
    note(f"{args.model}: {layout} layout, {count(total)} parameters, {count(active)} active for a token; "
         f"weights {model.weights.mode}, precision {model.precision}, {tokenizer.vocab_size:,} token pieces")
    if getattr(args, "device", "cpu") != "cpu":
        note(f"as kernels on device {args.device}: {', '.join(model.ops.kernels) or 'nothing'}")
    return model


def count(n: int) -> str:
    """A number of parameters in short: 46.7 billion."""
    for unit, word in ((1e9, "billion"), (1e6, "million"), (1e3, "thousand")):
        if n >= unit:
            return f"{n / unit:.1f} {word}"
    return str(n)


def load_weights(model, context: int, patches: Sequence[int] = (), memory: float | None = None) -> None:
    """Refuse a run that cannot fit; then convert resident weights, put those of a device there, read what streamed ones
    keep, or watch mapped ones in the first pass.

    patches: how many each image has; memory: gigabytes for streamed weights, by default most of what a run leaves
    """
    if memory is not None and model.weights.mode != "streamed":
        raise TinyError(f"--memory does nothing for weights that are {model.weights.mode}.",
                        "Add --weights streamed, or leave it out.")
    if model.weights.mode in ("mapped", "streamed", "resident"):
        left = require_fit(model.config, model.weights.tensors, model.weights.mode, context, patches, model.cache)
        if model.weights.mode == "streamed":
            streaming.begin(model, left, memory, progress)
            return
    else:
        model.require_room(context, patches)
    stored = sum(tensor.nbytes for tensor in model.weights.tensors.values())
    if model.weights.mode == "mapped":
        if stored >= LARGE:
            model.weights = Watched(model.weights, progress(stored, "first pass, reading up to"))
        return
    with progress(stored, "loading") as done:
        for name in list(model.weights):
            size = model.weights.tensors[name].nbytes
            model.weights[name]
            done.update(size)


def progress(total: int, label: str) -> tqdm:
    """Count bytes with `update`: in a terminal one moving line, once it takes longer, which `close` clears.

    Elsewhere a large file is announced, and a small one is not mentioned.
    """
    if total >= LARGE and not sys.stderr.isatty():
        note(f"{label} {amount(total)}")
    return tqdm(total=total, desc=label, unit="B", unit_scale=True, delay=PATIENCE, leave=False, disable=None)


class Watched(Tensors):
    """Weights that report each tensor the first time it is used, until the end of the first pass."""

    def __init__(self, weights, done: tqdm):
        super().__init__(weights)
        self.weights, self.mode, self.tensors = weights, weights.mode, weights.tensors
        self.done: tqdm | None = done
        self.seen: set[str] = set()

    def __getitem__(self, name: str):
        tensor = self.weights[name]
        if self.done is not None and name not in self.seen:
            self.seen.add(name)
            self.done.update(tensor.nbytes)
            if name == "output.weight":  # the last tensor of a pass
                self.done.close()
                self.done = None
        return tensor


def stream(model, ids: list[int], args: argparse.Namespace, seed: int | None, images=()) -> Iterator[tiny.Token]:
    """The library's stream of tokens with the options of the command line."""
    return tiny.generate(model, ids, images=images, max_tokens=args.max_tokens, temperature=args.temperature,
                         top_p=args.top_p, seed=seed)


class Clock:
    """When a text was asked for, when its first token came, and when its last."""

    def __init__(self) -> None:
        self.start = time.perf_counter()
        self.first = self.last = 0.0
        self.tokens = 0

    def watch(self, tokens: Iterable) -> Iterator:
        """Pass tokens on and take their times. An end without any token counts as the first."""
        for token in tokens:
            self.last = time.perf_counter()
            self.first = self.first or self.last
            self.tokens += 1
            yield token
        self.first = self.first or time.perf_counter()
        self.last = self.last or self.first

    def rates(self, prompt_tokens: int) -> tuple[float, float, float]:
        """Seconds to the first token, prompt tokens per second until then, tokens per second after it."""
        waited, wrote = self.first - self.start, self.last - self.first
        return waited, prompt_tokens / max(waited, 1e-9), (self.tokens - 1) / wrote if wrote > 0 else 0.0

    def summary(self, prompt_tokens: int) -> str:
        """The same in words."""
        waited, prefill, decode = self.rates(prompt_tokens)
        text = f"first token after {waited:.2f} s ({prefill:,.0f} tokens/s)"
        return f"{text}, then {decode:,.1f} tokens/s; {self.tokens:,} tokens" if self.tokens > 1 else text


def show(tokens: Iterable) -> list:
    """Print text as it is made, to a terminal without control characters; return its tokens."""
    shown = []
    try:
        for token in tokens:
            shown.append(token)
            print(printable(token.text) if sys.stdout.isatty() else token.text, end="", flush=True)
    finally:
        if shown:
            print(flush=True)
    return shown


def print_json(args: argparse.Namespace, model, ids: list[int], tokens: list, clock: Clock, seed: int | None,
               room: int, pictures: Sequence = ()) -> None:
    """Print all that is known about one text, and about the pictures of its prompt, as one JSON object."""
    waited, prefill, decode = clock.rates(len(ids))
    stop = "eos" if len(tokens) < room else "max_tokens" if room == args.max_tokens else "context"
    said = {
        "model": str(args.model), "layout": model.checkpoint.layout,
        "weights": model.weights.mode, "precision": model.precision, "device": args.device,
        "kernels": getattr(model.ops, "kernels", []), "seed": seed, "prompt_ids": ids,
        "ids": [token.id for token in tokens], "text": "".join(token.text for token in tokens),
        "logprobs": [token.logprob for token in tokens], "stop": stop, "prefill_tokens_per_second": prefill,
        "decode_tokens_per_second": decode, "time_to_first_token_seconds": waited, "peak_memory_bytes": peak_memory(),
        "major_page_faults": page_faults(), **streaming.facts(model.weights)}
    if hasattr(model, "facts"):  # one rank of several
        said |= model.facts()
    if pictures:
        said["images"] = [picture.facts() for picture in pictures]
    print(json.dumps(said))


def page_faults() -> int:
    """How often this process waited for a page of a mapped file to come from the disk."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_majflt


def peak_memory() -> int:
    """The most memory that this process has held at once, in bytes, pages of mapped files included.

    getrusage also counts what the parent held when it started this process; Linux has the better number in /proc.
    """
    import resource

    try:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        return 1024 * int(status.split("VmHWM:")[1].split()[0])
    except (OSError, IndexError, ValueError):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
