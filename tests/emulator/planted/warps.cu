// Planted bugs in what the lanes of a warp do together: shuffles, votes, masks. See global.cu for the marks.
#define FULL 0xffffffffu

// RUN: --grid 1 --block 32 --arg float32[32]:arange --arg float32[32]:zeros
// The mask names sixteen lanes, and each of them reads from the other sixteen.
extern "C" __global__ void shuffle_from_absent(const float* x, float* y) {
  int t = threadIdx.x;
  float v = x[t];
  if (t < 16) v += __shfl_xor_sync(0x0000ffffu, v, 16);  // BUG: warp
  y[t] = v;
}
extern "C" __global__ void shuffle_from_absent_ok(const float* x, float* y) {
  int t = threadIdx.x;
  float v = x[t];
  if (t < 16) v += __shfl_xor_sync(0x0000ffffu, v, 8);
  y[t] = v;
}

// RUN: --grid 1 --block 32 --arg float32[32]:arange --arg float32[32]:zeros
// The mask names all lanes, half of which wait elsewhere.
extern "C" __global__ void mask_too_wide(const float* x, float* y) {
  int t = threadIdx.x;
  float v = x[t];
  if (t < 16) v += __shfl_xor_sync(FULL, v, 1);  // BUG: warp, barrier
  __syncthreads();                               // BUG: warp, barrier
  y[t] = v;
}
extern "C" __global__ void mask_too_wide_ok(const float* x, float* y) {
  int t = threadIdx.x;
  float v = x[t];
  if (t < 16) v += __shfl_xor_sync(0x0000ffffu, v, 1);
  __syncthreads();
  y[t] = v;
}

// RUN: --grid 1 --block 32 --arg float32[32]:arange --arg float32[32]:zeros
// All lanes call, and the mask names half of them.
extern "C" __global__ void lane_not_in_its_mask(const float* x, float* y) {
  int t = threadIdx.x;
  y[t] = __shfl_sync(0x0000ffffu, x[t], 0);  // BUG: warp
}
extern "C" __global__ void lane_not_in_its_mask_ok(const float* x, float* y) {
  int t = threadIdx.x;
  y[t] = __shfl_sync(FULL, x[t], 0);
}

// RUN: --grid 1 --block 32 --arg int32[32]:arange --arg int32[32]:zeros
// A vote of all lanes inside of a branch that some take.
extern "C" __global__ void vote_in_a_branch(const int* x, int* y) {
  int t = threadIdx.x;
  if (x[t] % 2 == 0)
    y[t] = __popc(__ballot_sync(FULL, x[t] > 7));  // BUG: warp
  __syncwarp();                                    // BUG: warp
  if (x[t] % 2 == 1) y[t] = y[t - 1];
}
extern "C" __global__ void vote_in_a_branch_ok(const int* x, int* y) {
  int t = threadIdx.x;
  int count = __popc(__ballot_sync(FULL, x[t] > 7));
  if (x[t] % 2 == 0) y[t] = count;
  __syncwarp();
  if (x[t] % 2 == 1) y[t] = y[t - 1];
}

// RUN: --grid 1 --block 48 --arg float32[48]:arange --arg float32[48]:zeros
// The second warp has sixteen lanes, and the sum of a warp takes 32.
extern "C" __global__ void warp_half_there(const float* x, float* y) {
  int t = threadIdx.x;
  float v = x[t];
  for (int d = 16; d > 0; d /= 2)
    v += __shfl_xor_sync(FULL, v, d);  // BUG: warp
  y[t] = v;
}
extern "C" __global__ void warp_half_there_ok(const float* x, float* y) {
  int t = threadIdx.x;
  float v = x[t];
  for (int d = 8; d > 0; d /= 2)
    v += __shfl_xor_sync(t < 32 ? FULL : 0x0000ffffu, v, d);
  y[t] = v;
}

// RUN: --grid 1 --block 32 --arg float32[20]:arange --arg float32[1]:zeros --arg int32:20
// Lanes without an element leave, and are then asked for theirs.
extern "C" __global__ void shuffle_after_return(const float* x, float* y, int n) {
  int t = threadIdx.x;
  if (t >= n) return;
  float v = x[t];
  for (int d = 16; d > 0; d /= 2)
    v += __shfl_down_sync(FULL, v, d);  // BUG: warp
  if (t == 0) y[0] = v;
}
extern "C" __global__ void shuffle_after_return_ok(const float* x, float* y, int n) {
  int t = threadIdx.x;
  float v = t < n ? x[t] : 0.0f;
  for (int d = 16; d > 0; d /= 2)
    v += __shfl_down_sync(FULL, v, d);
  if (t == 0) y[0] = v;
}

// RUN: --grid 1 --block 32 --arg float32[32]:arange --arg float32[32]:zeros
// Two halves meet in two different shuffles.
extern "C" __global__ void two_shuffles(const float* x, float* y) {
  int t = threadIdx.x;
  float v = x[t];
  if (t < 16)
    v += __shfl_down_sync(FULL, v, 1);  // BUG: warp
  else
    v += __shfl_up_sync(FULL, v, 1);    // BUG: warp
  y[t] = v;
}
extern "C" __global__ void two_shuffles_ok(const float* x, float* y) {
  int t = threadIdx.x;
  float v = x[t];
  float down = __shfl_down_sync(FULL, v, 1), up = __shfl_up_sync(FULL, v, 1);
  y[t] = v + (t < 16 ? down : up);
}

// RUN: --grid 1 --block 32 --arg float32[32]:arange --arg float32[32]:zeros
// Lanes that should meet disagree about who takes part.
extern "C" __global__ void two_masks(const float* x, float* y) {
  int t = threadIdx.x;
  unsigned mask = t < 16 ? FULL : 0xffff0000u;
  y[t] = __shfl_xor_sync(mask, x[t], 1);  // BUG: warp
}
extern "C" __global__ void two_masks_ok(const float* x, float* y) {
  int t = threadIdx.x;
  unsigned mask = t < 16 ? 0x0000ffffu : 0xffff0000u;
  y[t] = __shfl_xor_sync(mask, x[t], 1);
}

// RUN: --grid 1 --block 32 --arg float32[32]:arange --arg float32[1]:zeros
// A broadcast from a lane that the mask leaves out.
extern "C" __global__ void broadcast_from_outside(const float* x, float* y) {
  int t = threadIdx.x;
  if (t >= 8) {
    float first = __shfl_sync(0xffffff00u, x[t], 0);  // BUG: warp
    if (t == 8) y[0] = first;
  }
}
extern "C" __global__ void broadcast_from_outside_ok(const float* x, float* y) {
  int t = threadIdx.x;
  if (t >= 8) {
    float first = __shfl_sync(0xffffff00u, x[t], 8);
    if (t == 8) y[0] = first;
  }
}
