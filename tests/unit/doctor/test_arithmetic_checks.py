from __future__ import annotations

from collections.abc import Mapping

import pytest

from open_r1.doctor.arithmetic_checks import CUBLAS_FIX, check_all_reduce, check_attention, check_matmul
from open_r1.doctor.gpus import Gpu
from open_r1.machine.child import Outcome

AT = "[2 × 1024]·[1024 × 18432] (7B, forward)"
SITE = "/venv/lib/python3.12/site-packages/nvidia/cublas/lib/libcublas.so.12"
OLD, MENDED = {"file": SITE, "version": "12.1.3"}, {"file": SITE, "version": "12.8.4"}
WELL = {"tried": 100, "wrong": [], "too_large": 0}
GPUS = (Gpu("H20", 96, 96, (9, 0)),) * 4


def died(signal: int, cublas: dict[str, str] | None = None) -> Outcome:
    return Outcome({"at": AT, "cublas": cublas}, status=-signal)


def test_right_products() -> None:
    found = check_matmul("bf16", Outcome({**WELL, "too_large": 3, "cublas": MENDED}), {})
    assert found.level == "ok" and "3 are too large" in found.summary and "cuBLAS 12.8.4" in found.detail


def test_the_h20_s_defect_is_named_with_its_mend() -> None:
    found = check_matmul("bf16", died(8, OLD), {"nvidia-cublas-cu12": "12.1.3.1"})
    assert found.level == "fail" and found.summary == f"bf16 products die by SIGFPE at {AT}"
    assert found.fix == CUBLAS_FIX == 'pip install "nvidia-cublas-cu12==12.4.5.8"'
    assert "nvidia-cublas-cu12 12.1.3.1" in found.detail and "fp16 is no way out" in found.detail
    unseen = check_matmul("fp16", died(8), {"nvidia-cublas-cu12": "12.4.2.65"})
    assert unseen.fix == CUBLAS_FIX


def test_a_mended_cublas_is_not_blamed_on_that_defect() -> None:
    found = check_matmul("bf16", died(8, MENDED), {"nvidia-cublas-cu12": "12.8.4.1"})
    assert found.fix == "pip install --force-reinstall --no-deps nvidia-cublas-cu12"


def test_another_cublas_before_torchs_own() -> None:
    system = {"file": "/usr/local/cuda-12.2/lib64/libcublas.so.12", "version": "12.2.5"}
    found = check_matmul("bf16", died(8, system), {"nvidia-cublas-cu12": "12.8.4.1"})
    assert found.fix.startswith("unset LD_LIBRARY_PATH") and "/usr/local/cuda-12.2" in found.detail


@pytest.mark.parametrize(
    ("outcome", "summary", "fix"),
    [
        (died(4), "die by SIGILL", "ATEN_CPU_CAPABILITY"),
        (died(9), "die by SIGKILL", "memory"),
        (Outcome({"at": AT}, status=None), "do not end", "--timeout"),
        (Outcome({"at": AT}, status=1, errors="torch.OutOfMemoryError: CUDA out of memory"), "fail at", "nvidia-smi"),
        (Outcome({"at": AT}, status=1, errors="RuntimeError: CUBLAS_STATUS_NOT_SUPPORTED"), "NOT_SUPPORTED", "pip"),
        (Outcome({**WELL, "wrong": [f"{AT}: 20 times"]}), "1 of 100 bf16 products are wrong", "pip"),
    ],
    ids=["illegal instruction", "killed", "hang", "no memory", "refused", "wrong"],
)
def test_other_ends(outcome: Outcome, summary: str, fix: str) -> None:
    found = check_matmul("bf16", outcome, {})
    assert found.level == "fail" and summary in found.summary and fix in found.fix


def test_the_kernel_that_will_be_chosen_is_named() -> None:
    well = Outcome({"wrong": []})
    (found,) = check_attention({"fa4": well, "varlen": well, "documents": well}, "fa4")
    assert found.level == "ok"
    assert found.summary == "flash-attn-4 is right, and will be chosen; torch's varlen_attn and SDPA work too"


@pytest.mark.parametrize(
    ("outcome", "words"),
    [
        (Outcome(status=-11), "dies by SIGSEGV"),
        (Outcome(status=None), "does not end"),
        (Outcome(status=1, errors="ImportError: cutlass"), "fails: ImportError: cutlass"),
        (Outcome({"wrong": ["output with heads of 64: off by 0.9 of its size"]}), "computes something else"),
    ],
)
def test_a_chosen_kernel_that_does_not_work_fails(outcome: Outcome, words: str) -> None:
    (found,) = check_attention({"fa4": outcome, "documents": Outcome({"wrong": []})}, "fa4")
    assert found.level == "fail" and words in found.summary and found.fix == "pip uninstall -y flash-attn-4"
    other = check_attention({"varlen": Outcome({"wrong": []}), "documents": outcome}, "varlen")
    assert [finding.level for finding in other] == ["ok", "warn"]


def sums(broken: Mapping[str, str] | None, outcome: Outcome) -> tuple[list[Mapping[str, str]], object]:
    """Attempts that end in ``outcome`` until the settings of ``broken`` are all switched off."""
    tried: list[Mapping[str, str]] = []
    lines = tuple({"joined": rank} for rank in range(4))

    def attempt(settings: Mapping[str, str]) -> Outcome:
        tried.append(settings)
        if broken is not None and broken.items() <= settings.items():
            return Outcome({"bandwidth": 2e11}, lines)
        return outcome

    return tried, check_all_reduce(GPUS, attempt)


def test_sums_that_are_right() -> None:
    tried, found = sums({}, Outcome())
    assert found.level == "ok" and "4 GPUs are right, 200 GB/s" in found.summary and tried == [{}]
    assert check_all_reduce(GPUS[:1], lambda settings: Outcome()).level == "skip"


def test_the_setting_that_mends_a_hang_is_found() -> None:
    hang = Outcome(lines=tuple({"joined": rank} for rank in range(4)), status=None)
    tried, found = sums({"NCCL_P2P_DISABLE": "1"}, hang)
    assert found.level == "fail" and found.fix == "export NCCL_P2P_DISABLE=1"
    assert "hangs in a sum" in found.summary and len(tried) == 2


def test_sums_that_nothing_mends() -> None:
    tried, found = sums(None, Outcome(status=1, errors="torch.distributed.DistBackendError: NCCL error"))
    assert found.level == "fail" and "while connecting (0 of 4" in found.summary and "NCCL_DEBUG" in found.fix
    assert len(tried) == 5
    wrong = Outcome({"bandwidth": 1e9}, ({"wrong": "rank 1: the sum of 1 numbers is 3"},))
    assert "computes something else: rank 1" in sums(None, wrong)[1].summary
