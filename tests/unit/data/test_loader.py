"""From rows to packs and back."""

from __future__ import annotations

import numpy as np
import pytest
from datasets import Dataset

from open_r1.data.chat import ChatFormat
from open_r1.data.columns import Columns
from open_r1.data.loader import sft_packs
from open_r1.data.packing import plan
from open_r1.data.tokens import TokenStore, tokenize


@pytest.fixture
def store(byte_level, tmp_path) -> TokenStore:
    rows = Dataset.from_dict(
        {
            "prompt": [f"six times {n}?" for n in range(30)],
            "completion": ["So it is forty-two. " * (1 + n % 7) for n in range(30)],
        }
    )
    columns = Columns(prompt="prompt", completion="completion")
    return tokenize(rows, ChatFormat(byte_level("qwen2")), columns, cache_dir=tmp_path, num_proc=1)


def test_whole_sequences_come_back_from_the_packs(store):
    made = plan(store.lengths, 512, seed=0, epoch=0)
    seen = {}
    for pack, segments in zip(sft_packs(store, made, range(len(made))), made, strict=True):
        bounds = pack.cu_seqlens.tolist()
        weight = np.zeros(len(pack), np.float32)
        weight[pack.target_index.numpy()] = pack.loss_weight.numpy()
        for (sequence, _, _), start, end in zip(segments.tolist(), bounds, bounds[1:], strict=False):
            seen[sequence] = (pack.input_ids[start:end].tolist(), weight[start:end].tolist())
    assert seen == {index: tuple(part.tolist() for part in store[index]) for index in range(len(store))}


@pytest.mark.parametrize("budget", [2, 7, 40, 100])
def test_splitting_loses_no_target(store, budget):
    made = plan(store.lengths, budget, seed=0, epoch=0, targets=store.targets)
    packs = list(sft_packs(store, made, range(len(made))))
    assert max(len(pack) for pack in packs) <= budget
    assert all(len(pack.target_index) for pack in packs)
    trained = np.concatenate([pack.input_ids[pack.target_index].numpy() for pack in packs])
    assert sorted(trained) == sorted(store.input_ids[store.loss_mask == 1])


def test_any_pack_can_be_read_first(store):
    made = plan(store.lengths, 200, seed=0, epoch=0)
    packs = list(sft_packs(store, made, range(len(made))))
    (third,) = sft_packs(store, made, [3])
    assert third.input_ids.equal(packs[3].input_ids)
