"""The interpreter of PTX: single instructions against Python's whole numbers and fractions, kernels against NumPy."""

import json
import re
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
from compare import assert_close
from ptx_case import COMPILERS, needs_ptx

from kernels.cases import STORAGES, TOLERANCES, agree, operations
from kernels.ptx import __main__ as command
from kernels.ptx import numbers
from kernels.ptx.block import launch
from kernels.ptx.instructions import KINDS, lookup
from kernels.ptx.interpreter import Interpreter, to_ptx
from kernels.ptx.parse import read_kernel
from tiny.config import TinyError

RNG = np.random.default_rng(3)


def module(code: str, parameters: int = 2, shared: str = "") -> str:
    """A module with one kernel, `k`, that has some registers and pointers to 32-bit numbers: in, ..., out."""
    names = ",\n".join(f".param .u64 k_param_{n}" for n in range(parameters))
    starts = "\n".join(f"ld.param.u64 %rd{n}, [k_param_{n}];" for n in range(parameters))
    return f""".version 8.0
.target sm_80
{shared}
.visible .entry k(
{names}
)
{{
.reg .pred %p<4>;
.reg .b32 %r<16>;
.reg .f32 %f<8>;
.reg .b16 %h<2>;
.reg .b64 %rd<16>;
.reg .f64 %fd<4>;
{starts}
mov.u32 %r0, %tid.x;
mul.wide.u32 %rd8, %r0, 4;
{code}
ret;
}}
"""


EACH = "add.s64 %rd9, %rd0, %rd8; ld.global.b32 %r1, [%rd9]; {} add.s64 %rd10, %rd1, %rd8; st.global.b32 [%rd10], %r2;"


def run(text: str, *arrays: np.ndarray, threads: int = 32, grid: int = 1, shared: int = 0, order: str = "together"):
    names = [f"argument {n}" for n in range(len(arrays))]
    kernel = read_kernel(text, "k", lookup)
    return launch(kernel, (grid, 1, 1), (threads, 1, 1), list(arrays), names, shared, order)


def apply(code: str, x: np.ndarray, threads: int = 32, **options) -> np.ndarray:
    """What a line makes of %r1, in %r2, for each number of x."""
    out = np.full(threads, 0x7FC00000, np.uint32)
    run(module(EACH.format(code)), x.view(np.uint32), out, threads=threads, **options)
    return out


def fails(text: str, *arrays: np.ndarray, **options) -> str:
    with pytest.raises(TinyError) as caught:
        run(text, *arrays, **options)
    assert caught.value.remedy
    return caught.value.cause


# ---- numbers

def nearest(value: Fraction, down: bool = False) -> np.float32:
    """The float32 nearest to a fraction, ties to even, or the next below; found by trying its neighbours."""
    guess = np.float32(float(value))
    near = [np.nextafter(guess, np.float32(-np.inf)), guess, np.nextafter(guess, np.float32(np.inf))]
    if down:
        return max(x for x in near if Fraction(float(x)) <= value)
    return min(near, key=lambda x: (abs(Fraction(float(x)) - value), int(x.view(np.uint32)) & 1))


@pytest.mark.parametrize("down", [False, True])
def test_fma_rounds_once(down):
    """Also near ties, where a sum that was rounded to float64 first would be rounded the wrong way."""
    a, b, c = (RNG.standard_normal(400).astype(np.float32) for _ in "abc")
    c[:200] = (-a[:200] * b[:200] * (1 + RNG.standard_normal(200) * 2.0**-20)).astype(np.float32)
    a[-4:-2], b[-4:-2], c[-4:-2] = [1, -1], 1, [-(2.0**-80), 2.0**-80]
    a[-2:], b[-2:], c[-2:] = 1 + 2.0**-12, 1 + 2.0**-12, [2.0**-80, -(2.0**-80)]
    expected = [nearest(Fraction(float(x)) * Fraction(float(y)) + Fraction(float(z)), down) for x, y, z in zip(a, b, c)]
    assert_close(numbers.fma(a, b, c, down), np.array(expected), atol=0, name="fma")
    twice = (a.astype(np.float64) * b + c).astype(np.float32)
    assert down or (twice != np.array(expected)).any(), "the numbers hold a case where rounding twice shows"


