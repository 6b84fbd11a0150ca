"""The items of a task: what is asked, about which images, and which answers are right. Read `rows.py` next.

Items lie in a folder of ours, so that a run needs neither a network nor a reader of parquet: `task.json` names the
task, `items.jsonl` has an item in each line, `images/` holds the images in their original bytes.
"""

import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from types import NoneType
from typing import Any, NamedTuple

from tiny.config import TinyError
from tiny.evals.lines import Wrong, as_line, at, check, ours, read_lines
from tiny.evals.tasks import Task, find_task
from tiny.system.pictures import open_file
from tiny.system.reading import check_plain, read_json
from tiny.system.whole import whole_folder

LARGEST_IMAGE = 1 << 27  # bytes
LONGEST_TEXT = 1 << 20  # characters


class Item(NamedTuple):
    """One row of a task.

    id: unique in its folder, and safe as the name of a file
    messages: of the user, without the task's prompt; of MM-MT-Bench also the reference answers between them. A chunk
        is {"type": "text", "text": ...} or {"type": "image", "image": "images/NAME"}
    references: for each turn of the user the list of accepted answers; of a judged task the content of the reference
        answer, as its data set has it: a text, or a list of chunks of text
    context, endings, answer: of a task with choices instead; answer is the place of the right ending
    """

    id: str
    messages: list[dict[str, Any]]
    references: list[Any]
    category: str | None = None
    context: str | None = None
    endings: list[str] | None = None
    answer: int | None = None


class Request(NamedTuple):
    """What a model is asked at once. id: of the item, or "ITEM/TURN" if there are several turns.

    references: of this turn
    """

    id: str
    messages: list[dict[str, Any]]
    max_tokens: int
    references: Any
    temperature: float = 0.0
    category: str | None = None
    turn: int = 0


def a_text(value: Any) -> bool:
    """text of at most 1,048,576 characters, without halves of characters"""
    return isinstance(value, str) and len(value) <= LONGEST_TEXT and not re.search("[\ud800-\udfff]", value)


def an_id(value: Any) -> bool:
    """id of up to 100 letters, digits, dots and hyphens"""
    return isinstance(value, str) and bool(re.fullmatch("[A-Za-z0-9][A-Za-z0-9._-]{0,99}", value))


def an_image(value: Any) -> bool:
    """image of this folder, images/NAME, of letters, digits, dots and hyphens"""
    return isinstance(value, str) and bool(re.fullmatch("images/[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}", value))


TEXT, IMAGE = {"type": "text", "text": a_text}, {"type": "image", "image": an_image}
CONTENT = (a_text, [TEXT])
MESSAGES = [({"role": "user", "content": [(TEXT, IMAGE)]}, {"role": "assistant", "content": CONTENT})]


def check_item(task: Task, fields: dict[str, Any]) -> None:
    """Raise Wrong unless these are the fields of an item of this task."""
    check(fields, {"id": an_id, "category": (a_text, NoneType)} | (
        {"context": a_text, "endings": [a_text], "answer": int} if task.choices else
        {"messages": MESSAGES, "references": [CONTENT] if task.judge else [[a_text]]}))
    if task.choices:
        if not all(fields["endings"]):
            raise Wrong("endings", "one is empty, and has no likelihood by its length")
        if not 0 <= fields["answer"] < len(fields["endings"]):
            raise Wrong("answer", f"{fields['answer']} is none of {len(fields['endings'])} endings, counted from 0")
        return
    roles, count = [message["role"] for message in fields["messages"]], len(fields["references"])
    turns = roles.count("user")
    if roles != (["user", "assistant"] * turns)[:-1]:
        raise Wrong("messages", "they do not go from user to assistant and back, to end with the user")
    if turns > 1 and not task.judge:
        raise Wrong("messages", f"{turns} turns, and {task.name} has one")
    if count != turns:
        raise Wrong("references", f"{count} for {turns} turns of the user")


def item_of(fields: dict[str, Any]) -> Item:
    """An item of its fields, which `check_item` has seen."""
    return Item(**{"messages": [], "references": [], **fields})


