"""tiny-pixtral trained on from a checkpoint, for published prompts and larger pictures; and what it is measured by."""

import dataclasses
import json
import multiprocessing
import re
from types import SimpleNamespace

import numpy as np
import pytest
from compare import assert_close

import tiny
from tiny.config import TinyError
from tiny.evals.prompts import EXPLICIT
from tiny.evals.tasks import TASKS
from tiny.training import __main__ as command
from tiny.training.images import batches, evaluate, evaluate_more, going_on, scenes, train
from tiny.training.images.prompts import FORMS, prompted
from tiny.training.images.questions import Question
from tiny.training.images.train import HEADS, Part, Recipe, Stage, Trainer
from tiny.training.images.vocabulary import write_tokenizer
from tiny.training.optimiser import learning_rate

KINDS = (("objects1", 0.5), ("objects2", 0.5))
TEXTS = tuple(EXPLICIT.items())
SMALL = Recipe(width=16, n_layers=1, n_heads=2, n_kv_heads=1, hidden_dim=16, questions=2, largest=192, prompts=TEXTS,
               stages=(
    Stage("patches", 2, 4, 0.0, 1e-2, 0.0, KINDS, (32,)),
    Stage("prompts", 3, 4, 1e-2, 1e-3, 0.5, KINDS, (32,), shards=3, parts=(
        Part("large", 3, KINDS, (128,), 1.0),
        Part("prompts", 0, KINDS, (40,), 1.0, (("phrase", 0.5), ("reasoning", 0.5)))))))

@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return write_tokenizer(tmp_path_factory.mktemp("tokenizer") / "tekken.json", 8, 192)


# ---- questions with prompts


def test_every_published_prompt_is_trained_and_measured():
    """The four texts, by their names; a reply has the form that its tasks score, within the tokens they allow."""
    assert set(FORMS) == set(evaluate_more.ASKED) == set(EXPLICIT) == {"short", "phrase", "chart", "reasoning"}
    for task in TASKS.values():
        if task.prompt is not None:
            assert task.levels == FORMS[task.prompt].final and evaluate_more.ROOM[task.levels] <= task.max_tokens
    recipe = going_on.continued(Recipe(), EXPLICIT)
    assert dict(recipe.prompts) == EXPLICIT and recipe.largest == 192 and recipe.stages[:8] == Recipe().stages
    for stage in recipe.stages[8:]:
        shares = dict(stage.parts[1].prompts)
        assert set(shares) == set(FORMS) and round(sum(shares.values()), 9) == 1 and stage.shards == 3
    for stage in recipe.stages:
        for progress in (1 / stage.steps, 0.1, 0.5, 1.0):
            rate = learning_rate(progress, 1.0, stage.warmup, stage.flat, stage.floor)
            assert 0 < rate <= 1 or (progress, stage.floor) == (1.0, 0.0), f"{stage.name}: {rate} at {progress}"


ASKED = [Question("color_of", "Which color is the star?", "red"), Question("caption_many", "what do you see", "3 bars")]


def check_prompted(build):
    """Question, new line, prompt, as mistral-evals joins them; replies in the form that the prompt asks for."""
    plain, caption = build(ASKED, FORMS["phrase"], "Be short.")
    assert plain == Question("color_of", "Which color is the star?\nBe short.", "red")
    assert caption.text.startswith("what do you see\n") and caption.answer == "3 bars"
    for name in ("chart", "reasoning"):
        one, = build(ASKED, FORMS[name], "Think.")
        assert one == Question("color_of", "Which color is the star?\nThink.", "3 bars\nFinal Answer: red")


def changed(field, value):
    return lambda *given: [one._replace(**{field: value(getattr(one, field))}) for one in prompted(*given)]


MUTANTS = {
    "the prompt first": changed("text", lambda text: "\n".join(reversed(text.split("\n", 1)))),
    "no new line": changed("text", lambda text: text.replace("\n", "", 1)),
    "a line too many": changed("text", lambda text: text + "\n"),
    "always the bare answer": changed("answer", lambda answer: answer.split(": ")[-1]),
    "always a final answer": changed("answer", lambda answer: "3 bars\nFinal Answer: " + answer.split(": ")[-1]),
    "no description": changed("answer", lambda answer: answer.split("\n")[-1]),
    "captions are asked too": lambda questions, form, prompt: prompted(questions, form, prompt) + [
        Question("caption_many", f"{ASKED[1].text}\n{prompt}", "3 bars\nFinal Answer: 3 bars")]}


def test_questions_with_prompts():
    check_prompted(prompted)


@pytest.mark.parametrize("name", MUTANTS)
def test_wrong_ways_to_add_a_prompt_are_found(name):
    with pytest.raises((AssertionError, ValueError)):
        check_prompted(MUTANTS[name])


