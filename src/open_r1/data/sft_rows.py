"""The rows that SFT tokenizes: Parquet read straight where the data set is nothing else, all others as a `Dataset`."""

from __future__ import annotations

from collections.abc import Sequence

from open_r1.config.data import DataConfig
from open_r1.data.columns import Columns, find_columns
from open_r1.data.mixture import load_datasets
from open_r1.data.parquet_sources import find_parquet
from open_r1.data.rows import DatasetRows, Rows


def load_sft_rows(config: DataConfig) -> dict[str, Rows]:
    """The rows to train on as ``train``, and those to evaluate on as ``test`` if there are any.

    Read straight, in pieces, are a local Parquet file, a local folder of Parquet files, and a data set on the hub that
    consists of them, each without a slice of a split. Of the last only one file is downloaded ahead.

    Raises:
        UserError: as `open_r1.data.mixture.load_datasets`.
    """
    return _straight(config) or {split: DatasetRows(rows) for split, rows in load_datasets(config).items()}


def find_sft_columns(config: DataConfig, names: Sequence[str]) -> Columns:
    """Which of a data set's columns are trained on, as the settings name them or by their names.

    Raises:
        UserError: as `find_columns`.
    """
    return find_columns(
        names,
        messages=config.messages_column,
        prompt=config.prompt_column,
        completion=config.completion_column,
        answer=config.answer_column,
    )


def _straight(config: DataConfig) -> dict[str, Rows] | None:
    if config.dataset_mixture is not None:
        return None
    found = find_parquet(config.dataset_name, config.dataset_config, config.dataset_train_split)
    if found is None or config.dataset_train_split not in found.splits:
        return None
    if not found.reads_straight(config.dataset_train_split):
        return None
    wanted = {"train": config.dataset_train_split}
    if config.dataset_test_split in found.splits and len(found.splits) > 1:
        wanted["test"] = config.dataset_test_split
    return {name: found.rows(split) for name, split in wanted.items()}
