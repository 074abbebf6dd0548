// Histogram of bytes: atomics in shared memory per block, then atomics in global memory; and one in
// which the lanes of a warp with equal keys first agree on a leader by match.any.
#include "device.cuh"

extern "C" __global__ void histogram_shared(const uint8_t *x, int n, unsigned *bins) {
  __shared__ unsigned own[256];
  for (int i = threadIdx.x; i < 256; i += blockDim.x)
    own[i] = 0;
  __syncthreads();
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x)
    __nvvm_atom_add_gen_i((int *)&own[x[i]], 1);
  __syncthreads();
  for (int i = threadIdx.x; i < 256; i += blockDim.x)
    if (own[i])
      __nvvm_atom_add_gen_i((int *)&bins[i], own[i]);
}

extern "C" __global__ void histogram_match(const uint8_t *x, int n, unsigned *bins) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  unsigned active = __nvvm_vote_ballot_sync(FULL_MASK, i < n);
  if (i >= n)
    return;
  unsigned peers = __nvvm_match_any_sync_i32(active, x[i]);
  bool leader = __builtin_ctz(peers) == lane_id();
  if (leader)
    __nvvm_atom_add_gen_i((int *)&bins[x[i]], __builtin_popcount(peers));
}
