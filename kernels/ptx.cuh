// The PTX instructions that the kernels use, each as a small function.
//
// Tensor cores, asynchronous copies and loads that pass a cache have no name in C++; inline assembly is how a kernel reaches them. Everything
// here is sm_80: every GPU since the A100 has it. The letters of mma are those of the PTX manual.
#pragma once
#include <cuda_bf16.h>

// Shared memory as PTX names it: 32 bits, counted from its beginning.
__device__ __forceinline__ unsigned shared_address(const void* p) {
  return static_cast<unsigned>(__cvta_generic_to_shared(p));
}

// Read 16 bytes that nothing writes and nobody reads again soon, past the L1 cache, from a multiple of 16.
__device__ __forceinline__ uint4 load_streaming16(const void* from) {
  uint4 bits;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(bits.x), "=r"(bits.y), "=r"(bits.z), "=r"(bits.w)
               : "l"(from));
  return bits;
}

// Begin to copy 16 bytes from global to shared memory, past the registers and the L1 cache. Both addresses are
// multiples of 16. Not valid: write zeros, and do not read at all.
__device__ __forceinline__ void cp_async16(void* to, const void* from, bool valid = true) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from), "r"(valid ? 16 : 0)
               : "memory");
}

// The copies begun since the last commit are one group.
__device__ __forceinline__ void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Wait until at most N groups are under way. What has landed is seen by this thread; by the block, after a barrier.
template <int N> __device__ __forceinline__ void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

// Load 8 x 8 matrices of 16-bit numbers from shared memory. Lane i gives the address of row i % 8 of matrix i / 8 (x2:
// lanes 0 to 15), a multiple of 16. It gets of each the numbers at row lane / 4, columns lane % 4 * 2 and the next.
__device__ __forceinline__ void ldmatrix_x4(unsigned (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}
__device__ __forceinline__ void ldmatrix_x2(unsigned (&r)[2], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(shared_address(row))
               : "memory");
}

// The same, of each matrix's transpose: what B of mma needs from rows that run along n.
__device__ __forceinline__ void ldmatrix_x4_trans(unsigned (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}
__device__ __forceinline__ void ldmatrix_x2_trans(unsigned (&r)[2], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(shared_address(row))
               : "memory");
}

// d (16 x 8, float) += a (16 x 16, bfloat16) b (16 x 8, bfloat16), by the 32 lanes of a warp. With g = lane / 4 and
// t = lane % 4: a[0] and a[2] are of row g, a[1] and a[3] of row g + 8, columns 2t and 2t + 1 (a[2], a[3]: 8 further);
// b of column g, rows 2t and 2t + 1 (b[1]: 8 further); d[0] and d[1] of row g, columns 2t and 2t + 1, d[2] and d[3] of
// row g + 8.
__device__ __forceinline__ void mma_16816(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
