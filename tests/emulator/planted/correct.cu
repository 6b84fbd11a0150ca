// Kernels without a bug, of the kinds that are easily taken for buggy: the checked mode must be silent on all of them.
// tests/emulator/test_planted.py compares what they compute with NumPy. `// RUN:` holds the options of each.
#include <cuda_bf16.h>
#include <mma.h>
#define FULL 0xffffffffu

__device__ float warp_sum(float v) {
  for (int d = 16; d > 0; d /= 2) v += __shfl_xor_sync(FULL, v, d);
  return v;
}
__device__ float warp_max(float v) {
  for (int d = 16; d > 0; d /= 2) v = fmaxf(v, __shfl_xor_sync(FULL, v, d));
  return v;
}
template <int BLOCK> __device__ float block_sum(float v, float* part) {
  v = warp_sum(v);
  if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = v;
  __syncthreads();
  float total = 0.0f;
  for (int i = 0; i < BLOCK / 32; i++) total += part[i];
  __syncthreads();
  return total;
}

// RUN: --grid 3,2 --block 16,16 --arg float32[20,37]:random --arg float32[37,45]:random --arg float32[20,45]:empty
// A product by tiles; no side is a multiple of the tile.
extern "C" __global__ void matmul(const float* a, const float* b, float* c) {
  const int M = 20, N = 45, K = 37;
  __shared__ float tile_a[16][16], tile_b[16][16];
  int tx = threadIdx.x, ty = threadIdx.y, row = blockIdx.y * 16 + ty, col = blockIdx.x * 16 + tx;
  float sum = 0.0f;
  for (int k0 = 0; k0 < K; k0 += 16) {
    tile_a[ty][tx] = row < M && k0 + tx < K ? a[row * K + k0 + tx] : 0.0f;
    tile_b[ty][tx] = col < N && k0 + ty < K ? b[(k0 + ty) * N + col] : 0.0f;
    __syncthreads();
    for (int k = 0; k < 16; k++) sum += tile_a[ty][k] * tile_b[k][tx];
    __syncthreads();
  }
  if (row < M && col < N) c[row * N + col] = sum;
}

// RUN: --grid 1 --block 64 --smem 512 --arg float32[64]:random --arg float32[64]:empty
// A scan between two halves of one array: one barrier per round is enough.
extern "C" __global__ void scan_of_two_buffers(const float* x, float* y) {
  extern __shared__ float line[];
  int t = threadIdx.x, from = 0;
  line[t] = x[t];
  for (int d = 1; d < 64; d *= 2) {
    __syncthreads();
    line[64 - from + t] = line[from + t] + (t >= d ? line[from + t - d] : 0.0f);
    from = 64 - from;
  }
  y[t] = line[from + t];
}

// RUN: --grid 1 --block 64 --arg float32[128]:random --arg float32[128]:empty
// A scan up and down a tree (Blelloch), exclusive.
extern "C" __global__ void scan_by_tree(const float* x, float* y) {
  __shared__ float line[128];
  int t = threadIdx.x, step = 1;
  line[2 * t] = x[2 * t];
  line[2 * t + 1] = x[2 * t + 1];
  for (int d = 64; d > 0; d /= 2, step *= 2) {
    __syncthreads();
    if (t < d) line[step * (2 * t + 2) - 1] += line[step * (2 * t + 1) - 1];
  }
  if (t == 0) line[127] = 0.0f;
  for (int d = 1; d < 128; d *= 2) {
    step /= 2;
    __syncthreads();
    if (t < d) {
      int left = step * (2 * t + 1) - 1, right = step * (2 * t + 2) - 1;
      float v = line[left];
      line[left] = line[right];
      line[right] += v;
    }
  }
  __syncthreads();
  y[2 * t] = line[2 * t];
  y[2 * t + 1] = line[2 * t + 1];
}

// RUN: --grid 4 --block 100 --arg int32[1000]:random --arg int32[16]:zeros
// Atomics in shared memory, then in global memory; the block is no multiple of a warp.
extern "C" __global__ void histogram(const int* x, int* bins) {
  __shared__ int mine[16];
  for (int i = threadIdx.x; i < 16; i += blockDim.x) mine[i] = 0;
  __syncthreads();
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < 1000; i += gridDim.x * blockDim.x)
    atomicAdd(&mine[x[i] % 16], 1);
  __syncthreads();
  for (int i = threadIdx.x; i < 16; i += blockDim.x) atomicAdd(&bins[i], mine[i]);
}

