// Planted bugs in shared memory: overruns, and reads of what nobody wrote. See global.cu for the marks.

// RUN: --grid 1 --block 64 --arg float32[64]:arange --arg float32[64]:zeros
// One past the end of an array is the first element of its neighbour.
extern "C" __global__ void into_the_neighbour(const float* x, float* y) {
  __shared__ float a[64], b[64];
  int t = threadIdx.x;
  a[t] = 0.0f;
  b[t] = x[t];
  __syncthreads();
  a[t + 1] = x[t];  // BUG: bounds
  __syncthreads();
  y[t] = a[t] + b[t];
}
extern "C" __global__ void into_the_neighbour_ok(const float* x, float* y) {
  __shared__ float a[65], b[64];
  int t = threadIdx.x;
  a[t] = 0.0f;
  b[t] = x[t];
  __syncthreads();
  a[t + 1] = x[t];
  __syncthreads();
  y[t] = (t > 0 ? a[t] : 0.0f) + b[t];
}

// RUN: --grid 1 --block 64 --arg float32[64]:arange --arg float32[64]:zeros
// The same overrun through a pointer, which does not know how long its array is.
extern "C" __global__ void overrun_through_a_pointer(const float* x, float* y) {
  __shared__ float a[64];
  __shared__ float b[64];
  int t = threadIdx.x;
  float* p = a;
  b[t] = x[t];
  p += 2 * t;
  *p = x[t];  // BUG: bounds
  __syncthreads();
  y[t] = b[t];
}
extern "C" __global__ void overrun_through_a_pointer_ok(const float* x, float* y) {
  __shared__ float a[128];
  __shared__ float b[64];
  int t = threadIdx.x;
  float* p = a;
  b[t] = x[t];
  p += 2 * t;
  *p = x[t];
  __syncthreads();
  y[t] = b[t];
}

// RUN: --grid 1 --block 8,8 --arg float32[8,8]:random --arg float32[8,8]:empty
// One past the end of a row is the first element of the next row: inside the array, outside of the row.
extern "C" __global__ void row_overrun(const float* x, float* y) {
  __shared__ float tile[8][8];
  int tx = threadIdx.x, ty = threadIdx.y;
  tile[ty][tx] = x[8 * ty + tx];
  __syncthreads();
  float right = ty < 7 ? tile[ty][tx + 1] : 0.0f;  // BUG: bounds
  y[8 * ty + tx] = tile[ty][tx] + right;
}
extern "C" __global__ void row_overrun_ok(const float* x, float* y) {
  __shared__ float tile[8][8];
  int tx = threadIdx.x, ty = threadIdx.y;
  tile[ty][tx] = x[8 * ty + tx];
  __syncthreads();
  float right = ty < 7 && tx < 7 ? tile[ty][tx + 1] : 0.0f;
  y[8 * ty + tx] = tile[ty][tx] + right;
}

// RUN: --grid 1 --block 64 --smem 256 --arg float32[64]:arange --arg float32[64]:zeros
// Dynamic shared memory of 64 floats, used as 65.
extern "C" __global__ void dynamic_overrun(const float* x, float* y) {
  extern __shared__ float window[];
  int t = threadIdx.x;
  window[t + 1] = x[t];  // BUG: bounds
  __syncthreads();
  y[t] = window[t + 1];
}
extern "C" __global__ void dynamic_overrun_ok(const float* x, float* y) {
  extern __shared__ float window[];
  int t = threadIdx.x;
  window[t] = x[t];
  __syncthreads();
  y[t] = window[t];
}

// RUN: --grid 1 --block 32 --smem 192 --arg float32[32]:arange --arg float32[32]:zeros
// Two parts of 32 numbers in 192 bytes: the second is float in the kernel, and was counted as two bytes each.
extern "C" __global__ void carved_too_large(const float* x, float* y) {
  extern __shared__ __align__(16) unsigned char memory[];
  float* keys = reinterpret_cast<float*>(memory);
  float* values = keys + 32;
  int t = threadIdx.x;
  keys[t] = x[t];
  values[t] = 2.0f * x[t];  // BUG: bounds
  __syncthreads();
  y[t] = keys[31 - t] + values[31 - t];
}
extern "C" __global__ void carved_too_large_ok(const float* x, float* y) {
  extern __shared__ __align__(16) unsigned char memory[];
  float* keys = reinterpret_cast<float*>(memory);
  unsigned short* values = reinterpret_cast<unsigned short*>(keys + 32);
  int t = threadIdx.x;
  keys[t] = x[t];
  values[t] = (unsigned short)(2.0f * x[t]);
  __syncthreads();
  y[t] = keys[31 - t] + values[31 - t];
}

