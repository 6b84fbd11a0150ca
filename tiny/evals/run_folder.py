"""The folder of a run: what was asked of whom, and what came back.

`run.json` is written first; another run is refused there. `requests.jsonl` has what scoring needs, `answers.jsonl`
gets a line an answer. Scores, ratings and reports are made from these files alone. Read `run.py` next.
"""

import hashlib
import json
import platform
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import NoneType
from typing import Any, NamedTuple

import numpy as np
import PIL

from tiny.config import TinyError
from tiny.evals.clients import read_answers
from tiny.evals.items import CONTENT, MESSAGES, Item, Request
from tiny.evals.lines import Wrong, as_line, at, check, ours, read_lines
from tiny.evals.tasks import TASKS, Task, find_task
from tiny.system.reading import read_json
from tiny.system.whole import write_whole
from tiny.tools.terminal import note, one_line

FORMAT = 2  # of a run's folder
LOOSE = {"date", "folder"}  # what may differ when a run goes on


class Run(NamedTuple):
    """A run as its folder holds it: the head, what was asked in order, and the answers by prompt and request."""

    folder: Path
    head: dict[str, Any]
    requests: list[dict[str, Any]]
    answers: dict[tuple[str, str], dict[str, Any]]

    @property
    def prompts(self) -> list[str]:
        """The names of the prompts, in the order in which they were given."""
        return list(self.head["prompts"])

    @property
    def task(self) -> Task:
        """What was asked."""
        return TASKS[self.head["task"]]

    def items(self, ids: Iterable[str]) -> list[str]:
        """The items that some requests belong to."""
        known = {request["id"]: request["item"] for request in self.requests}
        return [known[one] for one in ids]


def head_of(task: Task, folder: Path, prompts: Mapping[str, str], images: str, limit: int | None,
            model: Mapping[str, str], requests: int) -> dict[str, Any]:
    """What makes a run this run, and not another. prompts: name -> text, empty for the question alone"""
    versions = {"python": platform.python_version(), "numpy": np.__version__, "pillow": PIL.__version__}
    hashes = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in prompts.items()}
    return {"format": FORMAT, "task": task.name, "items": folder_hash(folder), "requests": requests, "limit": limit,
            "images": images, "prompts": hashes, "model": dict(model), "versions": versions,
            "folder": str(folder.resolve()), "date": time.strftime("%Y-%m-%d")}


def needed_for_scores(task: Task, item: Item, request: Request | Item) -> dict[str, Any]:
    """One line of `requests.jsonl`: what is right; of a judged task also what was said until then; of one with choices
    the endings.
    """
    if isinstance(request, Item):
        return {"id": item.id, "item": item.id, "category": item.category, "turn": 0, "references": item.answer,
                "endings": item.endings}
    said = {"messages": request.messages} if task.judge else {}
    return {"id": request.id, "item": item.id, "category": request.category, "turn": request.turn,
            "references": request.references} | said


def hash_of(task: str, requests: bytes) -> str:
    """One hash of a task and of the contents of `requests.jsonl`: what a score depends on beside the answers."""
    return hashlib.sha256(f"{task}\n".encode() + requests).hexdigest()


def begin(out: Path, head: dict[str, Any], requests: Iterable[dict[str, Any]]) -> None:
    """Begin a run in a new folder, or go on with the same one. A server may have moved to another address.

    Raises:  TinyError for a folder that holds something else, or another run
    """
    lines = b"".join(map(as_line, requests))
    head = head | {"asked": hash_of(head["task"], lines)}
    if not (out / "run.json").exists():
        if out.exists() and (not out.is_dir() or any(path.suffix != ".part" for path in out.iterdir())):
            raise TinyError(f"{out} is there, and no run is in it.", "Give --out a new folder.")
        out.mkdir(parents=True, exist_ok=True)
        write_whole(out / "run.json", json.dumps(head, indent=1) + "\n")
    found = read_head(out)
    if differs := differences(without_address(found), without_address(head), head.keys() - LOOSE):
        raise TinyError(f"{out} holds another run: {differs}.",
                        "Give --out a new folder, or ask the same of the same model to go on with this run.")
    if found["model"] != head["model"]:
        note(f"{head['model']['name']} was at {found['model']['address']} and is now at {head['model']['address']}")
    moved = {key: head[key] for key in ("folder", "model")}  # A judge looks for the pictures in the folder.
    if found != found | moved:
        write_whole(out / "run.json", json.dumps(found | moved, indent=1) + "\n")
    if not (out / "requests.jsonl").exists():
        write_whole(out / "requests.jsonl", lines)


