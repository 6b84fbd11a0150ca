// arithmetic.h: numbers of one thread. The fast intrinsics (__expf, __sinf ...) are the accurate functions here: on a
// GPU their last bits differ. Contraction of a * b + c is off, so write fmaf where one rounding is meant.
#pragma once

// ---- bits ---------------------------------------------------------------------------------------
EMULATOR_INLINE int __float_as_int(float f) { return emulator::bits<int>(f); }
EMULATOR_INLINE unsigned __float_as_uint(float f) { return emulator::bits<unsigned>(f); }
EMULATOR_INLINE float __int_as_float(int i) { return emulator::bits<float>(i); }
EMULATOR_INLINE float __uint_as_float(unsigned i) { return emulator::bits<float>(i); }
EMULATOR_INLINE long long __double_as_longlong(double d) { return emulator::bits<long long>(d); }
EMULATOR_INLINE double __longlong_as_double(long long i) { return emulator::bits<double>(i); }
EMULATOR_INLINE int __popc(unsigned x) { return __builtin_popcount(x); }
EMULATOR_INLINE int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
EMULATOR_INLINE int __clz(int x) { return x ? __builtin_clz(x) : 32; }
EMULATOR_INLINE int __clzll(long long x) { return x ? __builtin_clzll(x) : 64; }
EMULATOR_INLINE int __ffs(int x) { return __builtin_ffs(x); }
EMULATOR_INLINE int __ffsll(long long x) { return __builtin_ffsll(x); }
EMULATOR_INLINE unsigned __brev(unsigned x) {
  unsigned y = 0;
  for (int i = 0; i < 32; i++) y |= (x >> i & 1) << (31 - i);
  return y;
}
EMULATOR_INLINE unsigned __byte_perm(unsigned a, unsigned b, unsigned selector) {
  const uint64_t both = uint64_t(b) << 32 | a;
  unsigned result = 0;
  for (int i = 0; i < 4; i++) {
    const unsigned pick = selector >> 4 * i & 15, byte = both >> 8 * (pick & 7) & 255;
    result |= (pick & 8 ? (byte & 128 ? 255u : 0u) : byte) << 8 * i;
  }
  return result;
}
EMULATOR_INLINE unsigned __funnelshift_l(unsigned low, unsigned high, unsigned by) {
  return (uint64_t(high) << 32 | low) << (by & 31) >> 32;
}
EMULATOR_INLINE unsigned __funnelshift_r(unsigned low, unsigned high, unsigned by) {
  return (uint64_t(high) << 32 | low) >> (by & 31);
}

