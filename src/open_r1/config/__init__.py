"""Typed settings: one dataclass a command, one docstring a field; imports neither torch nor transformers."""

from open_r1.config.batch_arithmetic import batch_line, solve_batch
from open_r1.config.bench import BenchConfig
from open_r1.config.compare import CompareConfig
from open_r1.config.data import DataConfig, DatasetConfig, DatasetMixtureConfig
from open_r1.config.doctor import DoctorConfig
from open_r1.config.evaluate import EvaluateConfig
from open_r1.config.generate import GenerateConfig
from open_r1.config.grpo import GRPOConfig, GRPOScriptArguments, RewardConfig
from open_r1.config.model import ModelConfig
from open_r1.config.parse import Parsed, parse, parse_mapping
from open_r1.config.plan import PlanGRPOConfig, PlanSFTConfig
from open_r1.config.report import ReportConfig
from open_r1.config.rewards_check import RewardsCheckConfig
from open_r1.config.run import RunConfig
from open_r1.config.serve import ServeConfig
from open_r1.config.settings import Settings, did_you_mean, nearest
from open_r1.config.setup import SetupConfig
from open_r1.config.sft import SFTConfig
from open_r1.config.tasks import TasksConfig
from open_r1.config.training import TrainingConfig, resolve_steps

__all__ = [
    "BenchConfig",
    "CompareConfig",
    "DataConfig",
    "DatasetConfig",
    "DatasetMixtureConfig",
    "DoctorConfig",
    "EvaluateConfig",
    "GRPOConfig",
    "GRPOScriptArguments",
    "GenerateConfig",
    "ModelConfig",
    "Parsed",
    "PlanGRPOConfig",
    "PlanSFTConfig",
    "ReportConfig",
    "RewardConfig",
    "RewardsCheckConfig",
    "RunConfig",
    "SFTConfig",
    "ServeConfig",
    "Settings",
    "SetupConfig",
    "TasksConfig",
    "TrainingConfig",
    "batch_line",
    "did_you_mean",
    "nearest",
    "parse",
    "parse_mapping",
    "resolve_steps",
    "solve_batch",
]