def without_address(head: Mapping[str, Any]) -> dict[str, Any]:
    """A head without the address of its server, which changes no number, and may be another after a new start."""
    return {**head, "model": {key: value for key, value in head["model"].items() if key != "address"}}


def differences(was: Mapping[str, Any], now: Mapping[str, Any], keys: Iterable[str]) -> str:
    """What differs between two heads, in words; "" if nothing does."""
    found = []
    for key in sorted(key for key in keys if was.get(key) != now[key]):
        many = key == "prompts"  # a name and a hash for each
        old, new = (one_line(", ".join(f"{name} ({one[key][name][:6]})" for name in one[key]) if many else one.get(key),
                             300) for one in (was, now))
        found.append(f"the prompts were {old} and are now {new}" if many else f"{key} was {old} and is now {new}")
    return "; ".join(found)


def read_head(folder: Path) -> dict[str, Any]:
    """Read and check `run.json`."""
    path = folder / "run.json"
    if not path.is_file():
        raise TinyError(f"{folder} holds no run: there is no run.json in it.", "Point at a folder of `evals run`.")
    head = ours(read_json, path)
    if head.get("format") != FORMAT:
        raise TinyError(f"{path} is not of format {FORMAT}: another version of this program made it, or none did.",
                        "Run again, with --out and a new folder; --model FILE takes the old answers.jsonl.")
    with at(path, 1):
        check(head, {"asked": str, "requests": int, "model": {"name": str, ...: object}, "prompts": dict,
                     "versions": dict, ...: object} | dict.fromkeys(("task", "items", "images", "folder", "date"), str))
    find_task(head["task"])
    return head


def read_run(folder: Path) -> Run:
    """Read a run. A later line counts for an earlier one that failed, as after `run --again`.

    Raises:  TinyError, with file and row, for what is damaged or was changed, and for answers to what was not asked
    """
    head, path, requests = read_head(folder), folder / "requests.jsonl", []
    more = {"messages": MESSAGES, "references": CONTENT} if TASKS[head["task"]].judge else {}
    for row, line in read_lines(path):
        with at(path, row):
            check(line, {"id": str, "item": str, "turn": int, "category": (str, NoneType), ...: object} | more)
        requests.append(line)
    if len(requests) != head["requests"]:
        raise TinyError(f"{path} has {len(requests):,} requests, and run.json says {head['requests']:,}.",
                        "Remove requests.jsonl and give the command of this run again, which writes it anew.")
    if hash_of(head["task"], path.read_bytes()) != head["asked"]:
        raise TinyError(f"{path}, or the task in run.json, was changed after the run: it is not what was asked.",
                        "Put both back, or run again in a new folder; --model FILE takes these answers.jsonl.")
    return Run(folder, head, requests, answers_of(folder, head, {line["id"] for line in requests}))


def answers_of(folder: Path, head: Mapping[str, Any], ids: set[str]) -> dict[tuple[str, str], dict[str, Any]]:
    """The answers of a run so far, by prompt and request."""
    def sound(line: dict[str, Any]) -> None:
        if line.get("prompt") not in list(head["prompts"]) or line["id"] not in ids:
            raise Wrong("id", f"nothing was asked with prompt {line.get('prompt')!r} and id {line['id']!r}")

    path = folder / "answers.jsonl"
    return read_answers(path, sound) if path.exists() else {}


def folder_hash(folder: Path) -> str:
    """One hash of a folder of items: of the names and the contents of all that is read there."""
    total = hashlib.sha256()
    for path in sorted([folder / "task.json", folder / "items.jsonl", *(folder / "images").glob("*")]):
        total.update(f"{path.relative_to(folder).as_posix()} {file_hash(path)}\n".encode())
    return total.hexdigest()


def file_hash(path: Path) -> str:
    """The SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def checkpoint_hash(checkpoint: Any, window: int = 1 << 20) -> str:
    """One hash of a model's configuration, and of each weight file its size, its header's part and its middle and end:
    enough to tell two trainings apart without reading 93 GB.
    """
    total = hashlib.sha256(b"" if checkpoint.layout == "gguf" else checkpoint.config_file.read_bytes())
    for path in checkpoint.files:
        size = path.stat().st_size
        with open(path, "rb") as file:
            for place in sorted({0, max(0, size // 2), max(0, size - window)}):
                file.seek(place)
                total.update(file.read(window))
        total.update(f"{path.name} {size}\n".encode())
    return total.hexdigest()
