"""The result of a fit: a model that predicts, explains itself, and is saved without a pickle."""

from __future__ import annotations

import functools
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from autotransfer import model_folder as folder
from autotransfer import tasks
from autotransfer.data.items import Items, as_items
from autotransfer.data.modalities import open_tools
from autotransfer.data.readers import read as read_source
from autotransfer.data.targets import labels_of
from autotransfer.errors import DataError, ModelError
from autotransfer.model_assets import ASSETS, assets_of
from autotransfer.protocols import FittedState, Task
from autotransfer.registry import Registry
from autotransfer.report.card import model_card
from autotransfer.report.leaderboard import rows_of
from autotransfer.report.page import report_beside
from autotransfer.report.text import render
from autotransfer.schema import Evaluation, Recipe, RunRecord
from autotransfer.spec import BackboneSpec
from autotransfer.targets import one_or_several
from autotransfer.tasks.answers import first, told_rows
from autotransfer.tasks.judged import evaluation, scores_of
from autotransfer.train.evaluate import EVALUATION_BATCH, arithmetic, device_of
from autotransfer.train.network import TransferNetwork, merge, to_device
from autotransfer.train.ragged import trimmed

_ALONE = threading.RLock()  # hooks on a network, torch's threads and its random state serve one answer at a time

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Answers:
    """The network's outputs on the rows that could be read."""

    names: list[str]
    """Of all rows, in order."""
    rows: list[int]
    """Numbers of the rows that were read, in order."""
    outputs: Tensor
    """``float32`` [len(rows), outputs]."""
    failed: dict[int, str]
    """Why the other rows could not be read."""
    single: bool
    """One item was given, not a list of one."""


