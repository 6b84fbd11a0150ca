"""The command `trace`: a row for each array, with the numbers of the model's own trace."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

import tiny
from tests.tools.test_cli import call, fails
from tiny.files.safetensors import read_safetensors
from tiny.training.saving import save_safetensors

MIXTRAL = tiny.model_folder("tiny-mixtral")


def traced(capsys, *arguments) -> tuple[dict, list[int]]:
    said = json.loads(call(capsys, "trace", *arguments, "--json")[0])
    return {row["name"]: row for row in said["arrays"]}, said["prompt_ids"]


def test_rows_are_those_of_the_models_trace(capsys):
    rows, ids = traced(capsys, "--prompt", "Once upon a time")
    model, trace = tiny.load(MIXTRAL), {}
    assert ids == [model.tokenizer.bos_id, *model.tokenizer.encode("Once upon a time")]
    model(ids, trace=trace)
    assert list(rows) == list(trace)
    for name, x in trace.items():
        row = rows[name]
        assert (row["shape"], row["dtype"], row["nan"]) == (list(x.shape), str(x.dtype), 0)
        assert row["largest"] == np.abs(x).max()
        wanted = np.sqrt(np.square(x, dtype=np.float64).mean())
        assert row["rms"] is None if x.dtype == np.int64 else abs(row["rms"] / wanted - 1) < 1e-9


def test_the_table_has_a_line_for_each_array(capsys):
    out, _, _ = call(capsys, "trace", "--prompt", "Hello", "--chat")
    lines = out.splitlines()
    assert lines[0].split() == ["array", "shape", "rms", "largest", "NaN"]
    assert [line.split()[0] for line in lines[1:]] == list(traced(capsys, "--prompt", "Hello", "--chat")[0])
    assert next(line for line in lines if line.startswith("experts00")).split()[-3:] == ["-", "7", "0"]


def test_images_come_first(capsys, tmp_path):
    Image.new("RGB", (40, 30), "red").save(tmp_path / "a.png")
    rows, ids = traced(capsys, "--prompt", "What is it?", "--image", tmp_path / "a.png")
    assert list(rows)[:2] == ["patch_conv", "vision_ln_pre"] and "projector" in rows
    assert rows["patch_conv"]["shape"][0] == ids.count(tiny.load("tiny-pixtral").config.vision.image_token_id)
    fails(capsys, ["trace", "--model", "tiny-mixtral", "--prompt", "a", "--image", tmp_path / "a.png"], "text only")


@pytest.mark.parametrize("value, largest", [(np.nan, float), (np.inf, type(None))])
def test_damage_is_shown_and_the_json_stays_json(capsys, tmp_path, value, largest):
    shutil.copytree(MIXTRAL, tmp_path / "model")
    tensors = dict(read_safetensors(MIXTRAL / "consolidated.safetensors"))
    tensors["layers.1.attention.wo.weight"] = tensors["layers.1.attention.wo.weight"].copy()
    tensors["layers.1.attention.wo.weight"][5, 7] = value
    save_safetensors(tmp_path / "model/consolidated.safetensors", tensors)
    rows, ids = traced(capsys, "--model", tmp_path / "model", "--prompt", "Once upon")
    assert rows["layer00"]["nan"] == 0
    assert isinstance(rows["attn01"]["largest"], largest)
    assert rows["attn01"]["nan"] == (len(ids) if np.isnan(value) else 0) and rows["layer02"]["nan"] > 0
    assert ("inf" if np.isinf(value) else "nan") in call(capsys, "trace", "--model", tmp_path / "model", "--prompt",
                                                         "Once upon")[0].lower()


def test_what_cannot_be_traced(capsys):
    fails(capsys, ["trace", "--prompt", "word " * 600], "the context 512")
    fails(capsys, ["trace"], "--prompt")
