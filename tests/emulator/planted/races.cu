// Planted races: two threads use one place, one of them writes, and nothing puts them in order. See global.cu for the
// marks: both lines of a race are marked. Where the place was never written before, a report of an uninitialised read
// is right as well, and the mark says so.

// RUN: --grid 1 --block 64 --arg float32[64]:arange --arg float32[64]:zeros
extern "C" __global__ void missing_barrier(const float* x, float* y) {
  __shared__ float line[64];
  int t = threadIdx.x;
  line[t] = x[t];       // BUG: race
  y[t] = line[63 - t];  // BUG: race, uninitialised
}
extern "C" __global__ void missing_barrier_ok(const float* x, float* y) {
  __shared__ float line[64];
  int t = threadIdx.x;
  line[t] = x[t];
  __syncthreads();
  y[t] = line[63 - t];
}

// RUN: --grid 1 --block 8,8 --arg float32[8,24]:random --arg float32[24,8]:random --arg float32[8,8]:empty
// A product by tiles: without the barrier at the end of the round, the next round overwrites tiles still in use.
extern "C" __global__ void missing_second_barrier(const float* a, const float* b, float* c) {
  __shared__ float tile_a[8][8], tile_b[8][8];
  int tx = threadIdx.x, ty = threadIdx.y;
  float sum = 0.0f;
  for (int k0 = 0; k0 < 24; k0 += 8) {
    tile_a[ty][tx] = a[ty * 24 + k0 + tx];    // BUG: race
    tile_b[ty][tx] = b[(k0 + ty) * 8 + tx];   // BUG: race
    __syncthreads();
    for (int k = 0; k < 8; k++)
      sum += tile_a[ty][k] * tile_b[k][tx];   // BUG: race
  }
  c[ty * 8 + tx] = sum;
}
extern "C" __global__ void missing_second_barrier_ok(const float* a, const float* b, float* c) {
  __shared__ float tile_a[8][8], tile_b[8][8];
  int tx = threadIdx.x, ty = threadIdx.y;
  float sum = 0.0f;
  for (int k0 = 0; k0 < 24; k0 += 8) {
    tile_a[ty][tx] = a[ty * 24 + k0 + tx];
    tile_b[ty][tx] = b[(k0 + ty) * 8 + tx];
    __syncthreads();
    for (int k = 0; k < 8; k++)
      sum += tile_a[ty][k] * tile_b[k][tx];
    __syncthreads();
  }
  c[ty * 8 + tx] = sum;
}

// RUN: --grid 1 --block 32 --arg float32[32]:arange --arg float32[32]:zeros
// The lanes of a warp have not run in step since Volta.
extern "C" __global__ void missing_syncwarp(const float* x, float* y) {
  __shared__ float line[32];
  int t = threadIdx.x;
  line[t] = x[t];      // BUG: race
  y[t] = line[t ^ 1];  // BUG: race, uninitialised
}
extern "C" __global__ void missing_syncwarp_ok(const float* x, float* y) {
  __shared__ float line[32];
  int t = threadIdx.x;
  line[t] = x[t];
  __syncwarp();
  y[t] = line[t ^ 1];
}

// RUN: --grid 1 --block 64 --arg float32[64]:arange --arg float32[1]:zeros
// The last six rounds of a sum, written for the warps of 2010.
extern "C" __global__ void last_warp_unrolled(const float* x, float* y) {
  __shared__ float sums[64];
  int t = threadIdx.x;
  sums[t] = x[t];
  __syncthreads();
  if (t < 32) {
    sums[t] += sums[t + 32];              // BUG: race
    if (t < 16) sums[t] += sums[t + 16];  // BUG: race
    if (t < 8) sums[t] += sums[t + 8];    // BUG: race
    if (t < 4) sums[t] += sums[t + 4];    // BUG: race
    if (t < 2) sums[t] += sums[t + 2];    // BUG: race
    if (t < 1) y[0] = sums[0] + sums[1];  // BUG: race
  }
}
extern "C" __global__ void last_warp_unrolled_ok(const float* x, float* y) {
  __shared__ float sums[64];
  int t = threadIdx.x;
  sums[t] = x[t];
  __syncthreads();
  if (t < 32) {
    float sum = sums[t] + sums[t + 32];
    for (int d = 16; d > 0; d /= 2) sum += __shfl_down_sync(0xffffffffu, sum, d);
    if (t < 1) y[0] = sum;
  }
}

