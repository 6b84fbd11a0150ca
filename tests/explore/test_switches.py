"""Switches: what each changes, that nothing else changes, and that the model is as trained afterwards."""

import doctest
import inspect

import numpy as np
import pytest
from compare import assert_close

import tiny
from tests.explore.cases import QUESTION, model_of, run_of, scene
from tiny.config import TinyError
from tiny.tools.demo import STORY
from tiny.tools.explore import held_out, pictures, rows, runs, switches
from tiny.tools.explore.switches import SWITCHES, with_switch

# The loss on 20 held-out stories with each switch: as trained 0.403 (2026-11-30, AMD EPYC).
LOSSES = {("expert_off", 0, None): 0.901, ("expert_silent", 0, None): 0.859, ("expert_off", 3, 3): 1.224,
          ("experts_a_token", 1, None): 0.512, ("experts_a_token", 3, None): 0.405,
          ("experts_a_token", 8, None): 0.484, ("equal_weights", 0, None): 0.478, ("not_renormalised", 0, None): 0.504,
          ("random_router", 0, None): 6.73, ("no_positions", 0, None): 2.92, ("no_mask", 0, None): 2.67,
          ("head_off", 0, None): 1.07, ("head_off", 1, 2): 0.767, ("no_norm", 0, None): 7.37}
CHANGES = {"no_positions": "There she had", "no_norm": "There hears dancedAl", "no_mask": "Then a strong wind",
           "not_renormalised": "June and Rex played", "random_router": "w.\n June Lily:oat"}


def test_doctest():
    assert doctest.testmod(switches, extraglobs={"tiny": tiny, "np": np}).failed == 0


def test_as_trained():
    assert abs(held_out.loss(model_of("text")).value - 0.403) < 2e-3
    assert run_of("text").text.startswith("Then a strong wind took the bell from June and blew it to the farm.")


@pytest.mark.thorough
@pytest.mark.parametrize("case", LOSSES)
def test_the_loss_of_each_switch(case):
    found = held_out.loss(with_switch(model_of("text"), *case))
    assert found.of == 2109 and abs(found.value / LOSSES[case] - 1) < (0.05 if case[0] == "random_router" else 5e-3)


def test_every_switch_of_a_text_is_measured():
    assert {name for name, *_ in LOSSES} == {name for name, one in SWITCHES.items() if "picture" not in one.needs}


@pytest.mark.parametrize("case", LOSSES)
def test_each_switch_changes_the_text_and_its_panels_say_what_was_written(case):
    """Token for token: what a row says is likeliest is what stands behind it."""
    name, value, layer = case
    run = run_of("text", switch=name, value=value, layer=layer)
    assert run.text != run_of("text").text or case == ("experts_a_token", 3, None)
    assert run.text.startswith(CHANGES.get(name, ""))
    for row in range(run.prompt - 1, len(run.ids) - 1):
        assert int(rows.logits(run, row).argmax()) == run.ids[row + 1], (case, row)


@pytest.mark.parametrize("name", SWITCHES)
def test_a_switch_that_does_nothing_is_the_book_to_the_bit(name):
    """In a layer that does not exist; and without one, in all operations that it does not replace."""
    model, kind = (model_of("text"), "text") if "picture" not in SWITCHES[name].needs else (model_of("picture"), "")
    replaced = SWITCHES[name].build(model.ops, *([1] if SWITCHES[name].values else []))
    none = switches.with_operations(model, switches.in_layer(model.ops, 99, replaced))
    ids = np.array([1, *model.tokenizer.encode(STORY if kind else QUESTION)])
    assert_close(none(ids), model(ids), 0)
    changed = with_switch(model, name, 1)
    for operation in tiny.ops.__all__:
        same = getattr(changed.ops, operation) is getattr(tiny.ops, operation)
        assert same == (operation not in replaced), operation


def test_after_every_switch_the_next_run_is_as_trained():
    before = rows.packed(runs.write(model_of("text"), runs.Ask(STORY, 5)), 12)
    for name, value, layer in LOSSES:
        runs.write(model_of("text"), runs.Ask(STORY, 3, switch=name, value=value, layer=layer))
    assert rows.packed(runs.write(model_of("text"), runs.Ask(STORY, 5)), 12) == before
    assert model_of("text").ops is tiny.ops


