"""Acme's strategy: the head alone, then the upper half too, with a small penalty on large features."""

from autotransfer.plugin import LogUniform, Phase, Strategy


class ProbeThenTune(Strategy):
    """Two phases and a loss term; the tests hold this file to 30 lines."""

    id = "acme/probe-then-tune"
    summary = "a third of the epochs on the head, the rest on the upper half of the stages as well"

    def space(self, profile, spec):
        return {"lr": LogUniform(1e-3, 1e-2), "lr_ratio": LogUniform(0.05, 0.5)}

    def phases(self, profile, spec, values):
        stages, third, lr = len(spec.stages), values["epochs"] / 3, values["lr"]
        return [
            Phase(epochs=third, lr=lr, freeze=stages),
            Phase(epochs=2 * third, lr=lr / 2, lr_ratio=values["lr_ratio"], freeze=stages // 2),
        ]

    def objective(self, context):
        from torch import nn

        class Penalty(nn.Module):
            def forward(self, step):
                return 1e-4 * step.stage_features[-1].square().mean()

        return Penalty()
