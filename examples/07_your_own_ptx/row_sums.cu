// y[row] = scale * (sum of row `row` of x): a block for each row, a tree in shared memory.
#ifndef __CUDACC__ // What the headers of CUDA declare, for a clang without them.
#include <__clang_cuda_builtin_vars.h>
#define __global__ __attribute__((global))
#define __shared__ __attribute__((shared))
#endif

extern "C" __global__ void row_sums(const float *x, float *y, unsigned columns, float scale) {
  __shared__ float tree[128];
  unsigned lane = threadIdx.x, row = blockIdx.x;
  float sum = 0;
  for (unsigned column = lane; column < columns; column += 128)
    sum += x[row * columns + column];
  tree[lane] = sum;
#pragma nounroll
  for (unsigned half = 64; half > 0; half /= 2) {
#ifndef RACE
    __syncthreads();
#endif
    if (lane < half)
      tree[lane] += tree[lane + half];
  }
  if (lane == 0)
    y[row] = scale * tree[0];
}
