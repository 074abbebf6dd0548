// Atomics of every operation on global and shared memory, a compare-and-swap loop, and packed
// halves.
#include "device.cuh"

extern "C" __global__ void atomics(const int *x, unsigned *words, unsigned long long *longs,
                                   double *doubles, uint32_t *halves, int *shared_sums, int n) {
  __shared__ int own[2];
  if (threadIdx.x < 2)
    own[threadIdx.x] = 0;
  __syncthreads();
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) {
    int v = x[i], r;
    asm volatile("red.global.add.u32 [%0], %1;" ::"l"(words + 0), "r"(v) : "memory");
    asm volatile("red.global.min.s32 [%0], %1;" ::"l"(words + 1), "r"(v) : "memory");
    asm volatile("red.global.max.u32 [%0], %1;" ::"l"(words + 2), "r"(v) : "memory");
    asm volatile("red.global.and.b32 [%0], %1;" ::"l"(words + 3), "r"(v | 0xff00) : "memory");
    asm volatile("red.global.or.b32 [%0], %1;" ::"l"(words + 4), "r"(v & 0x0f0f) : "memory");
    asm volatile("red.global.xor.b32 [%0], %1;" ::"l"(words + 5), "r"(v) : "memory");
    asm volatile("red.global.inc.u32 [%0], %1;" ::"l"(words + 6), "r"(99) : "memory");
    asm volatile("red.global.dec.u32 [%0], %1;" ::"l"(words + 7), "r"(99) : "memory");
    // Exactly one thread of the grid finds the word it exchanges for unset.
    asm volatile("atom.global.cas.b32 %0, [%1], 0, 1;" : "=r"(r) : "l"(words + 8) : "memory");
    if (r == 0)
      asm volatile("red.relaxed.gpu.global.add.u32 [%0], 1;" ::"l"(words + 9) : "memory");
    asm volatile("red.global.add.u64 [%0], %1;" ::"l"(longs), "l"((long long)v * v * v) : "memory");
    asm volatile("red.global.max.s64 [%0], %1;" ::"l"(longs + 1), "l"((long long)v << 20)
                 : "memory");
    asm volatile("red.global.add.f64 [%0], %1;" ::"l"(doubles), "d"(v * 0.25) : "memory");
    asm volatile("red.global.add.noftz.f16x2 [%0], %1;" ::"l"(halves), "r"(0x3c004000) : "memory");
    __nvvm_atom_add_gen_i(&own[v & 1], v);
    // The product in f64 by compare-and-swap: what is multiplied is a power of two.
    unsigned long long *cell = (unsigned long long *)(doubles + 1),
                       seen = *(volatile long long *)cell;
    for (;;) {
      double next = __builtin_bit_cast(double, seen) * (v & 1 ? 2.0 : 0.5);
      unsigned long long before = seen;
      asm volatile("atom.global.cas.b64 %0, [%1], %2, %3;"
                   : "=l"(seen)
                   : "l"(cell), "l"(before), "l"(__builtin_bit_cast(unsigned long long, next))
                   : "memory");
      if (seen == before)
        break;
    }
  }
  __syncthreads();
  if (threadIdx.x < 2)
    __nvvm_atom_add_gen_i(&shared_sums[threadIdx.x], own[threadIdx.x]);
}
