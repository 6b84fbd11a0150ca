"""Images on the command line: `describe`, `generate --image`, /image in a chat, `memory --image`, what is refused."""

import io
import json
import shutil
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from compare import assert_close
from oracles import GOLDEN
from pictures import bomb
from PIL import Image
from small import image_tokens, random_images, random_tensors, sizes, vision_sizes

import tiny
from tests.book.test_image import BAD
from tests.tools.test_cli import call, fails
from tiny.__main__ import main
from tiny.files.weights import expected_shapes
from tiny.generate import prefill
from tiny.tools import chat, describe, memory, prompt_images
from tiny.tools.plots.patches import patch_figure
from tiny.training.images.questions import CAPTION, WORDINGS

MODEL = str(GOLDEN / "pixtral-a" / "mistral")
HF = str(GOLDEN / "pixtral-a" / "hf")
TEXT_ONLY = str(GOLDEN / "mixtral-a" / "mistral")
COFFEE = str(GOLDEN / "images" / "coffee_130x61.png")  # becomes 9 x 4 patches
CHELSEA = str(GOLDEN / "images" / "chelsea_80x48.png")  # is 5 x 3 patches
PARAMS = {"dim": 5120, "n_layers": 40, "head_dim": 128, "hidden_dim": 14336, "n_heads": 32, "n_kv_heads": 8,
          "rope_theta": 1e9, "norm_eps": 1e-5, "vocab_size": 131072, "vision_encoder": {
              "hidden_size": 1024, "num_channels": 3, "image_size": 1024, "patch_size": 16, "rope_theta": 1e4,
              "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16, "image_token_id": 10}}
VISION = vision_sizes().__class__(**PARAMS["vision_encoder"], max_image_size=1024)


def look(*paths, model=MODEL, more=()) -> list[str]:
    return ["describe", *map(str, paths), "--model", str(model), "--max-tokens", "4", *more]


def library(question: str, *paths: str, **options) -> tuple[list[int], str]:
    """Ids and text of one user turn, by the library itself."""
    model = tiny.load(MODEL)
    chunks = [{"type": "image", "image": path} for path in paths] + [{"type": "text", "text": question}]
    ids, pixels = model.tokenizer.encode_chat([{"role": "user", "content": chunks}])
    return ids, "".join(token.text for token in tiny.generate(model, ids, pixels, **options))


@pytest.fixture
def short(tmp_path) -> Path:
    """The model with a context of 50 tokens: one picture of 40 tokens fits, with few words."""
    folder = Path(shutil.copytree(MODEL, tmp_path / "short"))
    described = json.loads((folder / "params.json").read_text())
    (folder / "params.json").write_text(json.dumps(described | {"max_seq_len": 50}))
    return folder


@pytest.fixture
def undecoded(monkeypatch):
    """No pixels of a file are read, nor is anything computed."""
    decode = tiny.system.pictures.decode

    def spot_only(image, *args):
        assert image.size == (1, 1), "Only the stand-in of one pixel may be decoded."
        return decode(image, *args)
    monkeypatch.setattr("tiny.system.pictures.decode", spot_only)
    for name in ("tiny.pixtral.Pixtral.__call__", "tiny.files.weights.Weights.__getitem__"):
        monkeypatch.setattr(name, None)


# ---- describe and generate

def test_describe_tells_size_grid_and_tokens_then_the_answer(capsys):
    out, notes, rest = call(capsys, "describe", COFFEE, CHELSEA, "--model", MODEL, "--max-tokens", "9")
    ids, text = library("Describe the images.", COFFEE, CHELSEA, max_tokens=9)
    assert out == (f"{COFFEE}: 130 x 61 pixels, resized to 144 x 64: 9 x 4 patches, 40 tokens "
                   f"(36 [IMG] + 3 [IMG_BREAK] + 1 [IMG_END])\n"
                   f"{CHELSEA}: 80 x 48 pixels, not resized: 5 x 3 patches, 18 tokens "
                   f"(15 [IMG] + 2 [IMG_BREAK] + 1 [IMG_END])\n{text}\n")
    assert not rest and f"{len(ids)} prompt tokens" in notes[-1]


def test_describe_asks_what_it_is_told_to(capsys, monkeypatch):
    for argv, stdin, question in (((), "", "Describe the image."), (("--question", "What is it?"), "", "What is it?"),
                                  (("--question", "-"), "Été?\n", "Été?")):
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        said = json.loads(call(capsys, *look(COFFEE, more=("--json", *argv)))[0])
        ids, text = library(question, COFFEE, max_tokens=4)
        assert (said["prompt_ids"], said["text"]) == (ids, text), question


def test_the_default_questions_are_among_those_of_the_training():
    for question, wordings in zip(describe.QUESTIONS, (CAPTION, WORDINGS["caption_images"])):
        assert question.lower() in wordings


def test_json_lists_the_images(capsys):
    said = json.loads(call(capsys, *look(COFFEE, CHELSEA, more=("--json",)))[0])
    assert said["images"] == [
        {"path": COFFEE, "width": 130, "height": 61, "columns": 9, "rows": 4, "tokens": 40},
        {"path": CHELSEA, "width": 80, "height": 48, "columns": 5, "rows": 3, "tokens": 18}]
    counts = [said["prompt_ids"].count(special) for special in (10, 12, 13)]
    assert counts == [36 + 15, 3 + 2, 2]
    assert {"ids", "text", "logprobs", "prefill_tokens_per_second", "peak_memory_bytes"} < said.keys()


def test_generate_with_images_is_one_user_turn_images_first(capsys):
    ids, text = library("Compare them.", CHELSEA, COFFEE, max_tokens=4)
    run = ["generate", "--model", MODEL, "--prompt", "Compare them.", "--max-tokens", "4", "--image", CHELSEA]
    for more in ([COFFEE], ["--image", COFFEE], [COFFEE, "--chat"]):
        out, notes, _ = call(capsys, *run, *more)
        assert out == text + "\n" and f"{CHELSEA}: 80 x 48" in notes[1] and f"{COFFEE}: 130 x 61" in notes[2]
    said = json.loads(call(capsys, *run, COFFEE, "--json")[0])
    assert said["prompt_ids"] == ids and [one["path"] for one in said["images"]] == [CHELSEA, COFFEE]
    assert "images" not in json.loads(call(capsys, *run[:-2], "--json")[0])


def test_the_image_matters(capsys, tmp_path):
    Image.new("RGB", (130, 61), "white").save(tmp_path / "white.png")
    said = [json.loads(call(capsys, *look(path, more=("--json",)))[0]) for path in (COFFEE, tmp_path / "white.png")]
    assert said[0]["prompt_ids"] == said[1]["prompt_ids"] and said[0]["logprobs"] != said[1]["logprobs"]


def test_options_reach_the_model(capsys):
    one = json.loads(call(capsys, *look(COFFEE, more=("--json", "--weights", "mapped")))[0])
    other = json.loads(call(capsys, *look(COFFEE, more=("--json", "--precision", "bfloat16", "--temperature", "1.5",
                                                        "--seed", "3")))[0])
    assert (one["weights"], one["precision"], one["seed"]) == ("mapped", "float32", None)
    assert (other["precision"], other["seed"]) == ("bfloat16", 3) and other["logprobs"] != one["logprobs"]


def test_without_a_model_the_embedded_ones_serve(capsys, monkeypatch):
    asked = []

    def load(name, **options):
        asked.append(name)
        raise tiny.TinyError("Only the name is wanted here.", "Nothing is to be done about it.")
    monkeypatch.setattr(tiny, "load", load)
    for argv in (["describe", COFFEE], ["generate", "--prompt", "x", "--image", COFFEE], ["generate", "--prompt", "x"],
                 ["chat"], ["describe", COFFEE, "--model", "mine"]):
        fails(capsys, argv, "Only the name")
    assert asked == ["tiny-pixtral", "tiny-pixtral", "tiny-mixtral", "tiny-mixtral", "mine"]


def test_a_picture_of_the_patches(capsys, tmp_path):
    path = tmp_path / "new" / "patches.png"
    _, notes, _ = call(capsys, *look(COFFEE, CHELSEA, more=("--patches", str(path))))
    assert any(str(path) in note for note in notes)
    with Image.open(path) as drawn:
        assert drawn.format == "PNG" and drawn.width > 2 * drawn.height > 400
    fails(capsys, look(COFFEE, more=("--patches", str(tmp_path / "patches.txt"))), "patches.txt")


def test_the_picture_of_the_patches_shows_pixels_lines_and_ends_of_rows():
    pixels, whole = tiny.preprocess(COFFEE), np.asarray(Image.open(CHELSEA))
    found = [prompt_images.measure_picture(path, VISION) for path in (COFFEE, CHELSEA)]
    figure = patch_figure([pixels, tiny.preprocess(CHELSEA)], found)
    assert [panel.get_title(loc="left").split(":")[0] for panel in figure.axes] == ["coffee_130x61.png",
                                                                                 "chelsea_80x48.png"]
    # This picture is not resized: its own colours are drawn, up to the rounding of the normalisation.
    assert_close(np.asarray(figure.axes[1].images[0].get_array()), whole / np.float32(255), atol=3e-7, name="colours")
    for panel, columns, rows in zip(figure.axes, (9, 5), (4, 3)):
        assert panel.images[0].get_extent() == [0, columns, rows, 0]
        lengths = sorted(len(lines.get_segments()) for lines in panel.collections)
        assert lengths == sorted(2 * [columns + 1] + 2 * [rows + 1])
        greys = [patch.get_facecolor()[0] for patch in panel.patches]
        assert len(greys) == rows and len(set(greys[:-1])) == 1 and greys[-1] < greys[0]
    sides = {panel.get_position().width * figure.get_figwidth() / (columns + 1)
             for panel, columns in zip(figure.axes, (9, 5))}
    assert max(sides) - min(sides) < 1e-9, "patches of all pictures are drawn alike"


# ---- sizes and counts

# Width and height, what they are resized to, columns and rows, and tokens, at the sizes of the release.
EXAMPLES = [(1, 1, "16 x 16", 1, 1, 2), (17, 31, "32 x 32", 2, 2, 6), (150, 600, "160 x 608", 10, 38, 418),
            (640, 480, "not resized", 40, 30, 1230), (1024, 1024, "not resized", 64, 64, 4160),
            (1025, 1, "1024 x 16", 64, 1, 65), (1000, 1400, "736 x 1024", 46, 64, 3008),
            (1920, 1080, "1024 x 576", 64, 36, 2340), (4032, 3024, "1024 x 768", 64, 48, 3120),
            (12000, 100, "1024 x 16", 64, 1, 65)]


@pytest.mark.parametrize("width, height, resized, columns, rows, tokens", EXAMPLES)
def test_a_picture_is_measured_by_its_header(tmp_path, undecoded, width, height, resized, columns, rows, tokens):
    path = tmp_path / "header.png"
    path.write_bytes(bomb(width, height))
    found = prompt_images.measure_picture(path, VISION)
    assert found.facts() == {"path": str(path), "width": width, "height": height, "columns": columns, "rows": rows,
                             "tokens": tokens}
    assert resized in str(found) and f"{columns} x {rows} patches, {tokens:,} tokens" in str(found)


def test_tokens_are_counted_as_they_are_written(monkeypatch):
    model = tiny.load(MODEL)
    chats = [[prompt_images.user_turn("Compare.", [COFFEE, Image.open(CHELSEA)])],
             [prompt_images.user_turn("", [CHELSEA]), {"role": "assistant", "content": "A cat."},
              {"role": "user", "content": [{"type": "text", "text": "And"}, {"type": "image", "image": COFFEE}]}],
             [{"role": "system", "content": "Be brief."}, prompt_images.user_turn("What?", [COFFEE] * 3)],
             [prompt_images.user_turn("no image", [])]]
    written = [model.tokenizer.encode_chat(messages)[0] for messages in chats]
    monkeypatch.setattr("tiny.system.pictures.decode", None)
    monkeypatch.setattr("tiny.image.preprocess", lambda image, *rest: np.zeros((3, 16, 16), np.float32))
    for messages, ids in zip(chats, written):
        assert prompt_images.count_tokens(model, messages) == (len(ids), sum(ids.count(n) for n in (10, 12, 13)))


# ---- bad input

@pytest.mark.parametrize("name", BAD)
def test_a_bad_file(capsys, tmp_path, name):
    make, _ = BAD[name]
    path = tmp_path / "bad.png"
    path.write_bytes(make(tmp_path))
    fails(capsys, look(path), "bad.png")
    fails(capsys, look(COFFEE, path, more=("--json",)), "bad.png")
    fails(capsys, ["generate", "--model", MODEL, "--prompt", "x", "--image", path], "bad.png")


def test_no_file_and_a_folder(capsys, tmp_path):
    fails(capsys, look(tmp_path / "none.png"), "none.png does not exist")
    fails(capsys, look(tmp_path), str(tmp_path), "Is a directory")
    fails(capsys, ["describe"], "IMAGE")
    fails(capsys, ["generate", "--model", MODEL, "--prompt", "x", "--image"], "--image")


def test_an_animation_gives_its_first_frame_and_says_so(capsys, tmp_path):
    frames = [Image.new("RGB", (20, 10), colour) for colour in ("red", "green")]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    frames[0].save(tmp_path / "still.png")
    said, notes, _ = call(capsys, *look(tmp_path / "moving.gif", more=("--json",)))
    assert sum("moving.gif has several frames; frame 1 alone is used" in note for note in notes) == 1
    still = json.loads(call(capsys, *look(tmp_path / "still.png", more=("--json",)))[0])
    assert json.loads(said)["logprobs"] == still["logprobs"]


def test_an_image_for_a_model_that_reads_text_only(capsys, monkeypatch):
    monkeypatch.setattr("tiny.files.weights.Weights.__getitem__", None)
    for argv in (look(COFFEE, model=TEXT_ONLY), ["generate", "--model", TEXT_ONLY, "--prompt", "x", "--image", COFFEE],
                 look("tiny-nothing.png", model=TEXT_ONLY)):
        err = fails(capsys, argv, TEXT_ONLY, "reads text only")
        assert "tiny-pixtral" in err
    fails(capsys, ["memory", TEXT_ONLY, "--image", "64x64"], "reads text only")


def test_images_that_overflow_the_context_are_counted_before_anything_is_computed(capsys, short, tmp_path, undecoded):
    (tmp_path / "header.png").write_bytes(bomb(160, 160))
    fails(capsys, look(tmp_path / "header.png", model=short), "110 of them for its images", "the context has 50")
    err = fails(capsys, look(COFFEE, CHELSEA, model=short), "58 of them for its images")
    assert "fewer images" in err
    fails(capsys, ["generate", "--model", short, "--prompt", "x", "--image", COFFEE, CHELSEA], "58 of them")


def test_the_context_can_be_filled_by_an_image_and_not_more(capsys, short):
    out, notes, _ = call(capsys, "generate", "--model", short, "--prompt", "!" * 3, "--image", COFFEE, "--json")
    said = json.loads(out)
    assert said["stop"] == "context" and len(said["prompt_ids"]) + len(said["ids"]) == 50
    room = 50 - len(said["prompt_ids"])
    # A letter more is at least a token more; the last one that fits leaves one for the answer.
    texts = ["!" * 3 + " a" * n for n in range(room + 2)]
    status = []
    for text in texts:
        status.append(main(["generate", "--model", str(short), "--prompt", text, "--image", COFFEE, "--json"]))
        out = capsys.readouterr().out
        if status[-1] == 0:
            assert len(json.loads(out)["prompt_ids"]) < 50
    assert status[0] == 0 and status[-1] == 2 and status == sorted(status)


def test_a_run_that_cannot_fit_with_its_image(capsys, monkeypatch):
    model = tiny.load(MODEL)
    ids, _ = library("Describe the image.", COFFEE)
    need = memory.estimate(model.config, model.weights.tensors, len(ids) + 4, [36]).peak("mapped")
    assert need > memory.estimate(model.config, model.weights.tensors, len(ids) + 4).peak("mapped")
    monkeypatch.setattr(memory, "free_memory", lambda: need - 1)
    fails(capsys, look(COFFEE, more=("--weights", "mapped")), "are free")
    monkeypatch.setattr(memory, "free_memory", lambda: need)
    call(capsys, *look(COFFEE, more=("--weights", "mapped")))


# ---- chat

class Fake:
    """Stands in for `tiny.generate`: remembers the ids and images that it was given, and answers in one word."""

    def __init__(self):
        self.asked = []

    def __call__(self, model, ids, images=(), **options):
        self.asked.append((list(ids), [image.shape for image in images]))
        yield tiny.Token(5, "yes", -1.0, None)


def talk(capsys, monkeypatch, lines: str, model=MODEL, *more) -> tuple[str, list[str]]:
    monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
    out, notes, rest = call(capsys, "chat", "--model", model, "--max-tokens", "5", *more)
    assert not rest
    return out, notes


def test_images_of_a_chat_belong_to_the_next_message_and_stay(capsys, monkeypatch, tmp_path):
    copied = str(shutil.copy(COFFEE, tmp_path / "two words.png"))
    fake = Fake()
    monkeypatch.setattr(tiny, "generate", fake)
    out, notes = talk(capsys, monkeypatch, f"hi\n/image {CHELSEA}\n/image '{copied}'\nsame?\nsure?\n"
                                           f"/image {COFFEE}\n/reset\nhi\n")
    assert out == "yes\n" * 4
    assert sum("it belongs to your next message" in note for note in notes) == 3
    assert sum("5 x 3 patches, 18 tokens" in note for note in notes) == 1
    encode = tiny.load_tokenizer(MODEL).encode_chat
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"},
             prompt_images.user_turn("same?", [CHELSEA, COFFEE]), {"role": "assistant", "content": "yes"},
             {"role": "user", "content": "sure?"}]
    both = [(3, 48, 80), (3, 64, 144)]
    assert fake.asked == [(encode(turns[:1])[0], []), (encode(turns[:3])[0], both), (encode(turns)[0], both),
                          (encode(turns[:1])[0], [])]


def test_a_chat_with_an_image_answers_as_describe_does(capsys, monkeypatch):
    _, text = library("What is it?", COFFEE, max_tokens=5)
    assert talk(capsys, monkeypatch, f"/image {COFFEE}\nWhat is it?")[0] == text + "\n"


def test_what_is_wrong_with_an_image_stays_in_the_chat(capsys, monkeypatch, short, tmp_path):
    (tmp_path / "cut.png").write_bytes(Path(COFFEE).read_bytes()[:9000])
    Image.new("RGB", (160, 160)).save(tmp_path / "large.png")
    fake = Fake()
    monkeypatch.setattr(tiny, "generate", fake)
    bad = ("", " " + str(tmp_path / "none.png"), " " + str(tmp_path), " " + str(tmp_path / "cut.png"),
           f" {tmp_path}/large.png")
    out, notes = talk(capsys, monkeypatch, "".join(f"/image{path}\n" for path in bad) + f"/image {COFFEE}\n"
                      f"/image {CHELSEA}\n!\n/image {COFFEE}\n" + "long " * 60 + "\n?\n", short)
    assert out == "yes\nyes\n" and fake.asked[0][1] == [(3, 64, 144)] and fake.asked[1][1] == []
    for words in ("has no path", "none.png does not exist", "Is a directory", "cut.png cannot be decoded",
                  "110 of them for its images", "58 of them for its images", "add its images again"):
        assert sum(words in note for note in notes) == 1, words


def test_an_image_for_a_chat_with_a_model_that_reads_text_only(capsys, monkeypatch):
    out, notes = talk(capsys, monkeypatch, f"/image {COFFEE}\n", TEXT_ONLY)
    assert out == "" and sum(f"{TEXT_ONLY} reads text only" in note for note in notes) == 1


def test_a_chat_without_a_chosen_model_opens_the_one_that_sees(capsys, monkeypatch):
    fake = Fake()
    monkeypatch.setattr(tiny, "generate", fake)
    monkeypatch.setattr(chat, "SEES", MODEL)
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"hi\n/image {COFFEE}\nwhat?\n/image {CHELSEA}\nwhat?\n"))
    out, notes, _ = call(capsys, "chat", "--max-tokens", "5")
    assert out == "yes\n" * 3 and sum("takes over" in note for note in notes) == 1
    turns = [prompt_images.user_turn("what?", [COFFEE]), {"role": "assistant", "content": "yes"},
             prompt_images.user_turn("what?", [CHELSEA])]
    encode = tiny.load_tokenizer(MODEL).encode_chat
    assert [ids for ids, _ in fake.asked[1:]] == [encode(turns[:1])[0], encode(turns)[0]]


