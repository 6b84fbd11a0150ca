"""A folder of items: what it must hold, what is said of what is wrong, and the requests it makes."""

import json
import os
import re

import pytest
from PIL import Image
from small_evals import small_items

from tiny.config import TinyError
from tiny.evals.items import Item, add_prompt, read_items, requests, write_items
from tiny.evals.lines import REMEDY
from tiny.evals.tasks import TASKS

IMAGE = {"type": "image", "image": "images/a.png"}


def text(words):
    return {"type": "text", "text": words}


def user(*chunks):
    return {"role": "user", "content": list(chunks)}


def item(**changes):
    return {"id": "a", "messages": [user(IMAGE, text("q"))], "references": [["x"]]} | changes


TURNS = item(messages=[user(IMAGE, text("one")), {"role": "assistant", "content": [text("1")]}, user(text("two"))],
             references=[[text("1")], "2"], category="charts")
CHOICE = {"id": "a", "context": "c", "endings": ["x", "y"], "answer": 1}


def folder_of(tmp_path, *lines, task="chartqa", **head):
    """A folder of items with one picture."""
    (tmp_path / "images").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "images/a.png")
    (tmp_path / "task.json").write_text(json.dumps({"task": task} | head))
    (tmp_path / "items.jsonl").write_text("\n".join(one if isinstance(one, str) else json.dumps(one) for one in lines))
    return tmp_path


def refused(folder, *words):
    with pytest.raises(TinyError) as caught:
        read_items(folder)
    for word in words:
        assert word in caught.value.cause, caught.value.cause
    assert caught.value.remedy


def test_what_is_written_is_read(tmp_path):
    items = [Item("a", [user({"type": "image", "image": "images/b.png"}, text("\u00fc\n\u2028"))], [["x", "y"]]),
             Item("b", [user(text("q"))], [["0"]], category="c")]
    Image.new("RGB", (4, 4)).save(tmp_path / "b.png")
    data = (tmp_path / "b.png").read_bytes()
    assert write_items(tmp_path / "out", TASKS["chartqa"], [(items[0], {"images/b.png": data}), (items[1], {})]) == 2
    assert read_items(tmp_path / "out") == (TASKS["chartqa"], items)
    assert (tmp_path / "out/images/b.png").read_bytes() == data
    choice = Item("a", [], [], None, "c", ["x", "y"], 0)
    write_items(tmp_path / "choices", TASKS["hellaswag"], [(choice, {})])
    assert read_items(tmp_path / "choices") == (TASKS["hellaswag"], [choice])
    with pytest.raises(TinyError, match="no rows"):
        write_items(tmp_path / "empty", TASKS["chartqa"], [])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.png", "choices", "out"]


def test_a_prompt_stands_on_a_new_line_or_in_a_chunk_of_its_own():
    assert add_prompt(user(IMAGE, text("q")), "P") == user(IMAGE, text("q\nP"))
    assert add_prompt(user(text("q"), IMAGE), "P") == user(text("q"), IMAGE, text("P"))
    assert add_prompt(user(IMAGE, text("")), "P") == user(IMAGE, text("\nP"))
    message = user(IMAGE, text("q"))
    assert add_prompt(message, "") == message and add_prompt(message, "P") is not message == user(IMAGE, text("q"))


def test_requests_of_turns_follow_the_references():
    first, second = requests(TASKS["mm_mt_bench"], Item(**TURNS), "")
    assert (first.id, first.turn, first.references) == ("a/0", 0, [text("1")])
    assert (second.id, second.turn, second.references) == ("a/1", 1, "2")
    assert first.messages == TURNS["messages"][:1] and second.messages == TURNS["messages"]
    assert first.category == second.category == "charts" and (first.max_tokens, first.temperature) == (4096, 0.0)
    (only,) = requests(TASKS["docvqa"], Item(**item()), "P")
    assert (only.id, only.max_tokens, only.references, only.turn) == ("a", 10, ["x"], 0)
    choice = Item("a", [], [], None, "c", ["x", "y"], 1)
    assert requests(TASKS["hellaswag"], choice, "") == []


@pytest.mark.parametrize(("line", "column"), [
    (item(id=""), "id"), (item(id="a/b"), "id"), (item(id=".."), "id"), (item(id=3), "id"), (item(id="x" * 101), "id"),
    (item(id="a\n"), "id"), ({"id": "b"}, "messages"), (item(reference="x"), "reference"),
    (item(category=3), "category"),
    (item(references=[]), "references"), (item(references=["x"]), "references"), (item(references=[[]]), "references"),
    (item(references=[["x"], ["y"]]), "references"), (item(references=[[3]]), "references"),
    (item(references=[["\ud800"]]), "references"), (item(messages=[]), "messages"), (item(messages="x"), "messages"),
    (item(messages=[{"role": "system", "content": [text("x")]}]), "messages"), (item(messages=[user()]), "messages"),
    (item(messages=[{"role": "user", "content": "x"}]), "messages"), (item(messages=[user("x")]), "messages"),
    (item(messages=[user({"type": "text"})]), "messages"),
    (item(messages=[user({"type": "audio", "audio": "x"})]), "messages"),
    (item(messages=[user(text("x") | {"more": 1})]), "messages"), (item(messages=[user(text(3))]), "messages"),
    (item(messages=[user({"type": "image", "image": "a.png"})]), "messages"),
    (item(messages=[user({"type": "image", "image": "images/../task.json"})]), "messages"),
    (item(messages=[user({"type": "image", "image": "images/.hidden"})]), "messages"),
    (item(messages=[user({"type": "image", "image": "http://x/images/a.png"})]), "messages"),
    (item(messages=[user({"type": "image", "image": "/images/a.png"})]), "messages"),
    (item(messages=TURNS["messages"], references=[["1"], ["2"]]), "messages"), (item(context="x"), "context")])
