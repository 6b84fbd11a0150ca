"""Find a function, a method or one of its numbered steps in a source file.

A reference is `tiny/rope.py:rope`, `tiny/kv_cache.py:KVCache.append`, or with steps `tiny/rope.py:rope#2` and
`tiny/attention.py:attend#3-5`. Chapters, notebooks and the carved exercises take the code from here, so that none of
them restates it. Files are read each time: an edited function is never shown stale.

>>> source_of("tiny/rope.py:rope#1").text.splitlines()[0]
'# (1) the two numbers of each pair'
"""

import ast
import inspect
import re
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TAG = re.compile(r"^( *)(?:#|//) (\(\d+\).*)")
NUMBER = re.compile(r"(?:^|, )\((\d+)\)")


@dataclass(frozen=True)
class Kernel:
    """Where a function of a .cu file begins and ends, as a syntax tree says it of Python's."""

    lineno: int
    end_lineno: int
    decorator_list: tuple = ()


@dataclass(frozen=True)
class Source:
    """Some lines of a file: `first` and `last` count from 1, `text` is without the common indentation."""

    path: str
    name: str
    first: int
    last: int
    text: str

    @property
    def place(self) -> str:
        """Its file and line: `tiny/rope.py:42`."""
        return f"{self.path}:{self.first}"


def source_of(reference: str | Callable, root: Path = ROOT) -> Source:
    """The lines that a reference names; a function of the book may be given itself. Decorators belong to it.

    Raises:  ValueError if there is no such file, name or step
    """
    path, name, steps = split(reference)
    if steps:
        first, last = step_lines(f"{path}:{name}", steps[0], steps[-1], root)
    else:
        node = definition(path, name, root)
        first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
        last = node.end_lineno or first
    lines = read(path, root)[first - 1 : last]
    return Source(path, name, first, last, textwrap.dedent("\n".join(lines)))


def step_lines(function: str | Callable, first: int, last: int | None = None, root: Path = ROOT) -> tuple[int, int]:
    """First and last line of a step, or of the steps first..last of a function, tag included, counted from 1.

    A step goes from its tag to the next tag, or to where the block that holds the tag ends. Steps that share a tag
    share their lines.

    Raises:  ValueError if the function has no such step
    """
    path, name, _ = split(function)
    found = steps_of(f"{path}:{name}", root)
    wanted = range(first, (last or first) + 1)
    missing = [n for n in wanted if n not in found]
    if missing or not wanted:
        raise ValueError(f"{path}:{name} has the steps {sorted(found)}; got {list(wanted)}. Give one of those.")
    begin, end = found[first][0], max(found[n][1] for n in wanted)
    if path.endswith((".cu", ".cuh")):  # A brace that is opened is closed.
        lines = read(path, root)
        while sum(line.count("{") - line.count("}") for line in lines[begin - 1 : end]) > 0:
            end += 1
    return begin, end


def steps_of(function: str | Callable, root: Path = ROOT) -> dict[int, tuple[int, int]]:
    """Every numbered step of a function with its first and last line."""
    path, name, _ = split(function)
    node, lines = definition(path, name, root), read(path, root)
    end = node.end_lineno or node.lineno
    tags = {n: match for n in range(node.lineno, end + 1) if (match := TAG.match(lines[n - 1]))}
    found: dict[int, tuple[int, int]] = {}
    for (tag, match), following in zip(tags.items(), [*list(tags)[1:], end + 1]):
        indent, last = len(match[1]), tag
        while last + 1 < following and (depth(lines[last], indent) >= indent or lines[last].startswith("#")):
            last += 1  # A line such as `#pragma unroll` stands at the left and ends nothing.
        while not lines[last - 1].strip():
            last -= 1
        found |= {int(number): (tag, last) for number in NUMBER.findall(match[2])}
    return found


def whole(line: str) -> bool:
    """Whether a line without indentation holds a whole function."""
    return line[:1] not in " #/" and line.endswith("}") and line.count("{") == line.count("}")


def kernel_at(path: str, name: str, root: Path = ROOT) -> Kernel:
    """The lines of a function of a .cu file: it begins and ends without indentation."""
    lines = read(path, root)
    for number, line in enumerate(lines):
        if not re.search(rf"\b{re.escape(name)}\(", line) or line.lstrip().startswith("//"):
            continue
        last = next((n for n in range(number, len(lines)) if lines[n].startswith("}") or whole(lines[n])), None)
        opens = next((n for n in range(number, len(lines)) if re.search("[{;]", lines[n])), None)
        first = next(n for n in range(number, -1, -1) if not lines[n].startswith(" "))
        if last is not None and opens is not None and "{" in lines[opens].partition(";")[0] and number - first < 3:
            return Kernel(first + 1, last + 1)
    raise ValueError(f"{path} defines no {name}. Give a function of that file.")


def definition(path: str, name: str, root: Path = ROOT) -> ast.FunctionDef | ast.ClassDef | Kernel:
    """The syntax tree of a function, a class, or a method `Class.method`; of a .cu file, where a function is."""
    if path.endswith((".cu", ".cuh")):
        return kernel_at(path, name, root)
    node: ast.Module | ast.FunctionDef | ast.ClassDef = ast.parse("\n".join(read(path, root)))
    for part in name.split("."):
        inside = [child for child in ast.iter_child_nodes(node)
                  if isinstance(child, ast.FunctionDef | ast.ClassDef) and child.name == part]
        if not inside:
            raise ValueError(f"{path} defines no {name}. Give a function, a class or Class.method of that file.")
        node = inside[-1]
    assert not isinstance(node, ast.Module)  # a name has one part or more
    return node


def split(reference: str | Callable) -> tuple[str, str, tuple[int, ...]]:
    """A reference in parts: the path of the file, the name, and its step or its first and last step, if any."""
    if not isinstance(reference, str):
        file = Path(inspect.getsourcefile(reference) or "").resolve()
        return file.relative_to(ROOT).as_posix(), reference.__qualname__, ()
    match = re.fullmatch(r"([\w./-]+\.(?:py|cuh?)):([\w.]+)(?:#(\d+)(?:-(\d+))?)?", reference)
    if not match:
        raise ValueError(f"A reference looks like tiny/rope.py:rope or tiny/rope.py:rope#2; got {reference!r}.")
    return match[1], match[2], tuple(int(number) for number in match.groups()[2:] if number)


def read(path: str, root: Path = ROOT) -> list[str]:
    """The lines of a file, by its path from the repository's root."""
    file = root / path
    if not file.is_file():
        raise ValueError(f"There is no file {path}. Give its path from the root of the repository.")
    return file.read_text(encoding="utf-8").splitlines()


def depth(line: str, blank: int) -> int:
    """How far a line is indented; an empty line counts as `blank`."""
    return len(line) - len(line.lstrip()) if line.strip() else blank
