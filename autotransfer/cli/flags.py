"""The arguments of ``fit`` as flags, and flags as settings."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autotransfer import yaml12
from autotransfer.errors import ConfigError

if TYPE_CHECKING:
    from autotransfer.config import Settings

_TEXTS = {
    "task": "binary, multiclass, multilabel or regression; guessed. Of several targets also 'a,b' or '{target: task}'.",
    "modality": "image, audio or text; as the data say.",
    "metric": "What decides; accuracy (balanced beyond 3 : 1), macro F1 or RMSE. Of several targets as --task.",
    "validation": "Source of the validation rows; drawn from the data.",
    "test": "Source of the held-out rows; drawn from the data.",
    "groups": "A column; rows of one group stay in one split.",
    "unlabeled": "Source of rows without labels from where the model will be used.",
    "budget": "Seconds of wall clock, or 90s, 10m, 1h30m.",
    "executor": "ray, or serial: in this process.",
    "address": "A running Ray cluster: auto, or host:port of its head, on a node of it; ray://host:port elsewhere.",
    "out": "The run's folder; given again, the run goes on.",
}
_LISTS = {
    "backbones": "Ids or patterns such as 'packs/*', with commas or several times.",
    "strategies": "Ids or patterns, with commas or several times.",
}
_TARGETS = {"target": "Name of the target column; of several, with commas or several times."}
_NUMBERS = {
    "trials": "Number of trials, for a run that can be repeated exactly.",
    "max_workers": "Trials that may run at the same time.",
    "seed": "Of every random number.",
}
_SWITCHES = {
    "refit": "Train the winner again on training and validation rows.",
    "offline": "Never touch the network.",
    "memory": "Let what earlier runs found order the candidates; yes, but not with --trials.",
}
_MAPPINGS = {
    "space": "Domains by name as YAML or JSON: '{lr: {log: [1e-4, 1e-2]}}'.",
    "resources": "Of one trial, as YAML or JSON: '{cpus: 2, gpus: 0.5, custom: {big: 1}, labels: {zone: a}}'.",
}


def fit_flags() -> list[inspect.Parameter]:
    """Return a flag for every argument of ``fit`` but the data."""
    kinds: list[tuple[Mapping[str, str], Any]] = [
        (_TARGETS, list[str] | None),
        (_TEXTS, str | None),
        (_LISTS, list[str] | None),
        (_NUMBERS, int | None),
        (_SWITCHES, bool | None),
        (_MAPPINGS, str | None),
        ({"plugins": "A plugin's Python file or module; may be given several times."}, list[str] | None),
    ]
    return [_parameter(name, kind, text) for texts, kind in kinds for name, text in texts.items()]


def settings_of(data: str | None, config: Path | None, flags: Mapping[str, Any]) -> Settings:
    """Return the checked settings of a command line; flags win over the run file.

    Raises:
        ConfigError: flags, keys or values are wrong; all faults at once.
    """
    from autotransfer.config import Settings

    given = {n: v for n, v in {"data": data, **flags}.items() if v is not None and v != []}
    for name in _MAPPINGS:
        if name in given:
            given[name] = _mapping(name, given[name])
    for name in _LISTS:
        if name in given:
            given[name] = [part.strip() for text in given[name] for part in text.split(",") if part.strip()]
    for name in ("task", "metric"):
        if name in given:
            given[name] = _of_targets(name, given[name])
    if len(given.get("target", ())) == 1:  # where it is no column, its reader looks for commas
        given["target"] = given["target"][0]
    if config is not None:
        return Settings.from_yaml(config, given)
    return Settings.of(given, where="the command line")


def _parameter(name: str, kind: Any, text: str) -> inspect.Parameter:
    option = "--plugin" if name == "plugins" else f"--{name.replace('_', '-')}"
    declared = f"{option}/--no-{name}" if kind == bool | None else option
    annotation = Annotated[kind, typer.Option(declared, help=text)]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _of_targets(name: str, text: str) -> Any:
    """Return one name, several with commas, or a mapping by target."""
    if text.lstrip().startswith("{"):
        return _mapping(name, text)
    return [part.strip() for part in text.split(",")] if "," in text else text


def _mapping(name: str, text: str) -> Any:
    import yaml

    try:
        return yaml12.load(text)
    except yaml.YAMLError as error:
        flag = f"--{name.replace('_', '-')}"
        raise ConfigError(f"{flag} is neither YAML nor JSON: {' '.join(str(error).split())[:160]}") from error
