"""What is an answer, and how it is kept out of a student's archive: no file there shows a line that fills a hole.

Lines are compared by their shape: names of variables and spaces do not count. So the same step under other names, in a
test's helper or in another implementation, is found as well. A function that holds such a line loses its whole body,
because what is left of it would say the rest; the whole one is kept, and runs (kept.py).
"""

import ast
import re
from collections.abc import Iterator
from pathlib import PurePosixPath

from tutorial.make_coursework import Exercise
from tutorial.pages.chapters import by_hand
from tutorial.source import ROOT, read, step_lines

# Files that are answers to several exercises at once: slow and plain ones, those of another implementation, and the
# conversion to bfloat16 in the emulator.
OUT_OF_SIGHT = ("tests/helpers/reference.py", "tiny/tools/verify/torch_cpu.py", "kernels/emulator/halves.h")
# Functions that say an answer in other words, or undo it; with their exercise.
IN_OTHER_WORDS = {"tutorial/own_run/part_b.py": {"glued": "7.2"},
                  "tutorial/drawings/chapter_06.py": {"top_p_picture": "6.4"},
                  "tiny/files/weights.py": {"pairs_to_halves": "4.3"},
                  "tests/book/test_rope.py": {"test_bfloat16_rounds_products_and_the_sum": "4.2"}}
SAYS_NOTHING = {"G, R = keys.shape[1], H // keys.shape[1]"}  # sizes that everything around attention needs
TOKEN = re.compile(r"0x[\da-fA-F]+|[A-Za-z_]\w*|\d+\.?\d*(?:e[+-]?\d+)?|[^\s\w]")
LIBRARIES = {"np", "numpy", "torch", "self"}  # whose name in front of a function says nothing
WORDS = {"for", "in", "if", "else", "return", "and", "or", "not", "is", "lambda", "None", "True", "False"}
LEAST = 10  # tokens of a line that says enough to be an answer


def hole_of(exercise: Exercise) -> tuple[int, int]:
    """First and last line of what is to be written, in the whole file."""
    return step_lines(f"{exercise.path}:{exercise.name}", exercise.steps[0], exercise.steps[-1])


def code_of(line: str, path: str) -> str:
    """A line without its comment."""
    mark = "#" if PurePosixPath(path).suffix in (".py", ".md", ".toml") else "//"
    return re.split(rf"(?:^|\s+){mark} ", line)[0].strip()


def answer_lines(exercise: Exercise) -> list[str]:
    """The lines of code that fill a hole, without comments and those that say little."""
    first, last = hole_of(exercise)
    lines = [code_of(line, exercise.path) for line in read(exercise.path, ROOT)[first - 1 : last]]
    return [line for line in lines if len(line) >= 20 and line not in SAYS_NOTHING
            and not re.fullmatch(r"return [\w, ]+|.*:|.*[{(]", line)]


def shape(code: str) -> str:
    """Code as tokens, with `v` for each variable: ` v = cumsum ( v [ v ] ) `. Functions and numbers stay."""
    tokens, found = TOKEN.findall(code), []
    for n, token in enumerate(tokens):
        before, after = tokens[n - 1] if n else "", tokens[n + 1] if n + 1 < len(tokens) else ""
        if token in LIBRARIES and after == "." or token == "." and before in LIBRARIES:
            continue
        plain = token[0].isalpha() or token[0] == "_"
        kept = not plain or token in WORDS or after == "(" or before == "."
        found.append(token if kept else "v")
    return f" {' '.join(found)} "


def shape_of_text(text: str, path: str) -> str:
    """All code of a file as one shape, so that a step over two lines is found too."""
    return shape("\n".join(code_of(line, path) for line in text.splitlines()))


def value_of(line: str) -> str:
    """What a line computes: the right side of an assignment, or what it returns."""
    return re.split(r"^return\s|(?<![=<>!(,])\s[-+*/]?=\s", line, maxsplit=1)[-1]


