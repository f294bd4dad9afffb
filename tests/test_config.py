"""Settings: all faults at once, YAML both ways, and what names a run."""

import dataclasses
import inspect
import types

import numpy as np
import pytest
import yaml

import autotransfer
from autotransfer.config import Settings, as_names, identity, read_yaml, to_yaml
from autotransfer.errors import ConfigError
from autotransfer.space import Choice, Integer, LogUniform, Uniform


def test_settings_have_the_arguments_of_fit_in_their_order_and_with_their_defaults():
    ours = {f.name: f.default for f in dataclasses.fields(Settings)}
    fit = inspect.signature(autotransfer.fit).parameters
    assert list(ours) == list(fit)
    assert all(ours[n] == p.default for n, p in fit.items() if n != "data")


def test_defaults_with_data_are_right():
    assert Settings(data="pets").check().limit.seconds is None
    assert Settings(data="pets").share() == {"cpus": 1, "gpus": 0, "step_seconds": 300.0, "disk_gb": 20.0}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"data": None}, "data is missing"),
        ({"budget": -3}, "budget is -3 seconds"),
        ({"budget": "soon"}, "budget is 'soon'"),
        ({"budget": True}, "budget is True"),
        ({"budget": float("nan")}, "budget is nan"),
        ({"budget": float("inf")}, "budget is infinite"),
        ({"trials": 0}, "trials is 0"),
        ({"trials": 2.5}, "trials is 2.5"),
        ({"trials": 2, "budget": "1m"}, "both budget and trials"),
        ({"executor": "serail"}, "did you mean serial?"),
        ({"executor": 3}, "executor is 3; wanted a text"),
        ({"modality": "images"}, "did you mean image?"),
        ({"task": "multiklass"}, "did you mean multiclass"),
        ({"task": "segmentation"}, "(planned)"),
        ({"metric": "acuracy"}, "did you mean accuracy"),
        ({"task": "regression", "metric": "accuracy"}, "known: rmse"),
        ({"max_workers": 0}, "max_workers is 0"),
        ({"max_workers": True}, "max_workers is True"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": "7"}, "seed is '7'"),
        ({"refit": "yes"}, "refit is 'yes'; wanted true or false"),
        ({"offline": 1}, "offline is 1"),
        ({"backbones": []}, "backbones is []"),
        ({"backbones": ["a/b", 3]}, "backbones is ['a/b', 3]"),
        ({"strategies": " , "}, "strategies is ' , '"),
        ({"plugins": "mine.py"}, "plugins is 'mine.py'; wanted a list"),
        ({"out": 3}, "out is 3"),
        ({"resources": 2}, "resources is 2"),
        ({"resources": {"cpu": 2}}, "did you mean cpus"),
        ({"resources": {"cpus": 0}}, "resources.cpus is 0"),
        ({"resources": {"gpus": -1}}, "resources.gpus is -1"),
        ({"resources": {"step_seconds": 0}}, "resources.step_seconds is 0"),
        ({"resources": {"gpus": 1.5}}, "resources.gpus is 1.5; wanted a whole number, or a part of one GPU"),
        ({"resources": {"gpus": float("inf")}}, "resources.gpus is inf; wanted a whole number"),
        ({"resources": {"TPU": 1}}, "has no key 'TPU'; what nodes were started with beside goes under custom"),
        ({"resources": {"custom": 1}}, "resources.custom is 1; wanted names and amounts"),
        ({"resources": {"custom": {"CPU": 1}}}, "has the name 'CPU'; wanted cpus instead"),
        ({"resources": {"custom": {"big": 0}}}, "resources.custom.big is 0; wanted"),
        ({"resources": {"labels": "a"}}, "resources.labels is 'a'; wanted labels of nodes"),
        ({"resources": {"labels": {"zone": 1}}}, "resources.labels.zone is 1; wanted a value, or a list of values"),
        ({"resources": {"labels": {"zone": []}}}, "resources.labels.zone is []"),
        ({"resources": {"labels": {"zone": "!a"}}}, "resources.labels.zone is '!a'"),
        ({"resources": {"labels": {"a b": "c"}}}, "has the name 'a b'"),
        ({"space": "lr"}, "space is 'lr'"),
        ({"space": {"lr": {"lgo": [1, 2]}}}, "the space of 'lr'"),
        ({"space": {"lr": {"log": [0, 1]}}}, "log domain needs low > 0"),
        ({"target": 3}, "target is 3"),
        ({"address": 6379}, "address is 6379; wanted 'auto', or host:port"),
        ({"address": "head"}, "address is 'head'; wanted 'auto', or host:port"),
        ({"address": "head:99999"}, "address is 'head:99999'; wanted"),
        ({"address": "local"}, "leave it out"),
        ({"address": "ray://head"}, "wanted 'auto', or host:port"),
    ],
)
def test_a_fault_is_said(arguments, said):
    with pytest.raises(ConfigError) as caught:
        Settings(**{"data": "pets", **arguments}).check()
    assert said in str(caught.value)


def test_all_faults_come_in_one_error():
    with pytest.raises(ConfigError) as caught:
        Settings.of(
            {"data": "pets", "budgte": 3, "budget": "-1", "trials": -2, "executor": "rya", "space": {"lr": {"x": 1}}}
        )
    text = str(caught.value)
    assert text.count("\n  - ") == 5
    assert "did you mean budget" in text


