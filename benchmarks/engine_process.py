"""vLLM as evaluation and `generate` start it, in a process of its own: tokens/s with its scheduler and with ours.

    python benchmarks/engine_process.py [--answers 1200] [--tokens 512] [--seats 512]

Needs vLLM, of which the Python parts are enough (on ``PYTHONPATH``, with what they import), and no GPU: the processes,
the sockets between them and the engine are vLLM's, and only the model is made up (that of benchmarks/scheduling.py), so
that what is measured is the most that the engine can do. Every answer must be the same. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import time
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

from scheduling import BLOCK, MODEL, STOP, MadeUpModel

from open_r1.generation.engine import Request, SamplingParams
from open_r1.generation.vllm_engine import VllmEngine, VllmOptions

ENVIRONMENT = {"PYTHONHASHSEED": "0", "HF_HUB_OFFLINE": "1", "VLLM_LOGGING_LEVEL": "WARNING"}
BLOCKS, STOPS = 100_000, 200
SCHEDULERS = {"vllm": "0", "ours": "1"}
"""By what ``OPEN_R1_DECODE_SCHEDULER`` is set to."""


def platform() -> str:
    """For vLLM's plugins: where it is to run."""
    return "engine_process.Platform"


def __getattr__(name: str) -> type:
    """The classes that vLLM is given by name or by type; made late, since vLLM has to be imported for them."""
    if name == "Platform":
        from vllm.platforms.cpu import CpuPlatform

        def check(cls: type, config: Any) -> None:
            config.cache_config.block_size = BLOCK
            config.parallel_config.worker_cls = "none"

        made = type("Platform", (CpuPlatform,), {"check_and_update_config": classmethod(check)})
    elif name == "MadeUpExecutor":
        from vllm.v1.executor.abstract import Executor

        made = type("MadeUpExecutor", (_Runs, Executor), {"__module__": __name__})
    else:
        raise AttributeError(name)
    globals()[name] = made
    return made


class _Runs:
    """What vLLM asks of an executor."""

    @classmethod
    def supports_async_scheduling(cls) -> bool:
        return True

    def _init_executor(self) -> None:
        self._model, self._output = MadeUpModel(lambda name: STOPS), None

    def collective_rpc(self, method: Any, *arguments: Any, **more: Any) -> list[Any]:
        import torch
        from vllm.v1.kv_cache_interface import FullAttentionSpec

        spec = FullAttentionSpec(block_size=BLOCK, num_kv_heads=1, head_size=1, dtype=torch.float32)
        answers = {
            "get_kv_cache_spec": {"layer": spec},
            "determine_available_memory": BLOCKS * spec.page_size_bytes,
            "compile_or_warm_up_model": SimpleNamespace(language_model=0.0, encoder=0.0),
            "get_supported_tasks": ("generate",),
        }
        return [answers.get(method)]

    def check_health(self) -> None:
        """Nothing can be wrong."""

    def execute_model(self, scheduled: Any, non_block: bool = False) -> Future:
        self._output = self._model.run(scheduled)
        return _done(None if scheduled.total_num_scheduled_tokens else self._output)

    def sample_tokens(self, grammar: Any, non_block: bool = False) -> Future:
        return _done(self._output)


def _done(result: Any) -> Future:
    future: Future = Future()
    future.set_result(result)
    return future


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--answers", type=int, default=1200)
    parser.add_argument("--tokens", type=int, default=512, help="of the longest answer; one in 200 ends it before")
    parser.add_argument("--seats", type=int, default=512, help="answers decoded at once")
    arguments = parser.parse_args()
    if os.environ.get("PYTHONHASHSEED") != "0":  # the made-up tokens are the same in every process then
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | ENVIRONMENT)
    with tempfile.TemporaryDirectory() as folder, mock.patch("torch.cuda.is_available", lambda: True):
        plugin = Path(folder) / "engine_process-1.dist-info"
        plugin.mkdir()
        (plugin / "METADATA").write_text("Metadata-Version: 2.1\nName: engine-process\nVersion: 1\n")
        (plugin / "entry_points.txt").write_text("[vllm.platform_plugins]\nmade_up = engine_process:platform\n")
        sys.path.insert(0, folder)
        drawn = {name: draw(name, Path(folder), arguments) for name in SCHEDULERS}
    (_, one), (_, other) = drawn.values()
    assert one == other, "the answers differ"
    rates = {name: round(rate) for name, (rate, _) in drawn.items()}
    print(json.dumps({"tokens_a_second": rates, "times": round(rates["ours"] / rates["vllm"], 1)}))


def draw(scheduler: str, folder: Path, arguments: argparse.Namespace) -> tuple[float, dict[int, Any]]:
    """Tokens a second of the second of two rounds, and its answers."""
    import engine_process  # by the name by which vLLM's process finds it

    os.environ["OPEN_R1_DECODE_SCHEDULER"] = SCHEDULERS[scheduler]
    options = VllmOptions(dtype="float32", max_num_seqs=arguments.seats, max_model_length=1024)
    more = {"distributed_executor_backend": engine_process.MadeUpExecutor}
    rng = random.Random(0)
    prompts = [tuple(rng.randrange(3, 1000) for _ in range(rng.randrange(50, 200))) for _ in range(arguments.answers)]
    requests = [Request(number, prompt, seed=number) for number, prompt in enumerate(prompts)]
    params = SamplingParams(arguments.tokens, stop_token_ids=(STOP,))
    engine = VllmEngine(str(MODEL), options, log=folder / f"{scheduler}.log", arguments=more)
    try:
        for _ in range(2):
            begin = time.perf_counter()
            answers = {one.request_id: (one.token_ids, one.finish_reason) for one in engine.generate(requests, params)}
            seconds = time.perf_counter() - begin
    finally:
        engine.close()
    return sum(len(ids) for ids, _ in answers.values()) / seconds, answers


if __name__ == "__main__":
    main()
