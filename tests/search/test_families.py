"""Which head of a family is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from autotransfer.profiles import Profile
from autotransfer.schema import Phase, Recipe
from autotransfer.search import families
from autotransfer.search.jobs import RungJob
from autotransfer.strategy import HeadState
from autotransfer.tasks import make_task
from autotransfer.train.fused import FusedHead

LABELS = ["a", "b"] * 20
NUMBERS = torch.tensor([0, 1] * 20)
FEATURES = torch.stack([1.0 - NUMBERS, NUMBERS], 1) + torch.randn(40, 2, generator=torch.Generator().manual_seed(0))
SURE = torch.eye(2)
LUCKY = torch.tensor([[1.0, -0.5], [2.0, 1.0]])
"""Its answers are less sure where they are right, and surer where they are wrong."""


def _kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, scores: list[float], task: Any, rows: int) -> str:
    """Return which of two heads is kept where they have these scores: ``lucky`` or ``sure``."""
    heads = [
        FusedHead(state=HeadState(weight=w, bias=torch.zeros(2)), objective=s, best_epoch=1.0, curve=(), epochs=1.0)
        for w, s in zip((LUCKY, SURE), scores, strict=True)
    ]
    monkeypatch.setattr(families, "fit_heads", lambda *a, **k: heads)
    recipes = [Recipe(backbone="m/a", strategy="core/probe", values={"lr": lr}) for lr in (0.1, 0.01)]
    profile = Profile(
        name="x", modality="image", task=task.name, metric=task.metric, rows=100, train=40, validation=rows, test=20
    )
    job = RungJob(id="t001", recipe=recipes[0], rivals=(recipes[1],), final=True)
    targets = (NUMBERS, NUMBERS)
    phases = [Phase(epochs=1.0, freeze=None, lr=0.1)] * 2
    folder = tmp_path / "kept"
    folder.mkdir()
    record = families.train_family(
        job, phases, task, profile, (FEATURES, FEATURES), targets, None, folder, lambda: None
    )
    assert record.objective == scores[recipes.index(record.recipe)]
    return "lucky" if record.recipe == recipes[0] else "sure"


@pytest.mark.parametrize(
    ("scores", "rows", "kept"),
    [
        ([0.85, 0.82], 40, "sure"),  # one standard error is .056
        ([0.85, 0.75], 40, "lucky"),
        ([0.85, 0.82], 4000, "lucky"),
        ([float("-inf"), float("-inf")], 40, "lucky"),
    ],
)
def test_of_heads_that_few_rows_cannot_tell_apart_the_one_of_least_loss_is_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, scores: list[float], rows: int, kept: str
) -> None:
    assert _kept(monkeypatch, tmp_path, scores, make_task("binary", LABELS), rows) == kept
