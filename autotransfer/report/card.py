"""The model card: ``README.md`` in a model's folder."""

from __future__ import annotations

from collections.abc import Sequence

from autotransfer.report.several import evaluation_lines, sharing_lines
from autotransfer.report.text import conclusion, evaluation, share, winner_of
from autotransfer.report.words import clock, data_line, frozen
from autotransfer.schema import BALANCES, Recipe, RunRecord
from autotransfer.spec import BackboneSpec
from autotransfer.tasks.metrics import counts_alike


def model_card(run: RunRecord, spec: BackboneSpec, recipe: Recipe) -> str:
    """Return the card in Markdown: what it is, from what, how good, under which licence, how to load it."""
    values = [f"| {name} | {value} |" for name, value in recipe.values.items()]
    frozen_line = [f"| {frozen(recipe).replace(' ', ' | ', 1)} |"] if recipe.freeze is not None else []
    return "\n".join(
        [
            f"# {spec.id}, fine-tuned for {run.profile.task}",
            "",
            f"A {spec.modality} model made by autotransfer. It gives {_answers(run)}.",
            "",
            "## Data",
            "",
            data_line(run.profile) + ".",
            *(f"- {issue.text}" for issue in run.profile.issues),
            "",
            "## How good it is",
            "",
            *_scores(run),
            "",
            "## What it was made from",
            "",
            f"- backbone: `{spec.id}`{f', {spec.summary}' if spec.summary else ''}",
            f"- pretrained on: {spec.pretrained_on or 'not said by its card'}",
            f"- licence of the pretrained weights: {spec.licence}",
            *_evened(run, recipe),
            "",
            "| strategy | " + recipe.strategy + " |",
            "|---|---|",
            *frozen_line,
            *values,
            f"| seed | {recipe.seed} |",
            "",
            "## How to use it",
            "",
            "```python",
            "import autotransfer",
            'model = autotransfer.load("this folder")',
            "model.predict(x); model.module  # a plain torch.nn.Module",
            "```",
            "",
        ]
    )


def _evened(run: RunRecord, recipe: Recipe) -> list[str]:
    """Return what to know of the probabilities of a model in which classes count alike."""
    lines, won = [], winner_of(run)
    even = ", ".join(t.name for t in run.profile.each if counts_alike(t.task, t.metric))
    if how := BALANCES[recipe.training.balance]:
        of = f" of {even}" if even else ""
        lines.append(f"- classes{of}: {how}, so that its probabilities are those of equally frequent classes")
    if won is not None and any(won.shift):
        of = " of some targets" if run.profile.each else ""
        told = "are shifted as the validation rows say, and its probabilities with them"
        lines.append(f"- thresholds: its logits{of} {told}")
    return lines


def _answers(run: RunRecord) -> str:
    profile = run.profile
    if profile.each:
        return "; ".join(f"{t.name}: {_answer(t.task, t.classes)}" for t in profile.each)
    return _answer(profile.task, profile.classes)


def _answer(task: str, classes: Sequence[str]) -> str:
    if not classes:
        return "a number"
    shown = ", ".join(classes[:20]) + (f" ... ({len(classes)} in all)" if len(classes) > 20 else "")
    return f"{'any of the labels' if task == 'multilabel' else 'one of the classes'} {shown}"


def _scores(run: RunRecord) -> list[str]:
    lines = []
    if run.test is None:
        lines.append("There were no held-out rows, so it was not measured.")
    else:
        lines.append(f"- held-out rows: {evaluation(run.test)}")
        lines += [f"  - {own}" for own in evaluation_lines(run.test, run.baseline, ", baseline ")]
    if run.baseline is not None:
        lines.append(f"- best no-transfer baseline on the same rows: {evaluation(run.baseline)}")
    if run.test is not None and run.baseline is not None:
        lines.append(f"- {conclusion(run)}")
    lines += [f"- {own}" for own in sharing_lines(run)]
    part = share(run)
    cost = f"- cost: {clock(run.cpu_seconds)} of CPU time"
    return [*lines, cost + (f", {part:.2g} of one full fine-tune (predicted)" if part is not None else "")]
