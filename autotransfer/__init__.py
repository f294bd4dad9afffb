"""Labelled data in, the best fine-tuned pretrained model out.

>>> import autotransfer
>>> model = autotransfer.fit("data/pets", budget="10m")  # doctest: +SKIP
>>> model.predict("new.jpg")  # doctest: +SKIP

Importing this package loads neither torch nor Ray; they come with the first call that needs them.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from autotransfer import errors
    from autotransfer.budget import Budget
    from autotransfer.estimators import TransferClassifier, TransferRegressor
    from autotransfer.model import TransferModel
    from autotransfer.profiles import Profile
    from autotransfer.schema import Plan

    __version__: str

__all__ = [
    "Budget",
    "TransferClassifier",
    "TransferModel",
    "TransferRegressor",
    "__version__",
    "errors",
    "fit",
    "load",
    "plan",
    "profile",
]
_HOMES = {
    "Budget": "autotransfer.budget",
    "TransferClassifier": "autotransfer.estimators",
    "TransferModel": "autotransfer.model",
    "TransferRegressor": "autotransfer.estimators",
}


def fit(
    data: Any,
    target: str | Sequence[str] | None = None,
    *,
    task: str | Sequence[str] | Mapping[str, str] | None = None,
    modality: str | None = None,
    metric: str | Sequence[str] | Mapping[str, str] | None = None,
    validation: Any = None,
    test: Any = None,
    groups: Any = None,
    unlabeled: Any = None,
    backbones: str | Sequence[str] | None = None,
    strategies: str | Sequence[str] | None = None,
    space: Mapping[str, Any] | None = None,
    budget: str | float | None = None,
    trials: int | None = None,
    refit: bool = False,
    plugins: Sequence[Any] = (),
    executor: str = "ray",
    address: str | None = None,
    max_workers: int | None = None,
    resources: Mapping[str, Any] | None = None,
    memory: bool | None = None,
    seed: int = 0,
    offline: bool = False,
    out: str | Path | None = None,
) -> TransferModel:
    """Return the best fine-tuned pretrained model for labelled data.

    Args:
        data: a folder of class folders, a CSV, TSV, Parquet or JSONL table, either also by URL (``s3://...``), a
            pandas frame, ``(X, y)``, a Hugging Face dataset or a torch Dataset.
        target: name of the target column, where the data have columns. A list of names: one model answers all of them
            (multi-task), judged by their mean skill; labels may be missing, a row with one of them is used.
        task: ``binary``, ``multiclass``, ``multilabel`` or ``regression``; None: guessed from the target. Of several
            targets one for all, a list in their order, or a mapping by target.
        modality: ``image``, ``audio`` or ``text``; None: what the data are.
        metric: what decides; None: accuracy (balanced beyond 3 : 1), macro F1 of label sets, RMSE of numbers. Of
            several targets as for ``task``.
        validation: source of the validation rows; None: those that come with the data, or drawn from them.
        test: source of the held-out rows; None: those that come with the data, or drawn from them.
        groups: a column, or one value a row; rows of one group stay in one split.
        unlabeled: source of rows from where the model will be used, labels left aside; where they differ from the
            labelled ones, strategies that adapt to them are tried too.
        backbones: ids or patterns such as ``packs/*``; None: at most eight by prior and price.
        strategies: ids or patterns; None: all that suit.
        space: domains in place of the strategies' own: a value, a list, ``{"log": [1e-4, 1e-2]}`` ...
        budget: seconds of wall clock or a text such as ``10m``; downloads are left out.
        trials: number of trials, for a run that can be repeated exactly.
        refit: train the winner again on training and validation rows.
        plugins: plugin files, module names or modules, beside the installed plugins.
        executor: ``ray``, or ``serial``: in this process.
        address: of a running Ray cluster: ``auto``, or host:port of its head, where this machine is a node of it;
            elsewhere ``ray://host:port``, by which the search runs on the head. None: the Ray that this process is
            connected to, which is left as it is; else one is started on this machine.
        max_workers: trials that may run at the same time; None: as many as fit.
        resources: ``cpus`` and ``gpus`` of one trial, ``custom`` amounts of what a cluster's nodes were started with,
            ``labels`` of the nodes that trials may run on, ``step_seconds`` after which a step is taken to hang, and
            ``disk_gb`` that decoded rows and activations may take.
        memory: whether what earlier runs found orders the candidates; None: yes, but not with ``trials``.
        seed: of every random number.
        offline: never touch the network.
        out: the run's folder; the same folder again goes on with the run. None: only the model in memory is kept.

    Raises:
        ConfigError: arguments are wrong; all faults at once.
        DataError: the data cannot be used.
        UnknownNameError: a backbone or strategy does not exist.
        NoTrialSucceededError: every trial failed, with the reasons.
    """
    from autotransfer.config import Settings

    settings = Settings(
        data=data,
        target=target,
        task=task,
        modality=modality,
        metric=metric,
        validation=validation,
        test=test,
        groups=groups,
        unlabeled=unlabeled,
        backbones=backbones,
        strategies=strategies,
        space=space,
        budget=budget,
        trials=trials,
        refit=refit,
        plugins=plugins,
        executor=executor,
        address=address,
        max_workers=max_workers,
        resources=resources,
        memory=memory,
        seed=seed,
        offline=offline,
        out=out,
    ).check()
    from autotransfer import engine
    from autotransfer.report.progress import progress

    with progress(budget=settings.limit.seconds, plain=False) as shown:
        return engine.fit(settings, shown)


def load(path: str | Path, plugins: Sequence[Any] = ()) -> TransferModel:
    """Return a saved model. Neither Ray nor the network nor the cache is needed.

    Args:
        path: a model folder, or a run folder that holds one.
        plugins: plugin files, module names or modules, beside the installed plugins.

    Raises:
        ModelError: a file is missing, damaged, altered, or of an unknown version.
        UnknownNameError: no plugin here has its backbone.
    """
    from autotransfer.model import load as load_model

    return load_model(path, plugins)


def profile(data: Any, target: str | Sequence[str] | None = None, **arguments: Any) -> Profile:
    """Return what there is to know of labelled data before a network sees them.

    Args:
        data: as for :func:`fit`.
        target: name of the target column, where the data have columns, or a list of several.
        **arguments: of :func:`fit`.

    Raises:
        ConfigError: arguments are wrong; all faults at once.
        DataError: the data cannot be used.
    """
    from autotransfer.config import Settings

    settings = Settings.of({"data": data, "target": target, **arguments})
    from autotransfer import engine

    return engine.profile(settings)


def plan(data: Any, target: str | Sequence[str] | None = None, **arguments: Any) -> Plan:
    """Return what :func:`fit` would do with these arguments, without downloading or training.

    Args:
        data: as for :func:`fit`.
        target: name of the target column, where the data have columns, or a list of several.
        **arguments: of :func:`fit`.

    Raises:
        ConfigError: arguments are wrong; all faults at once.
        DataError: the data cannot be used.
        UnknownNameError: a backbone or strategy does not exist.
    """
    from autotransfer.config import Settings

    settings = Settings.of({"data": data, "target": target, **arguments})
    from autotransfer import engine

    return engine.plan(settings)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib import metadata

        return metadata.version("autotransfer")
    if name == "errors":
        return importlib.import_module("autotransfer.errors")
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'autotransfer' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
