// A kernel for an exercise of chapter 11: a matrix of any size, turned about its diagonal.
//
// NumPy: y = x.T, as a contiguous array
//
// x (rows, columns), y (columns, rows) of float. A block brings one tile of 32 x 32 numbers to shared memory and writes
// it at its new place. In global memory and in shared memory, no access should cost more than it must:
//
//   .venv/bin/python -m kernels.emulator student/turn.cu --grid 3,2 --block 256 --arg float32[64,96]:arange
//     --arg float32[96,64]:empty --arg int32:64 --arg int32:96 --profile
//
// Grid (ceil(columns / 32), ceil(rows / 32)), block any multiple of 32 threads.
extern "C" __global__ void turn_matrix(const float* x, float* y, int rows, int columns) {
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
  int row = blockIdx.y * 32, column = blockIdx.x * 32;  // where the tile begins in x
  // (1) the tile comes in, row by row
  __shared__ float tile[32][33];  // the last place of a row is not used: so a column lies in 32 banks
  for (int i = warp; i < 32 && row + i < rows; i += warps) {
    if (column + lane < columns) tile[i][lane] = x[(size_t)(row + i) * columns + column + lane];
  }
  // (2) wait for the other warps
  __syncthreads();
  // (3) its columns go out, as rows of y
  for (int i = warp; i < 32 && column + i < columns; i += warps) {
    if (row + lane < rows) y[(size_t)(column + i) * rows + row + lane] = tile[lane][i];
  }
}
