"""The configuration classes under the names and the import path that users' own scripts rely on."""

from open_r1.config import DataConfig as ScriptArguments
from open_r1.config import DatasetConfig, DatasetMixtureConfig, GRPOConfig, GRPOScriptArguments, SFTConfig

__all__ = [
    "DatasetConfig",
    "DatasetMixtureConfig",
    "GRPOConfig",
    "GRPOScriptArguments",
    "SFTConfig",
    "ScriptArguments",
]
