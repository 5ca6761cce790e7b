from __future__ import annotations

from pathlib import Path

import pytest

from open_r1.doctor.software_checks import check_deepspeed, check_packages, check_vllm, read_pins
from open_r1.machine.child import Outcome

REQUIRED = [
    "torch>=2.11",
    "transformers>=5.17",
    "rich",
    "vllm; extra == 'vllm'",
    "gigatoken>=1; sys_platform == 'plan9'",
]
PINNED = {"torch": "2.13.0", "transformers": "5.23.0", "rich": "15.0.0", "unrelated": "1"}


def packages(installed: dict[str, str], pinned: dict[str, str] = PINNED):
    return check_packages(REQUIRED, pinned, installed.get)


def test_the_tested_set_is_well_whatever_the_build() -> None:
    found = packages({"torch": "2.13.0+cu130", "transformers": "5.23.0", "rich": "15.0.0"})
    assert found.level == "ok" and "all 3 packages" in found.summary


def test_another_version_is_a_warning() -> None:
    found = packages({"torch": "2.11.0+cu130", "transformers": "5.23.0", "rich": "15.0.0", "vllm": "0.26.0"})
    assert found.level == "warn" and "torch 2.11.0 (pinned 2.13.0)" in found.summary and "1 of 4" in found.summary
    assert found.fix == "pip install -c constraints.txt -e ."


@pytest.mark.parametrize(
    ("installed", "words"),
    [
        ({"torch": "2.6.0", "transformers": "5.23.0", "rich": "15.0.0"}, "torch 2.6.0 (>=2.11 is needed)"),
        ({"torch": "2.13.0", "transformers": "5.23.0"}, "rich is not installed"),
    ],
)
def test_too_old_or_missing_fails(installed: dict[str, str], words: str) -> None:
    found = packages(installed)
    assert found.level == "fail" and words in found.summary and found.fix
    assert packages(installed, {}).fix == "pip install --upgrade open-r1"


def test_this_environment_is_read() -> None:
    assert check_packages().level in ("ok", "warn")


def test_pins(tmp_path: Path) -> None:
    (tmp_path / "constraints.txt").write_text("# pins\ntorch==2.13.0\n\nJinja2==3.1.6\n")
    assert read_pins(tmp_path / "constraints.txt") == {"torch": "2.13.0", "Jinja2": "3.1.6"}
    assert read_pins(tmp_path / "gone") == {}


@pytest.mark.parametrize("check", [check_vllm, check_deepspeed])
def test_optional_libraries(check) -> None:
    assert check(Outcome, found=False).level == "skip"
    assert check(lambda: Outcome({"version": "0.26.0"}), found=True).level == "ok"
    other = "ImportError: /x/_C.abi3.so: undefined symbol: _ZN3c10"
    found = check(lambda: Outcome(status=1, errors=f"Traceback …\n{other}\n"), "0.26.0", True)
    assert found.level == "fail" and "built for another torch" in found.summary and "--force-reinstall" in found.fix
    assert "dies by SIGILL" in check(lambda: Outcome(status=-4), "0.26.0", True).summary
    slow = check(lambda: Outcome(status=None), "0.26.0", True)
    assert slow.level == "fail" and "--timeout" in slow.fix