// RUN: --grid 2,2 --block 32,8 --arg float32[40,50]:random --arg float32[50,40]:empty
// Edges of the tile stay unwritten, and are not read.
extern "C" __global__ void transpose(const float* x, float* y) {
  const int rows = 40, cols = 50;
  __shared__ float tile[32][33];
  int tx = threadIdx.x, col0 = blockIdx.x * 32, row0 = blockIdx.y * 32;
  for (int i = threadIdx.y; i < 32; i += 8)
    if (col0 + tx < cols && row0 + i < rows) tile[i][tx] = x[(row0 + i) * cols + col0 + tx];
  __syncthreads();
  for (int i = threadIdx.y; i < 32; i += 8)
    if (col0 + i < cols && row0 + tx < rows) y[(col0 + i) * rows + row0 + tx] = tile[tx][i];
}

// RUN: --grid 5 --block 128 --arg float32[5,77]:random --arg float32[5,77]:empty
// One array serves two reductions, with a barrier between them.
extern "C" __global__ void softmax(const float* x, float* y) {
  const int n = 77;
  __shared__ float part[4];
  const float* row = x + (size_t)blockIdx.x * n;
  float most = -1e30f, sum = 0.0f;
  for (int i = threadIdx.x; i < n; i += 128) most = fmaxf(most, row[i]);
  most = warp_max(most);
  if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = most;
  __syncthreads();
  most = fmaxf(fmaxf(part[0], part[1]), fmaxf(part[2], part[3]));
  __syncthreads();
  for (int i = threadIdx.x; i < n; i += 128) sum += expf(row[i] - most);
  sum = block_sum<128>(sum, part);
  for (int i = threadIdx.x; i < n; i += 128) y[(size_t)blockIdx.x * n + i] = expf(row[i] - most) / sum;
}

// RUN: --grid 4 --block 32 --arg float32[4,100]:random --arg float32[4]:empty
// The logarithm of a sum of exponentials in one pass: each lane keeps a maximum and a sum, then the lanes join.
extern "C" __global__ void online_softmax(const float* x, float* y) {
  float most = -1e30f, sum = 0.0f;
  for (int i = threadIdx.x; i < 100; i += 32) {
    float v = x[blockIdx.x * 100 + i], larger = fmaxf(most, v);
    sum = sum * expf(most - larger) + expf(v - larger);
    most = larger;
  }
  for (int d = 16; d > 0; d /= 2) {
    float other = __shfl_xor_sync(FULL, most, d), part = __shfl_xor_sync(FULL, sum, d), larger = fmaxf(most, other);
    sum = sum * expf(most - larger) + part * expf(other - larger);
    most = larger;
  }
  if (threadIdx.x == 0) y[blockIdx.x] = most + logf(sum);
}

// RUN: --grid 1 --block 96 --arg int32[96]:random --arg int32[96]:empty
// One step of a radix sort: votes count within warps, one thread adds the warps up.
extern "C" __global__ void radix_step(const int* x, int* y) {
  __shared__ int zeros[3], ones[3], all_zeros;
  int t = threadIdx.x, lane = t % 32, warp = t / 32, bit = x[t] & 1;
  unsigned set = __ballot_sync(FULL, bit), below = (1u << lane) - 1;
  if (lane == 0) {
    ones[warp] = __popc(set);
    zeros[warp] = 32 - __popc(set);
  }
  __syncthreads();
  if (t == 0) {
    int z = 0, o = 0;
    for (int w = 0; w < 3; w++) {
      int here_z = zeros[w], here_o = ones[w];
      zeros[w] = z, ones[w] = o;
      z += here_z, o += here_o;
    }
    all_zeros = z;
  }
  __syncthreads();
  y[bit ? all_zeros + ones[warp] + __popc(set & below) : zeros[warp] + __popc(~set & below)] = x[t];
}

// RUN: --grid 3 --block 50 --arg float32[150]:random --arg float32[150]:empty
// A stencil whose block loads its own halo.
extern "C" __global__ void stencil(const float* x, float* y) {
  __shared__ float line[52];
  int t = threadIdx.x, i = blockIdx.x * 50 + t;
  line[t + 1] = x[i];
  if (t == 0) line[0] = i > 0 ? x[i - 1] : 0.0f;
  if (t == 49) line[51] = i + 1 < 150 ? x[i + 1] : 0.0f;
  __syncthreads();
  y[i] = line[t] + line[t + 1] + line[t + 2];
}

