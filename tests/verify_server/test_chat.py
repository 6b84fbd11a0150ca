"""The template of a server is found from its answers: each known one, by its name, and no other."""

from dataclasses import replace

import pytest
from chat_server import ChatServer

import tiny
from tiny.tools.verify.server import answers, chat, templates

BOUND = 0.03  # nats; a healthy server in bfloat16 is 0.010 to 0.012 from the reference
BODY = {"model": "m", "temperature": 0.0}
SOME = ("BOS twice", "a second space before [INST]", "no EOS after an answer", "the system prompt is left out",
        templates.PLAIN[1].name, templates.PLAIN[2].name)


@pytest.fixture(scope="module")
def mixtral():
    return tiny.load("tiny-mixtral", weights="resident")


@pytest.fixture(scope="module")
def pixtral():
    return tiny.load("tiny-pixtral", weights="resident")


def asked(model, bound=BOUND, **faults):
    return chat.check_chat(ChatServer(model, **faults), BODY, model, bound)


def by_name(model, name):
    return next(one for one in templates.templates_of(model.tokenizer) if one.name == name)


@pytest.mark.parametrize("naming", ["id", "text", "none"])
@pytest.mark.parametrize("name", ["mixtral", "pixtral"])
def test_the_right_template_is_healthy(name, naming, request):
    found = asked(request.getfixturevalue(name), naming=naming)
    assert (found.state, found.template, found.notes) == ("healthy", chat.RIGHT, []), found
    assert found.deviation < 1e-6 if naming != "none" else found.deviation < chat.GAP


def named(model, name, **faults):
    """Whether a server with this template is called so, or by a template that writes the same ids to all chats."""
    template = by_name(model, name)
    found = asked(model, template=template, **faults)
    written = [templates.write(template, messages, model.tokenizer) for messages in chat.CHATS]
    same = found.template is not None and found.template != chat.RIGHT and written == [
        templates.write(by_name(model, found.template), messages, model.tokenizer) for messages in chat.CHATS]
    return found.state == "faulty" and same, found


@pytest.mark.parametrize("name", SOME)
def test_a_wrong_template_is_named(mixtral, name):
    right, found = named(mixtral, name, noise=0.01)
    assert right, found


@pytest.mark.thorough
@pytest.mark.parametrize("naming", ["id", "none"])
@pytest.mark.parametrize("which", ["mixtral", "pixtral"])
def test_every_wrong_template_is_named(which, naming, request):
    """From text alone one is not seen, as it changes neither a number of tokens nor an answer of this model."""
    model = request.getfixturevalue(which)
    wrong = [template.name for template in templates.templates_of(model.tokenizer)
             if not named(model, template.name, naming=naming)[0]]
    assert wrong == (["no space before the first [INST]"] if (which, naming) == ("mixtral", "none") else [])


def test_a_template_that_is_not_known_is_said_by_kind(mixtral):
    """Right for one question, wrong behind an answer, unknown with a system prompt."""
    odd = templates.V1._replace(name="odd", answer="{text}{eos}", system="({text}) ")
    found = asked(mixtral, template=odd)
    assert (found.state, found.template) == ("faulty", None)
    assert found.notes == [f"one question: {chat.RIGHT}", "with an earlier answer: no space before an answer",
                           "with a system prompt: none that is known"]


def test_a_wrong_model_behind_the_right_template_is_no_template(mixtral):
    found = asked(mixtral, noise=0.5)
    assert (found.state, found.template) == ("cannot tell", None)


@pytest.mark.parametrize("bound", [BOUND, 1.0, 1.1, 1.2])
def test_another_fault_is_no_template(mixtral, bound):
    """Wrong positions look a little like a template that lacks a space; that is not said, whatever the bound is."""
    wrong = tiny.Mixtral(replace(mixtral.config, rope_theta=1e6), mixtral.weights, mixtral.tokenizer)
    found = chat.check_chat(ChatServer(wrong), BODY, mixtral, bound)
    assert found.state != "faulty" and found.template in (None, chat.RIGHT), found


def test_a_refused_system_prompt_is_said(mixtral):
    found = asked(mixtral, strict=True)
    assert found.state == "healthy" and "2 of 8 chats were refused" in found.notes[0]


def test_lists_that_are_not_sorted_are_said_and_read(mixtral):
    found = asked(mixtral, unsorted=True)
    assert found.state == "healthy" and found.notes == sorted([answers.UNSORTED, answers.NOT_WRITTEN])


def test_templates_write_the_right_chats_too(mixtral, pixtral):
    """Those that the wrong ones are made from write what the book writes."""
    for model, own in ((mixtral, templates.V1), (pixtral, templates.V3)):
        for messages in chat.CHATS:
            assert templates.write(own, messages, model.tokenizer) == model.tokenizer.encode_chat(messages)[0]
