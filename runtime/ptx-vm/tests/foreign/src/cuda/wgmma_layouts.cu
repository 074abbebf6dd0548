// One product of 64 x 8 x 64 halves per swizzle of the shared-memory tiles, and one with A in
// registers and B in the layout without swizzle. A is 64 x 64, B is 8 x 64, both row-major in k.
#include "async.cuh"

__device__ __forceinline__ uint64_t descriptor(const void *p, int leading, int stride,
                                               int swizzle) {
  return (uint64_t)(shared_address(p) >> 4 & 0x3fff) | (uint64_t)(leading / 16) << 16 |
         (uint64_t)(stride / 16) << 32 | (uint64_t)swizzle << 62;
}

// Passing a register through here before the fence keeps the compiler from setting it after it.
__device__ __forceinline__ void pin(float &r) { asm volatile("" : "+f"(r)::"memory"); }
__device__ __forceinline__ void pin(uint32_t &r) { asm volatile("" : "+r"(r)::"memory"); }
__device__ __forceinline__ void fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }

__device__ __forceinline__ void finish(float (&d)[4]) {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
  asm volatile("wgmma.wait_group.sync.aligned 0;"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])::"memory");
}

__device__ __forceinline__ void store(float *c, const float (&d)[4]) {
  int row = threadIdx.x / 32 * 16 + lane_id() / 4, column = lane_id() % 4 * 2;
  *(float2 *)&c[row * 8 + column] = {d[0], d[1]};
  *(float2 *)&c[(row + 8) * 8 + column] = {d[2], d[3]};
}

// Tiles whose rows are WIDTH bytes, the span of the swizzle, fetched by TMA one beside the other.
template <int WIDTH, int MODE>
__device__ __forceinline__ void swizzled(const TensorMap *map_a, const TensorMap *map_b, float *c) {
  extern __shared__ __attribute__((aligned(1024))) char memory[];
  constexpr int TILES = 128 / WIDTH, A_BYTES = 64 * WIDTH, B_BYTES = 1024;
  char *a = memory, *b = memory + 64 * 128;
  __shared__ uint64_t bar;
  if (threadIdx.x == 0) {
    mbarrier_init(&bar, 1);
    mbarrier_init_fence();
    mbarrier_expect(&bar, 64 * 128 + 8 * 128);
    for (int i = 0; i < TILES; i++) {
      fetch_tile(a + i * A_BYTES, map_a, i * WIDTH / 2, 0, &bar);
      fetch_tile(b + i * B_BYTES, map_b, i * WIDTH / 2, 0, &bar);
    }
  }
  __syncthreads();
  mbarrier_wait(&bar, 0);
  float d[4];
  fence();
  for (int i = 0; i < 4; i++) {
    // Each instruction takes 32 bytes of every row.
    int tile = i * 32 / WIDTH, inside = i * 32 % WIDTH;
    uint64_t x = descriptor(a + tile * A_BYTES + inside, 16, 8 * WIDTH, MODE);
    uint64_t y = descriptor(b + tile * B_BYTES + inside, 16, 8 * WIDTH, MODE);
    asm volatile("{\n\t"
                 ".reg .pred p;\n\t"
                 "setp.ne.b32 p, %6, 0;\n\t"
                 "wgmma.mma_async.sync.aligned.m64n8k16.f32.f16.f16 "
                 "{%0, %1, %2, %3}, %4, %5, p, 1, -1, 0, 0;\n\t"
                 "}"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "l"(x), "l"(y), "r"(i));
  }
  finish(d);
  store(c, d);
}

#define PARAMETERS                                                                                 \
  const void *a, const void *b, float *c, const __attribute__((grid_constant)) TensorMap map_a,    \
      const __attribute__((grid_constant)) TensorMap map_b

extern "C" __global__ void __launch_bounds__(128) wgmma_swizzle_128(PARAMETERS) {
  swizzled<128, 1>(&map_a, &map_b, c);
}
extern "C" __global__ void __launch_bounds__(128) wgmma_swizzle_64(PARAMETERS) {
  swizzled<64, 2>(&map_a, &map_b, c);
}
extern "C" __global__ void __launch_bounds__(128) wgmma_swizzle_32(PARAMETERS) {
  swizzled<32, 3>(&map_a, &map_b, c);
}

// Without swizzle: core matrices of 8 rows of 16 bytes, contiguous, written by ordinary stores.
extern "C" __global__ void __launch_bounds__(128)
    wgmma_registers(const uint32_t *a, const uint4 *b, float *c) {
  __shared__ alignas(128) uint4 tile[8][8];
  int row = threadIdx.x / 32 * 16 + lane_id() / 4, column = lane_id() % 4;
  if (threadIdx.x < 64) // Row i, 16-byte piece j goes to core matrix j.
    tile[threadIdx.x % 8][threadIdx.x / 8] = b[threadIdx.x];
  proxy_fence();
  __syncthreads();
  uint32_t x[4][4];
  for (int i = 0; i < 4; i++)
    for (int j = 0; j < 4; j++)
      x[i][j] = a[(row + j % 2 * 8) * 32 + i * 8 + j / 2 * 4 + column];
  float d[4] = {};
  for (int i = 0; i < 4; i++) {
    pin(d[i]);
    for (int j = 0; j < 4; j++)
      pin(x[i][j]);
  }
  fence();
  for (int i = 0; i < 4; i++) {
    uint64_t y = descriptor(&tile[2 * i][0], 128, 1024, 0);
    asm volatile("wgmma.mma_async.sync.aligned.m64n8k16.f32.f16.f16 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, %8, 1, 1, 1, 0;"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(x[i][0]), "r"(x[i][1]), "r"(x[i][2]), "r"(x[i][3]), "l"(y));
  }
  finish(d);
  store(c, d);
}