// RUN: --grid 1 --block 32 --arg float32[32]:arange --arg float32[32]:zeros
// The launch forgot to ask for dynamic shared memory at all.
extern "C" __global__ void dynamic_not_asked_for(const float* x, float* y) {
  extern __shared__ float scratch[];
  int t = threadIdx.x;
  scratch[t] = x[t];  // BUG: bounds
  __syncthreads();
  y[t] = scratch[31 - t];
}
extern "C" __global__ void dynamic_not_asked_for_ok(const float* x, float* y) {
  __shared__ float scratch[32];
  int t = threadIdx.x;
  scratch[t] = x[t];
  __syncthreads();
  y[t] = scratch[31 - t];
}

// RUN: --grid 1 --block 64 --arg float32[64]:arange --arg float32[64]:zeros
// A stencil in shared memory looks to the left of its array.
extern "C" __global__ void shared_negative_index(const float* x, float* y) {
  __shared__ float before[4], line[64];
  int t = threadIdx.x;
  if (t < 4) before[t] = 0.0f;
  line[t] = x[t];
  __syncthreads();
  y[t] = line[t] - line[t - 1] + before[0];  // BUG: bounds
}
extern "C" __global__ void shared_negative_index_ok(const float* x, float* y) {
  __shared__ float before[4], line[64];
  int t = threadIdx.x;
  if (t < 4) before[t] = 0.0f;
  line[t] = x[t];
  __syncthreads();
  y[t] = line[t] - (t > 0 ? line[t - 1] : 0.0f) + before[0];
}

// RUN: --grid 1 --block 64 --arg float32[63]:arange --arg float32[64]:zeros --arg int32:63
// 63 elements fill a tile of 64; the sum takes the whole tile.
extern "C" __global__ void tile_partly_filled(const float* x, float* y, int n) {
  __shared__ float tile[64];
  int t = threadIdx.x;
  if (t < n) tile[t] = x[t];
  __syncthreads();
  y[t] = tile[63 - t];  // BUG: uninitialised
}
extern "C" __global__ void tile_partly_filled_ok(const float* x, float* y, int n) {
  __shared__ float tile[64];
  int t = threadIdx.x;
  tile[t] = t < n ? x[t] : 0.0f;
  __syncthreads();
  y[t] = tile[63 - t];
}

// RUN: --grid 1 --block 64 --arg int32[64]:arange --arg int32[4]:zeros
// Shared counters hold what the last block left there, not noughts.
extern "C" __global__ void counters_not_zeroed(const int* x, int* y) {
  __shared__ int count[4];
  int t = threadIdx.x;
  atomicAdd(&count[x[t] % 4], 1);  // BUG: uninitialised
  __syncthreads();
  if (t < 4) y[t] = count[t];
}
extern "C" __global__ void counters_not_zeroed_ok(const int* x, int* y) {
  __shared__ int count[4];
  int t = threadIdx.x;
  if (t < 4) count[t] = 0;
  __syncthreads();
  atomicAdd(&count[x[t] % 4], 1);
  __syncthreads();
  if (t < 4) y[t] = count[t];
}

// RUN: --grid 1 --block 96 --arg float32[96]:random --arg float32[1]:zeros
// The first warp adds 32 partial sums, and the block has three warps.
extern "C" __global__ void sum_of_absent_warps(const float* x, float* y) {
  __shared__ float partial[32];
  int t = threadIdx.x;
  float v = x[t];
  for (int d = 16; d > 0; d /= 2) v += __shfl_down_sync(0xffffffffu, v, d);
  if (t % 32 == 0) partial[t / 32] = v;
  __syncthreads();
  if (t < 32) {
    v = partial[t];  // BUG: uninitialised
    for (int d = 16; d > 0; d /= 2) v += __shfl_down_sync(0xffffffffu, v, d);
    if (t == 0) y[0] = v;
  }
}
extern "C" __global__ void sum_of_absent_warps_ok(const float* x, float* y) {
  __shared__ float partial[32];
  int t = threadIdx.x;
  float v = x[t];
  for (int d = 16; d > 0; d /= 2) v += __shfl_down_sync(0xffffffffu, v, d);
  if (t % 32 == 0) partial[t / 32] = v;
  __syncthreads();
  if (t < 32) {
    v = t < blockDim.x / 32 ? partial[t] : 0.0f;
    for (int d = 16; d > 0; d /= 2) v += __shfl_down_sync(0xffffffffu, v, d);
    if (t == 0) y[0] = v;
  }
}

