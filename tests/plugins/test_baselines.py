"""Baselines: features fitted on training rows, heads in closed form, both robust to odd data."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, RidgeCV

from autotransfer.plugin import BackboneSpec, FittedModule, HeadState, Profile
from autotransfer.strategy import overrides
from autotransfer_baselines import autotransfer_backbones, autotransfer_strategies, build
from autotransfer_baselines.build import Nothing, Pixels, logistic_head
from autotransfer_baselines.sounds import LogMelStatistics

SPECS = {s.id: s for s in autotransfer_backbones()}
(LOGISTIC,) = autotransfer_strategies()
PROFILE = Profile(
    name="toy", modality="image", task="multiclass", metric="accuracy", rows=30, train=20, validation=5, test=5
)


def images(count: int, size: int = 6, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def fitted(rows: torch.Tensor, size: int = 8) -> Pixels:
    module = Pixels()
    batches = [rows[i : i + size] for i in range(0, len(rows), size)]
    module.restore(module.fit(batches, torch.zeros(len(rows), dtype=torch.int64)))
    return module


def answers(head: HeadState, features: torch.Tensor) -> torch.Tensor:
    return features @ head.weight.T + head.bias


def clouds(classes: int, rows: int = 60, width: int = 5, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Features [N, width] around one centre a class, off the origin, and class numbers."""
    rng = np.random.default_rng(seed)
    labels = np.arange(rows) % classes
    points = rng.normal(size=(classes, width))[labels] * 2 + rng.normal(size=(rows, width)) + 7
    return torch.tensor(points, dtype=torch.float32), torch.tensor(labels)


def test_cards() -> None:
    assert {s.modality for s in SPECS.values()} == {"image", "text", "audio"}
    assert {i for i, s in SPECS.items() if s.modality == "image"} == {"baselines/pixels", "baselines/majority"}
    for spec in (s for s in SPECS.values() if s.modality == "image"):
        assert spec.fitted
        assert not spec.transfer
        assert spec.weights is None
        room, _, name = spec.factory.partition(":")
        module: Any = getattr(importlib.import_module(room), name)(None)
        assert isinstance(module, FittedModule)


def test_the_strategy_is_for_baselines_only() -> None:
    other = BackboneSpec(id="acme/net", factory="acme.net:build")
    assert LOGISTIC.baseline
    assert all(LOGISTIC.applies(PROFILE, s).ok for s in SPECS.values())
    assert not LOGISTIC.applies(PROFILE, other).ok
    assert "baselines" in LOGISTIC.applies(PROFILE, other).reason
    assert overrides(LOGISTIC, "head")
    assert LOGISTIC.phases(PROFILE, SPECS["baselines/pixels"], {"epochs": 10}) == []


def test_pixels_keep_distances_up_to_scale() -> None:
    rows = images(40, size=3)
    features = fitted(rows)(rows)
    assert features.shape == (40, 27)
    assert features.mean(0).abs().max() < 1e-5
    assert float(features.std(0).max()) == pytest.approx(1.0, rel=1e-4)
    ratio = torch.pdist(features) / torch.pdist(rows.flatten(1))
    assert float(ratio.max() / ratio.min()) == pytest.approx(1.0, rel=1e-4)


def test_pixels_do_not_depend_on_the_batches() -> None:
    rows = images(30)
    assert torch.equal(fitted(rows, 7).basis, fitted(rows, 30).basis)


def test_many_pixels_are_reduced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "EXACT", 10)
    monkeypatch.setattr(build, "COMPONENTS", 4)
    mixing = torch.randn(4, 108, generator=torch.Generator().manual_seed(1))
    rows = (torch.randn(50, 4, generator=torch.Generator().manual_seed(2)) @ mixing).reshape(50, 3, 6, 6)
    module = fitted(rows)
    assert module(rows).shape == (50, 4)
    back = module(rows) @ torch.linalg.pinv(module.basis) + module.mean
    assert torch.allclose(back, rows.flatten(1), atol=1e-3)
    assert torch.equal(module.basis, fitted(rows).basis)


def test_only_the_first_rows_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "PCA_ROWS", 10)
    rows, read = images(40), []

    def batches() -> Any:
        for i in range(0, 40, 4):
            read.append(i)
            yield rows[i : i + 4]

    state = Pixels().fit(batches(), torch.zeros(40))
    assert read == [0, 4, 8]
    assert torch.allclose(state.tensors["mean"], rows[:10].flatten(1).mean(0))


@pytest.mark.parametrize("rows", [images(1), images(1).repeat(9, 1, 1, 1)], ids=["one row", "equal rows"])
def test_pixels_that_do_not_vary_give_a_constant_feature(rows: torch.Tensor) -> None:
    module = fitted(rows)
    assert torch.equal(module(images(3, seed=5)), torch.zeros(3, 1))


def test_two_rows_are_enough() -> None:
    rows = images(2)
    features = fitted(rows)(rows)
    assert features.shape == (2, 1)
    assert features.isfinite().all()


