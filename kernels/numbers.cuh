// Numbers are stored as float or as bfloat16 and computed as float.
//
// STORE is the type of activations, WEIGHT that of weights; both are chosen when a file is compiled, by -D options.
#pragma once
#include <cuda_bf16.h>

#ifndef STORE
#define STORE __nv_bfloat16
#endif
#ifndef WEIGHT
#define WEIGHT STORE
#endif

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ __forceinline__ float to_float(signed char x) { return x; }

template <class S> __device__ __forceinline__ S from_float(float x);
template <> __device__ __forceinline__ float from_float<float>(float x) { return x; }
template <> __device__ __forceinline__ __nv_bfloat16 from_float<__nv_bfloat16>(float x) { return __float2bfloat16(x); }

// How many numbers of a type are 16 bytes, the widest that one thread reads at a time.
template <class S> constexpr int WIDE = 16 / sizeof(S);

// The numbers that 16 bytes are: 4 of float, 8 of bfloat16, or 16 whole ones of a byte.
__device__ __forceinline__ void unpack16(uint4 bits, float (&to)[4]) {
  to[0] = __uint_as_float(bits.x), to[1] = __uint_as_float(bits.y);
  to[2] = __uint_as_float(bits.z), to[3] = __uint_as_float(bits.w);
}
__device__ __forceinline__ void unpack16(uint4 bits, float (&to)[8]) {
  unsigned words[4] = {bits.x, bits.y, bits.z, bits.w};
#pragma unroll
  for (int i = 0; i < 4; i++) {  // a bfloat16 is the upper half of a float
    to[2 * i] = __uint_as_float(words[i] << 16);
    to[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000u);
  }
}
__device__ __forceinline__ void unpack16(uint4 bits, float (&to)[16]) {
  unsigned words[4] = {bits.x, bits.y, bits.z, bits.w};
#pragma unroll
  for (int i = 0; i < 16; i++) {
    // The byte plus 128, as the last bits of 2^23: exact, and without a conversion, which GPUs make at a lower rate.
    unsigned number = __byte_perm(words[i / 4] ^ 0x80808080u, 0x4b000000u, 0x7440 + i % 4);
    to[i] = __uint_as_float(number) - 8388736.0f;  // 2^23 + 128
  }
}

// Read 16 bytes at once, from an address that is a multiple of 16.
__device__ __forceinline__ void load16(const float* from, float (&to)[4]) {
  float4 bits = *reinterpret_cast<const float4*>(from);
  to[0] = bits.x, to[1] = bits.y, to[2] = bits.z, to[3] = bits.w;
}
__device__ __forceinline__ void load16(const __nv_bfloat16* from, float (&to)[8]) {
  unpack16(*reinterpret_cast<const uint4*>(from), to);
}
__device__ __forceinline__ void load16(const signed char* from, float (&to)[16]) {
  unpack16(*reinterpret_cast<const uint4*>(from), to);
}

// Round to a type and write 16 bytes at once, to an address that is a multiple of 16.
__device__ __forceinline__ void store16(float* to, const float (&from)[4]) {
  *reinterpret_cast<float4*>(to) = make_float4(from[0], from[1], from[2], from[3]);
}
__device__ __forceinline__ void store16(__nv_bfloat16* to, const float (&from)[8]) {
  unsigned words[4];
  for (int i = 0; i < 4; i++) {
    unsigned low = __bfloat16_as_ushort(__float2bfloat16(from[2 * i]));
    words[i] = low | (unsigned)__bfloat16_as_ushort(__float2bfloat16(from[2 * i + 1])) << 16;
  }
  *reinterpret_cast<uint4*>(to) = make_uint4(words[0], words[1], words[2], words[3]);
}

// Fill `to` with numbers, 8 or 16 bytes at a time: as many as belong to 16 bytes of any type.
__device__ __forceinline__ void load_beside(const float* from, float (&to)[2]) {
  float2 bits = *reinterpret_cast<const float2*>(from);
  to[0] = bits.x, to[1] = bits.y;
}
__device__ __forceinline__ void load_beside(const float* from, float (&to)[4]) { load16(from, to); }
template <int N> __device__ __forceinline__ void load_beside(const float* from, float (&to)[N]) {
  float part[4];
#pragma unroll
  for (int i = 0; i < N; i += 4) {
    load16(from + i, part);
    for (int j = 0; j < 4; j++) to[i + j] = part[j];
  }
}
__device__ __forceinline__ void load_beside(const __nv_bfloat16* from, float (&to)[2]) {
  unsigned bits = *reinterpret_cast<const unsigned*>(from);
  to[0] = __uint_as_float(bits << 16), to[1] = __uint_as_float(bits & 0xffff0000u);
}
__device__ __forceinline__ void load_beside(const __nv_bfloat16* from, float (&to)[4]) {
  uint2 bits = *reinterpret_cast<const uint2*>(from);
  to[0] = __uint_as_float(bits.x << 16), to[1] = __uint_as_float(bits.x & 0xffff0000u);
  to[2] = __uint_as_float(bits.y << 16), to[3] = __uint_as_float(bits.y & 0xffff0000u);
}
__device__ __forceinline__ void load_beside(const __nv_bfloat16* from, float (&to)[8]) { load16(from, to); }
__device__ __forceinline__ void load_beside(const __nv_bfloat16* from, float (&to)[16]) {
  float part[8];
#pragma unroll
  for (int i = 0; i < 16; i += 8) {
    load16(from + i, part);
    for (int j = 0; j < 8; j++) to[i + j] = part[j];
  }
}
__device__ __forceinline__ void load_beside(const signed char* from, float (&to)[16]) { load16(from, to); }
__device__ __forceinline__ void load_beside(const signed char* from, float (&to)[4]) {
  unsigned word = *reinterpret_cast<const unsigned*>(from);
#pragma unroll
  for (int i = 0; i < 4; i++) to[i] = static_cast<signed char>(word >> 8 * i);
}

// Round to a type and write 8 or 16 bytes at once: as many as four or eight numbers are.
__device__ __forceinline__ void store_beside(float* to, const float (&from)[4]) { store16(to, from); }
__device__ __forceinline__ void store_beside(__nv_bfloat16* to, const float (&from)[8]) { store16(to, from); }
__device__ __forceinline__ void store_beside(__nv_bfloat16* to, const float (&from)[4]) {
  __nv_bfloat162 low = __floats2bfloat162_rn(from[0], from[1]), high = __floats2bfloat162_rn(from[2], from[3]);
  *reinterpret_cast<uint2*>(to) =
      make_uint2(*reinterpret_cast<unsigned*>(&low), *reinterpret_cast<unsigned*>(&high));
}

// A vector that may be cut short: `wide` promises that all of it is there and aligned. Otherwise `count` numbers, of
// which there may be more or fewer than there is room for, are read or written one by one; the others are zero.
template <class S, int N>
__device__ __forceinline__ void load_some(const S* from, int count, bool wide, float (&to)[N]) {
  if (wide) {
    load_beside(from, to);
  } else {
#pragma unroll
    for (int i = 0; i < N; i++) to[i] = i < count ? to_float(from[i]) : 0.0f;
  }
}
template <class S, int N>
__device__ __forceinline__ void store_some(S* to, int count, bool wide, const float (&from)[N]) {
  if (wide) {
    store_beside(to, from);
  } else {
#pragma unroll
    for (int i = 0; i < N; i++) {
      if (i < count) to[i] = from_float<S>(from[i]);
    }
  }
}

// Whether an address is one that 16 bytes may be read from at once.
__device__ __forceinline__ bool is_aligned16(const void* address) { return (size_t)address % 16 == 0; }
