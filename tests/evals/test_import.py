"""From files in the Hub's formats to folders of items: the requests they make are those that mistral-evals sends, and
whatever is wrong is said with file, row and column.
"""

import base64
import io
import json
import re
import shutil
import sys

import hub_files
import numpy as np
import pytest
from compare import assert_close
from oracles import GOLDEN
from PIL import Image

from tiny.config import TinyError
from tiny.evals.hub import find_files, import_task
from tiny.evals.items import image_names, read_items, requests
from tiny.evals.prompts import find_prompt
from tiny.evals.tasks import TASKS

pytest.importorskip("pyarrow", reason="Parquet needs the package pyarrow, of the extra evals.")
import pyarrow as pa  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402

FILES = {"mm_mt_bench": "MM-MT-Bench-eval", "chartqa": "ChartQA-test", "docvqa": "DocVQA-validation",
         "mathvista": "MathVista-testmini", "mmmu": "MMMU-validation", "vqav2": "VQAv2-validation"}
CAPTURED = json.loads((GOLDEN / "evals/requests.json").read_text(encoding="utf-8"))["requests"]


def given(name):
    return GOLDEN / f"evals/{FILES[name]}-00000-of-00001.parquet"


def png(colour=(200, 30, 30), size=(9, 7)):
    out = io.BytesIO()
    Image.new("RGB", size, colour).save(out, format="PNG")
    return out.getvalue()


def chart_rows(count=2, **changes):
    return [{"type": "x", "question": f"What is {n}?", "answer": str(n),
             "image": {"bytes": png((n, 0, 0)), "path": None}} | changes for n in range(count)]


def write(path, rows, name="chartqa"):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(hub_files.table_of(hub_files.VISION[name], rows), path)
    return path


def shown(message, pictures):
    """A message with its pictures taken out, which go to a list: of a captured one decoded, of ours as bytes."""
    chunks = []
    for chunk in message["content"] if isinstance(message["content"], list) else []:
        kind = chunk["type"].removesuffix("_url")
        if kind == "image":
            pictures.append(chunk["image_url"]["url"] if "image_url" in chunk else chunk["image"])
        chunks.append((kind, chunk.get("text")))
    return list(message), message["role"], chunks or message["content"]


@pytest.mark.parametrize("name", FILES)
def test_requests_are_those_of_mistral_evals(name, tmp_path):
    """Each captured request is made by one item; the order differs, because eight threads sent them."""
    task = TASKS[name]
    import_task(task, given(name), tmp_path / "items")
    known, items = read_items(tmp_path / "items")
    assert known == task
    ours = {}
    for item in items:
        for request in requests(task, item, find_prompt(task, "explicit")):
            pictures = []
            key = str([shown(message, pictures) for message in request.messages])
            assert key not in ours
            ours[key] = request, pictures
    captured = [body for body in CAPTURED[name] if body["model"] == "tiny-pixtral"]
    assert len(captured) == len(ours)
    for body in captured:
        assert list(body) == ["temperature", "max_tokens", "messages", "model"]
        theirs = []
        request, pictures = ours.pop(str([shown(message, theirs) for message in body["messages"]]))
        assert (body["temperature"], body["max_tokens"]) == (request.temperature, request.max_tokens)
        assert len(theirs) == len(pictures) > 0
        for url, path in zip(theirs, pictures):
            kind, data = re.fullmatch("data:image/(.*);base64,(.*)", url).groups()
            image, sent = Image.open(tmp_path / "items" / path), Image.open(io.BytesIO(base64.b64decode(data)))
            assert image.format.lower() == kind and image.size == sent.size
            if kind == "png":  # a JPEG was encoded again, by another library than ours
                assert_close(np.asarray(sent.convert("RGB")), np.asarray(image.convert("RGB")), atol=0)


