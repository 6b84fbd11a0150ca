// Planted barriers that not all threads of a block reach, or not the same ones. See global.cu for the marks.

// RUN: --grid 1 --block 64 --arg float32[64]:arange --arg float32[64]:zeros
extern "C" __global__ void barrier_in_if(const float* x, float* y) {
  __shared__ float line[64];
  int t = threadIdx.x;
  line[t] = x[t];
  if (t < 32) __syncthreads();  // BUG: barrier
  y[t] = line[t];
}
extern "C" __global__ void barrier_in_if_ok(const float* x, float* y) {
  __shared__ float line[64];
  int t = threadIdx.x;
  line[t] = x[t];
  __syncthreads();
  y[t] = line[t];
}

// RUN: --grid 2 --block 64 --arg float32[100]:arange --arg float32[100]:zeros --arg int32:100
// The guard for the ragged tail takes the barrier with it.
extern "C" __global__ void barrier_under_the_guard(const float* x, float* y, int n) {
  __shared__ float line[64];
  int t = threadIdx.x, i = blockIdx.x * 64 + t;
  if (i < n) {
    line[t] = x[i];
    __syncthreads();  // BUG: barrier
    y[i] = line[t / 2];
  }
}
extern "C" __global__ void barrier_under_the_guard_ok(const float* x, float* y, int n) {
  __shared__ float line[64];
  int t = threadIdx.x, i = blockIdx.x * 64 + t;
  if (i < n) line[t] = x[i];
  __syncthreads();
  if (i < n) y[i] = line[t / 2];
}

// RUN: --grid 1 --block 64 --arg float32[50]:arange --arg float32[50]:zeros --arg int32:50
extern "C" __global__ void early_return(const float* x, float* y, int n) {
  __shared__ float line[64];
  int t = threadIdx.x;
  if (t >= n) return;
  line[t] = x[t];
  __syncthreads();  // BUG: barrier
  y[t] = line[n - 1 - t];
}
extern "C" __global__ void early_return_ok(const float* x, float* y, int n) {
  __shared__ float line[64];
  int t = threadIdx.x;
  if (t < n) line[t] = x[t];
  __syncthreads();
  if (t >= n) return;
  y[t] = line[n - 1 - t];
}

// RUN: --grid 1 --block 64 --arg float32[100]:random --arg float32[64]:zeros --arg int32:100
// 100 elements and 64 threads: some go round twice, the others once.
extern "C" __global__ void unequal_rounds(const float* x, float* y, int n) {
  __shared__ float part[64];
  int t = threadIdx.x;
  part[t] = 0.0f;
  for (int i = t; i < n; i += 64) {
    part[t] += x[i];
    __syncthreads();  // BUG: barrier
  }
  y[t] = part[t];
}
extern "C" __global__ void unequal_rounds_ok(const float* x, float* y, int n) {
  __shared__ float part[64];
  int t = threadIdx.x;
  part[t] = 0.0f;
  for (int start = 0; start < n; start += 64) {
    if (start + t < n) part[t] += x[start + t];
    __syncthreads();
  }
  y[t] = part[t];
}

// RUN: --grid 1 --block 64 --arg float32[64]:random --arg float32[64]:zeros
// Each branch has a barrier, and they are two.
extern "C" __global__ void two_barriers(const float* x, float* y) {
  __shared__ float line[64];
  int t = threadIdx.x;
  if (t < 32) {
    line[t] = x[t];
    __syncthreads();  // BUG: barrier
  } else {
    line[t] = -x[t];
    __syncthreads();  // BUG: barrier
  }
  y[t] = line[63 - t];
}
extern "C" __global__ void two_barriers_ok(const float* x, float* y) {
  __shared__ float line[64];
  int t = threadIdx.x;
  if (t < 32) {
    line[t] = x[t];
  } else {
    line[t] = -x[t];
  }
  __syncthreads();
  y[t] = line[63 - t];
}

// RUN: --grid 1 --block 64 --arg float32[64]:arange --arg float32[64]:zeros
// The search ends early in one thread, which then misses the barriers of the others.
extern "C" __global__ void break_before_the_barrier(const float* x, float* y) {
  __shared__ float line[64];
  int t = threadIdx.x;
  line[t] = x[t];
  __syncthreads();
  for (int i = 0; i < 4; i++) {
    if (line[t] == 5.0f) break;
    __syncthreads();  // BUG: barrier
    y[t] = line[(t + i) % 64];
  }
}
extern "C" __global__ void break_before_the_barrier_ok(const float* x, float* y) {
  __shared__ float line[64];
  int t = threadIdx.x;
  line[t] = x[t];
  __syncthreads();
  for (int i = 0; i < 4; i++) {
    bool done = line[t] == 5.0f;
    __syncthreads();
    if (!done) y[t] = line[(t + i) % 64];
  }
}

// RUN: --grid 1 --block 8,8 --arg float32[8,8]:random --arg float32[8]:empty
// One row of a 2-D block waits for the others.
extern "C" __global__ void barrier_of_one_row(const float* x, float* y) {
  __shared__ float tile[8][8];
  int tx = threadIdx.x, ty = threadIdx.y;
  tile[ty][tx] = x[8 * ty + tx];
  if (ty == 0) {
    __syncthreads();  // BUG: barrier
    float sum = 0.0f;
    for (int k = 0; k < 8; k++) sum += tile[k][tx];
    y[tx] = sum;
  }
}
extern "C" __global__ void barrier_of_one_row_ok(const float* x, float* y) {
  __shared__ float tile[8][8];
  int tx = threadIdx.x, ty = threadIdx.y;
  tile[ty][tx] = x[8 * ty + tx];
  __syncthreads();
  if (ty == 0) {
    float sum = 0.0f;
    for (int k = 0; k < 8; k++) sum += tile[k][tx];
    y[tx] = sum;
  }
}

// RUN: --grid 1 --block 64 --arg int32[64]:arange --arg int32[64]:zeros
// A vote of the block is a barrier too.
extern "C" __global__ void vote_of_half_a_block(const int* x, int* y) {
  int t = threadIdx.x;
  if (x[t] % 2 == 0)
    y[t] = __syncthreads_count(x[t] > 10);  // BUG: barrier
}
extern "C" __global__ void vote_of_half_a_block_ok(const int* x, int* y) {
  int t = threadIdx.x;
  int count = __syncthreads_count(x[t] > 10);
  if (x[t] % 2 == 0)
    y[t] = count;
}

// RUN: --grid 1 --block 32 --arg float32[32]:arange --arg float32[32]:zeros
// Half of a warp waits for the warp, the other half for the block: neither can go on.
extern "C" __global__ void deadlock(const float* x, float* y) {
  __shared__ float line[32];
  int t = threadIdx.x;
  line[t] = x[t];
  if (t < 16)
    __syncwarp();     // BUG: barrier, warp
  else
    __syncthreads();  // BUG: barrier, warp
  y[t] = line[t];
}
extern "C" __global__ void deadlock_ok(const float* x, float* y) {
  __shared__ float line[32];
  int t = threadIdx.x;
  line[t] = x[t];
  if (t < 16)
    __syncwarp(0x0000ffffu);
  else
    __syncwarp(0xffff0000u);
  y[t] = line[t];
}
