"""Chats about images: each fault is named from the answers alone, through our own server and one in this process."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

import tiny
from tiny.config import TinyError
from tiny.tools.verify.server import pictures, sight
from tiny.tools.verify.server.connect import Refused, Server
from tiny.tools.verify.server.faults import with_fault
from tiny.tools.verify.server.others import lines_of
from tiny.tools.verify.server.probe import NEUTRAL, probe
from tiny.tools.verify.server.rounding import rounded

BODY, BOUND = {"model": "m"} | NEUTRAL, 0.024


@pytest.fixture(scope="module")
def model():
    return tiny.load("tiny-pixtral", weights="resident")


@pytest.fixture(scope="module")
def faults(model):
    """All faults that the chats can show, by kind; the pixels of a drawing are those of its data URL."""
    return {fault.kind: fault for number in range(2)
            for fault in pictures.hypotheses(model.config, sight.drawings(number, model))}


class Seeing:
    """A server of chats with images: a fault is planted, its answers are rounded; `uncounted` prompt tokens are added.
    """

    def __init__(self, model, fault=None, kind=None, uncounted=0, refuses=False):
        self.model, self.fault, self.uncounted, self.refuses = model, fault, uncounted, refuses
        self.server = rounded(model, kind) if kind else model

    def post(self, path, body):
        *parts, question = body["messages"][0]["content"]
        if self.refuses:
            raise Refused("Images are not supported.", "Leave them out.", 400)
        if isinstance(question, str):
            return {}  # whether it names tokens by their ids
        images = [Image.open(io.BytesIO(base64.b64decode(part["image_url"]["url"].partition(",")[2])))
                  for part in parts]
        content = [*({"type": "image", "image": image} for image in images), question]
        ids = self.model.tokenizer.encode_chat([{"role": "user", "content": content}])[0]
        known = {fault.name for fault in pictures.hypotheses(self.model.config, images)}
        fault, read, said = self.fault if self.fault and self.fault.name in known else None, list(ids), []
        for _ in range(body["max_tokens"]):
            row = pictures.logprobs(self.server, fault, read, images)[-1]
            top = [{"id": int(id), "logprob": float(row[id])} for id in np.argsort(-row)[: body["top_logprobs"]]]
            said.append(top[0] | {"top_logprobs": top})
            read.append(top[0]["id"])
            if read[-1] == self.model.tokenizer.eos_id:
                break
        return {"choices": [{"message": {"content": "?"}, "logprobs": {"content": said}}],
                "usage": {"prompt_tokens": len(ids) + self.uncounted}}


def asked(model, *what, **more):
    return sight.check_images(Seeing(model, *what, **more), BODY, model, BOUND, "vLLM")


@pytest.fixture(autouse=True)
def few(monkeypatch):
    """Half of the chats: they have 40 tokens, just enough for the rule."""
    monkeypatch.setattr(sight, "CHATS", 6)
    monkeypatch.setattr("tiny.tools.verify.server.reference.cost.LEAST", 0.01)


@pytest.mark.thorough
@pytest.mark.parametrize("kind", ["images_swapped", "no_breaks"])
def test_a_fault_of_images_is_named(model, faults, kind):
    found = asked(model, faults[kind], "bfloat16")
    assert found.state == "faulty" and f"as {faults[kind].name}: " in found.words and found.remedy, found


@pytest.mark.thorough
@pytest.mark.parametrize("rounding", ["bfloat16", "q8_0", "q4_0"])
def test_every_fault_of_images_is_named_and_nothing_else(model, faults, rounding, monkeypatch):
    monkeypatch.undo()
    assert len(faults) == 10
    missed = []
    for fault in faults.values():
        found = asked(model, fault, rounding)
        if f"as {fault.name}: " not in found.words:
            assert rounding == "q4_0" and found.state == "healthy", found  # what rounding hides gets no other's name
            missed.append(fault.kind)
    assert len(missed) <= 3
    found = asked(model, None, rounding)
    assert found.state == "healthy", found


@pytest.mark.thorough
def test_a_server_that_counts_other_tokens_is_not_healthy(model):
    found = asked(model, uncounted=3)
    own = found.counts[1]
    assert found.deviation < 1e-5 and not found.notes and len(found.evidence) == 10, found
    assert found.state == "faulty" and f"prompt tokens: {own[0] + 3} for {own[0]}" in found.words, found


def test_a_server_that_takes_no_images_is_not_checked(model):
    with pytest.raises(Refused, match="not supported"):
        asked(model, refuses=True)


class Swapped:
    """A tokenizer that gives the images of a chat in the reverse order."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer

    def __getattr__(self, name):
        return getattr(self.tokenizer, name)

    def encode_chat(self, messages, style="mistral"):
        ids, images = self.tokenizer.encode_chat(messages, style)
        return ids, images[::-1]


def test_our_own_server_right_and_wrong(model, faults, monkeypatch):
    """Over HTTP, with the images that it decodes, through the seam of the command; images exchanged on their way."""
    pytest.importorskip("uvicorn", reason="The server needs the extra `serve`, which is not installed.")
    from tests.serve.served import inside

    every = pictures.hypotheses
    monkeypatch.setattr(pictures, "hypotheses", lambda *what: tuple(fault for fault in every(*what) if fault.kind in (
        "rows_and_columns", "images_swapped", "first_image", "colours")))
    changed = with_fault(model, faults["rows_and_columns"])
    wrong = type(model)(model.config, model.weights, model.tokenizer, changed.ops)
    swapped = type(model)(model.config, model.weights, Swapped(model.tokenizer))
    for served, good, words in ((model, True, "nats from the reference"), (wrong, False, "rows and columns of patches"),
                                (swapped, False, "images in the reverse order")):
        with inside(served) as (client, _):
            server = Server(f"http://127.0.0.1:{client.port}")
            way = probe(server, model)
            (line,) = lines_of("images", lambda at=server, way=way: sight.check_images(
                at, {"model": way.name, **NEUTRAL}, model, BOUND, way.engine))
        assert line.good is good and words in line.words, line


def test_drawings_differ_and_show_what_faults_need(model):
    images = [image for number in range(sight.CHATS) for image in sight.drawings(number, model)]
    assert len({image.tobytes() + bytes(image.size) for image in images}) == len(images)
    assert all(one.size == other.size for one, other in (sight.drawings(n, model) for n in range(sight.CHATS)))
    assert max(max(image.size) for image in images) > model.config.vision.max_image_size


@pytest.mark.thorough
def test_what_it_costs_is_said_before(model, monkeypatch, capsys):
    monkeypatch.setattr("tiny.tools.verify.server.reference.cost.MUCH", 0.0)
    asked(model)
    assert "72 passes of the reference" in capsys.readouterr().err


def test_few_answers_tell_nothing(model, monkeypatch):
    monkeypatch.setattr(sight, "CHATS", 1)
    assert asked(model).state == "cannot tell"
    with pytest.raises(TinyError):
        asked(model, refuses=True)
