// Integer arithmetic and bit operations of all widths.
#include "device.cuh"

#define STORE(assembly)                                                                            \
  do {                                                                                             \
    assembly;                                                                                      \
    *o = r;                                                                                        \
    o += n;                                                                                        \
  } while (0)

extern "C" __global__ void integers(const int *a, const int *b, int *out, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n)
    return;
  int x = a[i], y = b[i], r;
  unsigned u = x, v = y;
  int *o = out + i;
  *o = (int)(((int64_t)x * y) >> 32), o += n;
  *o = (int)(((uint64_t)u * v) >> 32), o += n;
  *o = y != 0 ? x / y : 0, o += n;
  *o = v != 0 ? u % v : 0, o += n;
  *o = __builtin_popcount(u), o += n;
  *o = u ? __builtin_clz(u) : 32, o += n;
  *o = __builtin_bitreverse32(u), o += n;
  *o = (int)__builtin_rotateleft32(u, v & 31), o += n;
  STORE(asm("dp4a.s32.s32 %0, %1, %2, %3;" : "=r"(r) : "r"(x), "r"(y), "r"(x)));
  STORE(asm("dp4a.u32.s32 %0, %1, %2, %3;" : "=r"(r) : "r"(x), "r"(y), "r"(0)));
  STORE(asm("dp2a.lo.s32.s32 %0, %1, %2, %3;" : "=r"(r) : "r"(x), "r"(y), "r"(5)));
  STORE(asm("bfe.s32 %0, %1, 5, 9;" : "=r"(r) : "r"(x)));
  STORE(asm("bfi.b32 %0, %1, %2, 7, 13;" : "=r"(r) : "r"(x), "r"(y)));
  STORE(asm("shf.l.wrap.b32 %0, %1, %2, %3;" : "=r"(r) : "r"(x), "r"(y), "r"(37)));
  STORE(asm("shf.r.clamp.b32 %0, %1, %2, %3;" : "=r"(r) : "r"(x), "r"(y), "r"(37)));
  STORE(asm("add.sat.s32 %0, %1, %2;" : "=r"(r) : "r"(x), "r"(y)));
  STORE(asm("sad.s32 %0, %1, %2, %3;" : "=r"(r) : "r"(x), "r"(y), "r"(1)));
  STORE(asm("mad.hi.sat.s32 %0, %1, %2, %3;" : "=r"(r) : "r"(x), "r"(y), "r"(2147483000)));
  STORE(asm("bfind.s32 %0, %1;" : "=r"(r) : "r"(x)));
  STORE(asm("prmt.b32 %0, %1, %2, %3;" : "=r"(r) : "r"(x), "r"(y), "r"(0x9c6f)));
  STORE(asm("lop3.b32 %0, %1, %2, %3, 0xe8;" : "=r"(r) : "r"(x), "r"(y), "r"(0x0f0f3355)));
  STORE(asm("szext.wrap.s32 %0, %1, 11;" : "=r"(r) : "r"(x)));
  STORE(asm("add.cc.u32 %0, %1, %2;\n\taddc.u32 %0, %0, 0;" : "=&r"(r) : "r"(x), "r"(y)));
  STORE(asm("mul24.lo.s32 %0, %1, %2;" : "=r"(r) : "r"(x), "r"(y)));
}

extern "C" __global__ void narrow_and_wide(const int64_t *a, const int64_t *b, int64_t *out,
                                           int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n)
    return;
  int64_t x = a[i], y = b[i], r;
  int64_t *o = out + i;
  *o = x * y, o += n;
  *o = (int64_t)(((unsigned __int128)(uint64_t)x * (uint64_t)y) >> 64), o += n;
  *o = x / (y | 1), o += n;
  *o = (int64_t)((uint64_t)x % (uint64_t)(y | 1)), o += n;
  *o = __builtin_popcountll(x) + 100 * __builtin_clzll((uint64_t)x | 1), o += n;
  *o = x >> (y & 63), o += n;
  *o = (int8_t)(x + y) * (int)(uint8_t)y, o += n;
  *o = (short)((short)x * (short)y), o += n;
  *o = (int64_t)((uint8_t)x << 3 ^ (int8_t)y >> 1), o += n;
  *o = x < y ? (uint64_t)x < (uint64_t)y : 2, o += n;
  STORE(asm("bfe.u64 %0, %1, 21, 30;" : "=l"(r) : "l"(x)));
  STORE(asm("mul.hi.s64 %0, %1, %2;" : "=l"(r) : "l"(x), "l"(y)));
  *o = (int64_t)(double)x + (int64_t)(float)y, o += n;
}
