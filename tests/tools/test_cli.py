"""The command line: what goes to which stream, exit statuses, and every bad input in two lines."""

import io
import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from oracles import GOLDEN, ROOT
from small import raw_file

import tiny
from tiny.__main__ import VERSION, main
from tiny.files.safetensors import read_safetensors
from tiny.tokenizer import SentencePieceTokenizer
from tiny.tools import memory
from tiny.training.saving import save_safetensors

MODEL = str(GOLDEN / "mixtral-a" / "mistral")
HF = str(GOLDEN / "mixtral-a" / "hf")


def call(capsys, *argv) -> tuple[str, list[str], list[str]]:
    """Run a command that must succeed; return its text, its notes, and what else is on standard error."""
    status = main([str(a) for a in argv])
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert status == 0, err
    return out, [s for s in lines if s.startswith("note: ")], [s for s in lines if not s.startswith("note: ")]


def fails(capsys, argv, *names: str) -> str:
    """Run a command that must fail as users are promised: status 2, and two lines whose first says `names`."""
    status = main([str(a) for a in argv])
    out, err = capsys.readouterr()
    lines = [s for s in err.splitlines() if not s.startswith("note: ")]
    assert status == 2, (status, err)
    assert out == "" and "Traceback" not in err
    assert len(lines) == 2 and lines[0].startswith("error: ") and lines[1].startswith("remedy: "), err
    assert len(lines[1]) > len("remedy: ") + 10, "a remedy says something"
    for name in names:
        assert name in lines[0], (name, lines[0])
    return err


def ask(folder, *more) -> list[str]:
    return ["generate", "--model", str(folder), "--prompt", "One day", "--max-tokens", "4", *more]


@pytest.fixture
def copy(tmp_path) -> Path:
    """A checkpoint in Mistral's layout, to be damaged."""
    return Path(shutil.copytree(MODEL, tmp_path / "model"))


def library(prompt: str, **options) -> tuple[list[int], list[tiny.Token]]:
    model = tiny.load(MODEL)
    ids = [model.tokenizer.bos_id, *model.tokenizer.encode(prompt)]
    return ids, list(tiny.generate(model, ids, **options))


# ---- generate

def test_generate_prints_the_text_of_the_library_and_nothing_else(capsys):
    ids, tokens = library("One day", max_tokens=12)
    out, notes, rest = call(capsys, "generate", "--model", MODEL, "--prompt", "One day", "--max-tokens", "12")
    assert out == "".join(token.text for token in tokens) + "\n"
    assert not rest and "Mistral's layout" in notes[0] and f"{len(ids)} prompt tokens" in notes[-1]


def test_json_is_one_object_with_the_promised_keys(capsys):
    ids, tokens = library("One day", max_tokens=12)
    out, _, _ = call(capsys, "generate", "--model", MODEL, "--prompt", "One day", "--max-tokens", "12", "--json")
    assert out.count("\n") == 1
    said = json.loads(out)
    for key in ("prefill_tokens_per_second", "decode_tokens_per_second", "time_to_first_token_seconds"):
        assert type(said.pop(key)) is float, key
    peak = said.pop("peak_memory_bytes")
    assert type(peak) is int and 10e6 < peak < 10e9 and type(said.pop("major_page_faults")) is int
    assert said == {"model": MODEL, "layout": "mistral", "weights": "resident", "precision": "float32", "seed": None,
                    "device": "cpu", "kernels": [], "prompt_ids": ids,
                    "ids": [token.id for token in tokens], "stop": "max_tokens",
                    "text": "".join(token.text for token in tokens), "logprobs": [token.logprob for token in tokens]}


@pytest.mark.parametrize("more", [(), ("--chat",)])
def test_both_layouts_and_both_ways_of_holding_weights_give_the_same_ids(capsys, more):
    said = [json.loads(call(capsys, "generate", "--model", folder, "--prompt", "One day", "--max-tokens", "8", "--json",
                            "--weights", weights, *more)[0])
            for folder in (MODEL, HF) for weights in ("mapped", "resident")]
    assert all(one["ids"] == said[0]["ids"] for one in said)
    assert [one["layout"] for one in said] == ["mistral", "mistral", "hf", "hf"]
    assert [one["weights"] for one in said] == ["mapped", "resident"] * 2


