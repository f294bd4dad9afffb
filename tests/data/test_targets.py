"""Several target columns, from sources to a task: what is read, split, told and refused."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from autotransfer.data import Prepared, prepare
from autotransfer.data.dataset import ItemDataset
from autotransfer.data.targets import alone
from autotransfer.errors import ConfigError, DataError
from autotransfer.tasks import Several

WORDS = ["red", "green", "blue", "old", "new", "big", "small", "fast", "slow", "warm", "cold"]


def frame(rows: int = 120, seed: int = 0) -> pd.DataFrame:
    """Texts with a class, a number that lacks in a quarter of the rows, label sets, and a rare class."""
    rng = np.random.default_rng(seed)
    kinds = np.array(["cat", "dog", "owl"])[rng.choice(3, rows, p=[0.6, 0.3, 0.1])]
    ages = np.where(rng.random(rows) < 0.25, np.nan, rng.normal(5, 2, rows))
    texts = [f"{i} " + " ".join(rng.choice(WORDS, 6)) for i in range(rows)]
    tags = ["|".join(rng.choice(["a", "b", "c"], rng.integers(1, 3), replace=False)) for _ in range(rows)]
    return pd.DataFrame({"text": texts, "kind": kinds, "age": ages, "tags": tags})


def prepared(data: Any = None, target: Any = ("kind", "age"), **more: Any) -> Prepared:
    asked = target if isinstance(target, str) else list(target)
    return prepare(frame() if data is None else data, target=asked, **more)


def test_several_columns_make_one_task() -> None:
    found = prepared(target=["kind", "age", "tags"])
    p = found.profile
    assert isinstance(found.task, Several)
    assert (p.task, p.metric, p.targets, p.classes, p.counts) == (
        "multi-task",
        "skill",
        ("kind", "age", "tags"),
        (),
        {},
    )
    assert [(t.name, t.task, t.metric) for t in p.each] == [
        ("kind", "multiclass", "balanced_accuracy"),
        ("age", "regression", "rmse"),
        ("tags", "multilabel", "f1"),
    ]
    kind, age, _ = p.each
    assert kind.rows == 120
    assert kind.counts == dict(sorted(Counter(frame()["kind"]).items()))
    assert age.rows == frame()["age"].notna().sum() == age.train + age.validation + age.test
    assert found.targets.shape == (120, 1 + 1 + 3)
    assert any("rows have no label of 'age'; they serve the other targets" in i.text for i in p.issues)
    assert any("labels from 'kind', 'age', 'tags'" in i.text for i in p.issues)


def test_a_list_of_one_and_a_text_with_commas() -> None:
    one, other = prepare(frame(), target=["kind"]), prepare(frame(), target="kind")
    assert one.profile == other.profile
    assert torch.equal(one.targets, other.targets)
    assert prepare(frame(), target="kind, age").profile == prepared().profile
    odd = frame().rename(columns={"kind": "kind, age"}).drop(columns="age")
    assert prepare(odd, target="kind, age").profile.targets == ("kind, age",)


def test_the_order_of_the_targets_is_the_callers() -> None:
    found = prepared(target=["age", "kind"])
    assert found.profile.targets == ("age", "kind")
    assert [p.target for p in found.task.parts] == ["age", "kind"]  # type: ignore[attr-defined]


def test_every_split_has_its_share_of_every_class_and_of_what_is_missing() -> None:
    data = frame(400)
    found = prepared(data)
    for rows in (found.train, found.validation, found.test):
        own = data.iloc[rows]
        assert (own["kind"] == "owl").mean() == pytest.approx((data["kind"] == "owl").mean(), abs=0.04)
        assert (own["kind"] == "cat").mean() == pytest.approx((data["kind"] == "cat").mean(), abs=0.08)
        assert own["age"].isna().mean() == pytest.approx(data["age"].isna().mean(), abs=0.06)


def test_rows_without_any_label_are_left_out_and_named() -> None:
    data = frame()
    data.loc[[3, 7], ["kind", "age"]] = None
    found = prepared(data)
    (issue,) = [i for i in found.profile.issues if i.what == "missing_labels"]
    assert issue.count == 2
    assert issue.rows == ("row 3", "row 7")
    assert found.profile.rows == 118
    assert not {3, 7} & {*found.train.tolist(), *found.validation.tolist(), *found.test.tolist()}


def test_the_constant_predictor_is_that_of_the_training_rows() -> None:
    data = frame()
    found = prepared(data, metric={"kind": "accuracy"})
    own = data.iloc[found.train]
    floors = {p.target: p.floor for p in found.task.parts}  # type: ignore[attr-defined]
    assert floors["kind"] == pytest.approx(own["kind"].value_counts(normalize=True).max())
    ages = own["age"].dropna()
    assert floors["age"] == pytest.approx(-float(ages.std(ddof=0)), rel=1e-5)


@pytest.mark.parametrize(
    ("task", "metric", "wanted"),
    [
        ({"age": "regression"}, {"kind": "f1"}, [("multiclass", "f1"), ("regression", "rmse")]),
        (["multiclass", "regression"], ["accuracy", "mae"], [("multiclass", "accuracy"), ("regression", "mae")]),
        (None, None, [("multiclass", "balanced_accuracy"), ("regression", "rmse")]),
    ],
)
def test_tasks_and_metrics_by_target_or_in_order(task: Any, metric: Any, wanted: list[tuple[str, str]]) -> None:
    assert [(t.task, t.metric) for t in prepared(task=task, metric=metric).profile.each] == wanted


def test_one_target_takes_its_task_by_name_too() -> None:
    assert prepare(frame(), target="kind", metric={"kind": "f1"}).profile.metric == "f1"


@pytest.mark.parametrize(
    ("more", "kind", "texts"),
    [
        ({"target": ["kindd", "agee"]}, DataError, ["'kindd'; did you mean kind?", "'agee'; did you mean age?"]),
        ({"target": "kind,agee"}, DataError, ["'agee'; did you mean age?"]),
        ({"task": {"agee": "regression"}}, ConfigError, ["there is no target 'agee'; did you mean age?"]),
        ({"task": ["multiclass"]}, ConfigError, ["task holds 1 values for 2 targets (kind, age)"]),
        ({"metric": "f1"}, ConfigError, ["'age': no metric of regression is called 'f1'"]),
        (
            {"task": {"kind": "regression", "age": "multi"}},
            DataError,
            ["'kind': 120 of 120", "'age': no task is called"],
        ),
    ],
)
def test_wrong_names_are_told_at_once(more: dict[str, Any], kind: type[Exception], texts: list[str]) -> None:
    with pytest.raises(kind) as caught:
        prepared(**more)
    assert all(text in str(caught.value) for text in texts), caught.value


def test_targets_without_labels_are_refused() -> None:
    data = frame()
    data["age"] = None
    data["size"] = [1.5 if i == 4 else 2.5 if i == 5 else None for i in range(len(data))]
    with pytest.raises(DataError, match="'age': it has no label at all; leave it out"):
        prepared(data)
    with pytest.raises(DataError, match=r"fewer than 5 training rows have a label of 'size' \([012]\)"):
        prepared(data, target=["kind", "size"])


def test_whole_numbers_that_could_be_either_say_how_to_choose() -> None:
    data = frame().assign(age=np.arange(120) % 50)
    with pytest.raises(DataError, match=r"(?s)task=\{'name': ...\}.*'age': the target holds 50 distinct whole numbers"):
        prepared(data)
    assert prepared(data, task={"age": "regression"}).profile.each[1].task == "regression"


def test_a_given_test_part_without_a_targets_labels_is_told_of() -> None:
    data = frame().assign(split=["train"] * 80 + ["validation"] * 20 + ["test"] * 20)
    data.loc[100:, "age"] = None
    found = prepared(data)
    assert any("no row of test has a label of 'age', so it has no say" in i.text for i in found.profile.issues)
    assert found.profile.each[1].test == 0


@pytest.mark.parametrize("form", ["frame", "mapping", "rows", "mappings"])
def test_labels_in_memory(form: str) -> None:
    data = frame()
    rows = [(k, None if a != a else a) for k, a in zip(data["kind"], data["age"], strict=True)]
    labels: Any = {
        "frame": data[["age", "kind"]],
        "mapping": {"kind": data["kind"].tolist(), "age": data["age"].tolist()},
        "rows": rows,
        "mappings": [{"age": a, "kind": k} for k, a in rows],
    }[form]
    found, wanted = prepared((data["text"].tolist(), labels), modality="text"), prepared(data)
    assert torch.equal(found.targets.nan_to_num(99), wanted.targets.nan_to_num(99))
    assert found.train.tolist() == wanted.train.tolist()


@pytest.mark.parametrize(
    ("labels", "text"),
    [
        (frame()[["kind"]], "there is no column 'age'"),
        (frame()["kind"].tolist(), "the labels of row 0 are .*; wanted one for each of kind, age"),
        (None, "y is None; wanted a table with the columns kind, age"),
        ([("cat", 1.0, 2.0)] * 120, "the labels of row 0 are"),
    ],
)
def test_labels_in_memory_that_do_not_fit(labels: Any, text: str) -> None:
    with pytest.raises(DataError, match=text):
        prepared((frame()["text"].tolist(), labels), modality="text")


def test_a_torch_dataset_with_labels_by_name() -> None:
    data = frame()

    class Rows:
        def __len__(self) -> int:
            return len(data)

        def __getitem__(self, i: int) -> tuple[str, dict[str, Any]]:
            return data["text"][i], {"kind": data["kind"][i], "age": data["age"][i]}

    found = prepared(Rows(), modality="text")
    assert torch.equal(found.targets.nan_to_num(99), prepared(data).targets.nan_to_num(99))


def test_class_folders_have_one_target(tmp_path: Any) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.png").write_bytes(b"")
    with pytest.raises(DataError, match="class folders give one target, kind, age were asked"):
        prepared(str(tmp_path))


def test_held_out_sources_have_the_same_targets() -> None:
    found = prepared(frame(), test=frame(40, seed=1))
    assert found.profile.test == 40
    with pytest.raises(DataError, match="there is no column 'age'"):
        prepared(frame(), test=frame(40, seed=1).drop(columns="age"))


def test_one_target_alone_keeps_the_rows_with_its_label() -> None:
    whole = prepared()
    own = alone(whole, "age")
    data = frame()
    assert own.train.tolist() == [i for i in whole.train.tolist() if data["age"][i] == data["age"][i]]
    assert own.targets.shape == (120, 1)
    assert not own.targets[torch.from_numpy(own.train)].isnan().any()
    assert own.profile.fingerprint != whole.profile.fingerprint
    assert own.profile.targets == ("age",)
    assert own.profile.train == len(own.train) == whole.profile.each[1].train
    assert own.task.parts[0].floor == whole.task.parts[1].floor  # type: ignore[attr-defined]


def test_group_like_columns_are_told_once() -> None:
    rng = np.random.default_rng(0)
    data = frame(200).assign(speaker=[f"s{i}" for i in rng.integers(0, 12, 200)])
    found = [i.rows for i in prepared(data).profile.issues if i.what == "group_like_column"]
    assert found == [("speaker",)]


def test_copies_conflict_only_in_labels_that_both_have() -> None:
    data = frame()
    data.loc[1, ["text", "kind", "age"]] = [data["text"][0], data["kind"][0], None]
    data.loc[0, "age"] = 3.0
    data.loc[3, ["text", "kind", "age"]] = [data["text"][2], "dog" if data["kind"][2] == "cat" else "cat", 1.0]
    issues = {i.what: i.rows for i in prepared(data).profile.issues}
    assert issues["conflicting_labels"] == ("row 2", "row 3")


def test_a_readers_targets_are_chosen_from_by_name() -> None:
    registry = SimpleNamespace(
        read_dataset=lambda source, options: ItemDataset(
            "made",
            source["text"].tolist(),
            {n: source[n].tolist() for n in ("kind", "age", "tags")},
            modality="text",
        ),
        profile_facts=lambda dataset: {},
    )
    found: Any = prepare(frame(), target=["age", "kind"], registry=registry)  # type: ignore[arg-type]
    assert found.profile.targets == ("age", "kind")
    assert prepare(frame(), target="kind", registry=registry).profile.task == "multiclass"  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"several targets \(kind, age, tags\); name one, or several, with target="):
        prepare(frame(), registry=registry)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="there is no target 'agee'; did you mean age?"):
        prepare(frame(), target=["kind", "agee"], registry=registry)  # type: ignore[arg-type]


def _texts(labels: list[Any]) -> pd.DataFrame:
    return pd.DataFrame({"text": [f"{i} {WORDS[i % 11]} {WORDS[i // 11]}" for i in range(len(labels))], "y": labels})


@pytest.mark.parametrize(
    ("labels", "held", "metric", "told"),
    [
        (["a", "b", "c"], ["b"], "roc_auc", "all of them are 'b', none is 'a', 'c'; give validation= with rows of two"),
        (["no", "yes"], ["yes"], "roc_auc", "all of them are 'yes', none is 'no'"),
        ([1.5, 2.25, 3.5, 7.0], [2.25], "r2", "the target of all of them is 2.25"),
        ([["p"], ["p", "q"]], [["p"]], "roc_auc", "each label is on all of them or on none"),
    ],
)
def test_a_metric_without_a_value_on_the_validation_rows_is_refused(
    labels: list[Any], held: list[Any], metric: str, told: str
) -> None:
    data, kept = _texts(labels * 15), _texts(held * 8)
    kept.text = "held " + kept.text
    kind = {"r2": "regression"}.get(metric, "multilabel" if isinstance(held[0], list) else None)
    with pytest.raises(DataError) as caught:
        prepare(data, target="y", validation=kept, metric=metric, task=kind)
    assert f"metric '{metric}' has no value on the 8 validation rows: {told}" in str(caught.value)
    assert str(caught.value).rstrip(".").endswith(("(rmse, mae)", "log_loss)"))
    assert prepare(data, target="y", validation=kept, task=kind).profile.validation == 8


def test_of_several_targets_one_with_a_score_suffices() -> None:
    data, kept = _texts(["a", "b"] * 20), _texts(["b"] * 8)
    kept.text = "held " + kept.text
    data["z"], kept["z"] = ["c", "d", "d", "c"] * 10, ["d"] * 8
    with pytest.raises(DataError, match="no target has a score on the validation rows") as caught:
        prepare(data, target=["y", "z"], validation=kept, metric="roc_auc")
    assert "'y': metric 'roc_auc' has no value" in str(caught.value)
    assert "'z': metric 'roc_auc' has no value" in str(caught.value)
    kept.loc[0, "z"] = "c"
    assert prepare(data, target=["y", "z"], validation=kept, metric="roc_auc").profile.metric == "skill"