def test_one_layer_is_one_layer():
    """The router of the others is asked as ever, and counts begin anew in each pass."""
    run = run_of("text", switch="expert_off", value=3, layer=3)
    for layer in range(4):
        off = [rows.routing(run, row)[0][layer, 3] == -np.inf for row in range(len(run.ids))]
        assert all(off) if layer == 3 else not any(off)


def test_without_the_mask_a_row_of_the_prompt_sees_all_of_it():
    run = run_of("text", switch="no_mask")
    assert rows.attention(run, 3).shape[2] == run.prompt and (rows.attention(run, 3)[..., 4:] > 0).any()
    one = run_of("text", switch="no_mask", layer=1)
    found = rows.attention(one, 3)
    assert found[1, :, 4:].any() and not found[0, :, 4:].any()
    assert_close(found.sum(axis=2), np.ones((4, 4)), 1e-6)


@pytest.mark.parametrize(("name", "right"), [("", 12), ("no_places", 3), ("no_positions", 1), ("no_mask", 12)])
def test_right_answers_about_pictures(name, right):
    assert held_out.count_right(with_switch(model_of("picture"), name)) == ("right", right, 12)


def test_numbers_out_of_range_are_said_as_what_they_are():
    """Without norms the encoder's numbers overflow. No weight is damaged, and no answer is right."""
    with pytest.raises(runs.OutOfRange, match="With this change the numbers grow beyond"):
        run_of("picture", switch="no_norm")
    assert held_out.count_right(with_switch(model_of("picture"), "no_norm"), 4) == ("right", 0, 4)


def test_blind_answers_and_pictures_that_are_mixed():
    assert held_out.count_right(model_of("picture"), blind=True).value <= 5
    mixed = with_switch(model_of("picture"), "pictures_mixed")
    unmixed = held_out.count_right(model_of("picture"), pairs=True)
    assert held_out.count_right(mixed, pairs=True).value < unmixed.value == 12


def test_hiding_a_thing_hurts_and_hiding_others_does_not():
    everything, thing, others = held_out.hiding(model_of("picture"))
    assert everything.value == 12 and thing.value <= 8 and others.value >= 11


def test_hidden_patches_are_not_read_and_what_is_left_is_as_it_was():
    images, drawn = scene()
    star = drawn.things["star"]
    run = run_of("picture", hide=tuple(star))
    walls = run.places[star]
    for row in (run.prompt - 1, len(run.ids) - 1):
        found = rows.attention(run, row)
        assert not found[..., walls].any()
        assert_close(found.sum(axis=2), np.ones(found.shape[:2]), 1e-6)
    assert run_of("picture").text == "purple" != run.text == "orange", "the colour of the ring"
    assert run_of("picture", hide=tuple(pictures.as_many_others(star, 48))).text == "purple"
    none = switches.with_operations(model_of("picture"), switches.hidden(tiny.ops, []))
    ids, pixels = model_of("picture").tokenizer.encode_chat([runs.user_turn(QUESTION, images)])
    assert_close(none(ids, pixels), model_of("picture")(ids, pixels), 2e-5)


def test_a_control_is_as_many_and_none_of_them():
    for patches in ([], [3], list(range(20)), list(range(47))):
        others = pictures.as_many_others(patches, 48)
        assert len(others) == min(len(patches), 48 - len(patches)) and not set(others) & set(patches)


@pytest.mark.parametrize(("kind", "name", "value", "layer", "said"), [
    ("text", "nothing", 0, None, "There is no switch 'nothing'"), ("text", "expert_off", 8, None, "asked for 8"),
    ("text", "expert_off", -1, None, "asked for -1"), ("text", "expert_off", 0, 4, "in layer 4"),
    ("text", "no_norm", 0, 1, "in layer 1"), ("text", "no_places", 0, None, "needs picture"),
    ("picture", "expert_off", 0, None, "needs experts"), ("text", "experts_a_token", 0, None, "asked for 0")])
def test_what_a_switch_cannot_do_is_refused(kind, name, value, layer, said):
    with pytest.raises(TinyError, match=said):
        with_switch(model_of(kind), name, value, layer)


def test_the_page_shows_a_switch_in_at_most_eight_lines():
    for name in (*SWITCHES, "hidden"):
        shown = switches.source_of(name).splitlines()
        assert 3 <= len(shown) <= 11 and shown[0].startswith("def "), "with def and return"
        function = SWITCHES[name].build if name in SWITCHES else switches.hidden
        assert len(inspect.getdoc(function).splitlines()) == 1