def test_chat_is_one_user_turn(capsys):
    said = json.loads(call(capsys, *ask(MODEL, "--chat", "--json"))[0])
    expected, _ = tiny.load_tokenizer(MODEL).encode_chat([{"role": "user", "content": "One day"}])
    assert said["prompt_ids"] == expected


def test_precision_reaches_the_model(capsys):
    runs = [json.loads(call(capsys, *ask(MODEL, "--json", "--precision", p))[0]) for p in ("float32", "bfloat16")]
    assert [run["precision"] for run in runs] == ["float32", "bfloat16"]
    assert runs[0]["logprobs"] != runs[1]["logprobs"]


def test_a_seed_repeats_a_text_and_a_drawn_one_is_told(capsys):
    run = ["generate", "--model", MODEL, "--prompt", "One day", "--max-tokens", "20", "--temperature", "1.5"]
    first, notes, _ = call(capsys, *run)
    seed = next(note for note in notes if "seed" in note).split()[2]
    assert call(capsys, *run, "--seed", seed)[0] == first
    assert call(capsys, *run, "--seed", str(int(seed) + 1))[0] != first
    assert not any("seed" in note for note in call(capsys, *run, "--seed", "7")[1])
    assert json.loads(call(capsys, *run, "--seed", "7", "--json")[0])["seed"] == 7


def test_top_p_reaches_the_sampler(capsys):
    run = ["generate", "--model", MODEL, "--prompt", "One day", "--max-tokens", "20"]
    greedy = call(capsys, *run)[0]
    assert call(capsys, *run, "--temperature", "1.5", "--seed", "1", "--top-p", "1e-9")[0] == greedy
    assert call(capsys, *run, "--temperature", "1.5", "--seed", "1")[0] != greedy


def test_the_reason_for_the_end_is_told(capsys, copy, monkeypatch):
    described = json.loads((copy / "params.json").read_text())
    (copy / "params.json").write_text(json.dumps(described | {"max_seq_len": 12}))
    out, notes, _ = call(capsys, "generate", "--model", copy, "--prompt", "One day", "--max-tokens", "99", "--json")
    said = json.loads(out)
    assert said["stop"] == "context" and len(said["prompt_ids"]) + len(said["ids"]) == 12
    assert any("context of 12 tokens is full" in note for note in notes)
    # The first token of this text is now the EOS.
    first = said["ids"][0]
    monkeypatch.setattr(SentencePieceTokenizer, "__init__", eos_is(first, SentencePieceTokenizer.__init__))
    said = json.loads(call(capsys, *ask(copy, "--json"))[0])
    assert (said["stop"], said["ids"], said["text"], said["decode_tokens_per_second"]) == ("eos", [], "", 0.0)


def eos_is(id, original):
    def init(self, model):
        original(self, model)
        self.eos_id = id
    return init


def test_unknown_keys_of_a_configuration_are_a_note(capsys, copy):
    described = json.loads((copy / "params.json").read_text())
    (copy / "params.json").write_text(json.dumps(described | {"colour": 3}))
    assert any("colour" in note for note in call(capsys, *ask(copy))[1])


def test_ctrl_c_ends_with_130_and_says_nothing(capsys, monkeypatch):
    def interrupted(model, ids, **options):
        yield tiny.Token(5, "half", -1.0, None)
        raise KeyboardInterrupt
    monkeypatch.setattr(tiny, "generate", interrupted)
    assert main(ask(MODEL)) == 130
    out, err = capsys.readouterr()
    assert out == "half\n" and all(line.startswith("note: ") for line in err.splitlines())


# ---- processes: streams and encodings

