"""The one training loop: it executes phases, rung by rung."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from autotransfer.errors import PluginContractError, TrialFailedError
from autotransfer.gap import POOLED_ROWS
from autotransfer.schema import STORED, CurvePoint
from autotransfer.strategy import ObjectiveContext, overrides
from autotransfer.train import gradients, groups, last_touch
from autotransfer.train.autocast import exact
from autotransfer.train.depths import concatenated
from autotransfer.train.evaluate import device_of, features, predict
from autotransfer.train.heads import STANDARDISE_ROWS, closed_form
from autotransfer.train.job import Job
from autotransfer.train.neighbours import NeighbourHead, with_state
from autotransfer.train.pace import Pace
from autotransfer.train.prefixes import Kept, affordable_views
from autotransfer.train.ragged import lengths_of
from autotransfer.train.sampling import alike, batches, epoch_order, steps_per_epoch, stream
from autotransfer.train.schedule import Segment, augmentation, make_optimizer, rate, segments, total_steps
from autotransfer.train.sharing import evened_heads, weights_of

if TYPE_CHECKING:
    from autotransfer.protocols import Rows
    from autotransfer.train.prefixes import Prefix


class Trainer:
    """A training that can stop after any epoch and go on later, here or elsewhere."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.step = 0
        self.curve: list[CurvePoint] = []
        self.best: tuple[float, float] | None = None
        """Epoch and objective of the best evaluation."""
        self.best_state: dict[str, Tensor] = {}
        self.snapshots: list[dict[str, Tensor]] = []
        self.stale, self.settled = 0, False
        self.notes: list[str] = []
        self.stopped = ""
        self.micro = job.training.batch_size
        self.phase = -1
        self.touched: set[str] = set()
        self.average: dict[str, Tensor] = {}
        self.optimizer: torch.optim.Optimizer | None = None
        self.own_term: nn.Module | None = None
        self.weights = weights_of(job)
        self.selection = groups.Selection(frozenset(), frozenset())
        self.pace = Pace()
        self.per_epoch = steps_per_epoch(len(job.train), job.training.batch_size)
        self.pristine = True
        self._pooled = None if job.network.adapted else job.pooled
        self._losses: list[float] = []
        self._kept = Kept()
        self._seen: tuple[int, np.ndarray] | None = None
        self._order: tuple[tuple[int, int], list[np.ndarray]] | None = None
        self._start()

    @property
    def epochs(self) -> float:
        """Passes over the training rows so far."""
        return self.step / self.per_epoch

    @property
    def finished(self) -> bool:
        """Every phase has run, or early stopping ended it."""
        return bool(self.stopped) or self.step >= total_steps(self.job.phases, self.per_epoch)

    def run(self, until: float | None = None) -> bool:
        """Train to the end of epoch ``until`` (None: of the last phase); True unless the deadline came first.

        Args:
            until: passes over the training rows, from the very start.

        Raises:
            TrialFailedError: the loss is not finite.
        """
        if self.stopped:
            return True
        stop = None if until is None else round(until * self.per_epoch)
        for segment in segments(self.job.phases, self.per_epoch, self.step, stop):
            if self.phase != segment.phase:
                self.enter(segment.phase)
            while self.step < segment.stop:
                began = time.perf_counter()
                self._one_step(segment)
                self.step += 1
                if self.selection.names:
                    self.pace.took(self.phase, time.perf_counter() - began)
                if time.time() > self.job.deadline:
                    return False
                if self.step % self.per_epoch == 0 or self.step == segment.stop:
                    self.evaluate(annealed=self.step == segment.stop)
                    if self.stopped:
                        return True
        if not self.curve:
            self.evaluate()
        return True

    def finish(self) -> float | None:
        """Take the best weights, let the strategy have its last touch, and return the validation objective."""
        if self.weights is not None and self.step:
            self._note(self.weights.told())
        if self.best is None and not last_touch.stays(self.job.strategy):  # nothing is evaluated
            return None
        if self.best is not None:
            self.load_best()
        before = self.best[1] if self.best is not None else None
        return last_touch.touch(self, before) if overrides(self.job.strategy, "finish") else before

    def outdate(self, names: set[str]) -> None:
        """Take note that tensors of these names are no longer what they were: what is stored after them is outdated."""
        changed = {n.removeprefix("backbone.") for n in names if n.startswith("backbone.")}
        self.pristine = self.pristine and not changed
        if changed:
            self._kept.outdate((self.phase, self.augment), changed)

    def enter(self, phase: int) -> None:
        """Begin a phase: choose what is trained and make a new optimizer."""
        job, chosen = self.job, self.job.phases[phase]
        self.phase = phase
        job.network.eval()
        self.selection = groups.select(job.network.backbone, job.stages, chosen)
        groups.apply(job.network, job.stages, self.selection)
        names = {f"backbone.{n}" for n in self.selection.names}
        names |= {
            f"backbone.{n}"
            for n, _ in job.network.backbone.named_buffers()
            if job.stages.owners.get(n, 0) in self.selection.stages
        }
        if self.selection.names and not any(n.startswith("head.") for n in self.initial):
            names |= {f"head.{n}" for n in job.network.head.state_dict()}
        kept = job.network.state_dict(keep_vars=True)
        self.initial |= {n: kept[n].detach().clone() for n in names - self.initial.keys() if n in kept}
        self.touched |= names & kept.keys()
        rows = groups.parameter_groups(job.network, job.stages, self.selection, chosen, job.training)
        if self.own_term is not None and any(True for _ in self.own_term.parameters()):
            named = list(self.own_term.named_parameters())
            rows.append(
                {
                    "params": [p for _, p in named],
                    "names": [f"own_term.{n}" for n, _ in named],
                    "lr": chosen.lr,
                    "peak": chosen.lr,
                    "weight_decay": 0.0,
                }
            )
        if self.weights is not None:
            rows.append(self.weights.group())
        self.optimizer = make_optimizer(rows, job.training)
        self.average = self._trained_now() if chosen.averaging else {}

    def evaluate(self, *, annealed: bool = True) -> None:
        """Score the validation rows; keep the weights where they are the best so far, of equal ones the later.

        In the midst of a rung the steps are large, and what they reach there is luck: where one has ended
        (``annealed``), it counts alone, unless early stopping or a soup of epochs is wanted (benchmarks/epochs.py).

        Raises:
            TrialFailedError: the network's outputs are not finite.
        """
        loss = float(np.mean(self._losses)) if self._losses else 0.0
        self._losses.clear()
        if self.job.validation is None:
            return
        held = self._trained_now() if self.average else {}
        if held:
            self.load(self.average)
        objective = self.objective()
        if math.isnan(objective):
            raise TrialFailedError(f"the outputs on the validation rows are not finite after epoch {self.epochs:.2f}")
        self.curve.append(CurvePoint(epoch=self.epochs, train_loss=loss, objective=objective))
        every = self.job.training.patience > 0 or last_touch.takes_snapshots(self.job.strategy)
        before = self.best[1] if self.best is not None and (every or self.settled or not annealed) else float("-inf")
        better, due = objective > before, every or annealed or not self.settled
        if due and (objective >= before or self.job.strategy.unlabeled):
            self.best, self.best_state = (self.epochs, objective), self.snapshot()
            self.settled = self.settled or annealed
            last_touch.remember(self)
        self.stale = 0 if better or self.job.strategy.unlabeled else self.stale + 1
        if 0 < self.job.training.patience <= self.stale:
            self.stopped = f"no better for {self.stale} evaluations"
        if held:
            self.load(held)

    def snapshot(self) -> dict[str, Tensor]:
        """Return copies of every tensor that training may have changed, by name in the network."""
        state = self.job.network.state_dict()
        return {n: state[n].detach().clone() for n in sorted(self.touched)}

    def load_best(self) -> None:
        """Put the best weights in their place; what was first trained after them is again as it was."""
        self.load({**self.initial, **self.best_state})

    @torch.no_grad()
    def load(self, state: Mapping[str, Tensor]) -> None:
        """Put tensors of a snapshot in their place."""
        current = self.job.network.state_dict(keep_vars=True)
        with self._kept.checked(current, state):
            for name, tensor in state.items():
                current[name].copy_(tensor)

    def outputs(self) -> Tensor:
        """Return the network's outputs on the validation rows."""
        if self.job.validation is None:
            raise TrialFailedError("there are no validation rows to score")
        self.job.network.eval()
        if self.pristine:
            with torch.no_grad():
                pooled = self.pooled()[1].to(device_of(self.job.network))
                return self.job.network.head.classify(pooled).float().cpu()
        prefix = self.prefix()
        if prefix is not None:
            return prefix.predict(self.job.network, "validation", self.job.tick)
        return predict(self.job.network, self.job.validation, self.job.tick)

    def prefix(self) -> Prefix | None:
        """Return the stored activations that this phase starts from; None: it runs the whole network."""
        return self._kept.at((self.phase, self.augment), self._find_prefix)

    @property
    def augment(self) -> str:
        """How rows are augmented at this step: as the phase says, but by ``views`` only where more than one pays."""
        kind = augmentation(self.job.phases, self.per_epoch, self.phase, self.step)
        return "none" if kind == "views" and self._most_views() == 1 else kind

    def views(self) -> np.ndarray | None:
        """Return the view ``int64`` [N] of each training row in this epoch; None: the rows are seen as they are."""
        if self.augment != "views":
            return None
        epoch, most = self.step // self.per_epoch, self._most_views()
        if self._seen is None or self._seen[0] != epoch:
            rng = np.random.default_rng(stream(self.job.recipe.seed, self.job.stream, "views", epoch))
            self._seen = (epoch, rng.integers(0, most, len(self.job.train)))
            self._note(f"each row is seen in {most} fixed views, one drawn for each epoch")
        return self._seen[1]

    def _most_views(self) -> int:
        """Return how many views of a row this phase uses: of its values alone, so that no store changes the answer."""
        phase = self.job.phases[self.phase]
        epochs, most = phase.epochs - phase.augment_from, self.job.train.views
        found = affordable_views(self.job.stages, self.selection.prefix or 0, epochs, most)
        if found == 1:
            self._note("trained without views: the passes that would read them cost no more than making them")
        return found

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    def _find_prefix(self) -> Prefix | None:
        job, frozen = self.job, self.selection.prefix
        if job.prefixes is None or self.own_term is not None or frozen is None or self.phase < 0:
            return None
        phase = job.phases[self.phase]
        if self.augment not in STORED or job.network.depths is not None:
            return None
        views = self._most_views() if self.augment == "views" else 1
        found = job.prefixes.find(job.network.backbone, job.stages, frozen, phase.epochs, views)
        self.notes += [n for n in job.prefixes.notes if n not in self.notes]
        return found

    def pooled(self) -> tuple[Tensor, Tensor]:
        """Return the untrained backbone's pooled output on train and validation rows, made once."""
        if self._pooled is None:
            self._pooled = (self._frozen_pass(self.job.train), self._frozen_pass(self.job.validation))
        return self._pooled

    def _pooled_unlabeled(self) -> Tensor | None:
        rows, known = self.job.unlabeled, self.job.pooled_unlabeled
        return known if known is not None or rows is None else self._frozen_pass(rows, POOLED_ROWS)

    def _frozen_pass(self, rows: Rows | None, count: int | None = None) -> Tensor:
        if rows is None:
            return torch.zeros(0, len(self.job.network.head.mean))
        stop = len(rows) if count is None else min(count, len(rows))
        network = self.job.network
        passes = features(
            network.backbone,
            self.job.stages,
            rows,
            network.head.output,
            start=0,
            stop=stop,
            tick=self._in_time,
        )
        return torch.cat([pools[-1] if network.depths is None else concatenated(pools) for pools in passes])

    def _in_time(self) -> None:
        self.job.tick()
        if time.time() > self.job.deadline:
            raise TrialFailedError("the budget ended while its features were read")

    def _start(self) -> None:
        job = self.job
        if job.strategy.unlabeled and job.unlabeled is None:
            raise TrialFailedError(f"{job.strategy.id} is made for rows without labels, and none were given")
        self.initial: dict[str, Tensor] = {}
        head: Any = job.network.head
        if self._pooled is not None:
            head.standardise(self._pooled[0][:STANDARDISE_ROWS])
        else:
            head.standardise(self._frozen_pass(job.train, STANDARDISE_ROWS))
        balance = job.training.balance
        if job.start is not None:
            head.begin(evened_heads(job.start, job.task, job.train.targets, balance))
        if overrides(job.strategy, "head"):
            pooled = self.pooled()[0]
            with exact():
                state = closed_form(job.strategy, pooled, job.train, job.task, self._pooled_unlabeled)
            if state is not None:
                job.network.head = with_state(head, evened_heads(state, job.task, job.train.targets, balance))
        if job.phases and isinstance(job.network.head, NeighbourHead):
            raise PluginContractError(f"{job.strategy.id} gives a head of neighbours, which no phase can train further")
        self.touched = {f"head.{n}" for n in job.network.head.state_dict()}
        if overrides(job.strategy, "objective"):
            initial = {n: p.detach().clone() for n, p in job.network.backbone.named_parameters()}
            context = ObjectiveContext(
                backbone=job.network.backbone,
                head=job.network.head,
                task=job.task,
                widths=job.stages.widths,
                initial=initial,
                unlabeled=job.unlabeled,
            )
            torch.manual_seed(stream(job.recipe.seed, job.stream, "objective"))
            self.own_term = job.strategy.objective(context)
            if self.own_term is not None:
                self.own_term.to(device_of(job.network)).train()

    def objective(self) -> float:
        """Return the validation objective as the network stands, NaN where the outputs are not finite."""
        assert self.job.validation is not None
        outputs = self.outputs()
        if not outputs.isfinite().all():
            return float("nan")
        scores = self.job.task.scores(outputs, self.job.validation.targets)
        return self.job.task.objective(scores)

    def _trained_now(self) -> dict[str, Tensor]:
        state = self.job.network.state_dict()
        names = [n for n in self.touched if state[n].is_floating_point()]
        return {n: state[n].detach().clone() for n in names}

    def _rows_of(self, step: int) -> np.ndarray:
        epoch, at = divmod(step, self.per_epoch)
        if self._order is None or self._order[0] != (epoch, self.phase):
            self._order = ((epoch, self.phase), self._epoch(epoch))
        return self._order[1][at]

    def _epoch(self, epoch: int) -> list[np.ndarray]:
        """Return the batches of an epoch: of rows of like length where they differ in it and the backbone runs."""
        job, size = self.job, self.job.training.batch_size
        seeds = [stream(job.recipe.seed, job.stream, name, epoch) for name in ("order", "batches")]
        sampler = "balanced" if job.training.balance == "sampling" else job.phases[self.phase].sampler
        order = epoch_order(job.train.targets, sampler, seeds[0])
        lengths = lengths_of(job.train) if self.selection.names else None
        return list(batches(order, size)) if lengths is None else alike(order, lengths, size, seeds[1])

    def _one_step(self, segment: Segment) -> None:
        job = self.job
        job.tick()
        if not job.network.head.training:  # a phase begins, or something was evaluated
            big = job.training.batch_size >= 32 and len(job.train) >= 2000
            batch_statistics = {"auto": big, "batch": True, "frozen": False}[job.training.norm_statistics]
            groups.set_modes(job.network, job.stages, self.selection, batch_statistics=batch_statistics)
        self.prefix()  # before the step's random numbers begin: looking for it may draw some
        torch.manual_seed(stream(job.recipe.seed, job.stream, "step", self.step))
        assert self.optimizer is not None
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * rate(self.step, segment, job.training.warmup)
        if self.selection.names:
            self.pristine = False
        self._losses.append(gradients.fill(self, self._rows_of(self.step)))
        trained = [p for g in self.optimizer.param_groups if not g.get("apart") for p in g["params"]]
        if job.training.clip:
            nn.utils.clip_grad_norm_(trained, job.training.clip)
        self.optimizer.step()
        self._average_step()

    @torch.no_grad()
    def _average_step(self) -> None:
        decay = self.job.phases[self.phase].averaging
        if not decay:
            return
        share = min(decay, (1 + self.step) / (10 + self.step))
        state = self.job.network.state_dict()
        for name, mean in self.average.items():
            mean.lerp_(state[name], 1 - share)
