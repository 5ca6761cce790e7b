"""``get_dataset`` under the import path that users' own scripts rely on."""

from __future__ import annotations

from datasets import DatasetDict

from open_r1.config import DataConfig
from open_r1.data.mixture import load_mixture
from open_r1.data.sources import load_splits


def get_dataset(script_args: DataConfig) -> DatasetDict:
    """All splits of ``dataset_name``, or ``train`` (and ``test``) of ``dataset_mixture``.

    Raises:
        UserError: as `load_splits` and `load_mixture`.
    """
    if script_args.dataset_mixture is not None:
        return DatasetDict(load_mixture(script_args.dataset_mixture))
    return DatasetDict(load_splits(script_args.dataset_name, script_args.dataset_config))
