"""scikit-learn's own checks, and its tools over our estimators."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import parametrize_with_checks

from autotransfer import TransferClassifier, TransferRegressor
from autotransfer.errors import ConfigError, DataError

FAST = {"trials": 1, "executor": "serial", "strategies": ["core/probe"], "space": {"epochs": 1, "lr": 0.01}}


@pytest.fixture(autouse=True)
def _own_plugins(monkeypatch):
    monkeypatch.setenv("AUTOTRANSFER_PLUGINS", "core=autotransfer_strategies")


@pytest.fixture
def fast(toynet):
    return {**FAST, "plugins": [toynet], "backbones": "toynet/small"}


def drawn(X):
    """Return a table's rows as images of vertical bars, one bar a column."""
    from sklearn.utils.validation import check_array

    table = check_array(X)
    grey = np.floor(table * 16 + 128).astype(np.int64).astype(np.uint8)
    return np.repeat(grey[:, None, :], max(4, grey.shape[1]), axis=1)


class Tables:
    """Turns the tables of scikit-learn's checks into images, so that the checks reach the estimators at all."""

    def fit(self, X, y=None):
        from sklearn.utils.validation import validate_data

        if y is None:
            return super().fit(X, None)
        table, labels = validate_data(self, X, y)
        return super().fit(drawn(table), labels)

    def predict(self, X):
        from sklearn.utils.validation import check_is_fitted, validate_data

        check_is_fitted(self)
        return super().predict(drawn(validate_data(self, X, reset=False)))

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = True
        tags.input_tags.three_d_array = False
        for own in (tags.classifier_tags, tags.regressor_tags):
            if own is not None:
                own.poor_score = True  # one epoch of a linear head on a tiny random network
        return tags


class TableClassifier(Tables, TransferClassifier):
    def predict_proba(self, X):
        from sklearn.utils.validation import check_is_fitted, validate_data

        check_is_fitted(self)
        return super().predict_proba(drawn(validate_data(self, X, reset=False)))


class TableRegressor(Tables, TransferRegressor):
    pass


DEVIATIONS = {
    "check_methods_subset_invariance": (
        "asks for 7 equal digits whatever the number of rows predicted at once; float32 arithmetic of networks "
        "gives 6, since the order of its sums depends on the size of the batch"
    ),
}
"""Checks that our estimators may fail, and why; everything else must pass."""
TOYNET = str(Path(__file__).parent / "toys" / "toynet.py")
QUICK = {**FAST, "plugins": [TOYNET], "backbones": "toynet/small"}


@parametrize_with_checks(
    [TableClassifier(**QUICK), TableRegressor(**QUICK)],
    expected_failed_checks=lambda _estimator: DEVIATIONS,
    xfail_strict=False,
)
def test_scikit_learns_checks(estimator, check):
    check(estimator)


def test_the_estimators_themselves_say_that_tables_are_not_for_them():
    for made in (TransferClassifier(), TransferRegressor()):
        tags = made.__sklearn_tags__().input_tags
        assert (tags.two_d_array, tags.three_d_array) == (False, True)
        with pytest.raises(DataError, match=r"X has shape \[4, 3\].* Reshape your data"):
            made.fit(np.zeros((4, 3)), [0, 1, 0, 1])


def test_a_classifier_fits_predicts_and_scores(stripes, fast):
    images, labels = stripes
    made = TransferClassifier(**fast).fit(images, labels)
    assert made.classes_.tolist() == ["column", "none", "row"]
    chances = made.predict_proba(images)
    assert chances.shape == (150, 3)
    assert (made.classes_[chances.argmax(1)] == made.predict(images)).all()
    assert made.score(images, labels) == pytest.approx((made.predict(images) == labels).mean())
    assert made.model_.run.executor == "serial"
    assert made.predict(images[:1]).shape == (1,)


def test_whole_number_labels_stay_whole_numbers(stripes, fast):
    numbers = np.arange(150) % 2 + 30
    made = TransferClassifier(**fast).fit(stripes[0], numbers)
    assert made.classes_.tolist() == [30, 31]
    assert set(made.predict(stripes[0])) <= {30, 31}
    assert made.model_.task.name == "binary"


