"""Build the notebooks: read the percent scripts, execute them on the embedded model, store what they show.

    python -m notebooks.build            builds and executes every notebook; needs the `notebooks` extra
    python -m notebooks.build 03         only this one
    python -m notebooks.build --check    says whether scripts, notebooks and shown source agree; needs no Jupyter

A percent script is Python: a line `# %%` begins a cell of code, `# %% [markdown]` one of text in comments.
"""

import ast
import contextlib
import hashlib
import io
import json
import os
import re
import sys
import time
from pathlib import Path

import notebooks.show
from tiny.config import TinyError
from tiny.system.whole import write_whole
from tiny.tools.terminal import Parser, program

FOLDER = Path(__file__).resolve().parent
KINDS = {"# %%": "code", "# %% [markdown]": "markdown"}
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
CHECKPOINTS, MODELS = FOLDER.parent / "tiny/checkpoints", ("tiny-mixtral", "tiny-pixtral")
# A notebook is kept as it is for a reader who has done no exercise.
BOOK_ONLY = "import sys; sys.path.insert(1, '..'); import notebooks.show; notebooks.show.STUDENT = None"
LIMIT_BYTES, LIMIT_SECONDS = 300 << 10, 60


def scripts() -> list[Path]:
    """The percent scripts, in order of their numbers."""
    return sorted(FOLDER.glob("[0-9][0-9]_*.py"))


def cells(script: Path) -> list[tuple[str, str]]:
    """The cells of a percent script: (kind, source) pairs."""
    found: list[tuple[str, list[str]]] = []
    for number, line in enumerate(script.read_text(encoding="utf-8").splitlines(), 1):
        if line.startswith("# %%"):
            if line not in KINDS:
                raise ValueError(f"{script.name}:{number}: a cell begins with one of {list(KINDS)}; got {line!r}.")
            found.append((KINDS[line], []))
        elif found:
            kind, lines = found[-1]
            if kind == "markdown" and line and not line.startswith("#"):
                raise ValueError(f"{script.name}:{number}: a cell of text has comments only; got {line!r}.")
            lines.append(re.sub("^# ?", "", line) if kind == "markdown" else line)
        elif line:
            raise ValueError(f"{script.name}:{number}: the script begins with a cell; got {line!r}.")
    return [(kind, "\n".join(lines).strip("\n")) for kind, lines in found]


def model_digests(script: Path) -> dict[str, str]:
    """What tells one state from another of the embedded models: of tiny-mixtral, and of one that a script names."""
    text = script.read_text(encoding="utf-8")
    return {name: hashlib.sha256((CHECKPOINTS / name / "consolidated.safetensors").read_bytes()).hexdigest()[:16]
            for name in MODELS if name == "tiny-mixtral" or name in text}


def notebook(script: Path) -> dict:
    """A script as a notebook without outputs, in nbformat 4.5."""
    built = []
    for number, (kind, text) in enumerate(cells(script)):
        cell = {"cell_type": kind, "id": f"{script.name[:2]}-{number:02}", "metadata": {},
                "source": text.splitlines(keepends=True)}
        built.append(cell | ({"execution_count": None, "outputs": []} if kind == "code" else {}))
    metadata = {"kernelspec": KERNEL, "language_info": {"name": "python"}, **model_digests(script)}
    return {"cells": built, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}


def execute(book: dict) -> dict:
    """Run a notebook from its own folder; keep its outputs, and nothing of when and where it ran."""
    import nbformat
    from nbclient import NotebookClient

    node = nbformat.reads(json.dumps(book), as_version=4)
    client = NotebookClient(node, timeout=LIMIT_SECONDS, kernel_name="python3", record_timing=False,
                            coalesce_streams=True,  # printed lines in one piece, whenever they are flushed
                            extra_arguments=["--log-level=ERROR"], resources={"metadata": {"path": str(FOLDER)}})
    # One thread: sums in one order, so that outputs do not change with the number of cores.
    with client.setup_kernel(env=os.environ | {"OPENBLAS_NUM_THREADS": "1"}):
        client.kc.execute(BOOK_ONLY, silent=True, store_history=False)
        for number, cell in enumerate(node.cells):
            client.execute_cell(cell, number)
    executed = json.loads(nbformat.writes(node))
    return book | {"cells": executed["cells"]}


