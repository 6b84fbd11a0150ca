"""The numbers of tokens of nine texts name what a server reads otherwise; nothing else is needed for that."""

import pytest

from tests.verify_server.fake_servers import TextOnly, running
from tiny.tools.verify.server.connect import Server
from tiny.tools.verify.server.ids import READINGS, check_ids
from tiny.tools.verify.server.probe import probe


def encode(model):
    return model.tokenizer.encode


def bare(model, text):
    """A tokenizer without the space in front."""
    return encode(model)("\n" + text)[len(encode(model)("\n")):]


READ = {
    "a second BOS in front": lambda model, text: [1, 1, *encode(model)(text)],
    "two more BOS in front": lambda model, text: [1, 1, 1, *encode(model)(text)],
    "no BOS in front": lambda model, text: encode(model)(text),
    "the space in front of a text is lost": lambda model, text: [1, *bare(model, text)],
    "the space in front of a text is lost, and a second BOS is there": lambda model, text: [1, 1, *bare(model, text)],
    "a second space in front of a text": lambda model, text: [1, *encode(model)(" " + text)],
    "blanks at the ends of a text are removed": lambda model, text: [1, *encode(model)(text.strip())],
    "blanks in a row are read as one": lambda model, text: [1, *encode(model)(" ".join(text.split()))],
    "[INST] is read as one token": lambda model, text: [1, *encode(model)(text.replace("[INST]", "a").replace(
        " [/INST]", "a"))],
    "a prompt of 485 tokens is cut to 256, in silence": lambda model, text: [1, *encode(model)(text)][-256:],
    "no known way to read explains all texts": lambda model, text: [1, *encode(model)(text)] + [5] * (len(text) % 2)}


class Counting(TextOnly):
    """Counts, and writes one and the same token."""

    def write(self, ids, tokens):
        return [300], None


class Silent(Counting):
    """Does not count."""

    def completion(self, *what):
        return super().completion(*what) | {"usage": None}


def line_of(model, read, kind=Counting):
    with running(kind(model, None, read=lambda text: read(model, text))) as url:
        server = Server(url)
        return check_ids(server, probe(server, model), model)


@pytest.mark.parametrize("words", READ)
def test_each_way_to_read_is_named(words, model):
    line = line_of(model, READ[words])
    assert line.good is False and words in line.words and line.repair, line
    assert len(line.data["counts"]) == len(line.data["ours"]) == 9


def test_the_right_tokens_are_right(model):
    line = line_of(model, lambda model, text: [1, *encode(model)(text)])
    assert line.good and "9 of 9 texts" in line.words and line.data["counts"] == line.data["ours"]


def test_all_readings_that_are_known_are_tested():
    assert {reading.words for reading in READINGS} <= READ.keys()


def test_a_server_that_counts_nothing_says_nothing(model):
    line = line_of(model, lambda model, text: [1, *encode(model)(text)], Silent)
    assert line.good is None and "does not say how many tokens" in line.words