def test_a_chat_goes_on_if_the_model_that_sees_is_not_there(capsys, monkeypatch, tmp_path):
    fake = Fake()
    monkeypatch.setattr(tiny, "generate", fake)
    monkeypatch.setattr(chat, "SEES", str(tmp_path / "nothing"))
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"hi\n/image {COFFEE}\nso?\n"))
    out, notes, _ = call(capsys, "chat", "--max-tokens", "5")
    encode = tiny.load_tokenizer(tiny.model_folder("tiny-mixtral")).encode_chat
    turns = [{"role": role, "content": text} for role, text in
             (("user", "hi"), ("assistant", "yes"), ("user", "so?"))]
    assert out == "yes\nyes\n" and any("nothing is not a folder" in note for note in notes)
    assert fake.asked == [(encode(turns[:1])[0], []), (encode(turns)[0], [])]


# ---- memory and inspect: the numbers of Pixtral 12B

@pytest.fixture
def released(tmp_path) -> Path:
    (tmp_path / "params.json").write_text(json.dumps(PARAMS))
    return tmp_path


def test_memory_of_the_real_pixtral(capsys, released, monkeypatch):
    monkeypatch.setattr(memory, "free_memory", lambda: 64_000_000_000)
    out, _, _ = call(capsys, "memory", released)
    for words in ("12,682,739,712 parameters", "12,247,782,400 in the decoder", "403,489,792 in the vision encoder",
                  "31,467,520 in the adapter", "25,365,479,424 bytes", "131,072 tokens", "160 KiB a token",
                  "64 x 64 patches, 4,160 tokens (4,096 [IMG] + 63 [IMG_BREAK] + 1 [IMG_END])",
                  "in bfloat16 681.6 MB; 131,072 tokens hold 31 such images", "21.5 GB, 160 KiB", "--cache bfloat16"):
        assert words in out, words
    config = memory.read_headers(released).config
    assert memory.kv_bytes(config, 2) == 163_840 and 131_072 * memory.kv_bytes(config, 2) == 20 << 30
    assert sum(memory.parts(config).values()) == memory.parameters(config)[0]


