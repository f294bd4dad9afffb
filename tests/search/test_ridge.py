"""Ridge with exact leave-one-out."""

from __future__ import annotations

import pytest
import torch

from autotransfer.search.ridge import ridge


def _left_out(features: torch.Tensor, targets: torch.Tensor, penalty: float) -> torch.Tensor:
    """Solve without each row in turn, with the penalty in the units of the whole data."""
    rows = len(features)
    answers = []
    mean, middle = features.mean(0), targets.mean(0)
    for i in range(rows):
        keep = [j for j in range(rows) if j != i]
        # Exact for one fixed linear smoother: ridge with an unpenalised intercept.
        x = torch.cat([torch.ones(rows - 1, 1, dtype=torch.float64), features[keep] - mean], 1)
        shrink = torch.eye(x.shape[1], dtype=torch.float64) * penalty * rows
        shrink[0, 0] = 0.0
        w = torch.linalg.solve(x.T @ x + shrink, x.T @ (targets[keep] - middle))
        answers.append(torch.cat([torch.ones(1, dtype=torch.float64), features[i] - mean]) @ w + middle)
    return torch.stack(answers)


@pytest.mark.parametrize(("rows", "width"), [(40, 6), (12, 30)])
def test_predictions_for_rows_left_out_are_exact(rows: int, width: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(rows, width, dtype=torch.float64)
    y = torch.randn(rows, 2, dtype=torch.float64) + x[:, :1]
    found = ridge(x, y)
    torch.testing.assert_close(found.left_out, _left_out(x, y, found.penalty), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("rows", "width"), [(40, 6), (12, 30)])
def test_weights_are_the_solution_on_all_rows(rows: int, width: int) -> None:
    torch.manual_seed(1)
    x = torch.randn(rows, width, dtype=torch.float64)
    y = torch.randn(rows, 3, dtype=torch.float64)
    found = ridge(x, y)
    xc, yc = x - x.mean(0), y - y.mean(0)
    gram = xc.T @ xc / rows + found.penalty * torch.eye(width, dtype=torch.float64)
    torch.testing.assert_close(found.weight, torch.linalg.solve(gram, xc.T @ yc / rows).T, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(found.bias, y.mean(0) - found.weight @ x.mean(0))


def test_constant_features_predict_the_mean_of_the_others() -> None:
    y = torch.tensor([[0.0], [1.0], [2.0], [5.0]], dtype=torch.float64)
    found = ridge(torch.ones(4, 3), y)
    assert not found.weight.any()
    torch.testing.assert_close(found.left_out, (y.sum() - y) / 3)


def test_duplicated_rows_and_one_row_of_a_class_stay_finite() -> None:
    x = torch.tensor([[1.0, 2.0], [1.0, 2.0], [3.0, 1.0], [0.0, 0.0]])
    y = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    found = ridge(x, y)
    assert found.left_out.isfinite().all()
    assert found.weight.isfinite().all()
