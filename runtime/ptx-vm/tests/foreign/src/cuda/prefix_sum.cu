// Exclusive prefix sum of the set flags, and the compaction that it is for. Blocks take their
// offset from the blocks before them by the decoupled look-back, with a status word per block.
#include "device.cuh"

// 1 in the upper half: the block's own sum; 2: the sum up to and with the block.
constexpr unsigned long long OWN = 1ull << 32, UP_TO = 2ull << 32;

__device__ __forceinline__ unsigned long long peek(const unsigned long long *p) {
  unsigned long long v;
  asm volatile("ld.acquire.gpu.global.u64 %0, [%1];" : "=l"(v) : "l"(p) : "memory");
  return v;
}

__device__ __forceinline__ void publish(unsigned long long *p, unsigned long long v) {
  asm volatile("st.release.gpu.global.u64 [%0], %1;" ::"l"(p), "l"(v) : "memory");
}

extern "C" __global__ void compact(const int *in, int *out, int n, int threshold,
                                   unsigned long long *status, unsigned *ticket, int *total) {
  __shared__ int counts[32];
  __shared__ int block, before;
  if (threadIdx.x == 0)
    block = __nvvm_atom_add_gen_i((int *)ticket, 1);
  __syncthreads();
  int i = block * blockDim.x + threadIdx.x;
  int v = i < n ? in[i] : 0;
  bool keep = i < n && v > threshold;
  unsigned votes = __nvvm_vote_ballot_sync(FULL_MASK, keep);
  int warp = threadIdx.x / 32;
  int rank = __builtin_popcount(votes & ((1u << lane_id()) - 1));
  if (lane_id() == 0)
    counts[warp] = __builtin_popcount(votes);
  __syncthreads();
  if (warp == 0) {
    int c = lane_id() < blockDim.x / 32 ? counts[lane_id()] : 0;
    int sum = c;
    for (int by = 1; by < 32; by *= 2) {
      int other = shfl_up(sum, by);
      if (lane_id() >= by)
        sum += other;
    }
    counts[lane_id()] = sum - c;
    if (lane_id() == 31) {
      if (block == 0) {
        publish(&status[0], UP_TO | (unsigned)sum);
        before = 0;
      } else {
        publish(&status[block], OWN | (unsigned)sum);
        int offset = 0;
        for (int b = block - 1;;) {
          unsigned long long s = peek(&status[b]);
          if (s >= OWN) {
            offset += (int)s;
            if (s >= UP_TO)
              break;
            b--;
          }
        }
        before = offset;
        publish(&status[block], UP_TO | (unsigned)(offset + sum));
      }
      if (block == gridDim.x - 1)
        *total = before + sum;
    }
  }
  __syncthreads();
  if (keep)
    out[before + counts[warp] + rank] = v;
}
