"""Which functions are under test: the book's, or a student's in their place.

`bind` puts a function where the book's one is held, in every module that holds it. The plugin does so before the
tests are collected, tells those of an exercise what a failure means, and reports which functions were the student's.
With bfloat16 the book's own function is used: exercises are about float32.

With --exercise, a student's function runs in a separate process (tutorial/grader/isolated.py), for its author as for
the grader: both see the same verdict, which is made here. Its ideas are tried first, and the first test that fails
ends the exercise. Around it are the book's functions: an exercise does not fail by another one. Without --exercise the
student's functions run in this process, all together, where a debugger reaches them.
"""

import functools
import json
import re
import tempfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from compare import Different

from tutorial.binding import bind, instead, load
from tutorial.grader.emulated import Emulated, Reported
from tutorial.grader.isolated import Changed, Isolated, Limits, Stop
from tutorial.grader.results import OtherForm
from tutorial.grader.wall import find_wall
from tutorial.make_coursework import Exercise, Idea, is_finished, load_exercises, reference, same_as_book
from tutorial.source import ROOT

# It measures the memory of the book.
BOOK_ONLY = ("tests/tools/test_tools.py::test_activations_are_bounded_and_not_by_much",)
OVER = "This exercise is over."
PRINTED = 10  # lines of what a student's function prints that are shown


@dataclass(frozen=True)
class Failure:
    """The test that ended an exercise: what a student is told of it, and what only its author may see besides."""

    test: str
    words: str
    said: str = ""
    idea: Idea | None = None


@dataclass
class Record:
    """What happened to the tests of one exercise."""

    total: int = 0
    passed: int = 0
    names: set[str] = field(default_factory=set)  # of tests that pass
    failure: Failure | None = None
    others: int = 0  # further tests that fail, where the first does not end the run
    untried: str = ""  # why no test could run on this machine


def state_of(exercise: Exercise, folder: Path) -> str:
    """Whether a student's function is "missing", "unfinished" or the student's "own"."""
    path = folder / exercise.file
    if not path.exists():
        return "missing"
    try:
        return "own" if is_finished(exercise, path.read_bytes()) else "unfinished"
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return "own"  # It does not load, and its tests say so.


def failure_of(exercise: Exercise, test: str, error: BaseException, stop: Stop | None = None) -> Failure:
    """What a failed test means for a student. An idea is to blame only if what it says was checked and did not hold."""
    stop = getattr(error, "stop", stop)
    if isinstance(error, OtherForm):
        return Failure(test, str(error))
    if isinstance(error, Changed):
        return Failure(test, str(error), idea=next((i for i in exercise.ideas if i.name.endswith("left_alone")), None))
    if isinstance(error, Reported) and "does not compile" in str(error):  # Nothing was checked yet.
        return Failure(test, str(error))
    if stop is not None:
        return Failure(test, str(stop) if not str(error).startswith(exercise.file) else str(error), stop.text)
    if not isinstance(error, AssertionError | pytest.fail.Exception):
        return Failure(test, f"{exercise.name} returned something that the test cannot use", str(error))
    return Failure(test, checked(error), idea=next((i for i in exercise.ideas if test == f"test_{i.name}"), None))


def checked(error: BaseException) -> str:
    """What a failed check found, in a student's numbers."""
    if isinstance(error, Different):
        got, expected = in_digits(error.got, error.expected)
        place = f" at [{', '.join(map(str, error.where))}]" if error.where else ""
        count = f" ({error.count} of {error.size} differ)" if error.size > 1 else ""
        return f"{error.name}: got {got}, expected {expected}{place}{count}"
    if isinstance(error, Reported):
        return str(error)
    text = str(error).split("\nassert ")[0].partition("\n")[0]
    equal = re.match(r"assert (.{1,60}) == (.{1,60})$", text)
    if equal:
        return f"got {equal[1]}, expected {equal[2]}"
    if re.search(r": shape \(.*\), expected \(", text):
        return text.replace(": shape (", ": got shape (", 1)
    raises = re.match(r"DID NOT RAISE <class '(\w+)'>", text)
    return f"expected a {raises[1]}, got none" if raises else (text or "the check does not hold")[:200]