// RUN: --grid 1 --block 64 --arg float32[64]:arange
// Reversal in place: a thread writes what another has yet to read.
extern "C" __global__ void reversal_in_place(float* x) {
  int t = threadIdx.x;
  float v = x[63 - t];  // BUG: race
  x[t] = v;             // BUG: race
}
extern "C" __global__ void reversal_in_place_ok(float* x) {
  int t = threadIdx.x;
  float v = x[63 - t];
  __syncthreads();
  x[t] = v;
}

// RUN: --grid 1 --block 64 --arg float32[64]:random --arg float32[1]:zeros
extern "C" __global__ void tree_without_barriers(const float* x, float* y) {
  __shared__ float sums[64];
  int t = threadIdx.x;
  sums[t] = x[t];
  __syncthreads();
  for (int d = 32; d > 0; d /= 2)
    if (t < d) sums[t] += sums[t + d];  // BUG: race
  if (t == 0) y[0] = sums[0];
}
extern "C" __global__ void tree_without_barriers_ok(const float* x, float* y) {
  __shared__ float sums[64];
  int t = threadIdx.x;
  sums[t] = x[t];
  __syncthreads();
  for (int d = 32; d > 0; d /= 2) {
    if (t < d) sums[t] += sums[t + d];
    __syncthreads();
  }
  if (t == 0) y[0] = sums[0];
}

// RUN: --grid 1 --block 64 --arg float32[64]:random --arg float32[64]:empty
// A scan in place: one barrier per round, where reading and writing need one between them too.
extern "C" __global__ void scan_in_place(const float* x, float* y) {
  __shared__ float line[64];
  int t = threadIdx.x;
  line[t] = x[t];
  __syncthreads();
  for (int d = 1; d < 64; d *= 2) {
    if (t >= d) line[t] += line[t - d];  // BUG: race
    __syncthreads();
  }
  y[t] = line[t];
}
extern "C" __global__ void scan_in_place_ok(const float* x, float* y) {
  __shared__ float line[64];
  int t = threadIdx.x;
  line[t] = x[t];
  __syncthreads();
  for (int d = 1; d < 64; d *= 2) {
    float left = t >= d ? line[t - d] : 0.0f;
    __syncthreads();
    line[t] += left;
    __syncthreads();
  }
  y[t] = line[t];
}

// RUN: --grid 1 --block 64 --arg float32[64]:random --arg float32[64]:empty
// The first lane of each warp writes the total: there are two warps.
extern "C" __global__ void two_warps_one_total(const float* x, float* y) {
  __shared__ float total;
  int t = threadIdx.x;
  float v = x[t];
  for (int d = 16; d > 0; d /= 2) v += __shfl_xor_sync(0xffffffffu, v, d);
  if (t % 32 == 0) total = v;  // BUG: race
  __syncthreads();
  y[t] = x[t] / total;
}
extern "C" __global__ void two_warps_one_total_ok(const float* x, float* y) {
  __shared__ float totals[2];
  int t = threadIdx.x;
  float v = x[t];
  for (int d = 16; d > 0; d /= 2) v += __shfl_xor_sync(0xffffffffu, v, d);
  if (t % 32 == 0) totals[t / 32] = v;
  __syncthreads();
  y[t] = x[t] / (totals[0] + totals[1]);
}

// RUN: --grid 2 --block 64 --arg float32[128]:random --arg float32[64]:zeros
// Two blocks add into one row without atomics.
extern "C" __global__ void two_blocks_one_row(const float* x, float* y) {
  int t = threadIdx.x;
  y[t] += x[blockIdx.x * 64 + t];  // BUG: race
}
extern "C" __global__ void two_blocks_one_row_ok(const float* x, float* y) {
  int t = threadIdx.x;
  if (blockIdx.x == 0) y[t] += x[t] + x[64 + t];
}

// RUN: --grid 4 --block 32 --arg float32[128]:arange --arg float32[128]:empty --arg float32[128]:empty
// A block reads what its neighbour is writing: blocks wait for each other at the end of the kernel only.
extern "C" __global__ void reads_another_block(const float* x, float* squares, float* y) {
  int i = blockIdx.x * 32 + threadIdx.x;
  squares[i] = x[i] * x[i];               // BUG: race
  __syncthreads();
  y[i] = squares[i] + squares[i ^ 32];    // BUG: race, uninitialised
}
extern "C" __global__ void reads_another_block_ok(const float* x, float* squares, float* y) {
  int i = blockIdx.x * 32 + threadIdx.x;
  squares[i] = x[i] * x[i];
  __syncthreads();
  y[i] = squares[i] + squares[i ^ 31];
}

