// Two small kernels for chapter 11 and its notebook. One turns a square of 32 x 32 numbers about its diagonal, through
// shared memory, to see its banks:
//
//   python -m kernels.emulator tutorial/drawings/tile.cu --kernel turn --grid 1 --block 1024
//     --arg float32[1024]:arange --arg float32[1024]:empty -DSTRIDE=33 --profile
#ifndef STRIDE
#define STRIDE 32  // places from a row of the tile to the next
#endif
#ifndef BARRIER
#define BARRIER __syncthreads()  // what stands between writing and reading
#endif

extern "C" __global__ void turn(const float* x, float* y) {
  __shared__ float tile[32 * STRIDE];
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  tile[warp * STRIDE + lane] = x[warp * 32 + lane];  // a row of the tile
  __syncthreads();
  y[warp * 32 + lane] = tile[lane * STRIDE + warp];  // a column of it
}

// The sum of 128 numbers, in all threads of a block of four warps.
extern "C" __global__ void total(const float* x, float* y) {
  __shared__ float partial[4];
  float value = x[threadIdx.x];
  for (int distance = 16; distance > 0; distance /= 2) value += __shfl_xor_sync(0xffffffffu, value, distance);
  if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = value;
  BARRIER;
  y[threadIdx.x] = partial[0] + partial[1] + partial[2] + partial[3];
}
