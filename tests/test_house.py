"""The laws of the house: sizes, arrows between modules, docstrings, dtypes, links, and that nothing generated is stale.

The book is the flat modules of `tiny` without its command line. What is measured here is what the README prints.
"""

import ast
import doctest
import importlib
import inspect
import re
import statistics
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from mutants import MUTANTS

import tiny
import tiny.ops
from tiny.tools import readme

ROOT = Path(__file__).parent.parent
ORDER = readme.reading_order()
BOOK = {path.stem: path for path in readme.book()}
MODULES = [name for name in BOOK if name != "__init__"]
PROGRAMS = sorted(path for folder in ("tiny", "kernels", "tests") for path in (ROOT / folder).rglob("*.py"))
SOURCES = [path for path in (ROOT / "kernels").rglob("*.*") if path.suffix in (".cu", ".cuh", ".cpp", ".h", ".md")]
TEXTS = sorted(path for path in [*ROOT.glob("*.*"), *ROOT.glob("Makefile"), *(ROOT / ".ci").glob("*"), *PROGRAMS,
                                 *SOURCES, *(ROOT / "tests/golden").glob("*.md"), *(ROOT / "tiny").rglob("*.md")]
               if path.is_file())
# Lines of code at most. The language half reads Pixtral's configurations and names of tensors too.
FILE, FUNCTION, LANGUAGE_HALF, WHOLE = 150, 40, 1300, 1800
OUTSIDE = {"numpy", "ml_dtypes"}  # what the layers may import beside the standard library and each other
MORE = {"tokenizer_files": {"sentencepiece"}, "tekken": {"regex"}, "image": {"PIL"}}
MIB = 1 << 20