def test_fma_of_doubles_rounds_once():
    """Where the sum cancels, where c is far below the product, and beyond what products of halves can do."""
    a, b, c = (RNG.standard_normal(800) * 2.0 ** RNG.integers(-40, 40, 800) for _ in "abc")
    c[:200] = -a[:200] * b[:200] * (1 + RNG.standard_normal(200) * 2.0 ** RNG.integers(-60, -40, 200))
    c[200:400] = a[200:400] * b[200:400] * 2.0 ** RNG.integers(-110, -50, 200)
    a[400:500] *= 2.0**-500
    b[400:500] *= 2.0**-500
    a[500:600], b[500:600], c[500:600] = a[500:600] * 2.0**460, b[500:600] * 2.0**460, c[500:600] * 2.0**900
    a[600], c[601], a[602:604], b[602:604] = 0, 0, 2.0**600, [2.0**500, -(2.0**500)]
    exact = [Fraction(x) * Fraction(y) + Fraction(z) for x, y, z in zip(a.tolist(), b.tolist(), c.tolist())]
    expected = [float(x) if abs(x) < 2**1024 else np.copysign(np.inf, float(np.sign(x))) for x in exact]
    with np.errstate(all="ignore"):
        found, twice = numbers.fma64(a, b, c), a * b + c
        special = numbers.fma64(np.array([np.inf, 0, np.nan, -0.0]), np.array([1, np.inf, 1, 1]),
                                np.array([1, 1, 1, -0.0]))
    assert_close(found, np.array(expected), atol=0, name="fma of doubles")
    assert (twice != found).any(), "the numbers hold cases where rounding twice shows"
    assert np.isposinf(special[0]) and np.isnan(special[1:3]).all() and np.signbit(special[3])


INTEGERS = np.concatenate([RNG.integers(-2**31, 2**31, 24), [0, 1, -1, 7, -7, 2**31 - 1, -2**31, 255]]).astype(np.int32)
DIVISORS = [3, -3, 7, -1000]