// RUN: --grid 4 --block 32 --arg float32[129]:random
// A stencil in place: at the edge of a block it meets the next block.
extern "C" __global__ void stencil_in_place(float* x) {
  int i = blockIdx.x * 32 + threadIdx.x;
  float v = 0.5f * (x[i] + x[i + 1]);  // BUG: race
  __syncthreads();
  x[i] = v;                            // BUG: race
}
extern "C" __global__ void stencil_in_place_ok(float* x) {
  int i = blockIdx.x * 32 + threadIdx.x;
  float v = 0.5f * (x[i] + (threadIdx.x < 31 ? x[i + 1] : 0.0f));
  __syncthreads();
  x[i] = v;
}

// RUN: --grid 2 --block 64 --arg int32[128]:arange --arg int32[1]:zeros --arg int32[2]:zeros
// The count is read while the other block still adds to it.
extern "C" __global__ void count_read_too_early(const int* x, int* count, int* seen) {
  int i = blockIdx.x * 64 + threadIdx.x;
  if (x[i] % 3 == 0) atomicAdd(count, 1);             // BUG: race
  __syncthreads();
  if (threadIdx.x == 0) seen[blockIdx.x] = *count;    // BUG: race
}
extern "C" __global__ void count_read_too_early_ok(const int* x, int* count, int* seen) {
  int i = blockIdx.x * 64 + threadIdx.x;
  if (x[i] % 3 == 0) atomicAdd(count, 1);
  int here = __syncthreads_count(x[i] % 3 == 0);
  if (threadIdx.x == 0) seen[blockIdx.x] = here;
}

// RUN: --grid 1 --block 64 --arg int32[64]:arange --arg int32[1]:zeros
// A counter is set to nought by one thread while others already count.
extern "C" __global__ void zeroed_without_barrier(const int* x, int* y) {
  __shared__ int count;
  int t = threadIdx.x;
  if (t == 0) count = 0;                 // BUG: race
  if (x[t] % 3 == 0) atomicAdd(&count, 1);  // BUG: race, uninitialised
  __syncthreads();
  if (t == 0) y[0] = count;
}
extern "C" __global__ void zeroed_without_barrier_ok(const int* x, int* y) {
  __shared__ int count;
  int t = threadIdx.x;
  if (t == 0) count = 0;
  __syncthreads();
  if (x[t] % 3 == 0) atomicAdd(&count, 1);
  __syncthreads();
  if (t == 0) y[0] = count;
}

// RUN: --grid 1 --block 64 --arg int32[64]:arange --arg int32[4]:empty
extern "C" __global__ void histogram_without_atomics(const int* x, int* y) {
  __shared__ int count[4];
  int t = threadIdx.x;
  if (t < 4) count[t] = 0;
  __syncthreads();
  count[x[t] % 4]++;  // BUG: race
  __syncthreads();
  if (t < 4) y[t] = count[t];
}
extern "C" __global__ void histogram_without_atomics_ok(const int* x, int* y) {
  __shared__ int count[4];
  int t = threadIdx.x;
  if (t < 4) count[t] = 0;
  __syncthreads();
  atomicAdd(&count[x[t] % 4], 1);
  __syncthreads();
  if (t < 4) y[t] = count[t];
}

// RUN: --grid 1 --block 64 --arg float32[64]:random --arg float32[1]:zeros
// A maximum by hand: between the comparison and the store, another thread may have stored.
extern "C" __global__ void maximum_without_atomics(const float* x, float* best) {
  int t = threadIdx.x;
  if (x[t] > *best)   // BUG: race
    *best = x[t];     // BUG: race
}
extern "C" __global__ void maximum_without_atomics_ok(const float* x, float* best) {
  int t = threadIdx.x;
  if (t == 0)
    for (int i = 0; i < 64; i++)
      if (x[i] > *best) *best = x[i];
}

