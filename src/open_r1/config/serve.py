"""A server of completions whose weights a trainer changes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from open_r1.config.settings import PositiveFloat, PositiveInt, PositiveShare, Range, Settings, alias
from open_r1.errors import UserError


@dataclass(kw_only=True)
class ServeConfig(Settings):
    """Serving completions to GRPO"""

    model: str = field(metadata=alias("model_name_or_path"))
    """Hub id or local folder of the model that is trained."""

    revision: str | None = field(default=None, metadata=alias("model_revision"))
    """Branch, tag or commit of the model on the hub."""

    engine: Literal["vllm", "transformers"] = "vllm"
    """What draws; transformers needs no GPU."""

    host: str = "127.0.0.1"
    """Address to listen at; 0.0.0.0 lets other machines in, and whoever reaches it can use and change the model."""

    port: Annotated[int, Range(0, 65535)] = 8000
    """Port to listen at; 0 takes a free one."""

    dtype: Literal["auto", "bfloat16", "float16", "float32"] = field(default="auto", metadata=alias("torch_dtype"))
    """Type of the weights; auto is the one they are saved in (vllm: bfloat16 where that is float32)."""

    tensor_parallel_size: PositiveInt = field(default=1, metadata=alias("vllm_tensor_parallel_size"))
    """GPUs that the model is spread over (vllm)."""

    gpu_memory_utilization: PositiveShare = field(default=0.9, metadata=alias("vllm_gpu_memory_utilization"))
    """Share of the GPU's memory that vLLM takes."""

    max_model_len: PositiveInt | None = field(
        default=None, metadata=alias("vllm_max_model_length", "vllm_max_model_len", "max_model_length")
    )
    """Longest prompt and completion together (vllm); unset is the model's own context."""

    max_num_seqs: PositiveInt | None = field(default=None, metadata=alias("vllm_max_num_seqs", "batch_size"))
    """Completions decoded at once; unset is the engine's choice."""

    enforce_eager: bool = field(default=False, metadata=alias("vllm_enforce_eager"))
    """Neither compile nor capture CUDA graphs (vllm): starts sooner, draws slower."""

    trust_remote_code: bool = False
    """Run model code that comes with the weights."""

    weight_timeout: PositiveFloat = 300.0
    """Seconds that the trainer may take for a bucket of weights before an update is given up."""

    log: str = "serve-vllm.log"
    """File that takes what vLLM writes."""

    end_with_stdin: bool = False
    """End when standard input does: a trainer that started this server takes it along, however it ends."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.engine == "transformers" and self.tensor_parallel_size > 1:
            raise UserError("tensor_parallel_size is vLLM's: engine transformers holds the model in one process")
