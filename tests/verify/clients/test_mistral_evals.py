"""mistral-evals, unchanged, and our evaluation of the same data against the same server: equal scores, item by item.

The data are 200 scenes, answered by a served tiny-pixtral; 300 replies that are hard to read, recorded; and the files
of tests/golden/evals, with both. The judge rates by a fixed rule.
"""

import json
from pathlib import Path
from typing import NamedTuple

import hub_files
import hub_scenes
import pytest
from client_runs import needs_extras, python_of, run, served, tiny_command, version_in
from compare import Different, assert_close
from oracles import GOLDEN
from recorded_replies import serving
from tricky_replies import tricky, tricky_rows

from tiny.evals.run_folder import Run, read_run
from tiny.evals.scores import RATED, score_run, values_of
from tiny.evals.tasks import ANYWHERE, EXPLICIT, TASKS

pytestmark = [pytest.mark.verify, needs_extras()]
JUDGE = "gpt-4o-2024-05-13"  # the only name that mistral-evals takes
SAME = 1e-12
# Of each published metric another one that could be taken for it; the hard replies have to tell them apart.
MISTAKES = {EXPLICIT: "level 0", ANYWHERE: EXPLICIT, "anls": "anls_0.5", "vqa_match": "vqa_accuracy"}
KINDS = ("scenes", "tricky", "golden", "golden, recorded")
# Our names for what mistral-evals computes of ratings, beside those of categories and turns.
AVERAGES = {"micro_average_score": "mean over turns", "macro_average_score": "mean as released"}


class Data(NamedTuple):
    """One kind of data: its folder in the Hub's layout, what answers, and the requests that were recorded there."""

    kind: str
    root: Path
    url: str
    judge: str
    seen: list | None


def rows_of(kind: str) -> dict[str, list[dict]]:
    """The rows of each task."""
    if kind == "scenes":
        return hub_scenes.draw_rows()
    if kind == "tricky":
        return tricky_rows()
    return {task: hub_files.read_rows(next((GOLDEN / "evals").glob(f"{layout.name.split('/')[1]}-*.parquet")))
            for task, layout in hub_files.VISION.items()}


@pytest.fixture(scope="module", params=KINDS)
def data(request, tmp_path_factory):
    """Data of one kind as files, a server for it, and a judge."""
    root, replies = tmp_path_factory.mktemp(request.param.split(",")[0]), [reply for reply, _ in tricky()]
    for task, rows in rows_of(request.param).items():
        hub_files.write_hub(root / "hub", hub_files.VISION[task], {hub_files.VISION[task].split: rows})
        if task == "vqav2":
            layout = hub_files.plain_votes()
            rows = [row | {"answers": [vote["answer"] for vote in row["answers"]]} for row in rows]
        else:
            layout = hub_files.VISION[task]
        hub_files.write_hub(root / "plain", layout, {layout.split: rows})
    with serving(replies) as (judge, seen):
        if request.param in ("tricky", "golden, recorded"):
            yield Data(request.param, root, judge, judge, seen)
        else:
            with served("tiny-pixtral", root) as url:
                yield Data(request.param, root, url, judge, None)


def theirs(data: Data, task: str, out: Path) -> tuple[list[dict], dict[str, float]]:
    """What mistral-evals says: of each item its answer and scores, and the averages."""
    program = Path(__file__).with_name("mistral_evals_driver.py")
    run([python_of("MISTRAL_EVALS_PYTHON"), program, "tiny-pixtral", data.url, task, out], data.root / "plain",
        HF_HOME=str(data.root / f"cache-{task}"), OPENAI_BASE_URL=f"{data.judge}/v1", OPENAI_API_KEY="none")
    return tuple(json.loads((out / name).read_text(encoding="utf-8")) for name in ("items.json", f"{task}.json"))


def ours(data: Data, task: str, out: Path) -> Run:
    """A run of ours, by the commands that a user gives, and judged if the task is."""
    layout = hub_files.VISION[task]
    tiny_command("evals", "import", task, data.root / "hub" / layout.name, out / "items", folder=out)
    tiny_command("evals", "run", task, out / "items", "--model", data.url, "--name", "tiny-pixtral", "--images",
                 "published", "--out", out / "run", "--jobs", 4, folder=out)
    if TASKS[task].judge:
        tiny_command("evals", "judge", out / "run", "--judge", data.judge, "--name", JUDGE, "--prompt", "published",
                     "--image", "no", "--jobs", 4, folder=out)
    return read_run(out / "run")


def scores_of(found: Run, task: str, metric: str) -> dict[str, float]:
    """Our score of each request by one published metric, in the order of the data."""
    (prompt,) = found.prompts
    return values_of(found, prompt)[RATED if TASKS[task].judge else metric]


def averages_of(found: Run, task: str) -> dict[str, float]:
    """Our averages, by the names of mistral-evals."""
    values = {row["measure"]: row["value"] for row in score_run(found)["rows"]}
    if not TASKS[task].judge:
        return values
    groups = {f"{label.removeprefix('category ')}_average": value for label, value in values.items()
              if label.startswith("category ")}
    turns = {f"{int(label.removeprefix('turn ')) - 1}_average": value for label, value in values.items()
             if label.startswith("turn ")}
    return groups | turns | {name: values[own] for name, own in AVERAGES.items()}


@pytest.mark.parametrize("task", hub_files.VISION)
def test_every_score_is_that_of_mistral_evals(data, task, tmp_path, record_property):
    items, averages = theirs(data, task, tmp_path / "theirs")
    asked = list(data.seen or ())
    found = ours(data, task, tmp_path)
    (prompt,) = found.prompts
    answers = [found.answers[prompt, request["id"]] for request in found.requests]
    assert [answer.get("text") for answer in answers] == [item["answer"] for item in items]
    if data.seen is not None:  # Both asked the same, field by field and in the same order of fields.
        assert sorted(map(json.dumps, asked)) == sorted(map(json.dumps, data.seen[len(asked):]))
        data.seen.clear()
    for metric in items[0]["scores"]:
        scores = list(scores_of(found, task, metric).values())
        used = assert_close(scores, [item["scores"][metric] for item in items], atol=SAME, name=f"{task} {metric}")
        if data.kind == "tricky" and metric in MISTAKES:
            wrong = list(scores_of(found, task, MISTAKES[metric]).values())
            with pytest.raises(Different):
                assert_close(wrong, [item["scores"][metric] for item in items], atol=SAME, name=MISTAKES[metric])
        note = f"{len(scores)} scores, largest difference {used * SAME:.0e}"
        if not TASKS[task].judge:
            note += f", mean {averages[metric]:.3f}"
        record_property(f"mistral-evals, {data.kind}, {task}, {metric}", note)
    mine = averages_of(found, task)
    assert averages.keys() <= mine.keys()
    assert_close([mine[name] for name in averages], list(averages.values()), atol=SAME, name=f"averages of {task}")
    record_property("version datasets", version_in(python_of("MISTRAL_EVALS_PYTHON"), "datasets"))


def test_mistral_evals_fails_on_the_votes_of_the_hub(data, tmp_path):
    """So VQAv2 is compared with the votes as texts, which is what its own metric expects."""
    program = Path(__file__).with_name("mistral_evals_driver.py")
    done = run([python_of("MISTRAL_EVALS_PYTHON"), program, "tiny-pixtral", data.url, "vqav2", tmp_path / "out"],
               data.root / "hub", fails=True, HF_HOME=str(data.root / "cache-hub"))
    assert "AttributeError: 'dict' object has no attribute 'startswith'" in done.stderr
