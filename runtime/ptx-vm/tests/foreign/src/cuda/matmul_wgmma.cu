// Matrix product of bf16 with fp32 sums for Hopper: a producer warp fetches tiles by TMA into a
// ring guarded by mbarriers, a warpgroup multiplies them by wgmma, and the result leaves by a TMA
// store. A is m x k and B is n x k, both row-major in k; C is m x n in fp32. Tiles of 64 x 64 x 64,
// whose rows are 128 bytes, with the 128-byte swizzle.
#include "async.cuh"

constexpr int M = 64, N = 64, K = 64, STAGES = 3, TILE_BYTES = 64 * 64 * 2;

// Rows of 128 bytes, 128-byte swizzle: groups of eight rows are 1024 bytes apart.
__device__ __forceinline__ uint64_t descriptor(const void *tile, int k_bytes) {
  uint64_t start = (shared_address(tile) + k_bytes) >> 4;
  return (start & 0x3fff) | 1ull << 16 | 64ull << 32 | 1ull << 62;
}

extern "C" __global__ void __launch_bounds__(256)
    matmul_wgmma(const void *a, const void *b, void *c,
                 const __attribute__((grid_constant)) TensorMap map_a,
                 const __attribute__((grid_constant)) TensorMap map_b,
                 const __attribute__((grid_constant)) TensorMap map_c, int k) {
  extern __shared__ __attribute__((aligned(1024))) char memory[];
  char *tile_a = memory;
  char *tile_b = memory + STAGES * TILE_BYTES;
  float *tile_c = (float *)(memory + 2 * STAGES * TILE_BYTES);
  uint64_t *full = (uint64_t *)(memory + 2 * STAGES * TILE_BYTES + M * N * 4);
  uint64_t *empty = full + STAGES;
  int row = blockIdx.y * M, column = blockIdx.x * N;
  int steps = (k + K - 1) / K;

  if (threadIdx.x == 0) {
    for (int i = 0; i < STAGES; i++) {
      mbarrier_init(&full[i], 1);
      mbarrier_init(&empty[i], 128);
    }
    mbarrier_init_fence();
  }
  __syncthreads();

  if (threadIdx.x >= 128) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
    if (threadIdx.x == 128)
      for (int i = 0; i < steps; i++) {
        int stage = i % STAGES;
        // The first round finds the parity of the phase before the first as completed.
        mbarrier_wait(&empty[stage], (i / STAGES & 1) ^ 1);
        mbarrier_expect(&full[stage], 2 * TILE_BYTES);
        fetch_tile(tile_a + stage * TILE_BYTES, &map_a, i * K, row, &full[stage]);
        fetch_tile(tile_b + stage * TILE_BYTES, &map_b, i * K, column, &full[stage]);
      }
    return;
  }

  asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
  float d[32] = {};
  for (int i = 0; i < steps; i++) {
    int stage = i % STAGES;
    mbarrier_wait(&full[stage], i / STAGES & 1);
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
    for (int inner = 0; inner < 4; inner++) {
      uint64_t x = descriptor(tile_a + stage * TILE_BYTES, inner * 32);
      uint64_t y = descriptor(tile_b + stage * TILE_BYTES, inner * 32);
      asm volatile(
          "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 "
          "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
          "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
          "%32, %33, 1, 1, 1, 0, 0;"
          : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]),
            "+f"(d[7]), "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]),
            "+f"(d[14]), "+f"(d[15]), "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]),
            "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]), "+f"(d[24]), "+f"(d[25]),
            "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31])
          : "l"(x), "l"(y));
    }
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
    // The sums pass through the wait, so that they are not read before it.
    asm volatile("wgmma.wait_group.sync.aligned 0;"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]),
                   "+f"(d[6]), "+f"(d[7]), "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]),
                   "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]), "+f"(d[16]), "+f"(d[17]),
                   "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]),
                   "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]),
                   "+f"(d[30]), "+f"(d[31])
                 :
                 : "memory");
    mbarrier_arrive(&empty[stage]);
  }

  int warp = threadIdx.x / 32, lane = lane_id();
  for (int j = 0; j < 8; j++)
    for (int half = 0; half < 2; half++) {
      int r = warp * 16 + lane / 4 + half * 8;
      *(float2 *)&tile_c[r * N + j * 8 + lane % 4 * 2] = {d[j * 4 + half * 2],
                                                          d[j * 4 + half * 2 + 1]};
    }
  proxy_fence();
  asm volatile("bar.sync 1, 128;" ::: "memory");
  if (threadIdx.x == 0) {
    asm volatile(
        "cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%1, %2}], [%3];" ::"l"(&map_c),
        "r"(column), "r"(row), "r"(shared_address(tile_c))
        : "memory");
    asm volatile("cp.async.bulk.commit_group;" ::: "memory");
    asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
  }
}
