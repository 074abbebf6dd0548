// Transpose of a matrix through a padded tile in shared memory, 32 x 8 threads for 32 x 32
// elements.
#include "device.cuh"

template <typename T, int TILE, int ROWS>
__device__ __forceinline__ void transpose(const T *in, T *out, int rows, int columns) {
  __shared__ T tile[TILE][TILE + 1];
  int column = blockIdx.x * TILE + threadIdx.x;
  int row = blockIdx.y * TILE + threadIdx.y;
  for (int i = 0; i < TILE; i += ROWS)
    if (row + i < rows && column < columns)
      tile[threadIdx.y + i][threadIdx.x] = in[(row + i) * columns + column];
  __syncthreads();
  column = blockIdx.y * TILE + threadIdx.x;
  row = blockIdx.x * TILE + threadIdx.y;
  for (int i = 0; i < TILE; i += ROWS)
    if (row + i < columns && column < rows)
      out[(row + i) * rows + column] = tile[threadIdx.x][threadIdx.y + i];
}

extern "C" __global__ void transpose_f32(const float *in, float *out, int rows, int columns) {
  transpose<float, 32, 8>(in, out, rows, columns);
}

extern "C" __global__ void transpose_u16(const uint16_t *in, uint16_t *out, int rows, int columns) {
  transpose<uint16_t, 16, 16>(in, out, rows, columns);
}
