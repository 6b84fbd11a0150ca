"""From a .cu file to what g++ accepts: the few places where CUDA is not C++.

Lines keep their numbers, so that messages, reports and debuggers show the kernel as its author wrote it. Four things
change: `extern __shared__` arrays become pointers to the block's dynamic shared memory, headers of CUDA are left out,
because device.h comes before everything, a line after every kernel lists it, and what calls CUDA from the host (main,
launches, cudaMalloc) is left out. `asm` statements come later (ptx.py), when macros have been replaced.
"""

import re
from bisect import bisect_right
from dataclasses import dataclass, field
from functools import lru_cache

# Headers of CUDA whose content is in device.h; and assert.h, because `assert` is a report here.
HEADERS = re.compile(r"(cuda|mma|math_constants|cooperative_groups|vector_types|device_|driver_types|host_defines|"
                     r"sm_\d+_|crt/|cassert|assert\.h|nv/target)")
HOST_HEADERS = re.compile(r"(cu(blas|rand|fft|dnn|sparse|solver)|nccl|nvToolsExt|nvtx|thrust/|torch/|ATen/|c10/|"
                          r"helper_)")
# What only the host calls or has, and what marks the code of a device.
HOST = re.compile(r"<<<|\b(?:cuda[A-Z]\w*|cu(?:blas|rand|fft|dnn|sparse|solver)\w*|nccl\w+|main\s*\(|"
                  r"(?:torch|at|c10|thrust)\s*::|PYBIND11_MODULE|TORCH_\w+)")
DEVICE = re.compile(r"\b__(?:global|device|constant|shared|managed)__\b")
DIRECTIVE = re.compile(r"^[ \t]*#(?:\\\n|[^\n])*", re.M)
OPEN_SCOPE = re.compile(r"(?:\bnamespace\b[\s\w:]*|\bextern\s+\"\s*\"\s*)$")
DEFINED = re.compile(r"\b(?:struct|class|enum|union|using|define)\s+(?:class\s+)?(\w+)|(\w+)\s*(?:;$|[({=])")
COMMENTS = re.compile(r"//(?:\\\n|[^\n])*|/\*.*?\*/|R\"\(.*?\)\"|\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])+'", re.S)
INCLUDE = re.compile(r'^([ \t]*#[ \t]*include[ \t]*)([<"])([^>"\n]+)[>"]', re.M)
DYNAMIC = re.compile(r"\bextern\b((?:[^;{}()]|\([^()]*\))*?)\b__shared__\b"
                     r"((?:[^;{}()\[\]]|\((?:[^()]|\([^()]*\))*\))*?)"
                     r"\b(\w+)\s*\[\s*\]((?:\s*\[[^\]]*\])*)\s*;")
CLOSED_BY = {"(": ")", "{": "}", "[": "]"}
KERNEL = re.compile(r"\b__global__\b")


@dataclass
class Source:
    """One file after rewriting, with what was found in it."""

    text: str
    includes: list[str]
    kernels: dict[str, str] = field(default_factory=dict)  # name: its parameters as written
    templates: list[str] = field(default_factory=list)


def hidden(text: str) -> str:
    """The same text, as long and with the same lines, but with comments and literals blanked."""
    def blank(match: re.Match) -> str:
        keep = match[0][0] if match[0][0] in "\"'" else " "
        return keep + re.sub(r"[^\n]", " ", match[0][1:-1]) + (keep if len(match[0]) > 1 else "")
    return COMMENTS.sub(blank, text)


def closing(code: str, start: int) -> int:
    """The index of the bracket that closes the one at `start`, or -1. `code` has no comments or literals."""
    return pairs(code).get(start, -1)


@lru_cache(maxsize=8)
def pairs(code: str) -> dict[int, int]:
    """Where each bracket is closed, each kind counted by itself. Once for a text: many brackets are asked for."""
    found: dict[int, int] = {}
    still_open: dict[str, list[int]] = {")": [], "}": [], "]": []}
    for match in re.finditer(r"[(){}\[\]]", code):
        if match[0] in CLOSED_BY:
            still_open[CLOSED_BY[match[0]]].append(match.start())
        elif still_open[match[0]]:
            found[still_open[match[0]].pop()] = match.start()
    return found


def dynamic_shared(match: re.Match, code: str) -> str:
    """In a function, `extern __shared__ float s[][4];` becomes a pointer; outside, another name of the same memory."""
    before, after, name, sizes = match.groups()
    kind, lines = f"{before} {after}".replace("\n", " ").strip(), "\n" * match[0].count("\n")
    if in_function(code, match.start()):
        return f"[[maybe_unused]] {kind} (*{name}){sizes} = ::emulator::Dynamic();{lines}"
    return f'extern __thread {kind} {name}[]{sizes} __asm__("emulator_dynamic");{lines}'


def in_function(code: str, index: int) -> bool:
    """Whether a place is inside of braces other than those of namespaces and linkage."""
    places, depths = braces(code)
    return depths[bisect_right(places, index)] > 0


