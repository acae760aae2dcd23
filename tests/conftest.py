"""Without a GPU the real Triton source runs through Triton's interpreter."""

import os

import torch

# must be set before any kernel is imported; `os.environ` is read by Triton itself
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # noqa: TID251
