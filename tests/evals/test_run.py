"""A run can be killed at any moment: nothing is lost, nothing that was answered is asked again, no score changes."""

import io
import json
import multiprocessing
import os
import re
import signal
import sys
import threading
from collections import Counter

import numpy as np
import pytest
from small_evals import chat_reply, command_ends, last_text, scripted_server, small_items

from tiny.__main__ import main
from tiny.config import TinyError
from tiny.evals import run_folder
from tiny.evals.lines import adding, read_lines
from tiny.evals.run import fill, work_through

KILLS = 20


def answer(body):
    """Right for two thirds of the small items; some answers are empty, one is cut."""
    number = int(re.search(r"What is (\d+)", last_text(body))[1])
    if number % 9 == 8:
        return (400, {"error": {"message": f"item {number} is too hard"}}, {})
    return "" if number % 7 == 6 else f"It is so.\nFinal Answer: a{number if number % 3 else 'x'}"


def evals(*arguments):
    """The exit status of a command."""
    return main(["evals", *map(str, arguments)])


def lines(path):
    return [line for _, line in read_lines(path)]


def run_until_done(arguments, kill):
    """Start the command again and again until it ends by itself; `kill` gets each process. Returns how often.

    The processes are forks of one that has imported the command.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tiny.__main__", "tiny.evals.commands", "tiny.evals.run"])
    for starts in range(1, 10 * KILLS):
        process = context.Process(target=command_ends, args=(["evals", *map(str, arguments)],))
        process.start()
        kill(process.pid)
        process.join()
        if process.exitcode != -signal.SIGKILL:
            assert process.exitcode == 0
            return starts
    raise AssertionError("it never ended")


@pytest.mark.parametrize("jobs", [1, 4])
def test_killed_at_twenty_random_answers(jobs, tmp_path, capsys):
    """The report is byte for byte that of a run that nobody disturbed; only what was on its way is asked again."""
    items, rng = small_items(tmp_path / "items", count=60), np.random.default_rng(jobs)
    plan, state = sorted(rng.choice(80, KILLS, replace=False).tolist()), {"pid": 0, "killed": 0}
    lock, goes_on = threading.Lock(), threading.Event()
    goes_on.set()

    def kill(pid):
        os.kill(pid, signal.SIGKILL)
        goes_on.set()

    def script(body, number):
        """This request is answered, and within 10 ms its process is killed. Later ones wait for that, or a process
        that few requests are left for could end before.
        """
        goes_on.wait()
        with lock:
            if state["pid"] and state["killed"] < KILLS and number >= plan[state["killed"]]:
                state["killed"] += 1
                pid, state["pid"] = state["pid"], 0
                goes_on.clear()
                threading.Timer(rng.random() * 0.01, kill, (pid,)).start()
        return answer(body)

    with scripted_server(script) as (address, seen):
        asked = ["run", "chartqa", items, "--model", address, "--prompt", "explicit", "naive"]
        calm = tmp_path / "calm"
        assert evals(*asked, "--out", calm) == 0
        calls = len(seen)
        assert calls == 120
        del seen[:]
        asked += ["--out", tmp_path / "killed", "--jobs", jobs]
        starts = run_until_done(asked, lambda pid: state.update(pid=pid))
    assert starts > KILLS and state["killed"] == KILLS
    folders = (calm, tmp_path / "killed")
    assert len(seen) <= calls + jobs * KILLS
    found = [lines(folder / "answers.jsonl") for folder in folders]
    once = [Counter((line["prompt"], line["id"]) for line in one) for one in found]
    assert once[0] == once[1] and set(once[1].values()) == {1}
    reports = []
    for folder in folders:
        assert evals("report", folder) == 0
        printed = capsys.readouterr().out.partition("chartqa")[2]
        reports.append([printed, *((folder / name).read_bytes() for name in ("report.md", "report.json"))])
    assert reports[0] == reports[1] and "answered 54 of 60; 6 failed, 8 empty" in reports[0][0]


def test_a_line_that_was_cut_is_made_again(tmp_path):
    """A kill inside of a write leaves half a line, at any byte of it."""
    items, out = small_items(tmp_path / "items", count=5), tmp_path / "run"
    with scripted_server(lambda body, n: answer(body)) as (address, seen):
        assert evals("run", "chartqa", items, "--model", address, "--out", out) == 0
        whole = (out / "answers.jsonl").read_bytes()
        last = whole.rindex(b"\n", 0, -1) + 1
        for cut in (last, last + 1, len(whole) - 1):
            (out / "answers.jsonl").write_bytes(whole[:cut])
            assert len(lines(out / "answers.jsonl")) == 4
            assert evals("run", "chartqa", items, "--model", address, "--out", out) == 0
            assert (out / "answers.jsonl").read_bytes() == whole
        assert len(seen) == 5 + 3


def test_another_run_is_refused_with_what_differs(tmp_path, capsys):
    items, out = small_items(tmp_path / "items"), tmp_path / "run"
    other = small_items(tmp_path / "other", count=13)
    with scripted_server(lambda body, n: answer(body)) as (address, seen):
        asked = ["run", "chartqa", items, "--model", address, "--out", out]
        assert evals(*asked, "--limit", 2) == 0
        before = (out / "answers.jsonl").read_bytes()
        for more, words in ([["--limit", 3], "limit was 2 and is now 3"],
                            [["--limit", 2, "--images", "blind"], "images was original and is now blind"],
                            [["--limit", 2, "--prompt", "naive"],
                             "the prompts were explicit (a7d40a) and are now naive (e3b0c4)"],
                            [["--limit", 2, "--name", "else"], "model was"]):
            assert evals(*asked, *more) == 2
            said = capsys.readouterr().err
            assert words in said and "remedy: Give --out a new folder" in said
        asked[2] = other
        assert evals(*asked, "--limit", 2) == 2 and "items was" in capsys.readouterr().err
        assert len(seen) == 2 and (out / "answers.jsonl").read_bytes() == before


def test_the_same_folder_in_another_place_goes_on(tmp_path):
    items, out = small_items(tmp_path / "items"), tmp_path / "run"
    with scripted_server(lambda body, n: answer(body)) as (address, seen):
        assert evals("run", "chartqa", items, "--model", address, "--out", out) == 0
        items.rename(tmp_path / "moved")
        assert evals("run", "chartqa", tmp_path / "moved", "--model", address, "--out", out) == 0
        assert len(seen) == 12
    assert run_folder.read_head(out)["folder"] == str(tmp_path / "moved"), "a judge looks for the pictures there"


def test_a_server_at_another_address_goes_on(tmp_path, capsys):
    """`serve --port 0` has another port each time. A blind run of another address belongs to it."""
    items, out = small_items(tmp_path / "items"), tmp_path / "run"
    asked = ["run", "chartqa", items, "--out", out, "--model"]
    with scripted_server(lambda body, n: answer(body)) as (first, _):
        assert evals(*asked, first) == 0
    path = out / "answers.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:9]))
    with scripted_server(lambda body, n: answer(body)) as (second, seen):
        assert evals(*asked, second) == 0 and len(seen) == 3
        assert f"scripted was at {first} and is now at {second}" in capsys.readouterr().err
        assert run_folder.read_head(out)["model"]["address"] == second
    with scripted_server(lambda body, n: answer(body)) as (third, _):
        assert evals(*asked[:3], "--out", tmp_path / "blind", "--model", third, "--images", "blind") == 0
    assert evals("score", out, "--blind", tmp_path / "blind") == 0


def test_a_server_that_refuses_everything_says_why(tmp_path, capsys):
    items = small_items(tmp_path / "items")
    no = (400, {"error": {"message": "no images here"}}, {})
    with scripted_server(lambda body, n: no) as (address, _):
        asked = ["run", "chartqa", items, "--model", address, "--out", tmp_path / "run"]
        assert evals(*asked) == 2 and evals(*asked) == 2
    found = capsys.readouterr()
    assert "answered 0 of 12; 12 failed (failed, 12 of 12: " in found.out
    assert found.err.count("Nothing was answered: 12 of 12: ") == 2 and "400 Bad Request: no images here" in found.err
    assert "--again" in found.err and "next:" not in found.err


@pytest.mark.parametrize(("rows", "prompts", "words"), [
    ([{"id": "item0", "text": "a"}, {"id": "item0", "text": "b"}], ["naive"],
     "row 2, column id: 'item0' was answered in an earlier row"),
    ([{"id": "item0", "text": "a"}], ["naive", "explicit"], "row 1, column prompt: it is missing"),
    ([{"id": "item77", "text": "a"}], ["naive"], "there is no answer in said.jsonl")])
def test_recorded_answers_that_would_be_taken_for_others(rows, prompts, words, tmp_path, capsys):
    items, file = small_items(tmp_path / "items"), tmp_path / "said.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert evals("run", "chartqa", items, "--model", file, "--out", tmp_path / "run", "--prompt", *prompts) == 2
    assert words in capsys.readouterr().err


def test_answers_that_a_file_does_not_have_are_no_failures(tmp_path, capsys):
    """Those of ids that were not asked are named, too: it may be the file of another set."""
    items, file = small_items(tmp_path / "items"), tmp_path / "said.jsonl"
    rows = [{"id": "item0", "error": "broke"}, *({"id": f"item{n}", "text": "a"} for n in (0, 1, 77))]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert evals("run", "chartqa", items, "--model", file, "--out", tmp_path / "run") == 0
    found = capsys.readouterr()
    assert "explicit: answered 2 of 12; 10 not in the file\n" in found.out
    assert "said.jsonl has 1 answer to nothing that is asked here, such as item77" in found.err


def test_an_answer_that_stands_twice_in_a_run_is_refused(tmp_path, capsys):
    items, out = small_items(tmp_path / "items"), tmp_path / "run"
    with scripted_server(lambda body, n: answer(body)) as (address, _):
        assert evals("run", "chartqa", items, "--model", address, "--out", out) == 0
    with open(out / "answers.jsonl", "a", encoding="utf-8") as file:
        file.write('{"id": "item1", "prompt": "explicit", "text": "Final Answer: a1"}\n')
    assert evals("score", out) == 2
    assert "answers.jsonl, row 13, column id: 'item1' was answered in an earlier row" in capsys.readouterr().err


def test_what_failed_is_asked_again_only_if_that_is_wanted(tmp_path):
    items, out, broken = small_items(tmp_path / "items"), tmp_path / "run", [True]
    with scripted_server(lambda body, n: answer(body) if broken[0] else "Final Answer: a8") as (address, seen):
        asked = ["run", "chartqa", items, "--model", address, "--out", out]
        assert evals(*asked) == 0 and evals(*asked) == 0 and len(seen) == 12
        broken[0] = False
        assert evals(*asked, "--again") == 0 and len(seen) == 13
    found = run_folder.read_run(out)
    assert [key[1] for key in found.answers if "error" in found.answers[key]] == []
    assert found.answers["explicit", "item8"]["text"] == "Final Answer: a8"


def test_a_run_of_recorded_answers_scores_the_same(tmp_path, capsys):
    """`answers.jsonl` of one run is a model for another."""
    items = small_items(tmp_path / "items")
    with scripted_server(lambda body, n: answer(body)) as (address, _):
        assert evals("run", "chartqa", items, "--model", address, "--out", tmp_path / "a", "--prompt", "explicit",
                     "naive") == 0
    kept = tmp_path / "a/answers.jsonl"
    assert evals("run", "chartqa", items, "--model", kept, "--out", tmp_path / "b", "--prompt", "explicit", "naive",
                 "--jobs", 3) == 0
    capsys.readouterr()
    rows = []
    for folder in ("a", "b"):
        assert evals("score", tmp_path / folder, "--json") == 0
        rows.append([{key: row[key] for key in ("measure", "value", "low", "high", "n")}
                     for row in json.loads(capsys.readouterr().out)["runs"][0]["rows"]])
    assert rows[0] == rows[1] and len(rows[0]) == 12


def test_two_processes_do_not_write_one_file(tmp_path):
    with adding(tmp_path / "a") as add:
        add({"a": 1})
        with pytest.raises(TinyError, match="another process"), adding(tmp_path / "a"):
            pass
    assert lines(tmp_path / "a") == [{"a": 1}]


def test_after_an_error_what_is_on_its_way_is_kept():
    """Four work at once; one meets an error that ends the run while three others are busy."""
    kept, gate = [], threading.Barrier(4)

    def work(n):
        if n < 4:
            gate.wait(10)
        if n == 2:
            raise TinyError("The server is gone.", "Start it.")
        return {"n": n}

    with pytest.raises(TinyError, match="gone"):
        work_through(range(100), work, 4, kept.append)
    assert {0, 1, 3} <= {line["n"] for line in kept} and len(kept) < 100


def test_progress_is_seen_before_the_first_answer(monkeypatch):
    """On a terminal: an answer may take minutes."""
    shown, waiting = io.StringIO(), []
    monkeypatch.setattr(shown, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys, "stderr", shown)
    fill([{"text": ""}], lambda entry: waiting.append(shown.getvalue()) or entry, 1, lambda line: None)
    assert "asking:   0%" in waiting[0] and "0/1" in waiting[0]


def test_progress_is_noted_where_there_is_no_terminal(capsys, monkeypatch):
    monkeypatch.setattr("tiny.evals.run.NEWS", 0.0)
    fill([{"text": ""}, {"error": "no"}, {"rating": None}], dict, 1, lambda line: None)
    shown = re.findall(r"asking: [^\r]*? (\d)/3 \[\d\d:\d\d<([^,]*),([^]]*)\]", capsys.readouterr().err)
    assert [done for done, _, _ in shown][-3:] == ["1", "2", "3"] and re.fullmatch(r"\d\d:\d\d", shown[-2][1])
    assert "failed=1" in shown[-2][2] and "failed=2" in shown[-1][2] and "failed" not in shown[-3][2]
    monkeypatch.setattr("tiny.evals.run.NEWS", 30.0)
    fill([{"text": ""}], dict, 1, lambda line: None)
    assert capsys.readouterr().err == "", "what is over soon says nothing"


@pytest.mark.parametrize(("name", "damage", "words"), [
    ("answers.jsonl", b'{"id": "item1", "prompt": "explicit"}\n', "answers.jsonl, row 13, column text: it is missing"),
    ("answers.jsonl", b'{"id": "itemX", "prompt": "explicit", "text": ""}\n', "nothing was asked with prompt"),
    ("answers.jsonl", b'[1]\n', "row 13 holds a list"), ("answers.jsonl", b'{"id": \n', "row 13 is not valid JSON"),
    ("answers.jsonl", b'{"id": "a", "id": "b"}\n', "row 13 has the key 'id' twice"),
    ("answers.jsonl", b"\xff\n", "row 13 is not valid JSON"), ("answers.jsonl", b"[" * 5000 + b"\n", "row 13"),
    ("requests.jsonl", b'{"id": "item1"}\n', "requests.jsonl, row 13, column item: it is missing"),
    ("requests.jsonl", b'{"id": "more", "item": "more", "turn": 0, "references": []}\n', "has 13 requests"),
    ("run.json", b"x", "run.json is not valid JSON")])
def test_damaged_files_are_named_with_their_line(name, damage, words, tmp_path, capsys):
    items, out = small_items(tmp_path / "items"), tmp_path / "run"
    with scripted_server(lambda body, n: answer(body)) as (address, _):
        assert evals("run", "chartqa", items, "--model", address, "--out", out) == 0
    with open(out / name, "ab") as file:
        file.write(damage)
    capsys.readouterr()
    for command in (["score", out], ["report", out], ["diff", out, out]):
        assert evals(*command) == 2
        said = capsys.readouterr().err
        assert words in said and "remedy: " in said and "Traceback" not in said


@pytest.mark.parametrize(("change", "words"), [
    ({"format": 1}, "is not of format 2: another version of this program made it"),
    ({"task": "chess"}, "There is no task 'chess'"),
    ({"prompts": []}, "column prompts: [] is no object"), ({"model": {}}, "column model: None is no object of name"),
    ({"requests": "1"}, "column requests: '1' is no whole number")])
def test_a_head_that_is_none(change, words, tmp_path, capsys):
    items, out = small_items(tmp_path / "items"), tmp_path / "run"
    with scripted_server(lambda body, n: answer(body)) as (address, _):
        assert evals("run", "chartqa", items, "--model", address, "--out", out) == 0
    head = json.loads((out / "run.json").read_bytes())
    (out / "run.json").write_text(json.dumps(head | change), encoding="utf-8")
    assert evals("score", out) == 2 and words in capsys.readouterr().err


@pytest.mark.parametrize(("arguments", "words"), [
    (["run", "mmmu", "ITEMS", "--model", "URL", "--out", "OUT"], "holds items of chartqa, not of mmmu"),
    (["run", "chess", "ITEMS", "--model", "URL", "--out", "OUT"], "There is no task 'chess'"),
    (["run", "chartqa", "nowhere", "--model", "URL", "--out", "OUT"], "no folder of items"),
    (["run", "chartqa", "ITEMS", "--model", "URL", "--out", "ITEMS"], "no run is in it"),
    (["run", "chartqa", "ITEMS", "--model", "http://", "--out", "OUT"], "not the address of a server"),
    (["run", "chartqa", "ITEMS", "--model", "127.0.0.1:80", "--out", "OUT"], "Write http://127.0.0.1:80."),
    (["run", "chartqa", "ITEMS", "--model", "nothing.jsonl", "--out", "OUT"], "nothing.jsonl"),
    (["run", "chartqa", "ITEMS", "--model", "URL", "--out", "OUT", "--prompt", "polite"], "no prompt 'polite'"),
    (["run", "chartqa", "ITEMS", "--model", "URL", "--out", "OUT", "--prompt", "naive", "naive"], "given twice"),
    (["run", "chartqa", "ITEMS", "--model", "URL", "--out", "OUT", "--limit", "0"], "--limit is 0"),
    (["run", "chartqa", "ITEMS", "--model", "URL", "--out", "OUT", "--jobs", "1000"], "--jobs is 1000"),
    (["run", "chartqa", "ITEMS", "--model", "URL", "--out", "OUT", "--limit", "-1"], "from 1 to 1,099,511,627,776"),
    (["run", "chartqa", "ITEMS", "--model", "URL", "--out", "OUT", "--timeout", "nan"], "--timeout is nan"),
    (["run", "chartqa", "ITEMS", "--model", "URL", "--out", "OUT", "--token", "nothing"], "nothing"),
    (["score", "ITEMS"], "holds no run"), (["report", "nowhere"], "nowhere"), (["diff", "a", "b"], "a holds no run"),
    (["judge", "ITEMS", "--judge", "URL"], "holds no run"), ([], "required: COMMAND"),
    (["score", "ITEMS", "--level", "4"], "invalid choice")])
def test_wrong_arguments_teach(arguments, words, tmp_path, capsys, monkeypatch):
    items = small_items(tmp_path / "items")
    monkeypatch.chdir(tmp_path)
    with scripted_server(lambda body, n: answer(body)) as (address, seen):
        places = {"ITEMS": str(items), "URL": address, "OUT": str(tmp_path / "out")}
        assert evals(*(places.get(one, one) for one in arguments)) == 2
        assert not seen
    said = capsys.readouterr().err
    assert words in said and "remedy: " in said and "Traceback" not in said


def test_a_server_that_answers_with_another_model_is_seen(tmp_path, capsys):
    """In what `run` says and in every report, and recorded answers keep it."""
    items, words = small_items(tmp_path / "items", count=3), "answered 3 of 3 (by another model, 2 of 2: cheaper)"
    with scripted_server(lambda body, n: chat_reply("Yes.") | {"model": "asked" if n == 2 else "cheaper"}) as (
            address, _):
        out = tmp_path / "out"
        assert evals("run", "chartqa", items, "--model", address, "--name", "asked", "--out", out) == 0
    said = capsys.readouterr()
    assert words in said.out and said.err.count("note: asked was asked for, and cheaper answers") == 1
    assert evals("run", "chartqa", items, "--model", out / "answers.jsonl", "--out", tmp_path / "again") == 0
    assert words in capsys.readouterr().out
    for folder in (out, tmp_path / "again"):
        assert evals("report", folder) == 0 and words in capsys.readouterr().out


def test_the_spread_over_prompts_stands_beside_the_published_one(tmp_path, capsys):
    """Each in a table of its own, and the published one only where several prompts were asked."""
    items, out = small_items(tmp_path / "items", count=2), tmp_path / "out"
    with scripted_server(lambda body, n: answer(body)) as (address, _):
        for more, several in (([], False), (["--prompt", "paraphrases"], True)):
            out = tmp_path / f"out{several}"
            assert evals("run", "chartqa", items, "--model", address, "--out", out, *more) == 0
            assert evals("report", out) == 0
            own, _, beside = capsys.readouterr().out.partition("Published, for comparison.")
            assert ("measure" in own and "sd" in own) == several and "table 7" not in own
            assert bool(re.search(r"table 7: ten other prompts, level 3  chartqa: mean, sd\n-+\n", beside)) == several
            assert bool(re.search(r"^Pixtral 12B +83\.8, 0\.4$", beside, re.M)) == several


def test_prompts_of_files_and_of_tasks_without_one(tmp_path, capsys):
    items, own = small_items(tmp_path / "items", count=2), tmp_path / "own.txt"
    own.write_text("Answer like this. Final Answer: X\n", encoding="utf-8")
    with scripted_server(lambda body, n: answer(body)) as (address, seen):
        asked = ["run", "chartqa", items, "--model", address, "--out", tmp_path / "out", "--prompt"]
        assert evals(*asked, own, "paraphrases") == 0
        texts = {last_text(body) for _, body, _, _ in seen if "What is 1" in last_text(body)}
        assert len(seen) == 22 and len(texts) == 11 and "What is 1?\nAnswer like this. Final Answer: X" in texts
        talks = small_items(tmp_path / "talks", "mm_mt_bench")
        asked = ["run", "mm_mt_bench", talks, "--model", address, "--out", tmp_path / "more"]
        assert evals(*asked, "--prompt", "explicit") == 2 and "has no prompt" in capsys.readouterr().err
