// Planted bugs in global memory and in arithmetic: bounds, arrays of a thread, outputs read before they are written,
// writes through const, misaligned addresses, division by zero.
//
// In all files of this folder: every kernel has one bug, on the line marked `// BUG: KIND` (where two lines race or two
// barriers disagree, both are marked). The kernel with `_ok` behind its name is its twin, without the bug. The line
// `// RUN:` above a kernel holds the options of `python -m kernels.emulator` for both of them.
#include <cuda_bf16.h>

// RUN: --grid 1 --block 64 --arg float32[64]:arange --arg float32[64]:zeros --arg int32:64
// A difference of neighbours: the last element has none.
extern "C" __global__ void overrun_by_one(const float* x, float* y, int n) {
  int t = threadIdx.x;
  y[t] = x[t + 1] - x[t];  // BUG: bounds
}
extern "C" __global__ void overrun_by_one_ok(const float* x, float* y, int n) {
  int t = threadIdx.x;
  y[t] = t + 1 < n ? x[t + 1] - x[t] : 0.0f;
}

// RUN: --grid 1 --block 64 --arg float32[64]:arange --arg float32[64]:zeros --arg int32:1048576
// A row length that belongs to another array.
extern "C" __global__ void overrun_far(const float* x, float* y, int row) {
  int t = threadIdx.x;
  y[t] = x[(size_t)t * row];  // BUG: bounds
}
extern "C" __global__ void overrun_far_ok(const float* x, float* y, int row) {
  int t = threadIdx.x;
  y[t] = x[(size_t)t * row % 64];
}

// RUN: --grid 1 --block 64 --arg float32[64]:arange --arg float32[64]:zeros
// A stencil looks to the left of the first element.
extern "C" __global__ void negative_index(const float* x, float* y) {
  int t = threadIdx.x;
  y[t] = 0.5f * (x[t - 1] + x[t]);  // BUG: bounds
}
extern "C" __global__ void negative_index_ok(const float* x, float* y) {
  int t = threadIdx.x;
  y[t] = 0.5f * ((t > 0 ? x[t - 1] : 0.0f) + x[t]);
}

// RUN: --grid 1 --block 64 --arg float32[64]:arange --arg float32[64]:zeros
// The same stencil in unsigned numbers: 0 - 1 is four billion.
extern "C" __global__ void unsigned_wraps(const float* x, float* y) {
  unsigned t = threadIdx.x;
  unsigned left = t - 1;
  y[t] = x[left];  // BUG: bounds
}
extern "C" __global__ void unsigned_wraps_ok(const float* x, float* y) {
  unsigned t = threadIdx.x;
  unsigned left = t == 0 ? 0 : t - 1;
  y[t] = x[left];
}

// RUN: --grid 4,3 --block 8,8 --arg float32[24,32]:random --arg float32[24,32]:zeros --arg int32:24 --arg int32:32
// Rows times rows instead of rows times columns would stay inside; columns for rows does not.
extern "C" __global__ void stride_mistake(const float* x, float* y, int rows, int cols) {
  int col = blockIdx.x * blockDim.x + threadIdx.x, row = blockIdx.y * blockDim.y + threadIdx.y;
  if (row < rows && col < cols)
    y[col * cols + row] = x[row * cols + col];  // BUG: bounds
}
extern "C" __global__ void stride_mistake_ok(const float* x, float* y, int rows, int cols) {
  int col = blockIdx.x * blockDim.x + threadIdx.x, row = blockIdx.y * blockDim.y + threadIdx.y;
  if (row < rows && col < cols)
    y[col * rows + row] = x[row * cols + col];
}

// RUN: --grid 2 --block 64 --arg float32[100]:random --arg float32[100]:random --arg float32[100]:empty --arg int32:100
// 100 elements, 128 threads.
extern "C" __global__ void ragged_tail(const float* a, const float* b, float* out, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  out[i] = a[i] + b[i];  // BUG: bounds
}
extern "C" __global__ void ragged_tail_ok(const float* a, const float* b, float* out, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) out[i] = a[i] + b[i];
}

