"""bfloat16 is used where it is faster and right, weights keep learning under it, and answers are kept."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from autotransfer.spec import BackboneSpec
from autotransfer.train import autocast, precision
from autotransfer.train.autocast import cpu_facts, exact, has_bfloat16, mixed
from autotransfer.train.cuts import check_cuts
from autotransfer.train.heads import LinearHead, pool_activation, pool_output
from autotransfer.train.precision import Precision, choose

CPU = torch.device("cpu")
SPEC = BackboneSpec(id="toy/net", factory="toys:net")


@pytest.fixture
def capable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever this machine has, bfloat16 counts as had: emulated it is as right."""
    monkeypatch.setattr(autocast, "has_bfloat16", lambda device: True)
    monkeypatch.setattr(precision, "has_bfloat16", lambda device: True)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A clock by which passes in each dtype take what a test says, in seconds."""
    told = SimpleNamespace(float32=1.0, bfloat16=0.5, now=0.0, passes=[])
    plain = {n: getattr(precision, n) for n in ("frozen_pass", "training_pass")}

    def timed(name: str) -> Any:
        def run(*given: Any) -> Any:
            dtype = "bfloat16" if torch.is_autocast_enabled("cpu") else "float32"
            told.passes.append(dtype)
            told.now += getattr(told, dtype)
            return plain[name](*given)

        return run

    for name in plain:
        monkeypatch.setattr(precision, name, timed(name))
    monkeypatch.setattr(precision, "_clock", lambda device: told.now)
    monkeypatch.setattr(precision, "AGREEMENT", 0.9)  # features of eight values are coarse
    return told


def ask(toys: Any, folder: Path, kind: str = "frozen", body: nn.Module | None = None, **given: Any) -> Precision:
    body = toys.made(toys.Conv) if body is None else body
    return choose(body, toys.rows(12).inputs, 1, kind, **{"spec": SPEC, "folder": folder, **given})


@pytest.mark.parametrize(
    ("float32", "bfloat16", "dtype", "passes"),
    [
        (1.0, 0.5, "bfloat16", 4),  # clear: one comparison after the first, untimed one
        (1.0, 0.80, "bfloat16", 8),
        (1.0, 0.90, "float32", 8),
        (1.0, 3.0, "float32", 4),
        (0.001, 0.0001, "float32", 4),  # too short to be worth anything
    ],
)
@pytest.mark.parametrize("kind", ["frozen", "training"])
def test_bfloat16_must_be_faster_by_fifteen_percent(
    toys: Any,
    tmp_path: Path,
    capable: None,
    clock: Any,
    kind: str,
    float32: float,
    bfloat16: float,
    dtype: str,
    passes: int,
) -> None:
    clock.float32, clock.bfloat16 = float32, bfloat16
    found = ask(toys, tmp_path, kind)
    assert (found.dtype, len(clock.passes)) == (dtype, passes)
    assert found.speedup == pytest.approx(float32 / bfloat16, rel=1e-3)
    assert "ms a row" in found.reason


class _Odd(nn.Module):
    """Gives in bfloat16 what a test says."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.weight, self.how = nn.Parameter(torch.ones(3)), how

    def forward(self, x: Tensor) -> Tensor:
        out = x.mean((2, 3)) * self.weight
        if not torch.is_autocast_enabled("cpu"):
            return out + 1000 * torch.eye(3)[0] if self.how == "offset" else out
        if self.how == "raise":
            raise RuntimeError("not implemented for 'BFloat16'")
        if self.how == "offset":  # one large feature that is the same in all rows hides all others
            return out.flip(0) + 1000 * torch.eye(3)[0]
        return out * float("nan") if self.how == "nan" else out.flip(0)


@pytest.mark.parametrize(
    ("how", "told"),
    [("raise", "does not run"), ("nan", "not finite"), ("other", "differ: cosine"), ("offset", "differ: cosine")],
)
@pytest.mark.parametrize("kind", ["frozen", "training"])
def test_what_bfloat16_spoils_stays_in_float32(
    toys: Any, tmp_path: Path, capable: None, clock: Any, kind: str, how: str, told: str
) -> None:
    found = ask(toys, tmp_path, kind, _Odd(how))
    assert found.dtype == "float32"
    assert told in found.reason


