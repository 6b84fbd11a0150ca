"""What the commands compute: counts, bytes, shares, pictures; and how they look."""

import io
import json
import math
import re
import shutil
import struct
import sys
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from compare import assert_close
from oracles import GOLDEN
from PIL import Image
from small import random_tensors, sizes, write_mistral

import tiny
from tiny.__main__ import main
from tiny.files.weights import expected_shapes
from tiny.system.pictures import MAX_PIXELS
from tiny.tools import demo, memory, plots, session
from tiny.tools.terminal.coloured_text import COLOURS, RESET, Painter, expert_shares, legend, paint
from tiny.training.images import scenes
from tiny.training.images.evaluate import SEED, plain
from tutorial.pages import reference

MODEL = GOLDEN / "mixtral-a" / "mistral"
HF = GOLDEN / "mixtral-a" / "hf"
PIXTRAL = GOLDEN / "pixtral-a" / "mistral"
PARAMS = {"dim": 4096, "n_layers": 32, "head_dim": 128, "hidden_dim": 14336, "n_heads": 32, "n_kv_heads": 8,
          "norm_eps": 1e-5, "vocab_size": 32000, "moe": {"num_experts_per_tok": 2, "num_experts": 8}}
HF_CONFIG = {"model_type": "mixtral", "hidden_size": 4096, "num_hidden_layers": 32, "intermediate_size": 14336,
             "num_attention_heads": 32, "num_key_value_heads": 8, "rms_norm_eps": 1e-5, "vocab_size": 32000,
             "rope_theta": 1e6, "num_local_experts": 8, "num_experts_per_tok": 2, "max_position_embeddings": 32768}


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def output(capsys, *argv) -> str:
    status = main([str(a) for a in argv])
    out, err = capsys.readouterr()
    assert status == 0, err
    return out


@pytest.fixture(params=["params.json", "config.json"])
def released(request, tmp_path) -> Path:
    """A folder with nothing but the configuration of the real Mixtral 8x7B, in either layout."""
    (tmp_path / request.param).write_text(json.dumps(PARAMS if request.param == "params.json" else HF_CONFIG))
    return tmp_path


# ---- memory and inspect: the real Mixtral's numbers

def test_the_real_mixtral_from_its_configuration_alone(released):
    checkpoint = memory.read_headers(released)
    assert memory.parameters(checkpoint.config) == (46_702_792_704, 12_879_925_248)
    need = memory.estimate(checkpoint.config, checkpoint.tensors, 32768)
    assert need.stored == 93_405_585_408
    assert memory.kv_bytes(checkpoint.config, 2) == 128 * 1024
    assert need.kv_cache == 32768 * 256 * 1024
    assert need.resident == 4 * (46_702_792_704 - 32000 * 4096)
    assert need.scratch == 4 << 20
    assert need.peak("mapped") < 12e9 < 180e9 < need.peak("resident") < 210e9


def test_memory_of_the_real_mixtral_as_a_user_sees_it(capsys, released, monkeypatch):
    monkeypatch.setattr(memory, "free_memory", lambda: 64_000_000_000)
    monkeypatch.setattr("tiny.system.free_memory.free_memory", lambda: 64_000_000_000)
    out = output(capsys, "memory", released)
    for words in ("46,702,792,704 parameters", "12,879,925,248 active", "32,768 tokens", "93,405,585,408 bytes",
                  "256 KiB a token", "128 KiB a token", "8,589,934,592 bytes", "no weight files here",
                  "takes streamed: it fits", "larger than the free memory", "25.8 GB from disk"):
        assert words in out, words
    out = output(capsys, "memory", released, "--context", "2048")
    assert " 536,870,912 bytes" in out and "268.4 MB, 128 KiB" in out


