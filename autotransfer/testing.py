"""The kit for plugin authors: proves a backbone or a strategy right, with random weights and no network.

``autotransfer check FILE_OR_MODULE`` runs it from a shell, ``assert_backbone(spec)`` from a test.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from autotransfer.codec import from_json, to_json
from autotransfer.data.dataset import ItemDataset
from autotransfer.data.modalities import Modality, modality
from autotransfer.errors import AutotransferError, DataError
from autotransfer.profiles import Profile
from autotransfer.protocols import FittedModule, FittedState
from autotransfer.registry import Registry
from autotransfer.schema import Phase, Recipe, Training, Verdict
from autotransfer.space import Choice, Integer, LogUniform, Uniform
from autotransfer.spec import BackboneSpec, frozen_stages, with_stages
from autotransfer.strategy import Strategy
from autotransfer.tasks import make_task
from autotransfer.train.adapting import adapted
from autotransfer.train.cuts import check_cuts
from autotransfer.train.depths import make_network
from autotransfer.train.evaluate import arithmetic
from autotransfer.train.job import Job
from autotransfer.train.loop import Trainer
from autotransfer.train.network import build_backbone, mask_of, pooled_call, to_device
from autotransfer.train.stages import Stages, find_stages

ROWS = 3
TOLERANCE = 1e-4
PADDED = 1e-5
"""Share of the largest feature that padding may change one by."""
PROFILE = Profile(
    name="kit",
    modality="image",
    task="multiclass",
    metric="accuracy",
    rows=60,
    train=40,
    validation=10,
    test=10,
    classes=("a", "b", "c"),
    counts={"a": 20, "b": 20, "c": 20},
)
"""Made-up data that strategies are asked about."""
FEW = replace(PROFILE, rows=36, train=24, validation=6, test=6)
"""The same with so few rows that strategies for few apply."""


@dataclass(frozen=True)
class Finding:
    """Something that a check found wrong, or worth knowing."""

    level: str
    """``error`` or ``warning``."""
    about: str
    """Id of the backbone or strategy, or name of the plugin."""
    text: str

    def __str__(self) -> str:
        return f"{self.level}: {self.about}: {self.text}"


def check_plugin(plugin: str | Path | ModuleType) -> list[Finding]:
    """Return what is wrong with a plugin, and with every backbone and strategy that it offers.

    Its hooks about data are called too, with a source that is nobody's and three made-up images; those about a
    search (``score``, ``trial_finished``) are not.

    Args:
        plugin: a file, a module's name, or a module.

    Raises:
        ConfigError: there is no such file or module.
    """
    module = plugin.__name__ if isinstance(plugin, ModuleType) else str(plugin)
    registry = Registry.discover()
    if all(i.module != module for i in registry.plugins()):  # not installed: its own name is its namespace
        registry = Registry.discover([plugin])
        module = Path(module).stem if module.endswith(".py") else module
    mine = [i for i in registry.plugins() if i.module == module]
    names = {i.name for i in mine}
    found = [Finding("error", n, text) for n in sorted(names) for text in _data_hooks(Registry(mine))]
    found += [Finding("error", i.name, i.reason) for i in mine if i.status != "ok"]
    for spec in registry.backbones():
        if spec.namespace in names:
            found += check_backbone(spec, registry)
    for strategy in registry.strategies():
        if strategy.id.split("/")[0] in names:
            found += check_strategy(strategy)
    return found


def _data_hooks(registry: Registry) -> Iterator[str]:
    """Call the hooks about data; the registry keeps what fails with the plugin, what else is wrong is yielded."""
    options = {"target": None, "modality": None, "task": None, "groups": None}
    try:
        if registry.read_dataset(object(), options) is not None:
            yield "autotransfer_read_dataset takes any object for its own; return None for what is not"
    except DataError as error:
        yield f"autotransfer_read_dataset refuses what is not its own ({error}); return None for that"
    pixels = np.random.default_rng(0).integers(0, 256, (len(PROFILE.classes), 16, 16, 3), dtype=np.uint8)
    registry.profile_facts(ItemDataset("kit", pixels, {"class": PROFILE.classes}))


def check_backbone(spec: BackboneSpec, registry: Registry | None = None) -> list[Finding]:
    """Return what is wrong with a backbone, built with random weights.

    Checked: the card's JSON; output kind, width and values; the same answer twice and alone as in a batch; every
    parameter in one stage, and a gradient for each stage; prefix + suffix against the whole at every cut (a cut
    that fails is a warning: this depth is trained without stored activations); odd images.
    """
    registry = registry or Registry.discover()
    found = [] if from_json(BackboneSpec, to_json(spec)) == spec else [Finding("error", spec.id, "its card loses JSON")]
    try:
        module = build_backbone(registry.factory(spec), spec, None)
        rows = _Made(spec, registry)
        with arithmetic(1, "float32", torch.device("cpu")):
            return found + [Finding(level, spec.id, text) for level, text in _backbone(spec, module, rows)]
    except AutotransferError as error:
        return [*found, Finding("error", spec.id, str(error))]
    except Exception as error:  # whatever a foreign network raises is what the author wants to read
        return [*found, Finding("error", spec.id, f"{type(error).__name__}: {error}")]


def check_strategy(strategy: Strategy) -> list[Finding]:
    """Return what is wrong with a strategy, on made-up data and a tiny network with no, one and five stages.

    Checked: verdict, space and phases are what they should be; phases for values drawn from its own space; two
    epochs end with a finite loss and unchanged frozen stages. A strategy that applies to none of the made-up data
    gets a warning: nothing else of it was checked.
    """
    found: list[Finding] = []
    for count in (0, 1, 5):
        spec = with_stages(_toy_spec(strategy), tuple(f"s{i}" for i in range(count)))
        try:
            found += [Finding("error", strategy.id, text) for text in _strategy(strategy, spec)]
        except Exception as error:  # the same: it is the author's to read
            found.append(Finding("error", strategy.id, f"with {count} stages: {type(error).__name__}: {error}"))
    specs = [with_stages(_toy_spec(strategy), tuple(f"s{i}" for i in range(count))) for count in (0, 1, 5)]
    if not found and not any(strategy.applies(p, s).ok for p in (PROFILE, FEW) for s in specs):
        why = strategy.applies(PROFILE, specs[-1]).reason
        found = [Finding("warning", strategy.id, f"it does not apply to made-up data and was not tried: {why}")]
    return list(dict.fromkeys(found))


def assert_backbone(spec: BackboneSpec, registry: Registry | None = None) -> None:
    """Raise AssertionError with every error that :func:`check_backbone` finds; warnings pass."""
    _assert(check_backbone(spec, registry))


def assert_strategy(strategy: Strategy) -> None:
    """Raise AssertionError with every error that :func:`check_strategy` finds."""
    _assert(check_strategy(strategy))


def _assert(found: Sequence[Finding]) -> None:
    wrong = [str(f) for f in found if f.level == "error"]
    if wrong:
        raise AssertionError("\n".join(wrong))


class _Made:
    """Made-up rows of a backbone's modality, as its inputs."""

    def __init__(self, spec: BackboneSpec, registry: Registry) -> None:
        self.spec = spec
        self.kind: Modality = modality(spec.modality)
        self.tools = self.kind.tools(spec, registry, None)
        self.items = self.kind.samples(spec.input, ROWS)

    def inputs(self, items: Sequence[Any]) -> Any:
        """Return decoded items as a batch."""
        made = self.kind.stack(items, self.spec.input, self.tools, "none", None)
        return to_device(made, torch.device("cpu"))


