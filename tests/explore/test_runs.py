"""Runs: the same text as `tiny.generate`, requests with names, what is kept, what is refused; cells of notebooks."""

import numpy as np
import pytest
from compare import assert_close
from small import sizes

import tiny
from tests.explore.cases import QUESTION, SCENE, model_of, run_of, scene
from tiny.config import TinyError
from tiny.tools.demo import PLAY, STORY, TASK
from tiny.tools.explore import panels, pictures, rows, runs


@pytest.mark.parametrize("text", [STORY, PLAY, "", "Once", "the bell " * 240])
def test_the_text_is_what_generate_writes(text):
    model = model_of("text")
    ids = [model.tokenizer.bos_id, *model.tokenizer.encode(text)]
    run = runs.write(model, runs.Ask(text, 20))
    wanted = list(tiny.generate(model, ids, max_tokens=20, stop_at_eos=True))
    assert run.ids == [*ids, *(token.id for token in wanted)] and run.text == "".join(token.text for token in wanted)
    assert len(run.stops) == len(run.ids) == len(run.trace["q00"]) == len(run.trace["layer03"])


def test_a_chat_and_a_picture_are_what_generate_writes():
    for kind, text, images, ask in (("text", TASK, [], {"chat": True}), ("picture", QUESTION, scene()[0], {})):
        model = model_of(kind)
        ids, pixels = model.tokenizer.encode_chat([runs.user_turn(text, images)])
        run = runs.write(model, runs.Ask(text, 12, **ask), images)
        assert run.text == "".join(token.text for token in tiny.generate(model, ids, pixels, max_tokens=12))
        assert run.grids == ([(8, 6)] if images else []) and len(run.places) == 48 * len(images)


def test_a_context_that_is_full_ends_the_run():
    run = runs.write(model_of("text"), runs.Ask("a " * 505, 40))
    assert len(run.ids) <= 512 and len(run.ids) == len(run.stops) and any("context" in line for line in run.said)


def test_blind_is_the_mean_colour():
    images, drawn = scene()
    run = run_of("picture", blind=True)
    plain = np.broadcast_to(np.round(drawn.images[0].mean(axis=(0, 1))).astype(np.uint8), drawn.images[0].shape)
    same = runs.write(model_of("picture"), runs.Ask(QUESTION), [runs.to_picture(plain)])
    assert run.ids == same.ids and run.text == same.text != run_of("picture").text


def test_a_request_has_one_name():
    one, other = runs.Ask("a"), runs.Ask("a", hide=(1,))
    assert one.key("m", [b"x"]) == runs.Ask("a").key("m", [b"x"])
    names = {one.key("m", [b"x"]), one.key("n", [b"x"]), one.key("m", [b"y"]), one.key("m", []), other.key("m", [b"x"])}
    assert len(names) == 5


def test_what_is_kept_is_counted():
    run = run_of("text")
    whole, small = runs.bytes_of_token(run.model.config)
    ids = sum(run.trace[f"experts{layer:02}"].nbytes for layer in range(4))
    assert run.size == whole * len(run.ids) and small < whole and ids
    assert all(name.rstrip("0123456789") in runs.KEPT for name in run.trace)


def test_a_large_model_keeps_less_and_an_endless_run_is_refused():
    config = sizes(None, dim=5120, n_layers=40, n_heads=32, n_kv_heads=8, head_dim=128)
    wanted = runs.wanted_of(config, 200)
    assert wanted("q00") and wanted("layer39") and not wanted("layer38") and not wanted("embed") and not wanted("v00")
    with pytest.raises(TinyError, match="would take"):
        runs.wanted_of(config, 100_000)


@pytest.mark.parametrize(("kind", "ask", "said"), [
    ("text", runs.Ask("word " * 600), "The prompt has"), ("text", runs.Ask("a", 0), "0 tokens"),
    ("text", runs.Ask("a", 201), "201 tokens"), ("text", runs.Ask("a", switch="nothing"), "no switch"),
    ("text", runs.Ask("a", hide=(0,)), "of 0"), ("picture", runs.Ask("a", hide=(48,)), "of 48"),
    ("picture", runs.Ask("a", hide=(-1,)), "of 48"),
    ("picture", runs.Ask("a", hide=(1,), switch="no_mask"), "with switch 'no_mask'")])
