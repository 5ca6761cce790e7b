"""Several data sets in one, by weight."""

from __future__ import annotations

from datasets import Dataset, concatenate_datasets

from open_r1.config.data import DataConfig, DatasetConfig, DatasetMixtureConfig
from open_r1.data.sources import load_rows, load_splits
from open_r1.errors import UserError


def load_mixture(mixture: DatasetMixtureConfig) -> dict[str, Dataset]:
    """Loads, weighs, concatenates and shuffles the data sets of a mixture.

    Returns:
        ``train``, and ``test`` if a ``test_split_size`` is set.

    Raises:
        UserError: a data set cannot be loaded, lacks a listed column, keeps no row, or does not match the others.
    """
    parts = [_weighed(entry, mixture.seed) for entry in mixture.datasets]
    _check_columns(mixture.datasets, parts)
    try:
        rows = concatenate_datasets(parts).shuffle(seed=mixture.seed)
    except ValueError as error:  # the same columns hold different types
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"dataset_mixture: the data sets do not fit together: {reason[:300]}") from error
    if not mixture.test_split_size:
        return {"train": rows}
    held_out = round(len(rows) * mixture.test_split_size)
    if not 0 < held_out < len(rows):
        raise UserError(
            f"dataset_mixture: test_split_size {mixture.test_split_size} of {len(rows)} rows leaves one split empty"
        )
    return dict(rows.train_test_split(test_size=held_out, seed=mixture.seed))


def load_datasets(config: DataConfig) -> dict[str, Dataset]:
    """The rows to train on as ``train``, and those to evaluate on as ``test`` if there are any.

    Raises:
        UserError: as `load_mixture` and `load_rows`.
    """
    if config.dataset_mixture is not None:
        return load_mixture(config.dataset_mixture)
    rows = {"train": load_rows(config.dataset_name, config.dataset_config, config.dataset_train_split)}
    if config.dataset_test_split in (there := load_splits(config.dataset_name, config.dataset_config)):
        rows["test"] = there[config.dataset_test_split]
    return rows


def _weighed(entry: DatasetConfig, seed: int) -> Dataset:
    """The entry's columns, and its share of rows after a seeded shuffle."""
    rows = load_rows(entry.id, entry.config, entry.split)
    if entry.columns is not None:
        missing = [name for name in entry.columns if name not in rows.column_names]
        if missing:
            raise UserError(f"dataset_mixture: {entry.id} has no column {missing[0]!r}, but {rows.column_names}")
        rows = rows.select_columns(entry.columns)
    if entry.weight is None:
        return rows
    kept = int(len(rows) * entry.weight)
    if not kept:
        raise UserError(f"dataset_mixture: weight {entry.weight} of {entry.id} keeps none of its {len(rows)} rows")
    return rows.shuffle(seed=seed).select(range(kept))


def _check_columns(entries: list[DatasetConfig], parts: list[Dataset]) -> None:
    first = sorted(parts[0].column_names)
    for entry, part in zip(entries, parts, strict=True):
        if sorted(part.column_names) != first:
            raise UserError(
                f"dataset_mixture: {entries[0].id} has the columns {first}, {entry.id} has "
                f"{sorted(part.column_names)}: list the same `columns` for each"
            )
