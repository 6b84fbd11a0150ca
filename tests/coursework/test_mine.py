"""A student's own model: it speaks, and its numbers are those of the released implementation, or the place is named."""

import numpy as np
import pytest
from answers import ANSWERS, EXERCISES, RIGHT, Answer, submit

from tiny.tools import demo
from tiny.tools.terminal import guarded
from tutorial import mine
from tutorial.make_coursework import carve, load_exercises, reference, write
from tutorial.source import ROOT

EQUAL = "your model's logits equal transformers' within 5e-5 (largest difference "


@pytest.fixture
def run(monkeypatch, capsys):
    """The command on a folder, with a short story and one picture: its status, and what it prints."""
    monkeypatch.setattr(mine, "TOKENS", 3)
    monkeypatch.setattr(demo, "PICTURES", dict(list(demo.PICTURES.items())[:1]))
    exercises = [exercise for exercise in load_exercises() if not exercise.is_kernel]
    book = {exercise.id: reference(exercise) for exercise in exercises}

    def main(folder):
        status = guarded(lambda: mine.main(["--impl", str(folder)]))
        assert all(reference(exercise) is book[exercise.id] for exercise in exercises), "the book is back"
        printed = capsys.readouterr()
        return status, printed.out, printed.err
    return main


def test_with_nothing_finished_it_is_the_book(run, tmp_path):
    write(carve(list(EXERCISES.values())), tmp_path, False)
    (tmp_path / "rope.py").write_text("def rope(")
    status, out, _ = run(tmp_path)
    assert status == 0 and out.startswith("No function of yours is finished yet")
    assert out.count(EQUAL) == 2 and f"Part A: {EQUAL}" in out and f"Part B: {EQUAL}" in out
    assert "June went to the market" in out and "picture1.png: what does the image show ? a blue star" in out


def test_with_right_answers_it_is_equal(run, tmp_path):
    """Two of the exercises are left open, each alone in its file; what is theirs is said."""
    left = ["5.1", "6.2"]
    ids = [id for id in RIGHT if id not in left and not EXERCISES[id].is_kernel]
    folder = submit(tmp_path / "mine", *(Answer(id, "", RIGHT[id]) for id in ids))
    status, out, _ = run(folder)
    assert status == 0 and out.count(EQUAL) == 2
    first, second = out.splitlines()[:2]
    assert first.startswith("Yours: ") and second.startswith("Not finished, so the book's: ")
    assert all(f"({id})" in first for id in ids) and all(f"({id})" in second for id in left)


@pytest.mark.parametrize("id, name, words", [
    ("5.1", "softmax_over_all", "Part A: your model differs from transformers' first in expert_weights00, by "),
    ("4.2", "backwards", "Part A: your model differs from transformers' first in q00, by "),
    ("4.2", "misspelt", "Part A: your model stops: rope.py:"),
    ("6.1", "norms_swapped", "Part A: your model differs from transformers' first in q00, by "),
    ("6.1", "added_in_place", "Part A: your model differs from transformers' first in embed, by "),
    ("6.3", "restarted", "Part A: your model differs from transformers' first in logits through the cache, by ")])
def test_a_wrong_function_is_found(run, tmp_path, id, name, words):
    """The first array that it touches is named; where only the text model uses it, the other part stays equal."""
    answer = next(a for a in ANSWERS if a.exercise == id and a.name == name)
    status, out, _ = run(submit(tmp_path / "mine", answer))
    assert status == 1 and words in out
    assert (f"Part B: {EQUAL}" in out) == (id in ("5.1", "6.3"))


def test_functions_of_one_file_run_together(run, tmp_path):
    """`attention` of the student's file calls the student's `attend`, as `experts` calls `feed_forward`."""
    files = {"3.1": "attention.py", "3.2": "attention.py", "2.2": "experts.py", "5.2": "experts.py"}
    right = submit(tmp_path / "right", *(Answer(id, "", RIGHT[id]) for id in files))
    status, out, _ = run(right)
    assert status == 0 and out.count(EQUAL) == 2 and "Not used" not in out
    for wrong, name, first in (("3.1", "no_mask", "attn00"), ("2.2", "no_gate", "layer00")):
        answer = next(a for a in ANSWERS if a.exercise == wrong and a.name == name)
        mates = [Answer(id, "", RIGHT[id]) for id in files if files[id] == files[wrong] and id != wrong]
        status, out, _ = run(submit(tmp_path / name, answer, *mates))
        assert status == 1 and f"Part A: your model differs from transformers' first in {first}, by " in out
    alone = next(a for a in ANSWERS if a.exercise == "3.2" and a.name == "one_query_at_a_time_without_attend")
    status, out, _ = run(submit(tmp_path / "alone", Answer("3.1", "", RIGHT["3.1"]), alone))
    assert status == 0 and "Not used by these two models: attend (3.1)." in out


def test_what_stops_a_model_is_said(run, tmp_path):
    """What is NaN is no fault of the embedded weights; and where a model stops, nothing is called unused."""
    right = (Answer("5.1", "", RIGHT["5.1"]), Answer("6.4", "", RIGHT["6.4"]))
    nan = Answer("2.1", "", "return x * np.float32(np.nan)")
    status, out, _ = run(submit(tmp_path / "nan", nan, *right))
    assert status == 1 and "hold NaN or infinity; it first appears in " in out and "Does one of your functions" in out
    assert "checksum" not in out and "Not used" not in out
    misspelt = next(a for a in ANSWERS if a.exercise == "4.2" and a.name == "misspelt")
    status, out, _ = run(submit(tmp_path / "misspelt", misspelt, *right))
    assert status == 1 and "NameError: name '" in out and "Not used" not in out


def test_the_chapter_ends_with_what_it_says():
    text = (ROOT / "tutorial/06_the_whole_mixtral.md").read_text(encoding="utf-8")
    assert text.endswith(f"```\nPart A: {EQUAL.partition(' (')[0]}\n```\n")


@pytest.mark.parametrize("name, far, found", [("logits", 4e-5, ""), ("logits", 6e-5, "logits"), ("layer03", 1e-4, ""),
                                              ("layer03", 3e-4, "layer03"), ("experts03", 1, "experts03"),
                                              ("cache", 4e-5, ""), ("cache", 6e-5, "logits through the cache")])
def test_the_bounds_are_those_that_are_printed(monkeypatch, name, far, found):
    """A logit may be 5e-5 away, whatever the largest logit is (20); the stream, which reaches 46, a part of that."""
    with np.load(mine.DUMPS / "tiny-mixtral.npz", allow_pickle=False) as stored:
        dump = {key: stored[key] for key in ("logits", "layer03", "experts03")}
    dump["ids"] = np.zeros(15, int)
    monkeypatch.setattr(mine, "inputs_of", lambda model, dump: ([0] * 15, []))

    def model(ids, images, trace):
        trace |= {key: np.array(array, np.float64) for key, array in (dump | {"cache": dump["logits"]}).items()}
        trace[name].flat[7] += far
        monkeypatch.setattr(mine, "in_chunks", lambda model, ids: trace["cache"])
        return trace["logits"]
    assert mine.NEAR == f"{mine.LOGITS:.0e}".replace("e-0", "e-")
    first, distance = mine.first_difference(model, dump)
    assert first == found and (name not in ("logits", "cache") or abs(distance - far) < 1e-9)


def test_a_folder_that_is_not_there(run, tmp_path):
    status, _, err = run(tmp_path / "none")
    assert status == 2 and "make student" in err
