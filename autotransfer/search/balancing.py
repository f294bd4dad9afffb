"""Which classes are to count alike: what the profile settles, and what is left to the search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from autotransfer.codec import Scalar
from autotransfer.data.targets import IMBALANCED
from autotransfer.profiles import Profile
from autotransfer.schema import BALANCES, TrialRecord
from autotransfer.space import Choice, Domain
from autotransfer.targets import SEVERAL, TargetProfile
from autotransfer.tasks import Several
from autotransfer.tasks.metrics import BETWEEN, EVEN, counts_alike
from autotransfer.tasks.thresholds import DECISIONS, Shift, best_shift
from autotransfer.train.balance import log_priors

if TYPE_CHECKING:
    from torch import Tensor

    from autotransfer.protocols import Task

BALANCE, THRESHOLDS = "balance", "thresholds"
_ALIKE = EVEN | BETWEEN
SHOWN = 10
"""Shifts that are told of."""
_UNSUITED = {
    "regression": ("logits", "weights", "sampling"),
    "multilabel": ("sampling",),
    SEVERAL: ("sampling",),  # a row that is drawn for the class of one target brings its labels of the others along
}
"""What has no meaning for a task."""


def balancing(profile: Profile, *, closed: bool) -> dict[str, Domain]:
    """Return the domains of ``balance`` and ``thresholds`` where the data and their metric call for them.

    One value says all of the balance: each of its kinds alone makes classes count alike, two of them too much. For
    metrics that count classes alike, the first is the logit-adjusted loss, which needs no other order of rows; the
    sampler is for who asks for it: it shows small classes again and again, and some rows not at all. Thresholds are
    no choice: whether the logits are shifted is decided at the end on the validation rows, and costs nothing.

    Of several targets one value is for all whose metric calls for it (``tasks.metrics.counts_alike``), and it is in the
    space where the data of any of them call for it; each has thresholds of its own.

    Args:
        profile: of the data.
        closed: the head has its own closed form, whose logits are adjusted or not.
    """
    found = dict[str, Domain]()
    every: Sequence[Profile | TargetProfile] = profile.each or (profile,)
    for own in sorted(every, key=lambda own: own.metric in EVEN):  # these say which kind comes first
        found |= _of(own, closed=closed)
    return found


def _of(own: Profile | TargetProfile, *, closed: bool) -> dict[str, Domain]:
    if own.task == "multilabel":
        return {THRESHOLDS: Choice((True,))} if own.metric in BETWEEN else {}
    even, between = own.metric in EVEN, own.metric in BETWEEN
    if own.imbalance <= IMBALANCED or not own.classes or not (even or between):
        return {}
    kinds = ("logits",) if closed else ("logits", "weights")
    return {BALANCE: Choice((*kinds, "none") if even else ("none", *kinds)), THRESHOLDS: Choice((True,))}


def usual(domains: Mapping[str, Domain]) -> dict[str, Scalar]:
    """Return the balance that what is always tried has: the first of its domain."""
    domain = domains.get(BALANCE)
    return {BALANCE: domain.values[0]} if isinstance(domain, Choice) else {}


def faults(profile: Profile, given: Mapping[str, Domain]) -> list[str]:
    """Return what is wrong with a caller's domains of these names."""
    found = []
    if BALANCE in given:
        kinds = [k for k in BALANCES if k not in _UNSUITED.get(profile.task, ())]
        told = f"wanted for {profile.task} some of: {', '.join(kinds)}"
        if profile.each and not any(counts_alike(t.task, t.metric) for t in profile.each):
            kinds, told = ["none"], f"wanted 'none': no target is of classes and judged by {', '.join(sorted(_ALIKE))}"
        if not _within(given[BALANCE], kinds):
            found.append(f"balance is {shown(given[BALANCE])}; {told}")
    if THRESHOLDS in given:
        metrics = [t.metric for t in profile.each] or [profile.metric]
        some = any(m in DECISIONS for m in metrics)
        if not _within(given[THRESHOLDS], [False, True] if some else [False]):
            wanted = "true or false" if some else f"false: no threshold changes {', '.join(metrics)}"
            found.append(f"thresholds is {shown(given[THRESHOLDS])}; wanted {wanted}")
    return found


def shifted(record: TrialRecord, task: Task, outputs: Tensor, targets: Tensor, training: Tensor) -> TrialRecord:
    """Return a trial's record with the shift of its logits, where its recipe asks for one and it is shown to help.

    The scores stay as they are: trials are compared without it, and no choice on the validation rows flatters them.

    Args:
        record: of the trial.
        task: of the data.
        outputs: of its best weights on the validation rows, ``float32`` [N, K].
        targets: of the same rows.
        training: targets of the training rows.
    """
    if not record.recipe.training.thresholds:
        return record
    if isinstance(task, Several):
        return _each_shifted(record, task, outputs, targets, training)
    found = best_shift(task, outputs, targets, log_priors(training, task.outputs))
    return record if found is None else replace(record, shift=found.values, notes=(*record.notes, _told(found, task)))


def _each_shifted(
    record: TrialRecord, task: Several, outputs: Tensor, targets: Tensor, training: Tensor
) -> TrialRecord:
    """Return the record with a shift for each of several targets, as its own validation and training rows say."""
    values, notes = [0.0] * task.outputs, list[str]()
    for part in task.parts:
        if not part.task.classes:
            continue
        priors = log_priors(part.labelled(training)[1], part.task.outputs)
        found = best_shift(part.task, *part.of(outputs, targets), priors)
        if found is not None:
            values[part.outputs] = found.values
            notes.append(f"{part.target}: {_told(found, part.task)}")
    return replace(record, shift=tuple(values), notes=(*record.notes, *notes)) if notes else record


def _told(found: Shift, task: Task) -> str:
    named = [f"{name} {value:+.3g}" for name, value in zip(task.classes, found.values, strict=True) if value]
    more = f" and {len(named) - SHOWN} more" if len(named) > SHOWN else ""
    return (
        f"its logits are shifted ({', '.join(named[:SHOWN])}{more}): {task.metric} {found.before:.4f} on the "
        f"validation rows without, {found.after:.4f} with it, each fifth of them shifted as the others say"
    )


def shown(domain: Domain) -> str:
    """Return a domain as a caller wrote it.

    >>> shown(Choice(("a", True)))
    "'a', True"
    """
    return ", ".join(map(repr, domain.values)) if isinstance(domain, Choice) else str(domain)


def _within(domain: Domain, values: Sequence[Scalar]) -> bool:
    known = {(type(v), v) for v in values}  # true is not 1 here
    return isinstance(domain, Choice) and all((type(v), v) in known for v in domain.values)