def test_memory_says_what_fits(capsys, monkeypatch):
    checkpoint = memory.read_headers(MODEL)
    need = memory.estimate(checkpoint.config, checkpoint.tensors, 100)
    for free, auto, said in ((need.peak("resident"), "resident", "takes resident: it fits"),
                             (need.peak("resident") - 1, "resident", "does not fit, --weights mapped"),
                             (need.peak("mapped"), "mapped", "takes mapped: it fits"),
                             (need.peak("mapped") - 1, "mapped", "in neither mode")):
        monkeypatch.setattr(memory, "free_memory", lambda free=free: free)
        monkeypatch.setattr(memory, "choose_mode", lambda weights, tensors, auto=auto: auto)
        assert said in output(capsys, "memory", MODEL, "--context", "100")


def test_inspect_of_the_real_mixtral(capsys, released):
    out = output(capsys, "inspect", released)
    assert "46,702,792,704 parameters, 12,879,925,248 active" in out and "995 tensors, 93,405,585,408 bytes" in out
    assert "  256 x (14336, 4096)" in out and "file       none" in out


@pytest.mark.parametrize("folder", [MODEL, HF])
def test_inspect_counts_and_names_as_stored(capsys, folder):
    out = output(capsys, "inspect", folder)
    hf = folder == HF
    assert ("Hugging Face's" if hf else "Mistral's") in out and "tokenizer.model" in out
    names = [line.split()[0] for line in out.splitlines() if " x (" in line]
    assert len(names) == len(set(names)) == 13
    wq = "model.layers.*.self_attn.q_proj.weight" if hf else "layers.*.attention.wq.weight"
    w1 = "model.layers.*.block_sparse_moe.experts.*.w1.weight" if hf else "layers.*.feed_forward.experts.*.w1.weight"
    for name, number, shape in ((wq, 3, "(80, 48)"), (w1, 24, "(72, 48)")):
        line = next(line for line in out.splitlines() if line.split()[:1] == [name])
        assert f"{number} x {shape}" in line and "bfloat16" in line
    assert "327,984 parameters" in out and "96 tensors, 655,968 bytes" in out


def test_inspect_all_has_a_line_for_each_tensor(capsys):
    out = output(capsys, "inspect", MODEL, "--all")
    lines = {line.split()[0] for line in out.splitlines() if "bfloat16" in line}
    assert lines == set(expected_shapes(tiny.load(MODEL).config))


