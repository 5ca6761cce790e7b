"""Which rows, and how they become chat messages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from open_r1.config.convert import convert_fields
from open_r1.config.settings import (
    NonNegativeInt,
    PositiveInt,
    PositiveShare,
    Settings,
    ShareBelowOne,
    alias,
)
from open_r1.errors import UserError


@dataclass(kw_only=True)
class DatasetConfig(Settings):
    """One data set of a mixture"""

    id: str
    """Hub id, local folder or file."""

    config: str | None = None
    """Configuration (subset) on the hub."""

    split: str = "train"
    """Split to read."""

    columns: list[str] | None = None
    """Columns to keep; unset keeps all."""

    weight: PositiveShare | None = None
    """Share of the rows kept after a seeded shuffle, in (0, 1]; unset keeps all."""


@dataclass(kw_only=True)
class DatasetMixtureConfig(Settings):
    """Data mixture"""

    datasets: list[DatasetConfig]
    """The data sets, concatenated and then shuffled."""

    seed: int = 0
    """Seed of the shuffles."""

    test_split_size: ShareBelowOne | None = None
    """Share of the mixture held out as the test split."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.datasets:
            raise UserError("datasets is empty: list at least one {id: …}")
        listed = {tuple(sorted(entry.columns)): entry.id for entry in self.datasets if entry.columns is not None}
        if len(listed) > 1:
            shown = "; ".join(f"{name}: {', '.join(columns)}" for columns, name in listed.items())
            raise UserError(f"Column names must be consistent across datasets ({shown})")


@dataclass(kw_only=True)
class DataConfig(Settings):
    """Data"""

    dataset_name: str | None = field(default=None, metadata=alias("dataset"))
    """Hub id, local folder (data files, or saved by save_to_disk), or a .jsonl, .json, .parquet or .csv file."""

    dataset_config: str | None = field(default=None, metadata=alias("dataset_config_name"))
    """Configuration (subset) of the data set on the hub."""

    dataset_train_split: str = "train"
    """Split to train on."""

    dataset_test_split: str = "test"
    """Split to evaluate on during training."""

    dataset_mixture: DatasetMixtureConfig | None = None
    """Several data sets with weights, instead of dataset_name: {datasets: [{id: …, weight: …}], seed: 0}."""

    dataset_num_proc: PositiveInt | None = field(default=None, metadata=alias("preprocessing_num_workers"))
    """Processes that tokenize; unset takes one a core, at most four with the fast encoder."""

    messages_column: str | None = None
    """Column of chat messages; unset is found by its name."""

    prompt_column: str | None = field(default=None, metadata=alias("dataset_prompt_column"))
    """Column of the prompt; unset is found by its name."""

    completion_column: str | None = None
    """Column of the completion; unset is found by its name."""

    answer_column: str | None = None
    """Column of the gold answer; unset is found by its name."""

    system_prompt: str | None = None
    """System message put before conversations that have none."""

    chat_template: str | None = field(default=None, metadata=alias("chat_template_path"))
    """Jinja chat template, or the path of a file that holds one; unset keeps the tokenizer's."""

    eos_token: str | None = None
    """End-of-turn token, where the template's differs from the tokenizer's EOS."""

    encoder: Literal["auto", "tokenizers"] = "auto"
    """What turns text into ids: auto takes a fast byte-level encoder where its ids are those of tokenizers."""

    strict: bool = False
    """Stop at bad rows instead of skipping and counting them."""

    max_bad_rows_shown: NonNegativeInt = 5
    """How many bad rows are shown by index, for each reason."""

    token_cache_dir: str | None = None
    """Folder of tokenized data; unset is $OPEN_R1_CACHE/tokens or ~/.cache/open_r1/tokens."""

    def __post_init__(self) -> None:
        if isinstance(self.dataset_mixture, Mapping):
            self.dataset_mixture = mixture_from_mapping(self.dataset_mixture)
        super().__post_init__()
        if not self.dataset_name and self.dataset_mixture is None:
            raise UserError("Either `dataset_name` or `dataset_mixture` must be provided: neither is set")
        if self.dataset_name and self.dataset_mixture is not None:
            raise UserError("dataset_name and dataset_mixture are both set: keep one of them")


def mixture_from_mapping(values: Mapping[str, Any]) -> DatasetMixtureConfig:
    """A mixture from plain data (spec: ``{datasets: [{id, config, split, columns, weight}], seed, test_split_size}``).

    Raises:
        UserError: an unknown or missing key, a wrong type, or columns that disagree.
    """
    return convert_fields(DatasetMixtureConfig, values, "dataset_mixture")