def test_the_final_answer_weighs_more_than_what_leads_to_it(tokenizer):
    """Else its one or two tokens would be a twentieth of what is learnt from a reply."""
    scene = scenes.draw(np.random.default_rng(1), "number3", 64, 32)
    for name, form in FORMS.items():
        asked = prompted([one for one in scene.questions if one.skill in ("num3", "caption_text")], form, "Reply.")[:1]
        batch = batches.answer_batch(np.random.default_rng(0), [scene._replace(questions=asked)], tokenizer, {}, 1, 8)
        learnt = batch.weights > 0
        pieces, weights = [tokenizer.decode([i]) for i in batch.targets[learnt]], batch.weights[learnt]
        assert "".join(pieces) == asked[0].answer and batch.targets[learnt][-1] == tokenizer.eos_id
        end = len(pieces) - 1 - 3 - form.final if form.final else 0  # before three digits and the blank before them
        assert "".join(pieces[:end]) == ("" if not form.final else asked[0].answer[:-4])
        assert_close(weights, np.where(np.arange(len(weights)) < end, np.float32(batches.LEAD), np.float32(1)), 0.0,
                     name=name)


@pytest.mark.parametrize("kind", scenes.SMALLEST)
def test_every_scene_has_a_description(kind):
    """So that every kind of scene can be asked in every form."""
    for seed in range(4):
        scene = scenes.draw(np.random.default_rng(seed), kind, 64, 64)
        assert all(prompted(scene.questions, form, "Reply.") for form in FORMS.values())


# ---- the stage


def watched(trainer, monkeypatch):
    """The batches of the next step, by shard."""
    made, build = [], batches.answer_batch
    monkeypatch.setattr(batches, "answer_batch", lambda *args: made.append(build(*args)) or made[-1])
    trainer.step = 2
    result = trainer.advance()
    monkeypatch.undo()
    assert result["pictures"] == sum(len(batch.images) for batch in made)
    return made


def test_shards_show_what_their_parts_say(tokenizer, monkeypatch):
    """Plain questions about small pictures, plain ones about large pictures, and ones with a prompt."""
    seen = set()
    for seed in range(6):
        made = watched(Trainer(dataclasses.replace(SMALL, seed=seed), tokenizer), monkeypatch)
        assert [batch.images[0].shape for batch in made] == [(3, 32, 32), (3, 128, 128), (3, 40, 40)]
        texts = [tokenizer.decode(batch.ids.tolist()) for batch in made]
        found = [{name for name, prompt in TEXTS if prompt in text} for text in texts]
        assert found[:2] == [set(), set()] and "Final" not in texts[0] + texts[1]
        name, = found[2]
        assert [len(batch.images) for batch in made] == [4, 3, FORMS[name].pictures]
        assert texts[2].count(EXPLICIT[name]) <= FORMS[name].pictures * FORMS[name].questions
        replies = tokenizer.decode(made[2].targets[made[2].weights > 0].tolist())
        assert ("Final Answer: " in replies) == FORMS[name].final
        seen.add(name)
    assert seen == {"phrase", "reasoning"}


def flat(trainer):
    return np.concatenate([getattr(group, moment) for group in trainer.groups.values() for moment in train.MOMENTS])


def test_the_stage_goes_on_to_the_same_bits(tokenizer, tmp_path):
    whole, part = Trainer(SMALL, tokenizer), Trainer(SMALL, tokenizer)
    for _ in range(5):
        whole.advance()
        part.advance()
        part.save(tmp_path / "state.npz")
        part = Trainer(SMALL, tokenizer)
        part.restore(tmp_path / "state.npz")
    assert flat(part).tobytes() == flat(whole).tobytes()


def test_a_stage_goes_part_of_the_way_back(tokenizer, tmp_path):
    """Its weights are first mixed with those before the first stage with parts, also in a run that was stopped."""
    first, last = SMALL.stages[1], dataclasses.replace(SMALL.stages[1], name="back", back=0.25, rate=1e-9,
                                                       encoder_rate=1e-9)
    trainer = Trainer(dataclasses.replace(SMALL, stages=(SMALL.stages[0], first, last), decay=0.0), tokenizer)
    found = []
    for step in range(6):
        if step in (2, 5):
            found.append(np.concatenate([group.parameters for group in trainer.groups.values()]))
        trainer.save(tmp_path / "state.npz")
        trainer.restore(tmp_path / "state.npz")
        trainer.advance()
    before, after = found
    assert np.abs(after - before).max() > 1e-2
    mixed = np.concatenate([group.parameters for group in trainer.groups.values()])
    assert_close(mixed, 0.75 * after + 0.25 * before, atol=1e-6, name="parameters")


def test_three_processes_compute_what_one_does(tokenizer):
    parameters = []
    for processes in (1, 3):
        trainer = Trainer(SMALL, tokenizer)
        trainer.start_workers(processes)
        for _ in range(trainer.total):
            trainer.advance()
        parameters.append(flat(trainer))
        for process in multiprocessing.active_children():
            process.terminate()
    assert_close(parameters[1], parameters[0], 0.0, name="parameters")


# ---- from a checkpoint


