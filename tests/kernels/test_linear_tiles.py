"""Tiles of the Triton product: what a small launch keeps in shared memory fits any GPU."""

from itertools import product

import pytest
import torch

from kernels.linear.triton_fwd import _tiles

# usable by a multiprocessor's programs on compute capability 8.6 and 9.0
SHARED = (92 * 1024, 216 * 1024)


@pytest.mark.parametrize("shared", SHARED)
@pytest.mark.parametrize("M", [1, 49, 196, 784, 3136])
def test_stages_fit_the_shared_memory(M: int, shared: int) -> None:
    for N, K in product((64, 128, 256, 512, 1000, 2048), (64, 128, 256, 512, 1024, 2048, 4096)):
        if M * N > 132 * 64 * 64 * 2:
            continue
        block_m, block_n, block_k, _, stages = _tiles(M, N, K, torch.float16, shared)
        programs = -(-M // block_m) * -(-N // block_n)
        resident = min(2, -(-programs // 132))
        assert stages == 2 or 2 * (block_m + block_n) * block_k * stages * resident <= shared
        assert stages >= 2
