// Loads and stores with cache operators, eviction priorities and policies, which change no result.
#include "device.cuh"

extern "C" __global__ void hints(const float *x, float *y, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
  if (i >= n)
    return;
  float a, b, c, d, e, f, g;
  unsigned long long policy;
  asm volatile("createpolicy.fractional.L2::evict_last.b64 %0, 0.5;" : "=l"(policy));
  asm volatile("prefetch.global.L2 [%0];" ::"l"(x + i));
  asm volatile("ld.global.ca.f32 %0, [%1];" : "=f"(a) : "l"(x + i));
  asm volatile("ld.global.cg.f32 %0, [%1];" : "=f"(b) : "l"(x + i));
  asm volatile("ld.global.cs.f32 %0, [%1];" : "=f"(c) : "l"(x + i));
  asm volatile("ld.volatile.global.f32 %0, [%1];" : "=f"(d) : "l"(x + i));
  asm volatile("ld.global.nc.L1::no_allocate.L2::128B.f32 %0, [%1];" : "=f"(e) : "l"(x + i));
  asm volatile("ld.global.L1::evict_last.L2::cache_hint.f32 %0, [%1], %2;"
               : "=f"(f)
               : "l"(x + i), "l"(policy));
  asm volatile("ldu.global.f32 %0, [%1];" : "=f"(g) : "l"(x + i / 32 * 32));
  float sum = a + 2 * b + 4 * c + 8 * d + 16 * e + 32 * f + 64 * g;
  asm volatile("nanosleep.u32 20;");
  asm volatile("st.global.cs.f32 [%0], %1;" ::"l"(y + i), "f"(sum) : "memory");
  asm volatile("st.global.wt.f32 [%0], %1;" ::"l"(y + n + i), "f"(-sum) : "memory");
  asm volatile("st.global.L1::no_allocate.L2::cache_hint.f32 [%0], %1, %2;" ::"l"(y + 2 * n + i),
               "f"(2 * sum), "l"(policy)
               : "memory");
  asm volatile("fence.sc.sys;" ::: "memory");
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
