"""The frozen reference policy that the KL term holds on to."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import Tensor

from open_r1.config import GRPOConfig
from open_r1.data.pack import Pack
from open_r1.model.load import load_frozen
from open_r1.model.pack_model import PackModel
from open_r1.parallel.runtime import Runtime
from open_r1.training.setup import Policy


def load_reference(config: GRPOConfig, runtime: Runtime, policy: Policy) -> Callable[[Pack], Tensor]:
    """Log-probabilities [K] of a pack's targets under the model that training started from.

    With adapters that is the policy with its adapters off; else a second, frozen copy of ``model_name_or_path``.
    """
    if config.use_peft:
        pack_model = runtime.unwrap(policy.module)
        adapters_off = pack_model.model.disable_adapter
    else:
        pack_model = PackModel(load_frozen(config, runtime.device))
        pack_model.run_like(runtime.unwrap(policy.module))
        adapters_off = nullcontext

    def logprobs(pack: Pack) -> Tensor:
        was_training = pack_model.training
        pack_model.eval()
        with torch.no_grad(), adapters_off(), runtime.autocast():
            result = pack_model(pack.to(runtime.device), temperature=config.temperature).logprobs.cpu()
        pack_model.train(was_training)
        return result

    return logprobs
