"""The generated parts of README.md: tables and counts, from the tree and from recorded measurements.

    python -m tutorial.pages.readme               write them
    python -m tutorial.pages.readme --check       exit with 1 if they are not up to date
    python -m tutorial.pages.readme --tests FILE  first record a test run, which `pytest --junitxml FILE` wrote
    python -m tutorial.pages.readme --verify FILE the same for a run of tests/verify

A part stands between `<!-- begin NAME -->` and `<!-- end NAME -->`. Measurements lie in `records/`, as JSON.
"""

import argparse
import ast
import io
import json
import re
import statistics
import sys
import tokenize
import xml.etree.ElementTree
from collections import Counter
from pathlib import Path

import tiny
from tiny.tools import memory
from tiny.tools.cards.images import claimed
from tiny.tools.machine import cpu_name
from tiny.tools.markdown import fill, refresh, table
from tiny.tools.releases import MIXTRAL_8X7B, PIXTRAL_12B, stand_ins
from tiny.training.images import train
from tiny.training.images.evaluate import AIMS, COLUMNS, GATES
from tiny.training.text.train import Recipe

ROOT = Path(__file__).parents[2]
RECORDS = Path(__file__).parent / "records"
CARD = ROOT / "tiny/checkpoints/tiny-mixtral/card.json"
PIXTRAL_CARD = ROOT / "tiny/checkpoints/tiny-pixtral/card.json"
# The folders of the map, after the book.
FOLDERS = ("tiny/tools", "tiny/tools/bench", "tiny/tools/convert", "tiny/tools/verify", "tiny/training",
           "tiny/training/text", "tiny/training/images", "kernels", "kernels/gpu", "kernels/emulator")
SILENT = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENCODING,
          tokenize.ENDMARKER}


def reading_order() -> list[str]:
    """The modules of the book in reading order, as the docstring of `tiny` lists them."""
    listed = re.search(r"in reading order: ([\w,;\s]+)\.", tiny.__doc__ or "")
    return re.findall(r"\w+", listed[1]) if listed else []


def appendix() -> list[str]:
    """The modules of the book's appendix, `tiny/files/`, in reading order, as the docstring of `tiny` lists them."""
    listed = re.search(r"appendix is the folder `files/`: ([\w,\s]+)\.", tiny.__doc__ or "")
    return re.findall(r"\w+", listed[1]) if listed else []


def book() -> list[Path]:
    """The files of the book: the flat modules of `tiny` in reading order, its front page, and its appendix."""
    names = *reading_order(), "__init__", *(f"files/{name}" for name in ("__init__", *appendix()))
    return [ROOT / f"tiny/{name}.py" for name in names]


