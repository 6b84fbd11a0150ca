"""Everything here that writes files which are kept, as commands that fault injection runs many times.

Each command writes below one folder, and the same bytes each time. What it writes about is small: where measuring,
training or compiling would take long, a stand-in answers at once, so that what is left is the part that writes.
"""

import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import gguf_files
import numpy as np
import small_evals
from matplotlib import figure
from matplotlib.figure import Figure

import tiny
from kernels import nvrtc
from kernels.emulator import results as emulator_results
from kernels.gpu import __main__ as gpu
from kernels.predict import __main__ as predictions
from kernels.ptx import __main__ as ptx
from kernels.ptx import oracle as ptx_oracle
from notebooks import build as notebooks
from tests.fuzz.engine import ROOT, Tally
from tiny.__main__ import main as command
from tiny.evals import commands as evaluations
from tiny.evals import run_folder
from tiny.tools import bench, demo, markdown, plots
from tiny.tools import passkey as passkeys
from tiny.tools.bench import context as bench_context
from tiny.tools.bench import vision as bench_vision
from tiny.tools.cards import images as image_card
from tiny.tools.cards import text as text_card
from tiny.tools.verify import check, dump, report
from tiny.tools.verify.server import report as server_report
from tiny.tools.verify.server.connect import Server
from tiny.tools.verify.server.decide import Verdict
from tiny.tools.verify.server.numbers import Numbers
from tiny.tools.verify.server.probe import FORMS, Way
from tiny.tools.verify.server.reference import keep
from tiny.training import __main__ as training
from tiny.training import run_state
from tiny.training.images import evaluate as image_evaluation
from tiny.training.images import evaluate_more, going_on, vocabulary
from tiny.training.images import train as image_training
from tiny.training.text import build_corpus, data
from tiny.training.text import train as text_training
from tutorial import attempt, draw_figures, make_coursework, own_run
from tutorial.drawings import stages, steps
from tutorial.grader import __main__ as grader
from tutorial.pack import __main__ as pack
from tutorial.pages import demo_record, emulator_record, records

GOLDEN = ROOT / "tests/golden"


@dataclass(frozen=True)
class Writer:
    """A command that writes below a folder.

    keeps: it leaves files that are there as they are; folder: it writes one whole folder, `copy`, that is not there
    keeps_old: what a file held before is kept beside it, as NAME.1 and so on
    """

    run: Callable[[Path], object]
    keeps: bool = False
    folder: bool = False
    keeps_old: bool = False


@contextmanager
def instead(*changes: tuple[Any, dict[str, Any]]) -> Iterator[None]:
    """Names of modules that are something else for a while."""
    with ExitStack() as stack:
        for module, names in changes:
            for name, value in names.items():
                stack.enter_context(patch.object(module, name, value))
        yield


def answer(value: Any = None) -> Callable:
    """A function that returns the same, whatever it is given."""
    return lambda *_, **__: value


class Quick(Figure):
    """A figure that is stored without being drawn."""

    def __init__(self, **options: Any):
        super().__init__(figsize=options["figsize"])

    def savefig(self, file: Any, **options: Any) -> None:
        file.write(b"a picture" * 2000)


SMALL = Quick(figsize=(1, 1))


@cache
def scratch() -> Path:
    """A folder for what commands read."""
    return Path(tempfile.mkdtemp(prefix="writers-"))


def given(name: str, text: str) -> Path:
    """A file that a command reads."""
    path = scratch() / name
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return path


def words(*argv: object) -> list[str]:
    return [str(word) for word in argv]


def run(main: Callable, *argv: object) -> None:
    """Run a program that reads sys.argv."""
    with patch.object(sys, "argv", words("program", *argv)):
        main()


# ---- commands of tiny

def convert(to: str) -> Callable[[Path], object]:
    """A small checkpoint in one of the layouts."""
    options = ("--to", to, "--shard-size", 2e-4)
    return lambda out: command(words("convert", GOLDEN / "mixtral-b/hf", out / "copy", *options))