def test_what_a_judge_is_sent(tmp_path):
    """The captured messages to the judge, with the canned answers of that capture."""
    from tiny.evals.prompts import JUDGE_SYSTEM, judge_message

    import_task(TASKS["mm_mt_bench"], given("mm_mt_bench"), tmp_path / "items")
    _, items = read_items(tmp_path / "items")
    said = [f"A picture with a square.\nReasoning.\nFinal Answer: {answer}" for answer in ("4", "red")]
    made = {judge_message(request.messages, request.references, answer, "published") for item in items
            for request in requests(TASKS["mm_mt_bench"], item, "") for answer in said}
    captured = [body for body in CAPTURED["mm_mt_bench"] if body["model"] != "tiny-pixtral"]
    assert len(captured) == 4
    for body in captured:
        system, user = body["messages"]
        assert system == {"role": "system", "content": JUDGE_SYSTEM} and user["role"] == "user"
        assert [list(chunk) for chunk in user["content"]] == [["type", "text"]] and user["content"][0]["text"] in made


def test_what_is_kept(tmp_path):
    """Original bytes, each image once, references as texts, categories."""
    rows = chart_rows(3, image={"bytes": png(), "path": "x.png"})
    assert import_task(TASKS["chartqa"], write(tmp_path / "test.parquet", rows), tmp_path / "items") == 3
    _, items = read_items(tmp_path / "items")
    (image,) = (tmp_path / "items/images").iterdir()
    assert image.read_bytes() == png() and {name for item in items for name in image_names(item.messages)} == {
        f"images/{image.name}"}
    assert [item.references for item in items] == [[["0"]], [["1"]], [["2"]]] and len({item.id for item in items}) == 3
    for name, references in (("docvqa", [[["red", "Red."]], [["4"]]]), ("vqav2", [[["red"] * 10]]),
                             ("mmmu", [[["A"]], [["4", "four"]]]), ("mathvista", [[["4"]], [["B"]]])):
        import_task(TASKS[name], given(name), tmp_path / name)
        assert [item.references for item in read_items(tmp_path / name)[1]] == references
    import_task(TASKS["mm_mt_bench"], given("mm_mt_bench"), tmp_path / "judged")
    assert [item.category for item in read_items(tmp_path / "judged")[1]] == ["charts", "tables", "miscellaneous"]


def test_numbers_in_a_list_of_mmmu_become_texts(tmp_path):
    row = {"question": "x <image 1>", "options": "[]", "answer": "[1, 2.5]", "question_type": "open",
           "image_1": {"bytes": png(), "path": None}}
    import_task(TASKS["mmmu"], write(tmp_path / "validation.parquet", [row], "mmmu"), tmp_path / "items")
    assert read_items(tmp_path / "items")[1][0].references == [["1", "2.5"]]


def test_json_lines_with_images_beside_them(tmp_path):
    (tmp_path / "rows/pictures").mkdir(parents=True)
    (tmp_path / "rows/pictures/a.png").write_bytes(png())
    (tmp_path / "rows/test.jsonl").write_text(json.dumps({"image": "pictures/a.png", "question": "q", "answer": "a"}))
    assert import_task(TASKS["chartqa"], tmp_path / "rows", tmp_path / "items") == 1
    (image,) = (tmp_path / "items/images").iterdir()
    assert image.read_bytes() == png()


