// Tensor copies of one to five dimensions: a box comes into shared memory, is written out as it
// lies there (which shows the swizzle and the fill), and leaves by a tensor store or reduction to
// another place.
#include "async.cuh"

#define LOAD ".shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3"
#define STORE ".global.shared::cta.tile.bulk_group [%0, {%2"

template <int R>
__device__ __forceinline__ void load(const TensorMap *map, void *to, uint64_t *bar, const int *at) {
  uint32_t s = shared_address(to), b = shared_address(bar);
  if constexpr (R == 1)
    asm volatile("cp.async.bulk.tensor.1d" LOAD "}], [%2];" ::"r"(s), "l"(map), "r"(b), "r"(at[0])
                 : "memory");
  if constexpr (R == 2)
    asm volatile("cp.async.bulk.tensor.2d" LOAD ", %4}], [%2];" ::"r"(s), "l"(map), "r"(b),
                 "r"(at[0]), "r"(at[1])
                 : "memory");
  if constexpr (R == 3)
    asm volatile("cp.async.bulk.tensor.3d" LOAD ", %4, %5}], [%2];" ::"r"(s), "l"(map), "r"(b),
                 "r"(at[0]), "r"(at[1]), "r"(at[2])
                 : "memory");
  if constexpr (R == 4)
    asm volatile("cp.async.bulk.tensor.4d" LOAD ", %4, %5, %6}], [%2];" ::"r"(s), "l"(map), "r"(b),
                 "r"(at[0]), "r"(at[1]), "r"(at[2]), "r"(at[3])
                 : "memory");
  if constexpr (R == 5)
    asm volatile("cp.async.bulk.tensor.5d" LOAD ", %4, %5, %6, %7}], [%2];" ::"r"(s), "l"(map),
                 "r"(b), "r"(at[0]), "r"(at[1]), "r"(at[2]), "r"(at[3]), "r"(at[4])
                 : "memory");
}

template <int R>
__device__ __forceinline__ void store(const TensorMap *map, const void *from, const int *at) {
  uint32_t s = shared_address(from);
  if constexpr (R == 1)
    asm volatile("cp.async.bulk.tensor.1d" STORE "}], [%1];" ::"l"(map), "r"(s), "r"(at[0])
                 : "memory");
  if constexpr (R == 2)
    asm volatile("cp.async.bulk.tensor.2d" STORE ", %3}], [%1];" ::"l"(map), "r"(s), "r"(at[0]),
                 "r"(at[1])
                 : "memory");
  if constexpr (R == 3)
    asm volatile("cp.reduce.async.bulk.tensor.3d.global.shared::cta.add.tile.bulk_group "
                 "[%0, {%2, %3, %4}], [%1];" ::"l"(map),
                 "r"(s), "r"(at[0]), "r"(at[1]), "r"(at[2])
                 : "memory");
  if constexpr (R == 4)
    asm volatile("cp.async.bulk.tensor.4d" STORE ", %3, %4, %5}], [%1];" ::"l"(map), "r"(s),
                 "r"(at[0]), "r"(at[1]), "r"(at[2]), "r"(at[3])
                 : "memory");
  if constexpr (R == 5)
    asm volatile("cp.reduce.async.bulk.tensor.5d.global.shared::cta.max.tile.bulk_group "
                 "[%0, {%2, %3, %4, %5, %6}], [%1];" ::"l"(map),
                 "r"(s), "r"(at[0]), "r"(at[1]), "r"(at[2]), "r"(at[3]), "r"(at[4])
                 : "memory");
}

struct Corners {
  int from[5], to[5];
};

template <int R>
__device__ __forceinline__ void copy(uint32_t *raw, const TensorMap *from, const TensorMap *to,
                                     const Corners &corners, int bytes) {
  extern __shared__ __attribute__((aligned(1024))) uint32_t tile[];
  __shared__ uint64_t bar;
  if (threadIdx.x == 0) {
    mbarrier_init(&bar, 1);
    mbarrier_init_fence();
    mbarrier_expect(&bar, bytes);
    load<R>(from, tile, &bar, corners.from);
  }
  __syncthreads();
  mbarrier_wait(&bar, 0);
  for (int i = threadIdx.x; i < bytes / 4; i += blockDim.x)
    raw[i] = tile[i];
  if (threadIdx.x == 0) {
    store<R>(to, tile, corners.to);
    asm volatile("cp.async.bulk.commit_group;" ::: "memory");
    asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
  }
}

// RANK is given by the compiler's command line, and NAME with it.
extern "C" __global__ void NAME(const void *x, void *y, uint32_t *raw,
                                const __attribute__((grid_constant)) TensorMap from,
                                const __attribute__((grid_constant)) TensorMap to,
                                const Corners corners, int bytes) {
  copy<RANK>(raw, &from, &to, corners, bytes);
}
