"""What draws GRPO's completions, and when."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from open_r1.config.settings import PositiveFloat, PositiveInt, PositiveShare, Range, Settings, alias
from open_r1.errors import UserError


@dataclass(kw_only=True)
class RolloutConfig(Settings):
    """Rollouts"""

    async_steps: Annotated[int, Range(0, 1)] = 0
    """Steps by which rollouts lag behind: with 1 the next ones are drawn while the policy trains on those before, and
    the importance ratio corrects for it."""

    generation_batch_size: PositiveInt | None = None
    """Completions that transformers decodes at once in one process; unset decodes all of its share."""

    pack_length: PositiveInt | None = None
    """Tokens of a training pack, more where one sequence needs it; unset is 4,096 on a CPU and what fits on a GPU."""

    share_prompts: bool | None = None
    """Compute a prompt once for all of its completions in a pack, not once for each; unset does so where the model's
    layers allow it."""

    use_vllm: bool = False
    """Draw completions with vLLM instead of transformers."""

    vllm_mode: Literal["colocate", "server"] = "colocate"
    """vLLM in the training processes, or served elsewhere (open-r1 serve-vllm)."""

    vllm_gpu_memory_utilization: PositiveShare | None = None
    """Share of the GPU's memory that colocated vLLM takes; unset is what training leaves, as far as it is of use."""

    vllm_enable_sleep_mode: bool | None = None
    """Colocated vLLM gives its memory back while the policy trains; unset does so where both do not fit."""

    vllm_max_num_seqs: PositiveInt | None = None
    """Completions that colocated vLLM decodes at once; unset is all of a step, at most 1,024."""

    vllm_max_model_length: PositiveInt | None = field(default=None, metadata=alias("vllm_max_model_len"))
    """Longest prompt and completion together in colocated vLLM; unset is what the prompts and max_completion_length
    need."""

    vllm_enforce_eager: bool = False
    """Colocated vLLM neither compiles nor captures CUDA graphs: starts sooner, draws slower."""

    vllm_server_host: str = "0.0.0.0"
    """Host of the vLLM server."""

    vllm_server_port: Annotated[int, Range(1, 65535)] = 8000
    """Port of the vLLM server."""

    vllm_server_base_url: str | None = None
    """Address of the vLLM server, such as http://10.0.0.2:8000; goes before host and port."""

    vllm_server_devices: str | None = None
    """GPUs, by their numbers here, on which the run starts a server of its own at vllm_server_port: 1, or 2,3; unset
    asks one that is there."""

    vllm_server_timeout: PositiveFloat = 240.0
    """Seconds to wait for the server to come up, and for one at capacity."""

    vllm_group_port: Annotated[int, Range(1, 65535)] = 51216
    """Port over which weights are sent to the server."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.vllm_server_devices and self.vllm_server_base_url:
            raise UserError(
                "vllm_server_devices starts a server here, and vllm_server_base_url names one elsewhere: keep one"
            )
        if self.async_steps and self.vllm_enable_sleep_mode:
            raise UserError(
                "async_steps draws while the policy trains, and vllm_enable_sleep_mode lets vLLM sleep then: keep one"
            )
