"""lm_eval, unchanged, against a served tiny-mixtral: each log-likelihood is that of the model in this process.

The tasks are lm_eval's own; the data are made here, under the names of the Hub. Each number is compared with the
model called here on the same ids, and with transformers. Our own tasks with choices ask for the same, and score alike.
"""

import json
import math
from functools import cache

import hub_files
import hub_words
import numpy as np
import pytest
from client_runs import needs_extras, python_of, read_lines, run, served, version_in
from compare import Different, assert_close

import tiny
from tiny.evals import choices
from tiny.evals.choices import local_likelihoods, remote_likelihoods
from tiny.evals.hub import import_task
from tiny.evals.items import read_items
from tiny.evals.remote import Server
from tiny.evals.tasks import find_task
from tiny.files.weights import open_tensors
from tiny.tools.synthetic import save_checkpoint

pytestmark = [pytest.mark.verify, needs_extras()]
# Of each task the solved examples before a question, and the longest context. A text of 1,017 tokens in windows of 511
# agreed with transformers to 5.3e-4 only (2026-11-29): that is 3e-7 of its log-likelihood, in float32.
TASKS = {"hellaswag": (0, 512), "arc_easy": (0, 512), "mmlu_anatomy": (5, 512), "wikitext": (0, 256)}
# An answer is a sum of float64 logarithms, and travels as the shortest decimals that give it back.
SAME = 1e-9
TRANSFORMERS = 1e-4


@cache
def model():
    return tiny.load("tiny-mixtral", weights="resident")


def log_probabilities(ids: list[int]) -> np.ndarray:
    """Of each token after the first, in float64, and of each whether it is the most likely one. -> (T - 1, 2)"""
    logits = model()(ids)[:-1].astype(np.float64)
    scores = logits - logits.max(axis=1, keepdims=True)
    scores -= np.log(np.exp(scores).sum(axis=1, keepdims=True))
    rows = np.arange(len(scores))
    return np.stack([scores[rows, ids[1:]], scores.argmax(axis=1) == ids[1:]], axis=1)


def asked_pairs(sample: dict) -> list[tuple[list[int], int]]:
    """What lm_eval asks for a sample: ids, and how many of them are given. For a rolling perplexity it puts BOS before
    the text, and its windows are two tokens shorter than the context.
    """
    encode, found = model().tokenizer.encode, []
    for arguments in sample["arguments"].values():
        if "arg_1" in arguments:
            context, ending = arguments["arg_0"], arguments["arg_1"]
            found.append((encode(context + ending), len(encode(context))))
        else:
            found += windows([1, *encode(arguments["arg_0"])], TASKS["wikitext"][1] - 2)
    return found


def windows(ids: list[int], longest: int) -> list[tuple[list[int], int]]:
    """Cut a text, its BOS included, into the windows of a rolling perplexity: each token is asked for once."""
    found, done = [], 1
    while done < len(ids):
        end = min(done + longest, len(ids))
        start = max(0, end - longest - 1)
        found.append((ids[start:end], done - start))
        done = end
    return found


def in_process(sample: dict) -> list[tuple[float, bool]]:
    """The log-likelihoods of a sample by the model of this process; the windows of a text are added up."""
    scored = [log_probabilities(ids)[given - 1:] for ids, given in asked_pairs(sample)]
    results = [(math.fsum(rows[:, 0]), bool(rows[:, 1].all())) for rows in scored]
    rolling = "arg_1" not in sample["arguments"]["gen_args_0"]
    return [(math.fsum(sum_ for sum_, _ in results), False)] if rolling else results