@pytest.mark.parametrize("by", DIVISORS)
def test_division_rounds_toward_zero(by):
    with np.errstate(over="ignore"):
        quotients = [int(abs(int(x)) // abs(by)) * (1 if (x < 0) == (by < 0) else -1) for x in INTEGERS]
    found = apply(f"div.s32 %r2, %r1, {by};", INTEGERS).view(np.int32)
    assert found.tolist() == quotients
    left = apply(f"rem.s32 %r2, %r1, {by};", INTEGERS).view(np.int32)
    assert left.tolist() == [int(x) - q * by for x, q in zip(INTEGERS, quotients)]


def unsigned(x: int) -> int:
    return x & 0xFFFFFFFF


WHOLE = {
    "shl.b32 %r2, %r1, 5;": lambda x: unsigned(x << 5), "shl.b32 %r2, %r1, 32;": lambda x: 0,
    "shr.u32 %r2, %r1, 33;": lambda x: 0, "shr.s32 %r2, %r1, 40;": lambda x: unsigned(x >> 31),
    "shr.s32 %r2, %r1, 3;": lambda x: unsigned(x >> 3), "shr.u32 %r2, %r1, 3;": lambda x: unsigned(x) >> 3,
    "mul.hi.s32 %r2, %r1, -77;": lambda x: unsigned(x * -77 >> 32),
    "cvt.u16.u32 %h1, %r1; mul.hi.u16 %h1, %h1, 777; cvt.u32.u16 %r2, %h1;": lambda x: (x & 0xFFFF) * 777 >> 16,
    "mul.hi.u32 %r2, %r1, 0xFFFFFFF0;": lambda x: unsigned(x) * 0xFFFFFFF0 >> 32,
    "mad.lo.s32 %r2, %r1, %r1, -5;": lambda x: unsigned(x * x - 5),
    "min.u32 %r2, %r1, 9;": lambda x: min(unsigned(x), 9), "max.s32 %r2, %r1, 9;": lambda x: max(x, 9),
    "popc.b32 %r2, %r1;": lambda x: unsigned(x).bit_count(), "not.b32 %r2, %r1;": lambda x: unsigned(~x),
    "prmt.b32 %r2, %r1, %r1, 0x0123;": lambda x: int.from_bytes(unsigned(x).to_bytes(4, "little"), "big"),
    "prmt.b32 %r2, %r1, 0, 0x7788;": lambda x: 0x0000FFFF if x & 0x80 else 0,
    "shf.l.wrap.b32 %r2, %r1, %r1, 9;": lambda x: unsigned(x << 9) | unsigned(x) >> 23,
    "shf.l.wrap.b32 %r2, %r1, 0x12345678, 36;": lambda x: 0x23456780 | unsigned(x) >> 28,
    "shf.l.wrap.b32 %r2, %r1, 0x12345678, 32;": lambda x: 0x12345678,
    "shf.r.wrap.b32 %r2, %r1, 0x12345678, 4;": lambda x: 0x80000000 | unsigned(x) >> 4,
    "shf.r.wrap.b32 %r2, %r1, 0x12345678, 0;": unsigned,
    "bfi.b32 %r2, %r1, -1, 8, 4;": lambda x: 0xFFFFF0FF | (x & 15) << 8,
    "bfe.s32 %r2, %r1, 8, 4;": lambda x: unsigned(((x >> 8 & 15) ^ 8) - 8),
    "bfe.u32 %r2, %r1, 8, 4;": lambda x: x >> 8 & 15,
    "bfe.s32 %r2, %r1, 28, 16;": lambda x: unsigned(x >> 28), "bfe.u32 %r2, %r1, 28, 16;": lambda x: unsigned(x) >> 28,
    "bfe.s32 %r2, %r1, 3, 0;": lambda x: 0, "bfe.s32 %r2, %r1, 40, 8;": lambda x: unsigned(x >> 31),
    "cvt.s64.s32 %rd11, %r1; bfi.b64 %rd11, %rd11, 0, 4, 40; shr.u64 %rd11, %rd11, 24; cvt.u32.u64 %r2, %rd11;":
        lambda x: (x << 4) % 2**44 >> 24,
    "cvt.s64.s32 %rd11, %r1; bfi.b64 %rd11, %rd11, -1, 0, 64; cvt.u32.u64 %r2, %rd11;": unsigned,
    "setp.lt.s32 %p1|%p2, %r1, 3; selp.b32 %r2, 1, 2, %p1;": lambda x: 1 if x < 3 else 2,
    "setp.lt.s32 %p1|%p2, %r1, 3; selp.b32 %r2, 1, 2, %p2;": lambda x: 2 if x < 3 else 1,
    "setp.gt.u32 %p1, %r1, 3; mov.u32 %r2, 5; @!%p1 mov.u32 %r2, 6;": lambda x: 5 if unsigned(x) > 3 else 6,
    "cvt.s64.s32 %rd11, %r1; shr.u64 %rd11, %rd11, 32; cvt.u32.u64 %r2, %rd11;": lambda x: unsigned(x >> 32),
    "mov.b64 %rd11, {%r0, %r1}; mov.b64 {_, %r2}, %rd11;": unsigned}


@pytest.mark.parametrize("code", WHOLE)
def test_whole_numbers(code):
    assert apply(code, INTEGERS).tolist() == [WHOLE[code](int(x)) for x in INTEGERS]


NAN, INF = np.float32(np.nan), np.float32(np.inf)
FLOATS = np.array([0.0, -0.0, 1.5, -2.5, NAN, INF, -INF, 2.0**-140, 3e9, -3e9, 0.7, 1e-3] + [1.0] * 20, np.float32)
REAL = {
    "setp.ne.f32 %p1, {x}, 0f3FC00000; selp.u32 %r2, 1, 0, %p1;": lambda x: int(x == x and x != 1.5),
    "setp.neu.f32 %p1, {x}, 0f3FC00000; selp.u32 %r2, 1, 0, %p1;": lambda x: int(x != 1.5),
    "setp.ltu.f32 %p1, {x}, 0f3FC00000; selp.u32 %r2, 1, 0, %p1;": lambda x: int(not x >= 1.5),
    "setp.lt.f32 %p1, {x}, 0f3FC00000; selp.u32 %r2, 1, 0, %p1;": lambda x: int(x < 1.5),
    "setp.nan.f32 %p1, {x}, {x}; selp.u32 %r2, 1, 0, %p1;": lambda x: int(x != x),
    "cvt.rzi.s32.f32 %r2, {x};": lambda x: 0 if x != x else unsigned(int(max(min(float(x), 2**31 - 1), -2**31))),
    "cvt.rzi.u32.f32 %r2, {x};": lambda x: 0 if x != x else int(max(min(float(x), 2**32 - 1), 0))}


@pytest.mark.parametrize("code", REAL)
def test_comparisons_and_conversions_of_floats(code):
    found = apply("mov.b32 %f1, %r1;" + code.replace("{x}", "%f1"), FLOATS)
    assert found.tolist() == [REAL[code](x) for x in FLOATS]


DOUBLES = {
    "add.f64 %fd2, %fd1, 0d3FF8000000000000;": lambda x: x + 1.5, "mul.rn.f64 %fd2, %fd1, %fd1;": lambda x: x * x,
    "div.rn.f64 %fd2, 0d3FF0000000000000, %fd1;": lambda x: np.float64(1) / x, "neg.f64 %fd2, %fd1;": lambda x: -x,
    "cvt.rni.f64.f64 %fd2, %fd1;": np.rint,
    "setp.lt.f64 %p1, %fd1, 0d3FF8000000000000; selp.f64 %fd2, 0d3FF0000000000000, 0d4000000000000000, %p1;":
        lambda x: 1.0 if x < 1.5 else 2.0}


@pytest.mark.parametrize("line", DOUBLES)
def test_arithmetic_of_doubles(line):
    """A float becomes a double, and the result a float again."""
    code = f"mov.b32 %f1, %r1; cvt.f64.f32 %fd1, %f1; {line} cvt.rn.f32.f64 %f2, %fd2; mov.b32 %r2, %f2;"
    found = apply(code, FLOATS)
    with np.errstate(all="ignore"):
        expected = [np.float32(DOUBLES[line](np.float64(x))) for x in FLOATS]
    assert_close(found.view(np.float32), np.array(expected), atol=0, name=line)


def test_doubles_and_whole_numbers():
    x = np.array([0.0, 2.5, 3.5, -1.0, 5e9, 2.0**62, 2.0**70, NAN] * 4, np.float32)
    code = "mov.b32 %f1, %r1; cvt.f64.f32 %fd1, %f1; cvt.rni.u64.f64 %rd11, %fd1; shr.u64 %rd12, %rd11, 31; {}"
    low = apply(code.format("cvt.u32.u64 %r2, %rd11;"), x)[:8].tolist()
    assert low == [0, 2, 4, 0, 5000000000 % 2**32, 0, 0xFFFFFFFF, 0], "to the nearest, ties to even, within the type"
    assert apply(code.format("cvt.u32.u64 %r2, %rd12;"), x)[[4, 5, 6]].tolist() == [2, 2**31, 0xFFFFFFFF]
    back = apply(code.format("cvt.rn.f64.u64 %fd2, %rd11; cvt.rn.f32.f64 %f2, %fd2; mov.b32 %r2, %f2;"), x)
    assert back.view(np.float32)[:6].tolist() == [0, 2, 4, 0, 5e9, 2.0**62]
    rough = apply("mov.b32 %f1, %r1; cvt.f64.f32 %fd1, %f1; rcp.approx.ftz.f64 %fd2, %fd1; mov.b64 {%r2, _}, %fd2;", x)
    assert (rough == 0).all(), "the lower half of a rough reciprocal's bits is empty"


def test_maximum_flush_and_saturation():
    def of(code):
        return apply(f"mov.b32 %f1, %r1; {code} mov.b32 %r2, %f2;", FLOATS).view(np.float32)

    assert of("max.f32 %f2, %f1, 0f80000000;")[:5].tolist() == [0, 0, 1.5, 0, 0]
    for zero in ("0f00000000", "0f80000000"):
        largest, smallest = (np.signbit(of(f"{name}.f32 %f2, %f1, {zero};")[:2]) for name in ("max", "min"))
        assert largest.tolist() == [False, zero == "0f80000000"], "of two zeros the positive one"
        assert smallest.tolist() == [zero == "0f80000000", True], "and the negative one"
    assert of("cvt.sat.f32.f32 %f2, %f1;")[:8].tolist() == [0, 0, 1, 0, 0, 1, 0, np.float32(2.0**-140)]
    assert of("ex2.approx.ftz.f32 %f2, %f1;")[[0, 5, 6, 7]].tolist() == [1, np.inf, 0, 1]
    tiny = apply("mov.b32 %f1, 0fC2FE0000; ex2.approx.ftz.f32 %f2, %f1; mov.b32 %r2, %f2;", FLOATS)
    assert (tiny == 0).all(), "2 ** -127 has not all its bits"


def test_rounding_to_bfloat16_is_that_of_the_library():
    import ml_dtypes
    x = np.concatenate([RNG.standard_normal(1000).astype(np.float32), FLOATS[~np.isnan(FLOATS)],
                        (np.arange(0x3F800000, 0x3F830000, 0x4000, np.uint32)).view(np.float32)])
    expected = x.astype(ml_dtypes.bfloat16).view(np.uint16)
    assert_close(numbers.to_bfloat16(x), expected, atol=0, name="bits")
    assert numbers.to_bfloat16(np.array([NAN]))[0] == 0x7FFF
    pair = apply("mov.b32 %f1, %r1; cvt.rn.bf16x2.f32 %r2, %f1, 0f40000000;", np.full(32, -1, np.float32))
    assert (pair == 0xBF804000).all(), "the first operand is the upper half"


# ---- threads

LOOP = """mov.u32 %r2, 0;
$L1:
setp.ge.u32 %p1, %r2, %r1;
@%p1 bra $L2;
add.u32 %r2, %r2, 1;
bra.uni $L1;
$L2:
"""


def test_threads_leave_a_loop_one_by_one_and_meet_behind_it():
    x = np.arange(64, dtype=np.uint32)[::-1].copy()
    assert apply(LOOP, x, threads=64).tolist() == x.tolist()
    counts = run(module(EACH.format(LOOP)), x, np.zeros(64, np.uint32), threads=64)
    branches = counts[KINDS["branch"]]
    # the lower warp's longest loop has 63 rounds, the other's 31; a round has two branches; and the last has one; ret
    assert branches.tolist() == [2 * 63 + 1 + 1, 2 * 31 + 1 + 1]


def test_a_loop_without_end_is_refused(monkeypatch):
    monkeypatch.setattr("kernels.ptx.block.LONGEST", 1000)
    said = fails(module(EACH.format("$L1: bra.uni $L1;")), np.zeros(32, np.uint32), np.zeros(32, np.uint32))
    assert "a loop without end" in said


SHARED = ".shared .align 4 .b8 line[256];"
TURNED = """shl.b32 %r3, %r0, 2; mov.u32 %r4, line; add.s32 %r4, %r4, %r3; st.shared.u32 [%r4], %r1;
{barrier} mov.u32 %r5, line; sub.s32 %r5, %r5, %r3; ld.shared.u32 %r2, [%r5+252];"""


def turned(barrier: str, order: str) -> bool:
    """Whether 64 threads read each other's numbers, in the opposite order, through shared memory."""
    x, out = np.arange(64, dtype=np.uint32), np.zeros(64, np.uint32)
    run(module(EACH.format(TURNED.format(barrier=barrier)), shared=SHARED), x, out, threads=64, order=order)
    return out.tolist() == x[::-1].tolist()


def test_shared_memory_of_single_numbers():
    """A compiler parts a structure into numbers that are no arrays; each has a place of its own."""
    shared = ".shared .align 4 .u32 one;\n.shared .align 8 .u64 two_$_0;\n.shared .align 4 .b8 line[256];"
    code = """setp.eq.u32 %p1, %r0, 3; @%p1 st.shared.u32 [one], %r1; @%p1 st.shared.u64 [two_$_0], -1; bar.sync 0;
    ld.shared.u32 %r2, [one]; mov.u32 %r3, line; sub.s32 %r3, %r3, 16; add.s32 %r2, %r2, %r3;"""
    assert (run_shared(code, shared) == 13).all(), "4 bytes, 4 to the next multiple of 8, and 8"


def run_shared(code: str, shared: str) -> np.ndarray:
    x, out = np.arange(10, 74, dtype=np.uint32), np.zeros(64, np.uint32)
    run(module(EACH.format(code), shared=shared), x, out, threads=64)
    return out


def test_a_missing_barrier_shows_when_warps_run_one_after_another():
    assert all(turned("bar.sync 0;", order) for order in ("together", "forward", "reverse"))
    assert turned("", "together") and not turned("", "forward") and not turned("", "reverse")


@pytest.mark.parametrize("code, expected", [
    ("shfl.sync.bfly.b32 %r2, %r1, 5, 31, -1;", lambda lane: lane ^ 5),
    ("shfl.sync.down.b32 %r2|%p1, %r1, 3, 31, -1;", lambda lane: lane + 3 if lane + 3 < 32 else lane),
    ("shfl.sync.up.b32 %r2, %r1, 3, 0, -1;", lambda lane: lane - 3 if lane >= 3 else lane),
    ("shfl.sync.up.b32 %r2, %r1, 35, 0, -1;", lambda lane: lane - 3 if lane >= 3 else lane),
    ("shfl.sync.idx.b32 %r2, %r1, 2, 0x181F, -1;", lambda lane: lane // 8 * 8 + 2),
    ("shfl.sync.down.b32 %r2, %r1, 6, 0x181F, -1;", lambda lane: lane + 6 if lane % 8 < 2 else lane),
    ("and.b32 %r3, %r0, 1; setp.eq.u32 %p1, %r3, 1; vote.sync.ballot.b32 %r2, %p1, -1;", lambda lane: 0xAAAAAAAA),
    ("setp.eq.u32 %p1, %r0, 9; vote.sync.any.pred %p2, %p1, -1; selp.u32 %r2, 1, 2, %p2;", lambda lane: 1),
    ("setp.eq.u32 %p1, %r0, 9; vote.sync.all.pred %p2, !%p1, -1; selp.u32 %r2, 1, 2, %p2;", lambda lane: 2)])
def test_lanes_exchange(code, expected):
    lanes = np.arange(32, dtype=np.uint32)
    assert apply(code, lanes).tolist() == [expected(lane) for lane in range(32)]


def test_lanes_that_do_not_meet_are_refused():
    half = "setp.gt.u32 %p1, %r0, 15; @%p1 bra $L1; shfl.sync.bfly.b32 %r2, %r1, 1, 31, {}; $L1:"
    x = np.arange(32, dtype=np.uint32)
    assert apply(half.format("0xFFFF"), x)[:16].tolist() == [lane ^ 1 for lane in range(16)]
    said = fails(module(EACH.format(half.format(-1))), x, x.copy())
    assert "the lanes of the mask 0xffffffff are not together" in said and "thread (0, 0, 0)" in said


def test_lanes_wait_for_others_that_are_further_in_the_code():
    """A compiler may put a loop behind the shuffle that follows it: a rule "least far first" alone would not do."""
    code = """mov.u32 %r2, %r1; setp.gt.u32 %p1, %r0, 15; @%p1 bra $L2;
$L1: shfl.sync.bfly.b32 %r2, %r2, 16, 31, -1; bra.uni $L3;
$L2: add.u32 %r2, %r2, 100; bra.uni $L1;
$L3:"""
    found = apply(code, np.arange(32, dtype=np.uint32))
    assert found.tolist() == [lane + 16 + 100 for lane in range(16)] + list(range(16))


def test_atomics_add_up_and_return_what_was_there():
    total, out = np.zeros(1, np.uint32), np.zeros(64, np.uint32)
    run(module("atom.global.add.u32 %r2, [%rd0], 1; add.s64 %rd10, %rd1, %rd8; red.global.max.u32 [%rd10], %r2;"),
        total, out, threads=64, grid=3)
    assert total[0] == 192 and sorted(out) == list(range(128, 192))
    swap = np.array([5], np.uint32)
    run(module("atom.global.cas.b32 %r2, [%rd0], 5, 9;"), swap, out)
    assert swap[0] == 9


# ---- asynchronous copies, memory

COPY = """shl.b32 %r3, %r0, 4; mov.u32 %r4, line; add.s32 %r4, %r4, %r3; mul.wide.u32 %rd9, %r0, 16;
add.s64 %rd9, %rd0, %rd9; and.b32 %r6, %r0, 1; shl.b32 %r6, %r6, 4;
cp.async.cg.shared.global [%r4], [%rd9], 16, {take}; cp.async.commit_group; {wait} ld.shared.u32 %r2, [%r4+{word}];
add.s64 %rd10, %rd1, %rd8; st.global.u32 [%rd10], %r2;"""


def copied(take: int | str, wait: str, word: int) -> list[int]:
    x, out = np.arange(1, 65, dtype=np.uint32), np.zeros(16, np.uint32)
    run(module(COPY.format(take=take, wait=wait, word=4 * word), shared=SHARED), x, out, threads=16)
    return out.tolist()


def test_a_copy_lands_when_it_is_waited_for():
    there = list(range(3, 65, 4))
    assert copied(16, "cp.async.wait_group 0;", 2) == there == copied(16, "cp.async.wait_all;", 2)
    assert copied(16, "", 2) == copied(16, "cp.async.wait_group 1;", 2) == [0xFFFFFFFF] * 16
    assert copied(8, "cp.async.wait_group 0;", 2) == [0] * 16, "what is not taken is zero"
    odd = [4 * thread + 4 if thread % 2 else 0 for thread in range(16)]
    assert copied("%r6", "cp.async.wait_all;", 3) == odd, "each thread takes what it says, here 0 or 16 bytes"


AT = r"4 bytes at address 0x[0-9a-f]+, "
OUTSIDE = {"ld.global.u32 %r1, [%rd0+128];": AT + "0 bytes behind the 128 bytes of argument 0",
           "ld.global.u32 %r1, [%rd0+-4];": AT, "atom.global.add.u32 %r1, [%rd0+128], 1;": AT,
           "st.global.u32 [%rd0+126], %r0;": "4 bytes at the misaligned address",
           "ld.global.v4.u32 {%r1, %r2, %r3, %r4}, [%rd0+8];": "16 bytes at the misaligned address",
           "mov.u64 %rd0, 0; st.global.u32 [%rd0], %r0;": AT,
           "ld.shared.u32 %r1, [line+256];": AT + "0 bytes behind the 256 bytes of shared memory",
           "ld.shared.u32 %r1, [line+-4];": AT + "4 bytes before shared memory"}


@pytest.mark.parametrize("code", OUTSIDE)
def test_a_bad_address_names_kernel_place_and_thread(code):
    cause = fails(module(code, shared=SHARED), np.zeros(32, np.uint32), np.zeros(32, np.uint32))
    opcode = code.split(";")[-2].split()[0]
    assert re.match(rf"k: {re.escape(opcode)} \(k, line \d+ of the PTX\): {OUTSIDE[code]}.*; "
                    r"thread \(0, 0, 0\) of block \(0, 0, 0\)\.$", cause)


def test_an_array_that_may_only_be_read():
    x = np.zeros(32, np.uint32)
    x.flags.writeable = False
    said = fails(module("st.global.u32 [%rd0], %r0;"), x, np.zeros(1, np.uint32))
    assert "argument 0, which may only be read" in said


UNKNOWN = ["add.rz.f32", "fma.rz.f64", "redux.sync.add.s32", "add.sat.s32", "lop3.b32", "ld.global.v8.b32", "call",
           "trap", "wgmma.fence.sync.aligned", "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32"]


@pytest.mark.parametrize("opcode", UNKNOWN)
def test_an_unknown_instruction_is_refused_by_name_and_line(opcode):
    text = module(f"{opcode} %r1, %r2;")
    line = text.split("\n").index(f"{opcode} %r1, %r2;") + 1
    said = fails(text, np.zeros(1, np.uint32), np.zeros(1, np.uint32))
    assert said == f"The interpreter does not have the instruction {opcode} (k, line {line} of the PTX)."


@pytest.mark.parametrize("code, said", [
    ("mov.u32 %r1, %clock;", "does not know %clock"), ("ld.global.u32 %r1, [table];", "does not know table"),
    ("bar.sync 1, 32;", "a barrier of some of the threads"), ("bar.sync %r0;", "a barrier of some of the threads")])
def test_names_and_barriers_that_are_not_there(code, said):
    text = module(code)
    cause = fails(text, np.zeros(1, np.uint32), np.zeros(1, np.uint32))
    assert said in cause and f"line {text.split(chr(10)).index(code) + 1} of the PTX" in cause


def test_threads_that_wait_at_different_barriers_are_refused():
    code = "setp.eq.u32 %p1, %r0, 0; @%p1 bra $L1; bar.sync 1; bra.uni $L2; $L1: bar.sync 2; $L2:"
    assert "different barriers [1, 2]" in fails(module(code), np.zeros(1, np.uint32), np.zeros(1, np.uint32))


def test_other_things_that_are_not_there():
    with pytest.raises(TinyError, match="no kernel other"):
        read_kernel(module(""), "other", lookup)
    assert ".local" in fails(module(".local .align 8 .b8 depot[16];"), np.zeros(1, np.uint32), np.zeros(1, np.uint32))


# ---- our own kernels

@needs_ptx
@pytest.mark.parametrize("operation", operations(), ids=lambda operation: operation.name)
def test_the_last_version_as_compiled_for_a_gpu_is_numpys(operation):
    """Of each operation one case; `python -m kernels.ptx`, and the thorough test below, run all of them."""
    launcher = Interpreter(COMPILERS[0])
    found = agree(launcher, operation, operation.small[-1], STORAGES[2], operation.versions[-1])
    assert found["ok"] and found["error"] <= TOLERANCES["bfloat16"], found
    for counts in launcher.counts.values():
        assert counts.shape[0] == len(KINDS) and (counts[KINDS["branch"]] > 0).all() and counts[KINDS["load"]].any()


@needs_ptx
def test_errors_name_the_line_of_the_source(tmp_path):
    path = tmp_path / "far.cu"
    path.write_text('extern "C" __global__ void far(const float* x, float* y) {\n  float z = x[threadIdx.x + 60];\n'
                    "  y[threadIdx.x] = z;\n}\n")
    with pytest.raises(TinyError, match=r"far: ld.global.f32 \(far.cu:2, line \d+ of the PTX\): 4 bytes at address .*"
                                        r"0 bytes behind the 256 bytes of x; thread \(4, 0, 0\) of block \(0, 0, 0\)"):
        Interpreter(COMPILERS[0]).launch(path, "far", (1,), (32,), (np.zeros(64, np.float32), np.zeros(64, np.float32)))


@needs_ptx
def test_contraction_can_be_left_out(tmp_path):
    path = tmp_path / "once.cu"
    path.write_text('extern "C" __global__ void once(float* x) { x[0] = x[0] * x[1] + x[2]; }\n')
    assert "fma.rn.f32" in to_ptx(path, (), COMPILERS[0])
    assert "fma.rn.f32" not in to_ptx(path, (), COMPILERS[0], contract=False)


# ---- the command

@needs_ptx
def test_the_command_counts_cases_and_writes_a_record(tmp_path, monkeypatch, capsys):
    first = next(case for case in command.every_case(("rope",)))
    monkeypatch.setattr(command, "every_case", lambda names: [first])
    monkeypatch.setattr(command, "shutil", SimpleNamespace(which=lambda name: None))  # as if there were no g++
    assert command.main(["--record", str(tmp_path / "found.json")]) == 0
    out, err = capsys.readouterr()
    assert out.count("1 of 1 cases agree with NumPy, compiled by ") == len(command.runs()) and "g++" in err
    found = json.loads((tmp_path / "found.json").read_text())
    assert len(found["rows"]) == 1 and found["rows"][0]["instructions"]["rope_v1"]["warps"] == 5 * 8
    other = found["rows"][0] | {"operation": "rms_norm"}
    runs = {name: {"cases": 2, "agree": 2} for name in found["runs"]}
    (tmp_path / "found.json").write_text(json.dumps(found | {"runs": runs, "rows": [found["rows"][0], other]}))
    assert command.main(["rope", "--record", str(tmp_path / "found.json")]) == 0
    both = json.loads((tmp_path / "found.json").read_text())
    assert [row["operation"] for row in both["rows"]] == ["rms_norm", "rope"] and both["runs"] == runs
    with pytest.raises(TinyError, match="no operation roope"):
        command.main(["roope"])
    with pytest.raises(TinyError, match="The record is of another"):
        command.merged({"runs": {"another": {}}}, both, [])
    capsys.readouterr()
    monkeypatch.setattr(command, "run_case", lambda on, *case: {**found["rows"][0], "ok": False})
    assert command.main(["--record", str(tmp_path / "found.json")]) == 1
    assert "0 of 1 cases agree" in capsys.readouterr().out


def test_without_a_compiler_the_command_says_what_to_install(monkeypatch):
    def absent(name):
        raise TinyError(f"{name} is not here.", "Install it.")

    monkeypatch.setattr(command, "compiler_name", absent)
    with pytest.raises(TinyError, match="nvrtc is not here"):
        command.main([])
