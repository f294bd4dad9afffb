"""What a phase trains: which tensors, at which learning rate, and which modules stay in eval mode."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from autotransfer.errors import PluginContractError

if TYPE_CHECKING:
    from autotransfer.schema import Phase, Training
    from autotransfer.train.network import TransferNetwork
    from autotransfer.train.stages import Stages

_NORMS_AND_BIASES = re.compile(r"(^|\.)(norm|bn|ln|layernorm|downsample\.1)\w*\.|bias$", re.IGNORECASE)


@dataclass(frozen=True)
class Selection:
    """The backbone parameters that a phase trains, and the stages in which they lie."""

    names: frozenset[str]
    stages: frozenset[int]

    @property
    def prefix(self) -> int | None:
        """Number of stages before the first trained one; None where none is trained."""
        return min(self.stages) if self.stages else None


def select(backbone: nn.Module, stages: Stages, phase: Phase) -> Selection:
    """Return what the phase trains of the backbone.

    Raises:
        PluginContractError: the phase names stages that there are not, or a pattern that finds nothing.
    """
    count = len(stages)
    names = [n for n, p in backbone.named_parameters() if p.is_floating_point()]
    owner = {n: stages.owners.get(n, 0) for n in names}
    if phase.freeze is not None:
        if not 0 <= phase.freeze <= count:
            raise PluginContractError(f"the phase freezes {phase.freeze} stages; the backbone has {count}")
        chosen = [n for n in names if owner[n] >= phase.freeze] if phase.freeze < count else []
    elif phase.stages is not None:
        wrong = [s for s in phase.stages if not 0 <= s < count]
        if wrong:
            raise PluginContractError(f"the phase trains stages {wrong}; the backbone has {count}, from 0")
        chosen = [n for n in names if owner[n] in phase.stages]
    else:
        chosen = names
    if phase.parameters is not None and chosen:
        found = set(_matching(backbone, names, phase.parameters))
        chosen = [n for n in chosen if n in found]
        if not chosen:
            raise PluginContractError(f"no backbone parameter is found by {phase.parameters!r}")
    return Selection(frozenset(chosen), frozenset(owner[n] for n in chosen))


def _matching(backbone: nn.Module, names: list[str], pattern: str) -> list[str]:
    if pattern != "norms_and_biases":
        return [n for n in names if re.search(pattern, n)]
    norms = {
        f"{path}." for path, m in backbone.named_modules() if "norm" in type(m).__name__.lower() and not [*m.children()]
    }
    shapes = {n: p.dim() for n, p in backbone.named_parameters()}
    by_name = {n for n in names if shapes[n] <= 1 and _NORMS_AND_BIASES.search(n)}  # ConvNeXt's downsample.1 convolves
    return [n for n in names if n in by_name or n.endswith("bias") or any(n.startswith(p) for p in norms)]


def apply(network: TransferNetwork, stages: Stages, selection: Selection) -> None:
    """Let exactly the selected parameters, and the head's, take gradients."""
    for name, parameter in network.backbone.named_parameters():
        parameter.requires_grad_(name in selection.names)
    for parameter in network.head.parameters():
        parameter.requires_grad_(True)


def set_modes(network: TransferNetwork, stages: Stages, selection: Selection, batch_statistics: bool) -> None:
    """Put trained stages and the head in train mode and everything frozen in eval mode.

    A frozen stage in train mode would drop out, and move its batch norms' statistics: freezing would leak,
    and stored activations would be wrong.
    """
    network.eval()
    network.head.train()
    if not selection.stages:
        return
    whole = len(selection.stages) >= len(stages)  # what lies in no stage may drop out before a frozen one
    for path, module in network.backbone.named_modules():
        stage = stages.modules.get(path)
        if len(stages) and stage is None:
            stage = _home(stages, path)
        module.training = whole if stage is None else stage in selection.stages
        if isinstance(module, _BatchNorm) and not (batch_statistics and module.training):
            module.training = False


def _home(stages: Stages, path: str) -> int | None:
    while path:
        if path in stages.modules:
            return stages.modules[path]
        path = path.rpartition(".")[0]
    return None


def parameter_groups(
    network: TransferNetwork, stages: Stages, selection: Selection, phase: Phase, training: Training
) -> list[dict[str, Any]]:
    """Return optimizer groups: the head at ``lr``; stage s of S at ``lr * lr_ratio * layer_decay ** (S - 1 - s)``.

    Tensors of one dimension (norms, biases) are not decayed. Each group keeps its full rate in ``peak``,
    which the schedule multiplies, and the names of its tensors in ``names``.
    """
    count = max(1, len(stages))
    rates = {
        s: phase.stage_lrs.get(str(s), phase.lr * phase.lr_ratio * phase.layer_decay ** (count - 1 - s))
        for s in range(count)
    }
    rows = [(f"head.{n}", p, phase.lr) for n, p in network.head.named_parameters()]
    rows += [
        (f"backbone.{n}", p, rates[min(stages.owners.get(n, 0), count - 1)])
        for n, p in network.backbone.named_parameters()
        if n in selection.names
    ]
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, parameter, lr in rows:
        decay = training.weight_decay if parameter.dim() > 1 else 0.0
        group = groups.setdefault((lr, decay), {"params": [], "names": [], "lr": lr, "peak": lr, "weight_decay": decay})
        group["params"].append(parameter)
        group["names"].append(name)
    return list(groups.values())