def convert_gguf(out: Path) -> object:
    """A GGUF file of the embedded model, with its tokenizer."""
    path = scratch() / "model.gguf"
    if not path.exists():
        gguf_files.write_model(path, "tiny-mixtral", "Q8_0")
    return command(words("convert", path, out / "copy", "--dtype", "bfloat16"))


def quantize(out: Path) -> object:
    return command(words("quantize", GOLDEN / "mixtral-b/hf", out / "copy"))


def patches(out: Path) -> int:
    picture = GOLDEN / "verify/left.png"
    return command(words("describe", picture, "--max-tokens", 1, "--patches", out / "a.png"))


def routing(out: Path) -> int:
    text = given("text.txt", "Once upon a time there was a frog.\n")
    with instead((plots, dict.fromkeys(("routing_heat_map", "repeated_choices", "tokens_by_expert"), answer(SMALL)))):
        return command(words("routing", text, "--out", out / "figures"))


def check_plot(out: Path) -> int:
    file = GOLDEN / "verify/tiny-mixtral.npz"
    with instead((check, {"error_by_layer": answer(SMALL)})):
        return command(words("verify", "check", file, file, "--plot", out / "a.png"))


def check_results(out: Path) -> int:
    found = {"format": report.FORMAT, "theirs": {"precision": "float32"}, "arrays": [], "verdict": "SAME", "tokens": 5}
    return command(words("verify", "results", given("report.json", json.dumps(found)), "--out", out / "RESULTS.md"))


def check_dump(out: Path) -> int:
    """What the other implementation has computed: a stored file's arrays."""
    with np.load(GOLDEN / "verify/tiny-mixtral.npz") as stored:
        arrays = {name: stored[name] for name in ("ids", "embed", "logits")}
        record = json.loads(str(stored["record"]))
    with instead((dump, {"run_reference": answer((record, arrays))})):
        return command(words("verify", "dump", "tiny-mixtral", out / "dump.npz"))


def check_server(out: Path) -> int:
    """What was found of a server, and what the reference said."""
    (out / "kept").mkdir(exist_ok=True)
    keep.Reference(lambda faults, texts: [("", [np.zeros((len(ids), 8), np.float32) for ids in texts])],
                   [[1, 2]] * 40, out / "kept", "key")
    verdict = Verdict("healthy", None, "near enough", 0.0, 0.1, None)
    found = Numbers(verdict, None, {}, {"bfloat16": 0.05}, [np.zeros(2000)], None)
    with instead((server_report, {"deviation_by_position": answer(SMALL)})):
        return server_report.tell(SimpleNamespace(json=str(out / "a.json"), plot=str(out / "a.png")),
                                  Server("http://127.0.0.1:9"), Way(FORMS[0], "", ""), [], found)


def demonstrate(out: Path) -> None:
    folder = out / "demo"
    with instead((demo, {"FOLDER": folder, "FIGURE": folder / "routing.png", "answer": answer("a red square"),
                         "expert_shares": answer(np.full((2, 8), 0.125, np.float32)),
                         "routing_heat_map": answer(SMALL), "patch_figure": answer(SMALL)})):
        demo.show_shares(tiny.load("tiny-mixtral"))
        demo.show_pictures(tiny.load("tiny-pixtral"), "tiny-pixtral")


def measure(out: Path) -> int:
    with instead((bench, {"RECORD": out / "bench.json", "synthetic": answer("x"), "rounds": answer({}),
                          "table_rows": answer([]), "show": answer()}), (bench.time, {"strftime": answer("today")})):
        return command(words("bench", "--save", "--threads", 1))


def measure_vision(out: Path) -> int:
    with instead((bench_vision, {"RECORD": out / "bench.json", "folders": answer({"mistral": "x"}),
                                 "rounds": answer({}), "table_rows": answer([]), "show": answer()}),
                 (bench.time, {"strftime": answer("today")})):
        return command(words("bench", "--vision", "--save", "--threads", 1))


def measure_context(out: Path) -> int:
    found = {"seconds": 1.0, "processor": 1.0, "over": 2, "cache": 1, "images": 0, "other_cores": 0.0}
    with instead((bench_context, {"RECORD": out / "context.json", "run_child": answer(found), "draw": answer(SMALL)}),
                 (bench.time, {"strftime": answer("today")})):
        return command(words("bench", "--context", "--save", "--figure", out / "a.png"))


