"""A judge may say anything: a rating is one, or it is missing after three askings; and a recorded judge says the same
for ever. Oracle of the averages: means by hand.
"""

import json
import statistics

import pytest
from compare import assert_close
from small_evals import chat_reply, last_text, scripted_server, small_items

from tiny.__main__ import main
from tiny.evals.lines import read_lines
from tiny.evals.ratings import rating_of, read_judgements
from tiny.evals.run_folder import read_run

GOOD = "It agrees with the reference.\nRating: [[7]]"


def evals(*arguments):
    """The exit status of a command."""
    return main(["evals", *map(str, arguments)])


@pytest.fixture
def answered(tmp_path):
    """A run of eight conversations, three of which have two turns: eleven answers."""
    items = small_items(tmp_path / "items", "mm_mt_bench", 8)
    with scripted_server(lambda body, n: f"Answer to: {last_text(body)}") as (address, _):
        assert evals("run", "mm_mt_bench", items, "--model", address, "--out", tmp_path / "run") == 0
    return tmp_path / "run"


def judge_with(run, script, *more, status=0):
    """Judge a run by a scripted server; the requests that it saw, and the judgements that are kept."""
    with scripted_server(script) as (address, seen):
        assert evals("judge", run, "--judge", address, *more) == status
    return seen, read_judgements(run / "judgements.jsonl")


@pytest.mark.parametrize(("text", "published", "repaired"), [
    (GOOD, 7, 7), ("[[7.5]]", 7.5, 7.5), ("no rating", None, None), ("[[11]]", 11, None), ("[[0]]", 0, None),
    ("[[ 7 ]]", None, 7), ("[[6/10]]", None, 6), ("[[-2]]", None, None), ("[[3]] or [[9]]", 3, None),
    ("[[8]] ... so [[8]]", 8, 8), ("[8]", None, None), ("", None, None), ("[[" + "9" * 400 + "]]", ..., None)])
def test_what_is_a_rating(text, published, repaired):
    assert rating_of(text, "repaired") == repaired
    if published is not ...:
        assert rating_of(text, "published") == published


def test_a_good_judge(answered, capsys):
    seen, (head, kept) = judge_with(answered, lambda body, n: GOOD)
    assert len(seen) == len(kept) == 11 and {line["rating"] for line in kept.values()} == {7}
    assert head["judge"] == "scripted" and head["form"] == "repaired" and head["image"] is True
    said = capsys.readouterr().out
    assert f"judged by scripted on {head['date']}, repaired prompt, with the image" in said
    assert "mean over turns" in said and "mean as released" in said


@pytest.mark.parametrize("said", ["I would rather not say.", "Rating: [[11]]", "[[3]], no, [[9]]", "", "[[-1]]",
                                  (500, {"error": {"message": "tired"}}, {}), (200, b"<html>", {}),
                                  {"choices": [{"message": {"content": None}}]}],
                         ids=["none", "eleven", "two", "empty", "minus", "error", "html", "null"])
def test_no_rating_is_asked_three_times_and_then_missing(said, answered, capsys, monkeypatch):
    """One of the eleven answers is always judged like this."""
    monkeypatch.setattr("tiny.evals.judge.WAITS", (0.0, 0.0))
    seen, (_, kept) = judge_with(answered, lambda body, n: said if "What is 5" in last_text(body) else GOOD)
    assert len(seen) == 10 + 3
    lost = kept["none", "item5"]
    assert lost["rating"] is None and len(lost["replies"]) == 3
    rows = json_of(capsys, "score", answered)[0]["rows"]
    assert rows[0]["measure"] == "mean over turns" and rows[0]["n"] == 10 and rows[0]["of"] == 11
    assert rows[0]["value"] == 7, "neither -1 nor 0 is in it"
    assert evals("score", answered) == 0 and "7.00\u2020" in capsys.readouterr().out


TIRED = (500, {"error": {"message": "tired"}}, {})


