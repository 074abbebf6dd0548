// Grid and block of three dimensions: every thread says where it is.
#include "device.cuh"

extern "C" __global__ void special_registers(unsigned *y) {
  unsigned block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  unsigned thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
  unsigned size = blockDim.x * blockDim.y * blockDim.z, lane, mask;
  asm("mov.u32 %0, %%laneid;" : "=r"(lane));
  asm("mov.u32 %0, %%lanemask_lt;" : "=r"(mask));
  y[block * size + thread] = block << 24 ^ blockIdx.z << 20 ^ threadIdx.y << 16 ^ lane << 8 ^
                             __builtin_popcount(mask) ^ gridDim.z << 12;
}