def passkey(out: Path) -> int:
    with instead((passkeys, {"draw": answer(SMALL)})):
        return command(words("passkey", "--tokens", 100, "--depths", 0, "--trials", 1, "--figure", out / "a.png"))


# ---- training

@cache
def trained(name: str) -> SimpleNamespace:
    """What a run of training leaves: a trainer at its end."""
    weights = {name: np.full((3, 2), n, np.float32) for n, name in enumerate(("a", "b", "heads.c"))}
    recipe = image_training.Recipe() if name == "tiny-pixtral" else text_training.Recipe()
    return SimpleNamespace(model=SimpleNamespace(config=tiny.load(name).config), weights=weights, recipe=recipe, step=0,
                           total=0, sizes=(), parameters=np.zeros(18, np.float32), streams={})


def state(out: Path) -> None:
    run_state.save_state(out / "state.npz", step=np.array(7), parameters=np.arange(20_000.0))
    run_state.cut_log(out / "log.jsonl", 7)


def train_text(out: Path) -> int:
    with instead((training, {"train": answer(trained("tiny-mixtral")), "machine": answer("a machine"),
                             "evaluate": answer({"held_out": {}, "rows": []})}), (figure, {"Figure": Quick}),
                 (training.time, {"strftime": answer("today")})):
        return training.run(words("--out", out))


def train_images(*options: object) -> Callable[[Path], int]:
    def write(out: Path) -> int:
        with instead((image_training, {"train": answer(trained("tiny-pixtral"))}), (going_on, {"begin_from": answer()}),
                     (training, {"machine": answer("a machine")}), (image_evaluation, {"evaluate": answer({})}),
                     (evaluate_more, {"evaluate_more": answer({}), "table_lines": answer(())}),
                     (image_card, {"console_table": answer("")}), (figure, {"Figure": Quick}),
                     (training.time, {"strftime": answer("today")})):
            return training.run(words("tiny-pixtral", "--out", out, *options))
    return write


def tokenizers(out: Path) -> None:
    with instead((data, {"texts": answer({}), "train_tokenizer": answer(b"pieces")})):
        text_training.tokenizer_file(out, 500)
    with instead((vocabulary, {"vocabulary": answer([bytes([n]) for n in range(256)])})):
        vocabulary.write_tokenizer(out / "tekken.json", 8, 96)


def streams(out: Path) -> None:
    one = data.Stream(np.arange(9, dtype=np.int32), np.zeros(9, bool), np.arange(2))
    with instead((data, {"texts": answer({}), "open_tokenizer": answer(),
                         "build_streams": answer(dict.fromkeys(data.SHARES, one))})):
        data.load_streams(b"model", out)


def corpus(out: Path) -> None:
    with instead((build_corpus, {"CORPUS": out})):
        build_corpus.write("a", "Once upon a time.\r\n" * 50)


def card_of(module: Any, samples: list) -> Callable[[Path], object]:
    """The card of a run, whose text is made elsewhere."""
    def write(out: Path) -> None:
        given(f"{module.__name__}/log.jsonl", "")
        card = given(f"{module.__name__}/card.json", json.dumps({"samples": samples}))
        with instead((module, {"render": answer("The card.\n"), "cost": answer((1.0, 1))}),
                     (figure, {"Figure": Quick})):
            run(module.main, out, "--run", card.parent)
    return write


# ---- kernels

def emulator(out: Path) -> None:
    emulator_results.save(out / "a.npz", [np.arange(5000.0), 3, [np.ones(3, np.float32)]])


def compiled(out: Path) -> None:
    compiler = SimpleNamespace(version=(13, 0), include=(), check_arch=answer(), compile=answer((b"cubin" * 2000, "")))
    with instead((nvrtc, {"nvrtc": answer(compiler), "cache_folder": answer(out / "cubin")})):
        nvrtc.cubin(ROOT / "kernels/rope.cu", 90)


