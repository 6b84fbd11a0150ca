// What the two ways through the experts share: few tokens (experts.cu) and many (grouped.cu).
//
// Options: SCALED is 1 if weights are whole numbers as int8.py makes them, whose rows have scales of SCALE. DENSE is 1
// if there is one expert, which every token has with the weight 1.
#pragma once
#include "numbers.cuh"

#ifndef SCALE
#define SCALE WEIGHT
#endif
#ifndef SCALED
#define SCALED 0
#endif
#ifndef DENSE
#define DENSE 0
#endif

__device__ __forceinline__ float silu(float x) { return x / (1.0f + expf(-x)); }

// A row's sum, times the scale that its whole numbers have.
__device__ __forceinline__ float scaled(float sum, const SCALE* scale, int row) {
  return SCALED ? sum * to_float(scale[row]) : sum;
}