// RUN: --grid 1 --block 64 --arg float32[64]:random --arg float32[64]:empty
// The two cells of the halo are never loaded.
extern "C" __global__ void halo_not_loaded(const float* x, float* y) {
  __shared__ float line[66];
  int t = threadIdx.x;
  line[t + 1] = x[t];
  __syncthreads();
  y[t] = line[t] + line[t + 1] + line[t + 2];  // BUG: uninitialised
}
extern "C" __global__ void halo_not_loaded_ok(const float* x, float* y) {
  __shared__ float line[66];
  int t = threadIdx.x;
  line[t + 1] = x[t];
  if (t == 0) line[0] = line[65] = 0.0f;
  __syncthreads();
  y[t] = line[t] + line[t + 1] + line[t + 2];
}

// RUN: --grid 1 --block 8,8 --arg float32[8,5]:random --arg float32[8]:empty --arg int32:5
// The last tile of a product is ragged; its rest has to be nought, and is nothing.
extern "C" __global__ void ragged_tile_not_zeroed(const float* x, float* sums, int depth) {
  __shared__ float tile[8][8];
  int tx = threadIdx.x, ty = threadIdx.y;
  if (tx < depth) tile[ty][tx] = x[ty * depth + tx];
  __syncthreads();
  float sum = 0.0f;
  for (int k = 0; k < 8; k++) sum += tile[ty][k];  // BUG: uninitialised
  if (tx == 0) sums[ty] = sum;
}
extern "C" __global__ void ragged_tile_not_zeroed_ok(const float* x, float* sums, int depth) {
  __shared__ float tile[8][8];
  int tx = threadIdx.x, ty = threadIdx.y;
  tile[ty][tx] = tx < depth ? x[ty * depth + tx] : 0.0f;
  __syncthreads();
  float sum = 0.0f;
  for (int k = 0; k < 8; k++) sum += tile[ty][k];
  if (tx == 0) sums[ty] = sum;
}

// RUN: --grid 2 --block 32 --arg float32[32]:random --arg float32[64]:empty
// Only the first block loads the table; shared memory belongs to one block alone.
extern "C" __global__ void loaded_by_another_block(const float* x, float* y) {
  __shared__ float table[32];
  int t = threadIdx.x;
  if (blockIdx.x == 0) table[t] = x[t];
  __syncthreads();
  y[blockIdx.x * 32 + t] = table[31 - t];  // BUG: uninitialised
}
extern "C" __global__ void loaded_by_another_block_ok(const float* x, float* y) {
  __shared__ float table[32];
  int t = threadIdx.x;
  table[t] = x[t];
  __syncthreads();
  y[blockIdx.x * 32 + t] = table[31 - t];
}

// RUN: --grid 1 --block 32 --smem 512 --arg float32[32]:random --arg float32[32]:empty
// Three of four numbers are set, and all four are read at once.
extern "C" __global__ void fourth_component(const float* x, float* y) {
  extern __shared__ float4 quads[];
  int t = threadIdx.x;
  quads[t].x = x[t];
  quads[t].y = 2.0f * x[t];
  quads[t].z = 3.0f * x[t];
  __syncthreads();
  float4 v = quads[31 - t];  // BUG: uninitialised
  y[t] = v.x + v.y + v.z + v.w;
}
extern "C" __global__ void fourth_component_ok(const float* x, float* y) {
  extern __shared__ float4 quads[];
  int t = threadIdx.x;
  quads[t] = make_float4(x[t], 2.0f * x[t], 3.0f * x[t], 0.0f);
  __syncthreads();
  float4 v = quads[31 - t];
  y[t] = v.x + v.y + v.z + v.w;
}
