"""Arrows between modules point one way, and nothing in `tiny` needs more than it says."""

import ast
import inspect
import re
import sys

import pytest
from house import BOOK, ORDER, imports, parsed
from oracles import ROOT

import tiny
import tiny.ops

MODULES = [name for name in BOOK if name not in ("__init__", "files")]
OUTSIDE = {"numpy", "ml_dtypes"}  # what the layers may import beside the standard library and each other
MORE = {"files.tokenizer_files": {"sentencepiece"}, "tekken": {"regex"}, "image": {"PIL"}}


@pytest.mark.parametrize("name", MODULES)
def test_a_module_imports_only_earlier_ones(name):
    allowed = {f"tiny.{earlier}" for earlier in ORDER[: ORDER.index(name)]} | {"tiny.config"}
    allowed |= OUTSIDE | MORE.get(name, set()) | sys.stdlib_module_names
    if name == "tokenizer":
        allowed |= {"tiny.chat"}  # the tokenizer offers encode_chat
    if name == "ops":
        allowed |= {"tiny.adapter", "tiny.patch_embed", "tiny.rope_2d"}  # of the vision half, which is read later
    assert set(imports(parsed(BOOK[name]))) - allowed == set()


def test_the_front_page_imports_the_book_only():
    assert set(imports(parsed(BOOK["__init__"]))) <= {f"tiny.{name}" for name in ORDER} | sys.stdlib_module_names


def test_no_circles():
    arrows = {name: {target.removeprefix("tiny.") for target in imports(parsed(path)) if target.startswith("tiny.")}
              for name, path in BOOK.items()}
    while leaves := [name for name, targets in arrows.items() if not targets & arrows.keys()]:
        for name in leaves:
            del arrows[name]
    assert not arrows, f"these import each other in a circle: {sorted(arrows)}"


def test_nothing_in_tiny_needs_frameworks_or_tests():
    """Matplotlib is for tools and trainer. Torch is for functions of tools when they are called, and for programs of
    tools that nobody imports.
    """
    sources = {path: path.read_text(encoding="utf-8") for path in (ROOT / "tiny").rglob("*.py")}
    for path in sources:
        flat, found = path.parent.name in ("tiny", "files"), set(imports(parsed(path)))
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
