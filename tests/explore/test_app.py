"""The server of the page: its answers, what it remembers, and everything that it refuses, with cause and remedy."""

import json
import os
import socket
import threading

import numpy as np
import pytest
from compare import assert_close
from oracles import GOLDEN, ROOT

import tiny
from tests.explore.cases import QUESTION, SCENE, model_of, run_of
from tests.serve import hostile
from tiny.tools.demo import STORY
from tiny.tools.explore import rows, runs

TEXT = {"model": "tiny-mixtral", "text": STORY}


def asked(served, path, body, status=200):
    found, said = served.ask(path, body)
    assert found == status, said
    return said


def floats(served, path, body):
    status, headers, data = served.raw(path, body)
    assert status == 200 and headers["content-type"] == "application/octet-stream", data
    return np.frombuffer(data, "<f4")


def test_a_run_and_its_clicks_are_those_of_the_functions(served):
    found, run = asked(served, "/run", TEXT), run_of("text")
    assert (found["ids"], found["text"], found["prompt"]) == (run.ids, run.text, run.prompt)
    assert "".join(found["pieces"][1:]) == " " + model_of("text").tokenizer.decode(run.ids)
    assert found["experts"][2] == run.trace["experts02"].tolist()
    click = {"run": found["run"], "row": 40}
    assert_close(floats(served, "/row", click), np.frombuffer(rows.packed(run, 40), "<f4"), 0)
    assert_close(floats(served, "/parts", click).reshape(4, 4), rows.parts(run, 40), 1e-5)


def test_an_expert_that_is_off_is_no_number_of_json(served):
    found = asked(served, "/run", TEXT | {"switch": "expert_off", "value": 3})
    data = floats(served, "/row", {"run": found["run"], "row": 3})
    assert np.count_nonzero(data == -np.inf) == 4, "one logit in each layer"


def test_a_picture_is_drawn_asked_about_and_measured(served):
    drawn = asked(served, "/scene", {"model": "tiny-pixtral", "seed": SCENE})
    body = {"model": "tiny-pixtral", "text": QUESTION, "pictures": drawn["pictures"]}
    found = asked(served, "/run", body)
    assert found["text"] == dict(drawn["questions"])[QUESTION] == "purple" and found["grids"] == [[8, 6]]
    assert asked(served, "/run", body | {"blind": True})["text"] != "purple"
    assert asked(served, "/run", body | {"hide": drawn["things"]["star"]})["text"] == "orange"
    assert len(floats(served, "/patch", {"run": found["run"], "patch": 7})) == 4 * 4 * 48
    measured = asked(served, "/measure", {"model": "tiny-pixtral", "kind": "right", "switch": "no_places"})
    assert measured["before"] == ["right", 12, 12] and measured["after"][1] < 6 and measured["blind"][1] < 6
    cell = asked(served, "/cell", {"run": found["run"], "row": 9, "seed": SCENE})["cell"]
    assert f"pictures.draw(model.config, {SCENE}, 1)" in cell


def test_a_number_is_measured_as_trained_and_with_the_switch(served):
    found = asked(served, "/measure", {"model": "tiny-mixtral", "kind": "loss", "switch": "expert_off", "value": 3,
                                       "layer": 3})
    assert abs(found["before"][1] - 0.403) < 2e-3 and abs(found["after"][1] - 1.224) < 5e-3


def test_what_is_forgotten_is_asked_again_and_has_the_same_name(served, monkeypatch):
    """Ten comparisons, and then a click."""
    from tiny.serve.explore import kept

    first = asked(served, "/run", TEXT)
    monkeypatch.setattr(kept, "ALL_BYTES", 3 * run_of("text").size)
    for value in range(10):
        asked(served, "/run", TEXT | {"switch": "expert_off", "value": value % 8, "layer": value % 4, "tokens": 39})
    said = asked(served, "/row", {"run": first["run"], "row": 5}, 410)
    assert said["error"]["cause"] and said["error"]["remedy"]
    assert asked(served, "/run", TEXT)["run"] == first["run"]
    assert len(floats(served, "/row", {"run": first["run"], "row": 5})) == 4 * 4 * 6 + 4 * 8 + 2 * 4 * 2 + 2048


def test_the_newest_run_is_kept_however_large(served, monkeypatch):
    from tiny.serve.explore import kept

    monkeypatch.setattr(kept, "ALL_BYTES", 1)
    run = asked(served, "/run", TEXT | {"tokens": 7})
    assert len(floats(served, "/row", {"run": run["run"], "row": 2}))


