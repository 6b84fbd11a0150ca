"""The generated parts of how_a_vision_model_is_scored.md: every number there is computed here, or recorded."""

import json
import statistics

from tiny.evals.intervals import Z, wilson
from tiny.evals.metrics import LEVELS, METRICS
from tiny.evals.report import COLUMNS, PUBLISHED
from tiny.evals.tasks import ANYWHERE, EXPLICIT, TASKS
from tiny.tools.markdown import table
from tutorial.pages.demo_record import EVALS_RECORD

RIGHT = "12"
REPLIES = ("I count the bars.\nFinal Answer: 12", "I count the bars.\nAnswer: 12", "**Answer:** 12",
           "There are 12 bars.", "12", "Final Answer: 13, not 12", "Final Answer: 12\nThe answer: 13")
WORD, SAID = "red", ("It is red.", "red", "Red")  # a word is looked for in sentences, in small letters
# Measure, answer, accepted: what readers of the rules do not expect.
SURPRISES = ((EXPLICIT, "Final Answer: 1930", "2020"), (EXPLICIT, "Final Answer: 1.05", "1.0"),
             (EXPLICIT, "Final Answer: **Yes.**", "Yes"), (EXPLICIT, "Final Answer: because", "B"),
             (EXPLICIT, "Final Answer: 50%", "0.5"), (ANYWHERE, "It costs 6000 dollars.", "6"),
             (ANYWHERE, "The capital is Paris", "Paris"), (ANYWHERE, "the capital is paris", "Paris"),
             ("vqa_match", "Yes", "yes"), ("vqa_accuracy", "Yes", "yes"), ("anls", "Saturday", "Sunday"),
             ("anls", "January", "May"), ("anls_0.5", "January", "May"))
LLAMA = "Llama-3.2 11B"
TURNS = 121  # that are rated in MM-MT-Bench


def tasks_block() -> str:
    """The tasks that are answered in words."""
    rows = [[f"`{task.name}`", task.datasets[0], task.split, f"{task.max_tokens:,}",
             ", ".join(f"`{name}`" for name in task.metrics) or "rated by a judge, 1 to 10"]
            for task in TASKS.values() if not task.choices]
    return table(["task", "data set", "split", "new tokens", "measures"], rows)


def prompt_block() -> str:
    """How far apart one model's scores are, read in two ways."""
    levels = json.loads(PUBLISHED.read_text(encoding="utf-8"))["pixtral_table5_levels_0_to_3"]["chartqa"][LLAMA]
    return (f"{LLAMA} scores {levels[0]} on ChartQA in table 5 of the paper if its answer has to stand behind "
            f"the right label, and {levels[3]} if it may stand anywhere. Weights, pictures and answers are the same.")


def levels_block() -> str:
    """Replies, and at which levels each is right."""
    rows = [[f"`{reply}`".replace("\n", " ⏎ "), *("right" if score(reply, [RIGHT]) else "-" for score in LEVELS)]
            for reply in REPLIES]
    rows += [[f"`{reply}`, where {WORD} is right", *("right" if score(reply, [WORD]) else "-" for score in LEVELS)]
             for reply in SAID]
    return table([f"reply, where {RIGHT} is right", *(f"level {n}" for n in range(len(LEVELS)))], rows)


def surprises_block() -> str:
    """Scores that are as published, and surprise."""
    rows = [[f"`{name.partition('_relaxed')[0]}`", answer, right, f"{METRICS[name](answer, [right] * 10):.2f}"]
            for name, answer, right in SURPRISES]
    return table(["measure", "answer", "accepted", "score"], rows)


def published() -> dict[str, list]:
    """Table 2 of the paper."""
    return json.loads(PUBLISHED.read_text(encoding="utf-8"))["pixtral_table2"]["rows"]


def doubt_block() -> str:
    """How far one run of the paper's size is from the next, by chance."""
    rows = []
    for task, (column, items) in COLUMNS.items():
        if items:
            value = published()["Pixtral 12B"][column]
            found = wilson(round(value / 100 * items), items)
            rows.append([task, f"{items:,}", f"{value:.1f}", f"{100 * found.low:.1f} to {100 * found.high:.1f}"])
    halves = [Z * sd / TURNS**0.5 for sd in (2, 3)]
    rating = COLUMNS["mm_mt_bench"][0]
    ours, other = (published()[name][rating] for name in ("Pixtral 12B", "Gemini-1.5-Flash 8B (0827)"))
    return table(["task", "items", "Pixtral 12B, printed", "interval of 95 %"], rows) + (
        f"\n\nRatings have no such formula. If those of {TURNS} turns spread by 2 to 3 points, their mean is known to "
        f"{halves[0]:.2f} to {halves[1]:.2f}. Pixtral's {ours} and Gemini-1.5-Flash 8B's {other} differ by "
        f"{ours - other:.2f}: not told apart.")


def pearson_block() -> str:
    """How ratings go with what people prefer, from the table itself."""
    pairs = [(values[COLUMNS["mm_mt_bench"][0]], values[6]) for values in published().values()
             if values[COLUMNS["mm_mt_bench"][0]] is not None and values[6] is not None]
    found = statistics.correlation(*zip(*pairs))
    return (f"The paper prints a correlation of 0.91 between its ratings and what people prefer (LMSys-Vision). The "
            f"{len(pairs)} models of its table 2 that have both give {found:.2f}.")


def demo_block() -> str:
    """What the demonstration printed."""
    return f"```\n{EVALS_RECORD.read_text(encoding='utf-8')}```"


BLOCKS = {"tasks": tasks_block, "prompt": prompt_block, "levels": levels_block, "surprises": surprises_block,
          "doubt": doubt_block, "pearson": pearson_block, "evals_demo": demo_block}
