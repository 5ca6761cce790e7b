"""What several checks need to know, found out once, in the background."""

from __future__ import annotations

import importlib.util
import os
import re
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from open_r1.background import Background
from open_r1.config.doctor import DoctorConfig
from open_r1.doctor.gpus import Driver, Gpu, Torch, ask_driver, torch_from
from open_r1.doctor.hub import Reply, ask_hub, endpoint, offline
from open_r1.doctor.model_size import ModelSize, model_size
from open_r1.machine.caches import caches
from open_r1.machine.cards import card_named
from open_r1.machine.child import Outcome, run_child
from open_r1.machine.limits import cpu_limit
from open_r1.parallel.launch_environment import without_launch

MOST_CHILDREN = 4
SLOW_TORCH = 60.0
"""Seconds that the first import of torch from a cold disk may take beside the time of a child."""

WITHOUT_TF32 = ("NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE")
"""Either would make products in float32 less exact than they are held to."""


class Situation:
    """The machine and the person's settings.

    Children on the GPU run one at a time, so that each finds the memory free; others as there are CPUs.
    """

    def __init__(self, config: DoctorConfig) -> None:
        self.config = config
        self._gpu_lane = threading.Lock()
        self._cpu_lane = threading.Semaphore(max(1, min(MOST_CHILDREN, int(cpu_limit()))))
        self._driver = Background(ask_driver)
        self._torch = Background(self._ask_torch)
        self._reply = Background(self._ask_hub)
        self._model = Background(self._ask_model)

    @property
    def driver(self) -> Driver:
        return self._driver.result()

    @property
    def torch(self) -> Torch:
        return self._torch.result()

    @property
    def reply(self) -> Reply | None:
        """The hub's answer; None where it is not to be asked."""
        return self._reply.result()

    @property
    def model(self) -> ModelSize | None:
        """The size of the model that is named; None where none is, or nobody knows it."""
        return self._model.result()

    @property
    def gpus(self) -> tuple[Gpu, ...]:
        """Those that torch sees, else those of the driver."""
        return self.torch.gpus or self.driver.gpus

    @property
    def device(self) -> str:
        """Where arithmetic is tried."""
        return "cuda:0" if self.torch.gpus else "cpu"

    def child(
        self, module: str, asked: Mapping[str, Any], *, on_gpu: bool | None = None, settings: Mapping[str, str] = {}
    ) -> Outcome:
        """Runs a probe when its turn has come.

        Args:
            on_gpu: whether it has the GPU for itself; None where there is one.
            settings: variables added to its environment.
        """
        environment = {name: value for name, value in os.environ.items() if name not in WITHOUT_TF32}
        if self.device == "cpu":
            environment.setdefault("DS_ACCELERATOR", "cpu")
        alone = self.device != "cpu" if on_gpu is None else on_gpu
        with self._gpu_lane if alone else self._cpu_lane:
            return run_child(
                module, asked, seconds=self.config.timeout, environment=without_launch(environment) | dict(settings)
            )

    def _ask_torch(self) -> Torch:
        if self.config.quick:
            return torch_on_disk(self.driver)
        return torch_from(
            run_child(
                "open_r1.doctor.torch_probe",
                {},
                seconds=self.config.timeout + SLOW_TORCH,
                environment=without_launch(os.environ),
            )
        )

    def _ask_hub(self) -> Reply | None:
        return None if offline() else ask_hub(endpoint())

    def _ask_model(self) -> ModelSize | None:
        if self.config.model is None:
            return None
        hub = next(cache.path for cache in caches() if cache.variable == "HF_HUB_CACHE")
        return model_size(self.config.model, hub)


def torch_on_disk(driver: Driver, folder: Path | None = None) -> Torch:
    """Torch's version and CUDA as its own file has them, without importing it; GPUs and their abilities by name.

    Args:
        folder: of the package; None looks for it.
    """
    if folder is None:
        spec = importlib.util.find_spec("torch")
        if spec is None or spec.origin is None:
            return Torch(error="torch is not installed")
        folder = Path(spec.origin).parent
    try:
        text = (folder / "version.py").read_text(encoding="utf-8")
    except OSError as error:
        return Torch(error=f"torch is damaged: {error}")
    found = {
        name: re.search(rf"^{name}\b.*=\s*'([^']+)'", text, re.MULTILINE) for name in ("__version__", "cuda", "hip")
    }
    version, cuda, hip = (match[1] if match else None for match in found.values())
    named = ((gpu, card_named(gpu.name)) for gpu in driver.gpus)
    gpus = tuple(Gpu(gpu.name, gpu.memory, gpu.free, card.capability if card else None) for gpu, card in named)
    return Torch(version or "", cuda, hip, gpus if cuda else ())