def measured_on_gpu(out: Path) -> None:
    found = {"ok": True, "seconds": 1.0, "rows": []}
    with instead((gpu, {"run_step": answer(found), "version_of_sources": answer("abc"), "rows_of_table": answer([])}),
                 (gpu.time, {"strftime": answer("today")})):
        gpu.run_all([gpu.Step(name, (), 9.0) for name in ("device", "kernels")], out / "gpu/results.json")


def read_by_ptx(out: Path) -> int:
    found = {"rows": [], "runs": {"nvcc": {"agree": 1, "cases": 1}}}
    with instead((ptx, {"run_all": answer(found)})):
        return ptx.main(words("--record", out / "ptx.json"))


def predicted(out: Path) -> int:
    kernel = SimpleNamespace(name="rope", published={"one token": {}, "a prompt": {}}, versions=("v1",))

    def row(operation: Any, shape: str, code: str) -> dict:
        return {"model": 1, "operation": operation.name, "shape": shape, "code": code, "low_us": 1.0, "high_us": 2.0,
                "bound": "memory"}

    with instead((predictions, {"operations": answer([kernel]), "row_of": row, "code_of": answer("a"),
                                "find_nvdisasm": answer("nvdisasm")})):
        return predictions.main(words("--record", out / "predictions.json"))


def changed_source(out: Path) -> None:
    launcher = SimpleNamespace(launch=answer())
    ptx_oracle.Kept(launcher, out, lambda text: text[:3000]).launch("rope.cu")


# ---- evaluations

def items(out: Path) -> None:
    small_evals.small_items(out / "copy", count=2)


def run_begun(out: Path) -> None:
    head = {"format": run_folder.FORMAT, "task": "chartqa", "items": "ab", "requests": 1, "limit": None,
            "images": "original", "prompts": {"explicit": "cd"}, "model": {"name": "m"}, "versions": {},
            "folder": "here", "date": "today"}
    run_folder.begin(out / "run", head, [{"id": "1", "item": "1", "references": ["a"]}])


def reported(out: Path) -> None:
    """The report of a run whose scores are known."""
    with instead((evaluations.run_folder, {"read_head": answer({})}),
                 (evaluations.scores, {"belongs": answer(False), "score_run": answer({})}),
                 (evaluations, {"read_run": answer(), "show": answer()}),
                 (evaluations.report, {"document": answer("text\n" * 2000)})):
        evaluations.report_command(SimpleNamespace(runs=[out], png=False))


def listed(out: Path) -> None:
    """The table of every answer of a run whose scores are known."""
    with instead((evaluations.scores, {"score_run": answer({})}),
                 (evaluations, {"read_run": answer(), "show": answer()}),
                 (evaluations.report, {"items_table": answer("id,text\n" * 2000)})):
        evaluations.score(SimpleNamespace(run=out, level="all", blind=None, items=True))


# ---- the tutorial

def grade(out: Path) -> int:
    given("students/ann/rope.py", "x = 1\n")
    given("students/bob/rope.py", "x = 2\n")
    verdicts = [{"id": exercise.id, "points": exercise.points, "of": exercise.points, "why": "", "idea": None,
                 "holds": [], "passed": 1, "total": 1, "said": "", "same_as_book": False}
                for exercise in make_coursework.load_exercises()]
    with instead((grader, {"run_tests": answer(verdicts)})):
        return grader.main(words(scratch() / "students", "--out", out / "grades", "--seed", 1))


def coursework(out: Path) -> int:
    """Three exercises; the cases of the detectives are written by the next one."""
    some = make_coursework.load_exercises()[:3]
    with instead((make_coursework, {"load_exercises": answer(some), "write_cases": answer()})):
        return make_coursework.main(words("--folder", out / "student", "--force"))


def cases(out: Path) -> None:
    make_coursework.write_cases(out, force=True)


def packed(out: Path) -> int:
    with instead((pack, {"student_files": answer({"a": b"text"}), "container_files": answer({"b": b"text"})})):
        return pack.main(words("--out", out / "pack"))


