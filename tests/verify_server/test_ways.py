"""Each dialect is found, and what it says of a text is what the model says: the same tokens, the same numbers."""

import numpy as np
import pytest

from tests.verify_server import fake_servers as fakes
from tests.verify_server.fake_servers import running
from tiny.config import TinyError
from tiny.tools.verify.server.collect import Collector
from tiny.tools.verify.server.connect import Server
from tiny.tools.verify.server.decide import deviation
from tiny.tools.verify.server.probe import NEUTRAL, generated, probe, whole_echo
from tiny.tools.verify.server.rows import entry, of_prompt, rows_of

# class, way, ids, engine, share of positions that must be told, what must be odd
DIALECTS = {
    "vllm": (fakes.VLLM, "prompt", True, "vLLM", 59, None),
    "llama.cpp": (fakes.LlamaCpp, "prefixes", True, "llama.cpp", 60, None),
    "llama-cpp-python": (fakes.LlamaCppPython, "echo", False, "llama-cpp-python", 59, "names"),
    "mlx-lm": (fakes.Mlx, "prefixes", False, "an unknown engine", 50, "lists")}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_each_dialect_says_what_the_model_says(dialect, model, names, say, ids):
    kind, way, by_ids, engine, least, odd = DIALECTS[dialect]
    fake = kind(model, say, texts=[ids])
    with running(fake) as url:
        server = Server(url)
        found = probe(server, model)
        collector = Collector(server, found, names)
        seen = collector.collect(ids)
    assert (found.form.kind, found.form.ids, found.engine, found.name) == (way, by_ids, engine, "fake")
    apart = deviation(seen, say(ids))
    assert np.isfinite(apart).sum() >= least and np.nanmax(apart) < 1e-5
    assert [line.check for line in collector.lines()] == ([odd] if odd else [])
    prompts = [len(body["prompt"]) for _, body, _ in fake.seen][-least:]
    assert way != "prefixes" or prompts == sorted(prompts, reverse=True), "mlx-lm breaks off otherwise"
    for _, body, _ in fake.seen:
        assert body["model"] == "fake" and NEUTRAL.items() <= body.items(), "every parameter of sampling is sent"


def test_our_own_server(model, names, say, ids):
    pytest.importorskip("uvicorn", reason="The server needs the extra `serve`, which is not installed.")
    from tests.serve.served import inside

    with inside(model) as (client, _):
        server = Server(f"http://127.0.0.1:{client.port}")
        found = probe(server, model)
        seen = Collector(server, found, names).collect(ids)
    assert (found.form.kind, found.form.ids, found.engine) == ("echo", True, "tiny serve")
    apart = deviation(seen, say(ids))
    assert np.isfinite(apart).all() and apart.max() < 1e-5


def test_a_server_of_chats(model, names, say):
    with running(fakes.ChatOnly(model, say)) as url:
        server = Server(url)
        found = probe(server, model)
        collector = Collector(server, found, names)
        seen = collector.collect_chat("Say these words again: drink stone", 10)
    assert found.form.kind == "chat" and found.form.fields["top_logprobs"] == 5
    apart = deviation(seen, say(seen.ids))
    prompt, _ = model.tokenizer.encode_chat([{"role": "user", "content": "Say these words again: drink stone"}])
    assert np.isfinite(apart).sum() == len(seen.ids) - len(prompt) > 1 and np.nanmax(apart) < 1e-5


def test_a_server_of_texts(model, say):
    with running(fakes.TextOnly(model, say)) as url:
        assert probe(Server(url), model).form.kind == "text"


def test_a_byte_and_a_piece_that_read_alike_name_no_token(model, names):
    """The byte 0x3F and the piece "?" once spoilt a verdict."""
    byte, piece = (model.tokenizer.pieces(range(model.config.vocab_size)).index(name) for name in ("<0x3F>", "?"))
    assert names.find("?") is None and names.find("<0x3F>") == byte
    assert names.find(f"token_id:{piece}") == piece and names.find(piece) == piece
    assert names.find("no such token") is None and names.written("?") == piece and names.written("no such") is None


@pytest.mark.parametrize("bad", [2048, -1, True, 1.5, None, "token_id:99999", [1]])
def test_a_token_outside_the_vocabulary_is_refused(bad, names):
    with pytest.raises(TinyError, match="vocabulary has 2,048"):
        names.find(bad)


