"""Arrows between modules point one way, and nothing in `tiny` needs more than it says."""

import ast
import inspect
import re
import sys
from functools import cache

import pytest
from house import BOOK, ORDER, SYSTEM, SYSTEM_ORDER, imports, parsed
from oracles import ROOT

import tiny
import tiny.ops


def module(path):
    """The name under which a file is imported."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = [name for name in BOOK | SYSTEM if name not in ("__init__", "files", "system")]
FLAT = [name for name in ORDER if "." not in name]
OUTSIDE = {"numpy", "ml_dtypes"}  # what the layers may import beside the standard library and each other
MORE = {"files.tokenizer_files": {"sentencepiece", "tiny.files.packed"}, "tekken": {"regex"}, "image": {"PIL"},
        "system.pictures": {"PIL"}, "files.weights": {"tiny.files.packed"}, "files.checkpoint": {"tiny.files.packed"},
        "files.params": {"tiny.files.packed"}, "files.hf_config": {"tiny.files.packed"}}


@pytest.mark.parametrize("name", MODULES)
def test_a_module_imports_only_earlier_ones(name):
    """From the book to its appendix to `system`; a module of the appendix may also import from the flat book."""
    order = FLAT if name in FLAT else SYSTEM_ORDER + ORDER
    allowed = {f"tiny.{earlier}" for earlier in order[: order.index(name)]} | {"tiny.config"}
    allowed |= OUTSIDE | MORE.get(name, set()) | sys.stdlib_module_names
    if name == "tokenizer":
        allowed |= {"tiny.chat"}  # the tokenizer offers encode_chat
    if name == "image":
        allowed |= {"tiny.system.pictures"}  # preprocess also takes the path of a file
    if name == "chat":
        allowed |= {"tiny.system.messages"}  # and a chat comes from anywhere
    if name == "ops":
        allowed |= {"tiny.adapter", "tiny.patch_embed", "tiny.rope_2d"}  # of the vision half, which is read later
    assert set(imports(parsed((BOOK | SYSTEM)[name]))) - allowed == set()


def test_the_front_page_imports_the_book_only():
    assert set(imports(parsed(BOOK["__init__"]))) <= {
        f"tiny.{name}" for name in (*ORDER, "files.streamed")} | sys.stdlib_module_names


# The rooms of the repository, from the ground up: a module may import from its own room and from lower ones. Two rooms
# on one floor do not know each other.
FLOORS = [("config",), ("system",), ("book",), ("training", "parallel"), ("tools",), ("serve", "evals"), ("commands",),
          ("kernels",), ("tutorial",), ("notebooks",)]
# One arrow points up, by name: the command line imports kernels when `--device` asks for them.
EXCEPTION = {("tiny.__main__", "kernels.ops")}
PROGRAMS = {module(path): path for folder in ("tiny", "kernels", "tutorial", "notebooks")
            for path in sorted((ROOT / folder).rglob("*.py"))}


def targets(path):
    """The modules of this repository that a file imports anywhere, functions included."""
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            inside = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in PROGRAMS else node.module for name in inside]
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "importlib.import_module":
            names = [argument.value for argument in node.args[:1] if isinstance(argument, ast.Constant)]
        else:
            continue
        yield from (name for name in names if name in PROGRAMS)


@cache
def arrows_of_all():
    """The modules that each module imports."""
    return {name: set(targets(path)) - {name} for name, path in PROGRAMS.items()}


def floor(name):
    """The floor of a module's room, and the room."""
    first, *rest = name.split(".")
    room = first if first != "tiny" else "commands" if rest[-1:] == ["__main__"] else rest[0] if rest else "book"
    room = room if any(room in rooms for rooms in FLOORS) else "book"
    return next(number for number, rooms in enumerate(FLOORS) if room in rooms), room


def circle(arrows):
    """The modules that import each other in a circle, or lead into one: what is left when those that import none of
    the others are taken away, again and again.
    """
    arrows = {name: set(found) for name, found in arrows.items()}
    while leaves := [name for name, found in arrows.items() if not found & arrows.keys()]:
        for name in leaves:
            del arrows[name]
    return sorted(arrows)


def upward(arrows):
    """The arrows that do not point down, and do not stay in their room."""
    return [(name, target) for name, found in arrows.items() for target in sorted(found)
            if floor(name)[1] != floor(target)[1] and floor(name)[0] <= floor(target)[0]]


def test_no_circles():
    assert circle(arrows_of_all()) == [], "these import each other in a circle, or lead into one"


def test_arrows_point_down():
    assert set(upward(arrows_of_all())) == EXCEPTION


def test_the_tests_of_arrows_can_fail():
    book, tool, trainer = "tiny.image", "tiny.tools.chat", "tiny.training.backward"
    bad = {book: {tool}, tool: {trainer}, trainer: {tool}}
    assert circle(bad) == sorted(bad) and circle({book: set(), tool: {book, trainer}, trainer: {book}}) == []
    assert upward(bad) == [(book, tool), (trainer, tool)]
    assert upward({"tiny.evals.a": {"tiny.serve.b"}, "tiny.serve.b": {"tiny.tools.c"}}) == [
        ("tiny.evals.a", "tiny.serve.b")]
    assert {floor(name)[1] for name in PROGRAMS} >= {"book", "training", "tools", "commands", "kernels", "tutorial"}
    assert [floor(name)[1] for name in ("tiny", "tiny.files.params", "tiny.training.__main__", "tiny.system.hub")] == [
        "book", "book", "commands", "system"]
    assert upward({"tiny.system.hub": {"tiny.files.weights", "tiny.config"}}) == [
        ("tiny.system.hub", "tiny.files.weights")]
    assert sum(map(len, arrows_of_all().values())) > 300 and "tiny.rope" in arrows_of_all()["tiny.ops"]
    assert "kernels.emulator" in arrows_of_all()["kernels.launch"], "imports inside functions are seen"


def test_nothing_in_tiny_needs_frameworks_or_tests():
    """Matplotlib is for tools and trainer. Torch is for functions of tools when they are called, and for programs of
    tools that nobody imports.
    """
    sources = {path: path.read_text(encoding="utf-8") for path in (ROOT / "tiny").rglob("*.py")}
    for path in sources:
        flat, found = path.parent.name in ("tiny", "files", "system"), set(imports(parsed(path)))
        at_once = {name for node in parsed(path).body for name in imports(ast.Module([node], []))
                   if not isinstance(node, ast.FunctionDef)}
        assert not found & {"tests", "conftest", "compare", "cupy"}, path
        assert not flat or not found & {"torch", "transformers", "matplotlib"}, path
        importer = re.compile(rf"^ *(?:import|from) .*\b{path.stem}\b", re.M)
        if at_once & {"torch", "transformers"}:
            assert "tools" in path.parts and not any(map(importer.search, sources.values())), path
        assert "kernels" not in found or path.name == "__main__.py", path


def test_ops_defines_nothing():
    kinds = [type(node) for node in parsed(BOOK["ops"]).body]
    assert set(kinds[1:-1]) == {ast.ImportFrom} and (kinds[0], kinds[-1]) == (ast.Expr, ast.Assign)
    imported = [alias.name for node in parsed(BOOK["ops"]).body if isinstance(node, ast.ImportFrom)
                for alias in node.names]
    assert tiny.ops.__all__ == sorted(tiny.ops.__all__) == sorted(imported)
    assert all(inspect.isfunction(getattr(tiny.ops, name)) for name in tiny.ops.__all__)


def test_what_tiny_exports_is_there():
    assert tiny.__all__ == sorted(tiny.__all__) and all(hasattr(tiny, name) for name in tiny.__all__)
