"""Without a GPU the real Triton source runs through Triton's interpreter."""

import functools
import os

import httpx._transports.default as http_transports
import torch

# must be set before any kernel is imported; `os.environ` is read by Triton itself
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # noqa: TID251

# every `httpx.get` would read all certificates anew: many times what a request takes
http_transports.create_ssl_context = functools.cache(http_transports.create_ssl_context)  # type: ignore[assignment]
