// The CUDA language, feature by feature: what test_emulator.py runs in every mode.
#include <cassert>
#include <cooperative_groups.h>
#include <cooperative_groups/reduce.h>
#include <cstdint>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <math_constants.h>

namespace cg = cooperative_groups;
__device__ int counter = 3;
__device__ float table[8];
__constant__ float weights[4] = {1, 2, 4, 8};
__shared__ int of_the_file[32];

struct Pair { float value; int index; };

// ---- barriers, votes, shuffles

extern "C" __global__ void barriers(const int* x, int* y) {
  int i = threadIdx.x;
  int count = __syncthreads_count(x[i] > 2), any = __syncthreads_or(x[i] > 100), all = __syncthreads_and(x[i] >= 0);
  y[i] = count * 100 + any * 10 + all;
}

extern "C" __global__ void shuffles(const float* x, float* y) {
  int i = threadIdx.x;
  float v = x[i];
  y[i] = __shfl_sync(0xffffffff, v, 5);
  y[64 + i] = __shfl_up_sync(0xffffffff, v, 3);
  y[128 + i] = __shfl_down_sync(0xffffffff, v, 3);
  y[192 + i] = __shfl_xor_sync(0xffffffff, v, 9);
  y[256 + i] = __shfl_sync(0xffffffff, v, 9, 8);
  y[320 + i] = __shfl_down_sync(0xffffffff, v, 3, 8);
  y[384 + i] = __bfloat162float(__shfl_xor_sync(0xffffffff, __float2bfloat16(v), 1));
  y[448 + i] = float(__shfl_xor_sync(0xffffffff, double(v), 2));
  __nv_bfloat162 pair = __floats2bfloat162_rn(v, -v);
  y[512 + i] = __high2float(__shfl_up_sync(0xffffffff, pair, 1));
}

extern "C" __global__ void votes(const int* x, unsigned* y) {
  int i = threadIdx.x, v = x[i], all;
  y[i] = __ballot_sync(0xffffffff, v & 1);
  y[64 + i] = __any_sync(0xffffffff, v == 7) * 2 + __all_sync(0xffffffff, v < 64);
  y[128 + i] = __match_any_sync(0xffffffff, v % 3);
  y[192 + i] = __match_all_sync(0xffffffff, v / 32, &all);
  y[256 + i] = __reduce_add_sync(0xffffffff, unsigned(v)) + __reduce_max_sync(0xffffffff, unsigned(v));
  y[320 + i] = 0;
  if (v % 4 == 1) y[320 + i] = __activemask();
  if (i % 32 < 16) y[384 + i] = __ballot_sync(0x0000ffff, v & 2);
  else y[384 + i] = __ballot_sync(0xffff0000, v & 4);
}

extern "C" __global__ void groups(const float* x, float* y) {
  cg::thread_block block = cg::this_thread_block();
  cg::thread_block_tile<8> tile = cg::tiled_partition<8>(block);
  float v = x[block.thread_rank()];
  y[block.thread_rank()] = cg::reduce(tile, v, cg::plus<float>());
  block.sync();
  y[64 + block.thread_rank()] = tile.shfl(v, 2) + 1000 * tile.thread_rank() + 10000 * tile.meta_group_rank();
  tile.sync();
  y[128 + block.thread_rank()] = tile.shfl_down(v, 1) + tile.any(v > 50) + tile.ballot(v > 5);
}

// ---- atomics

extern "C" __global__ void atomics(int* i, unsigned* u, unsigned long long* l, float* f, double* d,
                                   __nv_bfloat16* b, __half* h) {
  int t = threadIdx.x + blockDim.x * blockIdx.x;
  atomicAdd(&i[0], t), atomicSub(&i[1], t), atomicMin(&i[2], t - 5), atomicMax(&i[3], t);
  atomicAnd(&u[0], ~(1u << t % 32)), atomicOr(&u[1], 1u << t % 32), atomicXor(&u[2], 1u << t % 32);
  atomicInc(&u[3], 9), atomicDec(&u[4], 9);
  atomicAdd(&l[0], 1ull << 33), atomicMax(&l[1], (unsigned long long)t);
  atomicAdd(f, 1), atomicAdd(d, 0.5), atomicAdd(b, __float2bfloat16(1)), atomicAdd(h, __float2half(1));
  if (atomicCAS(&i[4], 0, t + 1) == 0) atomicExch(&i[5], 77);
}

extern "C" __global__ void lock(int* mutex, int* y) {  // lane 0 of each warp in turn
  if (threadIdx.x % 32) return;
  while (atomicCAS(mutex, 0, 1)) {}
  atomicAdd(y, 1);
  atomicExch(mutex, 0);
}

// ---- shared memory