def in_digits(*values) -> list[str]:
    """Numbers with as many digits as it takes to tell them from each other; all, if nine are enough."""
    plain = [value.item() if isinstance(value, np.generic) else value for value in values]
    exact = all(float(f"{value:.9g}") == value for value in plain if isinstance(value, float))
    for digits in range(9 if exact else 3, 10):
        words = [f"{value:.{digits}g}" if isinstance(value, float) else str(value) for value in plain]
        if len(set(words)) == len(words):
            break
    return words


class Coursework:
    """The plugin behind --impl, --exercise, --hints, --seed and --report."""

    def __init__(self, config: pytest.Config):
        option = config.getoption
        known = {"reference": None, "student": ROOT / "student"}
        self.folder = known.get(option("impl"), Path(option("impl")).resolve())
        self.hints, self.seed, self.report = option("hints"), option("seed"), option("report")
        self.exercises, wanted = load_exercises(), option("exercise")
        unknown = set(wanted) - {exercise.id for exercise in self.exercises} - {"all"}
        if unknown:
            raise pytest.UsageError(f"There is no exercise {', '.join(sorted(unknown))}; "
                                    f"there are {', '.join(e.id for e in self.exercises)}, and all.")
        if self.folder and not self.folder.is_dir():
            raise pytest.UsageError(f"There is no folder {option('impl')}. `make student` writes student/.")
        if self.folder and getattr(config.option, "numprocesses", None):
            raise pytest.UsageError("The exercises are tested in one process. Leave out -n.")
        self.chosen = [e for e in self.exercises if e.id in wanted or "all" in wanted]
        self.states = {e.id: state_of(e, self.folder) if self.folder else "reference" for e in self.exercises}
        self.records = {e.id: Record() for e in self.exercises}
        self.isolated: dict[str, Isolated | Emulated] = {}
        self.now: Exercise | None = None  # whose test runs
        self.tree = tempfile.TemporaryDirectory(prefix="tree-") if self.folder and self.chosen else None
        if self.chosen and config.args_source is not config.ArgsSource.ARGS:
            # The summary says what a student needs; --tb=short and -rf give the rest.
            if config.option.tbstyle == "auto":
                config.option.tbstyle = "no"
            if config.option.reportchars == "fE":
                config.option.reportchars = ""
            config.args[:] = [str(ROOT / test) for e in self.chosen for test in e.tests]
        if option("walled") and find_wall().program is None:
            raise pytest.UsageError(f"There is no wall: {find_wall().reason}.")
        if self.folder:
            self.bind_all(Limits(option("seconds"), option("megabytes")))

    def bind_all(self, limits: Limits) -> None:
        """Bind what is asked for, isolated; or without --exercise what is finished, in this process."""
        if self.tree is not None:
            tree = Path(self.tree.name).resolve()
            for exercise in self.chosen:
                if self.states[exercise.id] == "own" and exercise.is_kernel:
                    self.isolated[exercise.id] = Emulated(exercise, self.folder)
                elif self.states[exercise.id] == "own":
                    one = Isolated(exercise, reference(exercise), self.folder, tree, limits, find_wall())
                    self.isolated[exercise.id] = one
                    bind(exercise, instead(exercise, one.call, functools.partial(self.tries, exercise)))
        else:
            for exercise in self.exercises:
                if self.states[exercise.id] == "own" and exercise.is_kernel:
                    self.isolated[exercise.id] = Emulated(exercise, self.folder)
                elif self.states[exercise.id] == "own":
                    bind(exercise, instead(exercise, load(exercise, self.folder / exercise.file)))

    def tries(self, exercise: Exercise) -> bool:
        """Whether the test that runs now is about this exercise, or about none."""
        return self.now in (None, exercise)

    def exercise_of(self, item: pytest.Item) -> Exercise | None:
        """The exercise that a test belongs to."""
        nodeid = item.nodeid.partition("[")[0]
        return next((e for e in self.exercises for test in e.tests if nodeid == test or nodeid.startswith(test + "::")),
                    None)

    @pytest.hookimpl
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Count the tests. Skip what is not about right or wrong: an exercise may use more memory than the book."""
        for item in items:
            exercise = self.exercise_of(item)
            if exercise is not None:
                self.records[exercise.id].total += 1
            if "own" in self.states.values() and item.nodeid.startswith(BOOK_ONLY):
                item.add_marker(pytest.mark.skip(reason="It measures how the book's own functions use memory."))

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Try nothing more of an exercise that is asked for and has failed, or is not written.

        With --seed, each test gets its own random numbers: the same ones, whichever other tests run.
        """
        exercise = self.now = self.exercise_of(item)
        if self.folder and exercise in self.chosen and (
                self.states[exercise.id] != "own" or self.records[exercise.id].failure is not None):
            pytest.skip(OVER)
        if self.seed is not None and hasattr(item.module, "RNG"):
            item.module.RNG = np.random.default_rng([self.seed, zlib.crc32(item.nodeid.encode())])

    @pytest.hookimpl(tryfirst=True)
    def pytest_report_teststatus(self, report: pytest.TestReport) -> tuple[str, str, str] | None:
        """What is not tried is not shown."""
        return ("", "", "") if report.skipped and OVER in str(report.longrepr) else None

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo):
        """Count what passes and fails of each exercise; a failure is told in a student's words."""
        report = (yield).get_result()
        exercise = self.exercise_of(item)
        if exercise is None or self.folder is None:
            return
        record, name = self.records[exercise.id], item.nodeid.rpartition("::")[2].partition("[")[0]
        if report.skipped and OVER not in str(report.longrepr):
            record.untried = str(report.longrepr[-1]).removeprefix("Skipped: ")
        if call.when != "call" and not report.failed:
            return
        if report.passed:
            record.passed += 1
            record.names.add(name)
        elif report.failed and record.failure is None:
            record.failure = failure_of(exercise, name, call.excinfo.value, self.stop_here(call.excinfo))
        elif report.failed:
            record.others += 1

    def stop_here(self, error: pytest.ExceptionInfo) -> Stop | None:
        """Where an exception left a student's function that runs in this process."""
        lines = [entry.lineno + 1 for entry in error.traceback if Path(entry.path).parent == self.folder]
        if not lines or isinstance(error.value, OtherForm):
            return None
        file = next(Path(e.path).name for e in reversed(error.traceback) if Path(e.path).parent == self.folder)
        return Stop(file, lines[-1], error.typename, str(error.value))

    def verdict(self, exercise: Exercise) -> dict:
        """What is known of an exercise after the run. All but `said` and `printed` may be shown to anybody."""
        record, state = self.records[exercise.id], self.states[exercise.id]
        failure, isolated = record.failure, self.isolated.get(exercise.id)
        idea, refused = failure and failure.idea, isolated.dead if isolated else ""
        idea = None if refused else idea
        hints = idea.hints_for(failure.words) if idea else exercise.hints if by_check(exercise, failure) else []
        failed = (failure is not None) + record.others
        right = state == "own" and not failed and not refused and 0 < record.passed == record.total
        return {"id": exercise.id, "title": exercise.title, "state": state, "of": exercise.points,
                "points": exercise.points * right, "why": why(exercise, record, state, refused), "total": record.total,
                "passed": record.passed, "failed": failed, "test": failure.test if failure else None,
                "idea": idea.name if idea else None, "property": idea.property if idea else None,
                "numbers": failure.words if failure else "",
                "hints": hints[: self.hints] if state == "own" and not refused else [],
                "refused": refused, "said": (isolated.said if refused else failure.said if failure else "")[:300],
                "printed": isolated.printed.decode("utf-8", "replace") if isolated else "",
                "same_as_book": same_as_book(exercise, self.folder) if state == "own" else None,
                "holds": [i.name for i in exercise.ideas if f"test_{i.name}" in record.names]}

    def pytest_terminal_summary(self, terminalreporter) -> None:
        """Say which functions were the student's own, and what to look at in those that fail."""
        for isolated in self.isolated.values():
            isolated.stop()
        if self.folder is None:
            return
        terminalreporter.section("exercises")
        for exercise in self.chosen or self.exercises:
            for line in summary(self.verdict(exercise), exercise in self.chosen, exercise.file):
                terminalreporter.write_line(line)
        if self.report:
            Path(self.report).write_text(json.dumps([self.verdict(e) for e in self.exercises]), encoding="utf-8")

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """An exercise that is asked for and not written has not passed."""
        if self.folder and any(self.states[e.id] != "own" for e in self.chosen) and session.exitstatus == 0:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_unconfigure(self) -> None:
        """Leave no folder behind."""
        if self.tree is not None:
            self.tree.cleanup()