def test_majority_has_one_constant_feature() -> None:
    module = Nothing()
    module.restore(module.fit([images(4)], torch.zeros(4)))
    assert torch.equal(module(images(3)), torch.zeros(3, 1))


@pytest.mark.parametrize("constant", [0.0, 5.0])
def test_constant_features_give_the_frequencies(constant: float) -> None:
    labels = torch.tensor([0] * 6 + [1] * 3 + [3])
    features = torch.full((10, 2), constant)
    head = logistic_head(features, labels)
    shares = torch.softmax(answers(head, features)[0], 0)
    assert shares.tolist() == pytest.approx([0.6, 0.3, 0.0, 0.1], abs=1e-6)
    assert head.weight.shape == (4, 2)


@pytest.mark.parametrize("classes", [2, 3])
def test_class_numbers_give_the_logistic_regression_of_scikit_learn(
    classes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "PENALTIES", (1.0,))
    features, labels = clouds(classes)
    head = logistic_head(features, labels)
    assert head.weight.dtype == head.bias.dtype == torch.float32
    assert head.weight.shape == (classes, 5)
    raw = features.double().numpy()
    x = (raw - raw.mean(0)) / raw.std(0).max()
    wanted = LogisticRegression(C=1.0, max_iter=500).fit(x, labels.numpy()).predict_proba(x)
    assert torch.softmax(answers(head, features).double(), 1).numpy() == pytest.approx(wanted, abs=1e-4)


@pytest.mark.parametrize("factor", [1e-3, 1e3])
def test_the_answer_does_not_depend_on_the_unit_of_the_features(factor: float) -> None:
    features, labels = clouds(3)
    plain = torch.softmax(answers(logistic_head(features, labels), features), 1)
    scaled = torch.softmax(answers(logistic_head(features * factor, labels), features * factor), 1)
    assert torch.allclose(plain, scaled, atol=1e-3)


def test_a_class_without_rows_is_never_chosen() -> None:
    features, labels = clouds(2)
    head = logistic_head(features, labels * 2)
    chances = torch.softmax(answers(head, features), 1)
    assert chances.shape == (60, 3)
    assert float(chances[:, 1].max()) < 1e-6
    assert float((chances.argmax(1) == labels * 2).float().mean()) > 0.9


def test_one_class_alone_has_all_the_chance() -> None:
    features, _ = clouds(2)
    head = logistic_head(features, torch.ones(60, dtype=torch.int64))
    assert torch.softmax(answers(head, features), 1)[0].tolist() == pytest.approx([0.0, 1.0], abs=1e-6)


def test_the_penalty_is_chosen_by_what_generalises() -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(90) % 2
    noise = rng.normal(size=(90, 80))
    assert build._penalty(noise + 0.35 * labels[:, None], labels) < max(build.PENALTIES)
    slight = np.column_stack([rng.normal(size=90), labels * 0.2])
    assert build._penalty(slight, labels) == max(build.PENALTIES)


@pytest.mark.parametrize("labels", [[0, 1, 2, 2], [0, 0, 0, 1], [0, 1, 1, 0, 2]])
def test_few_rows_of_a_class_are_no_obstacle(labels: list[int]) -> None:
    features = torch.randn(len(labels), 3, generator=torch.Generator().manual_seed(0))
    head = logistic_head(features, torch.tensor(labels))
    assert answers(head, features).shape == (len(labels), max(labels) + 1)
    assert head.weight.isfinite().all()


def test_label_sets_give_one_logistic_regression_each() -> None:
    features, labels = clouds(4)
    targets = torch.stack([(labels == 0).float(), (labels >= 2).float(), torch.ones(60), torch.zeros(60)], 1)
    head = logistic_head(features, targets)
    chances = torch.sigmoid(answers(head, features))
    assert float(((chances >= 0.5) == targets.bool())[:, :2].float().mean()) > 0.9
    assert chances[:, 2].tolist() == pytest.approx([1 - 0.5 / 60] * 60, abs=1e-5)
    assert chances[:, 3].tolist() == pytest.approx([0.5 / 60] * 60, abs=1e-5)
    flat = logistic_head(torch.zeros(60, 1), targets)
    assert torch.sigmoid(flat.bias)[:2].tolist() == pytest.approx([0.25, 0.5], abs=1e-6)


def test_numbers_give_a_ridge_regression() -> None:
    features, _ = clouds(3)
    slope = torch.tensor([1.0, -2.0, 0.0, 0.5, 0.0])
    targets = (features @ slope + 3)[:, None]
    head = logistic_head(features, targets)
    assert head.weight.shape == (1, 5)
    assert torch.allclose(answers(head, features), targets, atol=0.05)
    noisy = targets + torch.randn(60, 1, generator=torch.Generator().manual_seed(0))
    raw = features.double().numpy()
    x = (raw - raw.mean(0)) / raw.std(0).max()
    wanted = RidgeCV(alphas=np.logspace(-2, 5, 15)).fit(x, noisy[:, 0].double().numpy()).predict(x)
    assert answers(logistic_head(features, noisy), features)[:, 0].numpy() == pytest.approx(wanted, abs=1e-4)