def test_an_outage_is_asked_again_and_a_reply_without_a_rating_is_not(answered, capsys, monkeypatch):
    """Item 5 is never rated, item 4 fails until the judge is well again."""
    monkeypatch.setattr("tiny.evals.judge.WAITS", (0.0, 0.0))

    def script(body, number, well=False):
        text = last_text(body)
        return "Who knows." if "What is 5" in text else TIRED if "What is 4" in text and not well else GOOD

    with scripted_server(script) as (address, seen):
        assert evals("judge", answered, "--judge", address) == 0
        assert "answered 11 of 11; rated 9 of 11 (without a rating, 1 of 2: " in capsys.readouterr().out
        before = (answered / "judgements.jsonl").read_bytes()
        assert len(seen) == 9 + 3 + 3 and evals("judge", answered, "--judge", address) == 0 and len(seen) == 15 + 3
        assert (answered / "judgements.jsonl").read_bytes() == before, "the same outage is no news"
    seen, (_, kept) = judge_with(answered, lambda body, n: script(body, n, True))
    assert len(seen) == 1 and kept["none", "item4"]["rating"] == 7 and kept["none", "item5"]["rating"] is None
    assert judge_with(answered, script)[0] == []


@pytest.mark.parametrize(("said", "words"), [
    (TIRED, "500 Internal Server Error: tired"), ("[[11]]", "the judge said '[[11]]', which names no one rating"),
    ((200, b"<html>", {}), "did not send JSON but '<html>'"), (b"", "broke the connection")])
def test_a_judge_that_rates_nothing_says_why(said, words, answered, capsys, monkeypatch):
    monkeypatch.setattr("tiny.evals.judge.WAITS", (0.0, 0.0))
    judge_with(answered, lambda body, n: said, "--tries", 1, status=2)
    found = capsys.readouterr().err
    assert "No answer got a rating: 11 of 11: " in found and words in found and "remedy: " in found
    assert evals("score", answered) == 0
    found = capsys.readouterr().out
    assert "rated 0 of 11 (without a rating, 11 of 11: " in found and words in found


def test_a_judge_that_dies_ends_the_command_and_loses_nothing(answered, capsys, monkeypatch):
    monkeypatch.setattr("tiny.evals.judge.WAITS", (0.0, 0.0))
    with scripted_server(lambda body, n: GOOD) as (address, _):
        assert evals("judge", answered, "--judge", address, "--name", "m") == 0
    path = answered / "judgements.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:4]))
    assert evals("judge", answered, "--judge", address, "--name", "m") == 2
    assert "cannot be reached: Connection refused, 3 times" in capsys.readouterr().err
    seen, (_, kept) = judge_with(answered, lambda body, n: GOOD, "--name", "m")
    assert len(seen) == 8 and {line["rating"] for line in kept.values()} == {7}


def test_a_missing_rating_shows_wherever_it_is_missing(answered, capsys):
    """Item 5, of tables and of the first turn, has none; then no answer of tables has one."""
    judge_with(answered, lambda body, n: "Well." if "What is 5" in last_text(body) else GOOD, "--tries", 1)
    rows = {row["measure"]: row for row in json_of(capsys, "score", answered)[0]["rows"]}
    lacking = {name for name, row in rows.items() if row["n"] < row["of"]}
    assert lacking == {"mean over turns", "category tables", "turn 1", "mean over categories", "mean as released"}
    assert rows["category charts"]["of"] + rows["category tables"]["of"] == rows["turn 1"]["of"] + rows["turn 2"]["of"]
    assert evals("score", answered) == 0
    said = capsys.readouterr().out
    assert said.count("7.00\u2020 (") == 5 and "\u2020 over the answers that are there, and rated" in said
    for command in ("score", "report"):
        assert evals(command, answered, "--strict") == 2
        assert "Not everything was answered and rated: mm_mt_bench" in capsys.readouterr().err
    (answered / "judgements.jsonl").unlink()
    judge_with(answered, lambda body, n: GOOD if any(f"What is {n}" in last_text(body) for n in (0, 2, 4, 6))
               else "Well.", "--tries", 1)
    rows = {row["measure"]: row for row in json_of(capsys, "score", answered)[0]["rows"]}
    assert rows["category tables"]["value"] is None and rows["category tables"]["n"] == 0
    assert rows["mean over categories"]["value"] is None and rows["mean over turns"]["value"] == 7


def test_a_rating_that_no_judge_has_said_counts_nowhere(answered, capsys):
    judge_with(answered, lambda body, n: GOOD)
    path = answered / "judgements.jsonl"
    path.write_text(path.read_text(encoding="utf-8").replace('"rating": 7', '"rating": 70', 1), encoding="utf-8")
    assert json_of(capsys, "score", answered)[0]["rows"][0]["value"] == 7


