"""The worker: turns jobs into records. It never raises; a failure is a record with its reason."""

from __future__ import annotations

import math
import os
import time
import traceback
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from autotransfer.codec import to_json
from autotransfer.data.modalities import open_tools
from autotransfer.errors import AutotransferError, PluginContractError, StorageError, TrialFailedError
from autotransfer.protocols import Rows
from autotransfer.recipes import MEASURED, ONLY, spec_id, stream_key
from autotransfer.registry import Registry
from autotransfer.schema import Recipe, SurveyRecord, TrialRecord
from autotransfer.search import alone, storage
from autotransfer.search.balancing import shifted
from autotransfer.search.candidates import HEAD_START
from autotransfer.search.criterion import JUDGED_ROWS, VALIDATION
from autotransfer.search.families import train_family
from autotransfer.search.fitted import fitted_state
from autotransfer.search.gap import measure, pool_unlabeled, unlabeled_features
from autotransfer.search.jobs import Context, GapJob, Job, Record, RungJob, SurveyJob
from autotransfer.search.judging import informed, weighted, with_loss
from autotransfer.search.phases import recipe_phases, trains, values_of
from autotransfer.search.recall import find_survey, keep_survey, source_of
from autotransfer.search.survey import (
    Frozen,
    closed_form_head,
    go_on,
    head_features,
    open_backbone,
    run_survey,
)
from autotransfer.spec import BackboneSpec, with_stages
from autotransfer.store import Store
from autotransfer.strategy import Strategy
from autotransfer.tasks.judged import scores_of
from autotransfer.train import checkpoint, precision
from autotransfer.train.adapting import adapted
from autotransfer.train.autocast import exact
from autotransfer.train.depths import make_network
from autotransfer.train.evaluate import arithmetic, best_device, device_of, nothing, probe_of
from autotransfer.train.job import Job as TrainingJob
from autotransfer.train.loop import Trainer
from autotransfer.train.network import TransferNetwork, build_backbone
from autotransfer.train.prefixes import Elsewhere, Prefixes
from autotransfer.train.sampling import stream
from autotransfer.train.stages import Stages, find_stages

if TYPE_CHECKING:
    from autotransfer.protocols import Task

LIVE = 2
"""Trainings that a worker keeps in memory; others come back from their checkpoints."""


