// What stands in the files of students and samples: host code, macros around assembly, hand-made synchronisation.
// What stands behind a comment that begins with an at sign is a bug, with which the tests replace the line.
#include "device_launch_parameters.h"
#include <cooperative_groups.h>
#include <cstdint>
#include <cuda/std/limits>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <iostream>
#include <mma.h>
#include <vector>
#define CHECK(call) if ((call) != cudaSuccess) { std::cerr << "failed\n"; exit(1); }
#define SHARED(p) "r"((uint32_t)__cvta_generic_to_shared(p))

namespace cg = cooperative_groups;
struct Timer {
  cudaEvent_t begin, end;
  Timer() { cudaEventCreate(&begin); }
};
static inline int blocks_for(int n) { return (n + 31) / 32; }

__global__ void add_one(const float* x, float* y, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) y[i] = x[i] + 1;
}

float timed() { Timer timer; add_one<<<blocks_for(7), 32>>>(nullptr, nullptr, 0); return 0; }

// ---- handing over through memory

__global__ void last_block(const int* x, int* middle, int* y, unsigned* done) {
  __shared__ unsigned ticket;
  const int i = blockIdx.x * blockDim.x + threadIdx.x, n = gridDim.x * blockDim.x;
  middle[i] = 2 * x[i];
  __threadfence();  //@ (void)0;
  __syncthreads();
  if (threadIdx.x == 0) ticket = atomicAdd(done, 1);
  __syncthreads();
  if (ticket + 1 < gridDim.x) return;
  for (int j = threadIdx.x; j < n; j += blockDim.x) y[j] = middle[n - 1 - j];  // last_block
  if (threadIdx.x == 0) *done = 0;
}

__global__ void guarded(int* mutex, int* x) {
  for (bool done = false; !done;) {
    if (atomicCAS(mutex, 0, 1)) continue;
    x[0] += threadIdx.x;  // guarded
    __threadfence();  //@ (void)0;
    atomicExch(mutex, 0);
    done = true;
  }
}

__global__ void add_double(const double* x, double* sum) {
  unsigned long long *bits = (unsigned long long*)sum, old = *bits, assumed;
  do {
    assumed = old;
    old = atomicCAS(bits, assumed, __double_as_longlong(x[threadIdx.x] + __longlong_as_double(assumed)));
  } while (old != assumed);
}

__global__ void flag(volatile int* ready, int* x) {
  __shared__ int s;
  if (threadIdx.x == 63) s = 5, __threadfence_block(), __threadfence(), *ready = 1;
  while (*ready == 0) {}  //@ while (*ready < 2) {}  // flag
  x[threadIdx.x] = threadIdx.x;
}

__global__ void producers(const int* x, int* y) {  // warps 0 and 1 fill, 2 and 3 read
  __shared__ int s[64];
  if (threadIdx.x < 64) {
    s[threadIdx.x] = x[threadIdx.x];
    asm volatile("bar.arrive 1, 128;" ::: "memory");
  } else {
    asm volatile("bar.sync 1, 128;" ::: "memory");  //@ asm volatile("bar.sync 2, 64;" ::: "memory");
    y[threadIdx.x - 64] = s[127 - threadIdx.x];  // producers
  }
}

// ---- assembly

__device__ uint32_t address_of(const void* p) {
  uint32_t address;
  asm("{ .reg .u64 wide;\n cvta.to.shared.u64 wide, %1;\n cvt.u32.u64 %0, wide; }" : "=r"(address) : "l"(p));
  return address;
}

__global__ void assembly(const float* x, float* y) {
  __shared__ __align__(16) float s[64];
  asm volatile("cp.async.ca.shared.global.L2::128B [%0], [%1], 4;" ::SHARED(s + threadIdx.x), "l"(x + threadIdx.x));
  asm volatile("cp.async.wait_all;");
  __syncthreads();
  float a, b, c, d;
  uint32_t below, at = address_of(s) + threadIdx.x / 4 * 16;  //@ uint32_t below, at = address_of(s) + threadIdx.x * 4;
  asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];" : "=f"(a), "=f"(b), "=f"(c), "=f"(d) : "r"(at));  // assembly
  asm("mov.u32 %0, %%lanemask_lt;" : "=r"(below));
  __half2 two = __floats2half2_rn(1, 2);
  asm("fma.rn.f16x2 %0, %0, %0, %0;" : "+r"(*(uint32_t*)&two));
  y[threadIdx.x] = a + b + c + d + __popc(below) + __high2float(two);
}

__global__ void narrow_in_wide(const float* x, double* y) {
  extern __shared__ float pool[];
  double* d = (double*)(pool + 2);  //@ double* d = (double*)(pool + 1);
  d[threadIdx.x] = x[threadIdx.x];  // narrow_in_wide
  y[threadIdx.x] = d[threadIdx.x];
}

__global__ void integers(const signed char* a, const signed char* b, int* c) {
  using namespace nvcuda;
  wmma::fragment<wmma::matrix_a, 16, 16, 16, signed char, wmma::row_major> fa;
  wmma::fragment<wmma::matrix_b, 16, 16, 16, signed char, wmma::row_major> fb;
  wmma::fragment<wmma::accumulator, 16, 16, 16, int> fc;
  wmma::fill_fragment(fc, 1 << 25);
  wmma::load_matrix_sync(fa, a, 16), wmma::load_matrix_sync(fb, b, 16);
  wmma::mma_sync(fc, fa, fb, fc);
  wmma::store_matrix_sync(c, fc, 16, wmma::mem_row_major);
}

__device__ int total(cg::thread_group group, int* s, int value) {
  const int me = group.thread_rank();
  for (int half = group.size() / 2; half > 0; half /= 2) {
    s[me] = value;
    group.sync();
    if (me < half) value += s[me + half];
    group.sync();
  }
  return value;
}

__global__ void groups(const int* x, int* y) {
  __shared__ int s[64];
  const int sum = total(cg::this_thread_block(), s, x[threadIdx.x]);
  cg::thread_block_tile<16, cg::thread_block> tile = cg::tiled_partition<16>(cg::this_thread_block());
  if (threadIdx.x == 0) y[64] = sum + (clock() == 0) + cuda::std::numeric_limits<char>::min();
  y[threadIdx.x] = cg::inclusive_scan(tile, x[threadIdx.x]);
}

__global__ void across_the_grid(int* y) { cg::this_grid().sync(), y[0] = 1; }

__global__ void endless(int* y) {
  unsigned n = y[0];
  while (n != 1) n = (n + 2) & 62;  // endless
  y[0] = n;
}

int main() {
  std::vector<float> x(7);
  float* device;
  CHECK(cudaMalloc(&device, 28));
  add_one<<<blocks_for(7), 32>>>(device, device, 7);
  std::cout << timed() << std::endl;
}
