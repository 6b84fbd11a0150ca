// halves.h: the two 16-bit types. Arithmetic goes through float and is rounded back to nearest, ties to even, which
// gives the bits of the hardware: a float holds the exact sum or enough of the product and quotient of two halves.
// (__hfma is rounded twice here, once on the hardware; the difference is in the last bit and rare.)
#pragma once

struct __align__(2) __nv_bfloat16 {
  unsigned short bits;
  __nv_bfloat16() = default;                             // without a value, so that it can be shared
  EMULATOR_INLINE __nv_bfloat16(float f) {
    const unsigned u = emulator::bits<unsigned>(f);
    bits = (u & 0x7fffffffu) > 0x7f800000u ? 0x7fff : (u + 0x7fffu + (u >> 16 & 1)) >> 16;
  }
  EMULATOR_INLINE __nv_bfloat16(double d) : __nv_bfloat16(float(d)) {}
  EMULATOR_INLINE __nv_bfloat16(int i) : __nv_bfloat16(float(i)) {}
  EMULATOR_INLINE __nv_bfloat16(unsigned i) : __nv_bfloat16(float(i)) {}
  EMULATOR_INLINE operator float() const { return emulator::bits<float>(unsigned(bits) << 16); }
};

struct __align__(2) __half {
  _Float16 value;
  __half() = default;
  EMULATOR_INLINE __half(float f) : value(f) {}
  EMULATOR_INLINE __half(double d) : value(d) {}
  EMULATOR_INLINE __half(int i) : value(i) {}
  EMULATOR_INLINE __half(unsigned i) : value(i) {}
  EMULATOR_INLINE operator float() const { return value; }
};
struct __align__(4) __nv_bfloat162 { __nv_bfloat16 x, y; };
struct __align__(4) __half2 { __half x, y; };
typedef __nv_bfloat16 nv_bfloat16;
typedef __nv_bfloat162 nv_bfloat162;
typedef __half half;
typedef __half2 half2;

// ---- arithmetic and comparison ------------------------------------------------------------------
#define EMULATOR_HALF_OPERATOR(H, OP)                                                                        \
  EMULATOR_INLINE H operator OP(H a, H b) { return H(float(a) OP float(b)); }                                \
  EMULATOR_INLINE H& operator OP##=(H& a, H b) { return a = a OP b; }                                        \
  EMULATOR_INLINE H##2_ operator OP(H##2_ a, H##2_ b) { return {a.x OP b.x, a.y OP b.y}; }
#define EMULATOR_HALF_COMPARE(H, OP, NAME)                                                                   \
  EMULATOR_INLINE bool operator OP(H a, H b) { return float(a) OP float(b); }                                \
  EMULATOR_INLINE bool NAME(H a, H b) { return float(a) OP float(b); }
#define EMULATOR_HALF_BINARY(H, NAME, EXPRESSION)                                                            \
  EMULATOR_INLINE H NAME(H p, H q) { const float a = p, b = q; return H(float(EXPRESSION)); }                \
  EMULATOR_INLINE H##2_ NAME##2(H##2_ p, H##2_ q) { return {NAME(p.x, q.x), NAME(p.y, q.y)}; }
#define EMULATOR_HALF_UNARY(H, NAME, EXPRESSION)                                                             \
  EMULATOR_INLINE H h##NAME(H p) { const float a = p; return H(float(EXPRESSION)); }                         \
  EMULATOR_INLINE H##2_ h2##NAME(H##2_ p) { return {h##NAME(p.x), h##NAME(p.y)}; }
