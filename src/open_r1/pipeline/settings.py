"""A stage's own settings: its recipe, what overrides it, what the pipeline adds; checked before anything runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from open_r1 import config
from open_r1.config.settings import names_of
from open_r1.config.sources import from_yaml
from open_r1.errors import UserError
from open_r1.pipeline.spec import Pipeline, Stage, fill

CLASSES: dict[str, type[config.Settings]] = {
    "sft": config.SFTConfig,
    "grpo": config.GRPOConfig,
    "generate": config.GenerateConfig,
    "evaluate": config.EvaluateConfig,
}

_SOURCES = ("model", "model_name_or_path", "dataset", "dataset_name", "tasks")
"""Settings that name what a stage reads: a hub id, or something local that must exist."""

_DATA_SUFFIXES = (".jsonl", ".json", ".parquet", ".csv", ".safetensors", ".gguf")


def written_settings(pipeline: Pipeline, stage: Stage) -> dict[str, Any]:
    """Settings under their own names (no aliases), references not filled in.

    A recipe named by ``config`` comes first, the stage's settings override it, and the pipeline adds the seed (unless
    they say one) and the folder. A script's are its arguments, unchanged.

    Raises:
        UserError: the recipe cannot be read, or the settings name the folder, which is the pipeline's.
    """
    if stage.kind == "script":
        return dict(stage.settings)
    place = f"{pipeline.path}: stage {stage.name}"
    names = names_of(CLASSES[stage.kind]).canonical
    own = _renamed(stage.settings, names, place)
    recipe: dict[str, Any] = {}
    if stage.config:
        recipe = _renamed({given.key: given.value for given in from_yaml(stage.config)}, names, stage.config)
        recipe.pop("seed", None)
        recipe.pop("output_dir", None)
    added: dict[str, Any] = {"seed": "{seed}"}
    if stage.kind == "generate":
        added["output"] = "{stage_dir}/generations.jsonl"
    elif "output_dir" in own:
        raise UserError(f"{place}: output_dir is set by the pipeline (the stage's own folder); leave it out")
    else:
        added["output_dir"] = "{stage_dir}"
    return added | recipe | own


def _renamed(settings: Mapping[str, Any], names: Mapping[str, str], place: str) -> dict[str, Any]:
    """Settings under the names that ``names`` has for them, dashes as underscores; what it does not know stays."""
    renamed: dict[str, Any] = {}
    for key, value in settings.items():
        name = names.get(key.replace("-", "_"), key)
        if name in renamed:
            raise UserError(f"{place}: {key} is another name of {name}, which is given too: keep one of them")
        renamed[name] = value
    return renamed


def check_stages(pipeline: Pipeline) -> None:
    """Checks every stage's settings, as its own command will.

    Raises:
        UserError: what is wrong, and in which stage.
    """
    for stage in pipeline.stages:
        place = f"{pipeline.path}: stage {stage.name}"
        settings = fill(written_settings(pipeline, stage), pipeline.references(stage))
        if stage.run is not None:
            if not Path(stage.run).is_file():
                raise UserError(f"{place}: run: there is no file {stage.run} (paths start at {Path.cwd()})")
            continue
        launcher = (stage.launcher or {}).get("config_file")
        if launcher and not Path(launcher).is_file():
            raise UserError(f"{place}: launcher: there is no file {launcher}")
        config.parse_mapping(CLASSES[stage.kind], settings, where=place)
        _check_sources(pipeline, settings, place)


def _check_sources(pipeline: Pipeline, settings: dict[str, Any], place: str) -> None:
    """What looks like a local file and is not one would otherwise be sought on the hub, hours later."""
    for key in _SOURCES:
        if key == "model" and (settings.get("vllm_server_url") or settings.get("base_url")):
            continue  # whatever the server calls it
        values = settings.get(key) or []
        for value in values if isinstance(values, list) else str(values).split(","):
            path = Path(str(value).split("=", 1)[-1].strip())
            is_hub_id = len(path.parts) <= 2 and path.suffix not in _DATA_SUFFIXES and not path.is_absolute()
            of_a_stage = path.resolve().is_relative_to(pipeline.output_dir.resolve())
            if not is_hub_id and not of_a_stage and not path.exists():
                raise UserError(f"{place}: {key}: there is no {path} (paths start at {Path.cwd()})")
