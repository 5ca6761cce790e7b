"""The table of GPUs: found by what people and drivers call them, and in agreement with what meters count by."""

from __future__ import annotations

import pytest

from open_r1.errors import UserError
from open_r1.machine.cards import CARDS, card_named, find_card


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("4090", "4090"),
        ("RTX 4090", "4090"),
        ("rtx4090", "4090"),
        ("GeForce RTX 3090", "3090"),
        ("a100-80gb", "A100-80"),
        ("A100 SXM4 40GB", "A100-40"),
        ("h20", "H20"),
        ("H100", "H100"),
        ("h100 nvl", "H100-NVL"),
        ("rtx pro 6000", "RTX-PRO-6000"),
        ("L4", "L4"),
        ("A40", "A40"),
        ("RTX A5000", "A5000"),
        ("H100-80GB", "H100"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA A100 80GB PCIe", "A100-80"),
        ("NVIDIA RTX 6000 Ada Generation", "6000-Ada"),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "RTX-PRO-6000"),
    ],
)
def test_people_spell_it_as_they_like(spelling: str, name: str) -> None:
    assert find_card(spelling).name == name


@pytest.mark.parametrize(
    ("spelling", "said"),
    [
        ("A100", "choose A100-40 or A100-80"),
        ("4091", "did you mean 4090"),
        ("H100 64GB", r"did you mean H100\?"),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", "is not in the table"),
        ("TPU", "is not in the table"),
        ("", "is"),
    ],
)
def test_an_unknown_card_is_one_line(spelling: str, said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        find_card(spelling)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("driver", "name"),
    [
        ("NVIDIA H200", "H200"),
        ("NVIDIA H20", "H20"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H100 PCIe", "H100-PCIe"),
        ("NVIDIA H100 NVL", "H100-NVL"),
        ("NVIDIA A100-SXM4-80GB", "A100-80"),
        ("NVIDIA A100-PCIE-40GB", "A100-40"),
        ("NVIDIA GeForce RTX 4090", "4090"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA A10G", "A10G"),
        ("NVIDIA RTX PRO 6000 Blackwell Workstation Edition", "RTX-PRO-6000"),
        ("NVIDIA RTX 6000 Ada Generation", "6000-Ada"),
        ("Tesla T4", "T4"),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("AMD Instinct MI300X", None),
    ],
)
def test_the_drivers_names(driver: str, name: str | None) -> None:
    card = card_named(driver)
    assert (card and card.name) == name


def test_chips_without_a_unit_say_so() -> None:
    assert find_card("T4").bf16 is None and find_card("V100-32").bf16 is None
    assert find_card("3090").fp8 is None and find_card("4090").fp8
    assert all(card.bf16 for card in CARDS if card.capability >= (8, 0))
