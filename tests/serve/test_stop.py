"""Strings that end a text: across the borders of tokens, in a body and in a stream, against Python's own search."""

import numpy as np
import pytest

from tiny.serve.writing import Cut, Step

FIELDS = {"max_tokens": 60, "temperature": 1.0, "seed": 11}


def run(cut, texts):
    """The pieces that are let through, and the string that ended them."""
    pieces = []
    for number, text in enumerate(texts):
        ready, stop = cut.push(Step(number, text), number == len(texts) - 1)
        pieces.append([step.text for step in ready])
        if stop:
            return pieces, stop
    return pieces, None


def wanted(text, stops):
    """What Python's search says of the whole text."""
    places = [(text.index(stop), stop) for stop in stops if stop in text]
    return text[: min(places)[0]] if places else text


def disagreements(make, rounds=3000):
    """How many random texts a cut ends elsewhere than Python's search does."""
    rng, wrong = np.random.default_rng(0), 0
    for _ in range(rounds):
        texts = ["".join(rng.choice(list("ab"), rng.integers(0, 4))) for _ in range(rng.integers(1, 8))]
        stops = ["".join(rng.choice(list("abc"), rng.integers(1, 5))) for _ in range(rng.integers(1, 4))]
        pieces, _ = run(make(stops), texts)
        wrong += "".join(text for piece in pieces for text in piece) != wanted("".join(texts), stops)
    return wrong


class OneToken(Cut):
    """The classic mistake: look into each token alone."""

    def push(self, step, last):
        place = min((step.text.index(stop) for stop in self.stops if stop in step.text), default=None)
        return [step if place is None else step._replace(text=step.text[:place])], None if place is None else "x"


class Hasty(Cut):
    """Another one: search all of the text, but hold nothing back."""

    def __init__(self, stops):
        super().__init__(stops)
        self.text = ""

    def push(self, step, last):
        before, self.text = self.text, self.text + step.text
        place = min((self.text.index(stop) for stop in self.stops if stop in self.text), default=None)
        return [step if place is None else step._replace(text=self.text[len(before) : max(place, len(before))])], place


def test_a_cut_is_where_python_finds_it():
    assert disagreements(Cut) == 0


@pytest.mark.parametrize("mistake", [OneToken, Hasty])
def test_classic_mistakes_are_seen(mistake):
    assert disagreements(mistake) > 100


def test_what_cannot_begin_a_stop_is_not_held_back():
    pieces, stop = run(Cut(["xyz"]), ["a", "b", "x", "y", "b", "c"])
    assert pieces == [["a"], ["b"], [], [], ["x", "y", "b"], ["c"]] and stop is None


def test_stops_of_real_texts(mixtral):
    """Parts of a text as stops, most of them across tokens: a body and a stream end before the first place of each."""
    (choice,) = mixtral.complete("One day", **FIELDS)["choices"]
    text = choice["text"]
    for start in range(3, len(text) - 8, 7):
        stop = text[start : start + 6]
        (cut,) = mixtral.complete("One day", stop=stop, logprobs=1, **FIELDS)["choices"]
        assert cut["text"] == text[: text.index(stop)] == "".join(cut["logprobs"]["tokens"])
        assert (cut["finish_reason"], cut["stop_reason"]) == ("stop", stop)
        assert {len(values) for values in cut["logprobs"].values()} == {len(cut["logprobs"]["tokens"])}
        events = mixtral.complete("One day", stop=["never there", stop], stream=True, **FIELDS)
        assert "".join(event["choices"][0]["text"] for event in events) == cut["text"]


def test_a_stop_ends_the_computation_and_does_not_look_into_the_prompt(mixtral):
    reply = mixtral.complete("One day", stop=" ", echo=True, **FIELDS)
    assert reply["choices"][0]["text"].startswith("One day") and reply["usage"]["completion_tokens"] < 10
    assert mixtral.chat("Tell me of a cat", stop=["e"], max_tokens=50)["choices"][0]["stop_reason"] in ("e", None)
