"""What `verify dump` gives to the reference: files by their names, and no reading of our own that is in doubt."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from oracles import GOLDEN

import tiny
from tiny.__main__ import main
from tiny.system.hub import model_name
from tiny.tools.verify import file as dump_file
from tiny.tools.verify.dump import fingerprint

STORED = GOLDEN / "verify/tiny-mixtral.npz"


def run(folder: Path, tmp_path: Path, *more: str) -> int:
    """`verify dump` with a program in the reference's place that keeps the request and the folder it was given."""
    with np.load(STORED) as stored:
        record = {"implementation": "other", "configuration": {"decoder": {"theta": 1e6, "window": 8}}}
        np.savez(tmp_path / "child.npz", **dict(stored) | {"record": np.array(json.dumps(record))})
    script = tmp_path / "python"
    script.write_text(f"""#!/bin/sh
cp "$3" {tmp_path}/request.json; cp {tmp_path}/child.npz "$4"
test -d "$(dirname "$3")/hf" && cp -r "$(dirname "$3")/hf" {tmp_path}/given
exit 0
""", encoding="utf-8")
    script.chmod(0o755)
    return main(["verify", "dump", str(folder), str(tmp_path / "out.npz"), "--python", str(script), "--scratch",
                 str(tmp_path), *more])


def request(tmp_path: Path) -> dict:
    return json.loads((tmp_path / "request.json").read_text(encoding="utf-8"))


def copied(source: Path, folder: Path) -> Path:
    """A copy of a checkpoint to change."""
    return Path(shutil.copytree(source, folder))


def changed_params(folder: Path, **keys) -> None:
    path = folder / "params.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | keys), encoding="utf-8")


def in_cache(source: Path, root: Path) -> Path:
    """The snapshot of a model in a Hugging Face cache: every file is a link to a hash."""
    snapshot = root / "models--some--little--model/snapshots/0123abc"
    snapshot.mkdir(parents=True)
    for n, path in enumerate(sorted(source.iterdir())):
        blob = root / "models--some--little--model/blobs" / f"{n:064x}"
        blob.parent.mkdir(exist_ok=True)
        shutil.copy(path, blob)
        (snapshot / path.name).symlink_to(f"../../blobs/{blob.name}")
    return snapshot


def test_a_snapshot_of_a_cache_keeps_the_names_of_its_files(tmp_path):
    folder = in_cache(GOLDEN / "mixtral-a/hf", tmp_path / "hub")
    assert run(folder, tmp_path) == 0
    asked = request(tmp_path)
    assert asked["folder"] == str(folder) and asked["tokenizer"] == str(folder / "tokenizer.model")
    assert [Path(name).parent for name in asked["files"]] == [folder] * 3
    assert model_name(folder) == "some/little--model" and model_name(Path("tests/golden/..")) == "tests"


def test_images_keep_their_names(tmp_path):
    (tmp_path / "link.png").symlink_to(GOLDEN / "images/chelsea_80x48.png")
    run(tiny.model_folder("tiny-pixtral"), tmp_path, "--image", str(tmp_path / "link.png"))
    assert request(tmp_path)["images"] == [str(tmp_path / "link.png")]


@pytest.mark.parametrize("keys, words", [({"yarn": {"factor": 4}}, "yarn"), ({"made_up_key": 3}, "made_up_key"),
                                         ({"sliding_window": 8}, "sliding"), ({"_sliding_window": 8}, "window")])
def test_a_doubt_about_params_stops_the_dump(keys, words, tmp_path, capsys):
    folder = copied(GOLDEN / "mixtral-a/mistral", tmp_path / "model")
    changed_params(folder, **keys)
    if main(["inspect", str(folder)]) == 0 and "note" not in capsys.readouterr().err:
        pytest.fail("this code neither refuses nor notes the key")
    assert run(folder, tmp_path) == 2
    assert words in capsys.readouterr().err and not (tmp_path / "out.npz").exists()


def test_the_config_of_the_folder_is_given_if_there_is_one(tmp_path, capsys):
    folder = copied(GOLDEN / "mixtral-a/mistral", tmp_path / "model")
    shutil.copy(GOLDEN / "mixtral-a/hf/config.json", folder)
    changed_params(folder, made_up_key=3)
    assert run(folder, tmp_path) == 0
    assert (tmp_path / "given/config.json").read_bytes() == (GOLDEN / "mixtral-a/hf/config.json").read_bytes()
    assert "this code's reading" not in capsys.readouterr().err


def test_without_one_the_command_says_whose_reading_it_is(tmp_path, capsys):
    assert run(GOLDEN / "mixtral-a/mistral", tmp_path) == 0
    assert "config.json is this code's reading of params.json" in capsys.readouterr().err
    own = json.loads((tmp_path / "given/config.json").read_text(encoding="utf-8"))
    assert own["rope_theta"] == tiny.load(GOLDEN / "mixtral-a/mistral").config.rope_theta


def test_of_both_layouts_the_reference_reads_its_own(tmp_path):
    """The fingerprint is that of what it loaded: here other weights than those in Mistral's layout."""
    folder = copied(GOLDEN / "mixtral-a/mistral", tmp_path / "model")
    for path in (GOLDEN / "mixtral-b/hf").iterdir():
        shutil.copy(path, folder)
    assert run(folder, tmp_path) == 0
    own = tiny.load(GOLDEN / "mixtral-b/hf").checkpoint.tensors
    assert dump_file.read(tmp_path / "out.npz").record["fingerprint"] == fingerprint(own)
    assert request(tmp_path)["folder"] == str(folder)


def test_an_adapter_beside_the_model_stops_the_dump(tmp_path, capsys):
    folder = copied(GOLDEN / "mixtral-a/hf", tmp_path / "model")
    (folder / "adapter_config.json").write_text("{}", encoding="utf-8")
    assert run(folder, tmp_path) == 2
    assert "adapter_config.json" in capsys.readouterr().err


def test_the_settings_of_the_reference_are_printed(tmp_path, capsys):
    assert run(GOLDEN / "mixtral-a/hf", tmp_path) == 0
    assert "decoder: theta 1000000.0, window 8" in capsys.readouterr().err
