"""The tests of this folder see small mistakes: each is planted in the code, and the test that should see it fails."""

import inspect
import textwrap

import pytest

from tests.verify_server import test_connect, test_tokens, test_ways
from tiny.tools.verify.server import connect, ids, names, report, rows
from tiny.tools.verify.server.collect import Collector
from tiny.tools.verify.server.probe import Form, choose_model, whole_echo
from tiny.tools.verify.server.report import Line


def dialect(kind):
    """The test that a dialect says what the model says."""
    def check(get):
        test_ways.test_each_dialect_says_what_the_model_says(kind, get("model"), fresh(get), get("say"), get("ids"))
    return check


def fresh(get):
    """Names that were made after a mistake was planted."""
    return names.Names(get("model").tokenizer, get("model").config.vocab_size)


def hostile(kind):
    return lambda get: test_connect.test_hostile_servers_cost_two_lines(kind, get("capsys"), get("monkeypatch"))


def reading(words):
    return lambda get: test_tokens.test_each_way_to_read_is_named(words, get("model"))


def the_report(get):
    """What the whole command cannot show cheaply."""
    bad, note, good = Line("a", False, "x", "y"), Line("b", None, "x"), Line("c", True, "x")
    assert [report.status_of(lines, state) for lines, state in (
        ([good, note], "healthy"), ([good, bad], "healthy"), ([good], "faulty"), ([good], "cannot tell"),
        ([bad], "cannot tell"))] == [0, 1, 1, 2, 1]
    assert report.as_json({"x": float("nan"), "y": [1.5, None]}) == '{\n "x": null,\n "y": [\n  1.5,\n  null\n ]\n}\n'
    assert bad.shown() == ["a        FAULT  x", "                to mend: y"] and len(good.shown()) == 1


# what is changed, from what to what, and the test that must see it
MUTANTS = {
    "the likeliest last": (rows.pairs, "-pair[1]", "pair[1]", lambda get: test_ways.test_rows_are_sorted_and_say_so()),
    "any order is called right": (rows.pairs, "a >= b - 1e-6", "True", lambda get:
                                  test_ways.test_rows_are_sorted_and_say_so()),
    "probabilities above 1": (rows.number, "< value < ABOVE", "< value", lambda get:
                              test_ways.test_what_is_no_log_probability_is_refused({"choices": [{"logprobs": {
                                  "tokens": ["a"], "token_logprobs": [0.7], "top_logprobs": [{}]}}]})),
    "a prompt, one position late": (Collector.collect, "(prompt + echoed)[1:]", "prompt + echoed",
                                    dialect("vllm")),
    "an echo, one position early": (Collector.aligned, "return rows[start:]", "return rows[start + 1:]",
                                    dialect("llama-cpp-python")),
    "prefixes, one token short": (Collector.behind_prefixes, "list(ids[: t + 1])", "list(ids[: max(1, t)])",
                                  dialect("llama.cpp")),
    "prefixes in the wrong order": (Collector.collect, "(ids))[::-1]", "(ids))", dialect("llama.cpp")),
    "the token itself, not the next": (Collector.seen, "known.get(ids[t + 1])", "known.get(ids[t])",
                                       dialect("vllm")),
    "too short an answer": (Collector.collect, "if len(rows) < T - 1", "if not rows", lambda get:
                            test_ways.test_wrong_lengths_and_numbers_of_a_long_text(
                                lambda choice: choice["prompt_logprobs"].pop(), "58 of 60", get("model"), get("names"),
                                get("say"), get("ids"))),
    "no parameters of sampling": (Form.body, "**NEUTRAL, ", "", dialect("vllm")),
    "any model of several": (choose_model, "if name is None and len(found) > 1", "if False", lambda get:
                             test_ways.test_a_server_with_several_models_wants_a_name(get("model"), get("say"))),
    "an echo that is none": (whole_echo, "len(rows) >= tokens - 1 > 2", "rows", lambda get:
                             test_ways.test_a_server_that_ignores_echo_gives_what_it_writes()),
    "BOS is not counted": (ids.ours, "1 + len", "len", lambda get: test_tokens.test_the_right_tokens_are_right(
        get("model"))),
    "one text that fits is enough": (ids.explained, "if all(count == reading", "if any(count == reading",
                                     reading("no known way to read explains all texts")),
    "a cut prompt is none": (ids.explained, "count < n and all(found", "count > n and all(found",
                             reading("a prompt of 485 tokens is cut to 256, in silence")),
    "a byte for a piece": (names.Names.__init__, "else TWO", "else id", lambda get:
                           test_ways.test_a_byte_and_a_piece_that_read_alike_name_no_token(get("model"), fresh(get))),
    "one id too many": (names.Names.find, "<= said < self.size", "<= said <= self.size", lambda get:
                        test_ways.test_a_token_outside_the_vocabulary_is_refused(2048, get("names"))),
    "True is a token": (names.Names.find, " or isinstance(said, bool)", "", lambda get:
                        test_ways.test_a_token_outside_the_vocabulary_is_refused(True, get("names"))),
    "a redirect is an answer": (connect.Server.call, "answer.status != 200", "answer.status >= 400",
                                hostile("redirect")),
    "no limits": (connect.Server.call, "*self.limits", "600.0, 1 << 30", lambda get:
                  test_connect.test_the_limits_are_those_that_were_given()),
    "any JSON": (connect.Server.call, "not isinstance(found, dict)", "False", hostile("no object")),
    "a fault beside good numbers": (report.status_of, ' or any(line.good is False for line in lines)', "", the_report),
    "nothing told is healthy": (report.status_of, 'if state == "healthy" else 2', "if state else 2", the_report),
    "NaN in JSON": (report.plain, "not math.isfinite(value)", "False", the_report),
    "a repair where there is none": (report.Line.shown, "if self.repair", "if True", the_report)}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mistake_is_seen(name, request, monkeypatch):
    function, old, new, check = MUTANTS[name]
    source = textwrap.dedent(inspect.getsource(function))
    assert source.count(old) == 1, source
    namespace = dict(function.__globals__)
    exec(compile(source.replace(old, new), function.__code__.co_filename, "exec"), namespace)
    check(request.getfixturevalue)
    monkeypatch.setattr(function, "__code__", namespace[function.__name__].__code__)
    with pytest.raises((Exception, pytest.fail.Exception)):
        check(request.getfixturevalue)