def test_an_answer_does_not_wait_for_an_acknowledgement():
    """Without TCP_NODELAY each click took 40 ms more."""
    from tiny.serve.command import listen

    with listen("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()):
        connection, _ = listener.accept()
        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
        connection.close()


def test_two_windows_at_once_get_the_same(served):
    found = {}

    def window(number):
        run = asked(served, "/run", TEXT | {"tokens": 12})
        found[number] = run["ids"], floats(served, "/row", {"run": run["run"], "row": 30}).tobytes()

    windows = [threading.Thread(target=window, args=(number,)) for number in range(4)]
    for one in windows:
        one.start()
    for one in windows:
        one.join()
    assert len(found) == 4 and len(set(map(str, found.values()))) == 1


def test_every_answer_forbids_everything_but_its_own_files(served):
    for path, body in (("/", None), ("/main.js", None), ("/style.css", None), ("/nothing", None), ("/run", b"{")):
        _, headers, _ = served.raw(path, body)
        policy = headers["content-security-policy"]
        assert policy.startswith("default-src 'none'") and "unsafe" not in policy and "http" not in policy
        assert headers["x-content-type-options"] == "nosniff" and headers["cache-control"] == "no-store"
        assert "access-control-allow-origin" not in headers


@pytest.mark.parametrize("path", ["/page/main.js", "/../app.py", "/%2e%2e/app.py", "//main.js", "/main.js/",
                                  "/README.md", "/index.html%00", "/etc/passwd", "/run/"])
def test_no_path_of_a_request_is_read(served, path):
    status, _, data = served.raw(path)
    assert status == 404 and json.loads(data)["error"]["remedy"]


@pytest.mark.parametrize(("header", "status"), [
    ({"Host": "evil.example"}, 421), ({"Host": "127.0.0.1.evil.example"}, 421),
    ({"Origin": "https://evil.example"}, 403), ({"Origin": "null"}, 403)])
def test_pages_of_others_are_refused(served, header, status):
    assert served.ask("/run", TEXT, header)[0] == status


def test_a_body_of_more_than_6_mb_is_refused(served):
    assert served.ask("/run", b" " * (6 << 20) + b"{}")[0] == 413
    assert served.raw("/run", method="POST", headers={"Content-Length": "99999999999"})[0] == 413


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'{"a": NaN}', b"{\"a\": 1e999}", b"\xff", hostile.DEEP])
def test_what_is_no_request(served, body):
    for path in ("/run", "/row", "/measure", "/scene", "/cell", "/patch", "/parts"):
        status, said = served.ask(path, body)
        assert status == 400 and said["error"]["cause"] and said["error"]["remedy"], (path, said)


BAD = [("/run", {"text": "a"}), ("/run", {"model": "tiny-mixtral"}), ("/run", TEXT | {"model": "/etc/passwd"}),
       ("/run", TEXT | {"switch": "__init__"}), ("/run", TEXT | {"switch": "expert_off", "value": 8}),
       ("/run", TEXT | {"switch": "expert_off", "layer": 4}), ("/run", TEXT | {"tokens": 201}),
       ("/run", TEXT | {"tokens": 0}), ("/run", TEXT | {"hide": [0]}), ("/run", TEXT | {"hide": "all"}),
       ("/run", TEXT | {"hide": [1e9]}), ("/run", TEXT | {"text": "word " * 600}), ("/run", TEXT | {"text": "\ud800"}),
       ("/run", TEXT | {"text": "x" * (1 << 20 | 1)}), ("/run", TEXT | {"pictures": "x"}),
       ("/run", TEXT | {"pictures": [None]}), ("/run", {"model": "tiny-pixtral", "text": "x", "pictures": ["x"] * 9}),
       ("/row", {"row": 1}), ("/measure", {"model": "tiny-mixtral", "kind": "right"}),
       ("/measure", {"model": "tiny-mixtral", "kind": "hiding"}), ("/measure", {"model": "tiny-mixtral", "kind": "x"}),
       ("/measure", {"model": "tiny-pixtral", "kind": "pairs", "switch": "expert_off"}),
       ("/scene", {"model": "tiny-mixtral"}), ("/scene", {"model": "tiny-pixtral", "number": 9}),
       ("/scene", {"model": "tiny-pixtral", "seed": -1}), ("/scene", {"model": "tiny-pixtral", "seed": 2**60})]