@pytest.mark.parametrize("bad", [
    {"choices": [{"logprobs": {"content": [7]}}]}, {"choices": [{"logprobs": {"content": [{"logprob": "x"}]}}]},
    {"choices": [{"logprobs": {"tokens": ["a"], "token_logprobs": [-1, -2], "top_logprobs": None}}]},
    {"choices": [{"logprobs": {"tokens": ["a"], "token_logprobs": [0.7], "top_logprobs": [{}]}}]},
    {"choices": [{"logprobs": {"content": [{"logprob": -1, "top_logprobs": [3]}]}}]},
    {"choices": [{"logprobs": {"content": [{"logprob": -1, "top_logprobs": 3}]}}]},
    {"choices": [{"logprobs": "yes"}]}, {"choices": [{"prompt_logprobs": [None, 5]}]},
    {"choices": [{"prompt_logprobs": {"a": 1}}]}, {"choices": [{"prompt_logprobs": [None, {"5": {"logprob": True}}]}]},
    {"choices": [{"logprobs": {"content": [{}] * 70_000}}]}])
def test_what_is_no_log_probability_is_refused(bad):
    with pytest.raises(TinyError, match="The server sent"):
        rows_of(bad)


@pytest.mark.parametrize("empty", [{}, {"choices": []}, {"choices": [{"logprobs": None}]}, {"choices": {"a": 1}},
                                   {"choices": [[]]}])
def test_an_answer_without_log_probabilities_has_no_rows(empty):
    assert rows_of(empty) == ([], [])


def test_rows_are_sorted_and_say_so():
    row = entry({"token": "b", "logprob": -2, "top_logprobs": [{"token": "b", "logprob": -2},
                                                               {"token": "a", "logprob": -1}]})
    assert row.top == [("a", -1.0), ("b", -2.0)] and not row.ordered
    assert of_prompt([None, {"7": {"logprob": -1.5}}])[1].top == [("token_id:7", -1.5)]


def test_a_server_that_ignores_echo_gives_what_it_writes():
    answer = {"choices": [{"logprobs": {"tokens": ["a"], "token_logprobs": [-1.0], "top_logprobs": [
        {"a": -1.0, "b": -2.0}]}}]}
    assert generated(answer, 9) and not whole_echo(answer, 9)


def broken(change):
    """A server of whole prompts whose answer is changed."""
    class Broken(fakes.VLLM):
        def complete(self, body):
            answer = super().complete(body)
            if len(body["prompt"]) > 40 and "prompt_logprobs" in body:
                change(answer["choices"][0])
            return answer
    return Broken


@pytest.mark.parametrize(("change", "words"), [
    (lambda choice: choice["prompt_logprobs"].pop(), "log-probabilities of 58 of 60"),
    (lambda choice: choice["prompt_logprobs"].__setitem__(5, {"2048": {"logprob": -1}}), "vocabulary has 2,048"),
    (lambda choice: choice["prompt_logprobs"].__setitem__(5, {"7": {"logprob": 3}}), "sent 3 as a log-probability"),
    (lambda choice: choice.pop("prompt_logprobs"), "log-probabilities of 0 of 60"),
    (lambda choice: choice["prompt_logprobs"].reverse(), "another token than token 2")])
def test_wrong_lengths_and_numbers_of_a_long_text(change, words, model, names, say, ids):
    with running(broken(change)(model, say)) as url:
        server = Server(url)
        with pytest.raises(TinyError, match=words):
            Collector(server, probe(server, model), names).collect(ids)


def test_an_echo_of_other_tokens_is_refused(model, names, say, ids):
    def without_space(text):
        mark = model.tokenizer.encode("\n")
        return [1, *model.tokenizer.encode("\n" + text)[len(mark):]]

    shifted = [1, *model.tokenizer.encode("Once" + model.tokenizer.decode(ids[1:]))][:60]
    with running(fakes.LlamaCppPython(model, say, read=without_space)) as url:
        server = Server(url)
        with pytest.raises(TinyError, match="reads the text as other tokens"):
            Collector(server, probe(server, model), names).collect(shifted)


@pytest.mark.parametrize("listed", [(404, {}, {}), (200, b"", {}), {"data": 7}, {"data": [7, {"id": 7}]}])
def test_a_server_without_a_list_of_models_is_asked_without_a_name(listed, model, say):
    fake = fakes.VLLM(model, say)
    fake.models = lambda: listed
    with running(fake) as url:
        found = probe(Server(url), model)
    assert (found.name, found.form.kind) == ("", "prompt") and all("model" not in body for _, body, _ in fake.seen)


def test_a_server_with_several_models_wants_a_name(model, say):
    fake = fakes.VLLM(model, say)
    fake.models = lambda: {"data": [{"id": "a"}, {"id": "b"}]}
    with running(fake) as url:
        with pytest.raises(TinyError, match="lists 2 models: a, b"):
            probe(Server(url), model)
        assert probe(Server(url), model, "b").name == "b"