def test_one_conversation_has_a_wide_interval(tmp_path, capsys):
    """Turns rated 2 and 9, against 7 and 7: nothing is known of other conversations."""
    items = small_items(tmp_path / "items", "mm_mt_bench", 8)
    for name, ratings in (("a", (2, 9)), ("b", (7, 7))):
        with scripted_server(lambda body, n: "Yes.") as (address, _):
            assert evals("run", "mm_mt_bench", items, "--model", address, "--out", tmp_path / name, "--limit", 1) == 0
        judge_with(tmp_path / name, lambda body, n, ratings=ratings: f"[[{ratings[n]}]]")
    row = json_of(capsys, "score", tmp_path / "a")[0]["rows"][0]
    assert row["value"] == 5.5 and row["low"] < 2 and row["high"] > 9
    (gap,) = json_of(capsys, "diff", tmp_path / "a", tmp_path / "b")
    assert gap["difference"] == 1.5 and not gap["told_apart"]


def test_a_judge_that_hangs(answered, monkeypatch):
    monkeypatch.setattr("tiny.evals.judge.WAITS", (0.0, 0.0))
    _, (_, kept) = judge_with(answered, lambda body, n: None if "What is 5" in last_text(body) else GOOD,
                              "--timeout", 0.3, "--jobs", 4)
    assert "did not answer within 0.3 s" in kept["none", "item5"]["replies"][2]["error"]


def test_a_judge_that_finds_its_rating_later(answered):
    times = {}

    def script(body, number):
        text = last_text(body)
        times[text] = times.get(text, 0) + 1
        return GOOD if times[text] == 3 else "Let me think."

    seen, (_, kept) = judge_with(answered, script)
    assert len(seen) == 33 and all(len(line["replies"]) == 3 and line["rating"] == 7 for line in kept.values())


