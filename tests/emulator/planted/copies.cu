// Planted bugs in copies that land later (cp.async) and in tensor cores (ldmatrix, wmma, mma.sync).
// See global.cu for the marks.
#include <cuda_bf16.h>
#include <mma.h>

using nvcuda::wmma::fragment;

__device__ __forceinline__ unsigned at(const void* p) { return (unsigned)__cvta_generic_to_shared(p); }
__device__ __forceinline__ void commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
__device__ __forceinline__ void wait_for_all() { asm volatile("cp.async.wait_group 0;" ::: "memory"); }

// RUN: --grid 1 --block 16 --arg float32[64]:arange --arg float32[16]:zeros
// The group is committed, and nobody waits for it.
extern "C" __global__ void copy_without_wait(const float* x, float* y) {
  __shared__ __align__(16) float line[64];
  int t = threadIdx.x;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(at(line + 4 * t)), "l"(x + 4 * t));
  commit();
  __syncthreads();
  y[t] = line[63 - t];  // BUG: copy, uninitialised, race
}
extern "C" __global__ void copy_without_wait_ok(const float* x, float* y) {
  __shared__ __align__(16) float line[64];
  int t = threadIdx.x;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(at(line + 4 * t)), "l"(x + 4 * t));
  commit();
  wait_for_all();
  __syncthreads();
  y[t] = line[63 - t];
}

// RUN: --grid 1 --block 16 --arg float32[64]:arange --arg float32[16]:zeros
// A thread waits for its own copies; those of others need a barrier.
extern "C" __global__ void copy_without_barrier(const float* x, float* y) {
  __shared__ __align__(16) float line[64];
  int t = threadIdx.x;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(at(line + 4 * t)), "l"(x + 4 * t));  // BUG: race
  commit();
  wait_for_all();
  y[t] = line[63 - t];  // BUG: race, uninitialised
}
extern "C" __global__ void copy_without_barrier_ok(const float* x, float* y) {
  __shared__ __align__(16) float line[64];
  int t = threadIdx.x;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(at(line + 4 * t)), "l"(x + 4 * t));
  commit();
  wait_for_all();
  __syncthreads();
  y[t] = line[63 - t];
}

// RUN: --grid 1 --block 16 --arg float32[128]:arange --arg float32[16]:zeros
// Two groups are in flight; waiting until one is left does not bring the second.
extern "C" __global__ void one_group_too_few(const float* x, float* y) {
  __shared__ __align__(16) float a[64], b[64];
  int t = threadIdx.x;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(at(a + 4 * t)), "l"(x + 4 * t));
  commit();
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(at(b + 4 * t)), "l"(x + 64 + 4 * t));
  commit();
  asm volatile("cp.async.wait_group 1;" ::: "memory");
  __syncthreads();
  y[t] = a[63 - t];
  y[t] += b[63 - t];  // BUG: copy, uninitialised, race
}
extern "C" __global__ void one_group_too_few_ok(const float* x, float* y) {
  __shared__ __align__(16) float a[64], b[64];
  int t = threadIdx.x;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(at(a + 4 * t)), "l"(x + 4 * t));
  commit();
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(at(b + 4 * t)), "l"(x + 64 + 4 * t));
  commit();
  asm volatile("cp.async.wait_group 1;" ::: "memory");
  __syncthreads();
  y[t] = a[63 - t];
  wait_for_all();
  __syncthreads();
  y[t] += b[63 - t];
}

// RUN: --grid 1 --block 16 --arg float32[65]:arange --arg float32[16]:zeros
// A copy of 16 bytes from an address that is one float off.
extern "C" __global__ void misaligned_copy(const float* x, float* y) {
  __shared__ __align__(16) float line[64];
  int t = threadIdx.x;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;"  // BUG: misaligned
               ::"r"(at(line + 4 * t)), "l"(x + 4 * t + 1));
  commit();
  wait_for_all();
  __syncthreads();
  y[t] = line[63 - t];
}
extern "C" __global__ void misaligned_copy_ok(const float* x, float* y) {
  __shared__ __align__(16) float line[64];
  int t = threadIdx.x;
  for (int i = 0; i < 4; i++)
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(at(line + 4 * t + i)), "l"(x + 4 * t + i + 1));
  commit();
  wait_for_all();
  __syncthreads();
  y[t] = line[63 - t];
}

