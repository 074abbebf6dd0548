// Matrix product of bf16 with fp32 sums: cp.async into a two-stage ring of shared-memory tiles,
// ldmatrix, mma.sync. Tiles of 64 x 64 x 32 by four warps, each 32 x 32. C is m x n, A is m x k, B
// is k x n, all row-major; k and n are multiples of 8, so that every 16-byte copy is inside or
// outside.
#include "device.cuh"

constexpr int M = 64, N = 64, K = 32, STAGES = 2;
constexpr int A_PITCH = K + 8, B_PITCH = N + 8;

__device__ __forceinline__ void copy16(void *to, const void *from, bool inside) {
  int bytes = inside ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from),
               "r"(bytes)
               : "memory");
}

extern "C" __global__ void __launch_bounds__(128)
    matmul_mma(const uint16_t *a, const uint16_t *b, float *c, int m, int n, int k) {
  __shared__ alignas(16) uint16_t tile_a[STAGES][M][A_PITCH];
  __shared__ alignas(16) uint16_t tile_b[STAGES][K][B_PITCH];
  int row0 = blockIdx.y * M, column0 = blockIdx.x * N;
  int warp = threadIdx.x / 32, lane = lane_id();
  int warp_row = warp / 2 * 32, warp_column = warp % 2 * 32;

  auto fetch = [&](int stage, int start) {
    for (int i = threadIdx.x; i < M * K / 8; i += 128) {
      int r = i / (K / 8), s = i % (K / 8) * 8;
      bool inside = row0 + r < m && start + s < k;
      copy16(&tile_a[stage][r][s], inside ? a + (row0 + r) * k + start + s : a, inside);
    }
    for (int i = threadIdx.x; i < K * N / 8; i += 128) {
      int r = i / (N / 8), s = i % (N / 8) * 8;
      bool inside = start + r < k && column0 + s < n;
      copy16(&tile_b[stage][r][s], inside ? b + (start + r) * n + column0 + s : b, inside);
    }
    asm volatile("cp.async.commit_group;" ::: "memory");
  };

  float sums[2][4][4] = {};
  fetch(0, 0);
  for (int start = 0, stage = 0; start < k; start += K, stage ^= 1) {
    // An empty group after the last tile keeps the count of groups in flight the same.
    fetch(stage ^ 1, start + K);
    asm volatile("cp.async.wait_group 1;" ::: "memory");
    __syncthreads();
    for (int inner = 0; inner < K; inner += 16) {
      uint32_t x[2][4], y[4][2];
      for (int i = 0; i < 2; i++) {
        uint32_t at =
            shared_address(&tile_a[stage][warp_row + i * 16 + lane % 16][inner + lane / 16 * 8]);
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(x[i][0]), "=r"(x[i][1]), "=r"(x[i][2]), "=r"(x[i][3])
                     : "r"(at)
                     : "memory");
      }
      for (int j = 0; j < 4; j++) {
        uint32_t at = shared_address(&tile_b[stage][inner + lane % 16][warp_column + j * 8]);
        asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
                     : "=r"(y[j][0]), "=r"(y[j][1])
                     : "r"(at)
                     : "memory");
      }
      for (int i = 0; i < 2; i++)
        for (int j = 0; j < 4; j++)
          asm volatile(
              "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
              "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
              : "+f"(sums[i][j][0]), "+f"(sums[i][j][1]), "+f"(sums[i][j][2]), "+f"(sums[i][j][3])
              : "r"(x[i][0]), "r"(x[i][1]), "r"(x[i][2]), "r"(x[i][3]), "r"(y[j][0]), "r"(y[j][1]));
    }
    __syncthreads();
  }
  asm volatile("cp.async.wait_all;" ::: "memory");

  for (int i = 0; i < 2; i++)
    for (int j = 0; j < 4; j++)
      for (int half = 0; half < 2; half++) {
        int row = row0 + warp_row + i * 16 + lane / 4 + half * 8;
        int column = column0 + warp_column + j * 8 + lane % 4 * 2;
        if (row < m && column < n)
          *(float2 *)&c[row * n + column] = {sums[i][j][2 * half], sums[i][j][2 * half + 1]};
      }
}
