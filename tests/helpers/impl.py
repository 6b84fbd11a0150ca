"""Which functions are under test: the book's, or a student's in their place.

`bind` puts a function where the book's one is held, in every module that holds it. The plugin does so before the
tests are collected, tells those of an exercise what a failure means, and reports which functions were the student's.
With bfloat16 the book's own function is used: exercises are about float32.
"""

import functools
import importlib
import importlib.util
import inspect
import json
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tutorial.grader.isolated import Isolated, Limits
from tutorial.make_coursework import Exercise, is_finished, load_exercises, same_as_book
from tutorial.source import ROOT

# It measures the memory of the book.
BOOK_ONLY = ("tests/tools/test_tools.py::test_activations_are_bounded_and_not_by_much",)


def reference(exercise: Exercise) -> Callable:
    """The book's own function."""
    return functools.reduce(getattr, exercise.name.split("."), importlib.import_module(exercise.module))


def bind(exercise: Exercise, function: Callable) -> Callable:
    """Put a function in the place of the book's, and return the book's."""
    old = reference(exercise)
    if "." in exercise.name:
        owner, name = exercise.name.split(".")
        setattr(getattr(importlib.import_module(exercise.module), owner), name, function)
        return old
    for module in list(sys.modules.values()):
        if getattr(module, "__name__", "").partition(".")[0] == "tiny":
            for name, value in list(vars(module).items()):
                if value is old:
                    setattr(module, name, function)
    return old


def float32_only(exercise: Exercise, function: Callable) -> Callable:
    """The function, or the book's where another precision is asked for."""
    old = reference(exercise)
    signature = inspect.signature(old)
    if "precision" not in signature.parameters:
        return function

    @functools.wraps(old)
    def either(*args, **kwargs):
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return (function if bound.arguments["precision"] == "float32" else old)(*args, **kwargs)
    return either


def raising(message: str) -> Callable:
    """A function that says why there is none."""
    def function(*args, **kwargs):
        raise AssertionError(message)
    return function


def load(exercise: Exercise, path: Path) -> Callable:
    """The student's function from a file; if there is none, a function that says why."""
    name = f"student_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        # Compiled from the text each time: a cached file may be stale within the second of an edit.
        exec(compile(path.read_text(encoding="utf-8"), path, "exec"), vars(module))
        return functools.reduce(getattr, exercise.name.split("."), module)
    except (Exception, SystemExit) as error:
        line = f":{error.lineno}" if isinstance(error, SyntaxError) else ""
        return raising(f"{path.name}{line} does not load: {type(error).__name__}: {error}")


