"""The pages about kernels: two columns aligned by step, tables that sources and records give, a true example."""

import re
import subprocess
import sys

import pytest
from emulator_case import needs_compiler
from oracles import ROOT

from kernels.cases import kernels_of, operations
from kernels.ops import SHIPPED
from tutorial.pages import kernels as kernels_page
from tutorial.pages import ptx, side_by_side

FILES = {path.stem: path for path in side_by_side.kernel_files()}


@pytest.mark.parametrize("name", FILES)
def test_version_1_has_the_steps_of_the_numpy_function(name):
    rows = side_by_side.rows(FILES[name])
    steps = [(tag, left, right) for tag, left, right in rows if tag]
    assert len(steps) >= 2 and all(left and right for _, left, right in steps)
    # On both sides each file's steps come in the order of their numbers.
    for column in (1, 2):
        numbers = [int(re.match(r"\((\d+)\)", row[0])[1]) for row in steps if row[column]]
        assert numbers.count(1) == len(side_by_side.numpy_functions(FILES[name])) or numbers == sorted(numbers)


def test_every_operation_that_ships_stands_beside_numpy():
    assert set(SHIPPED) <= set(FILES)


@pytest.mark.parametrize("change", ["// (2) divide by the rot", "// divide by the root", "// (4) divide by the root"])
def test_a_step_that_is_not_numpys_is_refused(tmp_path, change):
    text = FILES["rms_norm"].read_text(encoding="utf-8")
    assert "// (2) divide by the root" in text
    path = tmp_path / "rms_norm.cu"
    path.write_text(text.replace("// (2) divide by the root", change), encoding="utf-8")
    with pytest.raises(ValueError, match="other steps"):
        side_by_side.rows(path)


def test_the_page_is_what_the_sources_say():
    text = side_by_side.PAGE.read_text(encoding="utf-8")
    assert text == side_by_side.page(), "run python -m tutorial.pages.side_by_side"


def test_the_tables_are_up_to_date():
    assert kernels_page.PAGE.read_text(encoding="utf-8") == kernels_page.page(), "run python -m tutorial.pages.kernels"


def test_from_a_kernel_to_its_numpy_function_in_one_click():
    """The table links to both, and the host file names the function."""
    for operation in operations():
        assert re.search(rf"^\| \[{operation.name}\]\(\w+\.cu\) \| \[\w+\]\(\.\./(tiny|kernels)/\w+\.py#L\d+\) \|",
                         kernels_page.PAGE.read_text(encoding="utf-8"), re.M), operation.name
    for name in FILES:
        host = ROOT / f"kernels/{name.removesuffix('_decode')}.py"
        for path, _ in side_by_side.numpy_functions(FILES[name])[:1]:
            assert f"`tiny/{path.name}`" in host.read_text(encoding="utf-8").split('"""')[1], host


def test_the_table_has_every_version_of_the_sources():
    """A version that is added to a source, and not to the cases that are run, would be shown by nobody."""
    listed = {(operation.name, version) for operation in operations() for version in operation.versions}
    for path in FILES.values():
        for kernel in kernels_of(path.name):
            version = re.fullmatch(rf"{path.stem}_(v\d)", kernel)
            if version and (path.stem, version[1]) != ("rope", "v3"):  # that one is rope_into_cache
                assert (path.stem, version[1]) in listed, kernel


def test_every_version_has_been_executed_as_compiled_for_a_gpu():
    """The record of the interpreter of PTX has every version, and each case agreed with NumPy in every run."""
    record = ptx.read_record()
    found = {(row["operation"], row["version"]) for row in record["rows"]}
    listed = {(operation.name, version) for operation in operations() for version in operation.versions}
    assert found == listed, "run python -m kernels.ptx, then make pages"
    for name, run in record["runs"].items():
        assert run["agree"] == run["cases"] == len(record["rows"]), name


@needs_compiler
def test_the_example_on_the_page_is_what_the_command_says():
    text = kernels_page.PAGE.read_text(encoding="utf-8")
    command, output = re.search(r"^\$ python (.+)\n(.+)\n```", text, re.M).groups()
    done = subprocess.run([sys.executable, *command.split()], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (1, output.strip()), done.stderr
