// Calls through pointers that lie in global memory, to another function from lane to lane.
#include "device.cuh"

__device__ __noinline__ float twice(float x) { return 2 * x; }
__device__ __noinline__ float square(float x) { return x * x; }
__device__ __noinline__ float negate(float x) { return -x; }
typedef float (*Function)(float);
__device__ Function functions[3] = {twice, square, negate};

extern "C" __global__ void pointers(const int *which, const float *x, float *y, int n) {
  int i = threadIdx.x;
  if (i < n)
    y[i] = functions[which[i]](x[i]);
}
