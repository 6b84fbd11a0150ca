"""/v1/completions, field by field, against the model in this process: its logits, `tiny.generate`, its tokenizer."""

import numpy as np
import pytest

import tiny
from tests.serve import planted
from tests.serve.served import inside
from tiny.sampling import log_softmax

STORY = "Once upon a time there was a"


@pytest.fixture(scope="module")
def model():
    return tiny.load("tiny-mixtral")


@pytest.fixture(scope="module")
def ids(model):
    return [model.tokenizer.bos_id, *model.tokenizer.encode(STORY)]


def ids_of(choice):
    return [int(name.removeprefix("token_id:")) for name in choice["logprobs"]["tokens"]]


def generated(model, ids, **options):
    return [token.id for token in tiny.generate(model, ids, **options)]


def apart(found, wanted):
    return float(np.abs(np.subtract(found, wanted)).max())


@pytest.mark.parametrize("options", [{}, {"temperature": 0.8, "seed": 5},
                                     {"temperature": 1.5, "top_p": 0.7, "seed": 6}])
def test_tokens_are_those_of_generate(mixtral, model, ids, options):
    wanted = generated(model, ids, max_tokens=20, **options)
    for prompt in (STORY, ids, [ids], [STORY]):
        (choice,) = mixtral.complete(prompt, max_tokens=20, logprobs=0, return_tokens_as_token_ids=True,
                                     **options)["choices"]
        assert ids_of(choice) == wanted and choice["finish_reason"] == "length"


def test_the_text_goes_on_where_the_prompt_ends(mixtral, model, ids):
    tokens = generated(model, ids, max_tokens=20)
    for prompt in (STORY, ids):
        (choice,) = mixtral.complete(prompt, max_tokens=20)["choices"]
        (echoed,) = mixtral.complete(prompt, max_tokens=20, echo=True)["choices"]
        assert STORY + choice["text"] == echoed["text"] == model.tokenizer.decode([*ids, *tokens])


@pytest.mark.parametrize("max_tokens", [0, 1, 3])
@pytest.mark.parametrize("logprobs", [0, 1, 5, 20])
def test_an_echo_is_scored_as_the_model_scores_it(mixtral, model, ids, max_tokens, logprobs):
    """The lists have one length, the offsets are where the tokens are, and the numbers are those of the logits."""
    (choice,) = mixtral.complete([ids], max_tokens=max_tokens, echo=True, logprobs=logprobs)["choices"]
    lists, text = choice["logprobs"], choice["text"]
    rows = log_softmax(model(ids))
    assert {len(values) for values in lists.values()} == {len(ids) + max_tokens}
    assert lists["token_logprobs"][0] is None and lists["top_logprobs"][0] is None
    found = lists["token_logprobs"][1 : len(ids)]
    assert apart(found, [rows[place - 1][ids[place]] for place in range(1, len(ids))]) < 1e-9
    assert "".join(lists["tokens"]) == text
    assert all(text[offset:].startswith(token) for offset, token in zip(lists["text_offset"], lists["tokens"]))
    for place in range(1, len(ids)):
        top = lists["top_logprobs"][place]
        largest = np.sort(rows[place - 1])[::-1][:logprobs]
        assert logprobs <= len(top) <= logprobs + 1 and top[lists["tokens"][place]] == found[place - 1]
        assert not logprobs or apart(sorted(top.values(), reverse=True)[:logprobs], largest) < 1e-9


def test_the_checks_above_can_fail(model, ids):
    """One row late, and a shifted id: the two mistakes that make log-probabilities look plausible."""
    rows = log_softmax(model(ids))
    right = [rows[place - 1][ids[place]] for place in range(1, len(ids))]
    assert apart(right, [rows[place][ids[place]] for place in range(1, len(ids))]) > 0.1
    assert apart(right, [rows[place - 1][ids[place - 1]] for place in range(1, len(ids))]) > 0.1


def test_lists_of_prompts_keep_their_order(mixtral):
    prompts = ["One day a cat", "3 + 4 =", "The", "One day a cat"]
    reply = mixtral.complete(prompts, max_tokens=5, n=2, temperature=0.7, seed=3)
    assert [choice["index"] for choice in reply["choices"]] == list(range(8))
    alone = [choice["text"] for prompt in prompts
             for choice in mixtral.complete(prompt, max_tokens=5, n=2, temperature=0.7, seed=3)["choices"]]
    assert [choice["text"] for choice in reply["choices"]] == alone
    assert reply["usage"]["total_tokens"] == reply["usage"]["prompt_tokens"] + reply["usage"]["completion_tokens"]


