"""One model, its names and two short texts for all tests of this folder."""

import pytest

import tiny
from tiny.sampling import log_softmax
from tiny.tools.verify.server.names import Names
from tiny.tools.verify.server.reference import texts


@pytest.fixture(scope="session")
def model():
    return tiny.load("tiny-mixtral", weights="resident")


@pytest.fixture(scope="session")
def names(model):
    return Names(model.tokenizer, model.config.vocab_size)


@pytest.fixture(scope="session")
def say(model):
    """The healthy model as what a fake server says."""
    return lambda ids: log_softmax(model(ids))


@pytest.fixture(scope="session")
def ids(model):
    """The tokens of a text of 60, BOS first."""
    return texts.choose_texts(model.tokenizer, [60], None)[0]
