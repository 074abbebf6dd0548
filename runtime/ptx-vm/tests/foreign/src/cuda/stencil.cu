// A 5-point stencil: the tile and its halo in shared memory, zero outside of the grid.
#include "device.cuh"

constexpr int W = 32, H = 8;

extern "C" __global__ void stencil(const float *in, float *out, int width, int height, float centre,
                                   float side) {
  __shared__ float tile[H + 2][W + 2];
  int x0 = blockIdx.x * W, y0 = blockIdx.y * H;
  int thread = threadIdx.y * W + threadIdx.x;
  for (int i = thread; i < (H + 2) * (W + 2); i += W * H) {
    int ty = i / (W + 2), tx = i % (W + 2);
    int x = x0 + tx - 1, y = y0 + ty - 1;
    bool inside = x >= 0 && x < width && y >= 0 && y < height;
    tile[ty][tx] = inside ? in[y * width + x] : 0.0f;
  }
  __syncthreads();
  int x = x0 + threadIdx.x, y = y0 + threadIdx.y;
  if (x >= width || y >= height)
    return;
  int tx = threadIdx.x + 1, ty = threadIdx.y + 1;
  float around = tile[ty - 1][tx] + tile[ty + 1][tx] + (tile[ty][tx - 1] + tile[ty][tx + 1]);
  out[y * width + x] = centre * tile[ty][tx] + side * around;
}