@cache
def parsed(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def functions(path):
    """Yield (qualified name, node) of the functions and methods that a file offers; names with _ are not offered."""
    def visit(node, prefix):
        for child in node.body:
            if isinstance(child, (ast.FunctionDef, ast.ClassDef)) and not child.name.startswith("_"):
                yield prefix + child.name, child
                if isinstance(child, ast.ClassDef):
                    yield from visit(child, f"{prefix}{child.name}.")
    yield from visit(parsed(path), "")


def calls(path):
    """Yield (dotted name, node) of every call of a file."""
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def place(path, node):
    return f"{path.relative_to(ROOT)}:{node.lineno}"


def imports(tree):
    """Yield the modules that a tree imports: of `tiny`, by full name; of others, the first part."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide where an arrow points"
            names = [f"tiny.{alias.name}" for alias in node.names] if node.module == "tiny" else [node.module]
        else:
            continue
        yield from (".".join(name.split(".")[:2]) if name.startswith("tiny.") else name.split(".")[0] for name in names)


# ---- sizes

def test_the_book_is_the_flat_modules():
    found = {path.stem for path in (ROOT / "tiny").glob("*.py")} - {"__main__"}
    assert found == set(BOOK) and len(ORDER) == len(set(ORDER)), "the docstring of tiny lists each module once"


def test_sizes():
    lines = {name: readme.lines_of(path) for name, path in BOOK.items()}
    vision = set(ORDER[ORDER.index("image") :])
    assert {name: n for name, n in lines.items() if n > FILE} == {}, f"a file has at most {FILE} lines of code"
    assert sum(lines.values()) <= WHOLE
    assert sum(n for name, n in lines.items() if name not in vision) <= LANGUAGE_HALF
    lengths = {f"{name}.{function}": n for name, path in BOOK.items()
               for function, n in readme.function_lengths(path).items()}
    assert {name: n for name, n in lengths.items() if n > FUNCTION} == {}
    assert statistics.median(lengths.values()) <= 12


def test_lines_of_code_are_counted_right():
    source = '"""Title.\n\nMore."""\n\nimport os  # why\n\n# a remark\ndef f(x):\n    """Say."""\n    return (x,\n\n' \
             '            """a\n\nb""")\n'
    assert readme.code_lines(source) == {5, 8, 10, 12, 13, 14}


def test_first_sentences():
    assert [readme.first_sentence(ROOT / f"tiny/{name}.py") for name in ("rms_norm", "experts")] == [
        "RMSNorm: divide each row by its root mean square, then scale each column.",
        "The experts: feed-forward networks of which each token visits a few."]
    for path in PROGRAMS:
        assert readme.first_sentence(path), f"{path} does not say what it is"


# ---- arrows

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
        flat, found = path.parent.name == "tiny", set(imports(parsed(path)))
        at_once = {name for node in parsed(path).body for name in imports(ast.Module([node], []))
                   if not isinstance(node, ast.FunctionDef)}
        assert not found & {"tests", "conftest", "compare", "cupy"}, path
        assert not flat or not found & {"torch", "transformers", "matplotlib"}, path
        importer = re.compile(rf"^ *(?:import|from) .*\b{path.stem}\b", re.M)
        if at_once & {"torch", "transformers"}:
            assert path.parent.name == "tools" and not any(map(importer.search, sources.values())), path
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


# ---- docstrings

FIELDS = ["Shapes:", "Dtypes:", "Order:", "Raises:", "Source:", "Differs:"]
LETTERS = set(re.findall(r"(?:^|  )(\w)  (?=\w)", tiny.__doc__, re.M))


def direct_array(annotation):
    """Whether an annotation is an array, or a tuple or list of arrays; tensors by name have shapes of their own."""
    text = ast.unparse(annotation) if annotation else ""
    return "np.ndarray" in text and not re.search(r"dict|Mapping|Iterator", text)


def field(doc, name):
    """The text of one field of a docstring; further lines of it are indented."""
    found = re.search(rf"(?:^|[.] ){name}[ ]+(.*(?:\n[ ]+.*)*)", doc, re.M)
    return found[1] if found else ""


def test_the_legend_is_read():
    assert LETTERS == set("TSDHGdFEKVL")


@pytest.mark.parametrize("name", BOOK)
def test_docstrings(name):
    for function, node in functions(BOOK[name]):
        doc = ast.get_docstring(node)
        assert doc, f"{name}.{function} has no docstring"
        found = [line.split()[0] for line in doc.splitlines() if line.split() and line.split()[0] in FIELDS]
        assert found == sorted(found, key=FIELDS.index) and len(found) == len(set(found)), f"{name}.{function}: {found}"


@pytest.mark.parametrize("name", BOOK)
def test_shapes(name):
    """Functions that take or give arrays say their shapes, in letters of the legend, small ones, or of their own."""
    methods_of = {function for function, node in functions(BOOK[name]) if isinstance(node, ast.ClassDef)}
    for function, node in functions(BOOK[name]):
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
    for name, path in BOOK.items():
        text = path.read_text(encoding="utf-8")
        tags = [int(tag) for line in re.findall(r"^ *# \(\d\).*", text, re.M)
                for tag in re.findall(r"(?:# |, )\((\d)\)", line)]
        last = 0
        for tag in tags:
            assert tag in (1, last + 1), f"{name}: step ({tag}) follows step ({last})"
            last = tag


@pytest.mark.parametrize("name", BOOK)
def test_doctests(name):
    module = importlib.import_module("tiny" if name == "__init__" else f"tiny.{name}")
    result = doctest.testmod(module)
    assert result.failed == 0
    needs = {"numerics", "rms_norm", "rope", "attention", "router", "experts", "sampling"}
    assert result.attempted or name not in needs, f"{name} shows no example"


# ---- code

DTYPE_AT = {"zeros": 1, "ones": 1, "empty": 1, "full": 2, "array": 1, "linspace": 99, "eye": 99, "identity": 1,
            "arange": 99}


@pytest.mark.parametrize("name", BOOK)
def test_every_float_array_names_its_dtype(name):
    for function, node in calls(BOOK[name]):
        constructor = function.removeprefix("np.")
        if not function.startswith("np.") or constructor not in DTYPE_AT:
            continue
        named = len(node.args) > DTYPE_AT[constructor] or any(word.arg == "dtype" for word in node.keywords)
        numbers = [leaf.value for arg in node.args for leaf in ast.walk(arg) if isinstance(leaf, ast.Constant)]
        whole = constructor == "arange" and not any(isinstance(number, float) for number in numbers)
        assert named or whole, f"{place(BOOK[name], node)}: {function} without a dtype makes float64"


def test_words_and_paths():
    words = re.compile(r"\b(" + "|".join(("TO" + "DO", "FIX" + "ME", "X" * 3, "HA" + "CK")) + r")\b")
    paths = re.compile(r"(?<![\w.>])/(?:" + "|".join(("ho" + "me", "ro" + "ot", "wo" + "rk", "Us" + "ers", "t" + "mp",
                                                     "op" + "t")) + r")/|\b[A-Z]:\\\\")
    for path in TEXTS:
        text = path.read_text(encoding="utf-8")
        for pattern in (words, paths):
            found = pattern.search(text)
            assert not found, f"{path.relative_to(ROOT)}: {found[0]!r}, line {text[:found.start()].count(chr(10)) + 1}"


def test_one_checker():
    loose = re.compile(r"(^|\.)(allclose|isclose|approx|assert_allclose|assert_almost_equal|"
                       r"assert_array_almost_equal|assert_array_max_ulp|assert_array_equal|testing\.assert_\w+)$")
    found = [f"{place(path, node)} {function}" for path in PROGRAMS if path.name != "compare.py"
             for function, node in calls(path) if loose.search(function)]
    assert not found, f"only tests/compare.py compares: {found}"


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


# ---- what is generated, linked, and how large it is

def test_the_readme_is_up_to_date():
    assert readme.main(["--check"]) == 0, "run python -m tiny.tools.readme"


def test_mutants_are_counted_right():
    names = [path.stem for path in (ROOT / "tests").glob("*mutants.py") if not path.stem.startswith("test_")]
    lists = [value for name in names for key, value in vars(importlib.import_module(name)).items()
             if key.isupper() and isinstance(value, dict)]
    assert readme.count_mutants() == sum(map(len, lists)) >= len(MUTANTS) + 12


def test_records_of_test_runs(tmp_path, monkeypatch):
    """Counts, reasons of skips, and recorded properties come out of pytest's report as they went in."""
    report = tmp_path / "report.xml"
    report.write_text("""<testsuites><testsuite tests="5" skipped="2" failures="1" errors="0" time="1.25"
        timestamp="2026-01-02T03:04:05"><testcase><skipped message="No file." /></testcase>
        <testcase><skipped message="No file." /></testcase><testcase><properties>
        <property name="version torch" value="2.0" /><property name="largest error" value="1e-5" /></properties>
        </testcase></testsuite></testsuites>""", encoding="utf-8")
    monkeypatch.setattr(readme, "RECORDS", tmp_path)
    readme.record_tests(report)
    assert readme.record("tests.json") == {"date": "2026-01-02", "passed": 2, "skipped": 2, "failed": 1,
                                           "seconds": 1.2, "skips": {"No file.": 2}}
    assert "2 passed, 2 skipped, 1 failed in 1 s (2026-01-02). Skipped: 2 × \"No file.\"" in readme.counts_block()
    readme.record_verify(report)
    block = readme.verify_block()
    assert block.startswith("2026-01-02") and "torch 2.0" in block and "| largest error | 1e-5 |" in block


def test_blocks_of_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(readme, "RECORDS", tmp_path)
    monkeypatch.setattr(readme, "CARD", tmp_path / "card.json")
    assert "ot measured yet" in readme.bench_block() and "being trained" in readme.model_block()
    row = {"what": "prefill of 512 tokens", "value": 123.4, "unit": "tokens/s", "note": "median of 5"}
    readme.keep("bench.json", {"date": "2026-01-02", "machine": "M", "kernel": "K", "versions": {"numpy": "2.4"},
                               "threads": {"2": {"rows": [row]}, "1": {"rows": [row | {"value": 1234567}]}}})
    block = readme.bench_block()
    assert block.startswith("2026-01-02; M; K; numpy 2.4.\n\n1 thread:") and "2 threads:" in block
    assert "| prefill of 512 tokens | 1,234,567 tokens/s | median of 5 |" in block and "| 123 tokens/s |" in block
    with pytest.raises(tiny.TinyError, match="has 0 parts MAP"):
        readme.fill("no parts")


def test_the_readme_is_short():
    """What is written by hand, that is."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(re.sub(r"<!-- begin (\w+) -->.*?<!-- end \1 -->", "", text, flags=re.S).splitlines()) < 150


def test_links():
    for path in TEXTS:
        if path.suffix == ".md":
            for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8")):
                if not re.match(r"https?:|#|mailto:", target):
                    assert (path.parent / target.partition("#")[0]).exists(), f"{path.name} links to {target}"


def test_commands_of_the_readme():
    """Every `make` target and every command that the README names is there."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    assert {"demo", "test", "train"} <= set(re.findall(r"(?:^|`)make ([a-z-]+)", text, re.M)) <= targets
    commands = set(re.findall(r"-m tiny (\w+)", text))
    assert {"chat", "memory", "generate"} <= commands and all(map(readme.is_command, commands))


def test_the_code_of_the_readme_runs():
    block = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.S)[1]
    names = {}
    exec(inspect.cleandoc(block).replace("tiny-mixtral", str(ROOT / "tests/golden/mixtral-a/mistral")), names)
    assert names["logits"].shape[1] == names["model"].config.vocab_size and "layer00" in names["trace"]


def test_tolerances_of_the_readme_are_those_of_the_tests():
    """Every number in the tolerance column of the evidence table stands in tolerances.py or in the row's test file."""
    rows = re.findall(r"^\| (.*) \|$", (ROOT / "README.md").read_text(encoding="utf-8"), re.M)
    rows = [row.split(" | ") for row in rows]
    first = next(n for n, row in enumerate(rows) if row[0] == "claim")
    checked = 0
    for row in rows[first + 2:]:
        if len(row) != len(rows[first]):
            break
        files = [ROOT / target for target in re.findall(r"\]\(([^)]+)\)", row[-1])]
        text = "".join(path.read_text(encoding="utf-8") for path in [*files, ROOT / "tests/tolerances.py"])
        assert files, f"{row[0]}: no test file"
        for number in re.findall(r"\d[\d.]*e-\d+", row[3]):
            assert re.search(rf"(?<![\d.]){re.escape(number)}\b", text), f"{row[0]}: {number} is not in {files}"
            checked += 1
    assert checked >= 5


def test_sizes_of_stored_data():
    folders = [ROOT / name for name in ("tests/golden", "tiny/checkpoints", "tiny/training/corpus")]
    total = sum(path.stat().st_size for folder in folders for path in folder.rglob("*") if path.is_file())
    assert total <= 32 * MIB, f"{total / MIB:.1f} MiB of stored data"


def test_sizes_of_tracked_files():
    if not (ROOT / ".git").exists():
        pytest.skip("This is a copy without its git history, so there is no list of tracked files.")
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    sizes = {name: (ROOT / name).stat().st_size for name in names.split("\0") if name and (ROOT / name).exists()}
    assert sizes and {name: size for name, size in sizes.items() if size > 8 * MIB} == {}