// RUN: --grid 1 --block 16 --arg float32[62]:random --arg float32[16]:empty --arg int32:62
// Four numbers at a time, and 62 is no multiple of four.
extern "C" __global__ void float4_over_the_end(const float* x, float* sums, int n) {
  int i = 4 * threadIdx.x;
  float4 v = *reinterpret_cast<const float4*>(x + i);  // BUG: bounds
  sums[threadIdx.x] = v.x + v.y + v.z + v.w;
}
extern "C" __global__ void float4_over_the_end_ok(const float* x, float* sums, int n) {
  int i = 4 * threadIdx.x;
  float sum = 0.0f;
  if (i + 4 <= n) {
    float4 v = *reinterpret_cast<const float4*>(x + i);
    sum = v.x + v.y + v.z + v.w;
  } else {
    for (; i < n; i++) sum += x[i];
  }
  sums[threadIdx.x] = sum;
}

// RUN: --grid 1 --block 32 --arg bfloat16[63]:random --arg float32[32]:empty --arg int32:63
// Pairs of bfloat16 in a row of odd length.
extern "C" __global__ void pair_over_the_end(const __nv_bfloat16* x, float* y, int n) {
  int t = threadIdx.x;
  __nv_bfloat162 pair = reinterpret_cast<const __nv_bfloat162*>(x)[t];  // BUG: bounds
  y[t] = __low2float(pair) + __high2float(pair);
}
extern "C" __global__ void pair_over_the_end_ok(const __nv_bfloat16* x, float* y, int n) {
  int t = threadIdx.x;
  y[t] = __bfloat162float(x[2 * t]) + (2 * t + 1 < n ? __bfloat162float(x[2 * t + 1]) : 0.0f);
}

// RUN: --grid 1 --block 32 --arg float32[100]:random --arg float32[1]:zeros --arg int32:100
// The loop runs one element too far in one thread only.
extern "C" __global__ void loop_to_and_with_n(const float* x, float* y, int n) {
  float sum = 0.0f;
  for (int i = threadIdx.x; i <= n; i += 32)
    sum += x[i];  // BUG: bounds
  for (int d = 16; d > 0; d /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, d);
  if (threadIdx.x == 0) y[0] = sum;
}
extern "C" __global__ void loop_to_and_with_n_ok(const float* x, float* y, int n) {
  float sum = 0.0f;
  for (int i = threadIdx.x; i < n; i += 32)
    sum += x[i];
  for (int d = 16; d > 0; d /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, d);
  if (threadIdx.x == 0) y[0] = sum;
}

// RUN: --grid 8 --block 32 --arg int32[8]:arange --arg float32[7,32]:random --arg float32[8,32]:empty --arg int32:7
// An embedding of 7 rows is asked for its row 7.
extern "C" __global__ void token_out_of_range(const int* ids, const float* table, float* out, int vocab_size) {
  int token = blockIdx.x, t = threadIdx.x;
  out[token * 32 + t] = table[ids[token] * 32 + t];  // BUG: bounds
}
extern "C" __global__ void token_out_of_range_ok(const int* ids, const float* table, float* out, int vocab_size) {
  int token = blockIdx.x, t = threadIdx.x, id = ids[token];
  out[token * 32 + t] = id < vocab_size ? table[id * 32 + t] : 0.0f;
}

// RUN: --grid 1 --block 64 --arg int32[64]:arange --arg int32[8]:zeros
// A value at the upper edge of the range belongs to the last bin, not to the one behind it.
extern "C" __global__ void atomic_overrun(const int* x, int* bins) {
  int bin = x[threadIdx.x] * 8 / 63;
  atomicAdd(&bins[bin], 1);  // BUG: bounds
}
extern "C" __global__ void atomic_overrun_ok(const int* x, int* bins) {
  int bin = x[threadIdx.x] * 8 / 63;
  atomicAdd(&bins[bin < 8 ? bin : 7], 1);
}

// RUN: --grid 1 --block 64 --arg float32[64]:arange --arg float64[64]:empty
// The pointer is cast to a wider type: the index counts twice as far.
extern "C" __global__ void cast_to_wider(const float* x, double* y) {
  int t = threadIdx.x;
  y[t] = (double)(reinterpret_cast<const long long*>(x)[t] & 1);  // BUG: bounds
}
extern "C" __global__ void cast_to_wider_ok(const float* x, double* y) {
  int t = threadIdx.x;
  y[t] = (double)(reinterpret_cast<const int*>(x)[t] & 1);
}

