// The part of the CUDA headers that these kernels use, so that clang needs no CUDA installation.
#pragma once

#define __global__ __attribute__((global))
#define __device__ __attribute__((device))
#define __shared__ __attribute__((shared))
#define __constant__ __attribute__((constant))
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...) __attribute__((launch_bounds(__VA_ARGS__)))
#define __cluster_dims__(...) __attribute__((cluster_dims(__VA_ARGS__)))

struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x, y, z;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
#include <__clang_cuda_builtin_vars.h>

typedef unsigned char uint8_t;
typedef unsigned short uint16_t;
typedef unsigned int uint32_t;
typedef unsigned long long uint64_t;
typedef signed char int8_t;
typedef long long int64_t;

#define FULL_MASK 0xffffffffu

__device__ __forceinline__ unsigned lane_id() { return threadIdx.x & 31; }

__device__ __forceinline__ float shfl_down(float v, int by) {
  return __nvvm_shfl_sync_down_f32(FULL_MASK, v, by, 0x1f);
}
__device__ __forceinline__ float shfl_xor(float v, int by) {
  return __nvvm_shfl_sync_bfly_f32(FULL_MASK, v, by, 0x1f);
}
__device__ __forceinline__ int shfl_xor(int v, int by) {
  return __nvvm_shfl_sync_bfly_i32(FULL_MASK, v, by, 0x1f);
}
__device__ __forceinline__ int shfl_up(int v, int by) {
  return __nvvm_shfl_sync_up_i32(FULL_MASK, v, by, 0);
}

// The address of shared memory as the 32-bit operand that inline assembly takes.
__device__ __forceinline__ uint32_t shared_address(const void *p) {
  return (uint32_t)(unsigned long long)(__attribute__((address_space(3))) const void *)p;
}