def first_sentence(path: Path) -> str:
    """The first sentence of a module's docstring, in one line."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return re.split(r"(?<=[.:])\s*\n\n|(?<=\.)\s", text + "\n\n")[0].replace("\n", " ").strip()


def code_lines(source: str) -> set[int]:
    """Numbers of the lines that hold code: not blank, not a comment, not part of a docstring."""
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in SILENT:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            lines.difference_update(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    return lines


def function_lengths(path: Path) -> dict[str, int]:
    """The lines of code of every function and method of a file, by qualified name."""
    source = path.read_text(encoding="utf-8")
    lines, lengths = code_lines(source), {}

    def visit(node: ast.AST, prefix: str) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef):
                lengths[prefix + child.name] = len(lines & set(range(child.lineno, (child.end_lineno or 0) + 1)))
            name = getattr(child, "name", None)
            visit(child, f"{prefix}{name}." if isinstance(name, str) else prefix)

    visit(ast.parse(source), "")
    return lengths


def lines_of(path: Path) -> int:
    """The lines of code of a file."""
    return len(code_lines(path.read_text(encoding="utf-8")))


def link(path: Path) -> str:
    """A link to a file of the repository, shown by its name."""
    return f"[{path.name}]({path.relative_to(ROOT).as_posix()})"


def tests_of(module: str) -> list[Path]:
    """The test file that bears the name of a module of the book; for others, those that import the module."""
    parent, _, name = module.rpartition(".")
    own = [path for folder in ("book", "files") if (path := ROOT / f"tests/{folder}/test_{name}.py").exists()]
    if own and parent in ("tiny", "tiny.files"):
        return own
    wanted = re.compile(rf"^(?:from|import) {re.escape(module)}\b|^from {re.escape(parent)} import .*\b{name}\b", re.M)
    found = [path for path in sorted((ROOT / "tests").glob("*/test_*.py"))
             if path.parent.name != "verify" and wanted.search(path.read_text(encoding="utf-8"))]
    return found or [ROOT / "tests/tools/test_cli.py"] * (parent == "tiny.tools" and is_command(name))


def is_command(name: str) -> bool:
    """Whether a tool is a command of `python -m tiny`, so that the tests of the command line run it."""
    return f'"{name}"' in (ROOT / "tiny/__main__.py").read_text(encoding="utf-8")


def module_of(path: Path) -> str:
    """The dotted name of a file of this repository."""
    return path.relative_to(ROOT).as_posix().removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def map_block() -> str:
    """The book by number, each module with its role, its lines of code and its tests; then the rest by folder."""
    names = *reading_order(), *(f"files/{name}" for name in appendix())
    numbered = [(str(n), ROOT / f"tiny/{name}.py") for n, name in enumerate(names, 1)]
    rows = []
    for number, path in [("", ROOT / "tiny/__init__.py"), *numbered, ("", ROOT / "tiny/__main__.py")]:
        name = f"[{path.stem}]({path.relative_to(ROOT).as_posix()})"
        rows.append([number, name, first_sentence(path).replace("|", "\\|"), str(lines_of(path)),
                     ", ".join(map(link, tests_of(module_of(path))[:2] if path.stem != "__init__" else []))])
    for place in FOLDERS:
        folder = ROOT / place
        paths = [path for path in sorted(folder.glob("*.py"))
                 if lines_of(path) and (path.stem != "__init__" or folder.parent.name == "tools")]
        tests = sorted({test for path in paths for test in tests_of(module_of(path))})
        rows.append(["", f"[{folder.name}]({place})", first_sentence(folder / "__init__.py") + " " + ", ".join(
            f"[{module_of(path).rpartition('.')[2]}]({path.relative_to(ROOT).as_posix()})" for path in paths),
                     f"{sum(map(lines_of, paths)):,}", ", ".join(map(link, tests))])
    return table(["", "module", "what it is", "lines", "tests"], rows)


def counts_block() -> str:
    """The size of the book, and the last recorded test run."""
    lengths = {f"{path.stem}.{name}": n for path in book() for name, n in function_lengths(path).items()}
    longest = max(lengths, key=lambda name: lengths[name])
    text = (f"The book is {sum(map(lines_of, book())):,} lines of code in {len(book())} files. The median function has "
            f"{statistics.median(lengths.values()):g} lines, the longest, `{longest}`, {lengths[longest]}.")
    tests = record("tests.json")
    if not tests:
        return text + " No test run has been recorded yet."
    reasons = " ".join(f"{count} × \"{reason}\"" for reason, count in tests["skips"].items())
    return (f"{text} Its tests: {tests['passed']:,} passed, {tests['skipped']} skipped, {tests['failed']} failed in "
            f"{tests['seconds']:.0f} s ({tests['date']}). {'Skipped: ' + reasons if reasons else ''}".rstrip())


def memory_block() -> str:
    """What the real models need, by the estimate that the command `memory` prints."""
    rows = []
    for name, config, contexts in (("Mixtral 8x7B", MIXTRAL_8X7B, (1024, 4096, 32768)),
                                   ("Pixtral 12B", PIXTRAL_12B, (1024, 4096, 131072))):
        for context in contexts:
            need = memory.estimate(config, stand_ins(config), context)
            rows.append([name, f"{context:,}", *map(memory.amount, (need.stored, need.kv_cache, need.peak("mapped"),
                                                                    need.peak("resident")))])
    head = ["model", "tokens, prompt and answer", "bfloat16 files", "KV cache", "peak, `mapped`", "peak, `resident`"]
    total, active = memory.parameters(MIXTRAL_8X7B)
    counts = memory.parts(PIXTRAL_12B)
    (image,) = memory.images_of(PIXTRAL_12B, ())
    seen = memory.estimate(PIXTRAL_12B, stand_ins(PIXTRAL_12B), image.tokens + 256, [image.columns * image.rows])
    return "\n\n".join([table(head, rows), (
        f"Of Mixtral's {total:,} parameters {active:,} work on a token: mapped, each token reads up to "
        f"{memory.amount(2 * active)} of the files, from the page cache if they fit there, else from the disk. Pixtral "
        f"has {counts['decoder']:,} in the decoder, {counts['vision encoder']:,} in the vision encoder and "
        f"{counts['adapter']:,} in the adapter. An image of {image.width} x {image.height} pixels is {image.tokens:,} "
        f"tokens; with 256 more for question and answer, the peak is {memory.amount(seen.peak('mapped'))} mapped, of "
        f"which {memory.amount(seen.kv_cache)} are keys and values.")])


def record(name: str) -> dict:
    """A recorded measurement, or an empty dict if there is none yet."""
    path = RECORDS / name
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def provenance(entry: dict) -> str:
    """Date, machine and versions of a record in one line."""
    versions = ", ".join(f"{name} {version}" for name, version in entry.get("versions", {}).items())
    return "; ".join(part for part in (entry.get("date"), entry.get("machine"), entry.get("kernel"), versions) if part)


def cell(value) -> str:
    """A value as it stands in a table; numbers with three digits or in full."""
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def rows_table(rows: list[dict]) -> str:
    """A table of rows {"what", "value", "unit", "note"}."""
    return table(["what", "measured", "note"], [
        [row["what"], f"{cell(row['value'])} {row.get('unit', '')}".strip(), row.get("note", "")] for row in rows])


def bench_block() -> str:
    """The recorded benchmarks: of the language model, and of the vision encoder if there is one."""
    entry, vision = record("bench.json"), record("bench_vision.json")
    if not entry:
        return "Not measured yet: `python -m tiny bench --save` measures and records it."
    parts = bench_tables(entry)
    if vision:
        parts += ["A picture of 1024 x 1024 pixels, 4,096 patches, through a vision encoder of the real width with 4 "
                  "layers, by `python -m tiny bench --vision`:", *bench_tables(vision)]
    return "\n\n".join(parts)


def bench_tables(entry: dict) -> list[str]:
    """The paragraphs of one benchmark: how it was measured, and one table for each number of threads."""
    parts = [f"{provenance(entry)}."]
    for threads, part in sorted(entry["threads"].items(), key=lambda item: int(item[0])):
        parts += [f"{threads} thread{'s' * (threads != '1')}:", rows_table(part["rows"])]
    return parts


def verify_block() -> str:
    """What was run by hand against other implementations."""
    entry = record("verify.json")
    if not entry:
        return "Not recorded yet: `make verify` runs it."
    return f"{provenance(entry)}.\n\n{rows_table(entry['rows'])}"


def model_block() -> str:
    """The recipe, and the embedded model's card in short.

    The card holds `held_out`, {domain: {"nats_per_token", "bits_per_character"}}, and `rows` as `rows_table` takes
    them: shares of the experts, gates, cost.
    """
    r = Recipe()
    text = (f"`tiny-mixtral` has {r.num_experts} experts, {r.num_experts_per_tok} of them for each token, in "
            f"{r.n_layers} layers of dimension {r.dim}, and a vocabulary of {r.vocab_size:,} pieces. `make train` "
            f"trains it again from nothing, on {(r.tokens + r.closing) / 1e6:.0f} million tokens.")
    if not CARD.exists():
        return text + " The model is being trained; its card will stand here."
    card = json.loads(CARD.read_text(encoding="utf-8"))
    domains = [[name, *(f"{values[key]:.3f}" for key in ("nats_per_token", "bits_per_character"))]
               for name, values in card["held_out"].items()]
    return "\n\n".join([text, table(["held-out text", "nats per token", "bits per character"], domains),
                        rows_table(card["rows"])])


def pixtral_block() -> str:
    """The sizes of the embedded model that sees, and what it answers rightly, beside what it guesses when blind.

    The card holds `scenes`, the scenes of a cell, and `skills`, {skill: {column: share of right answers}}.
    """
    r = train.Recipe()
    text = (f"`tiny-pixtral`: encoder and decoder have {r.n_layers} layers each, of width {r.width}; patches have "
            f"{r.patch_size} x {r.patch_size} pixels, and sides of up to {train.LARGEST} are taken as they "
            "are. `python -m tiny.training tiny-pixtral` trains it again from nothing, on pictures drawn when needed.")
    if not PIXTRAL_CARD.exists():
        return text + " The model is being trained; its card will stand here."
    card = json.loads(PIXTRAL_CARD.read_text(encoding="utf-8"))
    skills = {skill: card["skills"][skill] for skill in (*GATES, *AIMS)}
    rows = [[skill, *(f"{100 * shares[column]:.1f}" if column in shares else "" for column in COLUMNS),
             "" if claimed(card["skills"], skill) else "not claimed"] for skill, shares in skills.items()]
    page = f"{PIXTRAL_CARD.parent.relative_to(ROOT).as_posix()}/README.md"
    return "\n\n".join([text, (
        f"Right answers in per cent, one question about each of {card['scenes']} scenes a cell that it has never seen. "
        "*Blind* are the questions of *seen* with every picture replaced by its mean colour. What is asked, the other "
        f"columns, and the other skills are explained on [its card]({page})."), table(["skill", *COLUMNS, ""], rows)])


def record_tests(report: Path) -> None:
    """Keep the counts of a test run, and why tests were skipped, from pytest's JUnit report."""
    suite = xml.etree.ElementTree.parse(report).getroot().find("testsuite")
    assert suite is not None, f"{report} holds no test suite"
    total, skipped, failed, errors = (int(suite.get(key, 0)) for key in ("tests", "skipped", "failures", "errors"))
    skips = Counter(skip.get("message", "") for skip in suite.iter("skipped"))
    entry = {"date": suite.get("timestamp", "")[:10], "passed": total - skipped - failed - errors, "skipped": skipped,
             "failed": failed + errors, "seconds": round(float(suite.get("time", 0)), 1), "skips": skips}
    keep("tests.json", entry)


