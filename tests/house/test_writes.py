"""One helper writes what users keep, so that a file that is there is whole; this finds whatever writes otherwise."""

import ast
import textwrap

import pytest
from house import parsed
from oracles import ROOT

FOLDERS = ("tiny", "kernels", "tutorial", "notebooks")
# What writes otherwise, and why that may be.
OTHERWISE = {
    "tiny/evals/items.py:write_items": "a new folder, which gets its name when it is whole",
    "tiny/evals/lines.py:adding": "answers, line by line",
    "tiny/parallel/__main__.py:OneProcess": "standard streams of the other ranks, to nowhere",
    "tiny/tools/bench/peer_llama.py:write": "nothing, it maps a file to read it",
    "tiny/tools/bench/peer_llama.py:main": "a file for llama.cpp, which gets its name when it is whole",
    "tiny/tools/terminal/__init__.py:open_streams": "standard streams",
    "tiny/tools/terminal/__init__.py:silence": "standard streams, to nowhere",
    "tiny/tools/verify/dump.py:run_reference": "a scratch folder of this run",
    "tiny/tools/verify/dump.py:convert": "a scratch folder of this run",
    "tiny/tools/verify/transformers_child.py:main": "a scratch folder of this run",
    "tiny/training/text/train.py:train": "a log, line by line",
    "tiny/training/images/train.py:train": "a log, line by line",
    "kernels/emulator/__init__.py:load": "a temporary folder",
    "kernels/emulator/build.py:once": "a library that g++ wrote in a temporary folder gets its name",
    "kernels/emulator/build.py:front": "a header that was written in a temporary folder gets its name",
    "kernels/emulator/build.py:build": "a library that g++ wrote in a temporary folder gets its name",
    "kernels/emulator/build.py:compile_all": "a temporary folder",
    "tutorial/grader/emulated.py:Emulated": "a temporary folder",
    "tutorial/grader/emulated.py:started": "a temporary folder",
    "tutorial/grader/tree.py:write_files": "a temporary folder",
    "tutorial/grader/worker.py:serve": "a temporary folder",
    "tutorial/pack/__main__.py:archive": "memory",
    "tutorial/pages/streaming_record.py:make_group": "the limit of a control group, which is a setting of the system",
    "tutorial/pack/kept.py:unpacked": "a temporary folder",
    "tutorial/site/stage.py:stage": "the folder of a site, which each run makes anew",
    "tutorial/site/stage.py:write_page": "the folder of a site",
    "tutorial/site/stage.py:copy": "the folder of a site",
    "tutorial/site/recorded.py:write_recorded": "the folder of a site",
    "tutorial/site/notebook.py:shown_by": "the folder of a site",
    "tutorial/site/formulas.py:copy_katex": "the folder of a site",
    "notebooks/show.py:carved": "a temporary folder",
}
METHODS = {"write_text", "write_bytes", "tofile", "savefig", "symlink_to", "hardlink_to", "rename", "touch"}
FUNCTIONS = {"np.save", "np.savez", "np.savez_compressed", "np.savetxt", "np.memmap", "json.dump", "pickle.dump",
             "shutil.copy", "shutil.copy2", "shutil.copyfile", "shutil.copytree", "shutil.move", "shutil.copyfileobj",
             "os.replace", "os.rename", "os.link", "os.symlink", "os.fdopen", "os.truncate", "tempfile.mkstemp",
             "tempfile.NamedTemporaryFile", "zipfile.ZipFile", "tarfile.open", "save_file"}


def writes(node: ast.Call) -> bool:
    """Whether a call writes a file by its name. A first argument "file", "drawn", "small" or "out" is an open one."""
    name = ast.unparse(node.func)
    method = name.rpartition(".")[2]
    first = ast.unparse(node.args[0]) if node.args else ""
    words = [*node.args, *(word.value for word in node.keywords)]
    texts = [word.value for word in words if isinstance(word, ast.Constant) and isinstance(word.value, str)]
    if method in ("open", "ZipFile", "fdopen") and "Image." not in name:
        return (any(set(text) <= set("rwaxbt+") and set(text) & set("wax+") for text in texts)
                or any("O_" in ast.unparse(word) and "O_RDONLY" not in ast.unparse(word) for word in words))
    if method == "save" and any(word.arg == "format" for word in node.keywords):  # of a picture
        return first not in ("drawn", "small", "out")
    return (method in METHODS and "." in name or name in FUNCTIONS) and first not in ("file", "drawn")


def found(tree: ast.AST, file: str) -> dict[str, int]:
    """The functions of a file that write, and the first lines where they do."""
    places: dict[str, int] = {}

    def visit(node: ast.AST, function: str) -> None:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not function:
            function = node.name
        if isinstance(node, ast.Call) and writes(node):
            places.setdefault(f"{file}:{function}", node.lineno)
        for child in ast.iter_child_nodes(node):
            visit(child, function)

    visit(tree, "")
    return places


def test_nothing_is_written_in_place():
    places: dict[str, int] = {}
    for path in (path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))):
        places |= found(parsed(path), path.relative_to(ROOT).as_posix())
    left = {place: line for place, line in places.items() if place not in OTHERWISE and "/whole.py:" not in place}
    assert left == {}, "write_whole writes what is kept"
    assert set(OTHERWISE) - set(places) == set(), "these do not write any more"


@pytest.mark.parametrize("line", [
    "open(path, 'w')", "open(path, mode='xb')", "path.open('ab')", "path.write_text(text)", "io.open(path, 'r+')",
    "Path(path).write_bytes(data)", "np.save(path, x)", "np.savez(path, x=x)", "x.tofile(path)", "json.dump(x, out)",
    "figure.savefig(path)", "image.save(path, format='png')", "shutil.copy(a, b)", "os.open(path, os.O_WRONLY)",
    "os.replace(a, b)", "zipfile.ZipFile(path, 'w')", "os.open(path, os.O_RDWR | os.O_CREAT)"])
def test_each_way_of_writing_is_seen(line):
    tree = ast.parse(textwrap.dedent(f"""
        def f(path):
            with suppress(OSError):
                {line}
        """))
    assert found(tree, "x.py") == {"x.py:f": 4}


@pytest.mark.parametrize("line", ["open(path)", "open(path, 'rb')", "Image.open(path)", "np.savez(file, x=x)",
                                  "zipfile.ZipFile(path)",
                                  "os.open(path, os.O_RDONLY)", "image.save(out, format='png')"])
def test_reading_is_not(line):
    assert found(ast.parse(line), "x.py") == {}
