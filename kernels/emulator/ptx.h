// ptx.h: what PTX instructions mean. ptx.py makes calls of these functions from asm statements.
//
// Shared memory has addresses of 32 bits in PTX, so `__cvta_generic_to_shared` gives the distance from a fixed point of
// the worker's shared memory, and an instruction goes back the same way.
#pragma once

EMULATOR_INLINE size_t __cvta_generic_to_shared(const void* p) {
  return unsigned(static_cast<const char*>(p) - reinterpret_cast<const char*>(emulator_dynamic) + (1 << 20));
}
EMULATOR_INLINE void* __cvta_shared_to_generic(size_t address) {
  return reinterpret_cast<char*>(emulator_dynamic) + (int(address) - (1 << 20));
}
EMULATOR_INLINE size_t __cvta_generic_to_global(const void* p) { return reinterpret_cast<size_t>(p); }
EMULATOR_INLINE void* __cvta_global_to_generic(size_t address) { return reinterpret_cast<void*>(address); }
EMULATOR_INLINE bool __isShared(const void* p) {
  const ptrdiff_t at = static_cast<const char*>(p) - reinterpret_cast<const char*>(emulator_dynamic);
  return at > -(64 << 10) && at < (227 << 10);
}
EMULATOR_INLINE bool __isGlobal(const void* p) { return !__isShared(p); }