// RUN: --grid 1 --block 16 --arg float32[60]:arange --arg float32[16]:zeros --arg int32:60
// The last copy begins where the array ends.
extern "C" __global__ void copy_over_the_end(const float* x, float* y, int n) {
  __shared__ __align__(16) float line[64];
  int t = threadIdx.x;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(at(line + 4 * t)), "l"(x + 4 * t));  // BUG: bounds
  commit();
  wait_for_all();
  __syncthreads();
  y[t] = line[63 - t];
}
extern "C" __global__ void copy_over_the_end_ok(const float* x, float* y, int n) {
  __shared__ __align__(16) float line[64];
  int t = threadIdx.x, bytes = 4 * t < n ? 16 : 0;
  const float* from = 4 * t < n ? x + 4 * t : x;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(at(line + 4 * t)), "l"(from), "r"(bytes));
  commit();
  wait_for_all();
  __syncthreads();
  y[t] = line[63 - t];
}

// RUN: --grid 1 --block 16 --arg float32[3,64]:random --arg float32[16]:empty
// The next copy is sent into the buffer that others still read.
extern "C" __global__ void copy_into_a_buffer_in_use(const float* x, float* y) {
  __shared__ __align__(16) float line[64];
  int t = threadIdx.x;
  float sum = 0.0f;
  for (int i = 0; i < 3; i++) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;"  // BUG: race
                 ::"r"(at(line + 4 * t)), "l"(x + 64 * i + 4 * t));
    commit();
    wait_for_all();  // BUG: race
    __syncthreads();
    sum += line[63 - t];  // BUG: race
  }
  y[t] = sum;
}
extern "C" __global__ void copy_into_a_buffer_in_use_ok(const float* x, float* y) {
  __shared__ __align__(16) float line[64];
  int t = threadIdx.x;
  float sum = 0.0f;
  for (int i = 0; i < 3; i++) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(at(line + 4 * t)), "l"(x + 64 * i + 4 * t));
    commit();
    wait_for_all();
    __syncthreads();
    sum += line[63 - t];
    __syncthreads();
  }
  y[t] = sum;
}

// RUN: --grid 1 --block 32 --arg bfloat16[16,16]:random --arg uint32[32,4]:empty
// Lanes 16 to 31 hold the addresses of the right half of the tile; here they walk on to rows that do not exist.
extern "C" __global__ void ldmatrix_row(const __nv_bfloat16* x, unsigned* y) {
  __shared__ __align__(16) __nv_bfloat16 tile[16 * 16];
  int t = threadIdx.x;
  for (int i = t; i < 256; i += 32) tile[i] = x[i];
  __syncthreads();
  unsigned a[4];
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"  // BUG: bounds
               : "=r"(a[0]), "=r"(a[1]), "=r"(a[2]), "=r"(a[3]) : "r"(at(tile + t * 16)));
  for (int i = 0; i < 4; i++) y[4 * t + i] = a[i];
}
extern "C" __global__ void ldmatrix_row_ok(const __nv_bfloat16* x, unsigned* y) {
  __shared__ __align__(16) __nv_bfloat16 tile[16 * 16];
  int t = threadIdx.x;
  for (int i = t; i < 256; i += 32) tile[i] = x[i];
  __syncthreads();
  unsigned a[4];
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(a[0]), "=r"(a[1]), "=r"(a[2]), "=r"(a[3]) : "r"(at(tile + t % 16 * 16 + t / 16 * 8)));
  for (int i = 0; i < 4; i++) y[4 * t + i] = a[i];
}

// RUN: --grid 1 --block 32 --arg bfloat16[8,12]:random --arg uint32[32]:empty
// A padding of four elements makes rows of 24 bytes; ldmatrix wants each row to begin at a multiple of 16.
extern "C" __global__ void ldmatrix_misaligned(const __nv_bfloat16* x, unsigned* y) {
  __shared__ __align__(16) __nv_bfloat16 tile[8 * 12];
  int t = threadIdx.x;
  for (int i = t; i < 8 * 12; i += 32) tile[i] = x[i];
  __syncthreads();
  unsigned a;
  asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];"  // BUG: misaligned
               : "=r"(a) : "r"(at(tile + t % 8 * 12)));
  y[t] = a;
}
extern "C" __global__ void ldmatrix_misaligned_ok(const __nv_bfloat16* x, unsigned* y) {
  __shared__ __align__(16) __nv_bfloat16 tile[8 * 16];
  int t = threadIdx.x;
  for (int i = t; i < 8 * 12; i += 32) tile[i / 12 * 16 + i % 12] = x[i];
  __syncthreads();
  unsigned a;
  asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];" : "=r"(a) : "r"(at(tile + t % 8 * 16)));
  y[t] = a;
}

