"""Child process: multiplies matrices of models' shapes in one type, and compares with a higher precision.

cuBLAS has died by SIGFPE on single shapes (bf16 and fp16 on the H20, before 12.4.5); libraries built for another CPU
die by SIGILL. Whatever happens, the parent knows the product that it happened in.
"""

from __future__ import annotations

import ctypes
import math
import re
from pathlib import Path

import torch
from torch import Tensor

from open_r1.doctor.matmul_shapes import Product, products
from open_r1.machine.answer import Answer

TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32, "fp8": torch.float8_e4m3fn}
SLACK = 8.0
"""Times the rounding that is expected. A product of the wrong tile is off by √2 standard deviations of the result,
which is more than ten times what this lets through in bf16."""

COMPARED_ROWS = 1024
"""Rows of the result that are compared at a time, to spare memory."""

COMPARED_ROWS_FP32 = 128
"""The same for float32, of which the first and the last such rows are compared: many GPUs have few float64 units."""

MEMORY_SHARE = 0.7


def main() -> None:
    """Tells ``cublas`` (file and version), ``tried``, ``too_large`` (products left out) and ``wrong`` (a list)."""
    answer = Answer()
    dtype, device = TYPES[answer.asked["dtype"]], torch.device(answer.asked["device"])
    torch.set_float32_matmul_precision("highest")
    answer.begin("first product")
    (torch.ones(16, 16, device=device) @ torch.ones(16, 16, device=device)).sum().item()
    answer.say(cublas=loaded_cublas())
    torch.manual_seed(0)
    tried, too_large, wrong = 0, 0, []
    layouts = ("forward",) if dtype is torch.float8_e4m3fn else None
    for product in products(device.type == "cuda", *([layouts] if layouts else [])):
        if layouts and product.m % 16:
            continue
        if not _fits(product, dtype, device):
            too_large += 1
            continue
        answer.begin(str(product))
        try:
            error = relative_error(product, dtype, device)
        except torch.OutOfMemoryError:
            too_large += 1
            continue
        tried += 1
        if not error <= 1.0:  # NaN too
            wrong.append(f"{product}: {error:.3g} times the error that rounding allows")
    answer.say(at="", tried=tried, too_large=too_large, wrong=wrong)


def relative_error(product: Product, dtype: torch.dtype, device: torch.device) -> float:
    """The largest error of a product of standard normal matrices, over what rounding allows.

    Elements are sums of K terms of variance 1, so their standard deviation is √K. The result is rounded to the type's
    ε (relative; partial sums may be too, of size √K), the sum itself is kept in float32: SLACK · (ε·(|c| + √K) + ε₃₂·K)
    bounds it (after Higham, Accuracy and Stability of Numerical Algorithms, chapter 3).
    """
    a, b = operands(product, dtype, device)
    result = multiply(a, b)
    precise = torch.float64 if dtype is torch.float32 else torch.float32
    kept = torch.finfo(result.dtype).eps
    floor = kept * math.sqrt(product.k) + torch.finfo(torch.float32).eps * product.k
    b_precise = b.to(precise)
    worst = torch.zeros((), device=device, dtype=precise)
    for rows in _compared_rows(product.m, dtype):
        wanted = a[..., rows, :].to(precise) @ b_precise
        error = (result[..., rows, :].to(precise) - wanted).abs_()
        ratio = error.div_(wanted.abs_().mul_(kept).add_(floor).mul_(SLACK))
        worst = torch.maximum(worst, ratio.max())  # NaN stays
    return worst.item()


def _compared_rows(rows: int, dtype: torch.dtype) -> list[slice]:
    if dtype is torch.float32:
        starts, count = sorted({0, max(0, rows - COMPARED_ROWS_FP32)}), COMPARED_ROWS_FP32
    else:
        starts, count = list(range(0, rows, COMPARED_ROWS)), COMPARED_ROWS
    return [slice(first, first + count) for first in starts]


def operands(product: Product, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """[…, M, K] and […, K, N] of standard normal numbers, lying in memory as they do in training."""
    m, k, n = product.m, product.k, product.n
    batch = (product.batch,) if product.batch > 1 else ()

    def normal(rows: int, columns: int) -> Tensor:
        filled = torch.bfloat16 if dtype is torch.float8_e4m3fn else dtype
        return torch.randn(*batch, rows, columns, device=device, dtype=filled).to(dtype)

    a = normal(k, m).transpose(-1, -2) if product.layout == "gradient of weights" else normal(m, k)
    b = normal(n, k).transpose(-1, -2) if product.layout in ("forward", "batched scores") else normal(k, n)
    return a, b


def multiply(a: Tensor, b: Tensor) -> Tensor:
    """As models do: `torch.bmm` for batches, `torch._scaled_mm` (to bf16) for 8 bits."""
    if a.dtype is torch.float8_e4m3fn:
        one = torch.ones((), device=a.device)
        return torch._scaled_mm(a, b, scale_a=one, scale_b=one, out_dtype=torch.bfloat16)
    return torch.bmm(a, b) if a.dim() == 3 else a @ b


def _fits(product: Product, dtype: torch.dtype, device: torch.device) -> bool:
    if device.type != "cuda":
        return True
    m, k, n, size = product.m, product.k, product.n, dtype.itemsize
    precise = 8 if dtype is torch.float32 else 4
    matrices = product.batch * (m * k + k * n) * (size + 2) + product.batch * m * n * max(size, 2)
    compared = product.batch * (k * n + min(m, COMPARED_ROWS) * (k + 3 * n)) * precise
    torch.cuda.empty_cache()
    return matrices + compared < MEMORY_SHARE * torch.cuda.mem_get_info(device)[0]


def loaded_cublas() -> dict[str, str] | None:
    """The cuBLAS that this process has loaded, which need not be the one that came with torch: file and version."""
    try:
        maps = Path("/proc/self/maps").read_text()
    except OSError:
        return None
    found = re.search(r"(/\S*/libcublas\.so[.\d]*)$", maps, flags=re.MULTILINE)
    if found is None:
        return None
    parts = []
    for which in range(3):  # MAJOR_VERSION, MINOR_VERSION, PATCH_LEVEL of libraryPropertyType
        number = ctypes.c_int()
        ctypes.CDLL(found[1]).cublasGetProperty(which, ctypes.byref(number))
        parts.append(str(number.value))
    return {"file": found[1], "version": ".".join(parts)}


if __name__ == "__main__":
    main()
