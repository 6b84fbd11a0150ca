"""Rows of the text data sets that lm_eval's tasks read, made of stories and facts that tiny-mixtral never saw.

In HellaSwag the right ending is a story's second half. Of the wrong ones one is the same with both friends swapped, and
two are of other stories.
"""

import numpy as np

from tiny.training.text import stories, tasks

SEED = 20261129
ROWS = 40  # of each data set
KINDS = (tasks.COLOURS, tasks.NAMES, tasks.FOODS)  # what a question may ask for, so that wrong options can be drawn


def story_rows(rng: np.random.Generator, count: int) -> list[dict]:
    """HellaSwag: the beginning of a story and four endings."""
    told = [stories.generate(rng, held_out=True) for _ in range(3 * count)]
    parts = [(story.opening, story.text[len(story.opening) + 1:]) for story in told]
    rows = []
    for n in range(count):
        begin, good = parts[n]
        endings = [good, swapped(begin, good), parts[count + n][1], parts[2 * count + n][1]]
        order = rng.permutation(4)
        rows.append({"ind": n, "activity_label": "Story", "ctx_a": begin, "ctx_b": "", "ctx": begin,
                     "endings": [endings[k] for k in order], "source_id": f"story~{n}", "split": "val",
                     "split_type": "indomain", "label": str(list(order).index(0))})
    return rows


def swapped(begin: str, text: str) -> str:
    """The same text with the two names of the beginning swapped, or backwards if it names no two people."""
    people = [word for word in dict.fromkeys(begin.replace(",", " ").replace(".", " ").split())
              if word in stories.BOYS + stories.GIRLS + stories.HE_ANIMALS + stories.SHE_ANIMALS]
    if len(people) < 2:
        return " ".join(reversed(text.split()))
    a, b = people[:2]
    return text.replace(a, "\0").replace(b, a).replace("\0", b)


def facts(rng: np.random.Generator, count: int, held_out: bool = True) -> list[tuple[str, list[str], int]]:
    """Questions about a fact with four options, and the number of the right one."""
    rows: list[tuple[str, list[str], int]] = []
    while len(rows) < count:
        task = tasks.generate(rng, "fact", held_out=held_out)
        kind = next((words for words in KINDS if task.answer in words), None)
        if kind is not None:
            wrong = [word for word in rng.permutation(kind).tolist() if word != task.answer][:3]
            order = rng.permutation(4)
            rows.append((task.prompt, [[task.answer, *wrong][k] for k in order], list(order).index(0)))
    return rows


def arc(questions) -> list[dict]:
    return [{"id": str(n), "question": text, "choices": {"text": options, "label": list("ABCD")},
             "answerKey": "ABCD"[right]} for n, (text, options, right) in enumerate(questions)]


def mmlu(questions) -> list[dict]:
    return [{"question": text, "subject": "anatomy", "choices": options, "answer": right}
            for text, options, right in questions]


def draw_rows() -> dict[str, dict[str, list[dict]]]:
    """The rows of each task, by split: always the same."""
    rng = np.random.default_rng(SEED)
    told, few = story_rows(rng, ROWS), facts(rng, 5, held_out=False)
    pages = [" ".join(stories.generate(rng, held_out=True).text for _ in range(n)) for n in (1, 2, 3, 4)]
    return {"hellaswag": {"train": told[:5], "validation": told, "test": told[:5]},
            "arc_easy": {"train": arc(few), "validation": arc(few), "test": arc(facts(rng, ROWS))},
            "mmlu_anatomy": {"dev": mmlu(few), "validation": mmlu(few), "test": mmlu(facts(rng, ROWS))},
            "wikitext": {split: [{"page": page} for page in pages] for split in ("train", "validation", "test")}}
