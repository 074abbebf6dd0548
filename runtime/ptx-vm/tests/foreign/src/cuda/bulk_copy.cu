// Asynchronous copies that are no tensor copies: cp.async that arrives at an mbarrier, bulk copies
// in and out, bulk reductions into global memory, and a copy between the blocks of a cluster.
#include "async.cuh"

// Doubles every element: tiles of 128 floats in by cp.async, signalled by an mbarrier per stage.
extern "C" __global__ void __launch_bounds__(128) pipeline(const float *x, float *y, int tiles) {
  constexpr int STAGES = 3;
  __shared__ alignas(16) float ring[STAGES][128];
  __shared__ uint64_t full[STAGES];
  if (threadIdx.x == 0)
    for (int i = 0; i < STAGES; i++)
      asm volatile("mbarrier.init.shared.b64 [%0], 128;" ::"r"(shared_address(&full[i]))
                   : "memory");
  __syncthreads();
  auto fetch = [&](int tile) {
    if (tile < tiles)
      asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(
                       shared_address(&ring[tile % STAGES][threadIdx.x])),
                   "l"(x + tile * 128 + threadIdx.x)
                   : "memory");
    asm volatile("cp.async.mbarrier.arrive.noinc.shared.b64 [%0];" ::"r"(
                     shared_address(&full[tile % STAGES]))
                 : "memory");
  };
  for (int i = 0; i < STAGES - 1; i++)
    fetch(i);
  for (int i = 0; i < tiles; i++) {
    fetch(i + STAGES - 1);
    int parity = i / STAGES & 1, done;
    do {
      asm volatile("{\n\t.reg .pred p;\n\t"
                   "mbarrier.test_wait.parity.shared.b64 p, [%1], %2;\n\t"
                   "selp.u32 %0, 1, 0, p;\n\t}"
                   : "=r"(done)
                   : "r"(shared_address(&full[i % STAGES])), "r"(parity)
                   : "memory");
    } while (!done);
    // The neighbour's element, so that the barrier is needed and not only the thread's own wait.
    y[i * 128 + threadIdx.x] = 2 * ring[i % STAGES][threadIdx.x ^ 1];
    __syncthreads();
  }
}

// Each block adds its part of x, scaled, to the sums of all blocks.
extern "C" __global__ void __launch_bounds__(64)
    bulk_reduce(const int *x, int *sums, int *largest) {
  __shared__ alignas(128) int in[64];
  __shared__ alignas(128) int out[64];
  __shared__ uint64_t bar;
  if (threadIdx.x == 0) {
    mbarrier_init(&bar, 1);
    mbarrier_init_fence();
    mbarrier_expect(&bar, 256);
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes "
                 "[%0], [%1], 256, [%2];" ::"r"(shared_address(in)),
                 "l"(x + blockIdx.x * 64), "r"(shared_address(&bar))
                 : "memory");
  }
  __syncthreads();
  mbarrier_wait(&bar, 0);
  out[threadIdx.x] = 3 * in[63 - threadIdx.x];
  proxy_fence();
  __syncthreads();
  if (threadIdx.x == 0) {
    asm volatile(
        "cp.reduce.async.bulk.global.shared::cta.bulk_group.add.s32 [%0], [%1], 256;" ::"l"(sums),
        "r"(shared_address(out))
        : "memory");
    asm volatile(
        "cp.reduce.async.bulk.global.shared::cta.bulk_group.max.s32 [%0], [%1], 256;" ::"l"(
            largest),
        "r"(shared_address(out))
        : "memory");
    asm volatile("cp.async.bulk.commit_group;" ::: "memory");
    asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
  }
}

// Each block of a cluster of two sends its row to the other one, by a bulk copy from shared memory
// to shared memory that completes bytes at the receiver's mbarrier.
extern "C" __global__ void __cluster_dims__(2, 1, 1) __launch_bounds__(64)
    exchange(const int *x, int *y) {
  __shared__ alignas(128) int mine[64];
  __shared__ alignas(128) int theirs[64];
  __shared__ uint64_t bar;
  unsigned rank;
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  mine[threadIdx.x] = x[blockIdx.x * 64 + threadIdx.x] + 1;
  if (threadIdx.x == 0) {
    mbarrier_init(&bar, 1);
    mbarrier_init_fence();
    mbarrier_expect(&bar, 256);
  }
  proxy_fence();
  asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
  if (threadIdx.x == 0) {
    uint32_t to, at;
    asm("mapa.shared::cluster.u32 %0, %1, %2;"
        : "=r"(to)
        : "r"(shared_address(theirs)), "r"(rank ^ 1));
    asm("mapa.shared::cluster.u32 %0, %1, %2;"
        : "=r"(at)
        : "r"(shared_address(&bar)), "r"(rank ^ 1));
    asm volatile("cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes "
                 "[%0], [%1], 256, [%2];" ::"r"(to),
                 "r"(shared_address(mine)), "r"(at)
                 : "memory");
  }
  mbarrier_wait(&bar, 0);
  y[blockIdx.x * 64 + threadIdx.x] = theirs[threadIdx.x] * 2;
  asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}