def test_constant_features_give_the_mean() -> None:
    targets = torch.tensor([[1.5], [2.5], [-1.0]])
    head = logistic_head(torch.zeros(3, 1), targets)
    assert head.weight.tolist() == [[0.0]]
    assert head.bias.tolist() == pytest.approx([1.0])


def test_the_penalty_is_judged_on_groups_that_were_not_seen() -> None:
    """Features that tell only which group a row is of are no help with a new one, so the stronger penalty wins."""
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(24), 10)
    labels = np.arange(24)[groups] % 2
    marks = rng.normal(size=(24, 40))[groups] + 0.01 * rng.normal(size=(240, 40))
    features = torch.tensor(np.c_[marks, 0.3 * labels[:, None] + 0.3 * rng.normal(size=(240, 1))], dtype=torch.float32)
    alone = logistic_head(features, torch.from_numpy(labels))
    whole = logistic_head(features, torch.from_numpy(labels), torch.from_numpy(groups))
    assert whole.weight.norm() < 0.5 * alone.weight.norm()
    one = logistic_head(features, torch.from_numpy(labels), torch.zeros(240, dtype=torch.int64))
    assert torch.equal(one.weight, alone.weight)


@pytest.mark.parametrize("thin", [False, True])
def test_so_is_that_of_a_number(thin: bool) -> None:
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(24), 10)
    targets = rng.normal(size=24)[groups]
    few = (rng.random((24, 40)) < 0.15) * rng.normal(size=(24, 40))
    marks = few[groups] if thin else rng.normal(size=(24, 60))[groups] + 0.01 * rng.normal(size=(240, 60))
    features, y = torch.tensor(marks, dtype=torch.float32), torch.tensor(targets, dtype=torch.float32)[:, None]
    alone = logistic_head(features, y)
    whole = logistic_head(features, y, torch.from_numpy(groups))
    assert whole.weight.norm() < 0.7 * alone.weight.norm()
    one = logistic_head(features, y, torch.zeros(240, dtype=torch.int64))
    assert torch.equal(one.weight, alone.weight)


def test_classes_that_lie_in_groups_of_their_own_have_the_default_penalty() -> None:
    features, labels = clouds(2)
    head = logistic_head(features, labels, labels)
    assert head.weight.isfinite().all()


def test_the_door_gives_the_same_as_the_function() -> None:
    features, labels = clouds(3)
    head, again = LOGISTIC.head(features, labels), logistic_head(features, labels)
    assert head is not None
    assert torch.equal(head.weight, again.weight)
    assert torch.equal(head.bias, again.bias)


def test_statistics_of_sounds_are_standardised_on_training_rows(clips) -> None:
    inputs = clips([16_000, 9_000, 4_000, 12_000, 300])
    module = LogMelStatistics().eval()
    module.restore(module.fit([inputs], torch.zeros(5, dtype=torch.int64)))
    features = module(**inputs)
    assert features.shape == (5, 121)
    assert float(features.mean(0).abs().max()) < 1e-4
    assert torch.allclose(features.std(0, correction=0), torch.ones(121), atol=1e-3)


def test_statistics_of_sounds_leave_padding_out(clips, padding_does_not_count) -> None:
    module = LogMelStatistics().eval()
    padding_does_not_count(module)
    inputs = clips([9_000, 5_000])
    state = module.fit([inputs], torch.zeros(2, dtype=torch.int64))
    again = LogMelStatistics()
    again.restore(state)
    module.restore(state)
    assert torch.equal(again(**inputs), module(**inputs))


def test_sounds_that_are_all_alike_give_nothing(clips) -> None:
    same = {k: v.expand(3, -1) for k, v in clips([4_000]).items()}
    module = LogMelStatistics()
    module.restore(module.fit([same], torch.zeros(3, dtype=torch.int64)))
    assert not module(**same).any()


def test_thousands_of_classes_get_fewer_steps_and_no_search_for_a_penalty(monkeypatch: pytest.MonkeyPatch) -> None:
    from autotransfer_baselines import build

    rng, asked = np.random.default_rng(0), list[int]()
    x, labels = rng.normal(size=(60, 5)), np.arange(60) % 6
    own = build.LogisticRegression

    def counted(**given: Any) -> Any:
        asked.append(given["max_iter"])
        return own(**given)

    monkeypatch.setattr(build, "LogisticRegression", counted)
    build._fitted(x, labels, None)
    assert asked == [300] * (len(asked) - 1) + [500]
    assert len(asked) > 1
    asked.clear()
    monkeypatch.setattr(build, "AFFORDED", 100.0)
    build._fitted(x, labels, None)
    assert asked == [build.FEWEST_STEPS]
