// RMSNorm: divide each row by its root mean square, then scale each column.
//
// NumPy: tiny/rms_norm.py rms_norm
//
// The words of all these files. A kernel is a function that a grid of threads runs, all of them the same lines: what in
// NumPy is an axis is here the number of a thread. A block is some of the threads (blockDim.x of them, this one is
// threadIdx.x of block blockIdx.x) that share fast memory on the chip, "shared memory", and can wait for each other
// at a barrier, __syncthreads. Of a block, 32 threads at a time are a warp, its lanes: they step together, and hand
// numbers to each other by shuffles, without memory. Global memory, where the arrays are, moves in sectors of 32
// aligned bytes: lanes that want neighbouring numbers share them, lanes that want distant ones pay a sector each.
//
// T tokens, D dim. All arrays are row-major and contiguous: x, out (T, D) of STORE, weight (D,) of WEIGHT; in the
// form with the residual also y (T, D) and sum (T, D) of STORE. Squares are added and everything is computed in
// float; out is rounded to STORE once, at the end. D may be any number: rows that are not made of whole, aligned 16
// bytes are read number by number.
//
// rms_norm_v1: grid ceil(T / threads), block any.
// rms_norm_v2: grid T, block a multiple of 32.
// rms_norm_v3, rms_norm_v3_add: grid T, block a multiple of 32 with block * CHUNKS * WIDE<STORE> >= D.
#include "numbers.cuh"

#ifndef CHUNKS
#define CHUNKS 2  // 16-byte parts of the row that a thread keeps, v3
#endif

// v1: a thread for each row
// Costs: neighbouring threads read rows D numbers apart, a sector of 32 bytes for each number; T threads in all.
// Saves: nothing: it is the NumPy function, loop for loop.
extern "C" __global__ void rms_norm_v1(const STORE* x, const WEIGHT* weight, STORE* out, int T, int D, float eps) {
  int token = blockIdx.x * blockDim.x + threadIdx.x;
  if (token >= T) return;
  const STORE* row = x + (size_t)token * D;
  // (1) mean of squares
  float mean = 0.0f;
  for (int i = 0; i < D; i++) mean += to_float(row[i]) * to_float(row[i]);
  mean /= D;
  // (2) divide by the root
  float scale = 1.0f / sqrtf(mean + eps);
  for (int i = 0; i < D; i++) {
    float normed = to_float(row[i]) * scale;
    // (3) scale each column
    out[(size_t)token * D + i] = from_float<STORE>(normed * to_float(weight[i]));
  }
}

// The sum of one number of every thread of the block, in all of them, added in one order. Called once by a kernel:
// a second call would write over partial sums that slow threads of the first have yet to read.
__device__ __forceinline__ float block_sum(float value) {
  // (1) the lanes of a warp, by shuffles
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) value += __shfl_xor_sync(0xffffffffu, value, distance);
  // (2) the warps of the block, through shared memory
  __shared__ float partial[32];
  if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = value;
  __syncthreads();
  float sum = 0.0f;
  for (int warp = 0; warp < blockDim.x / 32; warp++) sum += partial[warp];
  return sum;
}

// Scale one part of a row and write it.
__device__ __forceinline__ void write_normed(const float (&part)[WIDE<STORE>], float scale, const WEIGHT* weight,
                                             STORE* out, int count, bool wide) {
  float columns[WIDE<STORE>], normed[WIDE<STORE>];
  load_some(weight, count, wide, columns);
#pragma unroll
  for (int i = 0; i < WIDE<STORE>; i++) normed[i] = part[i] * scale * columns[i];
  store_some(out, count, wide, normed);
}

// Whether every row starts at an address for 16-byte accesses and ends with one.
__device__ __forceinline__ bool rows_are_wide(const STORE* x, const WEIGHT* weight, const STORE* out, int D) {
  return D % WIDE<STORE> == 0 && is_aligned16(x) && is_aligned16(weight) && is_aligned16(out);
}