def test_yaml_goes_both_ways(tmp_path):
    settings = Settings(
        data=tmp_path / "pets",
        target="breed",
        budget="10m",
        backbones=("packs/*", "timm/resnet18"),
        space={"lr": LogUniform(1e-4, 1e-2), "epochs": 3, "batch_size": Choice((8, 16)), "x": Integer(1, 4)},
        resources={"cpus": 2},
        plugins=["mine.py", types.ModuleType("acme_backbones")],
        refit=True,
        seed=7,
        out=tmp_path / "run",
    )
    file = tmp_path / "run.yaml"
    file.write_text(to_yaml(settings), encoding="utf-8")
    again = Settings.from_yaml(file)
    assert again.domains() == settings.domains()
    assert again.plugins == ["mine.py", "acme_backbones"]
    assert (again.data, again.out) == (str(settings.data), str(settings.out))
    same = ("target", "budget", "resources", "refit", "seed", "executor", "trials")
    assert all(getattr(again, n) == getattr(settings, n) for n in same)
    assert identity(again, "f") == identity(settings, "f")
    assert to_yaml(again) == to_yaml(settings)


def test_yaml_holds_what_differs_from_the_defaults_alone():
    assert to_yaml(Settings(data="pets", seed=0, executor="ray")) == "data: pets\n"
    assert to_yaml(Settings()) == ""


def test_a_run_file_finds_its_data_and_plugins_from_any_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pets").mkdir()
    (tmp_path / "mine.py").touch()
    given = Settings(data="pets", test="s3://elsewhere", plugins=["mine.py", "pets", "lost.py"], out="runs/1")
    assert yaml.safe_load(to_yaml(given)) == {
        "data": str(tmp_path / "pets"),
        "test": "s3://elsewhere",
        "plugins": [str(tmp_path / "mine.py"), "pets", "lost.py"],
        "out": "runs/1",
    }


def test_data_in_memory_are_named_and_missed_when_read_again(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text(to_yaml(Settings(data=(np.zeros(3), [1, 2, 3]), groups=[1, 1, 2])), encoding="utf-8")
    assert "# data: tuple in memory" in file.read_text()
    with pytest.raises(ConfigError, match="data is missing"):
        Settings.from_yaml(file)


def test_notes_of_a_run_folder_are_no_arguments(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text(to_yaml(Settings(data="pets"), identity="abc", finished={"seconds": 3.0}), encoding="utf-8")
    assert "identity: abc" in file.read_text()
    assert read_yaml(file) == {"data": "pets"}


def test_flags_win_over_the_file(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("data: pets\nseed: 3\ntarget: a\n", encoding="utf-8")
    settings = Settings.from_yaml(file, {"seed": 4})
    assert (settings.seed, settings.target) == (4, "a")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("data: pets\nbugdet: 3\nseeds: 1\nexecutor: x\n", ["did you mean budget", "did you mean seed", "executor"]),
        ("- a\n- b\n", ["holds list"]),
        ("a: [1\n", ["is no YAML"]),
        ("data: !!python/object/apply:os.getcwd []\n", ["is no YAML"]),
        ("", ["data is missing"]),
    ],
)
def test_a_wrong_file_is_refused_with_all_its_faults(tmp_path, text, said):
    file = tmp_path / "run.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        Settings.from_yaml(file)
    assert all(part in str(caught.value) for part in said)


def test_a_missing_file_is_said(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        read_yaml(tmp_path / "none.yaml")


SAME = [
    {"budget": "1h"},
    {"trials": 9},
    {"max_workers": 3},
    {"executor": "serial"},
    {"out": "elsewhere"},
    {"data": "moved"},
    {"offline": True},
    {"resources": {"step_seconds": 9}},
    {"backbones": "a/b, c/d"},
]
OTHER = [
    {"seed": 1},
    {"task": "binary"},
    {"metric": "f1"},
    {"backbones": ["a/b"]},
    {"strategies": "core/probe"},
    {"space": {"lr": {"log": [1e-4, 1e-2]}}},
    {"space": {"lr": Uniform(1e-4, 1e-2)}},
    {"refit": True},
    {"resources": {"cpus": 2}},
    {"plugins": ["acme_backbones"]},
]


@pytest.mark.parametrize("change", SAME)
def test_what_does_not_change_the_answer_does_not_change_the_identity(change):
    base = Settings(data="pets", backbones=["a/b", "c/d"])
    assert identity(dataclasses.replace(base, **change), "f") == identity(base, "f")


def test_what_changes_the_answer_changes_the_identity():
    base = Settings(data="pets", backbones=["a/b", "c/d"])
    names = [identity(dataclasses.replace(base, **change), "f") for change in OTHER]
    assert len({*names, identity(base, "f"), identity(base, "g")}) == len(OTHER) + 2


def test_another_content_of_a_plugin_file_is_another_run(tmp_path):
    file = tmp_path / "mine.py"
    names = []
    for text in ("a = 1", "a = 2"):
        file.write_text(text)
        names.append(identity(Settings(data="pets", plugins=[file]), "f"))
    assert names[0] != names[1]


def test_names_are_given_in_any_form():
    assert as_names(None) == []
    assert as_names("a/b, c/d,") == ["a/b", "c/d"]
    assert as_names(("a/b", "c/d")) == ["a/b", "c/d"]
