"""`verify check` on stored dumps of transformers: what is the same passes, each planted mistake is named where it is.

The dumps are in tests/golden/verify; tests/verify/make_dumps.py writes them again when an embedded model changes.
"""

import json
import re
import shlex
import zipfile
from pathlib import Path

import numpy as np
import pytest
from compare import assert_close
from oracles import GOLDEN, ROOT
from PIL import Image, ImageOps

import tiny
from tiny.__main__ import build_parser, main
from tiny.files.safetensors import read_safetensors
from tiny.tools.verify import compare as comparison
from tiny.tools.verify import file as dump_file
from tiny.tools.verify import inputs as input_checks
from tiny.tools.verify import printed, results
from tiny.tools.verify.check import check
from tiny.tools.verify.compare import RUNS, STEPS, Limits, compare
from tiny.tools.verify.dump import fingerprint
from tiny.tools.verify.gather import gather_files
from tiny.tools.verify.guesses import explain, guesses
from tiny.tools.verify.judge import judge
from tiny.tools.verify.names import kind
from tiny.tools.verify.plot import error_by_layer
from tiny.tools.verify.report import Report, as_json
from tiny.tools.verify.steps import stages, steps
from tiny.training.saving import save_safetensors

DUMPS = GOLDEN / "verify"
SAME = ("tiny-mixtral", "tiny-mixtral-bfloat16", "tiny-pixtral", "tiny-pixtral-bfloat16")
PLANTED = {"tiny-mixtral-wo-of-layer-2": "attention of layer 2 (output matrix wo)",
           "tiny-mixtral-expert-5-of-layer-2": "experts of layer 2",
           "tiny-mixtral-rows-of-wq": "attention of layer 0 (queries: wq or their rotation)",
           "tiny-pixtral-tanh-gelu": "the projector"}
REASONS = {"tiny-mixtral-expert-5-of-layer-2": "exactly the tokens that went to expert 5 differ",
           "tiny-mixtral-rows-of-wq": "the rows of wq are in the other order: pairs (2i, 2i + 1) were taken for halves "
                                      "(i, i + d/2)",
           "tiny-pixtral-tanh-gelu": "its GELU is the tanh form instead of the exact one, with erf"}


def model_of(name: str) -> str:
    return "tiny-" + name.split("-")[1]


def read(name: str) -> dump_file.Dump:
    return dump_file.read(DUMPS / f"{name}.npz")


def report_of(name: str, ours: str | Path | None = None) -> Report:
    return check(str(ours or model_of(name)), DUMPS / f"{name}.npz")


def compared_files(ours: dump_file.Dump, theirs: dump_file.Dump) -> Report:
    return judge(gather_files(ours, theirs))


def rewritten(tmp_path: Path, name: str, record: dict | None = None, drop=(), **arrays) -> Path:
    """A stored dump with some of its arrays changed or left out."""
    dump = read(name)
    kept = {key: x for key, x in (dump.inputs | dump.arrays).items() if key not in drop}
    dump_file.save(tmp_path / "changed.npz", dump.record | (record or {}), kept | arrays)
    return tmp_path / "changed.npz"


# ---- what is the same, and what is not

@pytest.mark.parametrize("model", tiny.EMBEDDED)
def test_the_dumps_are_of_the_embedded_models(model):
    own = fingerprint(tiny.load(model, weights="mapped").weights)
    assert read(model).record["fingerprint"] == own, (
        f"{model} has changed: PYTHONPATH=. python tests/verify/make_dumps.py writes its dumps again")


@pytest.mark.parametrize("name", SAME)
def test_what_is_the_same_passes(name):
    report = report_of(name)
    assert report.status == 0 and not report.places and not report.inputs.findings
    checked = {row.name for row in report.arrays if row.step_percent is not None}
    assert checked == set(read(name).arrays), "every array is checked alone"
    found = report.distribution
    assert found.top1 == found.rows or report.tolerances == "bfloat16"
    assert found.kl_max < (1e-9 if report.tolerances == "float32" else 1e-2)
    if report.tolerances == "float32":
        assert report.greedy.equal == report.greedy.tokens == 8
        assert all(layer.equal == layer.rows for layer in report.experts)


@pytest.mark.parametrize("name", PLANTED)
def test_what_transformers_was_made_to_do_is_named(name):
    report = report_of(name)
    assert report.status == 1 and not report.inputs.findings
    assert [place.operation for place in report.places] == [PLANTED[name]], "nothing else differs alone"
    assert REASONS.get(name) in [*report.places[0].reasons, None]