def test_n_texts_have_the_seeds_that_follow(mixtral, model, ids):
    choices = mixtral.complete(ids, max_tokens=12, n=16, temperature=1, seed=40, logprobs=0,
                               return_tokens_as_token_ids=True)["choices"]
    for number, choice in enumerate(choices):
        assert ids_of(choice) == generated(model, ids, max_tokens=12, temperature=1.0, seed=40 + number)
    assert len({choice["text"] for choice in choices}) > 8


def test_without_a_seed_texts_differ(mixtral):
    texts = {mixtral.complete(STORY, max_tokens=20, temperature=1)["choices"][0]["text"] for _ in range(4)}
    assert len(texts) > 1


def test_the_end_of_a_text_is_a_token_without_text(mixtral, model):
    prompt = [1, *model.tokenizer.encode("[INST] Hello [/INST]")]
    (choice,) = mixtral.complete([prompt], max_tokens=50, logprobs=1)["choices"]
    assert choice["finish_reason"] == "stop" and choice["stop_reason"] is None
    wanted = generated(model, prompt, max_tokens=50)
    assert len(choice["logprobs"]["tokens"]) == len(wanted) + 1 and choice["logprobs"]["tokens"][-1] == ""


@pytest.mark.parametrize("field", ["echo", "logprobs", "both"])
def test_a_stream_says_what_a_body_says(mixtral, field):
    options = {"max_tokens": 12, "seed": 2, "temperature": 1.0, "n": 2}
    options |= {"echo": True} if field != "logprobs" else {}
    options |= {"logprobs": 2} if field != "echo" else {}
    body = mixtral.complete(["One day", "The cat"], **options)
    events = mixtral.complete(["One day", "The cat"], stream=True, stream_options={"include_usage": True}, **options)
    assert events[-1]["choices"] == [] and events[-1]["usage"] == body["usage"]
    assert all(event["usage"] is None for event in events[:-1])
    for choice in body["choices"]:
        parts = [event["choices"][0] for event in events[:-1] if event["choices"][0]["index"] == choice["index"]]
        assert "".join(part["text"] for part in parts) == choice["text"]
        assert [part["finish_reason"] for part in parts] == [None] * (len(parts) - 1) + [choice["finish_reason"]]
        if choice["logprobs"]:
            for name, values in choice["logprobs"].items():
                assert [value for part in parts for value in part["logprobs"][name]] == values


def test_what_is_not_said_is_as_with_openai(mixtral):
    """Temperature 1, and 16 tokens of a completion; a chat goes on until its end, or that of the context."""
    for fields in ({}, {"temperature": 1}, {"max_tokens": 16, "top_p": 1, "n": 1, "echo": False, "stream": False}):
        _, reply = mixtral.ask("/v1/completions", {"prompt": "One day", "seed": 7} | fields)
        assert reply["choices"] == mixtral.complete("One day", temperature=1, max_tokens=16, seed=7)["choices"]
    (choice,) = mixtral.chat("Tell me of a cat", temperature=2.0, seed=1)["choices"]
    assert choice["finish_reason"] == "stop" or mixtral.chat("x")["usage"]["total_tokens"] == 512


def test_what_is_ignored_is_named(mixtral):
    reply = mixtral.complete("x", max_tokens=1, user="me", whatever=3, model="other", frequency_penalty=0, best_of=1,
                             logit_bias={}, suffix=None)
    assert reply["warnings"] == ["user: ignored", "whatever: ignored",
                                 'model: "other" is not served here, tiny-mixtral answers']
    assert reply["model"] == "tiny-mixtral"
    assert "warnings" not in mixtral.complete("x", max_tokens=1)


def test_a_text_ends_with_the_context(mixtral):
    reply = mixtral.complete([[1] * 510], max_tokens=100)
    assert reply["usage"] == {"prompt_tokens": 510, "completion_tokens": 2, "total_tokens": 512}
    assert "512" in reply["warnings"][0] and reply["choices"][0]["finish_reason"] == "length"
    assert mixtral.complete([[1] * 512], max_tokens=0, echo=True, logprobs=1)["usage"]["total_tokens"] == 512
    for count in (512, 513, 600):
        status, reply = mixtral.ask("/v1/completions", {"prompt": [1] * count, "max_tokens": 5})
        assert status == 400 and "512" in reply["error"]["message"] and str(count) in reply["error"]["message"]


