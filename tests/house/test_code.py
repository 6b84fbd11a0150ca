"""Laws of the code: dtypes are named, one checker compares, nothing is skipped in silence, no path of a machine."""

import ast
import re
import tomllib

import pytest
from house import HELD, PROGRAMS, TEXTS, calls, parsed, place
from oracles import ROOT

DTYPE_AT = {"zeros": 1, "ones": 1, "empty": 1, "full": 2, "array": 1, "linspace": 99, "eye": 99, "identity": 1,
            "arange": 99}


@pytest.mark.parametrize("name", HELD)
def test_every_float_array_names_its_dtype(name):
    for function, node in calls(HELD[name]):
        constructor = function.removeprefix("np.")
        if not function.startswith("np.") or constructor not in DTYPE_AT:
            continue
        named = len(node.args) > DTYPE_AT[constructor] or any(word.arg == "dtype" for word in node.keywords)
        numbers = [leaf.value for arg in node.args for leaf in ast.walk(arg) if isinstance(leaf, ast.Constant)]
        whole = constructor == "arange" and not any(isinstance(number, float) for number in numbers)
        assert named or whole, f"{place(HELD[name], node)}: {function} without a dtype makes float64"


def test_words_and_paths():
    """Words for work left to do, and paths of a machine; put together from parts, because this file is read too."""
    words = re.compile(r"\b(" + "|".join(("TO" + "DO", "FIX" + "ME", "X" * 3, "HA" + "CK")) + r")\b")
    paths = re.compile(r"(?<![\w.>])/(?:" + "|".join(("ho" + "me", "ro" + "ot", "wo" + "rk", "Us" + "ers", "t" + "mp",
                                                     "op" + "t")) + r")/|\b[A-Z]:\\\\")
    for path in TEXTS:
        text = path.read_text(encoding="utf-8")
        for pattern in (words, paths):
            found = pattern.search(text)
            assert not found, f"{path.relative_to(ROOT)}: {found[0]!r}, line {text[:found.start()].count(chr(10)) + 1}"


def test_everything_is_installed():
    """What pyproject.toml does not list is missing wherever the project is installed from a wheel."""
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    files = {path for top in ("tiny", "kernels") for path in (ROOT / top).rglob("*")
             if path.is_file() and "__pycache__" not in path.parts and path.name != "README.md"}
    modules = {path for path in files if path.suffix == ".py"}
    packages = {".".join(path.parent.relative_to(ROOT).parts) for path in modules}
    assert packages == set(listed["packages"])
    data = {path for package, patterns in listed["package-data"].items() for pattern in patterns
            for path in (ROOT / package.replace(".", "/")).glob(pattern)}
    assert {str(path.relative_to(ROOT)) for path in files - modules - data} == set()


def test_one_checker():
    loose = re.compile(r"(^|\.)(allclose|isclose|approx|assert_allclose|assert_almost_equal|"
                       r"assert_array_almost_equal|assert_array_max_ulp|assert_array_equal|testing\.assert_\w+)$")
    found = [f"{place(path, node)} {function}" for path in PROGRAMS if path.name != "compare.py"
             for function, node in calls(path) if loose.search(function)]
    assert not found, f"only tests/helpers/compare.py compares: {found}"


def test_no_test_quotes_code_of_the_book():
    """A mistake is a wrong function and no edited line, so that renaming a local variable breaks no test."""
    code = set()
    for path in HELD.values():
        lines = path.read_text(encoding="utf-8").splitlines()
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.Assign | ast.AugAssign | ast.Return):
                code |= {line.strip() for line in lines[node.lineno - 1 : node.end_lineno] if len(line.strip()) > 15}
    for path in sorted((ROOT / "tests").rglob("*.py")):
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                quoted = {line.strip() for line in node.value.splitlines()} & code
                assert not quoted, f"{place(path, node)} quotes {quoted}"


def test_skips_say_why_and_nothing_may_fail():
    for path in sorted((ROOT / "tests").rglob("*.py")):
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.Attribute):
                assert node.attr not in ("xfail", "flaky"), f"{place(path, node)}: {node.attr}"
        assert not re.search(r"mark\.skip\s*$", path.read_text(encoding="utf-8"), re.M), f"{path.name}: a bare skip"
        for function, node in calls(path):
            if function in ("pytest.mark.skip", "pytest.mark.skipif", "pytest.importorskip"):
                assert any(word.arg == "reason" for word in node.keywords), f"{place(path, node)}: no reason"
            if function == "pytest.skip":
                assert node.args, f"{place(path, node)}: no reason"
