"""Every program of the repository ends as users are promised: nonsense, unwritable folders and closed streams give two
lines and status 2, or nothing and 0, in every locale.
"""

import re
import sys

import pytest
from oracles import ROOT

from tests.tools.test_terminal import refused, run

# Started by other programs of this repository, which give them their arguments and read what they say.
CHILDREN = {"tiny.tools.verify.transformers_child", "tiny.tools.bench.peer_llama", "tiny.tools.bench.peer_text",
            "tiny.tools.bench.peer_vision", "kernels.gpu.steps", "tutorial.grader.keeper"}
# Not started by `program`: what downloads the corpus, and what runs where nothing is installed yet.
ALONE = {"tiny.training.text.build_corpus", "tutorial.check_install"}
PROGRAMS = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__main__")
    for folder in ("tiny", "kernels", "tutorial", "notebooks") for path in (ROOT / folder).rglob("*.py")
    if '__name__ == "__main__"' in path.read_text(encoding="utf-8"))
COMMANDS = ("demo", "generate", "chat", "describe", "inspect", "memory", "tokenize", "routing", "verify check",
            "convert", "trace", "bench", "serve")


def test_all_programs_are_known():
    assert set(PROGRAMS) > CHILDREN and len(PROGRAMS) > 20
    for name in set(PROGRAMS) - CHILDREN - ALONE:
        place = ROOT / name.replace(".", "/")
        path = next(path for path in (place.with_suffix(".py"), place / "__main__.py") if path.is_file())
        assert re.search(r"\bprogram\(main\)", path.read_text(encoding="utf-8")), f"{name} does not start by `program`"


@pytest.mark.parametrize("name", sorted({*PROGRAMS, *(f"tiny {command}" for command in COMMANDS)} - CHILDREN))
def test_nonsense_ends_in_two_lines(name):
    status, out, err = run("-m", *name.split(), "--nonsense", LC_ALL="C")
    assert refused(status, err) and out == b""


@pytest.mark.parametrize("name", ["tiny", "tiny.training", "kernels.emulator", "kernels.gpu", "tutorial.grader",
                                  "tutorial.pages", "notebooks.build"])
def test_closed_streams(name):
    assert run("-m", name, "--nonsense", redirect="<&- >&- 2>&-") == (2, b"", b"")
    assert run("-m", name, "--help", redirect="<&- >&- 2>&-") == (0, b"", b"")


KERNEL = "tests/emulator/planted/correct.cu"
WRITERS = {
    "describe": ["-m", "tiny", "describe", "PICTURE", "--max-tokens", "1", "--patches", "OUT/a.png"],
    "routing": ["-m", "tiny", "routing", "TEXT", "--out", "OUT"],
    "convert": ["-m", "tiny", "convert", "tiny-mixtral", "OUT/a", "--to", "hf"],
    "verify check": ["-m", "tiny", "verify", "check", "DUMP", "DUMP", "--plot", "OUT/a.png"],
    "verify dump": ["-m", "tiny", "verify", "dump", "tiny-mixtral", "OUT/a.npz", "--python", sys.executable],
    "verify results": ["-m", "tiny", "verify", "results", "--out", "OUT/a.md"],
    "training": ["-m", "tiny.training", "--out", "OUT", "--stop-after", "1"],
    "training images": ["-m", "tiny.training", "tiny-pixtral", "--out", "OUT/a", "--stop-after", "1"],
    "synthetic": ["-m", "tiny.tools.synthetic", "OUT/a", "--n-layers", "1", "--dim", "8", "--hidden-dim", "8"],
    "cards": ["-m", "tiny.tools.cards.text", "OUT", "--run", "OUT"],
    "coursework": ["-m", "tutorial.make_coursework", "--folder", "OUT"],
    "grader": ["-m", "tutorial.grader", "SUBMISSIONS", "--out", "OUT"]}


@pytest.mark.parametrize("name", WRITERS)
def test_a_folder_that_cannot_be_written_ends_in_two_lines(name, tmp_path):
    """OUT is a file, so that not even root can write into it as a folder."""
    from PIL import Image

    Image.new("RGB", (20, 20), "red").save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("Once upon a time there was a cat.")
    (tmp_path / "out").write_bytes(b"a file")
    (tmp_path / "submissions/ada").mkdir(parents=True)
    (tmp_path / "submissions/ada/rope.py").write_text("x = 1\n")
    dump = next((ROOT / "tests/golden/verify").glob("*.npz"))
    places = {"PICTURE": tmp_path / "a.png", "TEXT": tmp_path / "a.txt", "DUMP": dump,
              "SUBMISSIONS": tmp_path / "submissions"}
    words = [str(places.get(word, word)).replace("OUT", str(tmp_path / "out")) for word in WRITERS[name]]
    before = {path.relative_to(tmp_path) for path in tmp_path.rglob("*")}
    status, _, err = run(*words)
    assert refused(status, err) and b"Traceback" not in err
    assert {path.relative_to(tmp_path) for path in tmp_path.rglob("*")} == before
    assert (tmp_path / "out").read_bytes() == b"a file"
