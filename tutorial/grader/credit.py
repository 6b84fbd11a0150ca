"""What points become: a part of them for a part of the ideas, less when handed in late, and all in one table."""

import csv
import io
import math
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from tiny.config import TinyError

COLUMNS = ("student", "submitted", "late_days")  # of the file of times; the last one may be missing
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what a spreadsheet computes, if a name begins with it


@dataclass(frozen=True)
class Rules:
    """How a teacher counts. `late_days` are free; each later day takes `penalty` per cent of the points."""

    partial: bool = False
    deadline: datetime | None = None
    late_days: int = 0
    penalty: float = 10.0


PLAIN = Rules()


@dataclass(frozen=True)
class Handed:
    """When a student handed in, and how many late days they still have, if that is not what the rules say."""

    submitted: datetime
    late_days: int | None = None


def read_moment(text: str, what: str) -> datetime:
    """A date and time in the form 2026-03-01T23:59, with a zone (+01:00, Z) or without.

    Raises:  TinyError for anything else
    """
    try:
        return datetime.fromisoformat(text.strip())
    except ValueError:
        raise TinyError(f"{what} is no date and time: {text!r}.", "Write it as 2026-03-01T23:59.") from None


def read_times(path: Path) -> dict[str, Handed]:
    """The times at which students handed in, from a CSV file with a line `student,submitted,late_days` at its top.

    Raises:  TinyError for a file that cannot be read so
    """
    try:
        rows = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8-sig"))))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise TinyError(f"{path} cannot be read: {error}", "Give a CSV file in UTF-8.") from None
    if not rows or not {*COLUMNS[:2]} <= rows[0].keys():
        raise TinyError(f"{path} has no columns student and submitted.", f"Its first line is {','.join(COLUMNS)}.")
    found = {}
    for number, row in enumerate(rows, 2):
        left = (row.get("late_days") or "").strip()
        if left and not left.isdecimal():
            raise TinyError(f"{path}, line {number}: late_days is no whole number: {left!r}.", "Write 0, 1, 2 ...")
        moment = read_moment(row["submitted"] or "", f"{path}, line {number}: submitted")
        found[row["student"]] = Handed(moment, int(left) if left else None)
    return found


def share(points: int, passed: bool, holds: int, ideas: int, rules: Rules) -> float:
    """The points of an exercise: all or none, or with `partial` a share.

    The ideas that hold count, and the rest of the tests counts as one idea more. Rounded down to tenths.
    """
    if passed or not rules.partial:
        return points * passed
    return math.floor(10 * points * holds / (ideas + 1)) / 10


def days_late(handed: datetime, deadline: datetime) -> int:
    """Days after the deadline, a begun one counted whole.

    Raises:  TinyError if one of the two has a zone and the other none
    """
    if (handed.tzinfo is None) != (deadline.tzinfo is None):
        raise TinyError("The deadline and the times of the submissions cannot be compared: one has a time zone.",
                        "Give both with a zone (2026-03-01T23:59+01:00), or both without.")
    return max(0, math.ceil((handed - deadline) / timedelta(days=1)))


def lateness(points: float, handed: Handed | None, rules: Rules) -> dict:
    """What is left of the points after a deadline, and why: `points`, `before`, `days_late`, `late_days_used`."""
    if rules.deadline is None:
        return {"points": points}
    if handed is None:
        return {"points": points, "before": points, "days_late": None, "late_days_used": 0}
    days = days_late(handed.submitted, rules.deadline)
    used = min(days, rules.late_days if handed.late_days is None else handed.late_days)
    kept = max(0.0, 1 - (days - used) * rules.penalty / 100)
    return {"points": round(points * kept, 2), "before": points, "days_late": days, "late_days_used": used}


def table(submissions: dict[str, dict]) -> str:
    """The grades as CSV: a row for each student, a column for each exercise."""
    first = next(iter(submissions.values()))
    ids = [m["id"] for m in first["exercises"]]
    out = io.StringIO()
    rows = csv.writer(out, lineterminator="\n")
    rows.writerow(["student", "points", "of", "days_late", "late_days_used", *ids])
    for student, graded in submissions.items():
        points = {m["id"]: m["points"] for m in graded["exercises"]}
        rows.writerow([f"'{student}" if student.startswith(FORMULA) else student, graded["points"], graded["of"],
                       graded.get("days_late"), graded.get("late_days_used"), *(points.get(id) for id in ids)])
    return out.getvalue()
