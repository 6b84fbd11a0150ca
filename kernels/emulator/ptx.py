"""Inline PTX: `asm` statements become C++ that does what the instructions mean.

    asm volatile("cp.async.wait_group %0;" :: "n"(N));

becomes a block that names the operands, then calls one function of ptx.h for each instruction. The table below says
which: a pattern for the instruction's name, and the call. In a call, $0, $1 ... are the instruction's operands, and
{0}, {1} ... the groups of the pattern. Registers and predicates that the assembly declares become local variables. An
instruction that is not in the table becomes an error of the compiler at that line, and only if that line is compiled.
"""

import re
from bisect import bisect_right
from itertools import count

TYPES = {"pred": "bool", "b8": "unsigned char", "u8": "unsigned char", "s8": "signed char", "b16": "unsigned short",
         "u16": "unsigned short", "s16": "short", "b32": "unsigned", "u32": "unsigned", "s32": "int", "f32": "float",
         "b64": "unsigned long long", "u64": "unsigned long long", "s64": "long long", "f64": "double"}
KIND = r"([busf](?:8|16|32|64))"
INSTRUCTIONS = [(re.compile(pattern + "$"), call) for pattern, call in [
    (r"cp\.async\.(?:ca|cg)\.shared(?:::cta)?\.global(?:\.L2::cache_hint)?(?:\.L2::\w+)?", "cp_async($*)"),
    (r"cp\.async\.commit_group", "emulator_copy_commit()"),
    (r"cp\.async\.wait_group", "emulator_copy_wait($0)"),
    (r"cp\.async\.wait_all", "emulator_copy_wait_all()"),
    (r"ldmatrix\.sync\.aligned\.m8n8\.x([124])(\.trans)?\.shared(?:::cta)?\.b16",
     "ldmatrix<{0}, {1?}>($0, $1, AT)"),
    (r"ldmatrix\.sync\.aligned\.x([124])(\.trans)?\.m8n8\.shared(?:::cta)?\.b16",
     "ldmatrix<{0}, {1?}>($0, $1, AT)"),
    (r"mma\.sync\.aligned\.m16n8k(8|16)\.row\.col\.(f32|f16)\.(bf16|f16|tf32)\.(bf16|f16|tf32)\.(f32|f16)",
     "mma<{0}, {1}, {2}>($0, $1, $2, $3, AT)"),
    (r"(?:bar|barrier)(?:\.cta)?\.sync(?:\.aligned)?", "barrier($*, AT)"),
    (r"(?:bar|barrier)(?:\.cta)?\.arrive(?:\.aligned)?",
     "emulator_named_barrier($0, $1, 0, AT.file, AT.line)"),
    (r"bar\.warp\.sync", "emulator_meet($0, \"bar.warp.sync\", nullptr, nullptr, AT.file, AT.line)"),
    (r"membar\.cta|fence\.(?:\w+\.)?cta", "emulator_fence(1)"), (r"(?:membar|fence)\..*", "emulator_fence(0)"),
    (r"(?:prefetch|prefetchu|discard|applypriority|createpolicy)\..*", "(void)0"),
    (r"griddepcontrol\..*|nanosleep\..*", "(void)0"),
    (r"mov\." + KIND, "move<{0}>($0, $1)"),
    (r"cvta\.to\.shared\.u(?:64|32)", "set<u64>($0, __cvta_generic_to_shared(pointer_of($1)))"),
    (r"cvta\.shared\.u(?:64|32)", "move<u64>($0, __cvta_shared_to_generic($1))"),
    (r"cvta(?:\.to)?\.global\.u64", "move<u64>($0, $1)"),
    (r"ld(?:\.volatile|\.relaxed|\.acquire|\.weak)?(?:\.cta|\.gpu|\.sys)?\.(global|shared)(?:::cta)?"
     r"(?:\.(?:nc|ca|cg|cs|lu|cv|L\w+(?:::\w+)*))*"
     r"(?:\.v([24]))?\." + KIND, "load<{0}, {2}>($0, $1)"),
    (r"st(?:\.volatile|\.relaxed|\.release|\.weak)?(?:\.cta|\.gpu|\.sys)?\.(global|shared)(?:::cta)?"
     r"(?:\.(?:wb|cg|cs|wt|L\w+(?:::\w+)*))*"
     r"(?:\.v([24]))?\." + KIND, "store<{0}, {2}>($0, $1)"),
    (r"(?:red|atom)(?:\.\w+)*?\.(global|shared)(?:\.\w+)*?\.add\." + KIND, "add_atomically<{0}, {1}>($*)"),
    (r"add(?:\.rn|\.ftz|\.sat)*\." + KIND, "set<{0}>($0, $1 + $2)"),
    (r"sub(?:\.rn|\.ftz|\.sat)*\." + KIND, "set<{0}>($0, $1 - $2)"),
    (r"mul(?:\.rn|\.ftz|\.lo)*\." + KIND, "set<{0}>($0, $1 * $2)"),
    (r"mad\.lo\." + KIND, "set<{0}>($0, $1 * $2 + $3)"),
    (r"add(?:\.rn)?(?:\.ftz)?\.(bf16|f16)x2", "pairwise<{0}>($0, $1, $2, [](auto a, auto b) { return a + b; })"),
    (r"sub(?:\.rn)?(?:\.ftz)?\.(bf16|f16)x2", "pairwise<{0}>($0, $1, $2, [](auto a, auto b) { return a - b; })"),
    (r"mul(?:\.rn)?(?:\.ftz)?\.(bf16|f16)x2", "pairwise<{0}>($0, $1, $2, [](auto a, auto b) { return a * b; })"),
    (r"max(?:\.ftz)?\.(bf16|f16)x2", "pairwise<{0}>($0, $1, $2, [](auto a, auto b) { return __hmax(a, b); })"),
    (r"min(?:\.ftz)?\.(bf16|f16)x2", "pairwise<{0}>($0, $1, $2, [](auto a, auto b) { return __hmin(a, b); })"),
    (r"fma\.rn(?:\.ftz)?(?:\.relu)?\.(bf16|f16)x2", "fma_pairwise<{0}>($0, $1, $2, $3)"),
    (r"fma\.rn\.f64", "set<f64>($0, fma($1, $2, $3))"), (r"neg\." + KIND, "set<{0}>($0, -get<{0}>($1))"),
    (r"abs\." + KIND, "set<{0}>($0, get<{0}>($1) < 0 ? -get<{0}>($1) : get<{0}>($1))"),
    (r"dp4a\.(u32|s32)\.(?:u32|s32)", "set<{0}>($0, __dp4a(get<{0}>($1), get<{0}>($2), get<{0}>($3)))"),
    (r"fma\.rn(?:\.ftz)?\.f32", "set<f32>($0, fmaf($1, $2, $3))"),
    (r"max(?:\.ftz)?\." + KIND, "set<{0}>($0, max($1, $2))"),
    (r"min(?:\.ftz)?\." + KIND, "set<{0}>($0, min($1, $2))"),
    (r"and\.(b\d+|pred)", "set<{0}>($0, $1 & $2)"), (r"or\.(b\d+|pred)", "set<{0}>($0, $1 | $2)"),
    (r"xor\.(b\d+|pred)", "set<{0}>($0, $1 ^ $2)"), (r"not\.(b\d+)", "set<{0}>($0, ~$1)"),
    (r"shl\." + KIND, "set<{0}>($0, $2 > 31 ? 0 : $1 << $2)"),
    (r"shr\." + KIND, "set<{0}>($0, $1 >> ($2 > 31 ? 31 : $2))"),
    (r"setp\.(eq|ne|lt|le|gt|ge)(?:\.u|u)?\." + KIND, "$0 = {0}<{1}>($1, $2)"),
    (r"selp\." + KIND, "set<{0}>($0, $3 ? $1 : $2)"),
    (r"popc\.b32", "set<u32>($0, __popc($1))"), (r"clz\.b32", "set<u32>($0, __clz($1))"),
    (r"brev\.b32", "set<u32>($0, __brev($1))"),
    (r"bfind\.u32", "set<u32>($0, 31 - __clz($1))"),
    (r"bfe\.u32", "set<u32>($0, $3 > 31 ? $1 >> $2 : $1 >> $2 & ((1u << $3) - 1))"),
    (r"prmt\.b32", "set<u32>($0, __byte_perm($1, $2, $3))"),
    (r"lop3\.b32", "set<u32>($0, lop3($1, $2, $3, $4))"),
    (r"shf\.l\.wrap\.b32", "set<u32>($0, __funnelshift_l($1, $2, $3))"),
    (r"shf\.r\.wrap\.b32", "set<u32>($0, __funnelshift_r($1, $2, $3))"),
    (r"ex2\.approx(?:\.ftz)?\.f32", "set<f32>($0, exp2f($1))"),
    (r"lg2\.approx(?:\.ftz)?\.f32", "set<f32>($0, log2f($1))"),
    (r"rcp\.(?:approx|rn)(?:\.ftz)?\.f32", "set<f32>($0, 1.0f / $1)"),
    (r"rsqrt\.approx(?:\.ftz)?\.f32", "set<f32>($0, 1.0f / sqrtf($1))"),
    (r"sqrt\.(?:approx|rn)(?:\.ftz)?\.f32", "set<f32>($0, sqrtf($1))"),
    (r"tanh\.approx\.f32", "set<f32>($0, tanhf($1))"),
    (r"sin\.approx(?:\.ftz)?\.f32", "set<f32>($0, sinf($1))"),
    (r"cos\.approx(?:\.ftz)?\.f32", "set<f32>($0, cosf($1))"),
    (r"div\.(?:approx|full|rn)(?:\.ftz)?\.f32", "set<f32>($0, $1 / $2)"),
    (r"cvt\.rn(?:\.satfinite|\.relu)*\.(bf16|f16)x2\.f32", "set<b32>($0, two_halves<{0}>($2, $1))"),
    (r"cvt\.rn\.(bf16|f16)\.f32", "set<b16>($0, one_half<{0}>($1))"),
    (r"cvt\.f32\.(bf16|f16)", "set<f32>($0, to_float<{0}>($1))"),
    (r"cvt\.rna\.tf32\.f32", "set<b32>($0, to_tf32($1))"),
    (r"cvt\." + KIND + r"\." + KIND, "set<{0}>($0, $1)"),
    (r"shfl\.sync\.(idx|up|down|bfly)\.b32", "shuffle<{0}>($0, $1, $2, $3, $4, AT)"),
    (r"vote\.sync\.ballot\.b32", "set<b32>($0, __ballot_sync($2, $1, AT))"),
    (r"trap", "__trap(AT)"), (r"exit", "__trap(AT)"),
]]
SPECIAL = {"laneid": "::emulator::lane()", "warpid": "(emulator_thread_number() / 32)", "smid": "0u",
           "clock": "unsigned(emulator_clock())", "clock64": "emulator_clock()", "globaltimer": "emulator_clock()",
           "clock_hi": "unsigned(emulator_clock() >> 32)", "globaltimer_lo": "unsigned(emulator_clock())",
           "nwarpid": "((blockDim.x * blockDim.y * blockDim.z + 31) / 32)",
           **{f"{name}.{axis}": f"{what}.{axis}" for axis in "xyz" for name, what in
              (("tid", "threadIdx"), ("ctaid", "blockIdx"), ("ntid", "blockDim"), ("nctaid", "gridDim"))},
           **{f"lanemask_{how}": f"lanemask_{how}()" for how in ("eq", "lt", "le", "ge", "gt")}, "nsmid": "1u"}
