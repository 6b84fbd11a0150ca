"""Arguments that name nothing, or the wrong thing, or a number without a meaning: two lines, and nothing else."""

import argparse
from pathlib import Path

import pytest
from oracles import ROOT

from tests.tools.test_terminal import refused
from tiny.__main__ import build_parser, main
from tiny.tools import bench
from tiny.tools.terminal import Parser, check_numbers, guarded
from tiny.training.__main__ import main as train
from tutorial import attempt, make_coursework, mine
from tutorial.grader.__main__ import main as grade

DUMP = str(next((ROOT / "tests/golden/verify").glob("*.npz")))
LONG = 300 * "x"  # longer than a name of a file can be


def commands(parser, names=()):
    """Every command of a parser, and of the parsers in it, with its arguments."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, inside in action.choices.items():
                yield from commands(inside, (*names, name))
        elif action.nargs != 0:
            yield names, parser, action


def test_only_texts_may_be_empty():
    """Every other argument of every command refuses the empty word, whatever it names."""
    found = list(commands(build_parser()))
    assert len(found) > 70 and {action.dest for _, _, action in found if action.type is str} == {
        "prompt", "question", "text"}
    for names, parser, action in found:
        if action.type is not str:
            with pytest.raises((argparse.ArgumentError, ValueError)):
                pytest.fail(f"{names} {action.dest} takes {parser._get_value(action, '')!r}")


def says(capsys, work, *arguments):
    """What a program says of arguments that it refuses: two lines on standard error."""
    status = guarded(lambda: work(list(arguments)))
    out, err = capsys.readouterr()
    err = "".join(line for line in err.splitlines(keepends=True) if not line.startswith("note: "))
    assert refused(status, err.encode()), (status, out, err)
    assert out == "" and not any(word in err for word in ("Traceback", "Errno", "unexpected", "\\n")), err
    return err


MODELS = {
    "generate": ["--prompt", "a", "--max-tokens", "1", "--model"], "chat": ["--model"],
    "trace": ["--prompt", "a", "--model"], "tokenize": ["a", "--model"], "inspect": [], "memory": [],
    "demo": ["--model"], "demo pictures": ["--vision-model"], "routing": [__file__, "--model"],
    "verify": ["check", "MODEL", DUMP], "convert": ["MODEL", "out"], "bench": ["--rounds", "1", "--model"]}


@pytest.mark.parametrize("wrong", ["", "gone", "folder", "text", LONG])
@pytest.mark.parametrize("name", MODELS)
def test_what_is_no_model(name, wrong, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "text").write_text("Once upon a time.")
    words = [wrong if word == "MODEL" else word for word in MODELS[name]]
    err = says(capsys, main, name.split()[0], *words, *([] if wrong in words else [wrong]))
    assert (wrong or "empty") in err
    assert {path.name for path in tmp_path.iterdir()} == {"folder", "text"}


def test_a_model_of_the_wrong_kind(capsys):
    assert "tiny-pixtral is not a model of text" in says(capsys, train, "tiny-mixtral", "--evaluate", "tiny-pixtral")
    assert "reads text only" in says(capsys, train, "tiny-pixtral", "--evaluate", "tiny-mixtral", "--scenes", "1")
    assert "reads text only" in says(capsys, main, "demo", "--vision-model", "tiny-mixtral")


@pytest.mark.parametrize("program, words, cause", [
    (main, ["generate", "--prompt", "a", "--image", ""], "--image"), (main, ["describe", ""], "IMAGE"),
    (main, ["describe", "a.png", "--patches", ""], "--patches"), (main, ["routing", "a.txt", "--out", ""], "--out"),
    (main, ["routing", ""], "FILE"), (main, ["convert", "tiny-mixtral", ""], "OUT"),
    (main, ["verify", "results", "--out", ""], "--out"), (main, ["verify", "results", "--out", "."], "directory"),
    (main, ["bench", "--model", "tiny-mixtral", "--peer", "gone"], "gone is not a program"),
    (main, ["bench", "--prefill", "0"], "--prefill is 0"), (main, ["bench", "--threads", "1", "-1"], "--threads is -1"),
    (main, [""], "COMMAND"), (train, ["--out", ""], "--out"), (train, ["--evaluate", ""], "--evaluate"),
    (train, ["--rate", "nan"], "--rate is nan"), (train, ["--tokens", "1e30"], "--tokens is 1e+30"),
    (grade, [""], "submissions"), (grade, [".", "--megabytes", "-1"], "--megabytes is -1"),
    (grade, [".", "--seconds", "nan"], "--seconds is nan"), (attempt.main, ["4.2", "--impl", ""], "--impl"),
    (attempt.main, ["4.2", "--seed", "-1"], "--seed is -1"), (attempt.main, [""], "exercise"),
    (mine.main, ["--impl", ""], "--impl"), (make_coursework.main, ["--folder", ""], "--folder"),
    (bench.main, ["--vision", "--peer", ""], "--peer")])
def test_what_is_refused(program, words, cause, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cause in says(capsys, program, *words)
    assert not list(tmp_path.iterdir())


def test_the_empty_word_by_the_type_of_an_argument():
    parser = Parser(prog="x")
    parser.add_argument("--text", type=str)
    parser.add_argument("--name")
    parser.add_argument("--folder", type=Path)
    assert parser.parse_args(["--text", ""]).text == "" and parser.parse_args(["--folder", "a"]).folder == Path("a")
    for name in ("--name", "--folder"):
        with pytest.raises(ValueError, match=f"{name}: it is empty"):
            parser.parse_args([name, ""])


def test_numbers_and_their_limits():
    options = argparse.Namespace(some_number=None, several=[1, 2], one=2.0)
    check_numbers(options, {"some_number": (0, 1), "several": (1, 2), "one": (2, 2)})
    for name, value in (("some_number", -1), ("some_number", float("nan")), ("several", [1, 3]), ("one", 2.5)):
        with pytest.raises(ValueError, match=f"--{name.replace('_', '-')} is "):
            check_numbers(argparse.Namespace(**vars(options) | {name: value}),
                          {"some_number": (0, 1), "several": (1, 2), "one": (2, 2)})
