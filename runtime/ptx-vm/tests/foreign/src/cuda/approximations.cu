// The approximate functions of the hardware, each within its documented error, and their special
// cases.
#include "device.cuh"

extern "C" __global__ void approximations(const float *x, float *y, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n)
    return;
  float v = x[i];
  float *o = y + i;
#define PUT(text)                                                                                  \
  ({                                                                                               \
    float r_;                                                                                      \
    asm(text : "=f"(r_) : "f"(v));                                                                 \
    *o = r_;                                                                                       \
    o += n;                                                                                        \
  })
  PUT("ex2.approx.f32 %0, %1;");
  PUT("ex2.approx.ftz.f32 %0, %1;");
  PUT("rcp.approx.f32 %0, %1;");
  PUT("{ .reg .f32 t; abs.f32 t, %1; lg2.approx.f32 %0, t; }");
  PUT("{ .reg .f32 t; abs.f32 t, %1; sqrt.approx.f32 %0, t; }");
  PUT("{ .reg .f32 t; abs.f32 t, %1; rsqrt.approx.f32 %0, t; }");
  PUT("sin.approx.f32 %0, %1;");
  PUT("cos.approx.f32 %0, %1;");
  PUT("tanh.approx.f32 %0, %1;");
  PUT("div.full.f32 %0, 0f40490fdb, %1;");
  PUT("div.approx.f32 %0, 0f3f800000, %1;");
}

extern "C" __global__ void special_cases(const float *x, uint32_t *y, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n)
    return;
  float v = x[i];
  uint32_t *o = y + i;
#define BITS(text)                                                                                 \
  ({                                                                                               \
    uint32_t r_;                                                                                   \
    asm(text : "=r"(r_) : "f"(v));                                                                 \
    *o = r_;                                                                                       \
    o += n;                                                                                        \
  })
  BITS("ex2.approx.f32 %0, %1;");
  BITS("rcp.approx.f32 %0, %1;");
  BITS("lg2.approx.f32 %0, %1;");
  BITS("sqrt.approx.f32 %0, %1;");
  BITS("rsqrt.approx.f32 %0, %1;");
  BITS("{ .reg .pred p; testp.infinite.f32 p, %1; selp.u32 %0, 1, 0, p; }");
  BITS("{ .reg .pred p; setp.neu.f32 p, %1, %1; selp.u32 %0, 1, 0, p; }");
  BITS("min.f32 %0, %1, 0f3f800000;");
  BITS("add.ftz.f32 %0, %1, %1;");
}
