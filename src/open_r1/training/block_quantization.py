"""Eight-bit numbers for an optimizer's moments: each block of 256 is divided by its largest, then takes the nearest of
256 codes that are dense near zero.

Dettmers et al. 2022, "8-bit Optimizers via Block-wise Quantization" (arXiv 2110.02861), with its dynamic tree codes.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

BLOCK = 256


@cache
def dynamic_codes(signed: bool, device: torch.device) -> tuple[Tensor, Tensor]:
    """The 256 numbers in [-1, 1] (or [0, 1]) that a byte can mean, ascending, and the 255 midpoints between them.

    Seven decades; decade e (10^-6 to 1) is cut into 2^e equal parts for each sign, or 2^(e+1) where there is one sign,
    and a code is a part's middle; 0 and 1 are codes too.
    """
    numbers = [0.0, 1.0]
    for exponent in range(7):
        parts = 2 ** (exponent if signed else exponent + 1)
        edges = torch.linspace(0.1, 1.0, parts + 1)
        middles = ((edges[:-1] + edges[1:]) / 2 * 10.0 ** (exponent - 6)).tolist()
        numbers += middles + ([-number for number in middles] if signed else [])
    codes = torch.tensor(sorted(numbers), dtype=torch.float32)
    return codes.to(device), ((codes[:-1] + codes[1:]) / 2).to(device)


def quantize(values_N: Tensor, midpoints: Tensor) -> tuple[Tensor, Tensor]:
    """uint8 codes [N] and float32 scales [N / 256] of float32 values; N is a multiple of 256."""
    blocks = values_N.view(-1, BLOCK)
    scale = blocks.abs().amax(dim=1)
    normalised = blocks / torch.where(scale > 0, scale, 1.0)[:, None]
    return torch.bucketize(normalised, midpoints, out_int32=True).to(torch.uint8).view(-1), scale


def dequantize(codes_N: Tensor, scale: Tensor, codes: Tensor) -> Tensor:
    """The float32 values [N] that `quantize` gave bytes to, to within half a code."""
    return (codes[codes_N.int()].view(-1, BLOCK) * scale[:, None]).view(-1)