def asked(sample: dict) -> list[tuple[float, bool]]:
    """The log-likelihoods of a sample as lm_eval wrote them down: the text of a float, and of a bool or nothing."""
    answers = [answers[0] if isinstance(answers[0], list) else answers for answers in sample["resps"]]
    return [(float(answer[0]), answer[1:] == ["True"]) for answer in answers]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the data lie, under their names on the Hub."""
    return tmp_path_factory.mktemp("lm_eval")


@pytest.fixture(scope="module")
def url(folder):
    with served("tiny-mixtral", folder) as address:
        yield address


@pytest.fixture(scope="module")
def samples(folder, url):
    """What lm_eval asked and was told, by task."""
    python = python_of("LM_EVAL_PYTHON")
    for task, splits in hub_words.draw_rows().items():
        hub_files.write_hub(folder, hub_files.WORDS[task], splits)
    arguments = f"base_url={url}/v1/completions,model=tiny-mixtral,tokenizer_backend=remote,num_concurrent=4"
    for shots, longest in sorted(set(TASKS.values())):
        names = ",".join(task for task, found in TASKS.items() if found == (shots, longest))
        run([python, "-m", "lm_eval", "run", "--model", "local-completions",
             "--model_args", f"{arguments},max_length={longest}", "--tasks", names, "--num_fewshot", shots,
             "--batch_size", 8, "--output_path", "out", "--log_samples"],
            folder, HF_HOME=str(folder / "hub"))
    return {task: read_lines(next((folder / "out").rglob(f"samples_{task}_*.jsonl"))) for task in TASKS}


@pytest.mark.parametrize("task", TASKS)
def test_each_log_likelihood_is_that_of_this_process(task, samples, record_property):
    told = [answer for sample in samples[task] for answer in asked(sample)]
    here = [answer for sample in samples[task] for answer in in_process(sample)]
    assert len(told) == len(here) == (4 if task == "wikitext" else 4 * hub_words.ROWS)
    used = assert_close([score for score, _ in told], [score for score, _ in here], atol=SAME, name=task)
    assert [greedy for _, greedy in told] == [greedy for _, greedy in here]
    record_property("version lm_eval", version_in(python_of("LM_EVAL_PYTHON"), "lm_eval"))
    record_property(f"lm_eval {task}, {len(told)} log-likelihoods, largest difference from the model in process",
                    f"{used * SAME:.1e}")


def test_each_log_likelihood_is_that_of_transformers(samples, tmp_path, record_property):
    python = python_of("TRANSFORMERS_PYTHON")
    folder = tiny.model_folder("tiny-mixtral")
    save_checkpoint(tmp_path / "hf", "hf", model().config,
                    open_tensors("mistral", [folder / "consolidated.safetensors"], model().config))
    (tmp_path / "texts.json").write_text(json.dumps([pair for task in TASKS for sample in samples[task]
                                                     for pair in asked_pairs(sample)]), encoding="utf-8")
    program = __file__.replace("test_lm_eval.py", "transformers_driver.py")
    run([python, "-I", program, tmp_path / "hf", tmp_path / "texts.json", tmp_path / "out.json"], tmp_path)
    scored = iter(json.loads((tmp_path / "out.json").read_text(encoding="utf-8")))
    for task in TASKS:
        told, theirs = [], []
        for sample in samples[task]:
            told += asked(sample)
            found = [next(scored) for _ in asked_pairs(sample)]
            theirs += found if task != "wikitext" else [(sum(score for score, _ in found), False)]
        used = assert_close([score for score, _ in told], [score for score, _ in theirs], atol=TRANSFORMERS, name=task)
        assert [greedy for _, greedy in told] == [greedy for _, greedy in theirs]
        record_property(f"lm_eval {task}, largest difference from transformers", f"{used * TRANSFORMERS:.1e}")
    record_property("version transformers", version_in(python, "transformers"))


@pytest.mark.parametrize("task", ["hellaswag", "arc_easy", "mmlu_anatomy"])
def test_our_tasks_ask_for_the_same_and_score_it_alike(task, samples, folder, url, tmp_path, record_property):
    ours = find_task(task.removesuffix("_anatomy"))
    import_task(ours, folder / hub_files.WORDS[task].name, tmp_path / "items", TASKS[task][0])
    _, items = read_items(tmp_path / "items")
    assert len(items) == len(samples[task])
    scorers = local_likelihoods(model()), remote_likelihoods(Server(url), "tiny-mixtral")
    for item, sample in zip(items, sorted(samples[task], key=lambda sample: sample["doc_id"])):
        wanted = [(pair["arg_0"], pair["arg_1"]) for pair in sample["arguments"].values()]
        assert choices.pairs(item) == wanted
        split = [choices.split_ids(model().tokenizer.encode, *pair) for pair in wanted]
        assert [(begin + end, len(begin)) for begin, end in split] == asked_pairs(sample)
        told, greedy = map(list, zip(*asked(sample)))
        for found in (scorer(item) for scorer in scorers):
            assert_close(found.logprobs, told, atol=SAME, name=f"{task} by our evaluation")
            assert found.greedy == greedy
        scores = choices.score(told, item.endings, item.answer)
        assert {name: scores[name] for name in ours.metrics} == {name: sample[name] for name in ours.metrics}
    record_property(f"lm_eval {task}, items of ours with the same requests and scores", f"{len(items)} of {len(items)}")


def test_a_token_before_the_text_would_be_seen(samples):
    """The trap of servers that add BOS by themselves: the numbers look as good, and are others."""
    sample = samples["hellaswag"][0]
    for (ids, given), (told, _) in zip(asked_pairs(sample), asked(sample)):
        with pytest.raises(Different):
            assert_close([log_probabilities([1, *ids])[given:, 0].sum()], [told], atol=TRANSFORMERS, name="with BOS")


def test_windows_ask_for_each_token_once():
    ids = list(range(1, 30))
    cut = windows(ids, 8)
    assert [token for part, given in cut for token in part[given:]] == ids[1:]
    assert all(len(part) <= 9 and given >= 1 for part, given in cut) and cut[0] == (ids[:9], 1)
