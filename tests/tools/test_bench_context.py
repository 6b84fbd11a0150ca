"""Long prompts: what they hold, measured in processes of their own, by the prediction and by the record."""

import json
import os
import subprocess
import sys
from argparse import Namespace

import numpy as np
import pytest
from oracles import ROOT

from tests.tools.test_cli import fails
from tiny.tools import memory
from tiny.tools.bench import context
from tiny.tools.releases import stand_ins
from tutorial.pages.records import record

MB = 1_000_000


def measured(kind, tokens):
    command = [sys.executable, "-m", "tiny", "bench", "--context", "--child", kind, "--prefill", str(tokens)]
    one = os.environ | dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    done = subprocess.run(command, cwd=ROOT, env=one, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def predicted(kind, tokens, images):
    """Bytes of arrays by the command `memory`; the pictures of these prompts are one, which is there before."""
    patches = [context.SIDE**2] * images
    need = memory.estimate(context.KINDS[kind], stand_ins(context.KINDS[kind]), tokens, patches)
    return need.kv_cache + need.activations - 4 * sum(patches) * 3 * 16**2


@pytest.mark.slow
def test_a_prompt_with_images_does_not_hold_them_all():
    """One pass over 16,384 tokens with 3 images held 79 MB; passes, an image at a time, 33."""
    small, large = measured("images", 8192), measured("images", 16384)
    assert (small["images"], large["images"]) == (1, 3)
    assert large["over"] <= 42 * MB, f"{large['over'] / MB:.1f} MB"
    assert large["over"] <= 2.1 * small["over"]
    assert 0.7 <= large["over"] / predicted("images", 16384, 3) <= 1.3


@pytest.mark.thorough
def test_words_hold_their_cache_and_little_more():
    found = measured("words", 16384)
    assert found["over"] - found["cache"] <= 44 * MB, f"{(found['over'] - found['cache']) / MB:.1f} MB"
    assert 0.7 <= found["over"] / predicted("words", 16384, 0) <= 1.3


def test_the_recorded_run():
    entry = record("context.json")
    assert entry["date"] and entry["machine"] and entry["kernel"]
    rows = {(row["kind"], row["tokens"]): row for row in entry["rows"]}
    assert set(rows) == {(kind, n) for kind, config in context.KINDS.items() for n in context.lengths(config)}
    longest = rows["images", 131072]
    assert longest["images"] == 30 and longest["over"] <= 160 * MB
    assert longest["over"] <= 2.1 * rows["images", 65536]["over"]
    assert rows["words", 32768]["over"] - rows["words", 32768]["cache"] <= 64 * MB
    for (kind, tokens), row in rows.items():
        assert 0.7 <= row["over"] / predicted(kind, tokens, row["images"]) <= 1.3, (kind, tokens)


@pytest.mark.parametrize("kind", context.KINDS)
def test_prompts_are_as_long_as_they_should_be(kind):
    config = context.KINDS[kind]
    for tokens in context.lengths(config):
        ids, images = context.prompt(kind, config, tokens)
        assert len(ids) == tokens and ids.min() >= 1 and ids.max() < config.vocab_size
        assert len(images) == (tokens // 4360 if kind == "images" else 0)
        patches = 0 if config.vision is None else np.count_nonzero(ids == config.vision.image_token_id)
        assert patches == 4096 * len(images)


def test_words_for_a_model_that_sees_are_no_images():
    ids, images = context.prompt("tiny-pixtral", context.SEES, 5000)
    assert images == [] and context.SEES.vision.image_token_id not in ids


def rows_of(*over):
    return [{"kind": "words", "tokens": 1024 * 2**n, "images": 0, "seconds": 1.0, "processor": 2.0 * 3**n,
             "over": x * MB, "cache": MB, "other_cores": 0.1} for n, x in enumerate(over)]


def test_the_table_and_the_figure():
    first, second = rows_of(40, 60)
    assert context.line(second, first).split()[-4:] == ["1.50", "x", "3.0", "x"]
    assert context.line(first, None).split() == ["words", "1,024", "0", "2.0", "40.0", "1.0"]
    assert "x" not in context.line(second, first | {"kind": "images"})
    left, right = context.draw([first, second, *({**row, "kind": "images"} for row in (first, second))]).axes
    assert [line.get_ydata().tolist() for line in left.lines] == [[2.0, 6.0]] * 2
    assert [line.get_ydata().tolist() for line in right.lines] == [[40.0, 60.0], [1.0, 1.0]] * 2
    assert [label.get_text() for label in left.get_xticklabels()] == ["1k", "2k"]


def test_a_checkpoint_of_ones_own(monkeypatch, capsys, tmp_path):
    """Four lengths up to its own context, each by a process; the figure is written."""
    asked = []

    def run_child(command, threads):
        asked.append(command[-1])
        return {**rows_of(50)[0], "images": 0}

    monkeypatch.setattr(context, "run_child", run_child)
    options = {"child": None, "figure": str(tmp_path / "c.png"), "model": "tiny-mixtral", "threads": [2], "save": False}
    assert context.main(Namespace(**options)) == 0
    assert asked == [f"--prefill={n}" for n in (64, 128, 256, 512)]
    out = capsys.readouterr().out
    assert out.startswith("2 threads, ") and out.count("tiny-mixtral") == 4
    assert (tmp_path / "c.png").stat().st_size > 5000


def test_bad_use(capsys):
    fails(capsys, ["bench", "--context", "--figure", "c.gif"], "c.gif")
    fails(capsys, ["bench", "--context", "--model", "gone"], "gone")
    fails(capsys, ["bench", "--context", "--threads", "0"], "--threads is 0")