def run(*argv, input: bytes = b"", **environment) -> subprocess.CompletedProcess:
    env = os.environ | {"PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"} | environment
    return subprocess.run([sys.executable, "-m", "tiny", *argv], input=input, capture_output=True, env=env, timeout=60)


def test_text_is_utf8_whatever_the_locale_says_and_the_prompt_can_come_from_standard_input():
    _, tokens = library("Été où", max_tokens=40)
    text = "".join(token.text for token in tokens)
    assert not text.isascii(), "the case needs a text that ASCII cannot hold"
    done = run("generate", "--model", MODEL, "--prompt", "-", "--max-tokens", "40", input="Été où\n".encode(),
               PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode("utf-8") == text + "\n"


def test_standard_input_that_is_not_utf8():
    done = run("generate", "--model", MODEL, "--prompt", "-", input=b"\xff\xfe")
    assert done.returncode == 2 and b"not UTF-8" in done.stderr and len(done.stderr.splitlines()) == 2


def test_a_closed_pipe_is_silent():
    env = os.environ | {"PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "-m", "tiny", "inspect", MODEL, "--all"], env=env,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait() == 141


def test_help_imports_nothing_heavy():
    code = ("import sys; from tiny.__main__ import main; status = main(['--help'])\n"
            "heavy = {'matplotlib', 'sentencepiece', 'regex'} & set(sys.modules)\n"
            "sys.exit(f'{status} {heavy}' if status or heavy else 0)")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    for command in ("demo", "generate", "chat", "describe", "inspect", "memory", "tokenize", "bench"):
        assert f"    {command} " in done.stdout, command


def test_version(capsys):
    out, _, _ = call(capsys, "--version")
    assert np.__version__ in out and "tiny" in out and "Python 3." in out and "blas" in out.lower()


def test_the_version_is_that_of_the_package():
    package = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert package["project"]["version"] == VERSION


def test_no_command_shows_the_help(capsys):
    assert "generate" in call(capsys)[0]


def test_bench_gets_its_own_arguments(monkeypatch):
    seen = []
    monkeypatch.setitem(sys.modules, "tiny.tools.bench", type("bench", (), {"main": staticmethod(seen.append)}))
    assert main(["bench", "--anything", "3"]) == 0
    assert seen == [["--anything", "3"]]


# ---- bad input: files

def stored(copy: Path) -> Path:
    return copy / "consolidated.safetensors"


def test_missing_folder(capsys, tmp_path):
    for command in (ask(tmp_path / "none"), ["inspect", tmp_path / "none"], ["memory", tmp_path / "none"],
                    ["chat", "--model", tmp_path / "none"], ["demo", "--model", tmp_path / "none"]):
        fails(capsys, command, str(tmp_path / "none"), "is not a folder")
    fails(capsys, ["tokenize", "--model", tmp_path / "none", "text"], str(tmp_path / "none"))


def test_nothing_recognised_in_a_folder(capsys, tmp_path):
    (tmp_path / "readme.txt").write_text("nothing here")
    for command in (ask(tmp_path), ["inspect", tmp_path], ["memory", tmp_path]):
        fails(capsys, command, str(tmp_path), "readme.txt")


def test_truncated_file(capsys, copy):
    stored(copy).write_bytes(stored(copy).read_bytes()[:-100])
    for command in (ask(copy), ["inspect", copy], ["memory", copy]):
        fails(capsys, command, "consolidated.safetensors", "not a whole safetensors file")


def damaged(name: str, begin: int, end: int, dtype: str = "F32") -> bytes:
    """A file of two tensors of 8 bytes, the second with its own idea of where it lies."""
    return raw_file({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
                     name: {"dtype": dtype, "shape": [2], "data_offsets": [begin, end]}}, bytes(16))


@pytest.mark.parametrize("data, names", [
    (damaged("twice", 4, 12), ("tensor twice",)),
    (damaged("outside", 16, 24), ("tensor outside",)),
    (damaged("beyond", 8, 16)[:-8], ("tensor beyond",)),
    (damaged("strange", 8, 16, "F8_E4M3"), ("tensor strange", "F8_E4M3")),
    (raw_file({}, length=10**9), ("header would end at byte 1,000,000,008",)),
    (raw_file(b"{broken"), ("header is not JSON",)),
    (raw_file({"line\nbreak\x1b[31m": 3}), ("no proper shape",)),
    (b"", ("0 bytes",)),
], ids=["overlapping", "gap", "out of range", "unknown dtype", "header larger than file", "broken header", "odd name",
        "empty"])
def test_damaged_safetensors(capsys, copy, data, names):
    stored(copy).write_bytes(data)
    err = fails(capsys, ask(copy), "consolidated.safetensors", *names)
    fails(capsys, ["memory", copy], "consolidated.safetensors", *names)
    assert "\x1b" not in err


def test_wrong_shape_missing_and_extra_tensor(capsys, copy):
    tensors = dict(read_safetensors(stored(copy)))
    name = "layers.1.attention.wk.weight"
    for changed in ({name: tensors[name][:-1]}, {"layers.9.extra": tensors[name]}):
        save_safetensors(stored(copy), tensors | changed)
        fails(capsys, ask(copy), next(iter(changed)))
    del tensors[name]
    save_safetensors(stored(copy), tensors)
    fails(capsys, ask(copy), name, "lacks")


def test_missing_shard(capsys, tmp_path):
    folder = shutil.copytree(HF, tmp_path / "hf")
    (folder / "model-00002-of-00003.safetensors").unlink()
    for command in (ask(folder), ["inspect", folder], ["memory", folder]):
        fails(capsys, command, "model-00002-of-00003.safetensors", "model.safetensors.index.json")


@pytest.mark.parametrize("source, file", [(MODEL, "params.json"), (HF, "config.json"),
                                          (HF, "model.safetensors.index.json")])
def test_broken_json(capsys, tmp_path, source, file):
    folder = shutil.copytree(source, tmp_path / "model")
    text = (folder / file).read_text()
    for broken in (text[: len(text) // 2], "[1, 2]", "", "\x00"):
        (folder / file).write_text(broken)
        fails(capsys, ask(folder), file)


def test_senseless_configuration(capsys, copy):
    described = json.loads((copy / "params.json").read_text())
    for key, value in (("n_heads", 0), ("dim", "48"), ("vocab_size", None), ("hidden_dim", -1)):
        (copy / "params.json").write_text(json.dumps(described | {key: value}))
        fails(capsys, ask(copy), key)
        fails(capsys, ["memory", copy], key)


def test_tokenizer_of_another_model(capsys, copy):
    """A larger one is refused; a smaller one is what a model with added tokens has, and a note says so."""
    shutil.copy(tiny.CHECKPOINTS / "tiny-mixtral" / "tokenizer.model", copy / "tokenizer.model")
    fails(capsys, ask(copy), "2048", "509")
    shutil.copy(GOLDEN / "mixtral-b" / "mistral" / "tokenizer.model", copy / "tokenizer.model")
    assert "467 pieces, the model 509: 42 more" in call(capsys, *ask(copy))[1][0]


def test_no_tokenizer(capsys, copy):
    (copy / "tokenizer.model").unlink()
    for command in (ask(copy), ["chat", "--model", copy], ["demo", "--model", copy]):
        fails(capsys, command, "no tokenizer")
    fails(capsys, ["tokenize", "--model", copy, "text"], "tokenizer.model")
    assert "tokenizer  none" in call(capsys, "inspect", copy)[0]


def test_damaged_tokenizer(capsys, copy):
    (copy / "tokenizer.model").write_bytes(b"no model")
    fails(capsys, ask(copy), "tokenizer.model")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_numbers_name_their_layer(capsys, copy, value):
    tensors = dict(read_safetensors(stored(copy)))
    spoilt = np.array(tensors["layers.1.attention.wo.weight"])
    spoilt[3, 4] = value
    save_safetensors(stored(copy), tensors | {"layers.1.attention.wo.weight": spoilt})
    fails(capsys, ask(copy), "NaN or infinity", "'layer01'")
    fails(capsys, ask(copy, "--json"), "'layer01'")


# ---- bad input: prompts and options

def test_prompt_longer_than_the_context(capsys, copy):
    described = json.loads((copy / "params.json").read_text())
    (copy / "params.json").write_text(json.dumps(described | {"max_seq_len": 6}))
    fails(capsys, ["generate", "--model", copy, "--prompt", "many words " * 9], "context 6")


def test_token_id_out_of_range(capsys, monkeypatch):
    monkeypatch.setattr(SentencePieceTokenizer, "encode", lambda self, text: [7, 509])
    fails(capsys, ask(MODEL), "Token id 509 at position 2", "509")


@pytest.mark.parametrize("option, value, names", [
    ("--max-tokens", "0", "max_tokens is 0"), ("--max-tokens", "many", "--max-tokens"),
    ("--temperature", "-1", "-1"), ("--temperature", "nan", "nan"), ("--temperature", "hot", "--temperature"),
    ("--top-p", "0", "top_p is 0"), ("--top-p", "1.5", "1.5"), ("--seed", "-3", "-3"), ("--seed", "x", "--seed"),
    ("--weights", "some", "some"), ("--precision", "int8", "int8"), ("--nothing", "1", "--nothing"),
])
def test_bad_options(capsys, option, value, names):
    fails(capsys, ask(MODEL, option, value), names)
    if option not in ("--nothing",):
        fails(capsys, ["chat", "--model", MODEL, option, value], names)


def test_bad_commands(capsys):
    fails(capsys, ["generate", "--model", MODEL], "--prompt")
    fails(capsys, ["bogus"], "bogus")
    fails(capsys, ["inspect"], "DIR")
    for context in ("0", "-5", "32769", "x"):
        fails(capsys, ["memory", MODEL, "--context", context], "context")


def test_half_a_character_in_the_prompt(capsys):
    fails(capsys, ["generate", "--model", MODEL, "--prompt", "a\ud800"], "U+D800")


@pytest.mark.parametrize("error, name", [(RuntimeError("inner trouble"), "inner trouble"),
                                         (MemoryError("4 GB"), "4 GB"),
                                         (OSError(28, "No space left"), "No space left")])
def test_any_other_error_is_two_lines_too_and_debug_shows_where(capsys, monkeypatch, error, name):
    def broken(*args, **kwargs):
        raise error
    monkeypatch.setattr(tiny, "generate", broken)
    fails(capsys, ask(MODEL), name)
    assert main(ask(MODEL, "--debug")) == 2
    err = capsys.readouterr().err
    assert "Traceback" in err and err.splitlines()[-2].startswith("error: ")


# ---- a run that cannot fit

def test_a_run_that_cannot_fit_is_refused_before_it_loads(capsys, monkeypatch):
    converted = []
    monkeypatch.setattr("tiny.files.weights.Weights.__getitem__", lambda self, name: converted.append(name))
    need = memory.estimate(tiny.load(MODEL).config, tiny.load(MODEL).weights.tensors, 8)
    between = (need.peak("mapped") + need.peak("resident")) // 2
    monkeypatch.setattr(memory, "free_memory", lambda: between)
    err = fails(capsys, ask(MODEL, "--weights", "resident"), "resident", "free")
    assert "--weights mapped" in err
    monkeypatch.setattr(memory, "free_memory", lambda: 1000)
    fails(capsys, ask(MODEL, "--weights", "mapped"), "mapped", "1.00 kB are free")
    fails(capsys, ["chat", "--model", MODEL], "are free")
    assert converted == []


def test_a_long_text_is_refused_for_its_cache(capsys, monkeypatch):
    monkeypatch.setattr(memory, "PROGRAM", 0)
    monkeypatch.setattr(memory, "free_memory", lambda: 14_000_000)
    err = fails(capsys, ask(MODEL)[:-1] + ["30000"], "30,0")
    assert "KV cache takes 480 bytes for each" in err


# ---- chat

def talk(capsys, monkeypatch, lines: str, *more) -> tuple[str, list[str]]:
    monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
    out, notes, rest = call(capsys, "chat", "--model", MODEL, "--max-tokens", "5", *more)
    assert not rest
    return out, notes


class Fake:
    """Stands in for `tiny.generate`: remembers what it was asked, answers what it was told, perhaps interrupted."""

    def __init__(self, *answers: list[str | type]):
        self.answers, self.asked = list(answers), []

    def __call__(self, model, ids, **options):
        self.asked.append(model.tokenizer.decode(ids))
        for text in self.answers.pop(0):
            if text is KeyboardInterrupt:
                raise KeyboardInterrupt
            yield tiny.Token(5, text, -1.0, None)


def test_chat_remembers_resets_and_quits(capsys, monkeypatch):
    fake = Fake(["he", "llo"], ["yes"], ["again"])
    monkeypatch.setattr(tiny, "generate", fake)
    out, notes = talk(capsys, monkeypatch, "hi\nsure?\n/reset\n\n/what\nhi\n/quit\nnot read\n")
    assert out == "hello\nyes\nagain\n"
    assert fake.asked == ["[INST] hi [/INST]", "[INST] hi [/INST] hello [INST] sure? [/INST]", "[INST] hi [/INST]"]
    assert any("forgotten" in note for note in notes)
    assert any("/what is not a command" in note and "/quit" in note for note in notes)


def test_chat_answers_as_generate_does_and_ends_with_its_input(capsys, monkeypatch):
    expected = call(capsys, "generate", "--model", MODEL, "--prompt", "hi", "--chat", "--max-tokens", "5")[0]
    assert talk(capsys, monkeypatch, "hi")[0] == expected


def test_ctrl_c_stops_an_answer_and_not_the_program(capsys, monkeypatch):
    fake = Fake(["half", KeyboardInterrupt], [KeyboardInterrupt], ["whole"])
    monkeypatch.setattr(tiny, "generate", fake)
    out, notes = talk(capsys, monkeypatch, "one\ntwo\nthree\n")
    assert out == "half\nwhole\n"
    # What was said stays in the conversation; a question without any answer does not.
    assert fake.asked[2] == "[INST] one [/INST] half [INST] three [/INST]"
    assert sum("stopped" in note for note in notes) == 2


def test_chat_drops_the_oldest_turns_and_refuses_a_message_that_is_too_long(capsys, monkeypatch, copy):
    # The context holds two turns and an answer of 5 tokens, and not one token more.
    turns = [{"role": role, "content": text} for role, text in
             (("user", "first"), ("assistant", "a"), ("user", "next"))]
    context = len(tiny.load_tokenizer(copy).encode_chat(turns)[0]) + 5
    described = json.loads((copy / "params.json").read_text())
    (copy / "params.json").write_text(json.dumps(described | {"max_seq_len": context}))
    fake = Fake(["a"], ["b"], ["c"], ["d"])
    monkeypatch.setattr(tiny, "generate", fake)
    monkeypatch.setattr(sys, "stdin", io.StringIO("first\nnext\nthen\n" + "long " * 60 + "\nlast\n"))
    out, notes, rest = call(capsys, "chat", "--model", copy, "--max-tokens", "5")
    assert out == "a\nb\nc\nd\n" and not rest
    assert fake.asked[1] == "[INST] first [/INST] a [INST] next [/INST]"
    assert fake.asked[2] == "[INST] next [/INST] b [INST] then [/INST]"
    assert sum("oldest 2 messages are dropped" in note for note in notes) == 2
    assert sum("Shorten it" in note for note in notes) == 1
    assert fake.asked[3] == "[INST] then [/INST] c [INST] last [/INST]"
