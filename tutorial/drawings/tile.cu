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

// 128 numbers the other way round: each thread of a block reads what a thread of another warp has written.
extern "C" __global__ void reverse(const float* x, float* y) {
  __shared__ float tile[128];
  tile[threadIdx.x] = x[threadIdx.x];
  BARRIER;
  y[threadIdx.x] = tile[127 - threadIdx.x];
}
