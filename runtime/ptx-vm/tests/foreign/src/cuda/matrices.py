"""ldmatrix, stmatrix, movmatrix."""

import numpy as np
from fixture import Buffer, CudaFixture, Expect, Launch, generator


def fragment(tile: np.ndarray) -> np.ndarray:
    """An 8 x 8 tile of halves, a word per lane: lane 4 r + c has row r, columns 2 c and 2 c + 1."""
    return np.ascontiguousarray(tile).view(np.uint32).reshape(32)


def fixtures():
    tiles = generator("matrices").integers(0, 2**16, (4, 8, 8)).astype(np.uint16)
    words = [fragment(t) for t in tiles] + [fragment(t.T) for t in tiles]
    words += [fragment(tiles[2][::-1]), fragment(tiles[3].T)]
    y = np.stack(words)
    params = [Buffer("x", tiles), Buffer("y", bytes=y.nbytes)]
    launch = Launch((1, 1, 1), params, [Expect("y", y)], (32, 1, 1))
    yield CudaFixture("cuda_load_matrices", "matrices", "load_matrices", launch)

    x = np.stack([fragment(t) for t in tiles[:3]])
    y = np.concatenate([tiles[:2], tiles[2:3].transpose(0, 2, 1)])
    params = [Buffer("x", x), Buffer("y", bytes=y.nbytes)]
    launch = Launch((1, 1, 1), params, [Expect("y", np.ascontiguousarray(y))], (32, 1, 1))
    yield CudaFixture(
        "cuda_store_matrices", "matrices", "store_matrices", launch, ("sm_90a",), ("-DHOPPER",)
    )
