"""The command `verify results`: RESULTS.md, a row for each `verify check --json` that somebody ran on real weights."""

import argparse
from pathlib import Path

from tiny.config import TinyError
from tiny.system.reading import read_json
from tiny.system.whole import write_whole
from tiny.tools.markdown import table
from tiny.tools.terminal import one_line
from tiny.tools.verify.report import FORMAT

HEAD = """# Results on real weights

What people found who have the released weights: one row for each run of `python -m tiny verify check DIR OUT --json`.
The index is the first half of the fingerprint, a SHA-256 over the names, types and first numbers of all tensors. The
worst error is that of the worst row of the worst operation, each computed on the other implementation's own inputs; in
brackets the share of its tolerance. Send the JSON file; the table is written by

    python -m tiny verify results FILE.json ...

"""
EMPTY = "No row yet: nobody has run it on the released weights.\n"
COLUMNS = ("model", "index", "implementation", "precision", "verdict", "worst error", "tokens", "top-1", "machine",
           "date")


def main(args: argparse.Namespace) -> int:
    """The command `verify results`: write the table of all files."""
    rows = sorted(row_of(Path(name)) for name in args.files)
    write_whole(args.out, HEAD + (table(list(COLUMNS), rows) + "\n" if rows else EMPTY))
    print(f"{args.out}: {len(rows)} rows")
    return 0


def row_of(path: Path) -> list[str]:
    """The row of one file. Raises TinyError if it is not the output of `check --json`."""
    report = read_json(path)
    try:
        if report["format"] != FORMAT:
            raise KeyError("format")
        theirs, rows = report["theirs"], [row for row in report["arrays"] if "step_percent" in row]
        rows = [row | {key: float("inf") for key in ("step_error", "step_percent") if row[key] is None} for row in rows]
        worst = max(rows, key=lambda row: row["step_percent"], default=None)
        error = f"{worst['step_error']:.1e} ({worst['step_percent']:.0f} %), {worst['name']}" if worst else "-"
        found = report.get("distribution") or {}
        values = [theirs.get("model"), str(theirs.get("fingerprint", "-"))[:32], theirs.get("implementation"),
                  theirs["precision"], report["verdict"], error, report["tokens"],
                  f"{found['top1']} of {found['rows']}" if found else "-",
                  (theirs.get("processor") or {}).get("name", "-"), theirs.get("date", "-")]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise TinyError(f"{path} is not what `verify check --json` prints: {error}.",
                        "Give its standard output, as it was.") from None
    return [one_line(value, 80).replace("|", "/") for value in values]