def by_check(exercise: Exercise, failure: Failure | None) -> bool:
    """Whether a check failed that belongs to no idea; then the hints of the exercise are given."""
    return failure is not None and not failure.said and failure.test not in {f"test_{i.name}" for i in exercise.ideas}


def why(exercise: Exercise, record: Record, state: str, refused: str) -> str:
    """The reason for the points, in words that hold nothing of what a submission may have read."""
    if state == "missing":
        return f"There is no file {exercise.file}."
    if state == "unfinished":
        hole = "#error ..." if exercise.is_kernel else "raise NotImplementedError(...)"
        return f"Unfinished: the line `{hole}` is still there. Write your code in its place, and delete it."
    if refused:
        return f"{refused}."
    if record.untried:
        return f"Not tried: {record.untried}"
    if record.failure is None:
        return f"All {record.total} tests pass."
    failure = record.failure
    lead = f"Does not hold: {failure.idea.property}. " if failure.idea else ""
    words = " ".join(failure.words.split())[:300]
    return f"{record.passed} of {record.total} tests pass, then one fails. {lead}{words}."


def summary(verdict: dict, chosen: bool, file: str) -> list[str]:
    """The lines that tell a student about one exercise."""
    used = "" if chosen else "the book's is used"
    whose = {"own": "your own", "unfinished": f"unfinished; {used}".rstrip("; "),
             "missing": f"no {file}; {used}".rstrip("; ")}[verdict["state"]]
    ran = f"  {verdict['passed']} pass, {verdict['failed']} fail" if verdict["passed"] + verdict["failed"] else ""
    points = f"  {verdict['points']} of {verdict['of']} points" if chosen else ""
    lines = [f"{verdict['id']}  {verdict['title']}: {whose}{ran}{points}"]
    if chosen and not verdict["failed"] and not verdict["points"]:
        lines.append(f"     {verdict['why']}")
    if verdict["failed"] and verdict["state"] == "own":
        if verdict["property"]:
            lines.append(f"     property: {verdict['property']}")
        found = verdict["refused"] or verdict["numbers"]
        lines.append(f"     {'numbers' if verdict['idea'] else 'found'}: {' '.join(found.split())[:300]}")
        if verdict["said"]:
            lines.append(f"     it says: {' '.join(verdict['said'].split())}")
        lines += [f"     {('hint', 'second hint')[n]}: {hint}" for n, hint in enumerate(verdict["hints"])]
    printed = verdict["printed"].splitlines()
    if chosen and printed:
        lines += ["     printed:", *(f"       {line[:200]}" for line in printed[:PRINTED])]
        lines += [f"       ... and {len(printed) - PRINTED} more lines"] * (len(printed) > PRINTED)
    return lines


def options(parser: pytest.Parser) -> None:
    """The options of the command line."""
    group = parser.getgroup("coursework")
    group.addoption("--impl", default="reference",
                    help="whose functions: reference, student, or a folder of files (write --impl=FOLDER, with =)")
    group.addoption("--exercise", action="append", default=[], metavar="ID",
                    help="only the tests of this exercise, on the student's function in a separate process; or all")
    group.addoption("--hints", type=int, default=1, choices=(0, 1, 2), help="how many hints a failure gives")
    group.addoption("--seed", type=int, default=None, help="other random numbers for tests that draw some")
    group.addoption("--report", default=None, metavar="FILE", help="write the exercises' results as JSON")
    group.addoption("--walled", action="store_true", help="run no exercise where the system has no wall for it")
    group.addoption("--seconds", type=float, default=20.0, help="time of an exercise")
    group.addoption("--megabytes", type=int, default=1024, help="memory of an exercise")