// v2: a block for each row, 16 bytes for each thread at a time, sums by shuffles
// Costs: one barrier; 5 shuffles a warp. Saves: sectors are read whole, 8 times fewer of them for float and 16
// times for bfloat16; 4 or 8 times fewer load instructions; the row is read by many threads at a time.
extern "C" __global__ void rms_norm_v2(const STORE* x, const WEIGHT* weight, STORE* out, int D, float eps) {
  bool wide = rows_are_wide(x, weight, out, D);
  size_t row = (size_t)blockIdx.x * D;
  float squares = 0.0f, part[WIDE<STORE>];
  for (int i = threadIdx.x * WIDE<STORE>; i < D; i += blockDim.x * WIDE<STORE>) {
    load_some(x + row + i, D - i, wide, part);
#pragma unroll
    for (int j = 0; j < WIDE<STORE>; j++) squares += part[j] * part[j];
  }
  float scale = 1.0f / sqrtf(block_sum(squares) / D + eps);
  for (int i = threadIdx.x * WIDE<STORE>; i < D; i += blockDim.x * WIDE<STORE>) {
    load_some(x + row + i, D - i, wide, part);
    write_normed(part, scale, weight + i, out + row + i, D - i, wide);
  }
}

// Normalise a row whose parts are in registers. A thread's parts are blockDim.x apart: neighbours read neighbours.
__device__ __forceinline__ void norm_of_registers(const float (&parts)[CHUNKS][WIDE<STORE>], const WEIGHT* weight,
                                                  STORE* out, int D, float eps, bool wide) {
  float squares = 0.0f;
#pragma unroll
  for (int c = 0; c < CHUNKS; c++) {
#pragma unroll
    for (int j = 0; j < WIDE<STORE>; j++) squares += parts[c][j] * parts[c][j];
  }
  float scale = 1.0f / sqrtf(block_sum(squares) / D + eps);
#pragma unroll
  for (int c = 0; c < CHUNKS; c++) {
    int i = (c * blockDim.x + threadIdx.x) * WIDE<STORE>;
    if (i < D) write_normed(parts[c], scale, weight + i, out + i, D - i, wide);
  }
}

// Read one part of a row, or zeros from beyond its end.
__device__ __forceinline__ void load_part(const STORE* row, int i, int D, bool wide, float (&part)[WIDE<STORE>]) {
  load_some(row + i, D - i, wide && i < D, part);
}

// v3: the row stays in registers between the sum and the scaling
// Costs: CHUNKS * WIDE<STORE> registers, so D has a limit: 16,384, with 16 of them in each of 1,024 threads.
// Saves: the second read of x, 2 passes over the row instead of 3; all its loads are under way before one is used.
extern "C" __global__ void __launch_bounds__(1024)
    rms_norm_v3(const STORE* x, const WEIGHT* weight, STORE* out, int D, float eps) {
  bool wide = rows_are_wide(x, weight, out, D);
  size_t row = (size_t)blockIdx.x * D;
  float parts[CHUNKS][WIDE<STORE>];
#pragma unroll
  for (int c = 0; c < CHUNKS; c++) {
    load_part(x + row, (c * blockDim.x + threadIdx.x) * WIDE<STORE>, D, wide, parts[c]);
  }
  norm_of_registers(parts, weight, out + row, D, eps, wide);
}

// The residual form of v3: sum = x + y, rounded to STORE and written, and out = norm(sum). A separate
// addition and norm make 5 passes over rows; this form saves the one that reads the sum again.
extern "C" __global__ void __launch_bounds__(1024)
    rms_norm_v3_add(const STORE* x, const STORE* y, const WEIGHT* weight, STORE* sum, STORE* out, int D, float eps) {
  bool wide = rows_are_wide(x, weight, out, D) && is_aligned16(y) && is_aligned16(sum);
  size_t row = (size_t)blockIdx.x * D;
  float parts[CHUNKS][WIDE<STORE>], other[WIDE<STORE>];
#pragma unroll
  for (int c = 0; c < CHUNKS; c++) {
    int i = (c * blockDim.x + threadIdx.x) * WIDE<STORE>;
    load_part(x + row, i, D, wide, parts[c]);
    load_part(y + row, i, D, wide, other);
#pragma unroll
    for (int j = 0; j < WIDE<STORE>; j++) parts[c][j] = to_float(from_float<STORE>(parts[c][j] + other[j]));
    if (i < D) store_some(sum + row + i, D - i, wide, parts[c]);
  }
  norm_of_registers(parts, weight, out + row, D, eps, wide);
}