// RUN: --grid 1 --block 64 --arg float32[64]:arange --arg float32[64]:zeros
// Only even threads are given something to point at.
extern "C" __global__ void null_pointer(const float* x, float* y) {
  int t = threadIdx.x;
  const float* from = nullptr;
  if (x[t] != 63.0f) from = x + t;
  y[t] = *from;  // BUG: bounds
}
extern "C" __global__ void null_pointer_ok(const float* x, float* y) {
  int t = threadIdx.x;
  const float* from = nullptr;
  if (x[t] != 63.0f) from = x + t;
  if (from != nullptr) y[t] = *from;
}

// RUN: --grid 1 --block 32 --arg float32[32,9]:random --arg float32[32]:empty --arg int32:9
// The four largest so far, held in registers: the fifth place does not exist.
extern "C" __global__ void local_overrun(const float* x, float* y, int n) {
  float best[4] = {-1e30f, -1e30f, -1e30f, -1e30f};
  for (int i = 0; i < n; i++) {
    float v = x[threadIdx.x * n + i];
    int place = 4;
    while (place > 0 && best[place - 1] < v) place--;
    for (int k = 3; k > place; k--) best[k] = best[k - 1];
    best[place] = v;  // BUG: bounds
  }
  y[threadIdx.x] = best[0] + best[1] + best[2] + best[3];
}
extern "C" __global__ void local_overrun_ok(const float* x, float* y, int n) {
  float best[4] = {-1e30f, -1e30f, -1e30f, -1e30f};
  for (int i = 0; i < n; i++) {
    float v = x[threadIdx.x * n + i];
    int place = 4;
    while (place > 0 && best[place - 1] < v) place--;
    for (int k = 3; k > place; k--) best[k] = best[k - 1];
    if (place < 4) best[place] = v;
  }
  y[threadIdx.x] = best[0] + best[1] + best[2] + best[3];
}

// RUN: --grid 1 --block 64 --arg float32[64]:arange --arg float32[64]:empty
// `+=` into an output that nobody has zeroed.
extern "C" __global__ void output_never_zeroed(const float* x, float* y) {
  int t = threadIdx.x;
  for (int i = 0; i < 4; i++)
    y[t] += x[(t + i) % 64];  // BUG: uninitialised
}
extern "C" __global__ void output_never_zeroed_ok(const float* x, float* y) {
  int t = threadIdx.x;
  y[t] = 0.0f;
  for (int i = 0; i < 4; i++)
    y[t] += x[(t + i) % 64];
}

// RUN: --grid 1 --block 64 --arg float32[64]:arange --arg float32[64]:empty --arg float32[64]:empty --arg int32:50
// The workspace is filled up to n and read beyond it.
extern "C" __global__ void workspace_half_filled(const float* x, float* work, float* y, int n) {
  int t = threadIdx.x;
  if (t < n) work[t] = 2.0f * x[t];
  __syncthreads();
  y[t] = work[63 - t];  // BUG: uninitialised
}
extern "C" __global__ void workspace_half_filled_ok(const float* x, float* work, float* y, int n) {
  int t = threadIdx.x;
  work[t] = t < n ? 2.0f * x[t] : 0.0f;
  __syncthreads();
  y[t] = work[63 - t];
}

// RUN: --grid 1 --block 64 --arg float32[64]:arange --arg float32[64]:zeros
// const is cast away.
extern "C" __global__ void const_cast_away(const float* x, float* y) {
  int t = threadIdx.x;
  float v = x[t];
  ((float*)x)[t] = 2.0f * v;  // BUG: const
  y[t] = v;
}
extern "C" __global__ void const_cast_away_ok(const float* x, float* y) {
  int t = threadIdx.x;
  float v = x[t];
  y[t] = v;
}

// RUN: --grid 2 --block 32 --arg float32[32]:random+float32[32]:random --arg float32[64]:zeros
// A table of pointers to weights: the weights are const, whatever a cast says.
extern "C" __global__ void const_table(const float* const* weights, float* y) {
  int t = threadIdx.x;
  float* w = const_cast<float*>(weights[blockIdx.x]);
  y[blockIdx.x * 32 + t] = w[t];
  w[t] *= 0.5f;  // BUG: const
}
extern "C" __global__ void const_table_ok(const float* const* weights, float* y) {
  int t = threadIdx.x;
  const float* w = weights[blockIdx.x];
  y[blockIdx.x * 32 + t] = w[t];
}

