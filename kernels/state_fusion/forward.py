"""The fused state fusion by whichever kernel serves the shape."""

from torch import Tensor

from kernels.state_fusion.cuda_fwd import gated_fusion_cuda, plan_for
from kernels.state_fusion.triton_fwd import gated_fusion_triton
from kernels.state_fusion.triton_token import gated_fusion_token_triton, is_for_tokens


def gated_fusion(
    state: Tensor,
    u: Tensor,
    projected: Tensor,
    gate: Tensor,
    weight: Tensor,
    D: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    norm_eps: float,
) -> Tensor:
    """Contract and arguments of `gated_fusion_triton`.

    Raises:
        CudaError: the CUDA kernel cannot be compiled, loaded or launched.
    """
    arguments = (state, u, projected, gate, weight, D, norm_weight, norm_bias, norm_eps)
    if is_for_tokens(state):
        return gated_fusion_token_triton(*arguments)
    how = plan_for(state)
    if how is None:
        return gated_fusion_triton(*arguments)
    return gated_fusion_cuda(*arguments, how)