def test_memory_counts_images_by_size_or_file(capsys, released):
    out, _, _ = call(capsys, "memory", released, "--context", "8192", "--image", "1920x1080", "1X1", "--image", COFFEE)
    for words in ("64 x 36 patches, 2,340 tokens", "8,192 tokens hold 3 such images", "1 x 1 patches, 2 tokens",
                  "coffee_130x61.png: 130 x 61 pixels", "2,048 tokens a pass, one image at a time"):
        assert words in out, words
    config = memory.read_headers(released).config
    assert f"{memory.activation_bytes(config, 8192, [2304, 1, 36]):,} bytes" in out
    fails(capsys, ["memory", released, "--image", "wide"], "--image wide")
    fails(capsys, ["memory", released, "--image", "0x4"], "0 x 4")
    fails(capsys, ["memory", released, "--context", "4159", "--image", "1024x1024"], "4,160 tokens", "4,159")
    assert "hold 0 such images" in call(capsys, "memory", released, "--context", "4162")[0]
    assert "hold 1 such image\n" in call(capsys, "memory", released, "--context", "4163")[0]


def test_inspect_of_the_real_pixtral(capsys, released):
    out, _, _ = call(capsys, "inspect", released)
    for words in ("  decoder: 363 tensors, 12,247,782,400 parameters", "  vision encoder: 218 tensors, 403,489,792",
                  "  adapter: 4 tensors, 31,467,520 parameters", "585 tensors, 25,365,479,424 bytes",
                  "    patch_size           16\n", "1 x (1024, 3, 16, 16)"):
        assert words in out, words