def test_what_a_run_cannot_do_is_refused(kind, ask, said):
    with pytest.raises(TinyError, match=said):
        runs.write(model_of(kind), ask, scene()[0] if kind == "picture" else [])


def test_a_text_model_refuses_pictures():
    with pytest.raises(TinyError, match="reads text only"):
        runs.write(model_of("text"), runs.Ask("a"), scene()[0])


def test_a_run_can_be_ended_from_outside():
    class Enough(Exception):
        pass

    left = iter(range(30))

    def check():
        if next(left, None) is None:
            raise Enough

    with pytest.raises(Enough):
        runs.write(model_of("text"), runs.Ask(STORY), check=check)


def test_scenes_are_the_same_for_a_seed_and_their_things_lie_where_they_are():
    images, drawn = scene()
    again = pictures.draw(model_of("picture").config, SCENE)
    assert_close(again.images[0], drawn.images[0], 0)
    assert set(drawn.things) == {"star", "ring"} and not set(drawn.things["star"]) & set(drawn.things["ring"])
    assert (QUESTION, "purple") in drawn.questions
    _, three = scene(3)
    assert len(three.images) == 3 and max(map(max, three.things.values())) >= 96
    for bad in (0, 4):
        with pytest.raises(TinyError, match="pictures is asked for"):
            pictures.draw(model_of("picture").config, 1, bad)
    with pytest.raises(TinyError, match="Ask a model that sees"):
        pictures.draw(model_of("text").config, 1)


def test_things_of_other_patches():
    """Patches of 16 pixels join four labels; of 12 they join none, and nothing is said."""
    large = pictures.scenes.draw(np.random.default_rng(3), "objects2", 128, 96)
    joined, small = pictures.things_of(large, 16), pictures.things_of(large, 8)
    assert joined.keys() == small.keys() and not pictures.things_of(large, 12)
    for name, patches in small.items():
        assert {n // 16 // 2 * 8 + n % 16 // 2 for n in patches} == set(joined[name])


def test_each_panel_has_its_lines_of_the_book():
    for name, said in panels.sources().items():
        for function in said["functions"]:
            path, _, line = function["place"].partition(":")
            text = (panels.Path(tiny.__file__).parents[1] / path).read_text(encoding="utf-8").splitlines()
            assert text[int(line) - 1].strip().startswith("def "), name
            assert function["lines"].startswith("def ") and '"""' not in function["lines"]
        assert (panels.Path(tiny.__file__).parents[1] / "tutorial" / said["chapter"]).exists(), name


@pytest.mark.parametrize("kind", ["text", "picture"])
def test_a_cell_prints_what_the_panels_show(kind, capsys):
    ask = runs.Ask("He said: \"it's\" \\ \n {x} 'end'", 5, switch="head_off", value=1, layer=2) if kind == "text" else (
        runs.Ask(QUESTION, 5, hide=(3, 4)))
    text = panels.cell("tiny-mixtral" if kind == "text" else "tiny-pixtral", ask, 9, 2, 1,
                       "[]" if kind == "text" else panels.drawn(SCENE, 1))
    space = {}
    exec(text, space)
    run = runs.write(model_of(kind), ask, [] if kind == "text" else scene()[0])
    assert space["run"].ids == run.ids and capsys.readouterr().out.startswith(run.text)
    assert_close(space["rows"].attention(space["run"], 9), rows.attention(run, 9), 0)


def test_a_cell_opens_files_of_the_reader():
    text = panels.cell("tiny-pixtral", runs.Ask("x"), 0, 0, 0, panels.opened(2))
    compile(text, "cell", "exec")
    assert "open_image(\"picture1.png\"), open_image(\"picture2.png\")" in text and "import open_image" in text
