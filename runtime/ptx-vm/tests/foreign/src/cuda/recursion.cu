// Recursion that is no tail call, of another depth in every lane.
#include "device.cuh"

__device__ __noinline__ unsigned ackermann(unsigned m, unsigned n) {
  if (m == 0)
    return n + 1;
  if (n == 0)
    return ackermann(m - 1, 1);
  return ackermann(m - 1, ackermann(m, n - 1));
}

extern "C" __global__ void recursion(const unsigned *x, unsigned *y) {
  int i = threadIdx.x;
  y[i] = ackermann(x[2 * i], x[2 * i + 1]);
}