def test_nothing_is_judged_twice_and_a_killed_judge_goes_on(answered):
    with scripted_server(lambda body, n: GOOD) as (address, seen):
        assert evals("judge", answered, "--judge", address) == 0
        path = answered / "judgements.jsonl"
        whole = path.read_bytes()
        path.write_bytes(whole[: whole.index(b"\n", len(whole) // 2) + 7])  # in the middle of a line
        assert evals("judge", answered, "--judge", address) == 0
        assert path.read_bytes() == whole and 11 < len(seen) < 22


def test_another_judge_is_refused(answered, capsys):
    judge_with(answered, lambda body, n: GOOD)
    with scripted_server(lambda body, n: GOOD) as (address, seen):
        for more, words in ((["--prompt", "published"], "form was repaired and is now published"),
                            (["--image", "no"], "image was True and is now False"),
                            (["--name", "gpt"], "judge was scripted and is now gpt"),
                            (["--tries", 2], "tries was 3 and is now 2")):
            assert evals("judge", answered, "--judge", address, *more) == 2
            assert words in capsys.readouterr().err
        assert not seen


def test_a_recorded_judge_gives_the_same_numbers_without_a_network(answered, tmp_path, capsys):
    """The ratings are read again out of what the judge said, not copied."""
    ratings = iter(range(1, 12))
    judge_with(answered, lambda body, n: f"[[{next(ratings) % 10 + 1}]]" if n % 4 else "well ...")
    first = json_of(capsys, "score", answered)
    kept = tmp_path / "kept.jsonl"
    (answered / "judgements.jsonl").rename(kept)
    assert evals("judge", answered, "--judge", kept) == 0
    assert json_of(capsys, "score", answered) == first
    assert (answered / "judgements.jsonl").read_bytes() == kept.read_bytes()
    (answered / "judgements.jsonl").unlink()
    text = kept.read_text(encoding="utf-8")
    kept.write_text(text.replace('"rating": 5', '"rating": 9').replace("[[5]]", "[[6]]"), encoding="utf-8")
    assert evals("judge", answered, "--judge", kept) == 0
    read = read_judgements(answered / "judgements.jsonl")[1]
    assert 9 not in {line["rating"] for line in read.values() if "[[9]]" not in line["replies"][-1]["text"]}


def test_a_recorded_judge_speaks_of_no_other_answer(answered, tmp_path, capsys):
    judge_with(answered, lambda body, n: GOOD)
    kept = tmp_path / "kept.jsonl"
    (answered / "judgements.jsonl").rename(kept)
    path = answered / "answers.jsonl"
    other = path.read_text(encoding="utf-8").replace("Answer to: What is 5", "Else: What is 5")
    path.write_text(other, encoding="utf-8")
    assert evals("judge", answered, "--judge", kept) == 0
    line = read_judgements(answered / "judgements.jsonl")[1]["none", "item5"]
    assert line["rating"] is None and "no judgement of this answer" in line["replies"][0]["error"]
    assert evals("judge", answered, "--judge", kept, "--prompt", "published") == 2
    assert "recorded with another form" in capsys.readouterr().err


@pytest.mark.parametrize(("damage", "words"), [
    (lambda text: "", "row 1, column date: it is missing"),
    (lambda text: text.replace('"form": "repaired"', '"form": "odd"'),
     "row 1, column form: 'odd' is no 'repaired' or 'published'"),
    (lambda text: text + '{"id": "a", "prompt": "none", "answer": "x"}\n', "row 13, column replies: it is missing"),
    (lambda text: text + '{"id": "a", "prompt": "none", "answer": "x", "replies": [7], "rating": 1}\n',
     "row 13, column replies: 7 is no"),
    (lambda text: text + "[]\n", "row 13 holds a list")])
def test_damaged_judgements_are_named_with_their_line(damage, words, answered, tmp_path, capsys):
    judge_with(answered, lambda body, n: GOOD)
    kept = tmp_path / "kept.jsonl"
    kept.write_text(damage((answered / "judgements.jsonl").read_text(encoding="utf-8")), encoding="utf-8")
    assert evals("judge", answered, "--judge", kept) == 2
    said = capsys.readouterr().err
    assert words in said and "remedy: " in said and "Traceback" not in said


def test_a_second_judgement_of_one_answer_is_refused(answered, capsys):
    """Also where the first one has no rating; after an outage the answer may be judged again."""
    judge_with(answered, lambda body, n: "Well." if "What is 5" in last_text(body) else GOOD, "--tries", 1)
    path = answered / "judgements.jsonl"
    right = path.read_bytes()
    lines = right.splitlines(keepends=True)
    for line in (lines[1].replace(b"[[7]]", b"[[9]]"), next(line for line in lines if b"Well." in line)):
        path.write_bytes(right + line)
        for command in (("score", answered), ("judge", answered, "--judge", path)):
            assert evals(*command) == 2
            said = capsys.readouterr().err
            assert "row 13, column id: the answer to 'item" in said and "was judged in an earlier row" in said
    outage = json.loads(lines[1]) | {"replies": [{"error": "tired"}], "rating": None}
    path.write_bytes(lines[0] + json.dumps(outage).encode() + b"\n" + b"".join(lines[1:]))
    assert json_of(capsys, "score", answered)[0]["rows"][0]["n"] == 10


def test_another_judge_than_was_asked_is_seen(answered, tmp_path, capsys):
    """Some ratings come from another model, which every report says; and a replay keeps it."""
    judge_with(answered, lambda body, n: chat_reply(GOOD) | {"model": "scripted" if n < 8 else "cheaper"})
    words = "rated 11 of 11 (by another judge, 3 of 3: cheaper)"
    assert words in capsys.readouterr().out
    kept = tmp_path / "kept.jsonl"
    (answered / "judgements.jsonl").rename(kept)
    assert evals("judge", answered, "--judge", kept) == 0 and words in capsys.readouterr().out


def test_a_conversation_that_was_damaged_is_named(answered, capsys):
    path = answered / "requests.jsonl"
    right = path.read_text(encoding="utf-8")
    for old, new, column in (('"messages": [', '"messages": [7, ', "messages"),
                             ('"references": "', '"references": 7, "x": "', "references")):
        path.write_text(right.replace(old, new, 1), encoding="utf-8")
        assert evals("judge", answered, "--judge", "nothing.jsonl") == 2
        assert f"requests.jsonl, row 1, column {column}: 7 is no" in capsys.readouterr().err


def test_every_average_is_the_mean_of_what_its_name_says(answered, capsys):
    """Ratings 1 to 10 and 1 again, in the order of the requests."""
    judge_with(answered, lambda body, n: f"[[{n % 10 + 1}]]")
    run, (_, kept) = read_run(answered), read_judgements(answered / "judgements.jsonl")
    ratings = {one["id"]: kept["none", one["id"]]["rating"] for one in run.requests}
    groups = {}
    for one in run.requests:
        for label in (f"category {one['category']}", f"turn {one['turn'] + 1}"):
            groups.setdefault(label, []).append(ratings[one["id"]])
    means = {label: statistics.fmean(values) for label, values in groups.items()}
    expected = {"mean over turns": statistics.fmean(ratings.values()), **means,
                "mean over categories": statistics.fmean(v for k, v in means.items() if k.startswith("category")),
                "mean as released": statistics.fmean(means.values())}
    rows = {row["measure"]: row for row in json_of(capsys, "score", answered)[0]["rows"]}
    assert rows.keys() == expected.keys() and len(expected) == 7
    for name, value in expected.items():
        assert_close(rows[name]["value"], value, 1e-12, name=name)
        assert rows[name]["low"] < value < rows[name]["high"]
    assert len({rows[name]["value"] for name in expected if name.startswith("mean")}) == 3


def test_two_judged_runs_are_compared_only_if_the_judge_is_the_same(answered, tmp_path, capsys):
    judge_with(answered, lambda body, n: GOOD)
    items = tmp_path / "items"
    with scripted_server(lambda body, n: "Other.") as (address, _):
        assert evals("run", "mm_mt_bench", items, "--model", address, "--out", tmp_path / "second") == 0
    assert evals("diff", answered, tmp_path / "second") == 2 and "has no ratings yet" in capsys.readouterr().err
    judge_with(tmp_path / "second", lambda body, n: "[[2]]")
    (row,) = json_of(capsys, "diff", answered, tmp_path / "second")
    assert row["difference"] == -5 and row["told_apart"] and row["worse"] == 11
    (tmp_path / "second/judgements.jsonl").unlink()
    judge_with(tmp_path / "second", lambda body, n: "[[3]]", "--image", "no")
    assert evals("diff", answered, tmp_path / "second") == 2 and "another image" in capsys.readouterr().err


def test_the_judge_sees_the_picture_or_not(answered):
    seen, _ = judge_with(answered, lambda body, n: GOOD)
    body = seen[0][1]
    assert list(body) == ["messages", "model", "max_tokens", "temperature"] and body["max_tokens"] == 2048
    assert [chunk["type"] for chunk in body["messages"][1]["content"]] == ["image_url", "text"]
    (answered / "judgements.jsonl").unlink()
    seen, (head, _) = judge_with(answered, lambda body, n: GOOD, "--image", "no")
    assert {len(body["messages"][1]["content"]) for _, body, _, _ in seen} == {1} and head["image"] is False


def test_what_is_not_judged(tmp_path, capsys):
    items = small_items(tmp_path / "items", count=2)
    with scripted_server(lambda body, n: chat_reply("a")) as (address, _):
        assert evals("run", "chartqa", items, "--model", address, "--out", tmp_path / "run") == 0
        assert evals("judge", tmp_path / "run", "--judge", address) == 2
    assert "is not judged" in capsys.readouterr().err and len(list(read_lines(tmp_path / "run/answers.jsonl"))) == 2


def json_of(capsys, *arguments):
    """What a command prints as JSON."""
    capsys.readouterr()
    assert evals(*arguments, "--json") == 0
    return json.loads(capsys.readouterr().out)["runs" if arguments[0] != "diff" else "rows"]


def test_ratings_stand_beside_the_blind_ones(answered, tmp_path, capsys):
    """Seen all are 8. Blind the turns of charts are 2 and those of tables 9: where blind misses is charts."""
    with scripted_server(lambda body, n: f"Answer to: {last_text(body)}") as (address, _):
        model = json.loads((answered / "run.json").read_bytes())["model"]
        assert evals("run", "mm_mt_bench", tmp_path / "items", "--model", address, "--images", "blind", "--out",
                     tmp_path / "blind") == 0
    head = json.loads((tmp_path / "blind/run.json").read_bytes()) | {"model": model}  # the port is another one
    (tmp_path / "blind/run.json").write_text(json.dumps(head), encoding="utf-8")
    judge_with(answered, lambda body, n: "[[8]]")
    odd = {one["id"] for one in read_run(answered).requests if one["category"] == "tables"}
    texts = {one["messages"][-1]["content"][-1]["text"] for one in read_run(answered).requests if one["id"] in odd}
    judge_with(tmp_path / "blind", lambda body, n: "[[9]]" if any(
        f"Answer to: {text}" in last_text(body) for text in texts) else "[[2]]")
    (found,) = json_of(capsys, "report", answered, tmp_path / "blind")
    row, missed = found["rows"][0], found["rows"][0]["blind"]["missed"]
    assert row["value"] == 8 and missed["n"] == 11 - len(odd) and missed["value"] == 8
    assert row["blind"]["score"]["value"] == (9 * len(odd) + 2 * (11 - len(odd))) / 11
    assert_close(row["blind"]["adds"]["value"], row["value"] - row["blind"]["score"]["value"], 1e-12)
