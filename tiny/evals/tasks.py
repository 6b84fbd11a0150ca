"""The tasks: which data set, how many new tokens, and what counts as right. Read `prompts.py` next.

They stand in `tasks.toml`. The first six are those of mistral-evals. The others are scored by the log-likelihood of
each ending, as lm-evaluation-harness does.
"""

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tiny.config import TinyError

EXPLICIT, ANYWHERE = "explicit_prompt_relaxed_correctness", "anywhere_in_answer_relaxed_correctness"


class Task(NamedTuple):
    """One benchmark.

    split: of the data set, that is scored; max_tokens: of an answer
    datasets: its names on the Hub; data move, and copies are equal
    config: the folder of the data set that holds it, if there are several
    prompt: which published prompt its questions end with, a key of `prompts.EXPLICIT`
    metrics: those of the published code, then ours beside them; keys of `metrics.METRICS`, or of `choices.score`
    levels: scored at the four levels of parsing; judge: rated by a model; choices: by the likelihood of endings

    Source:  mistral-evals d61811fc, eval/tasks; lm-evaluation-harness 0.4.13, lm_eval/tasks
    """

    name: str
    datasets: Sequence[str]
    split: str
    max_tokens: int = 0
    config: str | None = None
    prompt: str | None = None
    metrics: Sequence[str] = ()
    levels: bool = False
    judge: bool = False
    choices: bool = False


TABLE = tomllib.loads(Path(__file__).with_name("tasks.toml").read_text(encoding="utf-8"))
TASKS = {name: Task(name, **row) for name, row in TABLE.items()}


def find_task(name: object) -> Task:
    """The task of this name. Raises TinyError if there is none."""
    if not isinstance(name, str) or name not in TASKS:
        raise TinyError(f"There is no task {str(name)[:80]!r}.", f"Use one of {', '.join(TASKS)}.")
    return TASKS[name]