class Answers:
    """The answers of all exercises, as lines and as shapes; each with its exercise."""

    def __init__(self, exercises: list[Exercise], holes: dict[str, str], files: dict[str, bytes]):
        """What a hint or a chapter's text gives away, or the book elsewhere, or the rest of a function, is none."""
        hints = [hint for e in exercises for hint in (*e.hints, *(h for idea in e.ideas for h in idea.hints))]
        book = {path: holes.get(path, data.decode()) for path, data in files.items()
                if re.fullmatch(r"tiny/\w+\.py|(?:kernels|tutorial/drawings)/\w+\.cuh?", path)}
        common = {code_of(line, path) for path, text in book.items() for line in text.splitlines()}
        chapters = {e.chapter for e in exercises}
        hints += [by_hand((ROOT / "tutorial" / name).read_text(encoding="utf-8")) for name in sorted(chapters)]
        said = "\n".join(hints)
        rest = [(text, e.path) for e in exercises for text in rest_of(e, holes[e.path])]
        known = "".join([*map(shape, hints), *(shape_of_text(text, path) for path, text in book.items()),
                         *(shape_of_text(text, path) for text, path in rest)])
        lines = [(line, exercise) for exercise in exercises for line in answer_lines(exercise)]
        self.lines = {line: e.id for line, e in lines if line not in common and line not in said}
        shapes = [(shape(value_of(line)), exercise) for line, exercise in lines]
        self.shapes = {form: e.id for form, e in shapes if len(form.split()) >= LEAST and form not in known}

    def found_in(self, text: str, path: str) -> Iterator[tuple[str, str]]:
        """What a text shows of it: the line or shape, and its exercise."""
        whole = shape_of_text(text, path)
        yield from ((line, id) for line, id in self.lines.items() if line in text)
        yield from ((form, id) for form, id in self.shapes.items() if form in whole)

    def paragraph(self, text: str, path: str) -> str:
        """Lines of C++ between two blank ones; if they hold an answer, as many comments."""
        shown = next(self.found_in(text, path), None)
        words = f"// An answer to exercise {shown[1]} belongs here." if shown else ""
        return "\n".join([words] * (text.count("\n") + 1)) if shown else text

    def hidden(self, text: str, path: str) -> str:
        """A Python file in which each function that holds an answer has lost its body; of another file, paragraphs."""
        if not path.endswith(".py"):
            return "\n\n".join(self.paragraph(part, path) for part in text.split("\n\n"))
        lines = text.splitlines(keepends=True)
        told = IN_OTHER_WORDS.get(path, {})
        for node in reversed(list(functions(ast.parse(text)))):
            part = "".join(lines[node.lineno - 1 : node.end_lineno])
            shown = next(self.found_in(part, path), None)
            if shown or node.name in told:
                first = node.body[1 if ast.get_docstring(node) and node.body[1:] else 0]
                id = shown[1] if shown else told[node.name]
                words = f'raise NotImplementedError("An answer to exercise {id} belongs here; what runs is whole.")\n'
                lines[first.lineno - 1 : node.end_lineno] = [" " * first.col_offset + words]
        return "".join(lines)


def rest_of(exercise: Exercise, text: str) -> Iterator[str]:
    """The Python function of an exercise with its hole."""
    if not exercise.is_kernel:
        lines = text.splitlines()
        for node in functions(ast.parse(text)):
            if node.name == exercise.name.rpartition(".")[2]:
                yield "\n".join(lines[node.lineno - 1 : node.end_lineno])


def functions(tree: ast.Module) -> Iterator[ast.FunctionDef]:
    """The functions and methods of a file, from top to bottom; not those inside another."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            yield node
        elif isinstance(node, ast.ClassDef):
            yield from (child for child in node.body if isinstance(child, ast.FunctionDef))


def without_mutants(text: str, path: str = "") -> str:
    """A test file without what needs wrong functions: the import, and each statement that uses its names, in turn.

    A test that says an answer in other words goes, too.
    """
    tree, gone, told = ast.parse(text), set(), IN_OTHER_WORDS.get(path, {})
    lines = text.splitlines(keepends=True)
    for node in tree.body:
        imported = isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tests.")
        used = {leaf.id for leaf in ast.walk(node) if isinstance(leaf, ast.Name)} & gone or getattr(
            node, "name", None) in told
        if imported:
            gone |= {alias.asname or alias.name for alias in node.names}
        elif used and isinstance(node, ast.FunctionDef):
            gone.add(node.name)
        elif used:
            named = [leaf for leaf in ast.walk(node) if isinstance(leaf, ast.Name)]
            gone |= {leaf.id for leaf in named if isinstance(leaf.ctx, ast.Store)}
        if imported or used:
            first = min([node.lineno, *(decorator.lineno for decorator in getattr(node, "decorator_list", ()))])
            lines[first - 1 : node.end_lineno] = [""] * (node.end_lineno - first + 1)
    return "".join(lines)
