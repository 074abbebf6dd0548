// Sum and maximum of an array: shuffles within a warp, shared memory between warps, atomics between
// blocks.
#include "device.cuh"

__device__ __forceinline__ float warp_sum(float v) {
  for (int by = 16; by > 0; by /= 2)
    v += shfl_down(v, by);
  return v;
}

__device__ __forceinline__ int warp_max(int v) {
  for (int by = 16; by > 0; by /= 2) {
    int other = shfl_xor(v, by);
    v = v > other ? v : other;
  }
  return v;
}

extern "C" __global__ void reduce(const float *x, const int *k, int n, float *sum, int *top) {
  __shared__ float sums[32];
  __shared__ int tops[32];
  float s = 0;
  int m = -2147483647 - 1;
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) {
    s += x[i];
    m = k[i] > m ? k[i] : m;
  }
  s = warp_sum(s);
  m = warp_max(m);
  int warp = threadIdx.x / 32;
  if (lane_id() == 0) {
    sums[warp] = s;
    tops[warp] = m;
  }
  __syncthreads();
  if (warp == 0) {
    int warps = blockDim.x / 32;
    s = lane_id() < warps ? sums[lane_id()] : 0.0f;
    m = lane_id() < warps ? tops[lane_id()] : -2147483647 - 1;
    s = warp_sum(s);
    m = warp_max(m);
    if (lane_id() == 0) {
      __nvvm_atom_add_gen_f(sum, s);
      __nvvm_atom_max_gen_i(top, m);
    }
  }
}