def _backbone(spec: BackboneSpec, module: nn.Module, rows: _Made) -> Iterator[tuple[str, str]]:
    inputs = rows.inputs(rows.items)
    if spec.fitted and isinstance(module, FittedModule):
        module.restore(module.fit([inputs], torch.tensor([0, 1, 0][:ROWS])))
    stages = find_stages(module, inputs, declared=spec.stages, output=spec.output)
    if spec.width is not None and spec.width != stages.width:
        yield "error", f"its card says width {spec.width}; the network gives {stages.width} features"
    with torch.no_grad():
        whole = pooled_call(module, inputs, spec.output)
        if not torch.allclose(whole, pooled_call(module, inputs, spec.output), atol=1e-6):
            yield "error", "it gives another answer the second time (something random runs in eval mode)"
        alone = pooled_call(module, rows.inputs(rows.items[:1]), spec.output)  # shorter where rows are padded
        if not torch.allclose(whole[:1], alone, rtol=TOLERANCE, atol=TOLERANCE * float(whole.abs().max())):
            yield "error", "a row's answer depends on the other rows of its batch"
        yield from _padding(spec, module, inputs, whole)
    if not spec.fitted:
        yield from _stages(module, stages, inputs, spec.output)
    yield from _odd(spec, module, rows)


def _padding(spec: BackboneSpec, module: nn.Module, inputs: Any, whole: Tensor) -> Iterator[tuple[str, str]]:
    """Cut the padding of the shortest row off: what follows a row's end must not count in its answer."""
    mask = mask_of(inputs)
    if mask is None:
        return
    counts = mask.long().sum(1)
    row = int(counts.argmin())
    own = {n: v[row : row + 1, : counts[row]] if v.shape[:2] == mask.shape else v for n, v in inputs.items()}
    if spec.fitted or counts[row] == mask.shape[1]:
        return
    alone = pooled_call(module, own, spec.output)
    gap = float((whole[row] - alone[0]).abs().max())
    if not gap <= PADDED * float(whole.abs().max()):
        yield "error", f"what follows a row's end counts in its answer ({gap:.2g}); use attention_mask in every layer"