// RUN: --grid 1 --block 256 --arg float32[1000]:random --arg float32[1]:zeros
// A tree down to one warp, then shuffles.
extern "C" __global__ void sum_by_tree(const float* x, float* y) {
  __shared__ float sums[256];
  int t = threadIdx.x;
  sums[t] = 0.0f;
  for (int i = t; i < 1000; i += 256) sums[t] += x[i];
  __syncthreads();
  for (int d = 128; d >= 32; d /= 2) {
    if (t < d) sums[t] += sums[t + d];
    __syncthreads();
  }
  if (t < 32) {
    float sum = warp_sum(sums[t]);
    if (t == 0) *y = sum;
  }
}

// RUN: --grid 1 --block 64 --arg float32[64]:random --arg float32[1]:zeros
// The tree of the last warp with __syncwarp on both sides of each store.
extern "C" __global__ void sum_by_syncwarp(const float* x, float* y) {
  __shared__ float sums[64];
  int t = threadIdx.x;
  sums[t] = x[t];
  __syncthreads();
  if (t >= 32) return;
  for (int d = 32; d > 0; d /= 2) {
    float v = t < d ? sums[t] + sums[t + d] : 0.0f;
    __syncwarp();
    if (t < d) sums[t] = v;
    __syncwarp();
  }
  if (t == 0) *y = sums[0];
}

// RUN: --grid 1 --block 70 --arg float32[70]:random --arg float32[70]:empty
// The last warp has six lanes, and the mask says so.
extern "C" __global__ void minus_first_of_warp(const float* x, float* y) {
  unsigned mask = __ballot_sync(__activemask(), 1);
  float v = x[threadIdx.x];
  y[threadIdx.x] = v - __shfl_sync(mask, v, __ffs(mask) - 1);
}

// RUN: --grid 2 --block 32 --arg float32[2,64]:random --arg float32[64]:random --arg bfloat16[2,64]:empty
// Two numbers at a time.
extern "C" __global__ void rms_norm_in_pairs(const float* x, const float* weight, __nv_bfloat16* y) {
  int t = threadIdx.x, row = blockIdx.x * 64;
  float2 v = reinterpret_cast<const float2*>(x + row)[t], w = reinterpret_cast<const float2*>(weight)[t];
  float scale = rsqrtf(warp_sum(v.x * v.x + v.y * v.y) / 64 + 1e-5f);
  __nv_bfloat162 pair = __floats2bfloat162_rn(v.x * scale * w.x, v.y * scale * w.y);
  reinterpret_cast<__nv_bfloat162*>(y + row)[t] = pair;
}

// RUN: --grid 1 --block 32 --arg bfloat16[16,16]:random --arg bfloat16[16,16]:random --arg float32[16,16]:empty
extern "C" __global__ void tensor_core(const __nv_bfloat16* a, const __nv_bfloat16* b, float* c) {
  using namespace nvcuda::wmma;
  fragment<matrix_a, 16, 16, 16, __nv_bfloat16, row_major> left;
  fragment<matrix_b, 16, 16, 16, __nv_bfloat16, row_major> right;
  fragment<accumulator, 16, 16, 16, float> sum;
  fill_fragment(sum, 0.0f);
  load_matrix_sync(left, a, 16);
  load_matrix_sync(right, b, 16);
  mma_sync(sum, left, right, sum);
  for (int i = 0; i < sum.num_elements; i++) sum.x[i] *= 0.5f;
  store_matrix_sync(c, sum, 16, mem_row_major);
}

// RUN: --grid 2 --block 64 --arg float32[2,4,64]:random --arg float32[2,64]:empty
// Two buffers: the next copy is under way while the last one is used.
extern "C" __global__ void copies_in_turn(const float* x, float* y) {
  __shared__ __align__(16) float buffer[2][64];
  int t = threadIdx.x;
  const float* mine = x + blockIdx.x * 256;
  auto fetch = [&](int i) {
    unsigned to = (unsigned)__cvta_generic_to_shared(&buffer[i % 2][4 * (t % 16)]);
    if (i < 4 && t < 16)
      asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(mine + 64 * i + 4 * t) : "memory");
    asm volatile("cp.async.commit_group;" ::: "memory");
  };
  float sum = 0.0f;
  fetch(0);
  for (int i = 0; i < 4; i++) {
    fetch(i + 1);
    asm volatile("cp.async.wait_group 1;" ::: "memory");
    __syncthreads();
    sum += buffer[i % 2][63 - t];
    __syncthreads();
  }
  y[blockIdx.x * 64 + t] = sum;
}

