"""How alike two submissions are: runs of tokens that both have, names left out, and what the hole gave left out.

A copy with other names, comments and spaces has a likeness of 1. It is a reason to look at both, and proves nothing.
"""

import ast
import io
import itertools
import re
import tokenize

from tutorial.grader.submissions import Submission
from tutorial.make_coursework import Exercise, carve

RUN = 6  # tokens
# Of right answers that were written independently (tests/coursework/answers.toml), no two have more than 0.4.
LEAST = 0.6
SHORTEST = 12  # runs: a function with fewer of its own says nothing
SILENT = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENCODING,
          tokenize.ENDMARKER}


def pairs_alike(submissions: dict[str, Submission], exercises: list[Exercise], least: float = LEAST) -> list[dict]:
    """Pairs of students whose functions are at least so alike, by exercise; none where one way to write it is left."""
    found = []
    for exercise in exercises:
        if exercise.one_way:
            continue
        hole = carve([exercise])[exercise.file]
        own = {student: runs(exercise, submission.files.get(exercise.file, b""), hole)
               for student, submission in submissions.items()}
        written = {student: its for student, its in own.items() if len(its) >= SHORTEST}
        for (a, mine), (b, theirs) in itertools.combinations(written.items(), 2):
            both = len(mine & theirs) / len(mine | theirs)
            if both >= least:
                found.append({"exercise": exercise.id, "students": [a, b], "likeness": round(both, 2)})
    return sorted(found, key=lambda pair: -pair["likeness"])


def runs(exercise: Exercise, data: bytes, hole: str) -> set[tuple[str, ...]]:
    """The runs of tokens of a student's function and of helpers that they wrote, without those of the hole."""
    try:
        text = data.decode("utf-8-sig")
        if exercise.is_kernel:
            return in_runs(kernel_tokens(text)) - in_runs(kernel_tokens(hole))
        tree, given = ast.parse(text), {getattr(node, "name", "") for node in ast.parse(hole).body}
        parts = [node for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)
                 and (node.name == exercise.name.partition(".")[0] or node.name not in given)]
        tokens = [token for node in parts for token in python_tokens(ast.get_source_segment(text, node) or "")]
        return in_runs(tokens) - in_runs(python_tokens(hole))
    except (ValueError, SyntaxError, RecursionError, MemoryError, tokenize.TokenError):
        return set()


def in_runs(tokens: list[str]) -> set[tuple[str, ...]]:
    """Every run of so many tokens."""
    return {tuple(tokens[n : n + RUN]) for n in range(len(tokens) - RUN + 1)}


def python_tokens(text: str) -> list[str]:
    """The tokens of a function; names that it sets itself are all one name, and strings are left out."""
    names = {leaf.id for leaf in ast.walk(ast.parse(text)) if isinstance(leaf, ast.Name)
             and isinstance(leaf.ctx, ast.Store)}
    return ["name" if token.string in names else token.string
            for token in tokenize.generate_tokens(io.StringIO(text).readline)
            if token.type not in SILENT and token.type != tokenize.STRING]


def kernel_tokens(text: str) -> list[str]:
    """The tokens of a .cu file; names that are declared in it are all one name."""
    code = re.sub(r"//.*|/\*.*?\*/", "", text, flags=re.S) if "/*" in text else re.sub(r"//.*", "", text)
    names = set(re.findall(r"\b(?:float|int|unsigned|bool|double|auto)\b[\s*&]*(\w+)\s*[=;,\[)]", code))
    return ["name" if token in names else token for token in re.findall(r"\w+|[^\w\s]", code)]
