"""The finalists: the leader's last rung again, with augmented rows.

Augmentation is decided here alone, where one training is left to decide it on: tried in every trial it would cost
each of them its stored activations. A rival is a trial whose recipe is the leader's with two values more, ``augment``
and ``augment_from``. It goes on from the leader's checkpoint before the last rung, which is what training it from its
own start would give: up to that epoch the two recipes are one, random numbers and all
(:func:`autotransfer.recipes.stream_key`). So it costs one rung, not a training, and its recipe still tells all. Both
are compared as any two trials on the same validation rows, after as many passes over the training rows.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from autotransfer.budget import Budget
from autotransfer.recipes import AUGMENT, AUGMENT_FROM
from autotransfer.schema import AUGMENTATIONS, Candidate
from autotransfer.search.board import Trial
from autotransfer.search.surrogate import improvement

if TYPE_CHECKING:
    from autotransfer.search.jobs import Generation
    from autotransfer.search.policy import Search

GAIN, SPREAD = 0.05, 0.05
"""Skill that augmented rows are expected to add to a last rung, and its standard deviation over data sets."""


def augmented(search: Search, most: float) -> Generation:
    """Run the leader's last rung again with augmented rows, where that is worth its price.

    Args:
        search: whose leader has run to its end.
        most: units that it may cost, where the caller set no budget.
    """
    plain = None if search.board.criterion.informed else search.board.leading()
    if plain is None or not may_have_rivals(plain) or plain.done < len(plain.rungs):
        return
    chosen: list[Trial] = []
    planned = 0.0
    for kind in search.space.finals(search.context.specs[plain.backbone]):
        candidate = rival(plain, kind)
        cost = search.prices.end(candidate.recipe, begins_at(plain))
        why = _not_worth(search, plain, cost, planned, len(chosen), most)
        trial = None if why else search.begin(candidate, "f")
        if trial is not None and search.board.go_on_from(trial, plain):
            chosen.append(trial)
            planned += cost
        elif trial is not None:
            search.board.trials.remove(trial)
            why = "its checkpoint could not be kept"
        if why:
            search.notes.append(f"the last rung of {plain.id} was not tried with augmented rows ({kind}): {why}")
        if why and AUGMENT not in search.space.given:
            break  # what is less likely to help costs no less
    yield from search.visit(chosen)
    search.notes += [verdict(plain, chosen, search.board.leading())] if chosen else []


def _not_worth(search: Search, plain: Trial, cost: float, planned: float, before: int, most: float) -> str:
    """Return why the leader's last rung is not run again at this cost, after other rivals; empty: it is."""
    mean, spread, mark = hoped(search.best_skill(), before)
    if AUGMENT not in search.space.given and search.worth(mean, spread, mark, cost) < search.price:
        gain = improvement(mean, spread, mark, search.surrogate.ceiling)
        return f"the {gain:.2g} skill that it is expected to gain is not worth {search.share(cost):.2g} units"
    if search.budget == Budget() and search.spent + planned + cost > most * search.unit:
        return f"the search would cost more than {most:g} units"
    return "" if search.in_time(plain.backbone, cost, planned) else f"it takes about {cost:.0f} s, too long"


def hoped(best: float, before: int) -> tuple[float, float, float]:
    """Return mean, spread and mark of a rival's expected improvement (:func:`surrogate.improvement`).

    A further kind is worth what it adds to the kinds before it, not to the plain last rung: about half as much. So
    several kinds are tried only where a last rung costs little.

    Args:
        best: skill so far.
        before: rivals that are tried already.
    """
    return best + GAIN, SPREAD * (2**0.5 if before else 1.0), best + GAIN * bool(before)


def may_have_rivals(trial: Trial) -> bool:
    """Return whether a trial moves its backbone, counts, and has no augmentation of its own."""
    own = any(p.augment != "none" for p in trial.phases)
    return trial.moves and trial.counted and not own and AUGMENT not in trial.candidate.recipe.values


def begins_at(trial: Trial) -> int:
    """Return the epoch at which a trial's last rung begins."""
    return (trial.rungs[-2] or 0) if len(trial.rungs) > 1 else 0


def rival(trial: Trial, kind: str) -> Candidate:
    """Return the candidate that goes on from a trial's last rung but one with this kind of augmentation."""
    begin, recipe = begins_at(trial), trial.candidate.recipe
    values = {**recipe.values, AUGMENT: kind, AUGMENT_FROM: begin}
    reason = f"{trial.id} with {AUGMENTATIONS[kind]} ({kind}) from epoch {begin} on"
    return Candidate(recipe=replace(recipe, values=values), reason=reason)


def verdict(plain: Trial, rivals: list[Trial], leading: Trial | None) -> str:
    """Return in one sentence what came of the rivals, by who leads now."""
    told = [f"{t.id} {'failed' if t.objective is None else f'{t.objective:.4f}'}" for t in rivals]
    assert plain.objective is not None
    end = f"{leading.id} was kept" if leading in rivals and leading is not None else "the plain one stays"
    return (
        f"the last rung of {plain.id} was run again with augmented rows: {', '.join(told)} on the validation rows "
        f"against {plain.objective:.4f} without; {end}"
    )