def test_a_bad_line_is_named(line, column, tmp_path):
    folder = folder_of(tmp_path, item(id="first"), line)
    refused(folder, f"{folder / 'items.jsonl'}, row 2, column {column}: ")


@pytest.mark.parametrize(("task", "line", "column"), [
    ("mm_mt_bench", TURNS | {"messages": TURNS["messages"][:2]}, "messages"),
    ("mm_mt_bench", TURNS | {"references": ["1"]}, "references"),
    ("mm_mt_bench", TURNS | {"references": [3, "2"]}, "references"),
    ("mm_mt_bench", TURNS | {"references": [[IMAGE], "2"]}, "references"),
    ("hellaswag", CHOICE | {"answer": 2}, "answer"), ("hellaswag", CHOICE | {"answer": -1}, "answer"),
    ("hellaswag", CHOICE | {"answer": True}, "answer"), ("hellaswag", CHOICE | {"answer": "1"}, "answer"),
    ("hellaswag", CHOICE | {"endings": ["x", ""]}, "endings"), ("hellaswag", CHOICE | {"endings": []}, "endings"),
    ("hellaswag", CHOICE | {"context": None}, "context"), ("hellaswag", item(), "answer")])
def test_a_bad_line_of_other_tasks_is_named(task, line, column, tmp_path):
    folder = folder_of(tmp_path, line, task=task)
    refused(folder, f"row 1, column {column}: ")


def test_right_lines_are_read(tmp_path):
    for name, task, lines in (("a", "chartqa", [item(), item(id="b")]), ("b", "mm_mt_bench", [TURNS]),
                              ("c", "hellaswag", [CHOICE])):
        (tmp_path / name).mkdir()
        assert len(read_items(folder_of(tmp_path / name, *lines, task=task, items=len(lines)))[1]) == len(lines)


@pytest.mark.parametrize(("lines", "words"), [
    (["{"], "row 1 is not valid JSON"), ([item(), ""], None), ([item(), "", item(id="b")], "row 2 is not valid JSON"),
    (['{"id": "a", "id": "b"}'], "row 1 has the key 'id' twice"), (["3"], "row 1 holds a int"), ([""], "is empty"),
    ([item(), item()], "row 2, column id: 'a' stands in an earlier row"), (["[" * 100_000], "row 1 is not valid JSON"),
    (["\ufeff" + json.dumps(item())], None)])
def test_a_broken_file_is_named(lines, words, tmp_path):
    folder = folder_of(tmp_path, *lines)
    if words is None:
        assert len(read_items(folder)[1]) == 1
    else:
        refused(folder, "items.jsonl", words)


def test_what_is_no_folder_of_items(tmp_path):
    refused(tmp_path, "has no task.json")
    refused(tmp_path / "none", "has no task.json")
    folder = folder_of(tmp_path, item(), task="nothing")
    refused(folder, "no task 'nothing'")
    (folder / "task.json").write_text('{"task": "chartqa", "items": 2}')
    refused(folder, "has 1 items, and task.json promises 2")
    (folder / "items.jsonl").unlink()
    refused(folder, "does not exist")


def test_images_are_pictures_inside_of_the_folder(tmp_path):
    folder = folder_of(tmp_path, item())
    read_items(folder)
    picture = folder / "images/a.png"
    data = picture.read_bytes()
    picture.unlink()
    refused(folder, "images/a.png cannot be read")
    picture.mkdir()
    refused(folder, "images/a.png is a folder")
    picture.rmdir()
    os.mkfifo(picture)
    refused(folder, "images/a.png is a pipe")
    picture.unlink()
    for content in (b"", b"no picture", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"):
        picture.write_bytes(content)
        refused(folder, "images/a.png is not an image")
    (tmp_path / "outside").mkdir()
    inside = folder_of(tmp_path / "outside", item())
    (inside / "images/a.png").unlink()
    picture.write_bytes(data)
    (inside / "images/a.png").symlink_to(picture)
    refused(inside, "a link that leaves the folder")


@pytest.mark.parametrize("words", ["find_image", "check_item"])
def test_a_guard_that_is_taken_out_is_missed(words, monkeypatch, tmp_path):
    """Without a guard, what must be refused is read: so the tests above can fail."""
    monkeypatch.setattr(f"tiny.evals.items.{words}", lambda *_: None)
    bad = item(references=[]) if words == "check_item" else item(messages=[user(IMAGE | {"image": "images/none.png"})])
    assert re.fullmatch("a", read_items(folder_of(tmp_path, bad))[1][0].id)


def test_remedies_are_those_of_items_and_runs(tmp_path):
    """Files of a model are fetched again; these are made again."""
    small_items(tmp_path / "items")
    for name, text in (("task.json", ""), ("task.json", "{"), ("items.jsonl", "{\n"), ("items.jsonl", None)):
        path = tmp_path / "items" / name
        kept = path.read_bytes()
        path.unlink() if text is None else path.write_text(text, encoding="utf-8")
        with pytest.raises(TinyError) as caught:
            read_items(tmp_path / "items")
        assert caught.value.remedy == REMEDY and "evals import" in REMEDY
        path.write_bytes(kept)