// RUN: --grid 1 --block 32 --arg bfloat16[16,16]:random --arg float32[16,16]:empty
// The product of 16 x 16 is stored with the row length of another matrix.
extern "C" __global__ void wmma_store_stride(const __nv_bfloat16* x, float* y) {
  using namespace nvcuda::wmma;
  fragment<matrix_a, 16, 16, 16, __nv_bfloat16, row_major> a;
  fragment<matrix_b, 16, 16, 16, __nv_bfloat16, col_major> b;
  fragment<accumulator, 16, 16, 16, float> c;
  load_matrix_sync(a, x, 16);
  load_matrix_sync(b, x, 16);
  fill_fragment(c, 0.0f);
  mma_sync(c, a, b, c);
  store_matrix_sync(y, c, 24, mem_row_major);  // BUG: bounds
}
extern "C" __global__ void wmma_store_stride_ok(const __nv_bfloat16* x, float* y) {
  using namespace nvcuda::wmma;
  fragment<matrix_a, 16, 16, 16, __nv_bfloat16, row_major> a;
  fragment<matrix_b, 16, 16, 16, __nv_bfloat16, col_major> b;
  fragment<accumulator, 16, 16, 16, float> c;
  load_matrix_sync(a, x, 16);
  load_matrix_sync(b, x, 16);
  fill_fragment(c, 0.0f);
  mma_sync(c, a, b, c);
  store_matrix_sync(y, c, 16, mem_row_major);
}

// RUN: --grid 1 --block 32 --arg bfloat16[16,8]:random --arg float32[16,16]:empty
// A fragment is sixteen wide, and the matrix has eight columns.
extern "C" __global__ void wmma_load_ragged(const __nv_bfloat16* x, float* y) {
  using namespace nvcuda::wmma;
  fragment<matrix_a, 16, 16, 16, __nv_bfloat16, row_major> a;
  fragment<matrix_b, 16, 16, 16, __nv_bfloat16, col_major> b;
  fragment<accumulator, 16, 16, 16, float> c;
  load_matrix_sync(a, x, 8);  // BUG: bounds
  load_matrix_sync(b, x, 8);
  fill_fragment(c, 0.0f);
  mma_sync(c, a, b, c);
  store_matrix_sync(y, c, 16, mem_row_major);
}
extern "C" __global__ void wmma_load_ragged_ok(const __nv_bfloat16* x, float* y) {
  using namespace nvcuda::wmma;
  __shared__ __align__(32) __nv_bfloat16 tile[16 * 16];
  for (int i = threadIdx.x; i < 256; i += 32)
    tile[i] = i % 16 < 8 ? x[i / 16 * 8 + i % 16] : __float2bfloat16(0.0f);
  __syncwarp();
  fragment<matrix_a, 16, 16, 16, __nv_bfloat16, row_major> a;
  fragment<matrix_b, 16, 16, 16, __nv_bfloat16, col_major> b;
  fragment<accumulator, 16, 16, 16, float> c;
  load_matrix_sync(a, tile, 16);
  load_matrix_sync(b, tile, 16);
  fill_fragment(c, 0.0f);
  mma_sync(c, a, b, c);
  store_matrix_sync(y, c, 16, mem_row_major);
}

// RUN: --grid 1 --block 32 --arg uint32[32,4]:zeros --arg float32[32,4]:zeros
// A product of matrices is made by all 32 lanes, or not at all.
extern "C" __global__ void mma_by_half_a_warp(const unsigned* x, float* y) {
  int t = threadIdx.x;
  const unsigned* a = x + 4 * t;
  float c[4] = {0.0f, 0.0f, 0.0f, 0.0f};
  if (t < 16)
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "  // BUG: warp
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(a[0]), "r"(a[1]));
  for (int i = 0; i < 4; i++) y[4 * t + i] = c[i];
}
extern "C" __global__ void mma_by_half_a_warp_ok(const unsigned* x, float* y) {
  int t = threadIdx.x;
  const unsigned* a = x + 4 * t;
  float c[4] = {0.0f, 0.0f, 0.0f, 0.0f};
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
               "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(a[0]), "r"(a[1]));
  for (int i = 0; i < 4; i++) y[4 * t + i] = c[i];
}