def tried(out: Path) -> None:
    exercise = next(one for one in make_coursework.load_exercises() if one.id in own_run.RUNS and not one.is_kernel)
    (out / "student").mkdir(exist_ok=True)
    with instead((attempt, {"run_of": answer("not written yet")}), (own_run, {"draw": answer(SMALL)})):
        attempt.picture(exercise, out / "student")


def pages(out: Path) -> None:
    """Every page is written by this one function."""
    markdown.refresh(out / "page.md", "# A page\n" * 2000, False, "the command")


def kept_records(out: Path) -> None:
    with instead((records, {"RECORDS": out / "records"}),
                 (demo_record, {"RECORD": out / "demo.txt", "demo_text": answer("text"),
                                "EVALS_RECORD": out / "evals_demo.txt", "evals_text": answer("text of the evals")}),
                 (emulator_record, {"RECORD": out / "emulator.json", "measure_kernels": answer({"rows": []})}),
                 (stages, {"RECORD": out / "stages.json", "count": answer({"rows": []})}),
                 (steps, {"RECORD": out / "step.json", "count": answer({"rows": []})})):
        records.keep("a.json", {"rows": [1]})
        run(demo_record.main)
        run(emulator_record.main)
        run(stages.main)
        run(steps.main)


def figures(out: Path) -> None:
    with instead((draw_figures, {"figures": answer({"a": Figure(figsize=(1, 1))}), "model_checksum": answer("x"),
                                 "ROOT": out, "FOLDER": out / "figures"})):
        run(draw_figures.main)


def notebook(out: Path) -> None:
    script = min(notebooks.scripts())
    with instead((notebooks, {"execute": lambda book: book, "check": answer([])}),
                 (Path, {"with_suffix": lambda path, suffix: out / f"{path.stem}{suffix}"})):
        notebooks.build(script)


def fuzz_record(out: Path) -> None:
    from tests.fuzz import __main__ as fuzz

    with instead((fuzz.time, {"strftime": answer("today")})):
        fuzz.keep(out / "fuzz.json", 0, {"value": Tally(5, 1.0, {"read": 5})})


WRITERS: dict[str, Writer] = {
    "convert to hf": Writer(convert("hf"), folder=True), "convert to mistral": Writer(convert("mistral"), folder=True),
    "convert a GGUF file": Writer(convert_gguf, folder=True),
    "quantize": Writer(quantize, folder=True),
    "describe --patches": Writer(patches), "routing": Writer(routing), "verify check --plot": Writer(check_plot),
    "verify server": Writer(check_server), "verify results": Writer(check_results), "verify dump": Writer(check_dump),
    "demo": Writer(demonstrate),
    "bench --save": Writer(measure), "bench --vision --save": Writer(measure_vision),
    "bench --context --save": Writer(measure_context), "passkey": Writer(passkey), "state": Writer(state),
    "training of tiny-mixtral": Writer(train_text), "training of tiny-pixtral": Writer(train_images()),
    "tiny-pixtral trained on": Writer(train_images("--from", "tiny-pixtral")),
    "tokenizers": Writer(tokenizers, True), "streams": Writer(streams, True), "corpus": Writer(corpus),
    "card of tiny-mixtral": Writer(card_of(text_card, [])), "card of tiny-pixtral": Writer(card_of(image_card, [])),
    "emulator --save": Writer(emulator), "cubin": Writer(compiled, True), "kernels.gpu": Writer(measured_on_gpu),
    "kernels.predict": Writer(predicted, True), "kernels.ptx": Writer(read_by_ptx),
    "kernels.ptx, changed": Writer(changed_source, True),
    "evals import": Writer(items, folder=True), "evals run": Writer(run_begun, True), "evals report": Writer(reported),
    "evals score": Writer(listed),
    "grader": Writer(grade), "make_coursework": Writer(coursework, keeps_old=True), "cases": Writer(cases),
    "attempt": Writer(tried), "pack": Writer(packed), "pages": Writer(pages),
    "records": Writer(kept_records), "draw_figures": Writer(figures), "notebooks": Writer(notebook),
    "record of the fuzzer": Writer(fuzz_record)}