def _stages(module: nn.Module, stages: Stages, inputs: Any, output: str) -> Iterator[tuple[str, str]]:
    names = {n for n, _ in module.named_parameters()}
    lost = sorted(names - set(stages.owners))
    if lost:
        yield "error", f"parameters in no stage: {', '.join(lost[:5])}"
    for cut in check_cuts(module, stages, inputs):
        if not cut.ok:
            yield "warning", f"cut after {stages.paths[cut.after - 1]!r} is dropped: {cut.reason}"
    if not names:
        yield "warning", "it has no parameters: nothing of it can be fine-tuned, and only a head is trained"
        return
    module.zero_grad()
    pooled_call(module, inputs, output).pow(2).sum().backward()
    reached = {stages.owners[n] for n, p in module.named_parameters() if p.grad is not None}
    idle = [p for i, p in enumerate(stages.paths) if i not in reached and i in set(stages.owners.values())]
    if idle:
        yield "error", f"no gradient reaches the stages {', '.join(map(repr, idle))}"


def _odd(spec: BackboneSpec, module: nn.Module, rows: _Made) -> Iterator[tuple[str, str]]:
    for name, item in rows.kind.odd().items():
        with torch.no_grad():
            one = pooled_call(module, rows.inputs([item]), spec.output)
        if not one.isfinite().all():
            yield "error", f"an odd {rows.kind.name} ({name}) gives values that are not finite"


# Strategies.


class _Toy(nn.Module):
    """A stack of linear maps, as many as there are stages."""

    def __init__(self, stages: int) -> None:
        super().__init__()
        for i in range(stages):
            self.add_module(f"s{i}", nn.Linear(6, 6))
        self.count = stages

    def forward(self, x: Tensor) -> Tensor:
        for i in range(self.count):
            x = torch.tanh(self.get_submodule(f"s{i}")(x))
        return x

    def fit(self, rows: Any, targets: Tensor) -> FittedState:
        return FittedState()

    def restore(self, state: FittedState) -> None:
        return None


class _ToyRows:
    def __init__(self, count: int) -> None:
        rng = torch.Generator().manual_seed(0)
        self.inputs = torch.randn(count, 6, generator=rng)
        self.targets = (self.inputs[:, 0] > 0).long() + (self.inputs[:, 1] > 0.5).long()

    def __len__(self) -> int:
        return len(self.inputs)

    def batch(self, indices: Sequence[int], augment: str = "none", rng: Any = None) -> Tensor:
        return self.inputs[list(indices)]

    @property
    def views(self) -> int:
        return 1

    def view(self, numbers: Any) -> _ToyRows:
        return self


