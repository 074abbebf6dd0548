// Heap sort of a local array, whose addresses depend on the data.
#include "device.cuh"

extern "C" __global__ void local_array(const int *x, int *y, int n) {
  int keys[24];
  int row = blockIdx.x * blockDim.x + threadIdx.x;
  if (row >= n)
    return;
  for (int i = 0; i < 24; i++)
    keys[i] = x[row * 24 + i];
  for (int start = 24 / 2, end = 24; end > 1;) {
    if (start > 0) {
      start--;
    } else {
      end--;
      int t = keys[end];
      keys[end] = keys[0];
      keys[0] = t;
    }
    for (int root = start; 2 * root + 1 < end;) {
      int child = 2 * root + 1;
      if (child + 1 < end && keys[child] < keys[child + 1])
        child++;
      if (keys[root] >= keys[child])
        break;
      int t = keys[root];
      keys[root] = keys[child];
      keys[child] = t;
      root = child;
    }
  }
  for (int i = 0; i < 24; i++)
    y[row * 24 + i] = keys[i];
}
