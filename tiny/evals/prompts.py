"""The published prompts, byte for byte: they decide the scores. Read `lines.py` next.

They are in `prompts.toml`. A question is followed by a line break and the prompt of its task. `explicit` is that
prompt; `naive` is "", the question alone: the paper does not print its naive prompts in full. `paraphrase-1` to
`paraphrase-10` say the same in other words, ours, from `paraphrases.json`.
"""

import json
import tomllib
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from tiny.config import TinyError
from tiny.evals.tasks import Task
from tiny.system.reading import read_file
from tiny.tools.terminal import as_text

EXPLICIT = tomllib.loads(Path(__file__).with_name("prompts.toml").read_text(encoding="utf-8"))
JUDGE_SYSTEM = EXPLICIT.pop("judge")
NAMES = ["explicit", "naive", *(f"paraphrase-{n}" for n in range(1, 11))]
LONGEST_PROMPT = 1 << 20  # bytes of a file with a prompt
PARAPHRASES = Path(__file__).with_name("paraphrases.json")


def find_prompt(task: Task, name: str) -> str:
    """The text of a prompt for a task: explicit, naive or paraphrase-1 to -10; "" adds nothing to a question.

    A task without a published prompt gets "" under any name. Raises TinyError for another name.
    """
    if name not in NAMES:
        raise TinyError(f"There is no prompt {name!r}.", f"Use {', '.join(NAMES[:3])} to {NAMES[-1]}, or a text file.")
    if name == "naive" or task.prompt is None:
        return ""
    ours = json.loads(PARAPHRASES.read_text(encoding="utf-8"))[task.prompt]
    return [EXPLICIT[task.prompt], "", *ours][NAMES.index(name)]


def prompts_of(task: Task, names: Sequence[str]) -> dict[str, str]:
    """The prompts of a run by name: published ones, ours, or those of text files.

    Raises:  TinyError for a name that is no prompt and no file, or that comes twice
    """
    if task.prompt is None:
        if names:
            raise TinyError(f"{task.name} has no prompt: its questions are asked as they are.", "Leave --prompt out.")
        return {"none": ""}
    found: dict[str, str] = {}
    for name in chain.from_iterable(NAMES[2:] if one == "paraphrases" else [one] for one in names or ["explicit"]):
        path = Path(name)
        text = find_prompt(task, name) if not path.is_file() else as_text(
            read_file(path, LONGEST_PROMPT).decode("utf-8", "surrogateescape"), str(path)).rstrip("\n")
        key = path.name if path.is_file() else name
        if key in found:
            raise TinyError(f"The prompt {key} is given twice.", "Give each prompt once, and each file its own name.")
        found[key] = text
    return found


def judge_message(messages: Sequence[Mapping[str, Any]], reference: str | list[dict[str, Any]], answer: str,
                  form: str) -> str:
    """What a judge of MM-MT-Bench reads: the conversation with its reference answers, then the answer to rate.

    messages: what the model was asked, up to the user's last turn, whose reference answer is `reference`
    form: "repaired" shows the texts of users and references. "published" shows what the released code sends by
        mistake: of each user's message the names of its fields, rolecontent, and of each reference the Python object

    Images are in neither text.

    Source: mistral-evals d61811fc, eval/tasks/mm_mt_bench.py, run with messages and with their contents
    """
    references = [*(message for message in messages if message["role"] == "assistant"), reference]
    shown = "<|The Start of Conversation with User|>\n\n"
    for message, known in zip((message for message in messages if message["role"] == "user"), references):
        if form == "published":
            question, right = "".join(message), str(known)
        else:
            question = text_of(message["content"])
            right = text_of(known["content"] if isinstance(known, Mapping) else known)
        shown += f"### User:\n{question}\n\n### Reference answer:\n{right}\n\n"
    return f"{shown}\n\n### Assistant's answer:\n{answer}\n\n<|The End of Conversation with User|>\n\n\n"


def text_of(content: str | Sequence[Mapping[str, Any]]) -> str:
    """The text of a content, which is one already, or of its chunks of text, joined."""
    return content if isinstance(content, str) else "".join(one["text"] for one in content if one["type"] == "text")
