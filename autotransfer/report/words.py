"""Numbers and small tables as a user reads them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from autotransfer.data.modalities import modality
from autotransfer.profiles import Profile
from autotransfer.recipes import AUGMENT, AUGMENT_FROM
from autotransfer.schema import BALANCES, Recipe
from autotransfer.targets import TargetProfile
from autotransfer.tasks.metrics import LOWER_IS_BETTER


def score(value: float | None) -> str:
    """Return a score in three digits: ``.908`` below one, else ``12.3``.

    >>> score(0.9081), score(-0.5), score(12.345), score(None)
    ('.908', '-.500', '12.3', '-')
    """
    if value is None or math.isnan(value):
        return "-"
    if math.isinf(value) or abs(value) >= 1e6:
        return f"{value:.3g}"
    if abs(value) < 0.9995:
        return f"{value:.3f}".replace("0.", ".", 1)
    return f"{value:.{max(0, 3 - len(str(int(abs(value)))))}f}"


def clock(seconds: float) -> str:
    """Return ``m:ss``, or ``h:mm:ss`` from an hour on.

    >>> clock(252.4), clock(3723)
    ('4:12', '1:02:03')
    """
    whole = max(0, round(seconds))
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"


def size(count: float) -> str:
    """Return a number of bytes in MB or GB.

    >>> size(17_200_000), size(2.5e9), size(0)
    ('17 MB', '2.5 GB', '0 MB')
    """
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def refused(reasons: Sequence[tuple[str, str]]) -> list[str]:
    """Return lines of names and reasons; names whose reasons differ in brackets alone share a line.

    >>> refused([("hub/a", "no weights (a of the hub)"), ("hub/b", "no weights (b of the hub)"), ("x/c", "too large")])
    ['2 names: no weights: hub/a, hub/b', 'x/c: too large']
    """
    groups: dict[str, list[tuple[str, str]]] = {}
    for name, reason in reasons:
        groups.setdefault(re.sub(r" \([^()]*\)", "", reason), []).append((name, reason))
    return [
        f"{alike[0][0]}: {alike[0][1]}"
        if len(alike) == 1
        else f"{len(alike)} names: {reason}: {', '.join(name for name, _ in alike)}"
        for reason, alike in groups.items()
    ]


def metric_of(objective: float | None, metric: str) -> float | None:
    """Return the metric behind an objective, whose sign was turned where lower is better."""
    return -objective if objective is not None and metric in LOWER_IS_BETTER else objective


def better(a: float, b: float, metric: str) -> bool:
    """Return whether ``a`` is a better value of the metric than ``b``."""
    return a < b if metric in LOWER_IS_BETTER else a > b


def frozen(recipe: Recipe) -> str:
    """Return ``freeze k/S``, or an empty string where the strategy draws none."""
    return "" if recipe.freeze is None else f"freeze {recipe.freeze}/{len(recipe.stages)}"


def recipe_line(recipe: Recipe, shift: Sequence[float] = ()) -> str:
    """Return a recipe in one line: backbone, strategy, freeze and every value, and whether its logits are shifted."""
    told = ("freeze_fraction", AUGMENT, AUGMENT_FROM, "balance", "thresholds")
    values = [f"{n} {_value(v)}" for n, v in recipe.values.items() if n not in told]
    parts = (recipe.backbone, f"strategy {recipe.strategy}", frozen(recipe), *values, treatment(recipe, shift))
    return ", ".join(p for p in parts if p)


def treatment(recipe: Recipe, shift: Sequence[float] = ()) -> str:
    """Return how a recipe treats its rows and classes, in words; empty: they are taken as they are.

    Args:
        recipe: of a trial.
        shift: of the trial's logits.
    """
    parts = (augmentation(recipe), BALANCES[recipe.training.balance], "shifted logits" if any(shift) else "")
    return ", ".join(p for p in parts if p)


def augmentation(recipe: Recipe) -> str:
    """Return how a recipe augments its rows, in words; empty: it does not."""
    kind, begin = recipe.values.get(AUGMENT), recipe.values.get(AUGMENT_FROM)
    return f"augmented rows ({kind})" + (f" from epoch {begin} on" if begin else "") if kind else ""


def data_line(profile: Profile) -> str:
    """Return the data in one line."""
    rows = f"{profile.rows:,} {modality(profile.modality).many}"
    kinds = f", {len(profile.classes)} classes ({profile.imbalance:.1f} : 1)" if profile.classes else ""
    kinds = f", {of_each(profile.each)}" if profile.each else kinds
    parts = f"{profile.train:,} train, {profile.validation:,} validation, {profile.test:,} test"
    parts += f", {profile.unlabeled.rows:,} unlabeled" if profile.unlabeled is not None else ""
    return f"{profile.name}: {rows}{kinds}, {profile.task}, judged by {profile.metric}; {parts}"


def of_each(profiles: Sequence[TargetProfile]) -> str:
    """Return what several targets are: ``2 targets (kind: 3 classes, 1.5 : 1, accuracy; age: a number, rmse)``."""
    parts = []
    for own in profiles:
        kind = f"{len(own.classes)} classes, {own.imbalance:.1f} : 1" if own.classes else "a number"
        parts.append(f"{own.name}: {kind}, {own.metric}")
    return f"{len(profiles)} targets ({'; '.join(parts)})"


def columns(rows: Sequence[Mapping[str, Any]], names: Sequence[str] | None = None) -> list[str]:
    """Return rows as aligned lines under a heading; nothing is cut off.

    Args:
        rows: values by column.
        names: the columns; None: those of the first row.
    """
    if not rows:
        return []
    chosen = list(names or rows[0])
    cells = [chosen, *([_cell(row.get(n)) for n in chosen] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(chosen))]
    return ["  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in cells]


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    return _value(value)


def _value(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
