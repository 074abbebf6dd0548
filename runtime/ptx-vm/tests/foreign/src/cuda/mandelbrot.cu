// Escape times: every lane leaves its loop at another time.
#include "device.cuh"

extern "C" __global__ void mandelbrot(int *y, int width, int height, int limit) {
  int px = blockIdx.x * blockDim.x + threadIdx.x, py = blockIdx.y * blockDim.y + threadIdx.y;
  if (px >= width || py >= height)
    return;
  // Fixed point with 12 bits of fraction, so that the result is exact.
  int cx = -2 * 4096 + px * 3 * 4096 / width, cy = -4096 + py * 2 * 4096 / height;
  int zx = 0, zy = 0, count = 0;
  while (count < limit) {
    int xx = zx * zx >> 12, yy = zy * zy >> 12;
    if (xx + yy > 4 * 4096)
      break;
    zy = (zx * zy >> 11) + cy;
    zx = xx - yy + cx;
    count++;
  }
  y[py * width + px] = count;
}
