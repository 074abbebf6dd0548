// A cluster of two blocks: each fetches half of a tile by TMA and both get both halves by
// multicast; the bytes complete at the same place of each block's mbarrier. Rows go back by
// vectors.
#include "async.cuh"

extern "C" __global__ void __cluster_dims__(2, 1, 1) __launch_bounds__(64)
    multicast(const void *x, float4 *y, const __attribute__((grid_constant)) TensorMap map) {
  __shared__ alignas(128) float tile[2][16][32];
  __shared__ uint64_t bar;
  unsigned rank, elected;
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  asm volatile("{\n\t.reg .pred p;\n\telect.sync _|p, 0xffffffff;\n\tselp.u32 %0, 1, 0, p;\n\t}"
               : "=r"(elected));
  bool leader = threadIdx.x < 32 && elected;
  if (leader) {
    asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory");
    mbarrier_init(&bar, 1);
    mbarrier_init_fence();
    mbarrier_expect(&bar, sizeof(tile));
  }
  // Both mbarriers expect their bytes before either block sends any.
  asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
  int pair = blockIdx.x / 2;
  if (leader) {
    unsigned short both = 3;
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes"
        ".multicast::cluster [%0], [%1, {%2, %3}], [%4], %5;" ::"r"(shared_address(tile[rank])),
        "l"(&map), "r"(0), "r"(pair * 32 + (int)rank * 16), "r"(shared_address(&bar)), "h"(both)
        : "memory");
  }
  mbarrier_wait(&bar, 0);
  const float4 *in = (const float4 *)tile;
  for (int i = threadIdx.x; i < 256; i += 64) {
    float4 v = in[i];
    y[blockIdx.x * 256 + i] = {v.x + rank, v.y, v.z, v.w};
  }
  asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}