@pytest.mark.parametrize(("path", "body"), BAD, ids=range(len(BAD)))
def test_what_cannot_be_answered_has_cause_and_remedy(served, path, body):
    status, said = served.ask(path, body)
    assert status == 400 and said["error"]["cause"] and said["error"]["remedy"], said
    assert "Error:" not in said["error"]["cause"] and "0x" not in said["error"]["cause"], said


@pytest.mark.parametrize("place", [-1, 10**6, 1.5, "0", None, True])
def test_places_that_a_run_does_not_have(served, place):
    run = asked(served, "/run", TEXT)["run"]
    for path, name in (("/row", "row"), ("/parts", "row"), ("/patch", "patch"), ("/cell", "row")):
        status, said = served.ask(path, {"run": run, name: place})
        assert status == 400 and said["error"]["remedy"], (path, said)
    assert served.ask("/cell", {"run": run, "row": 0, "layer": 4})[0] == 400


def urls():
    """The addresses of hostile pictures that stand in a user's message, by name."""
    for name, ((first, *_)) in hostile.images():
        chunk = first["content"][0]
        url = chunk.get("image_url") if isinstance(chunk, dict) else None
        if first["role"] == "user" and isinstance(url, dict) and not name.startswith("too many"):
            yield name, url["url"]


BOMBS = dict(urls())


@pytest.mark.parametrize("name", BOMBS)
def test_pictures_that_are_none_and_pictures_that_are_traps(served, name):
    status, said = served.ask("/run", {"model": "tiny-pixtral", "text": "x", "pictures": [BOMBS[name]]})
    assert status in (400, 413) and said["error"]["cause"] and said["error"]["remedy"], said


def test_nothing_is_written_to_disk(served):
    """No file of the repository is newer than before, and no name of a file reaches the server at all."""
    def files():
        return {path: path.stat().st_mtime_ns for path in (ROOT / "tiny").rglob("*")
                if path.is_file() and "__pycache__" not in path.parts}

    before, here = files(), set(os.listdir())
    drawn = asked(served, "/scene", {"model": "tiny-pixtral", "seed": 7, "number": 2})
    asked(served, "/run", {"model": "tiny-pixtral", "text": "<b>x</b>", "pictures": drawn["pictures"]})
    assert files() == before and set(os.listdir()) == here


@pytest.mark.parametrize(("folder", "precision"), [("mixtral-a/mistral", "bfloat16"), ("mixtral-a/hf", "float32")])
def test_another_checkpoint(folder, precision):
    """Random weights of other sizes, in either layout and in either precision."""
    pytest.importorskip("starlette", reason="The server needs the extra `serve`, which is not installed.")
    from tiny.serve.explore import asked as said
    from tiny.serve.explore.kept import Explored

    model = tiny.load(GOLDEN / folder, precision=precision)
    (about,) = said.start({"other": model})["models"]
    assert len(about["pieces"]) == model.config.vocab_size and about["precision"] == precision and not about["large"]
    run = runs.write(model, runs.Ask("Hello", 6))
    assert json.dumps(said.told(run), allow_nan=False)
    for row in (0, len(run.ids) - 1):
        sums = rows.attention(run, row).sum(axis=2)
        assert_close(sums, np.ones(sums.shape), 1e-6 if precision == "float32" else 0.02)
        assert rows.packed(run, row) and np.isfinite(rows.parts(run, row)).all()
    found = Explored({"other": model}, None).measure("other", model, runs.Ask("", switch="experts_a_token", value=1),
                                                     "loss", lambda: None)
    assert found["before"].of == found["after"].of > 0


def test_a_large_model_is_called_large_and_measured_on_less(monkeypatch):
    from tiny.serve.explore import asked as said
    from tiny.serve.explore import kept

    monkeypatch.setattr(kept, "LARGE", 1000)
    model = model_of("text")
    (about,) = said.start({"tiny-mixtral": model})["models"]
    assert about["large"] and "3.9 million parameters, 1.5 million active" in about["cost"]
    explored = kept.Explored({"tiny-mixtral": model}, None)
    few = explored.measure("tiny-mixtral", model, runs.Ask(""), "loss", lambda: None)
    assert few["before"] == few["after"] and few["before"].of < 600
