// Conversions and arithmetic of narrow floats with every rounding mode that the hardware has.
#include "device.cuh"

#define U16(text, x)                                                                               \
  ({                                                                                               \
    unsigned short r_;                                                                             \
    asm(text : "=h"(r_) : "f"(x));                                                                 \
    r_;                                                                                            \
  })
#define S32(text, x)                                                                               \
  ({                                                                                               \
    int r_;                                                                                        \
    asm(text : "=r"(r_) : "f"(x));                                                                 \
    r_;                                                                                            \
  })

extern "C" __global__ void conversions(const float *x, uint16_t *h, int *w, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n)
    return;
  float v = x[i];
  h[i] = U16("cvt.rn.f16.f32 %0, %1;", v);
  h[i + n] = U16("cvt.rz.f16.f32 %0, %1;", v);
  h[i + 2 * n] = U16("cvt.rn.bf16.f32 %0, %1;", v);
  h[i + 3 * n] = U16("cvt.rz.bf16.f32 %0, %1;", v);
  h[i + 4 * n] = U16("cvt.rn.relu.f16.f32 %0, %1;", v);
  w[i] = S32("cvt.rni.s32.f32 %0, %1;", v);
  w[i + n] = S32("cvt.rzi.s32.f32 %0, %1;", v);
  w[i + 2 * n] = S32("cvt.rmi.s32.f32 %0, %1;", v);
  w[i + 3 * n] = S32("cvt.rpi.u32.f32 %0, %1;", v);
  w[i + 4 * n] = S32("cvt.rna.tf32.f32 %0, %1;", v);
  w[i + 5 * n] = S32("cvt.rni.f32.f32 %0, %1;", v);
  w[i + 6 * n] = S32("cvt.sat.f32.f32 %0, %1;", v);
  w[i + 7 * n] = S32("cvt.rzi.sat.s8.f32 %0, %1;", v);
}

#ifdef FP8
extern "C" __global__ void conversions_fp8(const float2 *x, uint16_t *narrow, uint32_t *wide,
                                           int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n)
    return;
  unsigned short e4, e5, r4;
  unsigned h4, h5;
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(e4) : "f"(x[i].y), "f"(x[i].x));
  asm("cvt.rn.satfinite.e5m2x2.f32 %0, %1, %2;" : "=h"(e5) : "f"(x[i].y), "f"(x[i].x));
  asm("cvt.rn.satfinite.relu.e4m3x2.f32 %0, %1, %2;" : "=h"(r4) : "f"(x[i].y), "f"(x[i].x));
  asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(h4) : "h"(e4));
  asm("cvt.rn.f16x2.e5m2x2 %0, %1;" : "=r"(h5) : "h"(e5));
  narrow[i] = e4, narrow[i + n] = e5, narrow[i + 2 * n] = r4;
  wide[i] = h4, wide[i + n] = h5;
}
#endif

extern "C" __global__ void rounding(const float *a, const float *b, float *y, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n)
    return;
  float p = a[i], q = b[i];
  float *o = y + i;
#define BOTH(text)                                                                                 \
  ({                                                                                               \
    float r_;                                                                                      \
    asm(text : "=f"(r_) : "f"(p), "f"(q));                                                         \
    *o = r_;                                                                                       \
    o += n;                                                                                        \
  })
  BOTH("add.rn.f32 %0, %1, %2;");
  BOTH("add.rz.f32 %0, %1, %2;");
  BOTH("sub.rm.f32 %0, %1, %2;");
  BOTH("add.rp.f32 %0, %1, %2;");
  BOTH("mul.rn.f32 %0, %1, %2;");
  BOTH("mul.rz.f32 %0, %1, %2;");
  BOTH("mul.rm.f32 %0, %1, %2;");
  BOTH("mul.rp.ftz.f32 %0, %1, %2;");
  BOTH("fma.rn.f32 %0, %1, %2, %1;");
  BOTH("fma.rz.f32 %0, %1, %2, %2;");
  BOTH("div.rn.f32 %0, %1, %2;");
  BOTH("div.rp.f32 %0, %1, %2;");
  BOTH("{ .reg .f32 t; abs.f32 t, %1; sqrt.rn.f32 %0, t; }");
  BOTH("{ .reg .f32 t; abs.f32 t, %2; sqrt.rm.f32 %0, t; }");
  BOTH("rcp.rn.f32 %0, %2;");
  BOTH("fma.rn.sat.f32 %0, %1, %2, %2;");
  BOTH("min.f32 %0, %1, %2;");
  BOTH("max.f32 %0, %1, %2;");
  BOTH("copysign.f32 %0, %1, %2;");
}