def test_a_fault_of_the_backbone_itself_is_not_hidden(toys: Any, tmp_path: Path, capable: None) -> None:
    with pytest.raises(RuntimeError, match="size|shape|channels"):
        ask(toys, tmp_path, body=nn.Conv2d(5, 2, 3))
    with pytest.raises(ValueError, match="kind is 'both'"):
        ask(toys, tmp_path, "both")


def test_without_instructions_or_weights_nothing_is_measured(
    toys: Any, tmp_path: Path, clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "has_bfloat16", lambda device: False)
    assert "no instructions" in ask(toys, tmp_path).reason
    monkeypatch.setattr(precision, "has_bfloat16", lambda device: True)
    assert "no pretrained weights" in ask(toys, tmp_path, body=nn.Flatten()).reason
    assert clock.passes == []
    assert not list(tmp_path.iterdir())


def test_the_first_answer_stays_for_the_same_question_only(
    toys: Any, tmp_path: Path, capable: None, clock: Any
) -> None:
    first = ask(toys, tmp_path)
    clock.bfloat16 = 5.0
    assert ask(toys, tmp_path) == first
    assert first.dtype == "bfloat16"
    assert ask(toys, tmp_path, "training").dtype == "float32"
    other = BackboneSpec(id="toy/other", factory="toys:net")
    assert ask(toys, tmp_path, spec=other).dtype == "float32"
    body = toys.made(toys.Conv)
    assert choose(body, toys.rows(12).inputs, 2, spec=SPEC, folder=tmp_path).dtype == "float32"


