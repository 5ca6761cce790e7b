"""Mixtures of the spec's section 5, and what scripts load."""

from __future__ import annotations

import pytest
from datasets import Dataset, DatasetDict

from open_r1.config import DataConfig, DatasetConfig, DatasetMixtureConfig
from open_r1.data.mixture import load_datasets, load_mixture
from open_r1.errors import UserError
from open_r1.utils.data import get_dataset


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path_factory):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("hf"))


@pytest.fixture
def sets(tmp_path) -> tuple[str, str]:
    """Two files of 100 and 50 rows."""
    for name, size, extra in (("a", 100, "x"), ("b", 50, "y")):
        rows = {"prompt": [f"{name}{n}" for n in range(size)], "completion": ["c"] * size, extra: list(range(size))}
        Dataset.from_dict(rows).to_json(tmp_path / f"{name}.jsonl")
    return str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl")


COLUMNS = ["prompt", "completion"]


def mixed(sets, *weights: float | None, **settings) -> dict[str, Dataset]:
    entries = [DatasetConfig(id=name, columns=COLUMNS, weight=w) for name, w in zip(sets, weights, strict=True)]
    return load_mixture(DatasetMixtureConfig(datasets=entries, **settings))


def prompts(rows: Dataset) -> list[str]:
    return list(rows["prompt"])


def test_weight_is_the_share_kept_after_a_shuffle(sets):
    rows = mixed(sets, 0.5, None)["train"]
    from_a = [int(prompt[1:]) for prompt in prompts(rows) if prompt[0] == "a"]
    assert len(rows) == 100 and len(set(from_a)) == 50
    assert sorted(from_a) != list(range(50))
    assert set(rows.column_names) == set(COLUMNS)


def test_the_mixture_is_shuffled_by_its_seed(sets):
    first, again, other = (prompts(mixed(sets, 0.3, 1.0, seed=seed)["train"]) for seed in (1, 1, 2))
    assert first == again != other
    assert {prompt[0] for prompt in first[:20]} == {"a", "b"}


def test_a_share_is_held_out(sets):
    splits = mixed(sets, None, None, test_split_size=0.1)
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 135, "test": 15}
    assert not set(prompts(splits["train"])) & set(prompts(splits["test"]))


def test_mistakes_are_one_line(sets, tmp_path):
    with pytest.raises(UserError, match=r"a.jsonl has no column 'text'"):
        load_mixture(DatasetMixtureConfig(datasets=[DatasetConfig(id=sets[0], columns=["text"])]))
    with pytest.raises(UserError, match="list the same `columns`"):
        load_mixture(DatasetMixtureConfig(datasets=[DatasetConfig(id=name) for name in sets]))
    with pytest.raises(UserError, match=r"weight 0\.001 of .* keeps none of its 100 rows"):
        mixed(sets, 0.001, None)
    with pytest.raises(UserError, match="leaves one split empty"):
        mixed(sets, None, None, test_split_size=0.001)
    Dataset.from_dict({"prompt": [1, 2], "completion": [[1], [2]]}).to_json(tmp_path / "c.jsonl")
    with pytest.raises(UserError, match="do not fit together") as error:
        mixed((sets[0], str(tmp_path / "c.jsonl")), None, None)
    assert "\n" not in str(error.value)


def test_scripts_get_train_and_test(sets, tmp_path):
    rows = Dataset.from_dict({"prompt": ["a", "b", "c"]})
    DatasetDict({"train_sft": rows, "test": rows.select([0])}).save_to_disk(tmp_path / "saved")
    loaded = load_datasets(DataConfig(dataset_name=str(tmp_path / "saved"), dataset_train_split="train_sft"))
    assert {name: len(part) for name, part in loaded.items()} == {"train": 3, "test": 1}
    assert list(load_datasets(DataConfig(dataset_name=sets[0]))) == ["train"]
    mixture = DatasetMixtureConfig(datasets=[DatasetConfig(id=sets[0])], test_split_size=0.2)
    assert len(load_datasets(DataConfig(dataset_mixture=mixture))["test"]) == 20


def test_get_dataset_is_where_users_import_it_from(sets, tmp_path):
    rows = Dataset.from_dict({"prompt": ["a", "b", "c"]})
    DatasetDict({"train_sft": rows, "test_sft": rows}).save_to_disk(tmp_path / "saved")
    splits = get_dataset(DataConfig(dataset_name=str(tmp_path / "saved")))
    assert isinstance(splits, DatasetDict) and set(splits) == {"train_sft", "test_sft"}
    mixture = DatasetMixtureConfig(datasets=[DatasetConfig(id=sets[0], weight=0.5)], test_split_size=0.2)
    splits = get_dataset(DataConfig(dataset_mixture=mixture))
    assert {name: len(part) for name, part in splits.items()} == {"train": 40, "test": 10}
