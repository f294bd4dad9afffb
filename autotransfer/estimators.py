"""scikit-learn estimators over the same engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_array, check_is_fitted, column_or_1d

from autotransfer import engine
from autotransfer.config import Settings
from autotransfer.errors import DataError
from autotransfer.model import TransferModel

Array = np.ndarray[Any, Any]


class _Transfer(BaseEstimator):  # type: ignore[misc]
    """What both estimators share: the constructor stores, ``fit`` runs the engine."""

    model_: TransferModel

    def __init__(
        self,
        *,
        budget: str | float | None = None,
        trials: int | None = None,
        metric: str | None = None,
        backbones: str | Sequence[str] | None = None,
        strategies: str | Sequence[str] | None = None,
        space: Mapping[str, Any] | None = None,
        refit: bool = False,
        plugins: Sequence[Any] = (),
        executor: str = "ray",
        address: str | None = None,
        max_workers: int | None = None,
        resources: Mapping[str, Any] | None = None,
        seed: int = 0,
        offline: bool = False,
    ) -> None:
        self.budget = budget
        self.trials = trials
        self.metric = metric
        self.backbones = backbones
        self.strategies = strategies
        self.space = space
        self.refit = refit
        self.plugins = plugins
        self.executor = executor
        self.address = address
        self.max_workers = max_workers
        self.resources = resources
        self.seed = seed
        self.offline = offline

    def predict(self, X: Any) -> Array:
        """Return one prediction a row, in the target's own values.

        Args:
            X: as for ``fit``.
        """
        check_is_fitted(self, "model_")
        return np.asarray(self.model_.predict(_items(X)))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.three_d_array = True
        return tags

    def _fit(self, X: Any, y: Any, task: str, unlabeled: Any) -> Self:
        items, arguments = _items(X), self.get_params(deep=False)
        if len(items) < 2:
            raise DataError(
                f"X has n_samples={len(items)}; wanted several rows to learn from, and some to be judged on"
            )
        self.model_ = engine.fit(Settings.of({**arguments, "data": (items, y), "task": task, "unlabeled": unlabeled}))
        return self


class TransferClassifier(ClassifierMixin, _Transfer):  # type: ignore[misc]
    """Classifier of images or texts: the constructor's arguments are those of :func:`autotransfer.fit`.

    A part of the rows given to ``fit`` is kept back for choosing and for the held-out score in
    ``model_.report()``; with ``refit=True`` the rows used for choosing are trained on too.

    Attributes:
        model_: the :class:`autotransfer.TransferModel`.
        classes_: the labels in the order of ``predict_proba``'s columns.
    """

    classes_: Array

    def fit(self, X: Any, y: Any, unlabeled: Any = None) -> Self:
        """Search and train.

        Args:
            X: an array of images [N, H, W] or [N, H, W, C], or a list of arrays, PIL images, texts or paths.
            y: one label a row, or a 0-1 matrix [N, labels] of label sets.
            unlabeled: rows like X from where the model will be used, without labels; None: there are none.

        Raises:
            ConfigError: the constructor's arguments are wrong.
            DataError: the data cannot be used.
        """
        if y is None:
            raise DataError(f"{type(self).__name__} requires y to be passed, but the target y is None")
        labels = np.asarray(y)
        if labels.ndim == 2 and labels.shape[1] > 1:
            self._fit(X, labels, "multilabel", unlabeled)
        else:
            labels = column_or_1d(labels, warn=True)
            check_classification_targets(labels)
            self._fit(X, labels, "binary" if len(np.unique(labels)) == 2 else "multiclass", unlabeled)
        self.classes_ = np.asarray(self.model_.classes)
        return self

    def predict_proba(self, X: Any) -> Array:
        """Return probabilities ``float64`` [N, classes], columns in the order of ``classes_``.

        Args:
            X: as for ``fit``.
        """
        check_is_fitted(self, "model_")
        found: Array = self.model_.predict_proba(_items(X))
        return found


class TransferRegressor(RegressorMixin, _Transfer):  # type: ignore[misc]
    """Regression on images or texts: the constructor's arguments are those of :func:`autotransfer.fit`.

    Attributes:
        model_: the :class:`autotransfer.TransferModel`.
    """

    def fit(self, X: Any, y: Any, unlabeled: Any = None) -> Self:
        """Search and train.

        Args:
            X: an array of images [N, H, W] or [N, H, W, C], or a list of arrays, PIL images, texts or paths.
            y: one number a row.
            unlabeled: rows like X from where the model will be used, without labels; None: there are none.

        Raises:
            ConfigError: the constructor's arguments are wrong.
            DataError: the data cannot be used.
            ValueError: y holds NaN or infinity, or is not one number a row.
        """
        if y is None:
            raise DataError(f"{type(self).__name__} requires y to be passed, but the target y is None")
        numbers = check_array(y, ensure_2d=False, dtype=None, input_name="y")
        return self._fit(X, column_or_1d(numbers, warn=True), "regression", unlabeled)


def _items(X: Any) -> Any:
    """Return X as many items; images [N, H, W] get a channel axis, so that they are never taken for one picture.

    Raises:
        DataError: X is no array of images, and no list.
    """
    if isinstance(X, (str, Path, bytes)) or not hasattr(X, "__iter__"):
        raise DataError(f"X is {X!r:.60}; wanted an array of images, or a list of arrays, PIL images, texts or paths")
    if isinstance(X, np.ndarray) and X.dtype.kind in "biufc":
        if X.ndim not in (3, 4):
            raise DataError(
                f"X has shape {list(X.shape)}; wanted images [N, H, W] or [N, H, W, C]. "
                "Reshape your data: autotransfer adapts networks for images, texts and sounds, and tables have none"
            )
        return X[..., None] if X.ndim == 3 else X
    return X.tolist() if hasattr(X, "tolist") else list(X)


__all__ = ["TransferClassifier", "TransferRegressor"]