def build(script: Path) -> list[str]:
    """Build and execute one notebook; return what is wrong with it."""
    target, began = script.with_suffix(".ipynb"), time.monotonic()
    try:
        text = json.dumps(execute(notebook(script)), indent=1, ensure_ascii=False) + "\n"
    except Exception as error:  # A cell may raise anything; the other notebooks are built all the same.
        return [f"{target.name} stops: {last_line(error)}"]
    seconds = time.monotonic() - began
    same = target.exists() and target.read_text(encoding="utf-8") == text
    write_whole(target, text)
    print(f"{target.name:32} {seconds:5.1f} s {len(text.encode()) / 1024:6.0f} KiB  {'as before' if same else 'new'}")
    slow = [f"{target.name} takes {seconds:.0f} s; the limit is {LIMIT_SECONDS}."] if seconds > LIMIT_SECONDS else []
    return slow + check(script)


def last_line(error: Exception) -> str:
    """What a cell raised, in one line: the end of its traceback, without the colours of a terminal."""
    lines = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip().splitlines()
    return lines[-1] if lines else type(error).__name__


def check(script: Path) -> list[str]:
    """What is wrong between a script, its notebook, and the source that the notebook shows."""
    target = script.with_suffix(".ipynb")
    if not target.exists():
        return [f"{target.name} is not built."]
    stored = json.loads(target.read_text(encoding="utf-8"))
    pairs = [(cell["cell_type"], "".join(cell["source"])) for cell in stored["cells"]]
    if pairs != cells(script):
        return [f"{target.name} is not what {script.name} says."]
    wrong, code = [], [cell for cell in stored["cells"] if cell["cell_type"] == "code"]
    wrong += [f"{target.name} was run on another {name}." for name, digest in model_digests(script).items()
              if stored["metadata"].get(name) != digest]
    if [cell["execution_count"] for cell in code] != list(range(1, len(code) + 1)):
        wrong.append(f"{target.name} was not run once from top to bottom.")
    if any(output["output_type"] == "error" for cell in code for output in cell["outputs"]):
        wrong.append(f"{target.name} holds an error.")
    if target.stat().st_size > LIMIT_BYTES:
        wrong.append(f"{target.name} has {target.stat().st_size >> 10} KiB; the limit is {LIMIT_BYTES >> 10}.")
    return wrong + [f"{target.name}, cell {cell['id']}: shows source that has changed." for cell in stale(code)]


def stale(code: list[dict]) -> list[dict]:
    """The cells that show source which is no longer so. A cell that shows does nothing else."""
    names: dict = {}
    found, student = [], notebooks.show.STUDENT
    notebooks.show.STUDENT = None
    for cell in code:
        tree = ast.parse("".join(cell["source"]))
        imports = [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
        exec(compile(ast.Module(imports, []), cell["id"], "exec"), names)
        if any(isinstance(node, ast.Name) and node.id == "show" for node in ast.walk(tree)):
            shown = io.StringIO()
            with contextlib.redirect_stdout(shown):
                exec(compile(tree, cell["id"], "exec"), names)
            if shown.getvalue() != "".join("".join(output.get("text", "")) for output in cell["outputs"]):
                found.append(cell)
    notebooks.show.STUDENT = student
    return found


def main(argv: list[str] | None = None) -> int:
    """Build or check all notebooks; return how many things are wrong."""
    parser = Parser(prog="python -m notebooks.build", description=__doc__.splitlines()[0])
    parser.add_argument("numbers", nargs="*", metavar="NN", help="only these notebooks: 03 (default: all)")
    parser.add_argument("--check", action="store_true", help="build nothing, only compare")
    args = parser.parse_args(argv)
    known = {script.name[:2]: script for script in scripts()}
    if unknown := set(args.numbers) - set(known):
        raise TinyError(f"There is no notebook {', '.join(sorted(unknown))}.", f"There are {', '.join(known)}.")
    chosen = [script for number, script in known.items() if number in args.numbers or not args.numbers]
    wrong = [line for script in chosen for line in (check if args.check else build)(script)]
    for line in wrong:
        print(line, "Run `make notebooks`." if args.check else "", file=sys.stderr)
    return len(wrong)


if __name__ == "__main__":
    program(main)
