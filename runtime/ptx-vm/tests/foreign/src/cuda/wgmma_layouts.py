"""wgmma with every swizzle, a negated operand, and A in registers."""

import numpy as np
from fixture import Buffer, CudaFixture, Expect, Launch, TensorMap, generator


def fixtures():
    rng = generator("wgmma_layouts")
    # Quarters: the products and all sums are exact.
    a, b = ((rng.integers(-16, 17, (rows, 64)) / 4).astype(np.float16) for rows in (64, 8))
    c = (a.astype(np.float64) @ b.astype(np.float64).T).astype(np.float32)
    pointers = [Buffer("a", a), Buffer("b", b), Buffer("c", bytes=c.nbytes)]
    for width in (128, 64, 32):
        name = f"wgmma_swizzle_{width}"
        maps = [
            TensorMap(f"map_{x}", x, "f16", [64, rows], [128], [width // 2, rows], f"B{width}")
            for x, rows in (("a", 64), ("b", 8))
        ]
        launch = Launch(
            grid=(1, 1, 1),
            block=(128, 1, 1),
            # A tile of B takes 1024 bytes whatever its width, so that its swizzle starts anew.
            shared_bytes=64 * 128 + 1024 * (128 // width),
            params=[*pointers, *maps],
            # The kernel negates B.
            expect=[Expect("c", -c)],
        )
        yield CudaFixture(f"cuda_{name}", "wgmma_layouts", name, launch, ("sm_90a",))
    launch = Launch((1, 1, 1), pointers, [Expect("c", c)], block=(128, 1, 1))
    yield CudaFixture(
        "cuda_wgmma_registers", "wgmma_layouts", "wgmma_registers", launch, ("sm_90a",)
    )