def _toy_spec(strategy: Strategy) -> BackboneSpec:
    return BackboneSpec(id="kit/toy", factory="autotransfer.testing:check_plugin", transfer=not strategy.baseline)


def _strategy(strategy: Strategy, spec: BackboneSpec) -> Iterator[str]:
    verdicts: list[Any] = [strategy.applies(p, spec) for p in (PROFILE, FEW)]
    odd = [type(v).__name__ for v in verdicts if not isinstance(v, Verdict)]
    if odd:
        yield f"applies() gave {odd[0]}; wanted a Verdict"
        return
    if any(not v.ok and not v.reason for v in verdicts):
        yield "applies() says no without a reason"
    profile = next((p for p, v in zip((PROFILE, FEW), verdicts, strict=True) if v.ok), None)
    if profile is None:
        return
    space = strategy.space(profile, spec)
    odd = [n for n, d in space.items() if not isinstance(d, (Choice, Integer, Uniform, LogUniform))]
    if odd:
        yield f"space() holds {odd}, which are no domains"
        return
    rng = random.Random(0)
    for _ in range(3):
        values: dict[str, Any] = {"epochs": 2, **{n: d.sample(rng) for n, d in sorted(space.items())}}
        if "freeze_fraction" in values:
            values["freeze"] = frozen_stages(float(values["freeze_fraction"]), len(spec.stages))
        phases = strategy.phases(profile, spec, values)
        if not isinstance(phases, list) or not all(isinstance(p, Phase) for p in phases):
            yield f"phases() gave {type(phases).__name__}; wanted a list of Phase"
            return
        beyond = [p for p in phases if p.freeze is not None and p.freeze > len(spec.stages)]
        if beyond:
            yield f"a phase freezes more stages than the {len(spec.stages)} there are"
    yield from _trained(strategy, profile, spec, values, phases)


def _trained(
    strategy: Strategy, profile: Profile, spec: BackboneSpec, values: dict[str, Any], phases: list[Phase]
) -> Iterator[str]:
    short = [replace(p, epochs=min(p.epochs, 2)) for p in phases]
    train, held = _ToyRows(profile.train), _ToyRows(profile.validation)
    with arithmetic(1, "float32", torch.device("cpu")):
        torch.manual_seed(0)
        backbone = _Toy(len(spec.stages)).eval()
        changed = adapted(backbone, strategy, values, train, declared=spec.stages, output="vector", seed=0)
        stages = find_stages(backbone, train.batch([0, 1]), declared=spec.stages)
        before = {n: t.clone() for n, t in backbone.state_dict().items()}
        settings: Training = strategy.training(profile, values)
        recipe = Recipe(backbone=spec.id, strategy=strategy.id, stages=spec.stages, training=settings)
        task = make_task("multiclass", [int(v) for v in train.targets])
        network = make_network(backbone, stages, task, strategy, "vector")
        network.adapted = changed
        trainer = Trainer(
            Job(
                network=network,
                stages=stages,
                task=task,
                strategy=strategy,
                phases=short,
                recipe=recipe,
                train=train,
                validation=held,
            )
        )
        trainer.run()
        trainer.finish()
        if not trainer.outputs().isfinite().all():
            yield "two epochs end with outputs that are not finite"
        always = min((p.freeze or 0 for p in short if p.stages is None), default=0)
        moved = _moved(backbone, before, lambda n: stages.owners.get(n, 0) < always)
        if moved and short and all(p.freeze is not None for p in short):
            yield f"parameters of frozen stages moved: {', '.join(moved)}"


def _moved(module: nn.Module, before: Mapping[str, Tensor], frozen: Callable[[str], bool]) -> list[str]:
    now = module.state_dict()
    return [n for n, t in before.items() if n in now and frozen(n) and not torch.equal(t, now[n])]