@pytest.mark.parametrize("folder, name", [(MODEL, "vision_encoder.transformer.layers.*.attention.wq.weight"),
                                          (HF, "vision_tower.transformer.layers.*.attention.q_proj.weight")])
def test_inspect_groups_the_tensors_as_they_are_stored(capsys, folder, name):
    lines = call(capsys, "inspect", folder)[0].splitlines()
    places = [next(n for n, line in enumerate(lines) if line.startswith(f"  {part}: "))
              for part in memory.PARTS.values()]
    place = next(n for n, line in enumerate(lines) if line.split()[:1] == [name])
    assert places[0] < places[1] < place < places[2]
    every = call(capsys, "inspect", folder, "--all")[0]
    assert every.count("bfloat16") == len(expected_shapes(tiny.load(folder).config))


ACTIVATIONS = {
    # the encoder's layers are the peak; squares of pixels; the adapter; the decoder
    "layers": ({"dim": 32}, {"hidden_size": 128, "intermediate_size": 256, "num_attention_heads": 4, "patch_size": 8}),
    "squares": ({"dim": 32}, {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "patch_size": 16}),
    "adapter": ({"dim": 512, "hidden_dim": 64, "n_heads": 2, "head_dim": 8},
                {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2}),
    "decoder": ({"dim": 320, "hidden_dim": 896, "n_heads": 8, "head_dim": 64},
                {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 2, "patch_size": 8})}


@pytest.mark.parametrize("case", ACTIVATIONS)
def test_activations_with_images_are_bounded_and_not_by_much(case):
    text, vision = ACTIVATIONS[case]
    seeing = vision_sizes(**{"image_size": 640, "max_image_size": 640} | vision)
    config = sizes(moe=None, max_seq_len=4096, vision=seeing, **text)
    model = tiny.Pixtral(config, random_tensors(config, dtype=np.float32))
    grids = (30, 40), (20, 20)
    ids = np.array([1, *[i for grid in grids for i in image_tokens(*grid)], *range(10, 30)])
    pixels, cache = random_images(*grids, patch_size=seeing.patch_size), model.new_cache(len(ids))
    model(ids[-3:])
    tracemalloc.start()
    prefill(model, [ids], pixels, cache)
    peak = tracemalloc.get_traced_memory()[1] + sum(image.nbytes for image in pixels)
    tracemalloc.stop()
    bound = memory.activation_bytes(config, len(ids), [1200, 400])
    assert 0.6 * bound <= peak <= bound, (peak, bound, peak / bound)
