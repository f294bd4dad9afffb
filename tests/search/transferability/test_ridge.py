"""Ridge: exact leave-one-out, exact weights, the choice of a regularisation, a calibrated head."""

from __future__ import annotations

import importlib

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from autotransfer.search.transferability import Link, Spectrum, decompose, leave_one_out, ridge
from autotransfer.search.transferability import calibration as calibrating
from autotransfer.search.transferability.ridge import REGULARISATIONS


def refitted(x: Tensor, y: Tensor, spectrum: Spectrum, penalty: float) -> Tensor:
    """Solve without each row in turn, by least squares on rows that stand for the penalty; the intercept is free."""
    rows, width = x.shape
    f = torch.cat([x * spectrum.scale, torch.ones(rows, 1, dtype=torch.float64)], 1)
    f[:, :width] -= f[:, :width].mean(0)
    shrink = (penalty * rows) ** 0.5 * torch.eye(width, width + 1, dtype=torch.float64)
    answers = []
    for i in range(rows):
        keep = torch.arange(rows) != i
        a, b = torch.cat([f[keep], shrink]), torch.cat([y[keep], torch.zeros(width, y.shape[1], dtype=torch.float64)])
        answers.append(f[i] @ torch.linalg.lstsq(a, b, driver="gelsd").solution)
    return torch.stack(answers)


def problem(rows: int, width: int, outputs: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, width, dtype=torch.float64, generator=generator) * 3 + 5
    return x, torch.randn(rows, outputs, dtype=torch.float64, generator=generator) + x[:, :1]


