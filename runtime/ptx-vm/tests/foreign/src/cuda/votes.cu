// Votes, matches, reductions and shuffles within a warp, some of them by a part of its lanes.
#include "device.cuh"

extern "C" __global__ void votes(const int *x, int *y, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  int v = x[i];
  int *o = y + i;
#define PUT(value) (*o = (value), o += n)
  PUT(__nvvm_vote_all_sync(FULL_MASK, v > -90));
  PUT(__nvvm_vote_any_sync(FULL_MASK, v > 95));
  PUT(__nvvm_vote_uni_sync(FULL_MASK, v > -1000));
  PUT(__nvvm_vote_ballot_sync(FULL_MASK, v & 1));
  PUT(__nvvm_match_any_sync_i32(FULL_MASK, v & 7));
  unsigned mask, all;
  asm volatile("{\n\t.reg .pred p;\n\tmatch.all.sync.b32 %0|p, %2, 0xffffffff;\n\t"
               "selp.u32 %1, 1, 0, p;\n\t}"
               : "=r"(mask), "=r"(all)
               : "r"(v >> 20));
  PUT(mask ^ all);
  PUT(__nvvm_redux_sync_add(v, FULL_MASK));
  PUT(__nvvm_redux_sync_min(v, FULL_MASK));
  PUT(__nvvm_redux_sync_umax(v, FULL_MASK));
  PUT(__nvvm_redux_sync_xor(v, FULL_MASK));
  PUT(__nvvm_shfl_sync_idx_i32(FULL_MASK, v, 31 - lane_id(), 0x1f));
  // Segments of eight lanes: a source outside of the segment gives the lane's own value.
  PUT(__nvvm_shfl_sync_up_i32(FULL_MASK, v, 3, 0x1800));
  PUT(__nvvm_shfl_sync_down_i32(FULL_MASK, v, 2, 0x181f));
  int other, inside;
  asm volatile("{\n\t.reg .pred p;\n\tshfl.sync.down.b32 %0|p, %2, 5, 0x1f, 0xffffffff;\n\t"
               "selp.u32 %1, 1, 0, p;\n\t}"
               : "=r"(other), "=r"(inside)
               : "r"(v));
  PUT(other * 2 + inside);
  // The odd lanes alone.
  int r = 0;
  if (lane_id() & 1) {
    r = __nvvm_shfl_sync_bfly_i32(0xaaaaaaaa, v, 4, 0x1f);
    r += __nvvm_redux_sync_add(1, 0xaaaaaaaa);
    r += __nvvm_vote_ballot_sync(0xaaaaaaaa, v > 0) & 0xff;
  } else if (lane_id() < 8) {
    r = -__nvvm_redux_sync_max(v, 0x55);
  }
  PUT(r);
  // The lanes that come here are the ones that the mask of active lanes shows.
  unsigned active = 0;
  if (v >= 0) {
    unsigned peers = __nvvm_match_any_sync_i32(__nvvm_vote_ballot_sync(__nvvm_activemask(), 1), 5);
    active = __builtin_popcount(peers);
  }
  PUT(active);
}
