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
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

import tiny
from tiny.config import TinyError
from tiny.files.checkpoint import find_layout, open_checkpoint, open_files, read_config, weight_files
from tiny.files.packed.gguf_model import is_gguf
from tiny.files.tokenizer_files import find_tokenizer, load_tokenizer
from tiny.files.weights import take_tensors
from tiny.system.free_memory import free_memory
from tiny.system.hub import model_name
from tiny.system.pictures import open_image
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
    if is_gguf(folder):
        raise TinyError(f"{folder} is a GGUF file; transformers would not compute what it holds.",
                        f"Convert it first, and give that: python -m tiny convert {folder} OUT --to hf")
    source, files = reference_files(folder, scratch)
    ids, pixels, images, tokenizer = own_inputs(args, folder)
    np.savez(scratch / "inputs.npz", ids=np.array(ids), **{f"pixels{n}": x for n, x in enumerate(pixels)})
    request = {"folder": absolute(source), "files": [absolute(path) for path in files],
               "inputs": str(scratch / "inputs.npz"), "prompt": args.prompt,
               "chat": bool(images) or args.chat, "images": [absolute(path) for path in args.image],
               "tokenizer": absolute(tokenizer), "precision": args.precision, "attention": args.attention,
               "experts": args.experts, "layers": args.layers, "threads": args.threads, "positions": args.positions,
               "max_tokens": args.max_tokens, "load": loading(args, files)}
    (scratch / "request.json").write_text(json.dumps(request), encoding="utf-8")
    session.note(f"running {args.reference} in {args.precision}, weights {request['load']} ...")
    run_child(args.python, [CHILD, scratch / "request.json", scratch / "out.npz"], scratch)
    with np.load(scratch / "out.npz", allow_pickle=False) as stored:
        arrays = {name: stored[name] for name in stored.files}
    record = described(args, folder, source, files) | json.loads(str(arrays.pop("record")))
    for part, settings in record.get("configuration", {}).items():
        session.note(f"{part}: " + ", ".join(f"{name} {value}" for name, value in settings.items()))
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


def absolute(path: str | Path) -> str:
    """An absolute path that keeps links: in a Hugging Face cache a file's real name is a hash without an ending."""
    return os.path.abspath(path)


def reference_files(folder: Path, scratch: Path) -> tuple[Path, list[Path]]:
    """The folder in Hugging Face's layout that the reference reads, and the weight files that it takes from there.

    Raises:  TinyError if an adapter is beside the model: transformers adds it if it finds peft
    """
    if find_layout(folder) == "mistral" and not weight_files(folder, "hf"):
        folder = convert(folder, scratch)
    if (folder / "adapter_config.json").is_file():
        raise TinyError(f"{folder} holds adapter_config.json: transformers may add that adapter to the model.",
                        "Merge the adapter into the model, or move it elsewhere.")
    return folder, weight_files(folder, "hf")


def convert(folder: Path, scratch: Path) -> Path:
    """Write a copy of a checkpoint in Mistral's layout in Hugging Face's, tensor by tensor.

    Raises:  TinyError if this code has a doubt about params.json: its copy would only repeat a mistake
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        checkpoint = open_checkpoint(folder, "mistral")
    if caught and not (folder / "config.json").is_file():
        raise TinyError(f"transformers would be given this code's own reading of params.json, and that is open to "
                        f"doubt: {caught[0].message}",
                        "Give the folder in Hugging Face's layout, or put its config.json beside params.json.")
    size, free = sum(x.nbytes for x in checkpoint.tensors.values()), shutil.disk_usage(scratch).free
    if size > free:
        raise TinyError(f"transformers reads Hugging Face's layout; the conversion of {folder} takes {size:,} bytes, "
                        f"and {free:,} are free in {scratch.parent}.",
                        "Give --scratch DIR on a larger disk, or the released folder in that layout.")
    save_checkpoint(scratch / "hf", "hf", checkpoint.config, checkpoint.tensors)
    if (folder / "config.json").is_file():
        shutil.copy(folder / "config.json", scratch / "hf" / "config.json")
    else:
        session.note("config.json is this code's reading of params.json; compare with what the release says:")
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
        raise TinyError(f"The reference failed: {last}", "make .venv/verify/ready sets up what it "
                        "needs; then add --python .venv/verify/bin/python." if missing else
                        f"The whole of what it said: {' '.join(said.split())[-600:]}")


def described(args: argparse.Namespace, folder: Path, source: Path, files: list[Path]) -> dict:
    """The record of a run, without what only the child knows."""
    return {"format": file.FORMAT, "precision": args.precision, "prompt": args.prompt,
            "chat": bool(args.image) or args.chat, "images": [Path(path).name for path in args.image],
            "model": model_name(folder), "layout": "hf" if source == folder else "mistral", "layers": args.layers,
            "fingerprint": fingerprint_of(source, files),
            "processor": processor(), "system": f"{platform.system()} {platform.machine()}",
            "date": datetime.date.today().isoformat()}


def fingerprint_of(folder: Path, files: list[Path]) -> str | None:
    """The fingerprint of the weights in some files of Hugging Face's layout; None for what this code cannot read."""
    try:
        path, config = read_config(folder, "hf")
        return fingerprint(take_tensors("hf", open_files(files, path), config, folder)[0])
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
        digest.update(np.ascontiguousarray(first[:SAMPLE], x.dtype).view(np.uint8).tobytes())
    return digest.hexdigest()