class Worker:
    """Runs jobs of one search, in this process."""

    def __init__(
        self,
        context: Context,
        registry: Registry | None = None,
        tick: Callable[[], None] = nothing,
        name: str = "local",
        elsewhere: Elsewhere | None = None,
    ) -> None:
        self.context = context
        self.registry = registry or Registry.from_manifest(context.manifest)
        self.tick = tick
        self.name = name
        self.elsewhere = elsewhere
        self.frozen: Frozen | None = None
        self.live: OrderedDict[tuple[str, str], Trainer] = OrderedDict()
        self.device = best_device()
        self._tools: dict[str, Any] = {}
        if context.prepared.kept is None:
            context.prepared.keep(Store(Path(context.store), context.store_bytes) if context.store else None)

    @property
    def task(self) -> Task:
        """The task of this search."""
        return self.context.prepared.task

    def run(self, job: Job) -> Record:
        """Return the record of a job; whatever went wrong is its reason.

        Raises:
            StorageError: the work folder is gone or full, which is nobody's trial's fault.
        """
        began, cpu = time.perf_counter(), time.process_time()
        try:
            done = storage.patient(Path(self.context.work), lambda: self._done(job), self.tick)
        except StorageError:
            raise
        except Exception as error:  # a plugin may raise anything; only this job dies of it
            done = failed(job, reason_of(error))
        seconds, spent = time.perf_counter() - began, time.process_time() - cpu
        if isinstance(done, TrialRecord):
            return replace(_comparable(job, done), seconds=seconds, cpu_seconds=spent, worker=self.name)
        return replace(done, seconds=seconds, cpu_seconds=spent)

    def _done(self, job: Job) -> Record:
        if isinstance(job, RungJob):
            return self._rung(job)
        return self._survey(job) if isinstance(job, SurveyJob) else self._gap(job)

    def rows(self, spec: BackboneSpec, split: str) -> Rows:
        """Return a split prepared for a backbone."""
        indices: Any = getattr(self.context.prepared, split)
        return self.prepared(indices, spec)

    def prepared(self, indices: Any, spec: BackboneSpec) -> Rows:
        """Return rows of the dataset, by number, prepared for a backbone."""
        return self.context.prepared.rows(indices, spec.input, self.tools(spec))

    def unlabeled(self, spec: BackboneSpec, most: int | None = None) -> Rows | None:
        """Return the rows without labels prepared for a backbone, all or the first ones, where there are some."""
        held = self.context.prepared.unlabeled
        return None if held is None else held.rows(spec.input, self.tools(spec), most)

    def tools(self, spec: BackboneSpec) -> Any:
        """Return what the inputs of a backbone need beside the rows, opened once."""
        if spec.id not in self._tools:
            self._tools[spec.id] = open_tools(spec, self.registry, self.context.weights.get(spec.id))
        return self._tools[spec.id]

    def _survey(self, job: SurveyJob) -> SurveyRecord:
        spec = self.context.specs[job.backbone]
        # Where trials are counted the same call tries the same ones: it must not know more of a backbone than is asked.
        known = find_survey(self.context, spec) if job.last or job.deadline < float("inf") else None
        if known is not None:
            return known
        with arithmetic(self.context.threads, "float32", self.device):
            train, validation = self.rows(spec, "train"), self.rows(spec, "validation")
            if self.frozen is None or self.frozen.spec.id != spec.id:
                self.frozen = open_backbone(spec, self.backbone(spec, fit=True), train)
                go_on(self.context, self.frozen, min(job.rows, len(train)), job.last)
                dtype = self._precision(spec, self.frozen.backbone, train, "frozen")
                self.frozen.record = replace(self.frozen.record, dtype=dtype)
            groups = self.context.prepared.train_groups()
            record = run_survey(self.context, job, self.frozen, train, validation, self.task, self.tick, groups)
        if job.last:
            self.frozen = None
        keep_survey(self.context, spec, record)
        return record

    def _gap(self, job: GapJob) -> SurveyRecord:
        spec, rows = self.context.specs[job.backbone], self.unlabeled(self.context.specs[job.backbone])
        if rows is None:
            raise TrialFailedError("there are no unlabeled rows")
        with arithmetic(self.context.threads, "float32", self.device):
            pooled = pool_unlabeled(self.context, spec, job.known, rows, lambda: self.backbone(spec), self.tick)
            targets = self.rows(spec, "train").targets
            return replace(job.known, gap=measure(self.context, job.known, pooled, targets, self.task))

    def _precision(self, spec: BackboneSpec, backbone: nn.Module, rows: Rows, kind: str) -> str:
        """Return the dtype that passes of this kind run in, on this machine."""
        batch = rows.batch(range(min(precision.ROWS, len(rows))))
        return precision.choose(backbone, batch, self.context.threads, kind, spec=spec, tick=self.tick).dtype

    def measured(self, recipe: Recipe) -> Recipe:
        """Return the recipe with its arithmetic: measured here, where the recipe leaves that open."""
        if recipe.dtype != MEASURED:
            return recipe
        spec, strategy = self.context.specs[spec_id(recipe)], self.registry.strategy(recipe.strategy)
        own = with_stages(spec, recipe.stages)
        phases = recipe_phases(strategy, self.context.prepared.profile, own, recipe)
        kind = "training" if any(trains(p, len(own.stages)) for p in phases) else "frozen"
        with arithmetic(recipe.threads, "float32", self.device):
            dtype = self._precision(spec, self.backbone(spec), self.rows(spec, "train"), kind)
        return replace(recipe, dtype=dtype)

    def backbone(self, spec: BackboneSpec, *, fit: bool = False) -> nn.Module:
        """Return the pretrained backbone on this worker's device; a fitted one is fitted, or restored."""
        path = self.context.weights.get(spec.id)
        self.tick()
        module = build_backbone(self.registry.factory(spec), spec, Path(path) if path else None)
        if spec.fitted:
            state = fitted_state(self.context, spec, module, self.rows(spec, "train") if fit else None)
            module.restore(state)  # type: ignore[operator]
        return module if spec.fitted else module.to(self.device)  # a fitted one may hold tensors that no ``to`` moves

    def _family(self, job: RungJob) -> TrialRecord | None:
        """Return the record of heads trained together; None where the survey's features are not whole."""
        file = self.context.path(job.survey) if job.survey and job.rows is None else None
        plain = job.rivals and job.criterion == VALIDATION  # else each head is to answer other rows, or weighted ones
        features = head_features(file) if file is not None and plain else None
        if file is None or features is None or len(features[0]) != len(self.context.prepared.train):
            return None
        spec, strategy = self.context.specs[spec_id(job.recipe)], self.registry.strategy(job.recipe.strategy)
        own, profile = with_stages(spec, job.recipe.stages), self.context.prepared.profile
        phases = [recipe_phases(strategy, profile, own, r)[0] for r in (job.recipe, *job.rivals)]
        targets = (self.rows(spec, "train").targets, self.rows(spec, "validation").targets)
        start, folder = closed_form_head(file), self.context.path(job.checkpoint)
        with exact():
            return train_family(job, phases, self.task, profile, features, targets, start, folder, self.tick)

    def _rung(self, job: RungJob) -> TrialRecord:
        if ONLY in job.recipe.values and self.context.prepared.profile.targets != (job.recipe.values[ONLY],):
            context, own = alone.context_of(self.context, job)
            return Worker(context, self.registry, self.tick, self.name, self.elsewhere)._rung(own)
        job = replace(job, recipe=self.measured(job.recipe))
        with arithmetic(job.recipe.threads, job.recipe.dtype, self.device):
            return self._trained(job)

    def _trained(self, job: RungJob) -> TrialRecord:
        """Return the record of a rung."""
        family = self._family(job)
        if family is not None:
            return family
        trainer = self.live.pop((job.id, job.begins), None) or self._begun(job)
        trainer.job.deadline = job.deadline
        whole = trainer.run(job.until)
        if not trainer.curve and not whole:
            raise TrialFailedError("the budget ended before its first evaluation")
        over = job.final or trainer.finished or not whole
        objective = trainer.finish() if over else (trainer.best[1] if trainer.best else None)
        if over:
            trainer.best_state = trainer.snapshot()
        checkpoint.save(trainer, self.context.path(job.checkpoint), lean=over)
        outputs, scores = self._best_scores(trainer, job)
        if not over:
            self.live[(job.id, job.checkpoint)] = trainer
            while len(self.live) > LIVE:
                self.live.popitem(last=False)
        record = TrialRecord(
            id=job.id,
            recipe=job.recipe,
            status=("done" if over else "promoted") if whole else "stopped",
            reason=trainer.stopped if whole else "the budget ended",
            rung=job.rung,
            epochs=trainer.epochs,
            best_epoch=trainer.best[0] if trainer.best else 0.0,
            scores=scores,
            objective=objective,
            epoch_seconds=trainer.pace.of(trainer.per_epoch),
            curve=tuple(trainer.curve),
            notes=tuple(trainer.notes),
            checkpoint=job.checkpoint,
        )
        held = trainer.job.validation
        if held is None:
            return record
        known = (self.task, outputs, held.targets, trainer.job.train.targets)
        return weighted(self.context, job, with_loss(shifted(record, *known), *known), *known[:3])

    def _begun(self, job: RungJob) -> Trainer:
        """Return the training of a job where its last rung left it; at its start where that is lost, or is the first.

        The rung before gives the same again, so that only time is lost with a checkpoint.
        """
        features = self.context.path(job.survey) if job.survey and job.rows is None else None
        trainer = self.trainer(job.recipe, features, rows=self._first_rows(job), deadline=job.deadline)
        if trainer.job.prefixes is not None:
            trainer.job.prefixes.row_seconds = job.row_seconds
        try:
            if job.begins:
                checkpoint.load(trainer, self.context.path(job.begins))
                return trainer
        except TrialFailedError as error:
            if storage.fault(Path(self.context.work)):
                raise
            trainer.notes.append(f"trained from its start again: {error}")
        for until in job.passed:
            trainer.run(until)
        return trainer

    def _first_rows(self, job: RungJob) -> tuple[Rows, Rows | None] | None:
        """Return the rows of a job that the budget does not let use all; None for any other."""
        if job.rows is None:
            return None
        spec, data = self.context.specs[spec_id(job.recipe)], self.context.prepared
        held = data.validation[: max(1, job.rows // 4)]
        return self.prepared(data.train[: job.rows], spec), self.prepared(held, spec)

    def _best_scores(self, trainer: Trainer, job: RungJob) -> tuple[Tensor, dict[str, dict[str, float]]]:
        """Return outputs and scores of the best weights on the validation rows; the latest ones are put back."""
        latest, held = trainer.snapshot(), trainer.job.validation
        if held is None:
            return torch.zeros(0, self.task.outputs), {self.task.name: {}}
        trainer.load_best()
        outputs = trainer.outputs()
        scores = scores_of(self.task, outputs, held.targets)
        rows = self.unlabeled(self.context.specs[spec_id(job.recipe)], JUDGED_ROWS)
        scores |= informed(job, trainer.job.network, rows, self.task, self.tick)
        trainer.load(latest)
        return outputs, scores

    def trainer(
        self,
        recipe: Recipe,
        features: Path | None,
        rows: tuple[Rows, Rows | None] | None = None,
        deadline: float = float("inf"),
    ) -> Trainer:
        """Return a new training of a recipe, at its first step."""
        spec = self.context.specs[spec_id(recipe)]
        strategy = self.registry.strategy(recipe.strategy)
        train, validation = rows or (self.rows(spec, "train"), self.rows(spec, "validation"))
        network, stages = build_network(self.backbone(spec), spec, strategy, recipe, self.task, train)
        phases = recipe_phases(strategy, self.context.prepared.profile, with_stages(spec, stages.paths), recipe)
        pooled = head_features(features, strategy.depths) if features is not None and rows is None else None
        other = network.adapted or strategy.depths  # the survey's head was fitted to other features
        started = bool(recipe.values.get(HEAD_START)) and features is not None and not other
        gathered = None if other or not strategy.unlabeled else unlabeled_features(self.context, spec.id)
        split = {"train": train} if validation is None else {"train": train, "validation": validation}
        return Trainer(
            TrainingJob(
                network=network,
                stages=stages,
                task=self.task,
                strategy=strategy,
                phases=phases,
                recipe=recipe,
                train=train,
                validation=validation,
                pooled=pooled if pooled is not None and len(pooled[0]) == len(train) else None,
                unlabeled=self.unlabeled(spec),
                pooled_unlabeled=gathered,
                start=closed_form_head(features) if started and features is not None else None,
                prefixes=self._prefixes(spec, recipe, split) if rows is None else None,
                tick=self.tick,
                deadline=deadline,
            )
        )

    def _prefixes(self, spec: BackboneSpec, recipe: Recipe, rows: dict[str, Rows]) -> Prefixes | None:
        """Return where activations of a backbone are kept; None where nothing is."""
        if not self.context.store:
            return None
        plugin = next((e for e in self.context.manifest if e["name"] == spec.namespace), {})
        code, fingerprint = source_of(spec, plugin), self.context.prepared.profile.fingerprint
        about = (spec.id, *code, to_json(spec.input), recipe.dtype, fingerprint)
        store = Store(Path(self.context.store), self.context.store_bytes)
        return Prefixes(store, about, rows, tick=self.tick, elsewhere=self.elsewhere)


def build_network(
    backbone: nn.Module,
    spec: BackboneSpec,
    strategy: Strategy,
    recipe: Recipe,
    task: Task,
    train: Rows,
) -> tuple[TransferNetwork, Stages]:
    """Return backbone and head as one network, adapted, and its stages (found again after adapting).

    Raises:
        PluginContractError: the stages are not those of the recipe.
    """
    declared, seed = recipe.stages or spec.stages, stream(recipe.seed, stream_key(recipe), "adapt")
    changed = adapted(backbone, strategy, values_of(recipe), train, declared=declared, output=spec.output, seed=seed)
    stages = find_stages(backbone, probe_of(train, backbone), declared=declared, output=spec.output)
    if recipe.stages and stages.paths != recipe.stages:
        raise PluginContractError(f"the stages of {spec.id} changed: {stages.paths}, in the recipe {recipe.stages}")
    network = make_network(backbone, stages, task, strategy, spec.output, recipe.training.dropout)
    network.adapted = changed
    return network.to(device_of(backbone)), stages


def _comparable(job: Job, record: TrialRecord) -> TrialRecord:
    """Return the record; a failure where its objective is no finite number, by which nothing can be compared.

    A head on a few of the rows, the last thing that a search does, is compared with nothing.
    """
    whole = isinstance(job, RungJob) and job.rows is None
    if not whole or record.objective is None or math.isfinite(record.objective):
        return record
    reason = f"its objective is {record.objective}: what decides has no value on its answers to the validation rows"
    return replace(record, status="failed", reason=reason, objective=None, checkpoint="")


def failed(job: Job, reason: str) -> Record:
    """Return the record of a job that came to nothing."""
    if isinstance(job, GapJob):
        return replace(job.known, notes=(*job.known.notes, f"the unlabeled rows: {reason}"))
    if isinstance(job, SurveyJob):
        return SurveyRecord(backbone=job.backbone, status="failed", reason=reason)
    return TrialRecord(id=job.id, recipe=job.recipe, rung=job.rung, status="failed", reason=reason)


def reason_of(error: BaseException) -> str:
    """Return one line: what went wrong and, where it was not ours to foresee, in which file."""
    text = " ".join(str(error).split())[:400] or type(error).__name__
    if isinstance(error, AutotransferError):
        return text
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {text} ({os.path.basename(last.filename)}, line {last.lineno})"