// RUN: --grid 1 --block 32 --arg float32[4,32]:random --arg float32[32]:empty
// Two buffers in turn, each reader one round behind: with no barrier after the read, a writer laps it.
extern "C" __global__ void double_buffer_lapped(const float* x, float* y) {
  __shared__ float buffer[2][32];
  int t = threadIdx.x;
  float sum = 0.0f;
  buffer[0][t] = x[t];
  for (int i = 0; i < 4; i++) {
    __syncthreads();
    sum += buffer[i % 2][31 - t];                               // BUG: race
    if (i + 1 < 4) buffer[(i + 2) % 2][t] = x[(i + 1) * 32 + t];  // BUG: race
  }
  y[t] = sum;
}
extern "C" __global__ void double_buffer_lapped_ok(const float* x, float* y) {
  __shared__ float buffer[2][32];
  int t = threadIdx.x;
  float sum = 0.0f;
  buffer[0][t] = x[t];
  for (int i = 0; i < 4; i++) {
    __syncthreads();
    sum += buffer[i % 2][31 - t];
    if (i + 1 < 4) buffer[(i + 1) % 2][t] = x[(i + 1) * 32 + t];
  }
  y[t] = sum;
}

// RUN: --grid 1 --block 64 --arg float32[3,64]:random --arg float32[3,64]:empty
// Thread 0 stores the next total while the others still read the last one.
extern "C" __global__ void broadcast_overwritten(const float* x, float* y) {
  __shared__ float first;
  int t = threadIdx.x;
  for (int row = 0; row < 3; row++) {
    if (t == 0) first = x[row * 64];               // BUG: race
    __syncthreads();
    y[row * 64 + t] = x[row * 64 + t] - first;     // BUG: race
  }
}
extern "C" __global__ void broadcast_overwritten_ok(const float* x, float* y) {
  __shared__ float first;
  int t = threadIdx.x;
  for (int row = 0; row < 3; row++) {
    if (t == 0) first = x[row * 64];
    __syncthreads();
    y[row * 64 + t] = x[row * 64 + t] - first;
    __syncthreads();
  }
}

// RUN: --grid 3 --block 33 --arg float32[97]:random --arg float32[97]:empty
// Blocks of 33 threads at steps of 32: two blocks write each element at a seam.
extern "C" __global__ void overlapping_blocks(const float* x, float* y) {
  int i = blockIdx.x * 32 + threadIdx.x;
  y[i] = x[i] * (blockIdx.x + 1);  // BUG: race
}
extern "C" __global__ void overlapping_blocks_ok(const float* x, float* y) {
  int i = blockIdx.x * 32 + threadIdx.x;
  if (threadIdx.x < 32 || blockIdx.x == 2) y[i] = x[i] * (blockIdx.x + 1);
}

// RUN: --grid 2,2 --block 8,8 --arg float32[16,16]:random --arg float32[16,16]:empty
// A transposition through a tile: rows are written, columns are read.
extern "C" __global__ void transpose_without_barrier(const float* x, float* y) {
  __shared__ float tile[8][9];
  int tx = threadIdx.x, ty = threadIdx.y, bx = blockIdx.x * 8, by = blockIdx.y * 8;
  tile[ty][tx] = x[(by + ty) * 16 + bx + tx];  // BUG: race
  y[(bx + ty) * 16 + by + tx] = tile[tx][ty];  // BUG: race, uninitialised
}
extern "C" __global__ void transpose_without_barrier_ok(const float* x, float* y) {
  __shared__ float tile[8][9];
  int tx = threadIdx.x, ty = threadIdx.y, bx = blockIdx.x * 8, by = blockIdx.y * 8;
  tile[ty][tx] = x[(by + ty) * 16 + bx + tx];
  __syncthreads();
  y[(bx + ty) * 16 + by + tx] = tile[tx][ty];
}

// RUN: --grid 1 --block 64 --arg float32[64]:random --arg float32[64]:empty
// __syncwarp orders the lanes of one warp; the partner sits in the other.
extern "C" __global__ void syncwarp_for_syncthreads(const float* x, float* y) {
  __shared__ float line[64];
  int t = threadIdx.x;
  line[t] = x[t];         // BUG: race
  __syncwarp();
  y[t] = line[t ^ 32];    // BUG: race, uninitialised
}
extern "C" __global__ void syncwarp_for_syncthreads_ok(const float* x, float* y) {
  __shared__ float line[64];
  int t = threadIdx.x;
  line[t] = x[t];
  __syncwarp();
  y[t] = line[t ^ 16];
}
