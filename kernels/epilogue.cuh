// What follows the product of a linear map, before its result is rounded.
//
// Options choose it: SCALED multiplies a row's sum by its scale (whole numbers as int8.py makes them), BIASED adds the
// bias, GELU comes next, RESIDUAL adds the residual stream. An array whose option is 0 is not read: it may be any.
#pragma once
#include "numbers.cuh"

#ifndef SCALE
#define SCALE STORE
#endif
#ifndef SCALED
#define SCALED 0
#endif
#ifndef BIASED
#define BIASED 0
#endif
#ifndef GELU
#define GELU 0
#endif
#ifndef RESIDUAL
#define RESIDUAL 0
#endif

__device__ __forceinline__ float gelu(float x) { return x * (0.5f * (1.0f + erff(x * 0.70710678f))); }

// One number of the output: its row of the weights, and its place in out.
template <class S>
__device__ __forceinline__ S finish(float sum, const SCALE* scale, const S* bias, const S* residual, int row,
                                    size_t place) {
  if (SCALED) sum *= to_float(scale[row]);
  if (BIASED) sum += to_float(bias[row]);
  if (GELU) sum = gelu(sum);
  if (RESIDUAL) sum += to_float(residual[place]);
  return from_float<S>(sum);
}

// Four neighbours of one token, of which `there` are in out. wide: all four are, and begin at a multiple of four.
template <class S>
__device__ __forceinline__ void finish(float (&sums)[4], const SCALE* scale, const S* bias, const S* residual, S* out,
                                       int row, size_t place, int there, bool wide) {
  float other[4];
  if (SCALED) load_some(scale + row, there, wide, other);
#pragma unroll
  for (int i = 0; i < 4 && SCALED; i++) sums[i] *= other[i];
  if (BIASED) load_some(bias + row, there, wide, other);
#pragma unroll
  for (int i = 0; i < 4; i++) {
    if (BIASED) sums[i] += other[i];
    if (GELU) sums[i] = gelu(sums[i]);
  }
  if (RESIDUAL) load_some(residual + place, there, wide, other);
#pragma unroll
  for (int i = 0; i < 4 && RESIDUAL; i++) sums[i] += other[i];
  store_some(out + place, there, wide, sums);
}
