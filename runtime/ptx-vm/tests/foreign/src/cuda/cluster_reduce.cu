// Row sums over a cluster of four blocks: the parts go to the first block by st.async, which
// completes bytes at its mbarrier; the result comes back to every block through distributed shared
// memory.
#include "device.cuh"

extern "C" __global__ void __cluster_dims__(4, 1, 1)
    cluster_softmax(const float *x, float *y, int columns) {
  __shared__ float parts[4];
  __shared__ float total;
  __shared__ float warps[4];
  __shared__ uint64_t bar;
  unsigned rank, first = 0;
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  int row = blockIdx.x / 4;
  if (rank == 0 && threadIdx.x == 0) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(shared_address(&bar)) : "memory");
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    asm volatile(
        "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], 16;" ::"r"(shared_address(&bar))
        : "memory");
  }
  asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");

  float sum = 0;
  for (int i = rank * blockDim.x + threadIdx.x; i < columns; i += 4 * blockDim.x) {
    float e = __nvvm_ex2_approx_f(x[row * columns + i] * 1.44269504f);
    y[row * columns + i] = e;
    sum += e;
  }
  for (int by = 16; by > 0; by /= 2)
    sum += shfl_xor(sum, by);
  if (lane_id() == 0)
    warps[threadIdx.x / 32] = sum;
  __syncthreads();
  if (threadIdx.x == 0) {
    float s = warps[0] + warps[1] + warps[2] + warps[3];
    uint32_t to, at;
    asm("mapa.shared::cluster.u32 %0, %1, %2;"
        : "=r"(to)
        : "r"(shared_address(&parts[rank])), "r"(first));
    asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(at) : "r"(shared_address(&bar)), "r"(first));
    asm volatile(
        "st.async.shared::cluster.mbarrier::complete_tx::bytes.b32 [%0], %1, [%2];" ::"r"(to),
        "r"(__builtin_bit_cast(uint32_t, s)), "r"(at)
        : "memory");
    if (rank == 0) {
      asm volatile("{\n\t"
                   ".reg .pred done;\n"
                   "WAIT_%=:\n\t"
                   "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 done, [%0], 0;\n\t"
                   "@!done bra WAIT_%=;\n\t"
                   "}" ::"r"(shared_address(&bar))
                   : "memory");
      total = parts[0] + parts[1] + parts[2] + parts[3];
    }
  }
  asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
  uint32_t from;
  asm("mapa.shared::cluster.u32 %0, %1, %2;"
      : "=r"(from)
      : "r"(shared_address(&total)), "r"(first));
  float all;
  asm volatile("ld.shared::cluster.f32 %0, [%1];" : "=f"(all) : "r"(from) : "memory");
  for (int i = rank * blockDim.x + threadIdx.x; i < columns; i += 4 * blockDim.x)
    y[row * columns + i] /= all;
  // No block may leave while another one reads its shared memory.
  asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}
