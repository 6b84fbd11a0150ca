"""Docstrings say shapes in the letters of the legend, name their fields in order, and run as examples."""

import ast
import doctest
import importlib
import re

import pytest
from house import HELD, PROGRAMS, functions, parsed
from oracles import ROOT

import tiny

FIELDS = ["Shapes:", "Dtypes:", "Order:", "Raises:", "Source:", "Differs:"]
LETTERS = set(re.findall(r"(?:^|  )(\w)  (?=\w)", tiny.__doc__, re.M))


def direct_array(annotation):
    """Whether an annotation is an array, or a tuple or list of arrays; tensors by name have their own shapes."""
    text = ast.unparse(annotation) if annotation else ""
    return "np.ndarray" in text and not re.search(r"dict|Mapping|Iterator", text)


def field(doc, name):
    """The text of one field of a docstring; further lines of it are indented."""
    found = re.search(rf"(?:^|[.] ){name}[ ]+(.*(?:\n[ ]+.*)*)", doc, re.M)
    return found[1] if found else ""


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_program_says_what_it_is(path):
    assert ast.get_docstring(parsed(path)), "a file begins with a sentence that says what it holds"


@pytest.mark.parametrize("name", HELD)
def test_docstrings(name):
    for function, node in functions(HELD[name]):
        doc = ast.get_docstring(node)
        assert doc, f"{name}.{function} has no docstring"
        found = [line.split()[0] for line in doc.splitlines() if line.split() and line.split()[0] in FIELDS]
        assert found == sorted(found, key=FIELDS.index) and len(found) == len(set(found)), f"{name}.{function}: {found}"


@pytest.mark.parametrize("name", HELD)
def test_shapes(name):
    """Functions that take or give arrays say their shapes, in letters of the legend, small ones, or explained ones."""
    methods_of = {function for function, node in functions(HELD[name]) if isinstance(node, ast.ClassDef)}
    for function, node in functions(HELD[name]):
        if not isinstance(node, ast.FunctionDef):
            continue
        arrays = [a for a in (*(arg.annotation for arg in node.args.args), node.returns) if direct_array(a)]
        text = field(ast.get_docstring(node) or "", "Shapes:")
        if arrays and function.rpartition(".")[0] not in methods_of:
            assert text, f"{name}.{function} takes or gives arrays and has no Shapes:"
        defined = set(re.findall(r"\b([A-Z]) = ", text))
        for group in re.findall(r"\(([^()]*)\)", text):
            capitals = set(re.findall(r"\b[A-Z]\b", group))
            assert capitals <= LETTERS | defined, f"{name}.{function}: ({group}) has letters that are in no legend"


def test_steps_are_numbered():
    """The tags `# (1) ...` of a file count up by one within an operation, which may go on in the next function."""
    for name, path in HELD.items():
        text = path.read_text(encoding="utf-8")
        tags = [int(tag) for line in re.findall(r"^ *# \(\d\).*", text, re.M)
                for tag in re.findall(r"(?:# |, )\((\d)\)", line)]
        last = 0
        for tag in tags:
            assert tag in (1, last + 1), f"{name}: step ({tag}) follows step ({last})"
            last = tag


@pytest.mark.parametrize("name", HELD)
def test_doctests(name):
    module = importlib.import_module("tiny" if name == "__init__" else f"tiny.{name}")
    result = doctest.testmod(module)
    assert result.failed == 0
    needs = {"numerics", "rms_norm", "rope", "attention", "router", "experts", "sampling"}
    assert result.attempted or name not in needs, f"{name} shows no example"
