// Packed arithmetic of f16x2 and bf16x2, and a matrix-vector product of 4-bit weights that are
// unpacked by the trick with lop3 and the bits of 1024.
#include "device.cuh"

#define TWO(text, p, q)                                                                            \
  ({                                                                                               \
    uint32_t r_;                                                                                   \
    asm(text : "=r"(r_) : "r"(p), "r"(q));                                                         \
    r_;                                                                                            \
  })
#define THREE(text, p, q, s)                                                                       \
  ({                                                                                               \
    uint32_t r_;                                                                                   \
    asm(text : "=r"(r_) : "r"(p), "r"(q), "r"(s));                                                 \
    r_;                                                                                            \
  })

extern "C" __global__ void halves(const uint32_t *a, const uint32_t *b, const uint32_t *c,
                                  uint32_t *y, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n)
    return;
  uint32_t p = a[i], q = b[i], s = c[i];
  uint32_t *o = y + i;
#define PUT(value) (*o = (value), o += n)
  PUT(TWO("add.rn.f16x2 %0, %1, %2;", p, q));
  PUT(TWO("sub.sat.f16x2 %0, %1, %2;", p, q));
  PUT(TWO("mul.rn.f16x2 %0, %1, %2;", p, q));
  PUT(THREE("fma.rn.f16x2 %0, %1, %2, %3;", p, q, s));
  PUT(THREE("fma.rn.relu.f16x2 %0, %1, %2, %3;", p, q, s));
  PUT(TWO("min.f16x2 %0, %1, %2;", p, q));
  PUT(TWO("max.NaN.f16x2 %0, %1, %2;", p, q));
  PUT(TWO("set.gt.f16x2.f16x2 %0, %1, %2;", p, q));
  PUT(THREE("fma.rn.bf16x2 %0, %1, %2, %3;", p, q, s));
  PUT(TWO("max.bf16x2 %0, %1, %2;", p, q));
  PUT(TWO("{ .reg .b32 t; neg.bf16x2 t, %1; abs.f16x2 %0, %2; xor.b32 %0, %0, t; }", p, q));
}

__device__ __forceinline__ float2 unpack(uint32_t pair) {
  float2 r;
  asm("{ .reg .b16 l, h; mov.b32 {l, h}, %2; cvt.f32.f16 %0, l; cvt.f32.f16 %1, h; }"
      : "=f"(r.x), "=f"(r.y)
      : "r"(pair));
  return r;
}

// y = W x: W is rows x columns of unsigned 4-bit numbers minus 8, eight to a word, with the nibbles
// in the order 0 2 4 6 1 3 5 7 of the elements; one warp per row, all numbers small integers.
extern "C" __global__ void dequantise(const uint32_t *w, const uint32_t *x, const float *scales,
                                      float *y, int words) {
  int row = blockIdx.x;
  float sum = 0;
  for (int i = threadIdx.x; i < words; i += 32) {
    uint32_t packed = w[row * words + i];
    for (int j = 0; j < 4; j++) {
      uint32_t pair;
      // 0x6400 is 1024 in f16, whose last bit counts 1: (nibble | 0x6400) - 1032 = nibble - 8.
      asm("lop3.b32 %0, %1, 0x000f000f, 0x64006400, 0xea;" : "=r"(pair) : "r"(packed >> (4 * j)));
      pair = TWO("sub.f16x2 %0, %1, %2;", pair, 0x64086408);
      float2 weights = unpack(pair), values = unpack(x[i * 4 + j]);
      sum += weights.x * values.x + weights.y * values.y;
    }
  }
  for (int by = 16; by > 0; by /= 2)
    sum += shfl_xor(sum, by);
  if (threadIdx.x == 0)
    y[row] = sum * scales[row];
}
