"""tiny/system/hub.py: whatever folder of a Hugging Face cache is given, the right snapshot is read."""

from pathlib import Path

import pytest
from compare import assert_close
from small import random_tensors, sizes, write_hf

import tiny
from tiny.__main__ import main
from tiny.config import TinyError
from tiny.system.hub import model_name

DENSE = sizes(None)
DENSE_TENSORS = random_tensors(DENSE)
IDS = [1, 5, 7, 9, 30]


def cache(root, *hashes, main=None, name="models--some--model"):
    for digest in hashes:
        write_hf_links(root / name, digest)
    if main:
        (root / name / "refs").mkdir()
        (root / name / "refs/main").write_text(main)
    return root / name


def write_hf_links(top, digest):
    blobs, snapshot = top / "blobs", top / "snapshots" / digest
    blobs.mkdir(parents=True, exist_ok=True)
    snapshot.mkdir(parents=True)
    for path in write_hf(blobs / f"made{digest}", DENSE, DENSE_TENSORS).iterdir():
        path.rename(blobs / f"{digest}{path.suffix[1:]}")
        (snapshot / path.name).symlink_to(f"../../blobs/{digest}{path.suffix[1:]}")


MODEL = "models--some--model"


@pytest.mark.parametrize("inside", [MODEL, f"{MODEL}/snapshots", f"{MODEL}/refs", f"{MODEL}/blobs", "", ".."])
@pytest.mark.parametrize("by", ["its path", "a text", "a relative path"])
def test_a_cache_at_any_depth(tmp_path, monkeypatch, inside, by):
    top = cache(tmp_path / "hub", "aaa", "bbb", main="bbb")
    monkeypatch.chdir(tmp_path / "hub")
    folder = Path(inside) if by == "a relative path" else tmp_path / "hub" / inside
    with pytest.warns(UserWarning, match="snapshots/bbb is read") as warned:
        model = tiny.load(str(folder) if by == "a text" else folder)
    assert len(warned) == 1 and model.checkpoint.folder.samefile(top / "snapshots/bbb")
    assert_close(model(IDS), tiny.Mixtral(DENSE, DENSE_TENSORS)(IDS), 1e-5)


def test_a_model_by_the_name_of_its_folder(tmp_path, monkeypatch):
    cache(tmp_path, "aaa")
    monkeypatch.chdir(tmp_path)
    with pytest.warns(UserWarning, match="snapshots/aaa is read"):
        assert tiny.load(MODEL).checkpoint.folder == Path(MODEL) / "snapshots/aaa"


def test_a_snapshot_is_read_as_it_is(tmp_path, recwarn):
    top = cache(tmp_path / "hub", "aaa", "bbb", main="bbb")
    for name in ("aaa", "bbb"):
        assert tiny.load(top / "snapshots" / name).checkpoint.folder == top / "snapshots" / name
    assert not recwarn.list
    assert model_name(top / "snapshots/bbb") == "some/model" and model_name(tmp_path / "x") == "x"


def test_a_model_that_holds_a_cache_is_itself(tmp_path, recwarn):
    write_hf(tmp_path / "model", DENSE, DENSE_TENSORS)
    cache(tmp_path / "model", "aaa")
    assert tiny.model_folder(tmp_path / "model") == tmp_path / "model" and not recwarn.list


def test_a_cache_without_a_snapshot(tmp_path):
    (tmp_path / MODEL / "snapshots").mkdir(parents=True)
    with pytest.raises(TinyError, match="fetch the model again"):
        tiny.load(tmp_path / MODEL)


@pytest.mark.parametrize("command", ["inspect", "memory"])
def test_commands_take_a_cache(tmp_path, capsys, command):
    assert main([command, str(cache(tmp_path, "aaa"))]) == 0
    assert "snapshots/aaa is read" in capsys.readouterr().err
    assert main([command, str(cache(tmp_path / "b", "aaa", "bbb"))]) == 2
    assert "Give one: snapshots/aaa, snapshots/bbb." in capsys.readouterr().err


def test_a_cache_that_leaves_a_choice(tmp_path):
    top = cache(tmp_path, "aaa", "bbb", main="ccc")
    with pytest.raises(TinyError, match="snapshots/aaa, snapshots/bbb"):
        tiny.model_folder(str(top))
    cache(tmp_path, "ddd", name="models--other--one")
    with pytest.raises(TinyError, match="models--other--one, models--some--model"):
        tiny.model_folder(str(tmp_path))
    with pytest.warns(UserWarning, match="snapshots/ddd"):
        assert tiny.model_folder(str(tmp_path / "models--other--one")).name == "ddd"
