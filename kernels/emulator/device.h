// device.h: the CUDA device language, as g++ sees it.
//
// Every kernel file is compiled with this header in front. A thread is a fiber and runs alone, so most of the language
// is ordinary C++: what is left is what concerns more than one thread, and each of those functions is a call into the
// runtime (fibers.cpp, meetings.cpp). Functions are forced inline where a report should name the kernel's line rather
// than one of this file.
#pragma once
#include <cfloat>
#include <climits>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <math.h>
#include <stdlib.h>
#include <tuple>
#include <type_traits>
#include <utility>

#define __CUDA_EMULATOR__ 1
#define __CUDACC__ 1
#define __CUDA_ARCH__ 800

// ---- qualifiers ---------------------------------------------------------------------------------
#define __global__
#define __device__
#define __host__
#define __constant__
#define __managed__
#define __grid_constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __restrict__ __restrict
#define __launch_bounds__(...)
#define __cluster_dims__(...)
#define __align__(n) __attribute__((aligned(n)))
#define __builtin_align__(n) __attribute__((aligned(n)))
// A worker runs one block at a time, so what belongs to the worker's operating system thread is what its block shares.
// (constinit: memory that has no constructor, and no guard variable.)
#define __shared__ static __constinit thread_local
#define EMULATOR_INLINE inline __attribute__((always_inline))

// ---- vector types -------------------------------------------------------------------------------
#define EMULATOR_VECTORS(T, NAME)                                                              \
  struct NAME##1 { T x; };                                                                     \
  struct __align__(2 * sizeof(T)) NAME##2 { T x, y; };                                         \
  struct NAME##3 { T x, y, z; };                                                               \
  struct __align__((4 * sizeof(T) < 16 ? 4 * sizeof(T) : 16)) NAME##4 { T x, y, z, w; };       \
  EMULATOR_INLINE NAME##1 make_##NAME##1(T x) { return {x}; }                                  \
  EMULATOR_INLINE NAME##2 make_##NAME##2(T x, T y) { return {x, y}; }                          \
  EMULATOR_INLINE NAME##3 make_##NAME##3(T x, T y, T z) { return {x, y, z}; }                  \
  EMULATOR_INLINE NAME##4 make_##NAME##4(T x, T y, T z, T w) { return {x, y, z, w}; }
EMULATOR_VECTORS(signed char, char)
EMULATOR_VECTORS(unsigned char, uchar)
EMULATOR_VECTORS(short, short)
EMULATOR_VECTORS(unsigned short, ushort)
EMULATOR_VECTORS(int, int)
EMULATOR_VECTORS(unsigned, uint)
EMULATOR_VECTORS(long, long)
EMULATOR_VECTORS(unsigned long, ulong)
EMULATOR_VECTORS(long long, longlong)
EMULATOR_VECTORS(unsigned long long, ulonglong)
EMULATOR_VECTORS(float, float)
EMULATOR_VECTORS(double, double)
struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
  constexpr dim3(uint3 v) : x(v.x), y(v.y), z(v.z) {}
  operator uint3() const { return {x, y, z}; }
};

// ---- the runtime --------------------------------------------------------------------------------
extern "C" {
// Where a thread is. Watched code asks functions, whose own reads are not watched; their answers never change.
#ifdef __SANITIZE_THREAD__
__attribute__((const)) uint3 emulator_thread_index();
__attribute__((const)) uint3 emulator_block_index();
__attribute__((const)) uint3 emulator_block_dim();
__attribute__((const)) uint3 emulator_grid_dim();
__attribute__((const)) unsigned emulator_thread_number();
#else
extern __attribute__((tls_model("initial-exec"))) __thread struct {
  uint3 thread, block, block_dim, grid_dim;
  unsigned number;
} emulator_self;
EMULATOR_INLINE const uint3& emulator_thread_index() { return emulator_self.thread; }
EMULATOR_INLINE const uint3& emulator_block_index() { return emulator_self.block; }
EMULATOR_INLINE const uint3& emulator_block_dim() { return emulator_self.block_dim; }
EMULATOR_INLINE const uint3& emulator_grid_dim() { return emulator_self.grid_dim; }
EMULATOR_INLINE unsigned emulator_thread_number() { return emulator_self.number; }
#endif
void emulator_meet(unsigned mask, const char* what, void (*complete)(void**, unsigned), void* payload,
                   const char* file, int line);
unsigned emulator_barrier(int predicate, const char* what, const char* file, int line);
void emulator_named_barrier(unsigned number, unsigned threads, int waits, const char* file, int line);
unsigned emulator_activemask(const char* file, int line);
void emulator_yield();
void emulator_atomic(const void* address, unsigned bytes, const void* code, int compares);
void emulator_fence(int of_the_block);
long long emulator_clock();
[[noreturn]] void emulator_fail(const char* file, int line, const char* format, ...);
[[noreturn]] void emulator_unknown(const char* file, int line, const char* what);
[[noreturn]] void emulator_refuse(const char* format, ...);
void emulator_copy_async(void* to, const void* from, unsigned bytes, unsigned valid);
void emulator_copy_commit();
void emulator_copy_wait(unsigned left);
void emulator_copy_wait_all();
}
// Dynamic shared memory, as much as a block can have; what `extern __shared__ T name[];` is a name for (rewrite.py).
extern "C" { __attribute__((visibility("hidden"), aligned(1024))) __thread unsigned char emulator_dynamic[227 << 10]; }
#define threadIdx (::emulator_thread_index())
#define blockIdx (::emulator_block_index())
#define blockDim (dim3(::emulator_block_dim()))
#define gridDim (dim3(::emulator_grid_dim()))
constexpr int warpSize = 32;

