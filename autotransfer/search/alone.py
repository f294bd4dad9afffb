"""Whether sharing pays: the winner's recipe trained for each of several targets alone, on the rows with its label.

The winner stays what it is. Each of these trainings runs the winner's phases, rung by rung as the winner ran them, so
that the two differ in the other targets' losses and in nothing else; the same validation rows judge both.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from autotransfer.budget import Budget
from autotransfer.data.targets import alone
from autotransfer.recipes import ONLY, TOGETHER
from autotransfer.schema import Candidate, TrialRecord
from autotransfer.search.balancing import BALANCE, balancing, usual
from autotransfer.search.jobs import RungJob, slug
from autotransfer.search.survey import (
    HEAD_BIAS,
    HEAD_WEIGHT,
    LAST_ROWS,
    head_features,
    load_features,
    write_atomically,
)
from autotransfer.search.transferability import judge
from autotransfer.strategy import overrides
from autotransfer.targets import NOT_ALONE, Sharing
from autotransfer.tasks import Several
from autotransfer.tasks.judged import scores_of
from autotransfer.tasks.metrics import signed
from autotransfer.train.autocast import exact
from autotransfer.train.sharing import evened_heads

if TYPE_CHECKING:
    from autotransfer.search.board import Trial
    from autotransfer.search.jobs import Context, Generation
    from autotransfer.search.policy import Search

SHARE = 0.2
"""Of the seconds that the caller gave, that are kept for these trainings; where they would take more, none are."""


def compared(search: Search, most: float) -> Generation:
    """Train the leader's recipe for each target alone, where there are several and the budget reaches.

    Args:
        search: that is over but for this.
        most: units that a search without a budget may cost.
    """
    task, leading = search.context.prepared.task, search.board.leading()
    if not isinstance(task, Several) or leading is None:
        return
    why = _why_not(search, leading, most)
    if why:
        search.notes.append(f"{NOT_ALONE}{why}")
        return
    trials = [search.begin(_candidate(leading, p.target), "s") for p in task.parts]
    for trial in trials:
        trial.rungs = leading.rungs
    for _ in leading.rungs:
        yield from search.visit([t for t in trials if not t.done or t.paused])


def kept_back(search: Search) -> float:
    """Return the seconds that the comparison of the leader so far would take; 0 where it is not going to be made."""
    leading, seconds = search.board.leading(), search.budget.seconds
    if seconds is None or leading is None or not isinstance(search.context.prepared.task, Several):
        return 0.0
    cost = sum(_costs(search, leading)) / search.workers
    return cost if cost <= SHARE * seconds else 0.0


def sharing(search: Search) -> tuple[Sharing, ...]:
    """Return what the validation rows say of one model for all targets against one for each; empty for one target."""
    task, leading = search.context.prepared.task, search.board.leading()
    if not isinstance(task, Several) or leading is None:
        return ()
    single = {t.candidate.recipe.values[ONLY]: t.record for t in search.board.trials if t.alone}
    frozen, found = _frozen(search, leading), list[Sharing]()
    for part in task.parts:
        metric, own = part.task.metric, single.get(part.target)
        together = leading.record.scores.get(part.target, {})
        apart = _scores(own).get(part.target, {})
        gain = None
        if metric in together and metric in apart:
            gain = part.skill(signed(metric, together)) - part.skill(signed(metric, apart))
        found.append(
            Sharing(
                target=part.target,
                metric=metric,
                together=together.get(metric),
                alone=apart.get(metric),
                frozen=frozen.get(part.target, {}).get(metric),
                gain=gain,
            )
        )
    return tuple(found)


def context_of(context: Context, job: RungJob) -> tuple[Context, RungJob]:
    """Return a search's context and a job of it as they are for the job's one target of several."""
    target = str(job.recipe.values[ONLY])
    own = replace(context, prepared=alone(context.prepared, target))
    if not job.survey:
        return own, job
    name = f"only-{slug(target)}-{job.survey}"
    if not own.path(name).exists():
        write_atomically(_features(context, job.survey, target), own.path(name))
    return own, replace(job, survey=name)


def _features(context: Context, survey: str, target: str) -> dict[str, Any]:
    """Return the survey's features on the rows that have a target's label, and that target's own head."""
    task, prepared = context.prepared.task, context.prepared
    assert isinstance(task, Several)
    (part,) = (p for p in task.parts if p.target == target)
    found = dict[str, torch.Tensor]()
    for name, tensor in load_features(context.path(survey)).items():
        split = name.partition("/")[0]
        if name in (HEAD_WEIGHT, HEAD_BIAS):
            found[name] = tensor[part.outputs]
        elif split in ("train", "validation"):
            rows = torch.from_numpy(getattr(prepared, split)[: len(tensor)])
            found[name] = tensor[part.labelled(prepared.targets[rows])[0]]
    return found