@pytest.mark.parametrize("body", ["", "{", "[]", '{"version": 1}', "\ud800"])
def test_a_damaged_answer_is_measured_again(
    toys: Any, tmp_path: Path, capable: None, clock: Any, body: str, caplog: pytest.LogCaptureFixture
) -> None:
    ask(toys, tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_bytes(body.encode("utf-8", "surrogatepass"))
    clock.bfloat16 = 5.0
    assert ask(toys, tmp_path).dtype == "float32"
    assert "measured again" in caplog.text
    clock.bfloat16 = 0.1
    assert ask(toys, tmp_path).dtype == "float32"  # mended
    assert [p.name for p in tmp_path.iterdir()] == [file.name]


@pytest.mark.parametrize("change", [{"version": 0}, {"question": {}}, {"answer": {"dtype": "float8"}}])
def test_an_answer_to_another_question_does_not_count(
    toys: Any, tmp_path: Path, capable: None, clock: Any, change: dict[str, Any]
) -> None:
    ask(toys, tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    clock.bfloat16 = 5.0
    assert ask(toys, tmp_path).dtype == "float32"


def test_of_two_that_measure_at_once_the_first_to_finish_counts(
    toys: Any, tmp_path: Path, capable: None, clock: Any
) -> None:
    def meanwhile() -> None:
        if not list(tmp_path.iterdir()):
            precision._keep(tmp_path / "x.json", {"a": 1}, Precision(dtype="bfloat16", speedup=2.0))

    ask(toys, tmp_path, tick=meanwhile)
    late = Precision(dtype="float32", speedup=1.0)
    assert precision._keep(tmp_path / "x.json", {"a": 1}, late).dtype == "bfloat16"
    assert precision._keep(tmp_path / "y.json", {"a": 1}, late) == late


def test_an_answer_that_cannot_be_kept_still_counts(
    toys: Any, tmp_path: Path, capable: None, clock: Any, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    with caplog.at_level(logging.WARNING):
        assert ask(toys, tmp_path / "file" / "below").dtype == "bfloat16"
    assert "cannot be kept" in caplog.text


def test_asking_changes_nothing_of_the_backbone(toys: Any, tmp_path: Path, capable: None, clock: Any) -> None:
    body = toys.made(toys.Conv).train()
    before = toys.tensors(body)
    ask(toys, tmp_path, "training", body)
    assert toys.changed(before, body.state_dict()) == set()
    assert body.training
    assert all(p.grad is None for p in body.parameters())


def test_weights_that_changed_count_at_once(capable: None) -> None:
    """Autocast's own cache would repeat the first step's weights until the outermost context ends."""
    net, x = nn.Linear(8, 2), torch.ones(1, 8)
    nn.init.zeros_(net.bias)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    losses = []
    with mixed("bfloat16", CPU):
        with torch.no_grad():
            net(x)  # a pass without gradients before must not cost the next one its gradients
        for _ in range(3):
            optimizer.zero_grad()
            loss = (net(x).float() - 1).square().sum()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        with torch.no_grad():
            net.weight.zero_()
            net.bias.zero_()
            assert net(x).tolist() == [[0.0, 0.0]]
    assert losses[0] > losses[1] > losses[2]
    assert net.weight.dtype == torch.float32


def test_heads_pools_and_cut_checks_stay_in_float32(toys: Any, capable: None) -> None:
    head, pooled = LinearHead("vector", 8, 3), torch.randn(5, 8)
    nn.init.normal_(head.linear.weight)
    body = toys.made(toys.Conv)
    stages, inputs = toys.stages_of(body), toys.rows(2).inputs
    want, cuts = head.classify(pooled), check_cuts(body, stages, inputs)
    with mixed("bfloat16", CPU):
        assert torch.equal(head.classify(pooled), want)
        assert head.classify(pooled.bfloat16()).dtype == torch.float32
        assert check_cuts(body, stages, inputs) == cuts
        assert toys.stages_of(body).activations[0].dtype == torch.float32
        with exact():
            assert nn.Linear(8, 2)(pooled).dtype == torch.float32
    half = (1 + torch.rand(2, 3, 40, 40) / 100).bfloat16()
    for found in (pool_output(half, "map"), pool_activation(half)):
        assert found is not None
        assert torch.equal(found, half.float().mean((2, 3)))


def test_bfloat16_without_instructions_runs_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autocast, "has_bfloat16", lambda device: False)
    with mixed("bfloat16", CPU):
        assert nn.Linear(8, 2)(torch.zeros(1, 8)).dtype == torch.float32


@pytest.fixture
def _fresh() -> Iterator[None]:
    cpu_facts.cache_clear()
    yield
    cpu_facts.cache_clear()


@pytest.mark.usefixtures("_fresh")
@pytest.mark.parametrize(
    ("text", "model", "able"),
    [
        ("processor: 0\nmodel name\t: Some CPU\nflags\t: fpu avx512_bf16\n\nmodel name: Other\n", "Some CPU", True),
        ("model name: Old CPU\nflags: fpu avx2\n", "Old CPU", False),
        ("CPU part: 0xd40\nFeatures: fp asimd bf16\n", "0xd40", True),
        (None, "", False),
    ],
)
def test_what_the_cpu_can_is_read_from_the_system(tmp_path: Path, text: str | None, model: str, able: bool) -> None:
    file = tmp_path / "cpuinfo"
    if text is not None:
        file.write_text(text)
    found, flags = cpu_facts(str(file))
    assert found
    assert model in found
    assert bool(flags & autocast.FLAGS) is able


def test_only_cpus_and_gpus_are_known() -> None:
    assert isinstance(has_bfloat16(CPU), bool)
    assert not has_bfloat16(torch.device("meta"))


def test_two_threads_keep_one_answer(tmp_path: Path) -> None:
    answers = [Precision(dtype="float32", speedup=float(i)) for i in range(8)]
    found: list[Precision] = []
    file = tmp_path / "one.json"
    threads = [
        threading.Thread(target=lambda a=a: found.append(precision._keep(file, {"q": 1}, a)))  # type: ignore[misc]
        for a in answers
    ]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(set(found)) == 1
    assert precision._read(file, {"q": 1}) == found[0]
