"""Rows to tokens by several ranks: one of them makes the tokens, and it is said once what happens."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from fake_runtime import FakeRuntime
from rich.console import Console

from open_r1 import sft
from open_r1.config import SFTConfig
from open_r1.data import tokens
from open_r1.training.setup import load_chat


@pytest.mark.parametrize("first", [0, 1])
def test_whichever_rank_makes_the_tokens_says_so(
    first: int, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rank 0 draws a sample first, so others may be there before it; it then waits for them at a file."""
    answers = ["it is 4", "", "it is 6"]
    rows = [[{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": answer}] for answer in answers]
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps({"messages": messages}) + "\n" for messages in rows))
    monkeypatch.setattr(tokens, "choose_encoder", lambda encoder, _texts: (encoder, "it is a test"))
    config = SFTConfig(
        model_name_or_path=str(tiny_checkpoint),
        dataset_name=str(data),
        output_dir=str(tmp_path / "run"),
        token_cache_dir=str(tmp_path / "tokens"),
        max_length=64,
    )
    chat, said = load_chat(config)[1], {}
    for rank in (first, 1 - first):
        monkeypatch.setattr(sft, "console", Console(file=io.StringIO(), width=200))
        sft.prepare_tokens(config, chat, FakeRuntime(rank, world_size=2))
        said[rank] = sft.console.file.getvalue()
    assert [rank for rank in said if "tokenizing" in said[rank]] == [first]
    assert "encoder: tokenizers, because it is a test" in said[first]
    together = said[0] + said[1]
    for once in ("tokenizing", "encoder: ", "data: 3 rows", "1 of 3 rows are bad", "packs: "):
        assert together.count(once) == 1
    assert "data: 3 rows" in said[0] and "1 of 3 rows are bad" in said[0] and "packs: " in said[0]