// ---- integers -----------------------------------------------------------------------------------
template <class A, class B> EMULATOR_INLINE std::common_type_t<A, B> min(A a, B b) {
  using T = std::common_type_t<A, B>;
  if constexpr (std::is_floating_point_v<T>) return fmin(T(a), T(b));
  else return T(b) < T(a) ? T(b) : T(a);
}
template <class A, class B> EMULATOR_INLINE std::common_type_t<A, B> max(A a, B b) {
  using T = std::common_type_t<A, B>;
  if constexpr (std::is_floating_point_v<T>) return fmax(T(a), T(b));
  else return T(a) < T(b) ? T(b) : T(a);
}
EMULATOR_INLINE unsigned umin(unsigned a, unsigned b) { return min(a, b); }
EMULATOR_INLINE unsigned umax(unsigned a, unsigned b) { return max(a, b); }
EMULATOR_INLINE long long llmin(long long a, long long b) { return min(a, b); }
EMULATOR_INLINE long long llmax(long long a, long long b) { return max(a, b); }
EMULATOR_INLINE unsigned __sad(int a, int b, unsigned c) { return c + (a < b ? unsigned(b) - a : unsigned(a) - b); }
EMULATOR_INLINE unsigned __usad(unsigned a, unsigned b, unsigned c) { return c + (a < b ? b - a : a - b); }
EMULATOR_INLINE int __hadd(int a, int b) { return (int64_t(a) + b) >> 1; }
EMULATOR_INLINE int __rhadd(int a, int b) { return (int64_t(a) + b + 1) >> 1; }
EMULATOR_INLINE unsigned __uhadd(unsigned a, unsigned b) { return (uint64_t(a) + b) >> 1; }
EMULATOR_INLINE unsigned __umul24(unsigned a, unsigned b) { return (a & 0xffffff) * (b & 0xffffff); }
EMULATOR_INLINE long long __mul64hi(long long a, long long b) { return static_cast<__int128>(a) * b >> 64; }
EMULATOR_INLINE int __mul24(int a, int b) { return (a << 8 >> 8) * (b << 8 >> 8); }
EMULATOR_INLINE int __mulhi(int a, int b) { return int64_t(a) * b >> 32; }
EMULATOR_INLINE unsigned __umulhi(unsigned a, unsigned b) { return uint64_t(a) * b >> 32; }
EMULATOR_INLINE unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
  return static_cast<unsigned __int128>(a) * b >> 64;
}
EMULATOR_INLINE int __dp4a(int a, int b, int c) {
  for (int i = 0; i < 4; i++) c += int(int8_t(a >> 8 * i)) * int8_t(b >> 8 * i);
  return c;
}
EMULATOR_INLINE unsigned __dp4a(unsigned a, unsigned b, unsigned c) {
  for (int i = 0; i < 4; i++) c += (a >> 8 * i & 255) * (b >> 8 * i & 255);
  return c;
}

// ---- floats -------------------------------------------------------------------------------------
EMULATOR_INLINE float rsqrtf(float x) { return 1.0f / sqrtf(x); }
EMULATOR_INLINE double rsqrt(double x) { return 1.0 / sqrt(x); }
EMULATOR_INLINE float __expf(float x) { return expf(x); }
EMULATOR_INLINE float __exp10f(float x) { return exp10f(x); }
EMULATOR_INLINE float __logf(float x) { return logf(x); }
EMULATOR_INLINE float __log2f(float x) { return log2f(x); }
EMULATOR_INLINE float __log10f(float x) { return log10f(x); }
EMULATOR_INLINE float __sinf(float x) { return sinf(x); }
EMULATOR_INLINE float __cosf(float x) { return cosf(x); }
EMULATOR_INLINE float __tanf(float x) { return tanf(x); }
EMULATOR_INLINE float __powf(float x, float y) { return powf(x, y); }
EMULATOR_INLINE void __sincosf(float x, float* s, float* c) { *s = sinf(x), *c = cosf(x); }
EMULATOR_INLINE float sinpif(float x) { return sin(x * 3.14159265358979323846); }
EMULATOR_INLINE float cospif(float x) { return cos(x * 3.14159265358979323846); }
EMULATOR_INLINE float normcdff(float x) { return 0.5 * erfc(-x * 0.70710678118654752440); }
EMULATOR_INLINE float rhypotf(float a, float b) { return 1.0f / hypotf(a, b); }
EMULATOR_INLINE float rcbrtf(float x) { return 1.0f / cbrtf(x); }
EMULATOR_INLINE float fdividef(float a, float b) { return a / b; }
EMULATOR_INLINE float __fdividef(float a, float b) { return a / b; }
EMULATOR_INLINE float __saturatef(float x) { return fminf(fmaxf(x, 0.0f), 1.0f); }
EMULATOR_INLINE float __fadd_rn(float a, float b) { return a + b; }
EMULATOR_INLINE float __fsub_rn(float a, float b) { return a - b; }
EMULATOR_INLINE float __fmul_rn(float a, float b) { return a * b; }
EMULATOR_INLINE float __fdiv_rn(float a, float b) { return a / b; }
EMULATOR_INLINE float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
EMULATOR_INLINE float __frcp_rn(float a) { return 1.0f / a; }
EMULATOR_INLINE float __fsqrt_rn(float a) { return sqrtf(a); }
EMULATOR_INLINE float __frsqrt_rn(float a) { return 1.0f / sqrtf(a); }
EMULATOR_INLINE double __dadd_rn(double a, double b) { return a + b; }
EMULATOR_INLINE double __dmul_rn(double a, double b) { return a * b; }
EMULATOR_INLINE double __fma_rn(double a, double b, double c) { return fma(a, b, c); }

