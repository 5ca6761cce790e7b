"""Two processes evaluate as one does, and end together where a rule is met."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from training_runs import SOURCE, Run, assert_close_weights, finish, start, train

from open_r1.errors import StoppedByRule

TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
LAUNCHER_FAILED = 1  # its own status when its processes end with another than 0


@pytest.mark.parametrize("held_out", [1, 7])
def test_two_ranks_evaluate_as_one_and_stop_together(
    held_out: int, grpo_settings: dict[str, Any], tmp_path: Path
) -> None:
    """Of one prompt the second rank has none."""
    settings = grpo_settings | {"adam_epsilon": 1e-4, "learning_rate": 3e-3, "max_steps": 5, "eval_strategy": "steps"}
    settings |= {"eval_steps": 1, "eval_on_start": True, "eval_holdout": held_out, "stop_on": ["eval/reward<2:2"]}
    words = [*TORCHRUN, str(SOURCE / "grpo.py")]
    process = start(words, tmp_path / "two", **settings | {"per_device_train_batch_size": 16})
    with pytest.raises(StoppedByRule):
        train("grpo", tmp_path / "one", **settings | {"per_device_train_batch_size": 32})
    one, two = Run(tmp_path / "one"), finish(process, tmp_path / "two", status=LAUNCHER_FAILED)
    said = (tmp_path / "two.log").read_text()
    assert said.count("stop_on 'eval/reward<2:2' at step 2: eval/reward is") == 1
    assert one.checkpoints == two.checkpoints == [2]
    assert_close_weights(two.weights, one.weights, 1e-5)
    for name in ("eval/reward", "eval/completion_length", "eval/truncated"):
        values = [[line[name] for line in run.metrics] for run in (two, one)]
        assert len(values[0]) == 3
        assert values[0] == pytest.approx(values[1], abs=1e-5), name
