// Sorts 512 keys with their values per block, in shared memory, two elements per thread.
#include "device.cuh"

extern "C" __global__ void bitonic_sort(unsigned *keys, unsigned *values, int n) {
  __shared__ unsigned k[512];
  __shared__ unsigned v[512];
  int base = blockIdx.x * 512;
  for (int i = threadIdx.x; i < 512; i += blockDim.x) {
    bool inside = base + i < n;
    k[i] = inside ? keys[base + i] : 0xffffffffu;
    v[i] = inside ? values[base + i] : 0;
  }
  for (int size = 2; size <= 512; size *= 2) {
    for (int stride = size / 2; stride > 0; stride /= 2) {
      __syncthreads();
      int low = 2 * threadIdx.x - (threadIdx.x & (stride - 1));
      int high = low + stride;
      bool up = (low & size) == 0;
      if ((k[low] > k[high]) == up) {
        unsigned t = k[low];
        k[low] = k[high];
        k[high] = t;
        t = v[low];
        v[low] = v[high];
        v[high] = t;
      }
    }
  }
  __syncthreads();
  for (int i = threadIdx.x; i < 512; i += blockDim.x)
    if (base + i < n) {
      keys[base + i] = k[i];
      values[base + i] = v[i];
    }
}
