// Tensor cores, matrix loads, asynchronous copies and inline assembly.
#include "ptx.cuh"
#include <cuda_fp16.h>
#include <cuda_pipeline.h>
#include <mma.h>
using namespace nvcuda;
typedef __nv_bfloat16 bf16;

template <class T, int M, int N, int K> __device__ void multiply(const T* a, const T* b, float* c) {
  wmma::fragment<wmma::matrix_a, M, N, K, T, wmma::row_major> fa;
  wmma::fragment<wmma::matrix_b, M, N, K, T, wmma::col_major> fb;
  wmma::fragment<wmma::accumulator, M, N, K, float> fc;
  wmma::fill_fragment(fc, 1.0f);
  wmma::load_matrix_sync(fa, a, K);
  wmma::load_matrix_sync(fb, b, K);
  wmma::mma_sync(fc, fa, fb, fc);
  wmma::store_matrix_sync(c, fc, N, wmma::mem_row_major);
}
extern "C" __global__ void wmma_16(const bf16* a, const bf16* b, float* c) { multiply<bf16, 16, 16, 16>(a, b, c); }
extern "C" __global__ void wmma_32(const __half* a, const __half* b, float* c) { multiply<__half, 32, 8, 16>(a, b, c); }
extern "C" __global__ void wmma_8(const bf16* a, const bf16* b, float* c) { multiply<bf16, 8, 32, 16>(a, b, c); }

// C (16 x 8) = A (16 x 16) B (16 x 8) through cp.async, ldmatrix and mma.sync; `valid` bytes of A's rows are copied.
extern "C" __global__ void mma(const bf16* a, const bf16* b, float* c, int rows) {
  __shared__ __align__(16) bf16 sa[16][24], sb[16][8];
  int lane = threadIdx.x;
  cp_async16(&sa[lane / 2][lane % 2 * 8], a + lane * 8, lane / 2 < rows);
  cp_async_commit();
  if (lane < 16) cp_async16(sb[lane], b + lane * 8);
  cp_async_commit();
  cp_async_wait<1>();
  cp_async_wait<0>();
  __syncthreads();
  unsigned ra[4], rb[2], rc[4];
  float d[4] = {};
  ldmatrix_x4(ra, &sa[lane % 16][lane / 16 * 8]);
  ldmatrix_x2_trans(rb, sb[lane % 16]);
  mma_16816(d, ra, rb);
  for (int i = 0; i < 4; i++) c[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2] = d[i];
  ldmatrix_x4_trans(rc, &sa[lane % 8 + lane / 16 * 8][lane / 8 % 2 * 8]);  // A transposed
  for (int i = 0; i < 4; i++)
    for (int h = 0; h < 2; h++)
      c[128 + (lane / 4 + i % 2 * 8) * 16 + lane % 4 * 2 + h + i / 2 * 8] =
          __uint_as_float(h ? rc[i] & 0xffff0000u : rc[i] << 16);
}

#define ADD(d, a, b)                \
  asm volatile(                     \
      "add.f32 %0, %1, %2;"         \
      : "=f"(d)                     \
      : "f"(a), "f"(b))

extern "C" __global__ void assembly(const float* x, float* y, unsigned* u) {
  int i = threadIdx.x;
  float v = x[i], sum;
  ADD(sum, v, 1.0f);
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y[64 + i]) : "f"(v / 64));
  y[i] = sum;
  unsigned lane, chosen, packed;
  asm volatile("mov.u32 %0, %%laneid;" : "=r"(lane));
  asm volatile(
      "{\n\t"
      ".reg .pred p;\n\t"            // true for lanes above 7
      "setp.gt.u32 p, %1, 7;\n\t"
      "selp.u32 %0, 100, 200, p;\n\t"
      "@p add.u32 %0, %0, %2;\n"
      "}"
      : "=r"(chosen)
      : "r"(lane), "r"(5));
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(v), "f"(-v));
  u[i] = lane, u[64 + i] = chosen, u[128 + i] = packed;
  float4 four;
  asm volatile("ld.global.nc.v4.f32 {%0, %1, %2, %3}, [%4];"
               : "=f"(four.x), "=f"(four.y), "=f"(four.z), "=f"(four.w)
               : "l"(x + i / 4 * 4));
  y[128 + i] = four.x + four.w;
}

extern "C" __global__ void pipeline(const float* x, float* y) {
  __shared__ float s[64];
  __pipeline_memcpy_async(&s[threadIdx.x], &x[threadIdx.x], 4);
  __pipeline_commit();
  __pipeline_wait_prior(0);
  __syncthreads();
  y[threadIdx.x] = s[63 - threadIdx.x];
}