template <class T> __device__ T total(const T* x, int n) {
  __shared__ T copy[64];
  copy[threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  T sum = 0;
  for (int i = 0; i < n; i++) sum += copy[i];
  __syncthreads();
  return sum;
}

extern "C" __global__ void shared_kinds(const float* x, const int* k, float* y) {
  __shared__ float grid[4][17];
  __shared__ Pair pairs[64];
  __shared__ float one;
  static __shared__ __align__(16) __half halves[64];
  __shared__ alignas(16) unsigned char bytes[64];
  int i = threadIdx.x;
  grid[i / 16][i % 16] = x[i];
  pairs[i] = {x[i], i};
  halves[i] = __float2half(x[i]);
  bytes[i] = i;
  if (i % 2) of_the_file[i / 2] = 5;
  if (i == 0) one = 3;
  __syncthreads();
  y[i] = grid[3 - i / 16][15 - i % 16] + pairs[63 - i].index + one + __half2float(halves[63 - i]) + bytes[63 - i];
  y[i] += of_the_file[7];
  y[64 + i] = total(x, 64) + total(k, 64);
}

extern __shared__ __align__(16) unsigned char raw[];
extern "C" __global__ void dynamic_names(const float* x, float* y) {
  extern __shared__ float as_floats[];
  extern __shared__ float as_rows[][4];
  int i = threadIdx.x;
  as_floats[i] = x[i];
  __syncthreads();
  y[i] = as_rows[(63 - i) / 4][(63 - i) % 4] + reinterpret_cast<float*>(raw)[i] + 0 * raw[4 * i];
}

extern "C" __global__ void variables(float* y) {
  if (threadIdx.x == 0) table[3] = weights[2] + counter;
  __syncthreads();
  y[threadIdx.x] = table[3];
}

// ---- numbers

template <class T> __global__ void scale(T* x, T by) { x[blockIdx.x * blockDim.x + threadIdx.x] *= by; }

extern "C" __global__ void halves(const float* x, float* y) {
  int i = threadIdx.x;
  __nv_bfloat16 a = __float2bfloat16(x[i]), b = __float2bfloat16(0.3f);
  __half c = __float2half(x[i]), d = __float2half(0.3f);
  y[i] = __bfloat162float(__hadd(__hmul(a, b), a));
  y[64 + i] = __half2float(__hfma(c, d, c));
  __nv_bfloat162 p = __halves2bfloat162(a, b), q = __hmul2(p, p);
  y[128 + i] = __low2float(q) + __bfloat1622float2(q).y;
  y[192 + i] = float(a - b) + float(c / d) + (a < b) + (c >= d);
  y[256 + i] = __bfloat162float(__ushort_as_bfloat16(__bfloat16_as_ushort(a))) + __half2float(hexp(d));
}

extern "C" __global__ void arithmetic(const float* x, float* y, int* k) {
  int i = threadIdx.x;
  float v = x[i], s, c;
  sincosf(v, &s, &c);
  y[i] = fmaf(v, v, -s) + c;
  y[64 + i] = rsqrtf(v + 1) + __fmaf_rn(v, 3, 1) + exp2f(v / 64) + __expf(-v);
  y[64 + i] += fmaxf(v, 3) + max(v, 2.0f) + __saturatef(v);
  y[128 + i] = CUDART_INF_F;
  float4 f = make_float4(v, 1, 2, 3);
  uint2 u = make_uint2(i, 7);
  y[192 + i] = f.x + f.w + u.y + __uint_as_float(__float_as_uint(v)) + abs(-v) + __ldg(x + i);
  k[i] = __popc(i) + __clz(i + 1) + __ffs(i) + int(__brev(1u) >> 31) + __float2int_rn(v + 0.5f) + min(i, 9);
  k[64 + i] = __dp4a(0x01020304 + i, 0x01010101, 5) + int(__umulhi(0x80000000u, 6u));
  k[64 + i] += int(__byte_perm(0x33221100, 0x77665544, 0x7610) & 0xff);
}

extern "C" __global__ void many_types(const float* const* tables, int n, double d, unsigned long long l, bool flag,
                                      __nv_bfloat16 b, const uint4* v, uint8_t* bytes, float* y) {
  int i = threadIdx.x;
  if (i < n) y[i] = tables[i % 2][i] + float(d) + float(l) + flag + __bfloat162float(b) + float(v[i].w) + bytes[i];
}

extern "C" __global__ void where(int* y) {
  int block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
  int thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
  assert(blockDim.z == 2);
  y[block * blockDim.x * blockDim.y * blockDim.z + thread] = block * 1000 + thread;
}

extern "C" __global__ void order_matters(int* y) {
  if (threadIdx.x == 0) y[1] = blockIdx.x;
  y[0] = threadIdx.x;
}

// ---- what goes wrong

extern "C" __global__ void asserts(const int* x) {
  assert(x[threadIdx.x] < 5);
}
extern "C" __global__ void traps(int* x) {
  if (x[0] == 0) __trap();
}
extern "C" __global__ void divides(int* x) { x[0] = x[1] / x[2]; }
extern "C" __global__ void runs_wild(float* x, size_t far) { x[far] = 1; }
extern "C" __device__ int deep(int n, volatile int* x) {
  volatile char frame[4096];
  frame[n % 4096] = n;
  return n ? deep(n - 1, x) + frame[n % 4096] : *x;
}
extern "C" __global__ void recurses(int* x) { x[0] = deep(1000, x + 1); }
