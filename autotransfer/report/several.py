"""What is told of several targets: each one's scores, and whether one model for all beats one for each."""

from __future__ import annotations

import math
from collections.abc import Sequence

from autotransfer.report.words import score
from autotransfer.schema import Evaluation, RunRecord, TrialRecord
from autotransfer.targets import NOT_ALONE, Sharing, TargetProfile


def target_columns(profiles: Sequence[TargetProfile]) -> list[str]:
    """Return the names of the leaderboard's columns of several targets: ``target metric``."""
    return [f"{t.name} {t.metric}" for t in profiles]


def scores_of_each(trial: TrialRecord, profiles: Sequence[TargetProfile]) -> dict[str, float | None]:
    """Return the deciding metric of each target on the validation rows, by its column."""
    values = [trial.scores.get(t.name, {}).get(t.metric) for t in profiles]
    return dict(zip(target_columns(profiles), values, strict=True))


def evaluation_lines(test: Evaluation, baseline: Evaluation | None, told: str = "   baseline ") -> list[str]:
    """Return a line for each of several targets: its score on the held-out rows, and the baseline's."""
    lines = []
    for target, own in test.each.items():
        ends = f"95 %: {score(own.low)} to {score(own.high)}; {own.rows:,} rows"
        line = f"{target}: {own.metric} {score(own.value)} ({ends})"
        other = baseline.each.get(target) if baseline is not None else None
        lines.append(line + (f"{told}{score(other.value)}" if other is not None else ""))
    return lines


def sharing_lines(run: RunRecord) -> list[str]:
    """Return what the validation rows say of sharing, a line for each target and a verdict; empty for one target."""
    lines = [_line(s) for s in run.sharing]
    if not lines:
        return []
    return [*lines, sharing_verdict(run)]


def sharing_verdict(run: RunRecord) -> str:
    """Return in a sentence or two whether one model for all targets beat one for each on the validation rows."""
    gains = [s.gain for s in run.sharing if s.gain is not None]
    if len(gains) < len(run.sharing):
        told = next((n for n in run.notes if n.startswith(NOT_ALONE)), "a training for one target alone gave no score")
        return f"Whether sharing pays was not measured: {told}."
    rows, gain = run.profile.validation, sum(gains) / len(gains)
    noise = 0.5 / math.sqrt(max(4, rows) * len(gains))
    told = f"{'gains' if gain >= 0 else 'costs'} {score(abs(gain))} skill over one model for each"
    shown = "more than" if abs(gain) > noise else "no more than"
    return (
        f"One model for all targets {told} by the same recipe, {shown} the {score(noise)} that {rows:,} validation "
        "rows leave open; the winner was chosen on these rows, which favours it."
    )


def _line(own: Sharing) -> str:
    parts = [f"{score(own.together)} with all targets"]
    parts += [f"{score(own.alone)} alone"] if own.alone is not None else []
    parts += [f"{score(own.frozen)} with a frozen head"] if own.frozen is not None else []
    return f"{own.target}: {own.metric} {', '.join(parts)}"
