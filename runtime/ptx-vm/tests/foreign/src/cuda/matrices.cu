// ldmatrix, stmatrix and movmatrix: tiles of 8 x 8 halves between shared memory and registers.
#include "device.cuh"

// Loads four tiles as they are and transposed, and stores what each lane holds.
extern "C" __global__ void load_matrices(const uint32_t *x, uint32_t *y) {
  __shared__ alignas(16) uint32_t tile[4 * 8 * 4];
  int lane = threadIdx.x;
  for (int i = lane; i < 128; i += 32)
    tile[i] = x[i];
  __nvvm_bar_warp_sync(FULL_MASK);
  uint32_t at = shared_address(&tile[lane * 4]), r[4], t[4], one, moved;
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(at)
               : "memory");
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(t[0]), "=r"(t[1]), "=r"(t[2]), "=r"(t[3])
               : "r"(at)
               : "memory");
  // Only the addresses of the first eight lanes count; they point to the rows of tile 2 backwards.
  uint32_t back = shared_address(&tile[64 + (7 - lane % 8) * 4]);
  asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];"
               : "=r"(one)
               : "r"(back)
               : "memory");
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(moved) : "r"(r[3]));
  for (int i = 0; i < 4; i++)
    y[i * 32 + lane] = r[i], y[(4 + i) * 32 + lane] = t[i];
  y[8 * 32 + lane] = one, y[9 * 32 + lane] = moved;
}

#ifdef HOPPER
extern "C" __global__ void store_matrices(const uint32_t *x, uint32_t *y) {
  __shared__ alignas(16) uint32_t tile[3 * 8 * 4];
  int lane = threadIdx.x;
  uint32_t at = shared_address(&tile[lane % 16 * 4]),
           last = shared_address(&tile[64 + lane % 8 * 4]);
  asm volatile("stmatrix.sync.aligned.m8n8.x2.shared.b16 [%0], {%1, %2};" ::"r"(at), "r"(x[lane]),
               "r"(x[32 + lane])
               : "memory");
  asm volatile("stmatrix.sync.aligned.m8n8.x1.trans.shared.b16 [%0], {%1};" ::"r"(last),
               "r"(x[64 + lane])
               : "memory");
  __nvvm_bar_warp_sync(FULL_MASK);
  for (int i = lane; i < 96; i += 32)
    y[i] = tile[i];
}
#endif