STATEMENT = re.compile(r"(?<!\] )\b(?:asm|__asm__|__asm)\b(?:\s|\\\n|\b(?:volatile|__volatile__)\b)*\(")
MARKER = re.compile(r'^# \d+ "([^"\n]*)"[^\n]*', re.M)  # "what follows is line N of that file"
STRING = re.compile(r'"((?:\\.|[^"\\])*)"')
OPERAND = re.compile(r'\s*(?:\[\s*(\w+)\s*\]\s*)?"([^"]*)"\s*\(')


def rewrite(text: str, code: str, own: set[str]) -> str:
    """Rewrite the asm statements in what the preprocessor made of a file, where it comes from the files `own`.

    code: the text with comments and literals blanked, character for character
    """
    pieces, done = [], 0
    markers = [(match.start(), match[1]) for match in MARKER.finditer(text)]
    for match in STATEMENT.finditer(code):
        index = bisect_right(markers, (match.start(),)) - 1
        if index < 0 or markers[index][1] not in own:
            continue
        depth, end = 1, match.end()
        while depth and end < len(code):
            depth += {"(": 1, ")": -1}.get(code[end], 0)
            end += 1
        whole = text[match.start(): end]
        places = [place for place in MARKER.finditer(whole)]
        behind = "\n" + whole[places[-1].start():places[-1].end()] if places else ""
        lines = re.findall("\n", whole[places[-1].end():] if places else whole)
        inside = MARKER.sub("", text[match.end(): end - 1]).replace("\n", " ")
        pieces += [text[done: match.start()], translate(inside), behind, *lines]
        done = end
    return "".join([*pieces, text[done:]])


