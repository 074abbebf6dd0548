"""Histograms: by masked global atomics of every element, and by the block's `tl.histogram`."""

import numpy as np
import triton
import triton.language as tl
from fixture import Buffer, Expect, Launch, Scalar, TritonFixture, generator


@triton.jit
def histogram(values, weights, counts, sums, blocks, n, BLOCK: tl.constexpr, BINS: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = at < n
    bins = tl.load(values + at, mask=mask, other=0)
    tl.atomic_add(counts + bins, 1, mask=mask)
    weight = tl.load(weights + at, mask=mask, other=0.0)
    tl.atomic_add(sums + bins, weight, mask=mask, sem="relaxed")
    own = tl.histogram(bins, BINS, mask=mask)
    tl.atomic_max(blocks + tl.arange(0, BINS), own)


def fixtures():
    n, block, bins = 1000, 256, 32
    rng = generator("histogram")
    values = np.minimum(rng.geometric(0.12, n) - 1, bins - 1).astype(np.int32)
    # Multiples of 1/8: their float sums are exact in every order.
    weights = (rng.integers(0, 64, n) / 8).astype(np.float32)
    counts = np.bincount(values, minlength=bins).astype(np.int32)
    sums = np.bincount(values, weights=weights, minlength=bins).astype(np.float32)
    parts = [np.bincount(values[i : i + block], minlength=bins) for i in range(0, n, block)]
    largest = np.max(parts, axis=0).astype(np.int32)
    launch = Launch(
        grid=(-(-n // block), 1, 1),
        params=[
            Buffer("values", values),
            Buffer("weights", weights),
            Buffer("counts", "Zeros", 4 * bins),
            Buffer("sums", "Zeros", 4 * bins),
            Buffer("blocks", "Zeros", 4 * bins),
            Scalar("I32", n),
        ],
        expect=[
            Expect("counts", counts),
            Expect("sums", sums),
            Expect("blocks", largest),
        ],
    )
    yield TritonFixture(
        name="triton_histogram",
        kernel=histogram,
        signature={
            "values": "*i32",
            "weights": "*fp32",
            "counts": "*i32",
            "sums": "*fp32",
            "blocks": "*i32",
            "n": "i32",
            "BLOCK": ("constexpr", block),
            "BINS": ("constexpr", bins),
        },
        launch=launch,
    )