def test_swapped_images_are_said_before_any_layer(capsys):
    report = report_of("tiny-pixtral-images-swapped")
    assert report.status == 1 and not report.places
    assert report.inputs.findings[0].startswith("the images are in another order")
    assert main(["verify", "check", "tiny-pixtral", str(DUMPS / "tiny-pixtral-images-swapped.npz")]) == 1
    out = capsys.readouterr().out
    assert out.index("another order") < out.index("the ids differ") < out.index("patch_conv")


def changed_model(tmp_path: Path, model: str, name: str, factor: float = 1.001) -> Path:
    """An embedded model, one tensor of which is larger by a thousandth."""
    source = tiny.model_folder(model)
    for path in source.glob("*.json"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    for path in source.glob("tokenizer.model"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    tensors = dict(read_safetensors(source / "consolidated.safetensors"))
    tensors[name] = tensors[name].astype(np.float32) * np.float32(factor)
    save_safetensors(tmp_path / "consolidated.safetensors", tensors)
    return tmp_path


TEXT = {"layers.2.attention_norm": "attention_norm02", "layers.2.attention.wq": "q02", "layers.2.attention.wk": "k02",
        "layers.2.attention.wv": "v02", "layers.2.attention.wo": "attn02", "layers.2.ffn_norm": "ffn_norm02",
        "layers.2.feed_forward.gate": "router_logits02", "layers.2.feed_forward.experts.5.w1": "layer02",
        "layers.2.feed_forward.experts.5.w2": "layer02", "layers.2.feed_forward.experts.5.w3": "layer02",
        "tok_embeddings": "embed", "norm": "norm", "output": "logits"}
VISION = "vision_encoder.transformer.layers.2."
SEES = {f"{VISION}attention.wq": "vision_q02", f"{VISION}attention.wo": "vision_attn02",
        f"{VISION}feed_forward.w1": "vision_layer02", f"{VISION}ffn_norm": "vision_ffn_norm02",
        "vision_encoder.patch_conv": "patch_conv", "vision_encoder.ln_pre": "vision_ln_pre",
        "vision_language_adapter.w_in": "projector", "layers.2.feed_forward.w2": "layer02"}


@pytest.mark.parametrize("model, name, array", [*(("tiny-mixtral", *pair) for pair in TEXT.items()),
                                                *(("tiny-pixtral", *pair) for pair in SEES.items())])
def test_a_thousandth_more_in_one_tensor_is_found(tmp_path, model, name, array):
    report = report_of(model, changed_model(tmp_path, model, f"{name}.weight"))
    assert [place.array for place in report.places] == [array]
    assert report.ours["fingerprint"] != report.theirs["fingerprint"]
    error = report.places[0].error
    assert 5e-6 < error < 2e-3
    number = kind(array) != array
    assert report.places[0].layer == (2 if number else None)
    assert report.places[0].encoder == (number and array.startswith("vision"))


def test_without_the_arrays_between_a_step_is_longer(tmp_path):
    """From queries, keys, values and layers, as another implementation may write them, the layer is still named."""
    between = ("attention_norm", "ffn_norm", "mix")
    names = [key for key in read("tiny-mixtral").arrays if kind(key) in between]
    path = rewritten(tmp_path, "tiny-mixtral", drop=names)
    assert check("tiny-mixtral", path).status == 0
    (tmp_path / "model").mkdir()
    changed = changed_model(tmp_path / "model", "tiny-mixtral", "layers.2.attention_norm.weight")
    report = check(str(changed), path)
    assert [place.array for place in report.places] == ["q02", "k02", "v02"]


def test_only_whole_runs_can_be_compared_without_inputs(tmp_path):
    """With the last arrays alone, what differs is named by the first of them that does."""
    names = [key for key in read("tiny-mixtral").arrays if key not in ("layer03", "norm", "logits")]
    path = rewritten(tmp_path, "tiny-mixtral", drop=names)
    assert check("tiny-mixtral", path, partial=True).status == 0
    (tmp_path / "model").mkdir()
    changed = changed_model(tmp_path / "model", "tiny-mixtral", "layers.2.attention.wv.weight", 1.1)
    report = check(str(changed), path)
    assert [place.array for place in report.places] == ["layer03"] and report.status == 1


def test_numbers_that_are_none_never_pass(tmp_path):
    for value in (np.nan, np.inf):
        logits = read("tiny-mixtral").arrays["logits"].copy()
        logits[3, 5] = value
        report = check("tiny-mixtral", rewritten(tmp_path, "tiny-mixtral", logits=logits))
        assert report.status == 1 and report.places[0].array == "logits"
        assert report.places[0].rows == [3]
        assert "Infinity" not in json.dumps(as_json(report))


def test_a_prompt_that_agrees_and_tokens_that_do_not(tmp_path):
    """A wrong cache shows in the greedy tokens and their leads alone."""
    for name in ("tiny-mixtral", "tiny-mixtral-bfloat16"):
        inputs = read(name).inputs
        tokens, gaps = inputs["greedy_tokens"].copy(), inputs["greedy_gaps"].copy()
        tokens[2] += 1
        gaps[5] += 1
        for changed, at in (({"greedy_tokens": tokens}, 2), ({"greedy_gaps": gaps}, 5)):
            report = check("tiny-mixtral", rewritten(tmp_path, name, **changed))
            assert [(place.operation, place.rows) for place in report.places] == [("decoding with a cache", [at])]
            assert report.status == 1 and (at == 5 or report.greedy.equal <= 2)


def test_an_expert_that_the_logits_do_not_choose(tmp_path):
    dump = read("tiny-mixtral")
    chosen = dump.arrays["experts01"].copy()
    chosen[4, 1] = next(e for e in range(8) if e not in chosen[4])
    path = rewritten(tmp_path, "tiny-mixtral", experts01=chosen)
    report = check("tiny-mixtral", path)
    assert report.places[0].operation == "experts of layer 1 (choice of the experts)"
    assert report.places[0].rows == [4] and not report.experts[1].differ[0].tie
    report = compared_files(dump, dump_file.read(path))
    assert [place.array for place in report.places] == ["experts01"] and report.status == 1


# ---- inputs

def test_pixels_in_another_order_alone(tmp_path):
    inputs = read("tiny-pixtral").inputs
    path = rewritten(tmp_path, "tiny-pixtral", pixels0=inputs["pixels1"], pixels1=inputs["pixels0"])
    report = check("tiny-pixtral", path)
    assert report.inputs.findings[0].startswith("the images are in another order")
    assert report.status == 1 and not report.inputs.fits and not report.places
    assert any("nothing else was compared" in line for line in printed.lines(report))


def test_a_percentage_is_not_longer_than_it_says():
    assert [printed.percentage(x) for x in (None, 0.0, 99.6, 9999.0, 2.4e7)] == ["-", "0", "100", "9999", ">9999"]


@pytest.mark.parametrize("change, words", [
    (lambda x: x[::-1], "blue, green, red"),
    (lambda x: x + 0.01, "filter of the resize"),
    (lambda x: np.where(x > 0, np.nan, x), "filter of the resize")])
def test_pixels_that_differ_are_explained(tmp_path, change, words):
    pixels = np.ascontiguousarray(change(read("tiny-pixtral").inputs["pixels1"])).astype(np.float32)
    report = check("tiny-pixtral", rewritten(tmp_path, "tiny-pixtral", pixels1=pixels))
    assert report.status == 1 and "pixels of image 1 differ" in report.inputs.findings[0]
    assert words in report.inputs.findings[0]


def reason_for(picture: Image.Image, given: Image.Image, style: str) -> str:
    """What is said of the pixels of one picture if they were made of another."""
    dump = read("tiny-pixtral")
    inputs = {key: x for key, x in dump.inputs.items() if not key.startswith(("image", "pixels", "grids"))}
    pixels = tiny.preprocess(given, 8, 256, style=style)
    dump = dump._replace(inputs=inputs | {"image0": np.asarray(picture), "pixels0": pixels})
    return input_checks.check_inputs(tiny.load("tiny-pixtral"), dump).findings[0]


@pytest.mark.parametrize("style", ["mistral", "hf"])
@pytest.mark.parametrize("orientation, words", [(2, "mirrored"), (3, "turned by 180 degrees"), (4, "upside down"),
                                                (5, "axes exchanged"), (6, "right by 90"), (7, "axes exchanged"),
                                                (8, "left by 90")])
def test_pixels_of_a_turned_picture_are_recognised(style, orientation, words):
    with Image.open(GOLDEN / "images/chelsea_80x48.png") as picture:
        picture = picture.convert("RGB")
    other = picture.copy()
    other.getexif()[274] = orientation
    said = reason_for(picture, ImageOps.exif_transpose(other), style)
    assert words in said and "EXIF orientation" in said


def test_pixels_without_the_alpha_of_a_picture_are_recognised():
    with Image.open(GOLDEN / "images/chelsea_rgba_50x66.png") as picture:
        white = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
        for style in ("mistral", "hf"):
            assert "its alpha dropped" in reason_for(white, picture.convert("RGB"), style)
    brighter = Image.fromarray(255 - (255 - np.asarray(white)) // 2)
    assert "filter of the resize" in reason_for(white, brighter, "mistral")


def test_pixels_of_the_other_style_are_recognised(tmp_path):
    picture = np.random.default_rng(0).integers(0, 255, (19, 37, 3)).astype(np.uint8)
    own = tiny.preprocess(Image.fromarray(picture), 8, 256, style="hf")
    dump = read("tiny-pixtral")
    inputs = {key: x for key, x in dump.inputs.items() if not key.startswith(("image", "pixels", "grids"))}
    dump = dump._replace(inputs=inputs | {"image0": picture, "pixels0": own})
    report = input_checks.check_inputs(tiny.load("tiny-pixtral"), dump)
    assert "style \"hf\"" in report.findings[0]


def test_other_ids_and_other_grids(tmp_path):
    dump = read("tiny-pixtral")
    ids = dump.ids.copy()
    ids[-3] += 1
    report = check("tiny-pixtral", rewritten(tmp_path, "tiny-pixtral", ids=ids))
    assert f"the ids differ from token {len(ids) - 3} on" in report.inputs.findings[0]
    report = check("tiny-pixtral", rewritten(tmp_path, "tiny-pixtral", grids=dump.inputs["grids"] + 1))
    assert "the grids are" in report.inputs.findings[0] and report.status == 1


def test_a_file_without_prompt_and_pictures_is_compared_all_the_same(tmp_path):
    path = rewritten(tmp_path, "tiny-pixtral", {"prompt": None, "images": []},
                     drop=["image0", "image1", "grids", "greedy_tokens", "greedy_gaps"])
    report = check("tiny-pixtral", path)
    assert report.status == 0 and report.inputs.ids.startswith("not compared")
    assert report.inputs.pixels.startswith("not compared") and report.greedy is None


# ---- guesses

def planted_guesses(name: str):
    """Every guess that changes an operation of a stored dump, with the step that it was planted in."""
    dump = read(name)
    model = tiny.load(model_of(name))
    halves = {stage.label: stage for stage in stages(model, dump)}
    seen = set()
    for step in steps(model, dump):
        what = kind(step.name)
        stage = halves["vision_" if step.name.startswith("vision_") and "vision_" in halves else ""]
        if what in seen or step.again is None:
            continue
        seen.add(what)
        for sentence, changed in guesses(what.removeprefix("vision_"), stage, dump, model.config):
            try:
                yield model, dump, stage, step, sentence, step.again(**changed)
            except TypeError:
                continue


@pytest.mark.parametrize("name", ["tiny-mixtral", "tiny-pixtral"])
def test_every_guess_recognises_itself_and_no_guess_the_right_model(name):
    tried = 0
    for model, dump, stage, step, sentence, other in planted_guesses(name):
        if compare(step.name, step.ours, other, STEPS["float32"], step.scale).used <= 1:
            assert "epsilon" in sentence, f"{step.name}: nothing changes if {sentence}"
            continue  # The model's own, or one that is lost beside long rows.
        assert sentence in explain(step._replace(theirs=other), stage, dump, model.config, STEPS["float32"]), step.name
        assert sentence not in explain(step, stage, dump, model.config, STEPS["float32"])
        tried += 1
    assert tried >= {"tiny-mixtral": 20, "tiny-pixtral": 30}[name]


def test_a_window_is_named_by_the_first_token_that_differs():
    dump, model = read("tiny-mixtral"), tiny.load("tiny-mixtral")
    *_, stage = stages(model, dump)
    step = next(step for step in steps(model, dump) if step.name == "mix01")
    step = step._replace(theirs=step.again(window=6))
    found = explain(step, stage, dump, model.config, STEPS["float32"])
    assert found == ["a window of 6: each token sees the last 6 only, itself included"]


# ---- two files

def test_two_files(tmp_path):
    first, second = read("tiny-mixtral"), read("tiny-mixtral-expert-5-of-layer-2")
    report = compared_files(first, second)
    assert report.first_unequal == "layer02" and report.inputs.fits
    report = compared_files(first, first)
    assert report.status == 0 and report.first_unequal is None
    report = compared_files(read("tiny-mixtral-wo-of-layer-2"), read("tiny-mixtral-rows-of-wq"))
    assert report.places[0].array == "q00" and report.status == 1
    report = compared_files(read("tiny-pixtral-images-swapped"), read("tiny-pixtral-tanh-gelu"))
    assert report.inputs.findings[0].startswith("the images are the same in another order")
    assert not report.inputs.fits and report.status == 1


# ---- measures

def test_rows_are_judged_by_their_own_length():
    theirs = np.ones((4, 9), np.float32)
    theirs[0] *= 1000
    ours = theirs.copy()
    ours[2, 0] += 0.003
    found = compare("x", ours, theirs, Limits(1e-3, 1.0))
    assert_close(np.array([found.max, found.worst, found.used, found.relative_l2]),
                 np.array([0.003, 0.001, 1.0, 0.003 / 3000]), atol=1e-5)
    assert (found.rows[[0, 1, 3]] == 0).all()
    assert compare("x", theirs, theirs, Limits(0.0, 0.0)).used == 0
    ours[1, 1] = np.nan
    assert compare("x", ours, theirs, Limits(1e-3, 1.0)).used == np.inf
    huge = np.full((3, 4), 1e200)
    with np.errstate(all="ignore"):
        assert not compare("x", huge, 2 * huge, Limits(1e-3, 1.0)).used <= 1, "lengths that overflow prove nothing"
    both = np.full((2, 2), np.nan)
    assert compare("x", both, both, Limits(1e-3, 1.0)).used == np.inf, "NaN is never right"


def test_many_small_errors_count_together():
    theirs = np.ones((100, 64), np.float32)
    assert compare("x", theirs * np.float32(1.004), theirs, Limits(1e-2, 1e-3)).used > 2
    ours = theirs.copy()
    ours[7, 3] *= np.float32(1.004)
    assert compare("x", ours, theirs, Limits(1e-2, 1e-3)).used < 0.1


def test_predictions():
    theirs = np.log(np.array([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]], np.float32))
    ours = np.log(np.array([[0.25, 0.5, 0.25], [0.1, 0.1, 0.8]], np.float32))
    found = comparison.predictions(ours, theirs)
    assert found.rows == 2 and found.top1 == 1
    assert_close(np.array([found.kl_max, found.kl_mean]), np.log(2) * np.array([0.25, 0.125]), atol=1e-7)


def test_a_tie_is_what_rounding_explains_and_nothing_else():
    logits = np.array([[1.0, 0.99999, -1, -2]], np.float32)
    limits = RUNS["float32"]

    def one(own, chosen):
        own = np.array([own], np.float32)
        return comparison.compare_experts(0, np.array([chosen]), np.array([[0, 1]]), own, logits, limits)

    assert one([1.0, 0.99999, -1, -2], [0, 1]).equal == 1
    tie = one([0.99999, 1.0, -1, -2], [1, 0]).differ[0]
    assert tie.tie and 9e-6 < tie.gap < 1.1e-5
    wrong = one([1.0, 0.99999, -1, -2], [0, 2]).differ[0]
    assert not wrong.tie and printed.meaning(wrong) == "no tie"
    far = one([0.5, 0.99999, 1, -2], [2, 1]).differ[0]
    assert not far.tie and printed.meaning(far) == "the logits themselves differ"


def test_columns_of_the_tolerances():
    assert [comparison.tolerances_of(record) for record in (
        {"precision": "float32", "attention": "sdpa"}, {"precision": "bfloat16"},
        {"precision": "bfloat16", "attention": "eager", "experts": "grouped_mm"})] == ["float32", "bfloat16", "other"]
    assert all(STEPS[name].row <= RUNS[name].row for name in STEPS) and STEPS.keys() == RUNS.keys()


# ---- files from anywhere

def refused(path: Path) -> str:
    with pytest.raises(tiny.TinyError) as error:
        dump_file.read(path)
    return error.value.cause


def stored(tmp_path: Path, **arrays) -> Path:
    record = np.array(json.dumps({"format": dump_file.FORMAT, "precision": "float32"}))
    given = {"record": record, "ids": np.arange(3)}
    np.savez(tmp_path / "x.npz", **{key: x for key, x in (given | arrays).items() if x is not None})
    return tmp_path / "x.npz"


class Evil:
    """An object that leaves a trace when it is unpickled."""

    def __reduce__(self):
        return Path.touch, (Path("unpickled"),)


def test_nothing_is_unpickled(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("layer00", "record", "other"):
        path = stored(tmp_path, **{name: np.array([Evil()], object)})
        assert name in refused(path) and not (tmp_path / "unpickled").exists()


@pytest.mark.parametrize("arrays, words", [
    ({"ids": None}, "no ids"), ({"ids": np.array([-1, 2])}, "negative"), ({"ids": np.ones(3)}, "ids is"),
    ({"ids": np.zeros((2, 2), int)}, "shape"), ({"ids": np.zeros(0, int)}, "ids is"),
    ({"record": None}, "no array `record`"),
    ({"ids": np.array([2**40])}, "beyond"), ({"record": np.array("{")}, "record"),
    ({"record": np.array("[]")}, "record"),
    ({"record": np.array('{"format": "tiny-verify 2"}')}, "format"),
    ({"record": np.array('{"format": "tiny-verify 1", "precision": "int8"}')}, "precision"),
    ({"positions": np.array([0, 3])}, "positions"), ({"positions": np.array([1, 0])}, "positions"),
    ({"positions": np.array([-1, 0])}, "positions"), ({"pixels1": np.zeros((3, 8, 8), np.float32)}, "numbered"),
    ({"pixels0": np.zeros((3, 8), np.float32)}, "shape"), ({"grids": np.zeros((1, 3), int)}, "grids"),
    ({"layer00": np.zeros((3, 4), np.complex64)}, "layer00"), ({"layer00": np.array(["a"])}, "layer00")])
def test_files_that_are_refused(tmp_path, arrays, words):
    assert words in refused(stored(tmp_path, **arrays))


def test_files_that_are_cut_or_lie_about_their_size(tmp_path):
    whole = (DUMPS / "tiny-mixtral.npz").read_bytes()
    path = tmp_path / "x.npz"
    for length in (0, 10, len(whole) // 2, len(whole) - 30):
        path.write_bytes(whole[:length])
        assert "not a whole npz file" in refused(path)
    assert "does not exist" in refused(tmp_path / "none.npz")
    header = b"\x93NUMPY\x01\x00" + (118).to_bytes(2, "little")
    text = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000, 4000), }".ljust(117) + b"\n"
    with zipfile.ZipFile(stored(tmp_path), "a") as archive:
        archive.writestr("layer00.npy", header + text + b"\0" * 16)
    assert "layer00 is (1000000000, 4000)" in refused(path)
    with pytest.warns(UserWarning), zipfile.ZipFile(stored(tmp_path), "a") as archive:
        archive.writestr("ids.npy", b"")
    assert "twice" in refused(path)
    with zipfile.ZipFile(stored(tmp_path), "a") as archive:
        archive.writestr("readme.txt", b"hello")
    assert "readme.txt" in refused(path)


def test_too_much_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(dump_file, "MAX_BYTES", 1000)
    assert "declares" in refused(stored(tmp_path, layer00=np.zeros((3, 200))))


@pytest.mark.parametrize("name, x", [("layer00", np.zeros((15, 64), np.float32)), ("layer09", np.zeros((15, 128))),
                                     ("layer00", np.zeros((14, 128), np.float32)), ("patch_conv", np.zeros((1, 128))),
                                     ("experts00", np.full((15, 2), 8)), ("experts00", np.zeros((15, 2), np.float32))])
def test_arrays_of_another_model(tmp_path, name, x):
    path = rewritten(tmp_path, "tiny-mixtral", **{name: x})
    if x.max() == 8:
        with pytest.raises(tiny.TinyError, match=f"{name} holds numbers that are no experts"):
            check("tiny-mixtral", path)
    else:
        report = check("tiny-mixtral", path)
        assert report.verdict == "differs" and [text.split()[0] for text in report.misshapen] == [name]


def test_unknown_names_cost_the_verdict_and_command_no_terminal(tmp_path, capsys):
    path = rewritten(tmp_path, "tiny-mixtral", **{"hidden\n\x1b[31m01": np.zeros(3, np.float32)})
    assert main(["verify", "check", "tiny-mixtral", str(path)]) == 1
    out = capsys.readouterr().out
    assert "names that are in no table of the format: hidden \ufffd[31m01" in out and "\x1b" not in out


def test_the_page_of_the_format_lists_the_names():
    text = (GOLDEN / "FORMAT.md").read_text(encoding="utf-8")
    for name in {kind(key) for key in read("tiny-mixtral").arrays}:
        assert f"`{name}`" in text or f"`{name}NN`" in text, name
    for name in ("patch_conv", "vision_ln_pre", "projector", "pixels0", "image0", "grids", "positions"):
        assert f"`{name}`" in text, name


# ---- the command

def test_exit_status_json_and_picture(tmp_path, capsys):
    good, bad = DUMPS / "tiny-mixtral.npz", DUMPS / "tiny-mixtral-wo-of-layer-2.npz"
    assert main(["verify", "check", "tiny-mixtral", str(good), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["status"] == 0 and len(report["arrays"]) == 47
    assert main(["verify", "check", "tiny-mixtral", str(bad), "--all", "--plot", str(tmp_path / "e.png")]) == 1
    out = capsys.readouterr().out
    assert "DIFFERS  first in attention of layer 2 (output matrix wo); array attn02, relative error 1.0e-03" in out
    assert (tmp_path / "e.png").read_bytes().startswith(b"\x89PNG")
    for wrong in (["tiny-mixtral", "none.npz"], ["tiny-mixtral", str(good), "--plot", "e.txt"], ["none", str(good)],
                  [str(tmp_path), str(good)]):
        assert main(["verify", "check", *wrong]) == 2
        assert "remedy:" in capsys.readouterr().err
    assert main(["verify", "check", str(good), str(good)]) == 0
    assert "the same to the bit" in capsys.readouterr().out


def test_the_table_is_as_wide_as_a_terminal_and_has_every_layer(capsys):
    lines = list(printed.lines(report_of("tiny-mixtral-wo-of-layer-2"), False))
    assert max(len(line) for line in lines) <= 140
    text = "\n".join(lines)
    assert "layer 01 (11)" in text and "attn02" in text and "attn01" not in text


def test_a_figure_marks_the_first_that_differs():
    figure = error_by_layer(report_of("tiny-mixtral-rows-of-wq"))
    panel = figure.axes[0]
    assert panel.get_yscale() == "log" and "attention of layer 0" in panel.texts[-1].get_text()
    crosses = panel.collections[-1].get_offsets()
    assert len(crosses) == 1


def fake_python(tmp_path: Path, script: str) -> str:
    """An interpreter that does something else: the child's place taken, the parent is tested by itself."""
    path = tmp_path / "python"
    path.write_text(f"#!/bin/sh\n# arguments: -I program REQUEST OUT\n{script}\n", encoding="utf-8")
    path.chmod(0o755)
    return str(path)


def dump_command(tmp_path: Path, python: str, *more: str) -> list[str]:
    return ["verify", "dump", "tiny-mixtral", str(tmp_path / "out.npz"), "--python", python, "--scratch", str(tmp_path),
            "--prompt", "Once upon a time there was a girl named Mia. Mia had a", *more]


def test_dump_hands_the_request_on_and_writes_the_file(tmp_path, capsys):
    script = (f'cp "$3" {tmp_path}/request.json; cp {DUMPS}/tiny-mixtral.npz "$4"; '
              f'ls "$(dirname "$3")/hf" > {tmp_path}/ls')
    command = dump_command(tmp_path, fake_python(tmp_path, script), "--layers", "0,2", "--positions", "0,-1")
    assert main(command) == 0, capsys.readouterr().err
    request = json.loads((tmp_path / "request.json").read_text())
    assert request["layers"] == [0, 2] and request["positions"] == [0, -1] and request["load"] == "whole"
    assert (tmp_path / "ls").read_text().split() == ["config.json", "model.safetensors"]
    assert dump_file.read(tmp_path / "out.npz").record["model"] == "tiny-mixtral"
    assert main(["verify", "check", "tiny-mixtral", str(tmp_path / "out.npz")]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ls", "out.npz", "python", "request.json"]


@pytest.mark.parametrize("script, words", [
    ("echo \"ModuleNotFoundError: No module named 'torch'\" >&2; exit 1", "No module named 'torch'"),
    ("exit 3", "exit status 3")])
def test_a_dump_that_fails_leaves_nothing(tmp_path, capsys, script, words):
    assert main(dump_command(tmp_path, fake_python(tmp_path, script))) == 2
    assert words in capsys.readouterr().err and [path.name for path in tmp_path.iterdir()] == ["python"]


def test_an_interrupted_dump_leaves_nothing(tmp_path, monkeypatch):
    old = tmp_path / "out.npz"
    old.write_bytes(b"what was there")
    monkeypatch.setattr("subprocess.Popen.communicate", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
    assert main(dump_command(tmp_path, fake_python(tmp_path, "sleep 60"))) == 130
    assert old.read_bytes() == b"what was there"
    monkeypatch.undo()

    def cut(file, **arrays):
        file.write(b"half")
        raise KeyboardInterrupt
    monkeypatch.setattr("tiny.tools.verify.file.np.savez_compressed", cut)
    command = dump_command(tmp_path, fake_python(tmp_path, f'cp {DUMPS}/tiny-mixtral.npz "$4"'))
    assert main(command) == 130
    assert old.read_bytes() == b"what was there"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.npz", "python"]


def test_dump_says_what_it_cannot_do(tmp_path, capsys):
    assert main(["verify", "dump", "tiny-mixtral", str(tmp_path / "o.npz"), "--reference", "mistral"]) == 2
    assert "xformers" in capsys.readouterr().err
    for folder, out, python in (("tiny-mixtral", tmp_path / "none" / "o.npz", "python"),
                                ("none", tmp_path / "o", "python"),
                                ("tiny-mixtral", tmp_path / "o.npz", str(tmp_path / "no-python"))):
        assert main(["verify", "dump", str(folder), str(out), "--python", python]) == 2
        assert "remedy:" in capsys.readouterr().err and not out.exists()


def test_both_layouts_have_one_fingerprint():
    marks = {fingerprint(tiny.load(GOLDEN / "pixtral-a" / layout, weights="mapped").weights)
             for layout in ("mistral", "hf")}
    assert len(marks) == 1


# ---- what others found

def test_results(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files = []
    for name in ("tiny-mixtral", "tiny-mixtral-wo-of-layer-2"):
        main(["verify", "check", "tiny-mixtral", str(DUMPS / f"{name}.npz"), "--json"])
        files.append(f"{name}.json")
        Path(files[-1]).write_text(capsys.readouterr().out, encoding="utf-8")
    assert main(["verify", "results", *files]) == 0
    rows = Path("RESULTS.md").read_text(encoding="utf-8").strip().splitlines()[-4:]
    assert rows[0].startswith("| model | index |") and rows[2].count(" | ") == rows[0].count(" | ")
    assert {row.split(" | ")[4] for row in rows[2:]} == {"same", "differs"}
    assert any("attn02" in row for row in rows[2:])
    Path("bad.json").write_text('{"format": "else"}')
    assert main(["verify", "results", "bad.json"]) == 2


def test_the_list_of_results_is_as_the_command_writes_it():
    text = (ROOT / "RESULTS.md").read_text(encoding="utf-8")
    assert text.startswith(results.HEAD)
    assert text.endswith(results.EMPTY) or "| model | index |" in text


def test_every_task_has_its_options():
    for task in (["dump", "a", "b"], ["check", "a", "b"], ["results"]):
        args = build_parser().parse_args(["verify", *task])
        assert args.command == "verify" and args.task == task[0]


# ---- the page

PAGE = ROOT / "tutorial/reference/is_it_the_same_model.md"


def test_the_page_shows_what_the_tool_says():
    text = PAGE.read_text(encoding="utf-8")
    shown = "\n".join(re.findall(r"```\n(DIFFERS.*?)```", text, re.S)).splitlines()
    said = [line for name in PLANTED for line in printed.lines(report_of(name))]
    assert len(shown) >= 3 and set(shown) - {""} <= set(said)
    for command in re.findall(r"^python -m tiny (.*)$", text, re.M):
        assert build_parser().parse_args(shlex.split(command)).command == "verify"
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        assert (PAGE.parent / target).exists(), target
    greedy = report_of("tiny-pixtral-tanh-gelu")
    assert greedy.greedy.equal == 8 and greedy.distribution.top1 == greedy.distribution.rows


def test_the_pictures_of_the_page_are_of_these_dumps():
    from tutorial import draw_planted
    from tutorial.draw_figures import drawn_by
    text = PAGE.read_text(encoding="utf-8")
    assert re.findall(r"\(\.\./figures/(\w+)\.png\)", text) == [
        "same_model", "planted_wo", "planted_gelu", "same_model_bfloat16"]
    for name in draw_planted.PICTURES:
        file = draw_planted.FOLDER / f"{name}.png"
        assert file.stat().st_size <= 150 * 1024
        with Image.open(file) as picture:
            assert picture.text["Model"] == draw_planted.checksum(name), f"{name}: run python -m tutorial.draw_planted"
            figure = draw_planted.draw(name)
            assert picture.text["Code"] == drawn_by(figure), f"{name}: run python -m tutorial.draw_planted"
            inches = figure.get_size_inches()
            assert np.abs(np.array(picture.size) - 120 * inches).max() <= 1