def test_the_stages_with_parts_begin_from_a_checkpoint(tokenizer, tmp_path, capsys):
    """With its weights, with heads that have learnt to read its encoder, and with fresh moments; then it goes on."""
    made, run = Trainer(SMALL, tokenizer), tmp_path / "run"
    write_tokenizer(tmp_path / "tekken.json", 8, 192)
    train.export(made, tmp_path)
    going_on.begin_from(tmp_path, SMALL, run)
    right = dict(part.split() for part in capsys.readouterr().out.removeprefix("heads: ").strip().split("  "))
    trainer = Trainer(SMALL, tokenizer)
    trainer.restore(run / "state.npz")
    assert trainer.step == 2
    for name, weight in tiny.load(tmp_path).weights.tensors.items():
        weight = weight.astype(np.float32).reshape(trainer.weights[name].shape)
        assert_close(trainer.weights[name], weight, 0.0, name=name)
    assert not any(getattr(group, moment).any() for group in trainer.groups.values() for moment in train.MOMENTS[1:])
    # an encoder that has learnt nothing: two classes of two or three shapes are guessed, colours are seen
    assert float(right["color"]) > 0.3 and set(right) <= {*HEADS, "loss"}
    assert train.train(SMALL, run).step == 5


def test_another_model_is_refused(tmp_path):
    with pytest.raises(TinyError, match="another model"):
        going_on.begin_from("tiny-pixtral", SMALL, tmp_path)
    assert not (tmp_path / "state.npz").exists()


def test_the_command_trains_on_and_measures(tokenizer, tmp_path, monkeypatch, capsys):
    """From a checkpoint, in two parts, to one that takes pictures of 192 pixels, with its tables and without a card."""
    before = dataclasses.replace(SMALL, stages=SMALL.stages[:1], largest=96, prompts=())
    monkeypatch.setattr(train, "Recipe", lambda: before)
    monkeypatch.setattr(going_on, "STAGES", SMALL.stages[1:])
    monkeypatch.setattr(going_on, "STEPS", 2)
    monkeypatch.setattr(evaluate.evaluate, "__defaults__", (256, ("shape", )))
    monkeypatch.setattr(evaluate_more, "ASKED", {"phrase": ("num3",), "reasoning": ("shape",)})
    monkeypatch.setattr(evaluate_more, "GATES", {"shape": 0.97})
    made, run = Trainer(SMALL, tokenizer), tmp_path / "run"
    write_tokenizer(tmp_path / "tekken.json", 8, 192)
    train.export(made, tmp_path)
    start = ["tiny-pixtral", "--from", str(tmp_path), "--out", str(run), "--scenes", "1"]
    assert command.main([*start, "--stop-after", "1"]) == 0
    assert "stopped at step 3" in capsys.readouterr().out and not (run / "params.json").exists()
    assert command.main(start) == 0
    shown = capsys.readouterr().out
    assert "heads:" not in shown, "the heads have learnt already"
    for row in (r"phrase +[\d.]+ +[\d.]+", r"192 +[\d.]+ +[\d.]+  shape", r"shape +97\.0 +[\d.]+ +[\d.]+  below"):
        assert re.search(f"^{row}$", shown, re.M), row
    model = tiny.load(run)
    assert model.config.vision.max_image_size == model.tokenizer.max_image_size == 192
    found = json.loads((run / "measured.json").read_text(encoding="utf-8"))
    assert list(found["sizes"]) == ["96", "112", "128", "144", "160", "176", "192"] and not (run / "card.json").exists()
    assert found["recipe"]["prompts"] == [list(pair) for pair in TEXTS] and set(found["gates"]) == {"shape"}


def test_only_pixtral_is_trained_on(tmp_path, capsys):
    assert command.main(["tiny-mixtral", "--from", "tiny-mixtral", "--out", str(tmp_path)]) == 2
    assert "--from is an option of tiny-pixtral" in capsys.readouterr().err


# ---- what it does with prompts, measured


@pytest.mark.parametrize("name, written, good", [
    ("phrase", "star", True), ("phrase", "Final Answer: star", False), ("phrase", "Star", False),
    ("short", "a star", False), ("chart", "a red star\nFinal Answer: star", True),
    ("reasoning", "Final Answer: star", True), ("chart", "star", False), ("chart", "Final Answer: ring\nstar", False),
    ("reasoning", "Final Answer: star.", False), ("reasoning", "Final Answer: star\na red star", False)])
def test_what_counts_as_an_answer(monkeypatch, name, written, good):
    """The question is asked with its prompt, and a reply may be as long as the form allows."""
    asked = []
    model = SimpleNamespace(tokenizer=SimpleNamespace(encode_chat=lambda messages: (messages, [])))
    monkeypatch.setattr(tiny, "generate", lambda model, ids, pixels, max_tokens: asked.append((ids, max_tokens)) or [
        SimpleNamespace(text=character) for character in written])
    image = np.zeros((8, 8, 3), np.uint8)
    assert evaluate_more.follows(model, ([image], Question("shape", "what is it", "star")), name, "Reply.") is good
    (message, ), room = asked[0]
    assert message["content"][-1] == {"type": "text", "text": "what is it\nReply."}
    assert [chunk["type"] for chunk in message["content"]] == ["image", "text"]
    assert room == (48 if FORMS[name].final else 10)
