"""A student's own model: it speaks, and its numbers are those of the released implementation, or the place is named."""

import numpy as np
import pytest
from answers import ANSWERS, EXERCISES, RIGHT, Answer, submit
from emulator_case import needs_compiler

from tiny.tools import demo
from tiny.tools.terminal import guarded
from tutorial import mine, own_numbers
from tutorial.make_coursework import carve, load_exercises, reference, write
from tutorial.source import ROOT

NOTHING = "nothing in it is yours yet. The book's model equals transformers' within 2e-5.\n"
EQUAL = "your model's logits equal transformers' within "
BOOK = f"{EQUAL}2e-5 (largest difference "


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
    assert status == 1 and out.startswith("No function of yours is finished yet")
    assert "rope.py does not load (line 1: '(' was never closed): the book's is used for " in out
    assert ", rope (4.2)" in out
    assert EQUAL not in out and all(f"Part {part}: {NOTHING}" in out for part in "AB")
    (tmp_path / "rope.py").unlink()
    status, out, _ = run(tmp_path)
    assert status == 0 and "does not load" not in out and EQUAL not in out and out.count(NOTHING) == 2
    assert "June went to the market" in out and "picture1.png: what does the image show ? a blue star" in out


def test_kernels_are_named(run, tmp_path):
    """A finished one, and not one that is open; no model runs it."""
    status, out, _ = run(submit(tmp_path / "mine", Answer("11.1", "", RIGHT["11.1"])))
    assert status == 0 and "these models do not: block_sum (11.1).\n" in out and out.count(NOTHING) == 2


@needs_compiler
def test_a_kernel_that_does_not_compile_or_run_is_named(run, tmp_path, warm_emulator_too):
    for lines, words in (("return value +;", "rms_norm.cu does not run: rms_norm.cu does not compile: rms_norm.cu:"),
                         ("__shared__ float few[1]; few[threadIdx.x] = value; return few[0];", ": out-of-bounds")):
        status, out, _ = run(submit(tmp_path / "mine", Answer("11.1", "", lines)))
        assert status == 1 and words in out and out.count(NOTHING) == 2, out


def test_with_right_answers_it_is_equal(run, tmp_path):
    """Two of the exercises are left open, each alone in its file; what is theirs is said."""
    left = ["5.1", "6.2"]
    ids = [id for id in RIGHT if id not in left and not EXERCISES[id].is_kernel]
    folder = submit(tmp_path / "mine", *(Answer(id, "", RIGHT[id]) for id in ids))
    status, out, _ = run(folder)
    assert status == 0 and out.count(EQUAL) == 2
    first, second = out.splitlines()[:2]
    assert "Kernels" not in out
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
    assert (f"Part B: {NOTHING if id == '5.1' else EQUAL}" in out) == (id in ("5.1", "6.3"))


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
    assert "tiny-mixtral continues a story:" in out, "also where the story stops"


@pytest.mark.parametrize("id, code, words", [
    ("6.4", "return 300", "Part A: a draw with top-p 0.000001 takes another token than the best one: [300, "),
    ("1.2", 'return "", b""', "Part A: the text 'Grüße\\n🐸!', read token by token, is another one."),
    ("6.2", RIGHT["6.2"].replace("(slot.start,", "(0,"),
     "Part A: your model differs from transformers' first in logits through the cache, by "),
    ("6.2", RIGHT["6.2"].replace("first + n", "n"),
     "Part A: your model differs from transformers' first in logits through the cache, by ")])
def test_what_no_logit_shows_is_found(run, tmp_path, id, code, words):
    """Wrong functions that the story and one text in a cache do not show."""
    status, out, _ = run(submit(tmp_path / "mine", Answer(id, "", code)))
    assert status == 1 and words in out, out


@pytest.mark.parametrize("id", ["4.2", "6.1"])
def test_a_loop_that_never_ends_is_told(run, tmp_path, monkeypatch, id):
    """In a process of its own, and in this one; a call is waited for, and not a sum of calls."""
    monkeypatch.setattr(mine, "EACH", 1)
    status, out, _ = run(submit(tmp_path / "mine", Answer(id, "", "while True:\n    pass")))
    file, name = EXERCISES[id].file, EXERCISES[id].name
    assert status == 1 and "took more than 1 seconds: does a loop never end?" in out and f"{file}: {name}" in out
    assert ("It was at line" in out) == EXERCISES[id].runs_others


def test_the_chapter_ends_with_what_it_says():
    text = (ROOT / "tutorial/06_the_whole_mixtral.md").read_text(encoding="utf-8")
    assert text.endswith(f"```\nPart A: {BOOK.partition(' (')[0]}\n```\n")


@pytest.mark.parametrize("name, far, found", [("logits", 4e-5, ""), ("logits", 6e-5, "logits"), ("layer03", 1e-4, ""),
                                              ("layer03", 3e-4, "layer03"), ("experts03", 1, "experts03"),
                                              ("cache", 4e-5, ""), ("cache", 6e-5, "logits through the cache")])
def test_the_bounds_are_those_that_are_printed(monkeypatch, name, far, found):
    """A logit may be 5e-5 away, whatever the largest logit is (20); the stream, which reaches 46, a part of that."""
    with np.load(mine.DUMPS / "tiny-mixtral.npz", allow_pickle=False) as stored:
        dump = {key: stored[key] for key in ("logits", "layer03", "experts03")}
    dump["ids"] = np.zeros(15, int)
    monkeypatch.setattr(own_numbers, "inputs_of", lambda model, dump: ([0] * 15, []))

    def model(ids, images, trace):
        trace |= {key: np.array(array, np.float64) for key, array in (dump | {"cache": dump["logits"]}).items()}
        trace[name].flat[7] += far
        monkeypatch.setattr(own_numbers, "in_chunks", lambda model, ids: trace["cache"])
        return trace["logits"]
    assert [own_numbers.within(x) for x in (1e-5, 2e-5, 2.1e-5, 5e-5)] == ["2e-5", "2e-5", "5e-5", "5e-5"]
    first, distance = own_numbers.first_difference(model, dump)
    assert first == found and (name not in ("logits", "cache") or abs(distance - far) < 1e-9)


def test_a_folder_that_is_not_there(run, tmp_path):
    status, _, err = run(tmp_path / "none")
    assert status == 2 and "make student" in err