#define EMULATOR_HALF(H)                                                                                     \
  EMULATOR_HALF_OPERATOR(H, +) EMULATOR_HALF_OPERATOR(H, -) EMULATOR_HALF_OPERATOR(H, *) EMULATOR_HALF_OPERATOR(H, /) \
  EMULATOR_INLINE H operator-(H a) { return H(-float(a)); }                                                  \
  EMULATOR_HALF_COMPARE(H, <, __hlt) EMULATOR_HALF_COMPARE(H, <=, __hle) EMULATOR_HALF_COMPARE(H, >, __hgt)  \
  EMULATOR_HALF_COMPARE(H, >=, __hge) EMULATOR_HALF_COMPARE(H, ==, __heq) EMULATOR_HALF_COMPARE(H, !=, __hne) \
  EMULATOR_HALF_BINARY(H, __hadd, a + b) EMULATOR_HALF_BINARY(H, __hsub, a - b)                              \
  EMULATOR_HALF_BINARY(H, __hmul, a * b) EMULATOR_HALF_BINARY(H, __hmax, fmaxf(a, b))                        \
  EMULATOR_HALF_BINARY(H, __hmin, fminf(a, b)) EMULATOR_HALF_BINARY(H, __hdiv_, a / b)                       \
  EMULATOR_INLINE H __hdiv(H a, H b) { return a / b; }                                                       \
  EMULATOR_INLINE H##2_ __h2div(H##2_ a, H##2_ b) { return a / b; }                                          \
  EMULATOR_INLINE H __hfma(H a, H b, H c) { return H(fmaf(a, b, c)); }                                       \
  EMULATOR_INLINE H##2_ __hfma2(H##2_ a, H##2_ b, H##2_ c) { return {__hfma(a.x, b.x, c.x), __hfma(a.y, b.y, c.y)}; } \
  EMULATOR_INLINE H __hneg(H a) { return -a; }                                                               \
  EMULATOR_INLINE H##2_ __hneg2(H##2_ a) { return {-a.x, -a.y}; }                                            \
  EMULATOR_INLINE H __habs(H a) { return H(fabsf(a)); }                                                      \
  EMULATOR_INLINE H##2_ __habs2(H##2_ a) { return {__habs(a.x), __habs(a.y)}; }                              \
  EMULATOR_INLINE bool __hisnan(H a) { return isnan(float(a)); }                                             \
  EMULATOR_INLINE int __hisinf(H a) { return isinf(float(a)) ? (float(a) < 0 ? -1 : 1) : 0; }                \
  EMULATOR_HALF_UNARY(H, exp, expf(a)) EMULATOR_HALF_UNARY(H, exp2, exp2f(a)) EMULATOR_HALF_UNARY(H, log, logf(a)) \
  EMULATOR_HALF_UNARY(H, log2, log2f(a)) EMULATOR_HALF_UNARY(H, sqrt, sqrtf(a)) \
  EMULATOR_HALF_UNARY(H, rsqrt, 1.0f / sqrtf(a)) \
  EMULATOR_HALF_UNARY(H, rcp, 1.0f / a) EMULATOR_HALF_UNARY(H, sin, sinf(a)) EMULATOR_HALF_UNARY(H, cos, cosf(a))  \
  EMULATOR_HALF_UNARY(H, floor, floorf(a)) EMULATOR_HALF_UNARY(H, ceil, ceilf(a))                            \
  EMULATOR_INLINE float __low2float(H##2_ a) { return a.x; }                                                 \
  EMULATOR_INLINE float __high2float(H##2_ a) { return a.y; }                                                \
  EMULATOR_INLINE H##2_ __lowhigh2highlow(H##2_ a) { return {a.y, a.x}; }
typedef __nv_bfloat162 __nv_bfloat162_;
typedef __half2 __half2_;
EMULATOR_HALF(__nv_bfloat16)
EMULATOR_HALF(__half)

// ---- conversions --------------------------------------------------------------------------------
#define EMULATOR_CONVERSIONS(H, NAME, H2, NAME2, TO_FLOAT2, FROM_FLOAT2)                                     \
  EMULATOR_INLINE H __float2##NAME(float f) { return H(f); }                                                 \
  EMULATOR_INLINE H __float2##NAME##_rn(float f) { return H(f); }                                            \
  EMULATOR_INLINE H __double2##NAME(double d) { return H(float(d)); }                                        \
  EMULATOR_INLINE H __int2##NAME##_rn(int i) { return H(float(i)); }                                         \
  EMULATOR_INLINE H __uint2##NAME##_rn(unsigned i) { return H(float(i)); }                                   \
  EMULATOR_INLINE float __##NAME##2float(H h) { return h; }                                                  \
  EMULATOR_INLINE int __##NAME##2int_rn(H h) { return int(nearbyintf(h)); }                                  \
  EMULATOR_INLINE int __##NAME##2int_rz(H h) { return int(float(h)); }                                       \
  EMULATOR_INLINE H2 __float2##NAME2##_rn(float f) { return {H(f), H(f)}; }                                  \
  EMULATOR_INLINE H2 __floats2##NAME2##_rn(float a, float b) { return {H(a), H(b)}; }                        \
  EMULATOR_INLINE H2 FROM_FLOAT2(float2 f) { return {H(f.x), H(f.y)}; }                                      \
  EMULATOR_INLINE float2 TO_FLOAT2(H2 h) { return {h.x, h.y}; }                                              \
  EMULATOR_INLINE H2 __##NAME##2##NAME2(H h) { return {h, h}; }                                              \
  EMULATOR_INLINE H2 __halves2##NAME2(H a, H b) { return {a, b}; }                                           \
  EMULATOR_INLINE H2 make_##NAME2(H a, H b) { return {a, b}; }                                               \
  EMULATOR_INLINE H __low2##NAME(H2 h) { return h.x; }                                                       \
  EMULATOR_INLINE H __high2##NAME(H2 h) { return h.y; }                                                      \
  EMULATOR_INLINE H2 __low2##NAME2(H2 h) { return {h.x, h.x}; }                                              \
  EMULATOR_INLINE H2 __high2##NAME2(H2 h) { return {h.y, h.y}; }                                             \
  EMULATOR_INLINE H __ushort_as_##NAME(unsigned short u) { return emulator::bits<H>(u); }                    \
  EMULATOR_INLINE unsigned short __##NAME##_as_ushort(H h) { return emulator::bits<unsigned short>(h); }     \
  EMULATOR_INLINE H __short_as_##NAME(short u) { return emulator::bits<H>(u); }                              \
  EMULATOR_INLINE short __##NAME##_as_short(H h) { return emulator::bits<short>(h); }
EMULATOR_CONVERSIONS(__nv_bfloat16, bfloat16, __nv_bfloat162, bfloat162, __bfloat1622float2, __float22bfloat162_rn)
EMULATOR_CONVERSIONS(__half, half, __half2, half2, __half22float2, __float22half2_rn)