class TransferModel:
    """The best fine-tuned model of a search.

    Attributes:
        recipe: backbone, strategy and every value, enough to train it again.
        run: everything the run can tell: profile, survey, trials, scores, cost.
        task: what it predicts.
        spec: the card of its backbone.
        path: where it was saved or loaded; None before.
    """

    def __init__(
        self,
        *,
        network: TransferNetwork,
        task: Task,
        spec: BackboneSpec,
        recipe: Recipe,
        run: RunRecord,
        registry: Registry,
        fitted: FittedState | None = None,
        assets: Path | None = None,
    ) -> None:
        """Take a trained network over; its adapters are merged into plain weights.

        Args:
            network: backbone and head.
            task: the task it was trained for.
            spec: card of its backbone.
            recipe: how it was trained.
            run: what the run can tell.
            registry: the plugins of the run.
            fitted: state of a fitted backbone.
            assets: folder of the files that the card names as assets.

        Raises:
            ModelError: a fitted backbone comes without its state.
        """
        if spec.fitted and fitted is None:
            raise ModelError(f"{spec.id} is a fitted backbone; its model needs the state that its fit gave")
        merge(network)
        self._network = network.eval()
        self._registry = registry
        self._fitted = fitted
        self._assets = assets
        self._tools: Any = None
        self.task = task
        self.spec = spec
        self.recipe = recipe
        self.run = run
        self.path: Path | None = None

    @property
    def module(self) -> nn.Module:
        """The plain torch module, backbone and head: takes prepared inputs, gives ``float32`` [N, outputs]."""
        return self._network.eval()

    @property
    def classes(self) -> Any:
        """The labels in the order of ``predict_proba``'s columns; empty for numbers. Of several targets: by target."""
        if isinstance(self.task, tasks.Several):
            return {p.target: tuple(getattr(p.task, "labels", ())) for p in self.task.parts}
        return tuple(getattr(self.task, "labels", ()))

    @property
    def modality(self) -> str:
        """``image``, ``text`` or ``audio``."""
        return self.spec.modality

    def predict(self, x: Any) -> Any:
        """Return predictions in the user's own values: an array [N] in the order of ``x``, one value for one item.

        Of several targets: a pandas frame with a column for each, for one item a mapping by target.

        Args:
            x: one item (a path, a PIL image, an array, a text), a list or an array of such, a folder, or a table.
                A string is a path where one is meant; to be sure that it is a text, give it in a list.

        Raises:
            DataError: rows cannot be read; all of a batch are named.
        """
        answers = self.outputs(x)
        found = self.task.decode(answers.outputs)
        return first(found) if answers.single else found

    def predict_proba(self, x: Any) -> Any:
        """Return ``float64`` [N, classes] in the order of ``classes``, or [classes] for a single item.

        Of several targets: a mapping by target of those that have classes.

        Raises:
            DataError: rows cannot be read, or the task has no probabilities.
        """
        answers = self.outputs(x)
        found = self.task.probabilities(answers.outputs)
        return first(found) if answers.single else found

    def predict_rows(self, x: Any) -> list[dict[str, Any]]:
        """Return one mapping a row, in order: ``row`` and ``prediction``, or ``row`` and ``error``.

        Classes come with the ``probability`` of the predicted one, label sets with the ``probabilities`` of all
        labels; of several targets each of these is a mapping by target. A row that cannot be read has its error, and
        the others have their answers.
        """
        answers = self.outputs(x, on_error="report")
        rows: list[dict[str, Any]] = [{"row": name} for name in answers.names]
        for number, told in zip(answers.rows, told_rows(self.task, answers.outputs), strict=True):
            rows[number] |= told
        for number, text in answers.failed.items():
            rows[number]["error"] = text
        return rows

    def outputs(self, x: Any, on_error: str = "raise") -> Answers:
        """Return the head's outputs on whatever :meth:`predict` takes.

        Args:
            x: the rows.
            on_error: ``raise``, or ``report``: rows that cannot be read are left out and named.

        Raises:
            DataError: rows that cannot be read, all of a batch by name.
        """
        columns = self.run.profile.columns
        items = as_items(x, self.modality, self.spec.input, self._registry, tools=self._opened(), columns=columns)
        return self._answers(items, on_error)

    def score(self, held_out: Any, target: str | Sequence[str] | None = None) -> dict[str, Any]:
        """Return every metric of the task on labelled rows; of several targets, a mapping of them by target.

        Args:
            held_out: any source that ``fit`` takes; where it has test rows of its own, those alone count.
            target: name of the target column, of several targets their names in order; None: as in training.

        Raises:
            DataError: rows have no label, cannot be read, or have classes that the model does not know.
        """
        outputs, targets, _ = self._labelled(held_out, target, "raise")
        scores = scores_of(self.task, outputs, targets)
        return dict(scores) if isinstance(self.task, tasks.Several) else scores[self.task.name]

    def evaluate(
        self, held_out: Any, target: str | Sequence[str] | None = None, on_error: str = "raise"
    ) -> tuple[Evaluation, dict[str, str]]:
        """Return the scores with a 95 % interval, and why rows were left out, by their names.

        Args:
            held_out: as for :meth:`score`.
            target: as for :meth:`score`.
            on_error: ``raise``, or ``report``: rows without label or that cannot be read are left out and named.

        Raises:
            DataError: as for :meth:`score`.
        """
        outputs, targets, left_out = self._labelled(held_out, target, on_error)
        return evaluation(self.task, outputs, targets), left_out

    def leaderboard(self) -> pd.DataFrame:
        """Return one row a trial, best first, then the backbones that were not tried, with the reason."""
        import pandas as pd

        return pd.DataFrame(rows_of(self.run))

    def report(self) -> str:
        """Return a plain account of the data, what was tried, what won and what it cost."""
        own = (i.path for i in self._registry.plugins() if i.name == self.spec.namespace)
        saved = str(self.path) if self.path else None
        return render(self.run, saved=saved, plugin=next(own, ""), page=report_beside(self.path))

    def finished(self, seconds: float, cpu_seconds: float) -> TransferModel:
        """Take the final cost of the run, and return the model."""
        self.run = replace(self.run, seconds=seconds, cpu_seconds=cpu_seconds)
        return self

    def save(self, path: str | Path) -> Path:
        """Write the model folder, whole or not at all, and return its path; an older model there is replaced.

        Raises:
            ModelError: something that is no model folder stands there.
        """
        to = Path(path)
        note = folder.ModelNote(
            format=folder.FORMAT,
            autotransfer=_version(),
            backbone=self.spec.id,
            recipe=self.recipe,
            head=folder.head_shape(self._network, self.spec, self.task),
            plugin=folder.plugin_note(self._registry, self.spec),
            options=dict(self.spec.options),
        )
        tensors = folder.with_fitted(self._network.state_dict(), self._fitted)
        bodies: dict[str, Any] = {
            folder.LABELS: self.task.to_json(),
            folder.PREPROCESSING: self.spec.input,
            folder.HISTORY: self.run,
        }
        if self._fitted is not None:
            bodies[folder.FITTED] = dict(self._fitted.values)
        assets = assets_of(self.spec, self._assets)
        folder.write(to, note, tensors, bodies, model_card(self.run, self.spec, self.recipe), assets)
        self.path = to
        if assets:
            self._assets = to / ASSETS  # what they were copied from may go
        return to

    def export(self, path: str | Path, to: str = "onnx") -> Path:
        """Write the network, from prepared inputs to outputs and answers, for other runtimes, and return its path.

        It is checked against this model to 1e-4; ``PATH.json`` says what goes in, how it is prepared, what comes out.

        Args:
            path: of the file, ending with ``.onnx``; an older one is replaced.
            to: the format.

        Raises:
            ConfigError: format or suffix are unknown, or ``autotransfer[export]`` is not installed.
            ModelError: the model cannot be exported, with the reason; nothing is written.
        """
        from autotransfer import export

        own = (self._network, self.task, self.spec, self.recipe, self._opened(), self._assets)
        return export.write(export.Subject(*own), Path(path), to)

    def __repr__(self) -> str:
        return f"TransferModel({self.spec.id}, {self.recipe.strategy}, task={self.task.name})"

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without the plugins' modules, so that the model can be sent to another process."""
        return {**vars(self), "_registry": self._registry.manifest(), "_tools": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update({**state, "_registry": Registry.from_manifest(state["_registry"])})

    def _opened(self) -> Any:
        """Return what makes rows into inputs beside the card's fields: a tokenizer, loaded once."""
        if self._tools is None:
            self._tools = open_tools(self.spec, self._registry, self._assets)
        return self._tools

    def _answers(self, items: Items, on_error: str) -> Answers:
        self._network.eval()
        device = device_of(self._network)
        numbers: list[int] = []
        parts = [torch.zeros(0, self.task.outputs)]
        # The recipe's number of threads: with another one the last digits may differ from run to run.
        with _ALONE, arithmetic(self.recipe.threads, self.recipe.dtype, device), torch.no_grad():
            for rows, inputs in items.batches(EVALUATION_BATCH, on_error):
                parts.append(self._network(to_device(trimmed(inputs), device)).float().cpu())
                numbers += rows
        return Answers(items.names, numbers, torch.cat(parts), dict(items.failed), items.single)

    def _labelled(self, held_out: Any, target: Any, on_error: str) -> tuple[Tensor, Tensor, dict[str, str]]:
        """Return outputs, encoded targets, and why rows were left out, by name."""
        columns, asked = self.run.profile.columns, self._targets(held_out, target)
        data: Any = read_source(held_out, self._registry, target=asked, modality=self.modality, columns=columns)
        _, labels = labels_of(data, asked)
        wanted = list(range(len(labels)))
        if data.splits is not None and "test" in data.splits:
            wanted = [i for i in wanted if data.splits[i] == "test"]
        empty = [i for i in wanted if labels[i] is None]
        if empty and on_error == "raise":
            raise DataError(f"{len(empty)} of {len(wanted)} rows have no label; a score needs all of them")
        chosen = [i for i in wanted if labels[i] is not None]
        answers = self._answers(Items(_Part(data, chosen), self.spec.input, tools=self._opened()), on_error)
        if not answers.rows:
            raise DataError(f"{data.name} has no row that has a label and can be read")
        left_out = {answers.names[i]: text for i, text in answers.failed.items()}
        left_out |= {data.row_name(i): "it has no label" for i in empty}
        return answers.outputs, self.task.encode([labels[chosen[i]] for i in answers.rows]), left_out

    def _targets(self, held_out: Any, target: Any) -> Any:
        """Return the name of the target column, or of several their names; None: the source has but one."""
        own = self.run.profile.targets
        several, asked = isinstance(self.task, tasks.Several), target
        if several:
            asked = [n.strip() for n in asked.split(",")] if isinstance(asked, str) else list(asked or own)
        else:
            asked = one_or_several(asked) or (own[0] if _has_columns(held_out) else None)
        if isinstance(asked, (list, tuple)) != several or (several and len(asked) != len(own)):
            raise DataError(
                f"target is {target!r:.80}; the model answers {', '.join(own)}: name as many, in this order"
            )
        return asked


class _Part:
    """Some rows of a dataset."""

    def __init__(self, dataset: Any, rows: Sequence[int]) -> None:
        self.dataset = dataset
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def load(self, index: int) -> Any:
        return self.dataset.load(self.rows[index])

    def row_name(self, index: int) -> str:
        return cast(str, self.dataset.row_name(self.rows[index]))


def load(path: str | Path, plugins: Sequence[Any] = ()) -> TransferModel:
    """Return a saved model. Neither Ray nor the network nor the cache is needed.

    The backbone is built by the installed plugin that owns its id; the folder names no callable.

    Args:
        path: a model folder, or a run folder that holds one.
        plugins: plugin files, module names or modules, beside the installed plugins.

    Raises:
        ModelError: a file is missing, damaged, altered, or of an unknown version.
        UnknownNameError: no plugin here has its backbone.
    """
    where = folder.find(Path(path))
    kept = folder.restore(where, plugins)
    model = TransferModel(
        network=kept.network,
        task=kept.task,
        spec=kept.spec,
        recipe=kept.recipe,
        run=kept.run,
        registry=kept.registry,
        fitted=kept.fitted,
        assets=where / ASSETS,
    )
    model.path = where
    return model


def _has_columns(source: Any) -> bool:
    """Return whether a source names its target among columns; others have but one target."""
    table = isinstance(source, (str, Path)) and Path(source).is_file()
    return table or hasattr(source, "columns") or hasattr(source, "column_names")


@functools.cache
def _version() -> str:
    from importlib import metadata

    return metadata.version("autotransfer")