namespace emulator {
// As the default value of a parameter: where the call is.
struct Place { const char* file; int line; };
constexpr Place here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) { return {file, line}; }

struct Dynamic {
  template <class T> EMULATOR_INLINE operator T*() const { return reinterpret_cast<T*>(emulator_dynamic); }
};

inline unsigned lane() { return emulator_thread_number() % 32; }

template <class To, class From> EMULATOR_INLINE To bits(From from) {
  static_assert(sizeof(To) == sizeof(From), "a value is taken for one of another size");
  To to;
  __builtin_memcpy(&to, &from, sizeof to);
  return to;
}
}  // namespace emulator

// ---- barriers and fences ------------------------------------------------------------------------
EMULATOR_INLINE void __syncthreads(emulator::Place at = emulator::here()) {
  emulator_barrier(0, "__syncthreads", at.file, at.line);
}
EMULATOR_INLINE int __syncthreads_count(int predicate, emulator::Place at = emulator::here()) {
  return emulator_barrier(predicate, "__syncthreads_count", at.file, at.line);
}
EMULATOR_INLINE int __syncthreads_or(int predicate, emulator::Place at = emulator::here()) {
  return emulator_barrier(predicate, "__syncthreads_or", at.file, at.line) > 0;
}
EMULATOR_INLINE int __syncthreads_and(int predicate, emulator::Place at = emulator::here()) {
  return emulator_barrier(!predicate, "__syncthreads_and", at.file, at.line) == 0;
}
EMULATOR_INLINE void __syncwarp(unsigned mask = ~0u, emulator::Place at = emulator::here()) {
  emulator_meet(mask, "__syncwarp", nullptr, nullptr, at.file, at.line);
}
EMULATOR_INLINE void __threadfence() { emulator_fence(0); }
EMULATOR_INLINE void __threadfence_block() { emulator_fence(1); }
EMULATOR_INLINE void __threadfence_system() { emulator_fence(0); }
EMULATOR_INLINE void __nanosleep(unsigned) { emulator_yield(); }
EMULATOR_INLINE long long clock64() { return emulator_clock(); }
#define clock() (int(::emulator_clock()))  // <ctime> has a function of this name
EMULATOR_INLINE void __trap(emulator::Place at = emulator::here()) {
  emulator_fail(at.file, at.line, "the thread trapped (__trap)");
}
#undef assert
#define assert(condition) \
  ((condition) ? void(0) : ::emulator_fail(__FILE__, __LINE__, "assertion failed: %s", #condition))

#include "warps.h"
#include "halves.h"
#include "arithmetic.h"
#include "atomics.h"
#include "tensor_cores.h"
#include "ptx.h"
#include "groups.h"

// ---- what Python finds in the library -----------------------------------------------------------
namespace emulator {
template <class T> const char* type_name() { return __PRETTY_FUNCTION__; }

struct Parameter { const char* type; unsigned bytes; };
struct Kernel {
  const char* name;
  void (*call)(void**);
  const Parameter* parameters;
  unsigned n_parameters;
  Kernel* next;
};
inline Kernel* kernels = nullptr;
struct Listed { Listed(Kernel& kernel) { kernel.next = kernels, kernels = &kernel; } };

template <auto> struct Caller;
template <class... A, void (*f)(A...)> struct Caller<f> {
  template <size_t... I>
  __attribute__((noinline, no_sanitize("thread", "undefined")))
  static void call_with(void** a, std::index_sequence<I...>) {
    f(*static_cast<std::remove_cv_t<A>*>(a[I])...);
  }
  static void call(void** a) { call_with(a, std::index_sequence_for<A...>{}); }
  static constexpr unsigned n = sizeof...(A);
  static const Parameter* parameters() {
    static const Parameter list[n + 1] = {{type_name<A>(), sizeof(A)}..., {nullptr, 0}};
    return list;
  }
};
}  // namespace emulator
#define EMULATOR_JOIN_(a, b) a##b
#define EMULATOR_JOIN(a, b) EMULATOR_JOIN_(a, b)
#define EMULATOR_KERNEL(ID, NAME, ...)                                                                             \
  static ::emulator::Kernel EMULATOR_JOIN(emulator_kernel_, ID){NAME, ::emulator::Caller<&__VA_ARGS__>::call,     \
      ::emulator::Caller<&__VA_ARGS__>::parameters(), ::emulator::Caller<&__VA_ARGS__>::n, nullptr};              \
  static ::emulator::Listed EMULATOR_JOIN(emulator_listed_, ID)(EMULATOR_JOIN(emulator_kernel_, ID));

namespace cuda { namespace std = ::std; }

#define EMULATOR_OFFERED extern "C" __attribute__((used, visibility("default"))) inline
EMULATOR_OFFERED emulator::Kernel* emulator_kernels() { return emulator::kernels; }
EMULATOR_OFFERED void* emulator_shared_base() { return emulator_dynamic; }
