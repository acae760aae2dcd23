"""The selective scan for inference by whatever serves the map fastest."""

from torch import Tensor

from kernels.selective_scan.cuda_fwd import low_rank_scan_cuda, plan_for
from kernels.selective_scan.triton_fwd import low_rank_scan_triton


def low_rank_scan(
    u: Tensor, projected: Tensor, dt_weight: Tensor, dt_bias: Tensor, A: Tensor
) -> Tensor:
    """Contract and arguments of `low_rank_scan_triton`.

    Raises:
        CudaError: a CUDA kernel cannot be compiled, loaded or launched.
    """
    how = plan_for(u, projected, dt_weight)
    if how is not None:
        return low_rank_scan_cuda(u, projected, dt_weight, dt_bias, A, how)
    return low_rank_scan_triton(u, projected, dt_weight, dt_bias, A)