def state_of(exercise: Exercise, folder: Path) -> str:
    """Whether a student's function is "missing", "unfinished" or the student's "own"."""
    path = folder / exercise.file
    if not path.exists():
        return "missing"
    try:
        return "own" if is_finished(exercise, path.read_text(encoding="utf-8")) else "unfinished"
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return "own"  # It does not load, and its tests say so.


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
        self.chosen = [e for e in self.exercises if e.id in wanted or "all" in wanted]
        self.states = {e.id: state_of(e, self.folder) if self.folder else "reference" for e in self.exercises}
        self.counts = {e.id: [0, 0] for e in self.exercises}
        self.failures: dict[str, dict[str, str]] = {e.id: {} for e in self.exercises}
        self.isolated: list[Isolated] = []
        if self.chosen and config.args_source is not config.ArgsSource.ARGS:
            # The summary says what a student needs; --tb=short and -rf give the rest.
            if config.option.tbstyle == "auto":
                config.option.tbstyle = "no"
            if config.option.reportchars == "fE":
                config.option.reportchars = ""
            config.args[:] = [str(ROOT / test) for e in self.chosen for test in e.tests]
        if self.folder:
            self.bind_all(config)

    def bind_all(self, config: pytest.Config) -> None:
        """Bind what is finished; of exercises asked for by name, also what is not."""
        tree = config.getoption("isolate")
        for exercise in self.exercises:
            if self.states[exercise.id] == "missing" and exercise in self.chosen:
                bind(exercise, raising(f"There is no file {exercise.file}"))
            elif self.states[exercise.id] == "own" or exercise in self.chosen:
                if tree:
                    limits = Limits(config.getoption("seconds"), config.getoption("megabytes"))
                    self.isolated.append(Isolated(exercise, reference(exercise), self.folder, Path(tree), limits))
                    function = as_method(self.isolated[-1].call)
                else:
                    function = load(exercise, self.folder / exercise.file)
                bind(exercise, float32_only(exercise, function))

    def exercise_of(self, item: pytest.Item) -> Exercise | None:
        """The exercise that a test belongs to."""
        nodeid = item.nodeid.partition("[")[0]
        return next((e for e in self.exercises for test in e.tests if nodeid == test or nodeid.startswith(test + "::")),
                    None)

    @pytest.hookimpl
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Skip what is no question of right or wrong: an exercise may use more memory than the book does."""
        for item in items if "own" in self.states.values() else []:
            if item.nodeid.startswith(BOOK_ONLY):
                item.add_marker(pytest.mark.skip(reason="It measures how the book's own functions use memory."))

    @pytest.hookimpl
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """With --seed, each test gets its own random numbers: the same ones, whichever other tests run."""
        if self.seed is not None and hasattr(item.module, "RNG"):
            item.module.RNG = np.random.default_rng([self.seed, zlib.crc32(item.nodeid.encode())])

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo):
        """Count what passes and fails of each exercise; a failure gets the hint of its idea."""
        report = (yield).get_result()
        exercise = self.exercise_of(item)
        if exercise is None or self.folder is None or (call.when != "call" and not report.failed):
            return
        self.counts[exercise.id][0] += report.passed
        self.counts[exercise.id][1] += report.failed
        if report.failed:
            name = item.nodeid.rpartition("::")[2].partition("[")[0]
            self.failures[exercise.id].setdefault(name, self.words(call.excinfo))

    def words(self, error: pytest.ExceptionInfo) -> str:
        """What an exception says; of one that is no failed check also its kind and the line of the student's file."""
        text = str(error.value).split("\nassert ")[0]
        if isinstance(error.value, AssertionError):
            return text or "the check does not hold"
        lines = [f"{Path(entry.path).name}:{entry.lineno + 1}: " for entry in error.traceback
                 if self.folder and Path(entry.path).parent == self.folder]
        return f"{(lines or [''])[-1]}{error.typename}: {text}"

    def verdict(self, exercise: Exercise) -> dict:
        """What is known of an exercise after the run: the first of its ideas that fails, with the numbers."""
        failed, (passed, failures) = self.failures[exercise.id], self.counts[exercise.id]
        idea = next((idea for idea in exercise.ideas if f"test_{idea.name}" in failed), None)
        ours = idea.hints if idea else exercise.hints
        words = failed[f"test_{idea.name}"] if idea else next(iter(failed.values()), "")
        names = [idea.name for idea in exercise.ideas]
        refused = next((isolated.dead for isolated in self.isolated if isolated.exercise is exercise), "")
        return {"id": exercise.id, "title": exercise.title, "state": self.states[exercise.id], "passed": passed,
                "failed": failures, "tests": sorted(failed), "idea": idea.name if idea else None,
                "property": idea.property if idea else None, "numbers": words, "messages": failed,
                "hints": ours[: self.hints] if failed and self.states[exercise.id] == "own" else [],
                "refused": refused, "same_as_book": bool(self.folder) and same_as_book(exercise, self.folder),
                "holds": [name for name in names if f"test_{name}" not in failed and passed]}

    def pytest_terminal_summary(self, terminalreporter) -> None:
        """Say which functions were the student's own, and what to look at in those that fail."""
        for isolated in self.isolated:
            isolated.stop()
        if self.folder is None:
            return
        write = terminalreporter.write_line
        terminalreporter.section("exercises")
        for exercise in self.chosen or self.exercises:
            verdict = self.verdict(exercise)
            used = "the book's serves" if exercise not in self.chosen else ""
            whose = {"own": "your own", "unfinished": f"unfinished; {used}".rstrip("; "),
                     "missing": f"no {exercise.file}; {used}".rstrip("; ")}
            ran = f"{verdict['passed']} pass, {verdict['failed']} fail" if verdict["passed"] + verdict["failed"] else ""
            write(f"{exercise.id}  {exercise.title}: {whose[verdict['state']]}  {ran}".rstrip())
            if verdict["failed"]:
                for name in ("property", "numbers"):
                    if verdict[name] and (name == "numbers" or verdict["state"] == "own"):
                        write(f"     {name}: {' '.join(verdict[name].split())[:300]}")
                for n, hint in enumerate(verdict["hints"]):
                    write(f"     {('hint', 'second hint')[n]}: {hint}")
        if self.report:
            Path(self.report).write_text(json.dumps([self.verdict(e) for e in self.exercises], indent=1))


def as_method(call: Callable) -> Callable:
    """A plain function, which a class can bind, around a callable."""
    return lambda *args, **kwargs: call(*args, **kwargs)


def options(parser: pytest.Parser) -> None:
    """The options of the command line."""
    group = parser.getgroup("coursework")
    group.addoption("--impl", default="reference", help="whose functions: reference, student, or a folder of files")
    group.addoption("--exercise", action="append", default=[], metavar="ID",
                    help="only the tests of this exercise, on the student's function even if unfinished; or all")
    group.addoption("--hints", type=int, default=1, choices=(0, 1, 2), help="how many hints a failure gives")
    group.addoption("--seed", type=int, default=None, help="other random numbers for tests that draw some")
    group.addoption("--report", default=None, metavar="FILE", help="write the exercises' results as JSON")
    group.addoption("--isolate", default=None, metavar="TREE", help="run the functions in separate processes")
    group.addoption("--seconds", type=float, default=20.0, help="time of an isolated exercise")
    group.addoption("--megabytes", type=int, default=1024, help="memory of an isolated exercise")