def test_many_whole_numbers_are_classes_to_a_classifier_and_amounts_to_a_regressor(stripes, fast):
    numbers = np.arange(150) % 25
    assert TransferClassifier(**fast).fit(stripes[0], numbers).model_.task.name == "multiclass"
    made = TransferRegressor(**fast).fit(stripes[0], numbers)
    assert made.model_.task.name == "regression"
    assert made.predict(stripes[0]).dtype == np.float64
    assert not hasattr(made, "predict_proba")


def test_a_matrix_of_labels_is_label_sets(stripes, fast):
    sets = np.stack([stripes[1] == "row", stripes[1] == "column"], 1).astype(int)
    made = TransferClassifier(**fast).fit(stripes[0], sets)
    assert made.model_.task.name == "multilabel"
    assert made.predict(stripes[0]).shape == (150, 2)
    assert set(np.unique(made.predict(stripes[0]))) <= {0, 1}


def test_narrow_grey_images_are_many_images(fast):
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 255, (60, 12, 4)).astype(np.uint8), np.arange(60) % 2
    assert TransferClassifier(**fast).fit(images, labels).predict(images[:7]).shape == (7,)


def test_paths_and_pictures_do_as_well(stripes, fast, tmp_path):
    paths = [tmp_path / f"{i}.png" for i in range(60)]
    for path, image in zip(paths, stripes[0], strict=False):
        Image.fromarray(image).save(path)
    labels = stripes[1][:60]
    by_path = TransferClassifier(**fast).fit([str(p) for p in paths], labels)
    by_picture = TransferClassifier(**fast).fit([Image.open(p) for p in paths], labels)
    by_array = TransferClassifier(**fast).fit(stripes[0][:60], labels)
    wanted = by_array.predict_proba(stripes[0][60:70])
    assert np.array_equal(by_path.predict_proba(stripes[0][60:70]), wanted)
    assert np.array_equal(by_picture.predict_proba(stripes[0][60:70]), wanted)


def test_cross_validation_and_pipelines(stripes, fast):
    steps = make_pipeline(FunctionTransformer(lambda x: 255 - x), TransferClassifier(**fast))
    scores = cross_val_score(steps, stripes[0], stripes[1], cv=2)
    assert len(scores) == 2
    assert np.isfinite(scores).all()


def test_the_constructor_only_stores(fast):
    made = TransferClassifier(budget="soon", executor="nowhere")
    assert made.get_params()["budget"] == "soon"
    assert clone(made).get_params() == made.get_params()
    with pytest.raises(ConfigError) as caught:
        made.fit(np.zeros((4, 8, 8)), [0, 1, 0, 1])
    assert "soon" in str(caught.value)
    assert "nowhere" in str(caught.value)


def test_an_estimator_that_was_not_fitted_says_so(stripes):
    for made in (TransferClassifier(), TransferRegressor()):
        with pytest.raises(NotFittedError):
            made.predict(stripes[0])


@pytest.mark.parametrize("made", [TransferClassifier(), TransferRegressor()])
def test_y_is_needed(made, stripes):
    with pytest.raises(DataError, match="requires y"):
        made.fit(stripes[0], None)


@pytest.mark.parametrize("odd", [None, 3, "one.png", b"bytes"])
def test_what_is_not_many_images_is_refused(odd, stripes, fast):
    with pytest.raises(DataError, match="wanted an array of images, or a list"):
        TransferClassifier(**fast).fit(odd, stripes[1])


@pytest.mark.parametrize("odd", [np.nan, np.inf])
def test_a_regressor_refuses_amounts_that_are_none(odd, stripes, fast):
    amounts = np.where(np.arange(150) % 2, odd, np.arange(150.0))
    with pytest.raises(ValueError, match="Input y contains"):
        TransferRegressor(**fast).fit(stripes[0], amounts)


def test_amounts_are_no_classes(stripes):
    with pytest.raises(ValueError, match="Unknown label type"):
        TransferClassifier().fit(stripes[0], np.linspace(0, 1, 150))
