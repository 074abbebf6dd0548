// One warp, one mma.sync of every shape and type, with the fragments loaded element by element from
// the layouts that the PTX ISA describes. A is m x k row-major, B is n x k (column-major k x n), C
// and D are m x n row-major; every product has matrices of its own at offsets that the launch gives
// in bytes.
#include "device.cuh"

struct At {
  int a, b, c;
};

__device__ __forceinline__ uint32_t word(const char *p, int row, int byte, int pitch) {
  return *(const uint32_t *)(p + row * pitch + byte);
}

#define LANE int g = lane_id() / 4, t = lane_id() % 4

// A of 16 rows, each of four (or two) groups of 4 bytes per thread: rows g and g + 8, bytes 4 t and
// 4 t + 16.
#define A4(p, pitch)                                                                               \
  "r"(word(p, g, 4 * t, pitch)), "r"(word(p, g + 8, 4 * t, pitch)),                                \
      "r"(word(p, g, 4 * t + 16, pitch)), "r"(word(p, g + 8, 4 * t + 16, pitch))
#define A2(p, pitch) "r"(word(p, g, 4 * t, pitch)), "r"(word(p, g + 8, 4 * t, pitch))
#define B2(p, pitch) "r"(word(p, g, 4 * t, pitch)), "r"(word(p, g, 4 * t + 16, pitch))
#define B1(p, pitch) "r"(word(p, g, 4 * t, pitch))

#define D4(type, constraint)                                                                       \
  type *d = (type *)(out + at.c) + g * 8 + 2 * t;                                                  \
  type r0 = 0, r1 = 1, r2 = 2, r3 = 3
#define OUT4 d[0] = r0, d[1] = r1, d[64] = r2, d[65] = r3
#define TEXT(instruction, fragments)                                                               \
  instruction " {%0, %1, %2, %3}, " fragments ", {%0, %1, %2, %3};"

#define PRODUCT(name, type, constraint, instruction, fragments, ...)                               \
  __device__ __noinline__ void name(const char *in, char *out, At at) {                            \
    LANE;                                                                                          \
    D4(type, constraint);                                                                          \
    const char *a = in + at.a, *b = in + at.b;                                                     \
    asm volatile(TEXT(instruction, fragments)                                                      \
                 : "+" constraint(r0), "+" constraint(r1), "+" constraint(r2), "+" constraint(r3)  \
                 : __VA_ARGS__);                                                                   \
    OUT4;                                                                                          \
  }

#define F42 "{%4, %5, %6, %7}, {%8, %9}"
#define F21 "{%4, %5}, {%6}"

PRODUCT(f16_k16, float, "f", "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32", F42, A4(a, 32),
        B2(b, 32))
PRODUCT(f16_k8, float, "f", "mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32", F21, A2(a, 16),
        B1(b, 16))
PRODUCT(bf16_k16, float, "f", "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32", F42, A4(a, 32),
        B2(b, 32))
PRODUCT(bf16_k8, float, "f", "mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32", F21, A2(a, 16),
        B1(b, 16))
PRODUCT(tf32_k8, float, "f", "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32", F42, A4(a, 32),
        B2(b, 32))
PRODUCT(tf32_k4, float, "f", "mma.sync.aligned.m16n8k4.row.col.f32.tf32.tf32.f32", F21, A2(a, 16),
        B1(b, 16))
PRODUCT(s8_k32, int, "r", "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32", F42, A4(a, 32),
        B2(b, 32))
PRODUCT(u8_s8_k16, int, "r", "mma.sync.aligned.m16n8k16.row.col.satfinite.s32.u8.s8.s32", F21,
        A2(a, 16), B1(b, 16))
#ifdef FP8
PRODUCT(e4m3_k32, float, "f", "mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32", F42, A4(a, 32),
        B2(b, 32))
PRODUCT(e5m2_k32, float, "f", "mma.sync.aligned.m16n8k32.row.col.f32.e5m2.e4m3.f32", F42, A4(a, 32),
        B2(b, 32))
#endif

// Sums in f16: two of them in a register.
__device__ __noinline__ void f16_sums(const char *in, char *out, At at) {
  LANE;
  const char *a = in + at.a, *b = in + at.b;
  uint32_t *d = (uint32_t *)(out + at.c) + g * 4 + t;
  uint32_t r0 = 0x3c000000, r1 = 0x42004000; // 0, 1, 2, 3
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f16.f16.f16.f16 {%0, %1}, "
               "{%2, %3, %4, %5}, {%6, %7}, {%0, %1};"
               : "+r"(r0), "+r"(r1)
               : A4(a, 32), B2(b, 32));
  d[0] = r0, d[32] = r1;
}

__device__ __noinline__ void f64_k4(const char *in, char *out, At at) {
  LANE;
  const double *a = (const double *)(in + at.a), *b = (const double *)(in + at.b);
  double *d = (double *)(out + at.c) + g * 8 + 2 * t;
  double r0 = 0, r1 = 1;
  asm volatile("mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%0, %1}, {%2}, {%3}, {%0, %1};"
               : "+d"(r0), "+d"(r1)
               : "d"(a[g * 4 + t]), "d"(b[g * 4 + t]));
  d[0] = r0, d[1] = r1;
}

struct Places {
  At at[12];
};

extern "C" __global__ void mma_shapes(const char *in, char *out, const Places places) {
  f16_k16(in, out, places.at[0]);
  f16_k8(in, out, places.at[1]);
  bf16_k16(in, out, places.at[2]);
  bf16_k8(in, out, places.at[3]);
  tf32_k8(in, out, places.at[4]);
  tf32_k4(in, out, places.at[5]);
  s8_k32(in, out, places.at[6]);
  u8_s8_k16(in, out, places.at[7]);
  f16_sums(in, out, places.at[8]);
  f64_k4(in, out, places.at[9]);
#ifdef FP8
  e4m3_k32(in, out, places.at[10]);
  e5m2_k32(in, out, places.at[11]);
#endif
}