def test_solved_examples_of_mmlu(tmp_path):
    def rows(split, count):
        lines = [{"question": f"{subject} {n}", "subject": subject, "choices": list("wxyz"), "answer": n % 4}
                 for subject in ("us_law", "art") for n in range(count)]
        (tmp_path / f"{split}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    rows("dev", 4)
    rows("test", 2)
    assert import_task(TASKS["mmlu"], tmp_path, tmp_path / "items", shots=3) == 4
    item = read_items(tmp_path / "items")[1][2]
    example = "art {n}\nA. w\nB. x\nC. y\nD. z\nAnswer: {letter}\n\n"
    assert item.context == ("The following are multiple choice questions (with answers) about art.\n\n" + "".join(
        example.format(n=n, letter="ABCD"[n]) for n in range(3)) + example.format(n=0, letter="").rstrip())
    assert (item.endings, item.answer, item.category) == (list("ABCD"), 0, "art")
    for task, shots in (("mmlu", 6), ("mmlu", -1), ("arc_easy", 1)):
        with pytest.raises(TinyError, match="--shots"):
            import_task(TASKS[task], tmp_path, tmp_path / "more", shots=shots)


# ---- where the files are

def names(path, task, split=None):
    return [file.relative_to(path).as_posix() for file in find_files(path, TASKS[task], split or TASKS[task].split)]


def touch(folder, *files):
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(b"x")


@pytest.mark.parametrize(("task", "files", "found"), [
    ("chartqa", ["data/test-00001-of-00002.parquet", "data/test-00000-of-00002.parquet", "data/train.parquet"],
     ["data/test-00000-of-00002.parquet", "data/test-00001-of-00002.parquet"]),
    ("docvqa", ["DocVQA/validation-00000-of-00001.parquet", "InfographicVQA/validation-00000-of-00001.parquet"],
     ["DocVQA/validation-00000-of-00001.parquet"]),
    ("docvqa", ["validation.parquet", "validation2.parquet", "my-validation.parquet"], ["validation.parquet"]),
    ("mmmu", ["Art/validation-00000-of-00001.parquet", "Math/validation-00000-of-00001.parquet", "Art/dev.parquet"],
     ["Art/validation-00000-of-00001.parquet", "Math/validation-00000-of-00001.parquet"]),
    ("mmlu", ["all/test-00000-of-00001.parquet", "anatomy/test-00000-of-00001.parquet"],
     ["all/test-00000-of-00001.parquet"]),
    ("arc_easy", ["ARC-Easy/test/0000.parquet", "ARC-Challenge/test/0000.parquet"], ["ARC-Easy/test/0000.parquet"]),
    ("chartqa", ["lmms-lab/ChartQA/data/test-00000-of-00001.parquet", "other/test.parquet"],
     ["lmms-lab/ChartQA/data/test-00000-of-00001.parquet"])])
def test_files_of_a_split(task, files, found, tmp_path):
    touch(tmp_path, *files)
    assert names(tmp_path, task) == found


@pytest.mark.parametrize("below", ["", "hub", "datasets--lmms-lab-encoder--ChartQA"])
def test_a_cache(below, tmp_path):
    hub = tmp_path / "hub" if below == "hub" else tmp_path
    touch(hub, "datasets--lmms-lab-encoder--ChartQA/snapshots/abc/data/test-00000-of-00001.parquet",
          "datasets--a--b/snapshots/abc/data/test-00000-of-00001.parquet",
          "models--a--b/snapshots/abc/data/test-00000-of-00001.parquet")
    with pytest.warns(UserWarning, match="snapshots/abc"):
        (found,) = find_files(hub if below == "hub" else tmp_path / below, TASKS["chartqa"], "test")
    assert found.relative_to(hub).parts[0] == "datasets--lmms-lab-encoder--ChartQA"


@pytest.mark.parametrize(("files", "message"), [
    (["data/test-00000-of-00003.parquet", "data/test-00002-of-00003.parquet"], "2 of 3 shards.*; 00001 is missing"),
    (["data/train.parquet"], "no parquet or JSON lines of the split test; it has .train.parquet"),
    (["ChartQA-test-00000-of-00001.parquet", "x.parquet"], "it has .ChartQA-test-00000-of-00001.parquet, x.parquet"),
    (["test/data-00000-of-00001.arrow"], "only Arrow files that load_dataset made"),
    (["datasets--a--b/snapshots/1/test.parquet", "datasets--a--c/snapshots/1/test.parquet"], "a cache of 2 datasets"),
    ([], "no parquet")])
def test_files_that_are_not_there(files, message, tmp_path):
    touch(tmp_path, *files)
    with pytest.raises(TinyError, match=message):
        find_files(tmp_path, TASKS["chartqa"], "test")


def test_another_configuration_is_not_taken_for_ours(tmp_path):
    touch(tmp_path, "InfographicVQA/validation-00000-of-00001.parquet")
    with pytest.raises(TinyError, match="no folder DocVQA, but InfographicVQA"):
        find_files(tmp_path, TASKS["docvqa"], "validation")


def test_what_is_no_data_set(tmp_path):
    (tmp_path / "x.csv").write_text("a")
    with pytest.raises(TinyError, match="neither parquet nor JSON lines"):
        find_files(tmp_path / "x.csv", TASKS["chartqa"], "test")
    with pytest.raises(TinyError, match="does not exist"):
        find_files(tmp_path / "none.parquet", TASKS["chartqa"], "test")


# ---- what is wrong with a file, a row, a column

def refused(tmp_path, path, task="chartqa"):
    """The message of an import that must fail, and leave nothing."""
    with pytest.raises(TinyError) as caught:
        import_task(TASKS[task], path, tmp_path / "items")
    assert [file.name for file in tmp_path.iterdir() if file.name.startswith("items")] == []
    return caught.value.cause


@pytest.mark.parametrize(("changes", "column", "what"), [
    ({"image": {"bytes": b"no picture", "path": None}}, "image", "begins no image"),
    ({"image": {"bytes": png()[:50], "path": None}}, "image", "decoded"), ({"image": None}, "image", "no image"),
    ({"image": {"bytes": None, "path": "a.png"}}, "image", "no image"),
    ({"image": {"bytes": b"", "path": None}}, "image", "no image"), ({"question": None}, "question", "no text"),
    ({"answer": None}, "answer", "no text"),
    ({"image": {"bytes": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "path": None}}, "image", "no image")])
def test_a_bad_row_is_named(changes, column, what, tmp_path):
    rows = chart_rows(20)
    rows[17] |= changes
    path = write(tmp_path / "test.parquet", rows)
    cause = refused(tmp_path, path)
    assert cause.startswith(f"{path}, row 18, column {column}: ") and what in cause


@pytest.mark.parametrize(("task", "changes", "column"), [
    ("docvqa", {"answers": []}, "answers"), ("docvqa", {"answers": None}, "answers"),
    ("docvqa", {"answers": [None]}, "answers"),
    ("vqav2", {"answers": [{"answer": None}]}, "answers"), ("vqav2", {"answers": []}, "answers"),
    ("mathvista", {"answer": "green"}, "answer"), ("mathvista", {"query": None}, "query"),
    ("mathvista", {"decoded_image": None}, "decoded_image"),
    ("mmmu", {"options": "[a, b]"}, "options"), ("mmmu", {"options": "['a'"}, "options"),
    ("mmmu", {"options": "3"}, "options"), ("mmmu", {"options": "'ab'"}, "options"),
    ("mmmu", {"options": "{'a': 1}"}, "options"), ("mmmu", {"options": " "}, "options"),
    ("mmmu", {"options": "(" * 9000}, "options"), ("mmmu", {"options": None}, "options"),
    ("mmmu", {"question": "<image 9>"}, "question"), ("mmmu", {"question": "<image 7>"}, "image_7"),
    ("mmmu", {"question": " ", "question_type": "open"}, "question"), ("mmmu", {"answer": "[x"}, "answer"),
    ("mmmu", {"question_type": None}, "question_type"),
    ("mm_mt_bench", {"conversation": "[]"}, "conversation"), ("mm_mt_bench", {"conversation": "{"}, "conversation"),
    ("mm_mt_bench", {"conversation": "[" * 100_000}, "conversation"),
    ("mm_mt_bench", {"conversation": '[{"role": "user", "content": [{"type": "text", "text": "x"}]}]'}, "conversation"),
    ("mm_mt_bench", {"conversation": '[{"role": "user", "content": [{"type": "image"}]}]'}, "conversation"),
    ("mm_mt_bench", {"conversation": '[{"role": "user", "content": [{"type": "image"}]}, '
                                     '{"role": "user", "content": "x"}]'}, "conversation"),
    ("mm_mt_bench", {"conversation": '[{"role": "user", "content": [{"type": "image"}, {"type": "audio"}]}, '
                                     '{"role": "assistant", "content": "x"}]'}, "messages"),
    ("mm_mt_bench", {"conversation": '[{"content": [{"type": "image"}]}, {"role": "assistant", "content": "x"}]'},
     "conversation"),
    ("mm_mt_bench", {"conversation": '[{"role": "user", "content": [{"type": "image"}, {"text": "x"}, {"type": '
                                     '"image"}]}, {"role": "assistant", "content": "x"}]'}, "messages"),
    ("mmmu", {"question": f"<image {'1' * 5000}>"}, "question"), ("mathvista", {"choices": 5}, "choices"),
    ("mm_mt_bench", {"category": None}, "category")])
def test_a_bad_cell_of_each_task_is_named(task, changes, column, tmp_path):
    rows = pq.read_table(given(task)).to_pylist()
    rows.append(rows[-1] | changes)
    if task == "mathvista":
        rows[-1] = {"choices": ["red", "blue"]} | rows[-1] if "choices" in changes else rows[-1] | {
            "choices": ["red", "blue"]}
    if task == "mmmu":
        rows[-1] = rows[0] | changes
    file = tmp_path / f"{TASKS[task].split}.jsonl"
    (tmp_path / "a.png").write_bytes(png())
    with open(file, "w", encoding="utf-8") as lines:
        for row in rows:
            pictures = {key: "a.png" for key, value in row.items() if isinstance(value, dict) and "bytes" in value}
            print(json.dumps(row | pictures), file=lines)
    cause = refused(tmp_path, file, task)
    assert re.match(rf"{re.escape(str(file))}, row {len(rows)}, column (?:{column}): ", cause), cause


def test_json_lines_that_are_broken(tmp_path):
    path = tmp_path / "test.jsonl"
    row = json.dumps({"image": "a.png", "question": "q", "answer": "a"})
    (tmp_path / "a.png").write_bytes(png())
    for text, what in ((row + '\n{"a"', "row 2 is not valid JSON"), ("[]", "row 1 holds a list"), ("", "no rows"),
                       (row + "\n\n", "row 2 is not valid JSON"), (row + '\n{"a": 1, "a": 2}', "row 2 has the key 'a'"),
                       ("{}", "row 1, column answer: it is missing")):
        path.write_text(text)
        with pytest.raises(TinyError, match=re.escape(what)):
            import_task(TASKS["chartqa"], path, tmp_path / "items")


@pytest.mark.parametrize("image", ["../secret.png", "/etc/passwd", "none.png", "", "folder", "a\0b", "loop"])
def test_an_image_outside_of_the_folder_is_not_read(image, tmp_path):
    (tmp_path / "rows/folder").mkdir(parents=True)
    (tmp_path / "rows/loop").symlink_to("loop")
    (tmp_path / "secret.png").write_bytes(png())
    path = tmp_path / "rows/test.jsonl"
    path.write_text(json.dumps({"image": image, "question": "q", "answer": "a"}))
    assert refused(tmp_path, path).startswith(f"{path}, row 1, column image: ")


def test_a_file_that_is_no_parquet(tmp_path):
    path = write(tmp_path / "test.parquet", chart_rows(300))
    data = path.read_bytes()
    for damaged in (b"PAR1", b"x" * 100, data[:-50], data[:200] + b"\0" * 3000 + data[3200:]):
        path.write_bytes(damaged)
        assert refused(tmp_path, path).startswith(f"{path}"), damaged[:20]
    pq.write_table(pa.table({"question": ["a"], "image": ["b"]}), path)
    assert refused(tmp_path, path) == f"{path} has no column answer; it has 'question, image'."
    pq.write_table(hub_files.table_of(hub_files.VISION["chartqa"], []), path)
    assert refused(tmp_path, path) == "The data set has no rows."


def test_without_pyarrow(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(TinyError) as caught:
        import_task(TASKS["chartqa"], given("chartqa"), tmp_path / "items")
    assert "pyarrow, which is not installed" in caught.value.cause and ".jsonl" in caught.value.remedy


def test_out_must_be_new(tmp_path):
    (tmp_path / "items").mkdir()
    with pytest.raises(TinyError, match="is there already"):
        import_task(TASKS["chartqa"], given("chartqa"), tmp_path / "items")
    shutil.rmtree(tmp_path / "items")
    with pytest.raises(TinyError, match="is no folder"):
        import_task(TASKS["chartqa"], given("chartqa"), tmp_path / "none/items")


def test_a_large_image_is_refused_before_it_is_decoded(tmp_path):
    out = io.BytesIO()
    Image.new("1", (20_000, 9_000)).save(out, format="PNG")
    path = write(tmp_path / "test.parquet", chart_rows(1, image={"bytes": out.getvalue(), "path": None}))
    assert re.match(rf"{re.escape(str(path))}, row 1, column image: .*pixels", refused(tmp_path, path))