@lru_cache(maxsize=8)
def braces(code: str) -> tuple[list[int], list[int]]:
    """Where each brace of a text ends, and how many are open before the first of them and after each."""
    places, depths = [], [0]
    for match in re.finditer(r"(\bnamespace\b[\s\w:]*|\bextern\s+\"\s*\"\s*)?\{|\}", code):
        places.append(match.end())
        depths.append(max(0, depths[-1] - 1) if match[0] == "}" else depths[-1] + (not match[1]))
    return places, depths


def find_kernels(code: str):
    """Yield (name, parameters as written, whether it is a template, index after its body) of the kernels of a file."""
    for match in KERNEL.finditer(code):
        head = re.compile(r"(?:\s|\b(?:static|inline|void|__launch_bounds__\s*\([^()]*(?:\([^()]*\)[^()]*)*\)|"
                          r"__cluster_dims__\s*\([^()]*\)|__restrict__)(?!\w))*(\w+)\s*\(").match(code, match.end())
        if not head:
            continue
        end = closing(code, head.end() - 1)
        body = re.compile(r"\s*\{").match(code, end + 1) if end > 0 else None
        if body and (behind := closing(code, body.end() - 1)) > 0:
            begin = max(code.rfind(mark, 0, match.start()) for mark in ";}") + 1
            template = re.compile(r"\btemplate\s*<").search(code, begin, match.start())
            yield head[1], code[head.end(): end], template is not None, behind + 1


def items(code: str):
    """Yield (begin, end) of what is defined or declared outside of functions and classes, one after the other."""
    code = DIRECTIVE.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), code)
    begin, at = 0, 0
    while match := re.compile(r"[;{}]").search(code, at):
        at = match.end()
        if match[0] == "{" and OPEN_SCOPE.search(code, begin, match.start()):
            begin = at
            continue
        if match[0] == "{":
            at = closing(code, match.start()) + 1
            if not at:
                return
        if match[0] != "}":
            yield begin + len(code[begin:at]) - len(code[begin:at].lstrip()), at
        begin = at


def host_items(code: str) -> list[tuple[int, int]]:
    """Where the host's code is: what calls CUDA's library, and what needs that in turn."""
    rest = [(begin, end) for begin, end in items(code) if not DEVICE.search(code, begin, end)]
    found, wanted = [], HOST
    while fresh := [place for place in rest if wanted.search(code, *place)]:
        found += fresh
        rest = [place for place in rest if place not in fresh]
        names = {(match[1] or match[2]) for place in fresh if (match := DEFINED.search(code, *place))}
        wanted = re.compile(rf"\b(?:{'|'.join(sorted(names)) or '(?!)'})\b")
    return found


def rewrite(text: str, resolve, number) -> Source:
    """Rewrite one file. resolve(name, quoted) gives what to include in its place, or None; number() gives fresh ids."""
    source = Source("", [])
    text = text.replace("\r\n", "\n")
    code = hidden(text)
    for begin, end in host_items(code):
        text, code = (part[:begin] + re.sub(r"[^\n]", " ", part[begin:end]) + part[end:] for part in (text, code))
    inserts = []
    for name, parameters, template, behind in find_kernels(code):
        if in_macro(text, behind - 1):
            continue
        if template:
            source.templates.append(name)
        else:
            source.kernels[name] = parameters
            inserts.append((behind, f' EMULATOR_KERNEL({number()}, "{name}", {name})'))
    edits = [(at, at, new) for at, new in inserts]
    edits += [(match.start(), match.end(), dynamic_shared(match, code)) for match in DYNAMIC.finditer(code)]
    for begin, end, new in sorted(edits, reverse=True):
        text = text[:begin] + new + text[end:]
    text = re.sub(r"\bstatic\s+__shared__", "__shared__", text)
    text = re.sub(r"(__shared__\s+)alignas\s*(\([^()]*\))", r"\1__attribute__((aligned\2))", text)
    source.text = INCLUDE.sub(lambda match: include(match, resolve, source), text)
    return source


def in_macro(text: str, index: int) -> bool:
    """Whether the line is part of a #define."""
    lines = text[:index].split("\n")
    last = len(lines) - 1
    while last and lines[last - 1].endswith("\\"):
        last -= 1
    return re.match(r"\s*#\s*define", lines[last]) is not None


def include(match: re.Match, resolve, source: Source) -> str:
    """An #include line: one of CUDA is left out, one of the user's is rewritten too, any other stays."""
    found = resolve(match[3])
    if found and match[2] == '"' or found and not HEADERS.match(match[3]):
        source.includes.append(found)
        return f'{match[1]}"{found}"'
    if standard := re.match(r"cuda/std/(\w+)$", match[3]):
        return f"{match[1]}<{standard[1]}>"
    return "" if HEADERS.match(match[3]) or HOST_HEADERS.match(match[3]) else match[0]
