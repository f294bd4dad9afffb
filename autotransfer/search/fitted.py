"""The state of a fitted backbone, such as a vocabulary: fitted once a search, and kept in its work folder."""

from __future__ import annotations

import json

import torch
from torch import nn

from autotransfer.protocols import FittedModule, FittedState, Rows
from autotransfer.search.jobs import Context, slug
from autotransfer.search.survey import load_features, write_atomically
from autotransfer.spec import BackboneSpec
from autotransfer.tasks import Several
from autotransfer.train.evaluate import EVALUATION_BATCH

_ALWAYS = "."
"""A file without a tensor cannot be told from a damaged one, so there is always this one."""


def fitted_state(context: Context, spec: BackboneSpec, module: nn.Module, rows: Rows | None) -> FittedState:
    """Return the state of a fitted spec: from the work folder, or fitted on these rows and kept there."""
    assert isinstance(module, FittedModule)
    file = context.path(f"fitted-{slug(spec.id)}.safetensors")
    values = file.with_suffix(".json")
    if rows is None or file.exists():
        tensors = {n: t for n, t in load_features(file).items() if n != _ALWAYS}
        return FittedState(tensors=tensors, values=json.loads(values.read_text(encoding="utf-8")))
    starts = range(0, len(rows), EVALUATION_BATCH)
    task, targets = context.prepared.task, rows.targets
    if isinstance(task, Several):
        targets = task.survey_target(targets).float()
    state = module.fit((rows.batch(range(i, min(i + EVALUATION_BATCH, len(rows)))) for i in starts), targets)
    values.write_text(json.dumps(dict(state.values)), encoding="utf-8")
    write_atomically({**state.tensors, _ALWAYS: torch.zeros(1)}, file)
    return state
