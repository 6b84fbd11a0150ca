"""The command `verify dump`: run the reference on a checkpoint, in another process, and keep what it computed.

This side needs the core only. The child, `transformers_child.py`, runs under an interpreter that has the `verify`
extra; this repository is not on its path.
"""

import argparse
import datetime
import hashlib
import json
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

import tiny
from tiny.config import TinyError
from tiny.files.checkpoint import find_layout, open_checkpoint, weight_files
from tiny.files.pictures import open_image
from tiny.files.tokenizer_files import find_tokenizer, load_tokenizer
from tiny.files.weights import free_memory
from tiny.tools import session
from tiny.tools.machine import processor
from tiny.tools.prompt_images import user_turn
from tiny.tools.synthetic import save_checkpoint
from tiny.tools.verify import file

CHILD = Path(__file__).with_name("transformers_child.py")
SAMPLE = 2048  # numbers of each tensor that its fingerprint sees
MISTRAL = ("mistral-inference needs xformers, whose attention runs on NVIDIA and AMD graphics cards only: without one "
           "it refuses every call. See the page tutorial/reference/is_it_the_same_model.md.")


def main(args: argparse.Namespace) -> int:
    """The command `verify dump`: prepare the inputs, run the child, and write the file or nothing."""
    if args.reference == "mistral":
        raise TinyError(MISTRAL, "Use --reference transformers, or run mistral-inference on a machine that has a card "
                                 "and write its arrays as tests/golden/FORMAT.md says.")
    out = Path(args.out)
    if not out.parent.is_dir() or out.is_dir():
        raise TinyError(f"{out} cannot be written.", "Give the path of a new file in a folder that exists.")
    with tempfile.TemporaryDirectory(prefix="verify", dir=args.scratch) as scratch:
        record, arrays = run_reference(args, Path(scratch))
    file.save(out, record, arrays)
    file.read(out)
    session.note(f"{out}: {len(arrays)} arrays, {out.stat().st_size / 1e6:.1f} MB, of {record['implementation']}")
    return 0


def run_reference(args: argparse.Namespace, scratch: Path) -> tuple[dict, dict[str, np.ndarray]]:
    """Everything of one run: the record and the arrays."""
    folder = tiny.model_folder(args.folder)
    layout = find_layout(folder)
    files = weight_files(folder, layout)
    ids, pixels, images, tokenizer = own_inputs(args, folder)
    np.savez(scratch / "inputs.npz", ids=np.array(ids), **{f"pixels{n}": x for n, x in enumerate(pixels)})
    source = convert(folder, scratch) if layout == "mistral" else folder
    request = {"folder": str(source.resolve()), "inputs": str(scratch / "inputs.npz"), "prompt": args.prompt,
               "chat": bool(images) or args.chat, "images": [str(Path(path).resolve()) for path in args.image],
               "tokenizer": str(tokenizer.resolve()), "precision": args.precision, "attention": args.attention,
               "experts": args.experts, "layers": args.layers, "threads": args.threads, "positions": args.positions,
               "max_tokens": args.max_tokens, "load": loading(args, files)}
    (scratch / "request.json").write_text(json.dumps(request), encoding="utf-8")
    session.note(f"running {args.reference} in {args.precision}, weights {request['load']} ...")
    run_child(args.python, [CHILD, scratch / "request.json", scratch / "out.npz"], scratch)
    with np.load(scratch / "out.npz", allow_pickle=False) as stored:
        arrays = {name: stored[name] for name in stored.files}
    record = described(args, folder, layout) | json.loads(str(arrays.pop("record")))
    return record, arrays | {f"image{n}": np.asarray(image) for n, image in enumerate(images)}


def own_inputs(args: argparse.Namespace, folder: Path) -> tuple[list[int], list, list[Image.Image], Path]:
    """Ids and pixels as this code makes them, the pictures themselves, and the tokenizer's file."""
    path = find_tokenizer(Path(args.tokenizer) if args.tokenizer else folder)
    tokenizer, images = load_tokenizer(path), [open_image(picture) for picture in args.image]
    if images or args.chat:
        return *tokenizer.encode_chat([user_turn(args.prompt, images)]), images, path
    return [tokenizer.bos_id, *tokenizer.encode(args.prompt)], [], [], path


def loading(args: argparse.Namespace, files: list[Path]) -> str:
    """How the child holds the weights: whole if they fit in half of the free memory, else a module at a time."""
    needed = sum(path.stat().st_size for path in files) * (1 if args.precision == "bfloat16" else 2)
    return args.load if args.load != "auto" else "whole" if needed <= free_memory() / 2 else "layers"


def convert(folder: Path, scratch: Path) -> Path:
    """Write a copy of a checkpoint in Mistral's layout in Hugging Face's, tensor by tensor."""
    checkpoint = open_checkpoint(folder, "mistral")
    size, free = sum(x.nbytes for x in checkpoint.tensors.values()), shutil.disk_usage(scratch).free
    if size > free:
        raise TinyError(f"transformers reads Hugging Face's layout; the conversion of {folder} takes {size:,} bytes, "
                        f"and {free:,} are free in {scratch.parent}.",
                        "Give --scratch DIR on a larger disk, or the released folder in that layout.")
    save_checkpoint(scratch / "hf", "hf", checkpoint.config, checkpoint.tensors)
    return scratch / "hf"


def run_child(python: str, command: list, scratch: Path) -> None:
    """Run the child; Ctrl-C ends it too. Raises TinyError with its last line if it fails."""
    try:
        child = subprocess.Popen([python, "-I", *command], cwd=scratch, stderr=subprocess.PIPE, text=True,
                                 env=os.environ | {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"})
    except OSError as error:
        raise TinyError(f"{python} cannot be run: {error.strerror}.", "Give --python PATH of an interpreter.") from None
    try:
        said = child.communicate()[1]
    except BaseException:
        child.kill()
        child.wait()
        raise
    if child.returncode:
        last = (said.strip().splitlines() or [f"exit status {child.returncode}"])[-1]
        missing = "ModuleNotFoundError" in last
        raise TinyError(f"The reference failed: {last}", "Install the extra: python -m pip install -e '.[verify]', or "
                        "give --python PATH of an interpreter that has it." if missing else
                        f"The whole of what it said: {' '.join(said.split())[-600:]}")


def described(args: argparse.Namespace, folder: Path, layout: str) -> dict:
    """The record of a run, without what only the child knows."""
    return {"format": file.FORMAT, "precision": args.precision, "prompt": args.prompt,
            "chat": bool(args.image) or args.chat, "images": [Path(path).name for path in args.image],
            "model": folder.resolve().name, "layout": layout, "fingerprint": fingerprint_of(folder),
            "processor": processor(), "system": f"{platform.system()} {platform.machine()}",
            "date": datetime.date.today().isoformat()}


def fingerprint_of(folder: Path) -> str | None:
    """The fingerprint of a folder; None for one that this code refuses, which the reference may run all the same."""
    try:
        return fingerprint(tiny.load(folder, weights="mapped").weights)
    except TinyError as error:
        session.note(f"this code would not run it: {error.cause}")
        return None


def fingerprint(tensors: Mapping[str, np.ndarray]) -> str:
    """The SHA-256 of every tensor's name, type, size and first numbers, the same in both layouts of a checkpoint."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        x = tensors[name]
        first = x
        while first.ndim > 1:
            first = first[0]
        digest.update(f"{name} {x.dtype} {x.size}\n".encode())
        digest.update(np.ascontiguousarray(first[:SAMPLE]).view(np.uint8).tobytes())
    return digest.hexdigest()
