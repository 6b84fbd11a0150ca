"""A model behind `python -m tiny serve` answers what the same model answers in this process, to the last token."""

import json

import pytest
from client_runs import read_lines, served
from compare import assert_close

from tiny.__main__ import main
from tiny.evals import demo
from tiny.evals.items import Item, write_items
from tiny.evals.tasks import TASKS

for package in ("starlette", "uvicorn"):
    pytest.importorskip(package, reason="Serving needs the extra serve: pip install -e .[serve]")


def both(tmp_path, model, task, *more):
    """The answers of a run of the model itself, and of one of it behind a server, by prompt and id."""
    with served(model, tmp_path) as address:
        for name, source in (("local", model), ("served", address)):
            asked = ["evals", "run", task, str(tmp_path / "items"), "--model", source, "--out", str(tmp_path / name)]
            assert main([*asked, "--jobs", "4", *more]) == 0
    return ({(line["prompt"], line["id"]): line for line in read_lines(tmp_path / name / "answers.jsonl")}
            for name in ("local", "served"))


@pytest.mark.parametrize(("task", "images"), [("vqav2", "published"), ("mmmu", "original"), ("mm_mt_bench", "blind")])
def test_answers_are_the_same(task, images, tmp_path):
    """Texts, reasons of the end and counts of tokens; of mmmu with two pictures, of mm_mt_bench with two turns."""
    write_items(tmp_path / "items", TASKS[task], [demo.make_item(task, n) for n in range(4)])
    prompts = ["--prompt", "naive", "explicit"] if TASKS[task].prompt else []
    local, remote = both(tmp_path, "tiny-pixtral", task, "--images", images, *prompts)
    assert local == remote and len(local) == 8 and any(line["text"] for line in local.values())


def test_likelihoods_are_the_same(tmp_path):
    texts = [("One day, Tom went to the", ["market to buy bread.", "sky, and the dog."]), ("Once upon", ["a", "x"])]
    write_items(tmp_path / "items", TASKS["hellaswag"], [
        (Item(f"i{n}", [], [], context=context, endings=endings, answer=0), {}) for n, (context, endings) in
        enumerate(texts)])
    local, remote = both(tmp_path, "tiny-mixtral", "hellaswag")
    assert local.keys() == remote.keys() and len(local) == 2
    for key, line in local.items():
        assert_close(line["logprobs"], remote[key]["logprobs"], 1e-9, name=json.dumps(key))
        assert line["greedy"] == remote[key]["greedy"]