def test_tokens_and_texts(mixtral, model):
    text = "Question: what is 3 + 4?\nAnswer:"
    plain, with_bos = ({"prompt": text, "add_special_tokens": flag} for flag in (False, True))
    assert mixtral.ask("/tokenize", plain)[1] == {"tokens": model.tokenizer.encode(text), "max_model_len": 512,
                                                  "count": len(model.tokenizer.encode(text))}
    assert mixtral.ask("/tokenize", with_bos)[1]["tokens"] == [1, *model.tokenizer.encode(text)]
    assert mixtral.ask("/detokenize", {"tokens": model.tokenizer.encode(text)})[1] == {"prompt": text}
    assert mixtral.ask("/detokenize", {"tokens": []})[1] == {"prompt": ""}
    messages = [{"role": "user", "content": "Hello"}]
    assert mixtral.ask("/tokenize", {"messages": messages})[1]["tokens"] == model.tokenizer.encode_chat(messages)[0]


@pytest.mark.parametrize("bos", [True, False])
def test_the_string_of_a_control_token_alone_is_that_token(mixtral, model, bos):
    """BOS before it is another one. In a longer text, and in a prompt, it is text."""
    for string, id in (("<s>", 1), ("</s>", 2)):
        found = mixtral.ask("/tokenize", {"prompt": string, "add_special_tokens": bos})[1]["tokens"]
        assert found == [1] * bos + [id]
    assert mixtral.complete("<s>", max_tokens=1)["usage"]["prompt_tokens"] == 1 + len(model.tokenizer.encode("<s>"))


@pytest.mark.parametrize(("path", "body", "warnings"), [
    ("/tokenize", {"prompt": "x", "return_token_strs": True}, ["return_token_strs: ignored"]),
    ("/tokenize", {"prompt": "x", "model": "gpt-4"}, ['model: "gpt-4" is not served here, tiny-mixtral answers']),
    ("/tokenize", {"messages": [{"role": "user", "content": "x", "name": "ada"}]}, ["messages[0].name: ignored"]),
    ("/detokenize", {"tokens": [5], "more": 1}, ["more: ignored"])])
def test_tokens_and_texts_name_what_they_ignore(mixtral, path, body, warnings):
    assert mixtral.ask(path, body)[1]["warnings"] == warnings


@pytest.mark.parametrize("logprobs", [1, 2, 20])
def test_tokens_that_read_alike_keep_their_numbers(mixtral, model, ids, logprobs):
    """`i` is a piece and a byte. The one that stands there has the name, and lm_eval sees which is the likelier."""
    piece = next(id for id in range(259, 32000) if model.tokenizer.pieces([id]) == ["i"])
    byte = 3 + ord("i")
    scores = log_softmax(model([*ids, byte]))[len(ids) - 1]
    (choice,) = mixtral.complete([[*ids, byte]], echo=True, max_tokens=0, logprobs=logprobs)["choices"]
    assert choice["logprobs"]["top_logprobs"][-1]["i"] == choice["logprobs"]["token_logprobs"][-1]
    assert apart(choice["logprobs"]["token_logprobs"][-1], scores[byte]) < 1e-9

    def logits(found):
        """The piece is the likeliest everywhere, and the byte the next one."""
        found = np.array(found)
        found[..., [piece, byte]] = 60, 50
        return found

    with inside(planted.Planted(after=logits)) as (client, _):
        (choice,) = client.complete([[*ids, byte]], echo=True, max_tokens=1, logprobs=logprobs)["choices"]
    read, written = choice["logprobs"]["top_logprobs"][-2:]
    assert choice["logprobs"]["tokens"][-2:] == ["i", "i"] and choice["logprobs"]["token_logprobs"][-2] == read["i"]
    assert max(read, key=read.get) == f"token_id:{piece}" and abs(read[f"token_id:{piece}"] - read["i"] - 10) < 1e-4
    assert max(written, key=written.get) == "i" and len(written) == logprobs


def test_models(mixtral):
    (one,) = mixtral.ask("/v1/models")[1]["data"]
    assert one["id"] == "tiny-mixtral" and one["max_model_len"] == 512
    assert mixtral.ask("/v1/models/tiny-mixtral") == (200, one)
    status, reply = mixtral.ask("/v1/models/gpt-4")
    assert status == 404 and "gpt-4" in reply["error"]["cause"] and "tiny-mixtral" in reply["error"]["remedy"]


def test_characters_of_several_tokens(mixtral, model):
    """Bytes of a character wait for the last one; the texts joined are the text."""
    text = "caf\u00e9 \u4f60\u597d \U0001f600"
    (choice,) = mixtral.complete(text, echo=True, max_tokens=0, logprobs=2)["choices"]
    assert choice["text"] == "".join(choice["logprobs"]["tokens"]) == text
    ids = [1, *model.tokenizer.encode(text)][:-1]  # The last character is not complete.
    (choice,) = mixtral.complete([ids], echo=True, max_tokens=0, logprobs=0)["choices"]
    assert choice["text"] == model.tokenizer.decode(ids) and len(choice["logprobs"]["tokens"]) == len(ids)