// RUN: --grid 1 --block 64 --arg int32[64]:arange --arg int32[64]:zeros
// An atomic writes as well.
extern "C" __global__ void const_atomic(const int* x, int* y) {
  int t = threadIdx.x;
  y[t] = x[t];
  __syncthreads();
  atomicMax(const_cast<int*>(x) + t, 5);  // BUG: const
}
extern "C" __global__ void const_atomic_ok(const int* x, int* y) {
  int t = threadIdx.x;
  y[t] = x[t];
  __syncthreads();
  atomicMax(y + t, 5);
}

// RUN: --grid 1 --block 8 --arg float32[64]:arange --arg float32[32]:empty
// Sixteen bytes at an address that is one float off.
extern "C" __global__ void misaligned_float4(const float* x, float* y) {
  int t = threadIdx.x;
  float4 v = *reinterpret_cast<const float4*>(x + 4 * t + 1);  // BUG: misaligned
  *reinterpret_cast<float4*>(y + 4 * t) = v;
}
extern "C" __global__ void misaligned_float4_ok(const float* x, float* y) {
  int t = threadIdx.x;
  float4 v = *reinterpret_cast<const float4*>(x + 4 * t + 4);
  *reinterpret_cast<float4*>(y + 4 * t) = v;
}

// RUN: --grid 1 --block 3 --arg bfloat16[3,12]:random --arg float32[3]:empty
// Rows of 12 bfloat16 are 24 bytes: every other row begins in the middle of 16.
extern "C" __global__ void misaligned_row(const __nv_bfloat16* x, float* y) {
  const __nv_bfloat16* row = x + 12 * threadIdx.x;
  uint4 bits = *reinterpret_cast<const uint4*>(row);  // BUG: misaligned
  y[threadIdx.x] = __uint_as_float((bits.x ^ bits.y ^ bits.z ^ bits.w) << 16);
}
extern "C" __global__ void misaligned_row_ok(const __nv_bfloat16* x, float* y) {
  const __nv_bfloat16* row = x + 12 * threadIdx.x;
  uint2 bits = *reinterpret_cast<const uint2*>(row);
  y[threadIdx.x] = __uint_as_float((bits.x ^ bits.y) << 16);
}

// RUN: --grid 1 --block 31 --arg float32[64]:arange --arg float32[64]:zeros
// A store of two floats at an odd one.
extern "C" __global__ void misaligned_float2(const float* x, float* y) {
  int t = threadIdx.x;
  reinterpret_cast<float2*>(y + 1)[t] = make_float2(x[2 * t], x[2 * t + 1]);  // BUG: misaligned
}
extern "C" __global__ void misaligned_float2_ok(const float* x, float* y) {
  int t = threadIdx.x;
  reinterpret_cast<float2*>(y + 2)[t] = make_float2(x[2 * t], x[2 * t + 1]);
}

// RUN: --grid 1 --block 64 --arg int32[64]:arange --arg int32[64]:zeros --arg int32:0
// The number of groups is an argument, and an argument can be nought.
extern "C" __global__ void division_by_zero(const int* x, int* y, int groups) {
  int t = threadIdx.x;
  y[t] = x[t] / groups;  // BUG: division
}
extern "C" __global__ void division_by_zero_ok(const int* x, int* y, int groups) {
  int t = threadIdx.x;
  y[t] = groups > 0 ? x[t] / groups : 0;
}

// RUN: --grid 1 --block 64 --arg int32[64]:arange --arg int32[64]:zeros
// A remainder divides too.
extern "C" __global__ void remainder_by_zero(const int* x, int* y) {
  unsigned t = threadIdx.x;
  y[t] = 100u % (unsigned)x[t];  // BUG: division
}
extern "C" __global__ void remainder_by_zero_ok(const int* x, int* y) {
  unsigned t = threadIdx.x;
  y[t] = x[t] > 0 ? 100u % (unsigned)x[t] : 0;
}
