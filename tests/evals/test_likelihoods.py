"""Log-likelihoods of endings. Oracle: the model's logits, row by row, in float64."""

import json

import numpy as np
import pytest
from compare import assert_close
from small_evals import scripted_server

import tiny
from tiny.__main__ import main
from tiny.config import TinyError
from tiny.evals.choices import local_likelihoods, pairs, remote_likelihoods
from tiny.evals.clients import Failed
from tiny.evals.items import Item, write_items
from tiny.evals.remote import Server
from tiny.evals.tasks import find_task

ITEM = Item("one", [], [], context="One day, Tom went to the", endings=["market.", "house and slept.", "xylophone"],
            answer=0)


@pytest.fixture(scope="module")
def model():
    return tiny.load("tiny-mixtral", weights="resident")


def by_hand(model, item):
    """The sum over the ending's tokens of log softmax, one call of the model for each token."""
    found = []
    for context, ending in pairs(item):
        ids, total = model.tokenizer.encode(context + ending), 0.0
        for n in range(len(model.tokenizer.encode(context)), len(ids)):
            row = model(ids[:n], last_only=True)[0].astype(np.float64)
            total += row[ids[n]] - row.max() - np.log(np.exp(row - row.max()).sum())
        found.append(total)
    return found


def test_a_local_model_gives_the_sum_of_its_log_probabilities(model):
    found = local_likelihoods(model)(ITEM)
    assert_close(found.logprobs, by_hand(model, ITEM), 1e-4)
    assert found.logprobs[0] > found.logprobs[2] and not found.greedy[2]


def test_a_server_gives_the_same(model):
    """The server here computes with the model itself; what is tested is what is asked of it, and read from it."""
    def script(body, number):
        if "add_special_tokens" in body:
            assert body["add_special_tokens"] is False
            return {"tokens": model.tokenizer.encode(body["prompt"])}
        assert list(body) == ["model", "prompt", "temperature", "max_tokens", "logprobs", "seed", "echo"]
        (ids,) = body["prompt"]
        rows = model(ids).astype(np.float64)
        rows -= rows.max(axis=1, keepdims=True)
        rows -= np.log(np.exp(rows).sum(axis=1, keepdims=True))
        said = [None, *(float(rows[n - 1, ids[n]]) for n in range(1, len(ids))), -0.5]
        tops = [None, *({"x": float(row.max())} for row in rows)]
        return {"choices": [{"logprobs": {"token_logprobs": said, "top_logprobs": tops}}]}

    with scripted_server(script) as (address, _):
        found = remote_likelihoods(Server(address), "m")(ITEM)
    mine = local_likelihoods(model)(ITEM)
    assert_close(found.logprobs, mine.logprobs, 1e-4)
    assert found.greedy == mine.greedy


@pytest.mark.parametrize("said", [
    {"choices": [{"logprobs": {"token_logprobs": [-0.5], "top_logprobs": [{"0": -0.5}]}}]},
    {"choices": [{"logprobs": None}]}, {"choices": []}, {}, "null"],
    ids=["no echo", "no logprobs", "no choices", "nothing", "null"])
def test_a_server_without_echo_is_refused_and_is_no_chance(said):
    """Every ending would look alike, and the score would be that of guessing."""
    def script(body, number):
        if "add_special_tokens" in body:
            return {"tokens": list(range(len(body["prompt"])))}
        return said if said != "null" else repeated(body, None)

    with scripted_server(script) as (address, _), pytest.raises(TinyError, match="did not repeat the") as caught:
        remote_likelihoods(Server(address), "m")(ITEM)
    assert "echo" in caught.value.remedy


def repeated(body, logprob):
    """The answer of a server that gives each token of a prompt one log-probability."""
    count = len(body["prompt"][0]) + 1
    return {"choices": [{"logprobs": {"token_logprobs": [None, *[logprob] * (count - 1)],
                                      "top_logprobs": [None, *[{"x": 0.0}] * (count - 1)]}}]}


def test_nan_is_no_answer():
    """It is no JSON; what failed is asked again, and then is no score."""
    def script(body, number):
        tokens = {"tokens": list(range(len(body["prompt"])))}
        return tokens if "add_special_tokens" in body else repeated(body, float("nan"))
    with scripted_server(script) as (address, _), pytest.raises(Failed, match="did not send JSON") as caught:
        remote_likelihoods(Server(address), "m")(ITEM)
    assert caught.value.again


def test_a_server_without_tokenize_is_refused():
    with scripted_server(lambda body, n: {"odd": 1}) as (address, _), pytest.raises(TinyError, match="/tokenize"):
        remote_likelihoods(Server(address), "m")(ITEM)


def test_what_does_not_fit_fails_and_is_not_cut(model):
    long = Item("long", [], [], context="word " * 3 * model.config.max_seq_len, endings=["a"], answer=0)
    with pytest.raises(Failed, match="the model takes"):
        local_likelihoods(model)(long)


def test_a_task_with_choices_is_run_and_scored(tmp_path, capsys):
    items = [(Item(f"i{n}", [], [], context=ITEM.context, endings=ITEM.endings, answer=n % 3), {}) for n in range(6)]
    write_items(tmp_path / "items", find_task("hellaswag"), items)
    asked = ["evals", "run", "hellaswag", str(tmp_path / "items"), "--model", "tiny-mixtral"]
    assert main([*asked, "--out", str(tmp_path / "run")]) == 0 and "answered 6 of 6" in capsys.readouterr().out
    assert main(["evals", "score", str(tmp_path / "run"), "--json"]) == 0
    rows = {row["measure"]: row for row in json.loads(capsys.readouterr().out)["runs"][0]["rows"]}
    assert rows["acc"]["value"] == 2 / 6 and rows["acc_norm"]["n"] == 6


def test_pictures_of_a_task_without_any(tmp_path, capsys):
    write_items(tmp_path / "items", find_task("hellaswag"), [(ITEM, {})])
    asked = ["evals", "run", "hellaswag", str(tmp_path / "items"), "--model", "tiny-mixtral", "--out"]
    assert main([*asked, str(tmp_path / "a"), "--images", "blind"]) == 2
    assert "hellaswag has no pictures" in capsys.readouterr().err
    assert main([*asked, str(tmp_path / "run")]) == 0 and main(["evals", "score", str(tmp_path / "run")]) == 0
    assert "hellaswag: tiny-mixtral, asked on " in capsys.readouterr().out
