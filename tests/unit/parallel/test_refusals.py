"""What a way of sharding cannot do is said before it costs anything."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from open_r1.config import SFTConfig
from open_r1.errors import UserError
from open_r1.model.load import load_model
from open_r1.model.pack_model import PackModel
from open_r1.parallel.fsdp import _units
from open_r1.parallel.whole import refuse_foreign_optimizer
from open_r1.training.warm_up import choose_how_layers_run


def test_a_model_that_takes_several_passes_where_weights_are_gathered(tiny_checkpoint: Path) -> None:
    """Ranks would wait for each other for ever: their packs need different numbers of passes."""
    pack_model = PackModel(load_model(str(tiny_checkpoint)))
    config = SFTConfig(model_name_or_path=str(tiny_checkpoint), dataset_name="d", output_dir="o")
    runtime = SimpleNamespace(kind="fsdp", whole_weights=False, device=torch.device("cpu"), autocast_dtype=None)
    choose_how_layers_run(config, runtime, pack_model)
    pack_model.separable = False
    with pytest.raises(UserError, match=r"ForCausalLM takes several passes .*/ddp.yaml or zero2.yaml$"):
        choose_how_layers_run(config, runtime, pack_model)
    runtime.whole_weights = True
    choose_how_layers_run(config, runtime, pack_model)


def test_fsdp_names_its_setting_where_no_layer_is_found(tiny_checkpoint: Path) -> None:
    pack_model = PackModel(load_model(str(tiny_checkpoint)))
    assert [type(unit).__name__ for unit in _units(pack_model, ())] == ["Qwen2DecoderLayer"] * 2  # tied: no embedding
    with pytest.raises(UserError, match=r"finds no layer of NoLayer .* fsdp_transformer_layer_cls_to_wrap"):
        _units(pack_model, ("NoLayer",))


def test_an_optimizer_that_is_not_pytorchs() -> None:
    class Foreign(torch.optim.SGD):
        pass

    parameters = [nn.Parameter(torch.zeros(1))]
    refuse_foreign_optimizer(torch.optim.AdamW(parameters), "FSDP")
    with pytest.raises(UserError, match=r"FSDP cannot shard the optimizer Foreign: use --optim adamw_torch"):
        refuse_foreign_optimizer(Foreign(parameters), "FSDP")