def requests(task: Task, item: Item, prompt: str) -> list[Request]:
    """The requests of an item, one for each turn of the user, with the prompt behind the last text of each.

    Later turns follow the reference answers, not the model's own. A task with choices has no requests.

    Source:  mistral-evals d61811fc, eval/tasks/*.py
    """
    turns = [n for n, message in enumerate(item.messages) if message["role"] == "user"]
    return [Request(f"{item.id}/{turn}" if len(turns) > 1 else item.id,
                    [*item.messages[:n], add_prompt(item.messages[n], prompt)], task.max_tokens, item.references[turn],
                    category=item.category, turn=turn) for turn, n in enumerate(turns)]


def add_prompt(message: dict[str, Any], prompt: str) -> dict[str, Any]:
    """A message with the prompt on a new line of its last text; a chunk of its own if the last chunk is an image."""
    chunks, last = message["content"][:-1], message["content"][-1]
    if last["type"] == "text":
        text = {"type": "text", "text": f"{last['text']}\n{prompt}"}
    else:
        chunks, text = [*chunks, last], {"type": "text", "text": prompt}
    return message | {"content": [*chunks, text]} if prompt else message


def read_items(folder: str | Path) -> tuple[Task, list[Item]]:
    """Read and check a folder of ours; of each image the header is read, and the command `check` decodes it.

    Raises:  TinyError that names file, row and column
    """
    folder = Path(folder)
    if not (folder / "task.json").is_file():
        raise TinyError(f"{folder} is no folder of items: it has no task.json.",
                        "Make one of a data set: python -m tiny evals import TASK PATH OUT.")
    head, path = ours(read_json, folder / "task.json"), folder / "items.jsonl"
    task, items = find_task(head.get("task")), dict[str, Item]()
    for row, fields in read_lines(path, cut=False):
        with at(path, row):
            check_item(task, fields)
            if fields["id"] in items:
                raise Wrong("id", f"{fields['id']!r} stands in an earlier row")
            items[fields["id"]] = item_of(fields)
    if not items or head.get("items", len(items)) != len(items):
        raise TinyError(f"{path} is empty." if not items else
                        f"{path} has {len(items)} items, and task.json promises {head['items']}.",
                        "Import the data set again, or correct task.json if you have changed the items.")
    for name in dict.fromkeys(name for item in items.values() for name in image_names(item.messages)):
        find_image(folder, name)
    return task, list(items.values())


def image_names(messages: Iterable[dict[str, Any]]) -> list[str]:
    """The images of messages, in the order in which they are shown."""
    return [chunk["image"] for message in messages if isinstance(message["content"], list)
            for chunk in message["content"] if chunk["type"] == "image"]


def find_image(folder: Path, name: str) -> Path:
    """The path of an image. Raises TinyError if it lies outside of the folder, or is no picture of a sane size."""
    path = folder / name
    try:
        check_plain(path, LARGEST_IMAGE)
    except OSError as error:
        raise TinyError(f"{path} cannot be read: {error.strerror}.", "Import the data set again.") from None
    if not path.resolve().is_relative_to(folder.resolve()):
        raise TinyError(f"{path} is a link that leaves the folder.", "Put the image itself there.")
    open_file(path).close()
    return path


def write_items(folder: str | Path, task: Task, items: Iterable[tuple[Item, dict[str, bytes]]]) -> int:
    """Write a new folder of items with their images by name, and return how many items it has.

    Raises:  TinyError if the name is taken, or there are no items
    """
    folder, count = Path(folder), 0
    if os.path.lexists(folder) or not folder.absolute().parent.is_dir():
        raise TinyError(f"{folder} is there already." if os.path.lexists(folder) else
                        f"{folder.parent} is no folder.", "Give the name of a new folder in one that is there.")
    with whole_folder(folder) as part:
        (part / "images").mkdir()
        with open(part / "items.jsonl", "wb") as file:
            for item, images in items:
                count += 1
                file.write(as_line({key: value for key, value in item._asdict().items() if value not in (None, [])}))
                for name, data in images.items():
                    (part / name).write_bytes(data)
        if not count:
            raise TinyError("The data set has no rows.", "Give the files of the split that is scored.")
        (part / "task.json").write_text(json.dumps({"task": task.name, "items": count}) + "\n", encoding="utf-8")
    return count