// RUN: --grid 1 --block 64 --arg int32[64]:random --arg int32[64]:empty
// Pairs are exchanged by the lower of the two threads.
extern "C" __global__ void bitonic_sort(const int* x, int* y) {
  __shared__ int line[64];
  unsigned t = threadIdx.x;
  line[t] = x[t];
  __syncthreads();
  for (unsigned k = 2; k <= 64; k *= 2)
    for (unsigned j = k / 2; j > 0; j /= 2) {
      unsigned other = t ^ j;
      if (other > t && (line[t] > line[other]) == ((t & k) == 0)) {
        int v = line[t];
        line[t] = line[other];
        line[other] = v;
      }
      __syncthreads();
    }
  y[t] = line[t];
}

// RUN: --grid 1 --block 64 --arg int32[64]:random --arg int32[8]:empty --arg int32[64]:empty
// Counts, their offsets, and a stable order: global memory is written and read within the block.
extern "C" __global__ void counting_sort(const int* x, int* offsets, int* order) {
  __shared__ int count[8];
  int t = threadIdx.x, key = x[t] % 8, rank = 0;
  if (t < 8) count[t] = 0;
  __syncthreads();
  atomicAdd(&count[key], 1);
  __syncthreads();
  if (t == 0)
    for (int e = 0, sum = 0; e < 8; sum += count[e++]) offsets[e] = sum;
  __syncthreads();
  for (int i = 0; i < t; i++) rank += x[i] % 8 == key;
  order[offsets[key] + rank] = t;
}

// RUN: --grid 4 --block 32 --arg int32[128]:random --arg int32[128]:empty
// Neighbouring bytes, and neighbouring pairs of bytes, belong to different threads.
extern "C" __global__ void bytes(const int* x, int* y) {
  __shared__ bool odd[32];
  __shared__ unsigned char back[32];
  __shared__ short pair[32];
  int t = threadIdx.x, i = blockIdx.x * 32 + t;
  odd[t] = x[i] % 2;
  back[31 - t] = t;
  pair[t ^ 1] = -t;
  __syncwarp();
  y[i] = odd[31 - t] * 1000 + back[t] + pair[t];
}

// RUN: --grid 2 --block 64 --arg float32[2,64]:random --arg int32[2]:empty
// The place of the maximum: a struct in shared memory, copied as a whole.
extern "C" __global__ void argmax(const float* x, int* y) {
  struct Best { float value; int place; };
  __shared__ Best best[64];
  int t = threadIdx.x;
  best[t] = Best{x[blockIdx.x * 64 + t], t};
  __syncthreads();
  for (int d = 32; d > 0; d /= 2) {
    if (t < d && best[t + d].value > best[t].value) best[t] = best[t + d];
    __syncthreads();
  }
  if (t == 0) y[blockIdx.x] = best[0].place;
}

// RUN: --grid 3 --block 32 --arg int32[1]:zeros --arg int32[96]:empty
// Which block takes which ticket depends on their order; what they write together does not.
extern "C" __global__ void tickets(int* next, int* y) {
  __shared__ int mine;
  if (threadIdx.x == 0) mine = atomicAdd(next, 1);
  __syncthreads();
  y[mine * 32 + threadIdx.x] = mine * 32 + threadIdx.x;
}

// RUN: --grid 2 --block 32,2 --arg float32[4,8]:random --arg float32[4]:empty
// Eight lanes of each warp work, and their mask names eight.
extern "C" __global__ void sum_by_eight_lanes(const float* x, float* y) {
  int lane = threadIdx.x, row = blockIdx.x * 2 + threadIdx.y;
  if (lane >= 8) return;
  float v = x[row * 8 + lane];
  for (int d = 4; d > 0; d /= 2) v += __shfl_down_sync(0xffu, v, d, 8);
  if (lane == 0) y[row] = v;
}

// RUN: --grid 1 --block 32 --arg float32[32,9]:random --arg float32[32,3]:empty
// The three largest of each row, kept in order in an array of the thread.
extern "C" __global__ void largest_three(const float* x, float* y) {
  float best[3] = {-1e30f, -1e30f, -1e30f};
  for (int i = 0; i < 9; i++) {
    float v = x[threadIdx.x * 9 + i];
    int place = 3;
    for (; place > 0 && best[place - 1] < v; place--)
      if (place < 3) best[place] = best[place - 1];
    if (place < 3) best[place] = v;
  }
  for (int k = 0; k < 3; k++) y[threadIdx.x * 3 + k] = best[k];
}
