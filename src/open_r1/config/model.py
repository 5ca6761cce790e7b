"""Which model, in which precision, with or without adapters."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from open_r1.config.settings import PositiveInt, Settings, ShareBelowOne, alias
from open_r1.config.training import TORCH_OPTIMIZERS
from open_r1.errors import UserError

HALF_PRECISION = ("bfloat16", "float16")


@dataclass(kw_only=True)
class ModelConfig(Settings):
    """Model"""

    model_name_or_path: str
    """Hub id or local folder of the model to train."""

    model_revision: str = "main"
    """Branch, tag or commit of the model on the hub."""

    torch_dtype: Literal["auto", "bfloat16", "float16", "float32"] | None = field(default=None, metadata=alias("dtype"))
    """Type of the weights; unset keeps float32 weights and computes in bf16 or fp16 where those are asked for, and has
    weights that are frozen under adapters in the type of the computation."""

    attn_implementation: str | None = None
    """Attention kernel; unset takes the fastest one that this machine has."""

    trust_remote_code: bool = False
    """Run model code that comes with the weights."""

    use_liger_kernel: bool = field(default=False, metadata=alias("use_liger"))
    """Accepted for published recipes; loss and log-probabilities are always computed in chunks."""

    use_peft: bool = False
    """Train LoRA adapters instead of all weights."""

    lora_r: PositiveInt = 16
    """Rank of the adapters."""

    lora_alpha: PositiveInt = 32
    """Adapters are scaled by lora_alpha / lora_r."""

    lora_dropout: ShareBelowOne = 0.0
    """Dropout before the adapters."""

    lora_target_modules: list[str] | str | None = None
    """Names of the linear layers that get adapters; unset means all-linear."""

    merge_lora: bool = False
    """Export the model with its adapters merged into the weights, instead of the adapters alone."""

    load_in_4bit: bool = False
    """Hold the frozen weights in 4 bits (needs use_peft and the quant extra)."""

    load_in_8bit: bool = False
    """Hold the frozen weights in 8 bits (needs use_peft and the quant extra)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.model_name_or_path:
            raise UserError("model_name_or_path is empty: give a hub id or a local folder")
        for name in ("load_in_4bit", "load_in_8bit", "merge_lora"):
            if getattr(self, name) and not self.use_peft:
                raise UserError(f"{name} needs adapters: add use_peft, or leave {name} out")
        if self.load_in_4bit and self.load_in_8bit:
            raise UserError("load_in_4bit and load_in_8bit are both set: keep one")
        # fp16 and optim belong to the training settings that a command's settings have beside these.
        if self.torch_dtype == "float16" and getattr(self, "fp16", False) and not self.use_peft:
            raise UserError(
                "fp16 needs weights that are not float16 themselves, since the loss scale cannot be taken off their "
                "gradients: leave torch_dtype out, or set it to float32"
            )
        if isinstance(self.lora_target_modules, str) and "," in self.lora_target_modules:
            self.lora_target_modules = [name.strip() for name in self.lora_target_modules.split(",")]
        if self.lora_target_modules == ["all-linear"]:
            self.lora_target_modules = "all-linear"

    def notes(self) -> list[str]:
        lines = super().notes()
        if self.use_liger_kernel:
            lines.append("use_liger_kernel is not needed: the chunked head does the same on every device")
        exact = self.torch_dtype == "bfloat16" and getattr(self, "optim", TORCH_OPTIMIZERS[0]) not in TORCH_OPTIMIZERS
        if self.torch_dtype in HALF_PRECISION and not self.use_peft and not exact:
            better = " or keep what is rounded away with --optim adamw_split" if self.torch_dtype == "bfloat16" else ""
            lines.append(
                f"torch_dtype {self.torch_dtype} keeps the weights themselves in {self.torch_dtype}, without a float32 "
                f"copy: small updates round away at low learning rates; leave it out for float32 weights{better}"
            )
        if self.attn_implementation == "flash_attention_2":
            lines.append(
                "attn_implementation flash_attention_2 means the fastest kernel here; flash-attn is not needed"
            )
        return lines