// ---- conversions: out of range, a GPU gives the nearest number, and 0 for NaN -------------------
namespace emulator {
template <class I, class F> EMULATOR_INLINE I to_integer(F x) {
  constexpr int value_bits = 8 * sizeof(I) - std::is_signed_v<I>;
  constexpr I least = std::is_signed_v<I> ? I(I(1) << (8 * sizeof(I) - 1)) : 0, most = I(~least);
  if (!(x == x)) return 0;
  if (x <= F(least)) return least;
  return x >= ldexp(F(1), value_bits) ? most : I(x);
}
}  // namespace emulator
#define EMULATOR_TO_INTEGER(F, FNAME, I, INAME)                                                                     \
  EMULATOR_INLINE I __##FNAME##2##INAME##_rn(F x) { return emulator::to_integer<I>(nearbyint(x)); }                 \
  EMULATOR_INLINE I __##FNAME##2##INAME##_rz(F x) { return emulator::to_integer<I>(trunc(x)); }                     \
  EMULATOR_INLINE I __##FNAME##2##INAME##_rd(F x) { return emulator::to_integer<I>(floor(x)); }                     \
  EMULATOR_INLINE I __##FNAME##2##INAME##_ru(F x) { return emulator::to_integer<I>(ceil(x)); }
EMULATOR_TO_INTEGER(float, float, int, int)
EMULATOR_TO_INTEGER(float, float, unsigned, uint)
EMULATOR_TO_INTEGER(float, float, long long, ll)
EMULATOR_TO_INTEGER(float, float, unsigned long long, ull)
EMULATOR_TO_INTEGER(double, double, int, int)
EMULATOR_TO_INTEGER(double, double, unsigned, uint)
EMULATOR_TO_INTEGER(double, double, long long, ll)
EMULATOR_INLINE float __int2float_rn(int i) { return i; }
EMULATOR_INLINE float __uint2float_rn(unsigned i) { return i; }
EMULATOR_INLINE float __ll2float_rn(long long i) { return i; }
EMULATOR_INLINE float __ull2float_rn(unsigned long long i) { return i; }
EMULATOR_INLINE double __int2double_rn(int i) { return i; }
EMULATOR_INLINE float __double2float_rn(double d) { return d; }

// ---- loads and stores with a hint about the cache, which means nothing here ---------------------
#define EMULATOR_LOAD(NAME) template <class T> EMULATOR_INLINE T NAME(const T* p) { T value = *p; return value; }
#define EMULATOR_STORE(NAME) \
  template <class T> EMULATOR_INLINE void NAME(T* p, std::common_type_t<T> value) { *p = value; }
EMULATOR_LOAD(__ldg)
EMULATOR_LOAD(__ldcs)
EMULATOR_LOAD(__ldcg)
EMULATOR_LOAD(__ldca)
EMULATOR_LOAD(__ldlu)
EMULATOR_LOAD(__ldcv)
EMULATOR_STORE(__stcs)
EMULATOR_STORE(__stcg)
EMULATOR_STORE(__stwb)
EMULATOR_STORE(__stwt)

// ---- math_constants.h ---------------------------------------------------------------------------
#define CUDART_INF_F __int_as_float(0x7f800000)
#define CUDART_NAN_F __int_as_float(0x7fffffff)
#define CUDART_MAX_NORMAL_F __int_as_float(0x7f7fffff)
#define CUDART_PI_F 3.141592654f
#define CUDART_PI 3.1415926535897931e+0
#define CUDART_SQRT_HALF_F 0.707106781f
#define CUDART_L2E_F 1.442695041f
#define CUDART_LN2_F 0.693147181f
#define CUDART_INF __longlong_as_double(0x7ff0000000000000ll)
