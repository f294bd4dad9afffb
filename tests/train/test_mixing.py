"""Mixup and CutMix: what becomes of inputs, features and losses, for every task, the same for the same seed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from autotransfer.errors import PluginContractError
from autotransfer.schema import Phase, Training
from autotransfer.tasks import make_task
from autotransfer.train import gradients
from autotransfer.train.balance import Loss
from autotransfer.train.mixing import Mix, draw, is_image
from autotransfer.train.stages import find_stages

IMAGES = torch.arange(4 * 3 * 6 * 8, dtype=torch.float32).reshape(4, 3, 6, 8)
TARGETS: dict[str, Any] = {
    "binary": (["a", "b"], torch.tensor([0, 1, 1, 0])),
    "multiclass": (["a", "b", "c"], torch.tensor([0, 1, 2, 0])),
    "multilabel": ([["a"], ["b", "c"]], torch.tensor([[1.0, 0, 0], [0, 1, 1], [0, 0, 0], [1, 1, 1]])),
    "regression": ([0.0, 1.0, 5.0], torch.tensor([[0.5], [-1.0], [2.0], [0.0]])),
}


def test_mixup_is_the_weighted_mean_of_two_rows() -> None:
    mix = draw("mixup", IMAGES, 4, np.random.default_rng(3))
    assert 0.0 <= mix.share <= 1.0
    made = mix.inputs(IMAGES)
    for row, other in enumerate(mix.partner.tolist()):
        torch.testing.assert_close(made[row], mix.share * IMAGES[row] + (1 - mix.share) * IMAGES[other])


def test_cutmix_takes_one_patch_from_the_partner_and_its_share_is_what_is_left() -> None:
    for seed in range(40):
        mix = draw("cutmix", IMAGES, 4, np.random.default_rng(seed))
        made, other = mix.inputs(IMAGES), IMAGES[mix.partner]
        assert ((made == IMAGES) | (made == other)).all()
        moved = mix.partner != torch.arange(4)
        assert (made[~moved] == IMAGES[~moved]).all()
        own = (made[moved] == IMAGES[moved]).float().mean((1, 2, 3))
        assert own.tolist() == pytest.approx([mix.share] * len(own))
        assert mix.box is not None
        top, left, bottom, right = mix.box
        assert 0 <= top <= bottom <= 6
        assert 0 <= left <= right <= 8


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("balance", ["none", "logits", "weights"])
def test_the_loss_is_that_of_both_targets_by_their_shares(name: str, balance: str) -> None:
    values, targets = TARGETS[name]
    if name == "regression" and balance != "none":
        pytest.skip("a regression has no classes")
    task = make_task(name, values)
    outputs = torch.randn(4, task.outputs, generator=torch.Generator().manual_seed(0))
    mix = Mix(torch.tensor([2, 3, 0, 1]), 0.3)
    loss = Loss.of(task, Training(label_smoothing=0.1, balance=balance), targets)
    wanted = 0.3 * loss(outputs, targets) + 0.7 * loss(outputs, targets[[2, 3, 0, 1]])
    torch.testing.assert_close(loss(outputs, targets, mix), wanted)
    assert not torch.isclose(wanted, loss(outputs, targets))


def test_mixed_cross_entropy_is_that_of_soft_targets() -> None:
    _, targets = TARGETS["multiclass"]
    task = make_task("multiclass", ["a", "b", "c"])
    outputs, mix = torch.randn(4, 3), Mix(torch.tensor([1, 0, 3, 2]), 0.25)
    hot = functional.one_hot(targets, 3).float()
    wanted = functional.cross_entropy(outputs, 0.25 * hot + 0.75 * hot[mix.partner])
    torch.testing.assert_close(Loss.of(task, Training(), targets)(outputs, targets, mix), wanted)


def test_patches_are_for_images() -> None:
    assert not is_image({"input_ids": IMAGES})
    with pytest.raises(PluginContractError, match="'cutmix', which is for images"):
        draw("cutmix", torch.zeros(4, 100), 4, np.random.default_rng(0))


@pytest.mark.parametrize("kind", ["strong", "mixup", "cutmix"])
def test_a_training_is_the_same_for_the_same_seed_and_not_that_of_plain_rows(toys: Any, kind: str) -> None:
    def losses(kind: str, seed: int = 0) -> list[float]:
        trainer = toys.trainer([Phase(epochs=3, lr=0.01, augment=kind)], seed=seed)
        trainer.run()
        return [p.train_loss for p in trainer.curve]

    assert losses(kind) == losses(kind) != losses("none")
    assert losses(kind) != losses(kind, seed=1)


def test_rows_are_mixed_after_light_augmentation(toys: Any) -> None:
    asked: list[str] = []

    class Rows(toys.TinyRows):
        def batch(self, indices: Any, augment: str = "none", rng: Any = None) -> Any:
            asked.append(augment)
            return super().batch(indices, augment, rng)

    plain = toys.rows(24)
    trainer = toys.trainer([Phase(epochs=1, augment="cutmix")], train=Rows(plain.inputs, plain.targets))
    trainer.run()
    assert set(asked[-4:]) == {"light"}


def test_of_what_is_no_image_the_features_are_mixed(toys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Sums(nn.Module):
        STAGES = ("one", "two")

        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(6, 5), nn.Linear(5, 4)

        def forward(self, x: Any) -> Any:
            return self.two(self.one(x).tanh())

    class Flat(toys.TinyRows):
        def batch(self, indices: Any, augment: str = "none", rng: Any = None) -> Any:
            return self.inputs[torch.tensor(list(indices))]

    plain = toys.rows(12)
    flat = Flat(torch.randn(12, 6, generator=torch.Generator().manual_seed(0)), plain.targets)
    body = toys.made(Sums)
    found_stages = find_stages(body, flat.inputs[:2], declared=Sums.STAGES)
    monkeypatch.setitem(toys.trainer.__globals__, "stages_of", lambda module, output: found_stages)
    trainer = toys.trainer([Phase(epochs=1, augment="mixup")], backbone=body, train=flat, validation=None)
    trainer.enter(0)
    fixed = Mix(torch.tensor([1, 0, 2]), 0.4)
    monkeypatch.setattr(gradients, "draw", lambda *a: fixed)
    with torch.no_grad():
        trainer.job.network.head.linear.weight.normal_(generator=torch.Generator().manual_seed(1))
    found = gradients.fill(trainer, np.array([0, 1, 2]))
    with torch.no_grad():
        pooled = body(flat.inputs[:3])
        outputs = trainer.job.network.head.classify(fixed.inputs(pooled))
    assert found == pytest.approx(float(trainer.job.losses[0](outputs, plain.targets[:3], fixed)), abs=1e-6)