namespace emulator {
namespace ptx {
using b8 = unsigned char;
using u8 = unsigned char;
using s8 = signed char;
using b16 = unsigned short;
using u16 = unsigned short;
using s16 = short;
using b32 = unsigned;
using u32 = unsigned;
using s32 = int;
using f32 = float;
using b64 = unsigned long long;
using u64 = unsigned long long;
using s64 = long long;
using f64 = double;
using pred = bool;
using f16 = __half;
using bf16 = __nv_bfloat16;
struct tf32 {
  float value;
  operator float() const { return value; }
};

// ---- registers: an instruction sees bits, whatever the type of the variable ---------------------
template <class T, class R> EMULATOR_INLINE T get(R& from) {
  if constexpr (sizeof(T) == sizeof(R))
    return bits<T>(from);
  else
    return T(from);
}
template <class T, class R, class V> EMULATOR_INLINE void set(R& to, V value) {
  const T exact = T(value);
  if constexpr (sizeof(T) == sizeof(R))
    to = bits<R>(exact);
  else
    to = R(exact);
}
template <class T, class R, class V> EMULATOR_INLINE void move(R& to, V value) {
  if constexpr (std::is_pointer_v<V>)
    to = bits<R>(value);
  else if constexpr (sizeof(T) == sizeof(V))
    set<T>(to, bits<T>(value));
  else
    set<T>(to, value);
}

template <class V> EMULATOR_INLINE const void* pointer_of(V value) {
  if constexpr (std::is_pointer_v<V>)
    return (const void*)value;
  else
    return reinterpret_cast<const void*>(value);
}

template <class... R> struct Registers {
  std::tuple<R&...> list;
  static constexpr int n = sizeof...(R);
  template <class T> EMULATOR_INLINE void read(T (&to)[n]) const { read(to, std::index_sequence_for<R...>{}); }
  template <class T> EMULATOR_INLINE void write(const T (&from)[n]) const {
    write(from, std::index_sequence_for<R...>{});
  }
  template <class T, size_t... I> EMULATOR_INLINE void read(T (&to)[n], std::index_sequence<I...>) const {
    ((to[I] = get<T>(std::get<I>(list))), ...);
  }
  template <class T, size_t... I> EMULATOR_INLINE void write(const T (&from)[n], std::index_sequence<I...>) const {
    ((set<T>(std::get<I>(list), from[I])), ...);
  }
};
template <class... R> EMULATOR_INLINE Registers<R...> registers(R&... list) { return {{list...}}; }
template <class R> EMULATOR_INLINE Registers<R> as_list(R& one) { return {{one}}; }
template <class... R> EMULATOR_INLINE Registers<R...>& as_list(Registers<R...>& list) { return list; }

// ---- addresses ----------------------------------------------------------------------------------
struct Address {
  uint64_t at;
  bool narrow;
};  // narrow: given in 32 bits, so in shared memory
template <class R> EMULATOR_INLINE Address address(R base, long offset = 0) {
  if constexpr (std::is_pointer_v<R>)
    return {reinterpret_cast<uint64_t>(base) + offset, false};
  else
    return {uint64_t(sizeof(R) == 4 ? uint64_t(unsigned(base)) : uint64_t(base)) + offset, sizeof(R) == 4};
}
EMULATOR_INLINE char* in_shared(Address a) {
  const bool low = a.narrow || a.at < (1ull << 32);  // a 64-bit register may hold a shared address too
  return low ? static_cast<char*>(__cvta_shared_to_generic(a.at)) : reinterpret_cast<char*>(a.at);
}
struct global {
  static EMULATOR_INLINE char* pointer(Address a) { return reinterpret_cast<char*>(a.at); }
};
struct shared {
  static EMULATOR_INLINE char* pointer(Address a) { return in_shared(a); }
};

template <class T, int N> struct __align__(sizeof(T) * N) Vector {
  T x[N];
};
template <class Space, class T, class L> EMULATOR_INLINE void load(L&& to, Address from) {
  const auto& list = as_list(to);
  using V = Vector<T, std::remove_reference_t<decltype(list)>::n>;
  const V value = *reinterpret_cast<const V*>(Space::pointer(from));
  list.write(value.x);
}
template <class Space, class T, class L> EMULATOR_INLINE void store(Address to, L&& from) {
  const auto& list = as_list(from);
  using V = Vector<T, std::remove_reference_t<decltype(list)>::n>;
  V value;
  list.read(value.x);
  *reinterpret_cast<V*>(Space::pointer(to)) = value;
}
template <class Space, class T, class V> EMULATOR_INLINE void add_atomically(Address to, V value) {
  atomicAdd(reinterpret_cast<T*>(Space::pointer(to)), get<T>(value));
}
template <class Space, class T, class R, class V> EMULATOR_INLINE void add_atomically(R& old, Address to, V value) {
  set<T>(old, atomicAdd(reinterpret_cast<T*>(Space::pointer(to)), get<T>(value)));
}
template <class B, class V> EMULATOR_INLINE void cp_async(Address to, Address from, B bytes, V valid, ...) {
  emulator_copy_async(in_shared(to), reinterpret_cast<const void*>(from.at), bytes, valid);
}
template <class B> EMULATOR_INLINE void cp_async(Address to, Address from, B bytes) {
  cp_async(to, from, bytes, bytes);
}

// ---- special registers --------------------------------------------------------------------------
EMULATOR_INLINE unsigned lanemask_eq() { return 1u << lane(); }
EMULATOR_INLINE unsigned lanemask_lt() { return lanemask_eq() - 1; }
EMULATOR_INLINE unsigned lanemask_le() { return lanemask_lt() | lanemask_eq(); }
EMULATOR_INLINE unsigned lanemask_ge() { return ~lanemask_lt(); }
EMULATOR_INLINE unsigned lanemask_gt() { return ~lanemask_le(); }

// ---- comparisons and bits -----------------------------------------------------------------------
#define EMULATOR_COMPARE(NAME, OP) \
  template <class T, class A, class B> EMULATOR_INLINE bool NAME(A a, B b) { return T(a) OP T(b); }
EMULATOR_COMPARE(eq, ==)
EMULATOR_COMPARE(ne, !=)
EMULATOR_COMPARE(lt, <)
EMULATOR_COMPARE(le, <=)
EMULATOR_COMPARE(gt, >)
EMULATOR_COMPARE(ge, >=)
EMULATOR_INLINE unsigned lop3(unsigned a, unsigned b, unsigned c, unsigned table) {
  unsigned result = 0;
  for (int i = 0; i < 8; i++)
    if (table >> i & 1) result |= (i & 4 ? a : ~a) & (i & 2 ? b : ~b) & (i & 1 ? c : ~c);
  return result;
}
template <class H> EMULATOR_INLINE unsigned short one_half(float f) { return bits<unsigned short>(H(f)); }
template <class H> EMULATOR_INLINE unsigned two_halves(float low, float high) {
  return unsigned(one_half<H>(high)) << 16 | one_half<H>(low);
}
template <class H, class R> EMULATOR_INLINE float to_float(R r) { return bits<H>(static_cast<unsigned short>(r)); }
template <class H, class R, class F> EMULATOR_INLINE void pairwise(R& to, unsigned a, unsigned b, F f) {
  const H low = f(bits<H>((unsigned short)a), bits<H>((unsigned short)b));
  const H high = f(bits<H>((unsigned short)(a >> 16)), bits<H>((unsigned short)(b >> 16)));
  set<b32>(to, unsigned(bits<unsigned short>(high)) << 16 | bits<unsigned short>(low));
}
template <class H, class R> EMULATOR_INLINE void fma_pairwise(R& to, unsigned a, unsigned b, unsigned c) {
  unsigned short n[6], r[2];
  const unsigned all[3] = {a, b, c};
  __builtin_memcpy(n, all, sizeof n);
  for (int i = 0; i < 2; i++) r[i] = bits<unsigned short>(__hfma(bits<H>(n[i]), bits<H>(n[i + 2]), bits<H>(n[i + 4])));
  set<b32>(to, unsigned(r[1]) << 16 | r[0]);
}
EMULATOR_INLINE unsigned to_tf32(float f) { return (bits<unsigned>(f) + 0x1000u) & ~0x1fffu; }

// ---- barriers and shuffles ----------------------------------------------------------------------
EMULATOR_INLINE unsigned block_size() { return blockDim.x * blockDim.y * blockDim.z; }
template <class B> EMULATOR_INLINE void barrier(B number, Place at) {
  if (number == 0) return void(emulator_barrier(0, "bar.sync", at.file, at.line));
  emulator_named_barrier(number, (block_size() + 31) & ~31u, 1, at.file, at.line);
}
template <class B, class N> EMULATOR_INLINE void barrier(B number, N threads, Place at) {
  if (number == 0 && unsigned(threads) == block_size()) return barrier(number, at);
  emulator_named_barrier(number, threads, 1, at.file, at.line);
}
struct idx;
struct up;
struct down;
struct bfly;
template <class How, class R, class V>
EMULATOR_INLINE void shuffle(R& to, V value, unsigned by, unsigned clamp, unsigned mask, Place at) {
  const int width = 32 - (clamp >> 8 & 31);
  if constexpr (std::is_same_v<How, idx>)
    to = bits<R>(__shfl_sync(mask, value, by, width, at));
  else if constexpr (std::is_same_v<How, up>)
    to = bits<R>(__shfl_up_sync(mask, value, by, width, at));
  else if constexpr (std::is_same_v<How, down>)
    to = bits<R>(__shfl_down_sync(mask, value, by, width, at));
  else
    to = bits<R>(__shfl_xor_sync(mask, value, by, width, at));
}

// ---- ldmatrix: 8 x 8 matrices of 16-bit numbers, from rows in shared memory to registers --------
// Lane i gives the address of row i % 8 of matrix i / 8. It receives, of each matrix, the two numbers at row lane / 4,
// columns lane % 4 * 2 and the next; with .trans, of the transposed matrix.
template <int N, bool Transposed> struct LoadMatrix {
  unsigned short row[8];  // what this lane's address points to
  unsigned result[N];
  static void complete(void** works, unsigned lanes) {
    if (lanes != ~0u) emulator_refuse("ldmatrix needs all 32 lanes; only 0x%08x take part", lanes);
    each<LoadMatrix>(works, lanes, [&](unsigned lane, LoadMatrix& mine) {
      for (int m = 0; m < N; m++) {
        unsigned pair[2];
        for (int i = 0; i < 2; i++) {
          const int r = lane / 4, c = lane % 4 * 2 + i;
          pair[i] = static_cast<LoadMatrix*>(works[m * 8 + (Transposed ? c : r)])->row[Transposed ? r : c];
        }
        mine.result[m] = pair[1] << 16 | pair[0];
      }
    });
  }
};
template <int N, bool Transposed, class L> EMULATOR_INLINE void ldmatrix(L&& to, Address from, Place at) {
  LoadMatrix<N, Transposed> mine;
  if (lane() < 8 * N) {
    const Vector<unsigned short, 8> row = *reinterpret_cast<const Vector<unsigned short, 8>*>(in_shared(from));
    __builtin_memcpy(mine.row, &row, sizeof row);
  }
  meet(~0u, "ldmatrix", mine, at);
  as_list(to).write(mine.result);
}

// ---- mma.sync m16n8k8 and m16n8k16: which lane holds what, as the PTX manual draws it -----------
// With g = lane / 4 and t = lane % 4, and numbers packed P to a register: A has rows g and g + 8, B column g.
template <int K, int P> struct Dealt {
  static constexpr int a(int lane, int i) {
    const int r = i / P, row = lane / 4 + 8 * (r % 2), k = lane % 4 * P + i % P + 4 * P * (r / 2);
    return row * K + k;
  }
  static constexpr int b(int lane, int i) {
    const int k = lane % 4 * P + i % P + 4 * P * (i / P);
    return k * 8 + lane / 4;
  }
  static constexpr int c(int lane, int i) { return (lane / 4 + 8 * (i / 2)) * 8 + lane % 4 * 2 + i % 2; }
};
template <class T, int N> EMULATOR_INLINE void unpack(const unsigned (&from)[N], T* to) {
  __builtin_memcpy(to, from, sizeof from);
}

template <int K, class D, class T, class LD, class LA, class LB, class LC>
EMULATOR_INLINE void mma(LD&& to, LA&& a, LB&& b, LC&& c, Place at) {
  constexpr int P = 4 / sizeof(T);
  static_assert(!std::is_same_v<T, tf32> || K == 8, "tf32 has k8 here");
  unsigned ra[16 * K / 32 / P], rb[K * 8 / 32 / P], rc[sizeof(D)];
  T va[16 * K / 32], vb[K * 8 / 32];
  D vc[4], vd[4];
  as_list(a).read(ra), as_list(b).read(rb), as_list(c).read(rc);
  unpack(ra, va), unpack(rb, vb), unpack(rc, vc);
  Product<16, 8, K, Dealt<K, P>, T, T, D> mine{va, vb, vc, vd};
  meet(~0u, "mma.sync", mine, at);
  __builtin_memcpy(rc, vd, sizeof vd);
  as_list(to).write(rc);
}
}  // namespace ptx
}  // namespace emulator

// ---- cuda_pipeline.h: the same copies as functions ----------------------------------------------
EMULATOR_INLINE void __pipeline_memcpy_async(void* to, const void* from, size_t bytes, size_t zeros = 0) {
  emulator_copy_async(to, from, bytes, bytes - zeros);
}
EMULATOR_INLINE void __pipeline_commit() { emulator_copy_commit(); }
EMULATOR_INLINE void __pipeline_wait_prior(unsigned left) { emulator_copy_wait(left); }
