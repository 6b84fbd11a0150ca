"""From a row of a data set, in the columns of the Hub, to the fields of an item. Read `hub.py` next.

An image chunk names the column that the image is in; `hub.py` stores the image and puts its name there.
"""

import ast
import json
import re
from collections.abc import Callable, Mapping, Sequence
from types import NoneType
from typing import Any

from tiny.evals import choices
from tiny.evals.lines import Wrong, check
from tiny.evals.tasks import Task
from tiny.system.reading import short

Row = Mapping[str, Any]
Fields = dict[str, Any]
LONGEST_LITERAL = 1 << 16  # characters of a Python list in a column
IMAGES = tuple(f"image_{n}" for n in range(1, 8))  # columns of MMMU
MARKER = re.compile(r"(<image \d+>)")


def fields_of(task: Task, row: Row, examples: Sequence[Row] = ()) -> Fields:
    """The fields of an item. Raises Wrong, with the column. examples: solved ones of mmlu"""
    convert, shape = ROWS[task.name]
    check(row, shape | {...: object})
    return choices.mmlu(row, examples) if examples else convert(row)


def about(image: str, question: str, references: list[str]) -> Fields:
    """An item of one question: an image, by its column, then the text."""
    content = [{"type": "image", "image": image}, {"type": "text", "text": question}]
    return {"messages": [{"role": "user", "content": content}], "references": [references]}


def chartqa(row: Row) -> Fields:
    """The answer is a text on the Hub, and a list in the published code's types; both work."""
    found = row["answer"]
    return about("image", row["question"], found if isinstance(found, list) else [found])


def docvqa(row: Row) -> Fields:
    """Several answers count. The test split has none. VQAv2 has ten people's answers, on the Hub as objects with the
    text in `answer`; the published code fails on these.
    """
    return about("image", row["question"], [one if isinstance(one, str) else one["answer"] for one in row["answers"]])


def mathvista(row: Row) -> Fields:
    """The question is the column `query`, which already has hints and choices."""
    return about("decoded_image", row["query"], [mathvista_reference(row)])


def mathvista_reference(row: Row) -> str:
    """The letter of the first choice that is the answer; without choices the answer itself.

    Raises:  Wrong, which is a ValueError, if the answer is no choice
    """
    options = row.get("choices")
    if options and row["answer"] not in options:
        raise Wrong("answer", f"{short(row['answer'])} is none of the choices {short(options)}")
    return chr(ord("A") + options.index(row["answer"])) if options else row["answer"]


def mmmu(row: Row) -> Fields:
    """Text and images mixed. The columns of images that the question does not name are left out."""
    try:
        content = mmmu_content({**row, **{column: column for column in IMAGES}})
    except Wrong:
        raise
    except (KeyError, ValueError) as error:  # ValueError: Python reads no number of thousands of digits
        raise Wrong("question", f"it names {error}, and there are {len(IMAGES)} images at most") from error
    if not content:
        raise Wrong("question", "it is blank")
    if row["question_type"] == "multiple-choice" and row["options"].strip()[0] not in "[(":
        raise Wrong("options", f"{short(row['options'])} is no list")  # but has characters or keys, taken for options
    return {"messages": [{"role": "user", "content": content}], "references": [list(map(str, mmmu_references(row)))]}


def mmmu_content(row: Row) -> list[dict[str, Any]]:
    """Question and options, with the images where <image 1> stands; blank pieces between them are dropped.

    Raises:  Wrong, which is a ValueError, for options that are no list; KeyError for an image without a column
    Source:  mistral-evals d61811fc, eval/tasks/mmmu.py
    """
    text = row["question"]
    if row["question_type"] == "multiple-choice":
        text += "\n" + "\n".join(f"{chr(ord('A') + n)}. {one}" for n, one in enumerate(literal(row, "options")))
    return [{"type": "image", "image": row[f"image_{int(piece[7:-1])}"]} if MARKER.fullmatch(piece)
            else {"type": "text", "text": piece} for piece in MARKER.split(text) if piece.strip()]


def mmmu_references(row: Row) -> list[Any]:
    """The accepted answers: a list if the column has a bracket, perhaps of numbers, else the text itself."""
    return literal(row, "answer") if "[" in row["answer"] else [row["answer"]]


def literal(row: Row, column: str) -> list[Any]:
    """A Python list that is written in a column; of a text its characters. Only literals are read, nothing is run."""
    try:
        return list(ast.literal_eval(row[column] if len(row[column]) <= LONGEST_LITERAL else ""))
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise Wrong(column, f"{short(row[column])} is no Python list") from error


def mm_mt_bench(row: Row) -> Fields:
    """A conversation as JSON: the image belongs to the first chunk, and the last message is the last reference."""
    try:
        messages = [plain_message(message) for message in json.loads(row["conversation"])]
        first, roles = messages[0]["content"][0], [message["role"] for message in messages]
        sound = first["type"] == "image" and roles[-1] == "assistant" and len(roles) % 2 == 0
        first["image"] = "image"
    except (ValueError, RecursionError, TypeError, KeyError, AttributeError, IndexError) as error:
        raise Wrong("conversation", f"{short(row['conversation'])} is no JSON list of messages") from error
    if not sound:
        raise Wrong("conversation", "it does not begin with an image and end with the assistant")
    return {"messages": messages[:-1], "references": [message["content"] for message in messages[1::2]],
            "category": row["category"]}


def plain_message(message: dict[str, Any]) -> dict[str, Any]:
    """A message with role and content in their order, chunks with type and text; a text of the user as one chunk."""
    content = message["content"]
    if isinstance(content, str) and message["role"] == "user":
        content = [{"type": "text", "text": content}]
    if not isinstance(content, str):
        content = [{key: value for key, value in chunk.items() if key in ("type", "text")} for chunk in content]
    return {key: content if key == "content" else value for key, value in message.items() if key in ("role", "content")}


ARC = {"question": str, "choices": {"text": [str], "label": [str], ...: object}, "answerKey": str}
# How a row of each task is read, and the shapes of its columns. What may be missing, or is seen to later, is `object`.
ROWS: dict[str, tuple[Callable[[Row], Fields], dict[Any, Any]]] = {
    "mm_mt_bench": (mm_mt_bench, {"image": object, "conversation": str, "category": str}),
    "mathvista": (mathvista, {"decoded_image": object, "query": str, "answer": str, "choices": (list, NoneType)}),
    "mmmu": (mmmu, {"question": str, "question_type": str, "options": object, "answer": str} | dict.fromkeys(
        IMAGES, object)),
    "chartqa": (chartqa, {"image": object, "question": str, "answer": (str, [str])}),
    "docvqa": (docvqa, {"image": object, "question": str, "answers": [str]}),
    "vqav2": (docvqa, {"image": object, "question": str, "answers": [(str, {"answer": str, ...: object})]}),
    "hellaswag": (choices.hellaswag, dict.fromkeys(("activity_label", "ctx_a", "ctx_b"), str) | {
        "endings": [str], "label": object}),
    "arc_easy": (choices.arc, ARC), "arc_challenge": (choices.arc, ARC),
    "mmlu": (choices.mmlu, {"question": str, "choices": [str], "answer": object, "subject": str})}