def sections(inside: str) -> list[str]:
    """Split at the colons that are outside of strings and brackets."""
    parts, depth, quoted, begin = [], 0, False, 0
    for i, letter in enumerate(inside):
        if letter == '"' and inside[i - 1] != "\\":
            quoted = not quoted
        elif not quoted:
            depth += {"(": 1, "[": 1, ")": -1, "]": -1}.get(letter, 0)
            if letter == ":" and depth == 0:
                parts.append(inside[begin:i])
                begin = i + 1
    return [*parts, inside[begin:]]


def operands(section: str) -> list[tuple[str, str, str]]:
    """(name, constraint, expression) of each operand of a section."""
    found, at = [], 0
    while match := OPERAND.match(section, at):
        depth, end = 1, match.end()
        while depth and end < len(section):
            depth += {"(": 1, ")": -1}.get(section[end], 0)
            end += 1
        found.append((match[1] or "", match[2], section[match.end(): end - 1].strip()))
        comma = section.find(",", end)
        at = len(section) if comma < 0 else comma + 1
    return found


def translate(inside: str) -> str:
    """One asm statement, from its brackets' content to C++ in one line."""
    template, outputs, inputs = [*sections(inside), "", ""][:3]
    ptx = "".join(STRING.findall(template))
    ptx = re.sub(r"\\[ntr]", " \n ", ptx)
    ptx = re.sub(r"//[^\n]*|/\*.*?\*/", " ", ptx)
    names: dict[str, str] = {}
    lines = []
    listed = [*operands(outputs), *operands(inputs)]
    for number, (name, constraint, expression) in enumerate(listed):
        variable = f"ptx_{number}"
        if "=" in constraint or "+" in constraint:
            lines.append(f"auto& {variable} = ({expression});")
        else:
            lines.append(f"{'constexpr' if 'n' in constraint else 'const'} auto {variable} = ({expression});")
        names[str(number)] = variable
        if name:
            names[f"[{name}]"] = variable
    lines += instructions(ptx, names)
    return "do { using namespace ::emulator::ptx; constexpr ::emulator::Place AT = ::emulator::here(); (void)AT; " \
        + " ".join(lines) + " } while (0)"