def record_verify(report: Path) -> None:
    """Keep what the tests of a JUnit report recorded as properties: "version NAME", and results by what they are."""
    suite = xml.etree.ElementTree.parse(report).getroot().find("testsuite")
    assert suite is not None, f"{report} holds no test suite"
    found = {entry.get("name", ""): entry.get("value", "") for entry in suite.iter("property")}
    versions = {name.removeprefix("version "): value for name, value in found.items() if name.startswith("version ")}
    rows = [{"what": name, "value": value} for name, value in found.items() if not name.startswith("version ")]
    counts = {key: int(suite.get(key, 0)) for key in ("tests", "skipped", "failures", "errors")}
    passed = counts["tests"] - counts["skipped"] - counts["failures"] - counts["errors"]
    rows.append({"what": "tests", "value": f"{passed} passed, {counts['skipped']} skipped, "
                                           f"{counts['failures'] + counts['errors']} failed"})
    keep("verify.json", {"date": suite.get("timestamp", "")[:10], "machine": cpu_name(),
                         "versions": versions, "rows": rows})


def keep(name: str, entry: dict) -> None:
    """Write a record."""
    RECORDS.mkdir(exist_ok=True)
    (RECORDS / name).write_text(json.dumps(entry, indent=1) + "\n", encoding="utf-8")


BLOCKS = {"MAP": map_block, "COUNTS": counts_block, "MEMORY": memory_block, "BENCH": bench_block,
          "MODEL": model_block, "PIXTRAL": pixtral_block, "VERIFY": verify_block}


def main(arguments: list[str] | None = None) -> int:
    """Write or check the generated parts; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tutorial.pages.readme", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing, exit with 1 if something would change")
    parser.add_argument("--tests", type=Path, metavar="FILE", help="a JUnit report of pytest to record first")
    parser.add_argument("--verify", type=Path, metavar="FILE", help="the same, of tests/verify")
    options = parser.parse_args(arguments)
    if options.tests:
        record_tests(options.tests)
    if options.verify:
        record_verify(options.verify)
    path = ROOT / "README.md"
    text = fill(path.read_text(encoding="utf-8"), BLOCKS)
    return refresh(path, text, options.check, "python -m tutorial.pages.readme")


if __name__ == "__main__":
    sys.exit(main())
