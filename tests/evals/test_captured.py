"""Requests are those of mistral-evals, field by field. Oracle: what it sent for the same files, recorded unchanged."""

import base64
import io
import json

import numpy as np
import pytest
from compare import assert_close
from oracles import ROOT
from PIL import Image
from small_evals import scripted_server

from tiny.__main__ import main

pytest.importorskip("pyarrow", reason="Importing parquet needs pyarrow: pip install -e .[evals]")

GOLDEN = ROOT / "tests/golden/evals"
NAMES = {"mm_mt_bench": "MM-MT-Bench", "chartqa": "ChartQA", "docvqa": "DocVQA", "mathvista": "MathVista",
         "mmmu": "MMMU", "vqav2": "VQAv2"}
JUDGE = "gpt-4o-2024-05-13"
LEVELS = 3  # of 256, by which two versions of a JPEG library may differ


def without_pictures(request):
    """A request as text, in the order of its fields, with a number in the place of each picture; and the pictures."""
    found = []

    def visit(value):
        if isinstance(value, dict):
            return {key: visit(one) for key, one in value.items()}
        if isinstance(value, list):
            return [visit(one) for one in value]
        if isinstance(value, str) and value.startswith("data:"):
            kind, data = value.split(";base64,")
            found.append(base64.b64decode(data))
            return f"{kind}, picture {len(found)}"
        return value

    return json.dumps(visit(request)), found


def pixels(data):
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), np.int64)


def check_same(ours, theirs):
    """The same requests, in any order, because both ask several at once."""
    mine, known = (sorted(map(without_pictures, requests)) for requests in (ours, theirs))
    assert [text for text, _ in mine] == [text for text, _ in known] and mine
    for (_, here), (_, there) in zip(mine, known):
        for one, other in zip(here, there, strict=True):
            assert_close(pixels(one), pixels(other), LEVELS, name="a picture")


@pytest.mark.parametrize("task", NAMES)
def test_captured_requests(task, tmp_path):
    known = json.loads((GOLDEN / "requests.json").read_bytes())["requests"][task]
    (file,) = GOLDEN.glob(f"{NAMES[task]}-*.parquet")
    items, out = tmp_path / "items", tmp_path / "run"
    assert main(["evals", "import", task, str(file), str(items)]) == 0
    judged = [request for request in known if request["model"] == JUDGE]
    with scripted_server(reply_to) as (address, seen):
        arguments = ["--name", "tiny-pixtral", "--images", "published", "--jobs", "4", "--out", str(out)]
        assert main(["evals", "run", task, str(items), "--model", address, *arguments]) == 0
        check_same([body for _, body, _, _ in seen], [one for one in known if one["model"] != JUDGE])
        del seen[:]
        if judged:
            arguments = ["--name", JUDGE, "--prompt", "published", "--image", "no"]
            assert main(["evals", "judge", str(out), "--judge", address, *arguments]) == 0
            check_same([body for _, body, _, _ in seen], judged)


def reply_to(body, number):
    """A rating for a judge; else the canned answer, which the judge's requests repeat: 4 to a count, else red."""
    if body["model"] == JUDGE:
        return "The answer agrees with the reference.\nRating: [[7]]"
    count = "How many" in json.dumps(body["messages"][-1])
    return f"A picture with a square.\nReasoning.\nFinal Answer: {4 if count else 'red'}"
