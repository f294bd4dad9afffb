"""The public names: exact, lazy, and light to import."""

import inspect
import json
import subprocess
import sys

import pytest

import autotransfer

NAMES = [
    "Budget",
    "TransferClassifier",
    "TransferModel",
    "TransferRegressor",
    "__version__",
    "errors",
    "fit",
    "load",
    "plan",
    "profile",
]
FIT = """data target=None *task=None modality=None metric=None validation=None test=None groups=None unlabeled=None
backbones=None strategies=None space=None budget=None trials=None refit=False plugins=() executor='ray' address=None
max_workers=None resources=None memory=None seed=0 offline=False out=None"""
HEAVY = ("torch", "ray", "numpy", "pandas", "sklearn", "timm", "transformers", "scipy", "PIL", "safetensors")


def spelled(function):
    """Return a signature in one line: name=default, a star before the first keyword."""
    words, starred = [], False
    for p in inspect.signature(function).parameters.values():
        star = "*" if p.kind is p.KEYWORD_ONLY and not starred else ""
        starred |= p.kind is p.KEYWORD_ONLY
        word = "**" if p.kind is p.VAR_KEYWORD else star
        words.append(word + p.name + ("" if p.default is p.empty else f"={p.default!r}"))
    return " ".join(words)


def loaded(code):
    """Return the heavy modules that are loaded after some code ran in a fresh process."""
    script = f"import json, sys\n{code}\nprint(json.dumps([m for m in {HEAVY!r} if m in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def test_the_names_are_these():
    assert sorted(autotransfer.__all__) == NAMES
    assert set(NAMES) <= set(dir(autotransfer))
    assert all(getattr(autotransfer, n) is not None for n in NAMES)


def test_fit_has_exactly_this_signature():
    assert spelled(autotransfer.fit) == " ".join(FIT.split())


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("load", "path plugins=()"),
        ("profile", "data target=None **arguments"),
        ("plan", "data target=None **arguments"),
    ],
)
def test_the_other_functions_have_these_signatures(name, wanted):
    assert spelled(getattr(autotransfer, name)) == wanted


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("predict", "self x"),
        ("predict_proba", "self x"),
        ("score", "self held_out target=None"),
        ("leaderboard", "self"),
        ("report", "self"),
        ("save", "self path"),
        ("export", "self path to='onnx'"),
    ],
)
def test_a_model_has_these_methods(name, wanted):
    assert spelled(getattr(autotransfer.TransferModel, name)) == wanted


def test_no_public_function_hides_a_module():
    from importlib.util import find_spec

    functions = [n for n in NAMES if inspect.isfunction(getattr(autotransfer, n))]
    assert functions == ["fit", "load", "plan", "profile"]
    assert [n for n in functions if find_spec(f"autotransfer.{n}")] == []


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'fitt'"):
        _ = autotransfer.fitt


def test_the_version_is_that_of_the_distribution():
    from importlib import metadata

    assert autotransfer.__version__ == metadata.version("autotransfer")


def test_importing_loads_nothing_heavy():
    assert loaded("import autotransfer") == []


def test_errors_and_budgets_load_nothing_heavy():
    assert loaded("import autotransfer; autotransfer.errors.UserError; autotransfer.Budget.parse('3m')") == []


@pytest.mark.parametrize("function", ["fit", "plan", "profile"])
def test_wrong_arguments_are_said_before_anything_heavy_is_loaded(function):
    code = (
        "import autotransfer\n"
        f"try: autotransfer.{function}('pets', budget=-1)\n"
        "except autotransfer.errors.ConfigError: pass\n"
        "else: raise SystemExit('no error')"
    )
    assert loaded(code) == []


def test_help_loads_nothing_heavy():
    code = (
        "from autotransfer.cli import app\nimport contextlib, io\n"
        "with contextlib.redirect_stdout(io.StringIO()) as out:\n"
        "    app(['fit', '--help'], standalone_mode=False)\n"
        "assert '--max-workers' in out.getvalue()"
    )
    assert loaded(code) == []


def test_wrong_arguments_of_profile_and_plan_are_config_errors():
    for function in (autotransfer.profile, autotransfer.plan):
        with pytest.raises(autotransfer.errors.ConfigError, match="did you mean metric"):
            function("pets", metirc="f1")


def test_profile_and_plan_and_fit_work_from_python(stripes, toynet, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("AUTOTRANSFER_PLUGINS", "core=autotransfer_strategies")
    found = autotransfer.profile(stripes)
    assert (found.rows, found.task, found.classes) == (150, "multiclass", ("column", "none", "row"))
    given = {"plugins": [toynet], "backbones": "toynet/small", "trials": 1, "executor": "serial"}
    planned = autotransfer.plan(stripes, **given)
    assert planned.backbones == ("toynet/small",)
    model = autotransfer.fit(stripes, **given, strategies="core/probe", space={"epochs": 1})
    assert isinstance(model, autotransfer.TransferModel)
    assert model.path is None
    model.save(tmp_path / "model")
    again = autotransfer.load(tmp_path / "model", plugins=[toynet])
    assert (again.predict(stripes[0][:9]) == model.predict(stripes[0][:9])).all()
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")