def instructions(ptx: str, names: dict[str, str]) -> list[str]:
    """Each instruction as a statement of C++."""
    ptx = re.sub(r"%(\d+|\[\w+\])", lambda match: names.get(match[1], f"unknown_operand_{match[1]}"), ptx)
    ptx = re.sub(r"%%?([a-z_0-9]+(?:\.[xyz])?)", lambda match: SPECIAL.get(match[1], match[1]), ptx)
    lines, numbers = [], count()
    for statement in braces(ptx).split(";"):
        statement = " ".join(statement.split())
        if declared := re.match(r"\.reg \.(\w+) (.*)", statement):
            kind = TYPES.get(declared[1])
            lines.append(f"{kind} {declared[2]};" if kind else unknown(statement))
        elif statement:
            lines.append(instruction(statement, next(numbers)))
    return lines


def braces(ptx: str) -> str:
    """Leave out the braces of a scope, and keep those around a list of registers."""
    lists = re.sub(r"\{([^{};]*)\}", r"<\1>", ptx)
    return lists.replace("{", " ").replace("}", " ")


def instruction(statement: str, number: int) -> str:
    """`@p add.f32 d, a, b` as C++."""
    guard, name, rest = re.fullmatch(r"(?:@(!?)\s*(\w+)\s+)?.*", statement), *split_name(statement)
    for pattern, call in INSTRUCTIONS:
        if match := pattern.match(name):
            new = fill(call, match, arguments(rest)) + ";"
            return f"if ({guard[1]}{guard[2]}) {{ {new} }}" if guard and guard[2] else new
    return unknown(name)


def split_name(statement: str) -> tuple[str, str]:
    """The instruction without its guard, and its operands."""
    name, _, rest = re.sub(r"^@!?\s*\w+\s+", "", statement).partition(" ")
    return name, rest


def arguments(rest: str) -> list[str]:
    """The operands of an instruction as C++: lists become Registers, addresses sums."""
    found = re.findall(r"<[^<>]*>|\[[^\]]*\]|(?:[^,<\[(]|\([^()]*(?:\([^()]*\)[^()]*)*\))+", rest)
    cleaned = []
    for part in (part.strip() for part in found):
        if part.startswith("<"):
            cleaned.append(f"registers({part[1:-1]})")
        elif part.startswith("["):
            cleaned.append(f"address({part[1:-1].replace('+', ', ')})")
        elif part:
            cleaned.append(re.sub(r"\b0[fF]([0-9a-fA-F]{8})\b", r"__int_as_float(0x\1)", part))
    return cleaned


def fill(call: str, match: re.Match, parts: list[str]) -> str:
    """Put operands and groups into the call of the table."""
    call = re.sub(r"\{(\d)(\??)\}", lambda m: (("true" if match[int(m[1]) + 1] else "false") if m[2] else
                                               match[int(m[1]) + 1] or ""), call)
    call = call.replace("$*", ", ".join(parts))
    return re.sub(r"\$(\d)", lambda m: parts[int(m[1])] if int(m[1]) < len(parts) else "missing_operand", call)


def unknown(name: str) -> str:
    """A statement that the compiler refuses."""
    words = re.sub(r"[^\w .:,]", " ", name)
    return f'static_assert(false, "the emulator does not know the PTX instruction {words.strip()}");'
