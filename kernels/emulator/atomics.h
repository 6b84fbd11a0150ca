// atomics.h: read, change and write as one step. They are real atomics, because blocks may run on several workers.
#pragma once

namespace emulator {
template <class Bits, class T, class F>
__attribute__((noinline, no_sanitize("thread"))) T atomic(T* p, F change, bool compares = false) {
  emulator_atomic(p, sizeof(T), __builtin_return_address(0), compares);
  Bits old = __atomic_load_n(reinterpret_cast<Bits*>(p), __ATOMIC_RELAXED), fresh;
  T value;
  do {
    __builtin_memcpy(&value, &old, sizeof value);
    const T changed = change(value);
    __builtin_memcpy(&fresh, &changed, sizeof fresh);
  } while (!__atomic_compare_exchange_n(reinterpret_cast<Bits*>(p), &old, fresh, false, __ATOMIC_ACQ_REL,
                                        __ATOMIC_RELAXED));
  return value;
}
template <unsigned> struct Unsigned;
template <> struct Unsigned<2> { using type = uint16_t; };
template <> struct Unsigned<4> { using type = uint32_t; };
template <> struct Unsigned<8> { using type = uint64_t; };
}  // namespace emulator

#define EMULATOR_ATOMIC(NAME, T, EXPRESSION)                                                                   \
  EMULATOR_INLINE T NAME(T* p, T v) {                                                                          \
    using Bits = emulator::Unsigned<sizeof(T)>::type;                                                          \
    return emulator::atomic<Bits>(p, [v](T old) { (void)v; return static_cast<T>(EXPRESSION); });              \
  }                                                                                                            \
  EMULATOR_INLINE T NAME##_block(T* p, T v) { return NAME(p, v); }                                             \
  EMULATOR_INLINE T NAME##_system(T* p, T v) { return NAME(p, v); }
#define EMULATOR_ATOMIC_INTEGERS(NAME, EXPRESSION)                                                             \
  EMULATOR_ATOMIC(NAME, int, EXPRESSION)                                                                       \
  EMULATOR_ATOMIC(NAME, unsigned, EXPRESSION)                                                                  \
  EMULATOR_ATOMIC(NAME, unsigned long long, EXPRESSION)                                                        \
  EMULATOR_ATOMIC(NAME, unsigned long, EXPRESSION)                                                             \
  EMULATOR_ATOMIC(NAME, long long, EXPRESSION)
#define EMULATOR_ATOMIC_CAS(T)                                                                                 \
  EMULATOR_INLINE T atomicCAS(T* p, T expected, T v) {                                                         \
    using Bits = emulator::Unsigned<sizeof(T)>::type;                                                          \
    return emulator::atomic<Bits>(p, [=](T old) { return old == expected ? v : old; }, true);                  \
  }
EMULATOR_ATOMIC_INTEGERS(atomicAdd, old + v)
EMULATOR_ATOMIC_INTEGERS(atomicMin, v < old ? v : old)
EMULATOR_ATOMIC_INTEGERS(atomicMax, old < v ? v : old)
EMULATOR_ATOMIC_INTEGERS(atomicExch, v)
EMULATOR_ATOMIC_INTEGERS(atomicAnd, old & v)
EMULATOR_ATOMIC_INTEGERS(atomicOr, old | v)
EMULATOR_ATOMIC_INTEGERS(atomicXor, old ^ v)
EMULATOR_ATOMIC(atomicSub, int, old - v)
EMULATOR_ATOMIC(atomicSub, unsigned, old - v)
EMULATOR_ATOMIC(atomicInc, unsigned, old >= v ? 0 : old + 1)
EMULATOR_ATOMIC(atomicDec, unsigned, old == 0 || old > v ? v : old - 1)
EMULATOR_ATOMIC(atomicAdd, float, old + v)
EMULATOR_ATOMIC(atomicAdd, double, old + v)
EMULATOR_ATOMIC(atomicExch, float, v)
EMULATOR_ATOMIC(atomicAdd, __half, old + v)
EMULATOR_ATOMIC(atomicAdd, __nv_bfloat16, old + v)
EMULATOR_ATOMIC(atomicAdd, __half2, old + v)
EMULATOR_ATOMIC(atomicAdd, __nv_bfloat162, old + v)
EMULATOR_ATOMIC(atomicExch, double, v)
EMULATOR_ATOMIC_CAS(int)
EMULATOR_ATOMIC_CAS(unsigned)
EMULATOR_ATOMIC_CAS(unsigned long long)
EMULATOR_ATOMIC_CAS(unsigned long)
EMULATOR_ATOMIC_CAS(unsigned short)
