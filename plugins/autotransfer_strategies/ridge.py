"""Heads in closed form: no epoch of training, on the last features or on those of all depths."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autotransfer.plugin import BackboneSpec, HeadState, Profile, Strategy, Verdict
from autotransfer_strategies.settings import transfers

if TYPE_CHECKING:
    from torch import Tensor


class Ridge(Strategy):
    """No phase at all: ridge regression on frozen features, its penalty and sharpness chosen by leave-one-out."""

    id = "core/ridge"
    summary = "ridge regression on frozen features, in closed form"
    source = "Allen 1974 (PRESS); Rifkin and Lippert 2007, Notes on regularized least squares"
    needs = "frozen features"
    when = "always"

    def applies(self, profile: Profile, spec: BackboneSpec) -> Verdict:
        """Return whether there is something to transfer."""
        return transfers(spec)

    def head(self, features: Tensor, targets: Tensor, groups: Tensor | None = None) -> HeadState | None:
        """Return the ridge solution; of classes and labels, as logits with a fitted temperature."""
        from autotransfer_strategies.closed_form import ridge_head

        return ridge_head(features, targets, groups)


class Depths(Ridge):
    """The same on the pooled features of all stages side by side."""

    id = "core/depths"
    summary = "ridge regression on the frozen features of all stages, in closed form"
    source = "Evci et al. 2022, Head2Toe (arXiv 2201.03529)"
    needs = "frozen features, two stages or more"
    depths = True

    def applies(self, profile: Profile, spec: BackboneSpec) -> Verdict:
        """Return whether there are features beside the last ones."""
        return transfers(spec, 2)