def test_ninety_three_gigabytes_are_answered_from_their_header(capsys, tmp_path, monkeypatch):
    """A file with holes: it has the length of the real weights, and takes no room."""
    (tmp_path / "params.json").write_text(json.dumps(PARAMS))
    shutil.copy(MODEL / "tokenizer.model", tmp_path)
    header, position = {}, 0
    for name, shape in expected_shapes(memory.read_headers(tmp_path).config).items():
        size = 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [position, position + size]}
        position += size
    text = json.dumps(header).encode()
    with open(tmp_path / "consolidated.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + 93_405_585_408)
    before = session.peak_memory()
    assert "256 x (14336, 4096)" in output(capsys, "inspect", tmp_path)
    assert "93,405,585,408 bytes   bfloat16, in 1 file(s)" in output(capsys, "memory", tmp_path)
    assert session.peak_memory() - before < 50e6


ACTIVATIONS = [
    # experts are the peak; attention scores are; a dense model
    (sizes(dim=128, hidden_dim=512, n_heads=8, n_kv_heads=2, head_dim=16, moe=(2, 2), max_seq_len=4096), 1500),
    (sizes(dim=32, hidden_dim=16, n_heads=8, n_kv_heads=1, head_dim=16, moe=(4, 1), max_seq_len=4096), 1800),
    (sizes(dim=128, hidden_dim=512, n_heads=8, n_kv_heads=2, head_dim=16, moe=None, max_seq_len=4096), 1500),
]


@pytest.mark.parametrize("config, T", ACTIVATIONS, ids=["experts", "attention", "dense"])
def test_activations_are_bounded_and_not_by_much(config, T):
    model = tiny.Mixtral(config, random_tensors(config, dtype=np.float32))
    ids, cache = np.arange(T) % config.vocab_size, model.new_cache(T)
    model(ids[:3])
    tracemalloc.start()
    model(ids, cache=cache, last_only=True)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    bound = memory.activation_bytes(config, T)
    assert 0.6 * bound <= peak <= bound, (peak, bound, peak / bound)


def test_the_cache_is_as_large_as_estimated():
    config = sizes(max_seq_len=64)
    cache = tiny.Mixtral(config, {}).new_cache(50)
    assert cache.keys.nbytes + cache.values.nbytes == 50 * memory.kv_bytes(config, 4)


def test_resident_weights_are_as_large_as_estimated(tmp_path):
    """Only what is converted takes memory: not the embedding table, nor float32 that is read as it is."""
    config = sizes()
    tensors = random_tensors(config)
    tensors["norm.weight"] = tensors["norm.weight"].astype(np.float32)
    model = tiny.load(write_mistral(tmp_path / "m", config, tensors), weights="resident")
    need = memory.estimate(config, model.weights.tensors, 10)
    session.load_weights(model, 10)
    held = [x for name, x in model.weights.tensors.items() if name not in ("tok_embeddings.weight", "norm.weight")]
    assert need.resident == sum(x.nbytes for x in held) and all(x.dtype == np.float32 for x in held)


def test_amounts():
    said = [memory.amount(n) for n in (0, 999, 1000, 93_405_585_408, 4 << 20, 1.5e12)]
    assert said == ["0 bytes", "999 bytes", "1.00 kB", "93.4 GB", "4.19 MB", "1.50 TB"]


# ---- progress

def test_a_small_file_loads_in_silence_and_a_large_one_is_announced(capsys, monkeypatch):
    session.load_weights(tiny.load(MODEL, weights="resident"), 10)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(session, "LARGE", 600_000)
    model = tiny.load(MODEL, weights="resident")
    session.load_weights(model, 10)
    assert capsys.readouterr().err == "note: loading 656.0 kB\n"
    assert all(x.dtype == np.float32 for name, x in model.weights.tensors.items() if name != "tok_embeddings.weight")


def test_the_first_pass_over_a_large_mapped_file_is_watched(capsys, monkeypatch):
    screen = Terminal()
    monkeypatch.setattr(session, "LARGE", 600_000)
    model = tiny.load(MODEL, weights="mapped")
    expected = model([1, 5, 9])
    session.load_weights(model, 10)
    assert capsys.readouterr().err == "note: first pass, reading up to 656.0 kB\n"
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setattr(session, "PATIENCE", 0)
    model = tiny.load(MODEL, weights="mapped")
    session.load_weights(model, 10)
    assert_close(model([1, 5, 9]), expected, atol=0, name="watched logits")
    shown = screen.getvalue()
    assert "reading up to: " in shown and "656k" in shown and model.weights.done is None
    model([1, 7])
    assert screen.getvalue() == shown and model.weights.mode == "mapped"


def test_a_terminal_sees_one_moving_line_after_a_while(monkeypatch):
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    with session.progress(1000, "loading") as done:
        done.update(400)
        assert screen.getvalue() == ""
        time.sleep(session.PATIENCE + 0.1)
        done.update(400)
        assert screen.getvalue().startswith("\rloading:  80%|") and "800/1.00k" in screen.getvalue()
    assert screen.getvalue().split("\r")[-2].strip() == "" and "\n" not in screen.getvalue()


def test_rates_count_from_the_first_token(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(session.time, "perf_counter", lambda: now[0])

    def tokens(*times):
        for when in times:
            now[0] = when
            yield when

    clock = session.Clock()
    assert list(clock.watch(tokens(2.0, 2.5, 3.0, 4.0))) == [2.0, 2.5, 3.0, 4.0]
    assert clock.rates(10) == (2.0, 5.0, 1.5)
    now[0] = 0.0
    clock = session.Clock()
    assert list(clock.watch(tokens())) == [] and clock.rates(10)[2] == 0.0


def test_control_characters_do_not_reach_a_terminal(monkeypatch):
    text = "a\x1b[2Jb\tc\nd\x07\x1f\x9b\r é\u3000語"
    token = [tiny.Token(1, text, 0.0, None)]
    for stream, expected in ((Terminal(), "a\ufffd[2Jb\tc\nd\ufffd\ufffd\ufffd\ufffd é\u3000語\n"),
                             (io.StringIO(), text + "\n")):
        monkeypatch.setattr(sys, "stdout", stream)
        session.show(token)
        assert stream.getvalue() == expected


# ---- tokenize

def test_tokenize_prints_ids_and_pieces(capsys):
    tokenizer = tiny.load_tokenizer(MODEL)
    ids = tokenizer.encode("Hi, wörld")
    lines = output(capsys, "tokenize", "--model", MODEL, "Hi, wörld").splitlines()
    assert [line.split("\t") for line in lines] == [[str(i), p] for i, p in zip(ids, tokenizer.pieces(ids))]
    said = json.loads(output(capsys, "tokenize", "--model", MODEL, "Hi, wörld", "--json"))
    assert said == {"ids": ids, "pieces": tokenizer.pieces(ids)}


def test_tokenize_colours_alternately_in_a_terminal_unless_told_not_to(monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    n = len(tiny.load_tokenizer(MODEL).encode("some words"))
    screen = Terminal()
    monkeypatch.setattr(sys, "stdout", screen)
    assert main(["tokenize", "--model", str(MODEL), "some words"]) == 0
    assert screen.getvalue().count(RESET) == 2 * n
    assert screen.getvalue().count(paint(0)) == 2 * -(-n // 2)
    for name, value in (("NO_COLOR", "1"), ("TERM", "dumb")):
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            screen = Terminal()
            patch.setattr(sys, "stdout", screen)
            assert main(["tokenize", "--model", str(MODEL), "some words"]) == 0
            assert "\x1b" not in screen.getvalue()


# ---- text marked by expert

def painted(colour: bool, *pieces, width: int = 76) -> str:
    stream = io.StringIO()
    painter = Painter(stream, colour, width)
    for text, expert in pieces:
        painter.write(text, expert)
    painter.finish()
    return stream.getvalue()


def test_plain_text_has_the_numbers_of_its_experts_beneath():
    assert painted(False, ("Once", None), (" upon", 3), (" a", 7), (" ti", 0), ("me", 1)) == \
        "Once upon a ti" + "me\n" + "     3    7 0 1\n"
    assert painted(False, ("no marks", None)) == "no marks\n"
    assert painted(False, ("one", 1), ("\n", 2), ("two", 3)) == "one\n1\ntwo\n3\n"


def test_lines_break_between_words_and_tokens_keep_their_number():
    text = painted(False, *[(" word", n % 8) for n in range(30)], width=40)
    lines = text.splitlines()
    words, marks = lines[0::2], lines[1::2]
    assert all(len(line) <= 45 for line in words) and sum(line.count("word") for line in words) == 30
    assert "".join("".join(marks).split()) == "".join(str(n % 8) for n in range(30))
    for line, mark in zip(words, marks):
        assert [i for i, c in enumerate(mark) if c != " "] == [i for i, c in enumerate(line) if c == "w"]


def test_coloured_text_is_the_text_once_the_colours_are_taken_out():
    text = painted(True, ("He", None), ("llo\nyou", 2), ("", 3), (" there", 9))
    assert f"{paint(2)}llo{RESET}\n{paint(2)}you{RESET}" in text and paint(9) == paint(1)
    for code in (paint(2), paint(3), paint(9), RESET):
        text = text.replace(code, "")
    assert text == "Hello\nyou there\n"


def colour(code: int) -> np.ndarray:
    """The sRGB values of one of the 256 colours of a terminal, 0 to 1."""
    if code >= 232:
        return np.full(3, (8 + 10 * (code - 232)) / 255)
    levels = [0, 95, 135, 175, 215, 255]
    return np.array([levels[(code - 16) // n % 6] for n in (36, 6, 1)]) / 255


def test_the_colours_are_legible_and_differ_for_all_eyes():
    """Contrast with black text by WCAG 2; colours seen without red, green or blue cones by Vienot and Brettel."""
    linear = np.array([np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
                       for c in map(colour, COLOURS)])
    luminance = linear @ [0.2126, 0.7152, 0.0722]
    assert ((luminance + 0.05) / 0.05 >= 4.5).all(), luminance
    to_lms = np.array([[17.8824, 43.5161, 4.11935], [3.45565, 27.1554, 3.86714], [0.0299566, 0.184309, 1.46709]])
    blind = {"all": np.eye(3), "no red": np.array([[0, 2.02344, -2.52581], [0, 1, 0], [0, 0, 1]]),
             "no green": np.array([[1, 0, 0], [0.494207, 0, 1.24827], [0, 0, 1]]),
             "no blue": np.array([[1, 0, 0], [0, 1, 0], [-0.395913, 0.801109, 0]])}
    for name, seen in blind.items():
        rgb = np.clip(linear @ (np.linalg.inv(to_lms) @ seen @ to_lms).T, 0, 1)
        srgb = np.where(rgb <= 0.0031308, 12.92 * rgb, 1.055 * np.maximum(rgb, 1e-9) ** (1 / 2.4) - 0.055)
        apart = np.linalg.norm(srgb[:, None] - srgb[None], axis=2)[np.triu_indices(8, 1)]
        assert apart.min() > 0.12, (name, apart.min())


def test_legend_names_every_expert():
    assert all(f"{paint(e)} {e} {RESET}" in legend(8, True) for e in range(8))
    assert "\x1b" not in legend(8, False)


def test_expert_shares_count_every_choice():
    model, ids, trace = tiny.load(MODEL), [1, 17, 300, 4, 4, 99], {}
    model(ids, trace=trace)
    shares = expert_shares(model, ids)
    assert shares.shape == (3, 8)
    expected = [[(trace[f"experts{n:02}"] == e).sum() / 12 for e in range(8)] for n in range(3)]
    assert_close(shares, np.array(expected), atol=0, name="shares")


# ---- the figure and the demonstration

def test_heat_map_shows_every_share():
    rng = np.random.default_rng(0)
    shares = {name: rng.dirichlet(np.ones(8), 5) for name in ("prose", "verse")}
    figure = plots.routing_heat_map(shares)
    for panel, (name, share) in zip(figure.axes, shares.items()):
        assert panel.get_title() == name
        assert_close(np.asarray(panel.images[0].get_array()), share, atol=0, name=name)
        assert [t.get_text() for t in panel.texts] == [f"{100 * x:.0f}" for x in share.ravel()]
    assert figure.axes[0].images[0].get_clim() == figure.axes[1].images[0].get_clim()
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()


def test_heat_map_of_many_layers_has_no_numbers_and_still_fits():
    figure = plots.routing_heat_map({"prose": np.full((32, 8), 0.125)})
    figure.canvas.draw()
    assert not figure.axes[0].texts and figure.get_size_inches()[1] <= 9


def test_demo_on_a_random_model(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    out = output(capsys, "demo", "--model", MODEL, "--vision-model", PIXTRAL)
    assert "\x1b" not in out and "number under a token" in out
    assert (tmp_path / "runs/demo/routing.png").read_bytes().startswith(b"\x89PNG") and str(demo.FIGURE) in out
    rows = [line.split()[2:] for line in out.splitlines() if line.startswith("layer ")]
    assert len(rows) == 3 and all(abs(sum(map(float, row)) - 100) < 0.5 for row in rows)
    assert out.count("--- ") == 4 and "tokens/s" in out and out.count("python -m tiny ") == 4
    # The story is the one that the library writes.
    model = tiny.load(MODEL)
    first = next(tiny.generate(model, [model.tokenizer.bos_id, *model.tokenizer.encode(demo.STORY)]))
    assert "with." + first.text in out


def test_demo_in_a_terminal_is_coloured_by_the_middle_layer(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo, "show_pictures", lambda model, name: None)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    screen = Terminal()
    monkeypatch.setattr(sys, "stdout", screen)
    assert main(["demo", "--model", str(MODEL), "--vision-model", str(PIXTRAL)]) == 0
    model = tiny.load(MODEL)
    first = next(tiny.generate(model, [model.tokenizer.bos_id, *model.tokenizer.encode(demo.STORY)]))
    assert "with." + paint(int(first.experts[1, 0])) + first.text in screen.getvalue()


def test_demo_keeps_the_space_between_prompt_and_continuation(capsys):
    model = tiny.load(MODEL)
    id_of = {piece: id for id, piece in enumerate(model.tokenizer.pieces(range(509)))}
    for given, shown in ((id_of["\u2581w"], "said w"), (id_of["x"], "saidx")):
        text = model.tokenizer.decode([given])

        def fake(model, ids, given=given, text=text, **options):
            yield tiny.Token(given, text, 0.0, None)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tiny, "generate", fake)
            demo.show_text(model, "said", Painter(sys.stdout, False), 0)
        assert capsys.readouterr().out.startswith(shown)


def test_demo_of_a_dense_model_has_text_and_no_experts(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo, "show_pictures", lambda model, name: None)
    config = sizes(moe=None, vocab_size=509)
    folder = write_mistral(tmp_path / "dense", config, random_tensors(config))
    shutil.copy(MODEL / "tokenizer.model", folder)
    out = output(capsys, "demo", "--model", folder, "--vision-model", PIXTRAL)
    assert out.count("--- ") == 3 and "expert" not in out and not (tmp_path / "runs").exists()
    assert memory.parameters(config)[0] == memory.parameters(config)[1]
    assert "active" in output(capsys, "inspect", folder)


def test_demo_asks_about_two_pictures_seeing_and_blind(capsys, tmp_path, monkeypatch):
    """Answers that are made up: right where the picture has more than one colour, always the same where it has one."""
    monkeypatch.chdir(tmp_path)
    right = {question: answer for questions in demo.PICTURES.values() for question, answer in questions.items()}
    assert len(right) == 6

    def fake(model, ids, images, max_tokens):
        text = model.tokenizer.decode(ids)
        yield tiny.Token(5, right[text] if np.ptp(images[0][0]) > 0.1 else "blue", 0.0, None)
    monkeypatch.setattr(tiny, "generate", fake)
    demo.show_pictures(tiny.load(PIXTRAL), str(PIXTRAL))
    out = capsys.readouterr().out
    assert "picture1.png: 64 x 48 pixels, not resized: 4 x 3 patches, 15 tokens" in out
    assert "picture2.png: 91 x 51 pixels, resized to 96 x 64: 6 x 4 patches, 28 tokens" in out
    rows = [re.split("   +", line.strip()) for line in out.splitlines() if line.startswith("  ")]
    assert [row for row in rows if row[0] != "question"] == [
        [text, answer, "blue", answer] for text, answer in right.items()]
    assert "6 of 6 answers are right, 2 when blind." in out
    assert (tmp_path / "runs/demo/patches.png").read_bytes().startswith(b"\x89PNG")


# How the stored pictures were drawn: kind of scene, width, height, and the skills that are asked for.
DRAWN = {"picture1.png": ("objects2", 64, 48, ("caption2", "color_of", "left_of")),
         "picture2.png": ("bars", 91, 51, ("caption_many", "tallest", "shortest"))}


@pytest.mark.parametrize("file", DRAWN)
def test_the_pictures_of_the_demo_are_what_the_renderer_draws(file):
    kind, width, height, skills = DRAWN[file]
    rng = np.random.default_rng([SEED, width, height])  # No training scene is drawn with this seed.
    asked: dict = {}
    while not asked.keys() >= set(skills):
        scene = scenes.draw(rng, kind, width, height)
        asked = {question.skill: question for question in scene.questions}
    with Image.open(demo.STORED / file) as stored:
        assert_close(np.asarray(stored), scene.images[0], atol=0, name=file)
        assert_close(np.asarray(demo.plain(stored)), plain(scene.images[0]), atol=0, name="blind")
    assert demo.PICTURES[file] == {asked[skill].text: asked[skill].answer for skill in skills}


def test_numbers_that_the_pages_have_in_their_prose():
    text = (reference.FOLDER / "models.md").read_text(encoding="utf-8")
    assert f"of up to {MAX_PIXELS // 10**6} million pixels" in text and MAX_PIXELS % 10**6 == 0


def test_the_chat_of_tasks_has_an_answer_to_each_question():
    assert len(demo.TASKS) % 2 == 0 and all(demo.TASKS)