@pytest.mark.parametrize(("rows", "width"), [(40, 6), (12, 30), (7, 7), (3, 4)])
def test_predictions_for_rows_left_out_are_those_of_as_many_fits(rows: int, width: int) -> None:
    x, y = problem(rows, width, 2)
    spectrum = decompose(x)
    penalties = torch.tensor([1e-6, 1e-3, 1.0, 1e2], dtype=torch.float64)
    found = leave_one_out(spectrum, y, penalties)
    for penalty, left in zip(penalties.tolist(), found, strict=True):
        torch.testing.assert_close(left, refitted(x, y, spectrum, penalty), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(("rows", "width"), [(20, 4), (12, 30)])
def test_duplicated_rows_are_left_out_one_at_a_time(rows: int, width: int) -> None:
    x, y = problem(rows, width, 2, seed=1)
    x, y = torch.cat([x, x[:5], x[:1]]), torch.cat([y, y[:5] + 1, y[:1]])
    spectrum = decompose(x)
    found = leave_one_out(spectrum, y, torch.tensor([1e-5, 1e-1]))
    for penalty, left in zip((1e-5, 1e-1), found, strict=True):
        torch.testing.assert_close(left, refitted(x, y, spectrum, penalty), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("rows", "width"), [(40, 6), (12, 30), (9, 4)])
def test_groups_are_left_out_whole(rows: int, width: int) -> None:
    x, y = problem(rows, width, 2, seed=3)
    groups = torch.arange(rows) % 4
    groups[-1] = 99  # a row of its own
    spectrum = decompose(x)
    f = torch.cat([(x - x.mean(0)) * spectrum.scale, torch.ones(rows, 1, dtype=torch.float64)], 1)
    penalties = torch.tensor([1e-4, 1e-2, 1.0], dtype=torch.float64)
    for penalty, left in zip(penalties.tolist(), leave_one_out(spectrum, y, penalties, groups), strict=True):
        shrink = (penalty * rows) ** 0.5 * torch.eye(width, width + 1, dtype=torch.float64)
        for group in groups.unique():
            keep = groups != group
            a = torch.cat([f[keep], shrink])
            b = torch.cat([y[keep], torch.zeros(width, 2, dtype=torch.float64)])
            wanted = f[~keep] @ torch.linalg.lstsq(a, b, driver="gelsd").solution
            torch.testing.assert_close(left[~keep], wanted, rtol=1e-6, atol=1e-6)


def test_one_group_alone_and_groups_of_one_leave_out_rows() -> None:
    x, y = problem(20, 4, 2)
    spectrum, penalties = decompose(x), torch.tensor([1e-3])
    plain = leave_one_out(spectrum, y, penalties)
    assert torch.equal(leave_one_out(spectrum, y, penalties, torch.zeros(20, dtype=torch.int64)), plain)
    assert torch.equal(leave_one_out(spectrum, y, penalties, torch.arange(20)), plain)


def test_what_tells_groups_apart_alone_is_worth_nothing_on_new_groups() -> None:
    """Each group has one class and a place of its own: a row is easily told by its group, and by nothing else."""
    generator = torch.Generator().manual_seed(0)
    groups = torch.arange(24).repeat_interleave(8)
    places = torch.randn(24, 30, generator=generator, dtype=torch.float64) * 3
    x = places[groups] + 0.1 * torch.randn(192, 30, generator=generator, dtype=torch.float64)
    y = functional.one_hot(groups % 2, 2).double()
    alone = ridge(decompose(x), y, Link.SOFTMAX)
    whole = ridge(decompose(x), y, Link.SOFTMAX, groups=groups)
    hits = [float((r.left_out.argmax(1) == y.argmax(1)).double().mean()) for r in (alone, whole)]
    assert hits[0] > 0.99
    assert hits[1] < 0.75
    assert float(whole.loss_per_row.mean()) > 0.6


@pytest.mark.parametrize(("rows", "width"), [(40, 6), (12, 30)])
def test_weights_are_the_solution_on_all_rows(rows: int, width: int) -> None:
    x, y = problem(rows, width, 3, seed=2)
    found = ridge(decompose(x), y, Link.IDENTITY)
    spread = x.std(0, correction=0)
    f, yc = (x - x.mean(0)) / spread, y - y.mean(0)
    gram = f.T @ f / rows + found.penalty * torch.eye(width, dtype=torch.float64)
    weight = torch.linalg.solve(gram, f.T @ yc / rows).T / spread
    torch.testing.assert_close(found.weight, weight, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(found.bias, y.mean(0) - found.weight @ x.mean(0))
    head = found.head()
    assert found.temperature == 1
    torch.testing.assert_close(x.float() @ head.weight.T + head.bias, (x @ found.weight.T + found.bias).float())


def test_numbers_take_the_regularisation_of_least_squared_error() -> None:
    x, y = problem(30, 20, 1, seed=3)
    spectrum = decompose(x)
    found = ridge(spectrum, y, Link.IDENTITY)
    penalties = REGULARISATIONS * spectrum.values.sum() / 20
    errors = (leave_one_out(spectrum, y, penalties) - y).square().mean((1, 2))
    assert found.penalty == pytest.approx(float(penalties[errors.argmin()]))
    torch.testing.assert_close(found.loss_per_row.mean(), errors.min())


def _classes(rows: int = 60, width: int = 8, classes: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(4)
    labels = torch.randint(classes, (rows,), generator=generator)
    centres = torch.randn(classes, width, generator=generator)
    return torch.randn(rows, width, generator=generator) + 0.7 * centres[labels], labels


def test_classes_take_the_regularisation_and_temperature_of_least_likelihood_loss() -> None:
    x, labels = _classes()
    y, spectrum = functional.one_hot(labels).double(), decompose(x)
    found = ridge(spectrum, y, Link.SOFTMAX)
    torch.testing.assert_close(found.loss_per_row, functional.cross_entropy(found.logits, labels, reduction="none"))
    left = leave_one_out(spectrum, y, REGULARISATIONS * spectrum.values.sum() / 8)
    sharpness = torch.logspace(-1, 3, 200, dtype=torch.float64)
    losses = [[float(functional.cross_entropy(s * p, labels)) for s in sharpness.tolist()] for p in left]
    assert float(found.loss_per_row.mean()) == pytest.approx(min(map(min, losses)), abs=2e-3)


def test_labels_take_one_temperature_around_one_half() -> None:
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(80, 6, generator=generator)
    y = (x[:, :4] + torch.randn(80, 4, generator=generator) > 0.5).double()
    found = ridge(decompose(x), y, Link.SIGMOID)
    torch.testing.assert_close(found.logits, (found.left_out - 0.5) / found.temperature)
    loss = functional.binary_cross_entropy_with_logits(found.logits, y, reduction="none").mean(1)
    torch.testing.assert_close(found.loss_per_row, loss)
    for other in (0.7, 1.4):
        assert functional.binary_cross_entropy_with_logits(found.logits * other, y) > loss.mean()


def test_the_head_gives_calibrated_logits_on_raw_features() -> None:
    x, labels = _classes()
    found = ridge(decompose(x * 50 + 1000), functional.one_hot(labels).double(), Link.SOFTMAX)
    head = found.head()
    assert head.weight.dtype == head.bias.dtype == torch.float32
    outputs = (x.double() * 50 + 1000) @ head.weight.double().T + head.bias
    fitted = (x.double() * 50 + 1000) @ found.weight.T + found.bias
    torch.testing.assert_close(outputs, fitted / found.temperature, rtol=1e-3, atol=1e-3)
    assert functional.cross_entropy(outputs, labels) < functional.cross_entropy(fitted, labels)


@pytest.mark.parametrize("x", [torch.ones(6, 3), torch.zeros(6, 3), torch.zeros(6, 0)])
def test_features_that_do_not_vary_predict_the_mean_of_the_other_rows(x: Tensor) -> None:
    y = torch.tensor([[0.0], [1.0], [2.0], [5.0], [1.0], [3.0]], dtype=torch.float64)
    found = ridge(decompose(x), y, Link.IDENTITY)
    torch.testing.assert_close(found.left_out, (y.sum() - y) / 5)
    assert not found.weight.any()
    assert found.bias.item() == pytest.approx(2.0)


def test_one_row_of_a_class_is_predicted_as_if_the_class_had_none() -> None:
    x, labels = _classes(classes=2)
    labels[17] = 2
    found = ridge(decompose(x), functional.one_hot(labels).double(), Link.SOFTMAX)
    # Without its row the third column is 0 everywhere, and so is its prediction.
    assert abs(float(found.left_out[17, 2])) < 1e-12
    assert found.loss_per_row.isfinite().all()


def test_large_tables_compare_regularisations_on_fewer_rows_and_predict_them_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x, labels = _classes(rows=400, classes=5)
    y, spectrum = functional.one_hot(labels).double(), decompose(x)
    whole = ridge(spectrum, y, Link.SOFTMAX)
    solving = importlib.import_module(
        "autotransfer.search.transferability.ridge"
    )  # the package's ridge is the function
    for module, name, value in (
        (solving, "_ENTRIES", 300),
        (solving, "_LEAST_ROWS", 150),
        (calibrating, "_ENTRIES", 99),
    ):
        monkeypatch.setattr(module, name, value)
    found = ridge(spectrum, y, Link.SOFTMAX)
    left = leave_one_out(spectrum, y, torch.tensor([found.penalty]))[0]
    torch.testing.assert_close(found.left_out, left, rtol=1e-12, atol=1e-12)
    assert float(found.loss_per_row.mean()) < float(whole.loss_per_row.mean()) + 0.02
    best = calibrating.fit_sharpness(left[None], y, Link.SOFTMAX)
    assert found.temperature == pytest.approx(1 / float(best), rel=1e-5)


def test_targets_of_other_rows_are_refused() -> None:
    with pytest.raises(ValueError, match=r"shape \(3, 1\); wanted \[4, K\]"):
        ridge(decompose(torch.randn(4, 2)), torch.zeros(3, 1), Link.IDENTITY)
