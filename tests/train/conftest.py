"""Tiny networks, rows and trainings that the tests of the train floor share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from autotransfer.schema import Phase, Recipe, Training
from autotransfer.strategy import Strategy
from autotransfer.tasks import make_task
from autotransfer.train.depths import make_network
from autotransfer.train.loop import Job, Trainer
from autotransfer.train.stages import Stages, find_stages


def block(inputs: int, outputs: int, dropout: float = 0.0) -> nn.Sequential:
    """Convolution, batch norm, ReLU in place, dropout."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True), nn.Dropout(dropout)
    )


class Conv(nn.Module):
    """Stem, three stages, a pooled vector; batch norms, dropout."""

    STAGES = ("one", "two", "three")
    WIDTH = 8

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.one = block(4, 4, dropout)
        self.two = block(4, 6, dropout)
        self.three = block(6, 8, dropout)
        self.last = nn.BatchNorm1d(8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.three(self.two(self.one(self.stem(x))))
        return self.last(x.mean((2, 3)))


class Residual(nn.Module):
    """Stages that add to their input in place, so that the stage's own output changes after it was given."""

    STAGES = ("one", "two", "three")

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three = (InPlace() for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        return self.three(self.two(self.one(x.clone()))).mean((2, 3))


class InPlace(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x += self.conv(x)
        return x


class Tokens(nn.Module):
    """Patches, class token, positions, two attention blocks, a norm; gives tokens."""

    STAGES = ("blocks.0", "blocks.1")

    def __init__(self) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.randn(1, 1, 8))
        self.pos_embed = nn.Parameter(torch.randn(1, 17, 8))
        self.patches = nn.Conv2d(3, 8, 2, stride=2)
        self.drop = nn.Dropout(0.2)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True) for _ in range(2)
        )
        self.norm = nn.LayerNorm(8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = self.drop(torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1) + self.pos_embed)
        for layer in self.blocks:
            x = layer(x)
        return self.norm(x)


class Pairs(nn.Module):
    """Stages that hand on a tuple."""

    STAGES = ("one", "two")

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = Pair(), Pair()

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.two(self.one((x, x * 2)))
        return (first + second).mean((2, 3))


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, pair: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        a, b = pair
        return self.conv(a) + b, b.tanh()


class Skip(nn.Module):
    """The second stage's input is used again after the third: no cut after the second is right."""

    STAGES = ("one", "two", "three")

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three = (nn.Conv2d(3, 3, 3, padding=1) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        first = self.one(x)
        return (self.three(self.two(first)) + first).mean((2, 3))


class StemSkip(nn.Module):
    """The stem's output is used again at the end: the stem must run for every cut."""

    STAGES = ("one", "two")

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.one, self.two = (nn.Conv2d(3, 3, 3, padding=1) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        first = self.stem(x)
        return (self.two(self.one(first)) + first).mean((2, 3))


class Functional(nn.Module):
    """No submodule at all."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(5, 3))
        self.bias = nn.Parameter(torch.zeros(5))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x.mean((2, 3)) @ self.weight.T + self.bias)


class Shared(nn.Module):
    """One linear map that two stages use, and one ReLU that runs everywhere."""

    STAGES = ("one", "two", "three")

    def __init__(self) -> None:
        super().__init__()
        common = nn.Conv2d(3, 3, 1)
        self.relu = nn.ReLU()
        self.one = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), common)
        self.two = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), common)
        self.three = nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.three(self.relu(self.two(self.relu(self.one(x)))))).mean((2, 3))


class TinyRows:
    """Rows in memory; ``light`` augmentation adds noise, and of each row there are three views."""

    views = 3

    def __init__(self, inputs: Tensor, targets: Tensor) -> None:
        self.inputs, self.targets = inputs, targets
        self.asked: list[list[int]] = []

    def view(self, numbers: int | np.ndarray) -> TinyRows:
        shift = torch.as_tensor(numbers).float().expand(len(self))[:, None, None, None]
        return TinyRows(self.inputs + shift, self.targets)

    def __len__(self) -> int:
        return len(self.inputs)

    def batch(self, indices: Sequence[int], augment: str = "none", rng: np.random.Generator | None = None) -> Tensor:
        self.asked.append(list(indices))
        chosen = self.inputs[torch.tensor(list(indices))]
        if augment == "none":
            return chosen
        assert rng is not None
        return chosen + torch.from_numpy(rng.normal(size=chosen.shape).astype(np.float32)) * 0.1


class Toy(Strategy):
    """A strategy with nothing of its own."""

    id = "toy/toy"


VALUES = tuple("abc")
TASK = make_task("multiclass", list(VALUES))


def rows(count: int, seed: int = 0, size: int = 8) -> TinyRows:
    generator = torch.Generator().manual_seed(seed)
    targets = torch.arange(count) % len(VALUES)
    inputs = torch.randn(count, 3, size, size, generator=generator)
    inputs[:, 0] += targets[:, None, None].float()
    return TinyRows(inputs, targets)


def made(cls: type[nn.Module], *args: Any, seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = cls(*args)
        for name, buffer in module.named_buffers():  # statistics that no network starts with
            if name.endswith("running_mean"):
                buffer.normal_()
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 2.0)
    return module.eval()


def stages_of(module: nn.Module, output: str = "vector", declared: Sequence[str] = ()) -> Stages:
    return find_stages(module, rows(2).inputs, declared=declared or getattr(module, "STAGES", ()), output=output)


def trainer(
    phases: Sequence[Phase],
    *,
    strategy: Strategy | None = None,
    backbone: nn.Module | None = None,
    output: str = "vector",
    values: Mapping[str, Any] | None = None,
    train: TinyRows | None = None,
    validation: Any = ...,
    unlabeled: Any = None,
    pooled: Any = None,
    seed: int = 0,
    **settings: Any,
) -> Trainer:
    """Return a training of a tiny network, always the same for the same arguments."""
    body = made(Conv) if backbone is None else backbone
    training = Training(**{"batch_size": 6, "warmup": 0.0, **settings})
    stages = stages_of(body, output)
    recipe = Recipe(backbone="toy/net", strategy="toy/toy", values=dict(values or {}), training=training, seed=seed)
    job = Job(
        network=make_network(body, stages, TASK, strategy or Toy(), output, training.dropout),
        stages=stages,
        task=TASK,
        strategy=strategy or Toy(),
        phases=list(phases),
        recipe=recipe,
        train=train or rows(24),
        validation=rows(12, seed=1) if validation is ... else validation,
        unlabeled=unlabeled,
        pooled=pooled,
    )
    return Trainer(job)


def tensors(module: nn.Module) -> dict[str, Tensor]:
    return {n: t.detach().clone() for n, t in module.state_dict().items()}


def changed(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> set[str]:
    assert before.keys() == after.keys()
    return {n for n in before if not torch.equal(before[n], after[n])}


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def toys() -> SimpleNamespace:
    """Everything above, by name."""
    return SimpleNamespace(**{n: v for n, v in globals().items() if not n.startswith("_")})