def _candidate(leading: Trial, target: str) -> Candidate:
    recipe = leading.candidate.recipe
    values = {n: v for n, v in recipe.values.items() if n not in TOGETHER} | {ONLY: target}
    return Candidate(recipe=replace(recipe, values=values), reason=f"{leading.id} for {target!r} alone")


def _costs(search: Search, leading: Trial) -> list[float]:
    """Return the predicted cost of each training."""
    if not leading.moves:
        return [0.0] * len(search.profile.each)
    rows = max(1, search.profile.train)
    return [search.prices.end(_candidate(leading, t.name).recipe, 0.0) * t.train / rows for t in search.profile.each]


def _why_not(search: Search, leading: Trial, most: float) -> str:
    """Return why the comparison is not made; empty: it is."""
    strategy = search.registry.strategy(leading.candidate.recipe.strategy)
    if not search.context.specs[leading.backbone].transfer:
        return "the winner is a no-transfer baseline, which shares nothing"
    if not leading.moves and overrides(strategy, "head"):
        return "its backbone is frozen and each target's head is solved by itself, so alone each would be the same"
    costs = _costs(search, leading)
    whole = sum(costs)
    if search.budget.seconds is not None:
        until = time.time() + max(max(costs), whole / search.workers)
        return "" if until <= search.end(leading.backbone) else f"it takes about {whole:.0f} s, too long"
    units = whole / search.unit if search.unit else 0.0
    if search.budget == Budget():
        room = search.spent + whole <= most * search.unit
        return "" if room or not whole else f"with these {units:.2g} units the search would cost too much"
    fair = whole <= max(search.unit, 0.5 * search.spent)
    return "" if fair else f"it takes {units:.2g} full fine-tunes, out of proportion to this search"


def _frozen(search: Search, leading: Trial) -> dict[str, dict[str, float]]:
    """Return the validation scores of each target's closed-form head on the leader's backbone, frozen."""
    record = next((r for r in search.survey if r.backbone == leading.backbone), None)
    if record is None or not record.features:
        return {}
    features, prepared = head_features(search.context.path(record.features)), search.context.prepared
    if features is None:
        return {}
    rows, groups = torch.from_numpy(prepared.train[: min(LAST_ROWS, len(features[0]))]), prepared.train_groups()
    own = None if groups is None else groups[: len(rows)]
    with exact():
        targets = prepared.targets[rows]
        head = judge(features[0][: len(rows)], targets, prepared.task, own).head
        balance = usual(balancing(prepared.profile, closed=True)).get(BALANCE, "none")
        head = evened_heads(head, prepared.task, targets, str(balance))
        outputs = features[1] @ head.weight.T + head.bias
    return scores_of(prepared.task, outputs, prepared.targets[torch.from_numpy(prepared.validation)])


def _scores(record: TrialRecord | None) -> Mapping[str, Mapping[str, float]]:
    return {} if record is None or record.status == "failed" else record.scores
