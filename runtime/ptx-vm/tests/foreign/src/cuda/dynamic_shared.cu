// Two arrays of different types in dynamic shared memory, of sizes known at the launch only.
#include "device.cuh"

extern "C" __global__ void dynamic_shared(const double *x, const uint8_t *k, double *y, int n) {
  extern __shared__ __attribute__((aligned(16))) char memory[];
  double *values = (double *)memory;
  uint8_t *keys = (uint8_t *)(values + n);
  for (int i = threadIdx.x; i < n; i += blockDim.x) {
    values[i] = x[i] * 0.5;
    keys[i] = k[i] ^ 1;
  }
  __syncthreads();
  for (int i = threadIdx.x; i < n; i += blockDim.x)
    y[i] = values[n - 1 - i] + keys[(i * 7) % n];
}
