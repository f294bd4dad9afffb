"""The command line: what is printed where, and with which exit code."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from autotransfer.cli import main


@pytest.fixture(scope="module")
def folder(stripes: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("cli") / "stripes"
    for i, (image, label) in enumerate(zip(*stripes, strict=True)):
        (root / label).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(root / label / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def common(toynet: str) -> list[str]:
    return ["--executor", "serial", "--backbones", "toynet/small", "--plugin", toynet, "--space", "{epochs: 2}"]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Any:
    """Run the command line in this process; give exit code, output and errors."""

    def run(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        try:
            code = main([str(a) for a in arguments])
        except SystemExit as leave:
            code = leave.code
        told = capsys.readouterr()
        return int(code or 0), told.out, told.err

    return run


@pytest.fixture(scope="module")
def finished(folder: Path, common: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "out"
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "autotransfer",
            "fit",
            str(folder),
            *common,
            "--trials",
            "2",
            "--out",
            str(out),
            "--json",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert set(told) >= {"out", "backbone", "strategy", "recipe", "metric", "validation", "test", "baseline", "trials"}
    assert told["out"] == str(out)
    assert "survey" in done.stderr
    return out


def test_predict_answers_in_order_and_reports_a_bad_row_alone(
    finished: Path, stripes: Any, toynet: str, call: Any, tmp_path: Path
) -> None:
    for i in range(3):
        Image.fromarray(stripes[0][i]).save(tmp_path / f"{i}.png")
    (tmp_path / "1.png").write_text("no picture")
    _, out, _ = call("predict", finished / "model", tmp_path, "--plugin", toynet, "--json")
    rows = json.loads(out)["predictions"]
    assert [Path(r["row"]).name for r in rows] == ["0.png", "1.png", "2.png"]
    assert ["error" in r for r in rows] == [False, True, False]


def test_predict_answers_for_the_good_sources_beside_missing_ones(
    finished: Path, stripes: Any, toynet: str, call: Any, tmp_path: Path
) -> None:
    good = tmp_path / "good.png"
    Image.fromarray(stripes[0][0]).save(good)
    code, out, _ = call(
        "predict", finished, tmp_path / "lost.png", good, tmp_path / "no-folder", "--plugin", toynet, "--json"
    )
    rows = json.loads(out)["predictions"]
    assert code == 0
    assert [sorted(set(r) & {"error", "prediction"}) for r in rows] == [["error"], ["prediction"], ["error"]]
    assert "No such file" in rows[0]["error"]
    assert "does not exist" in rows[2]["error"]
    assert call("predict", finished, tmp_path / "lost.png", "--plugin", toynet)[0] == 2
    code, _, err = call("predict", finished, tmp_path / "no-folder", "--plugin", toynet)
    assert code == 2
    assert "does not exist; wanted an image" in err


def test_evaluate_scores_labelled_rows(finished: Path, folder: Path, toynet: str, call: Any) -> None:
    code, out, _ = call("evaluate", finished / "model", folder, "--plugin", toynet, "--json")
    assert code == 0
    assert 0 <= json.loads(out)["scores"]["accuracy"] <= 1


@pytest.mark.parametrize("verb", ["leaderboard", "report"])
def test_a_run_is_told(finished: Path, toynet: str, call: Any, verb: str) -> None:
    code, out, _ = call(verb, finished, "--plugin", toynet)
    assert code == 0
    assert "toynet/small" in out
    assert json.loads(call(verb, finished, "--plugin", toynet, "--json")[1])


def test_the_report_names_the_plugin_that_a_prediction_needs(toy_run: Path, toynet: str, call: Any) -> None:
    from autotransfer import load

    again = f"predict {toy_run / 'model'} NEW --plugin"
    assert f"{again} {toynet}\n" in load(toy_run, plugins=[toynet]).report()
    assert f"{again} FILE\n" in call("report", toy_run)[1]


def test_the_report_names_its_page(toy_run: Path, call: Any) -> None:
    page = str(toy_run / "report.html")
    assert f"   report {page}   again: " in call("report", toy_run)[1]
    assert json.loads(call("report", toy_run, "--json")[1])["report"] == page


@pytest.mark.parametrize("verb", ["plugins", "backbones", "strategies"])
def test_listings_are_text_or_one_json_object(call: Any, verb: str) -> None:
    code, out, _ = call(verb)
    assert code == 0
    assert out.strip()
    assert verb in json.loads(call(verb, "--json")[1])


def test_strategies_say_what_they_need_and_when_they_apply(call: Any) -> None:
    rows = {r["id"]: r for r in json.loads(call("strategies", "--json")[1])["strategies"]}
    assert {"core/knn", "core/lora", "core/lpft"} <= rows.keys()
    assert all(r.keys() == {"id", "baseline", "summary", "needs", "when", "source"} for r in rows.values())
    core = [r for i, r in rows.items() if i.startswith("core/")]
    assert all(isinstance(v, bool) or v for r in core for v in r.values())
    assert rows["core/prototypes"]["when"] == "up to 10 training rows a class"
    assert "linear layers in the stages" in call("strategies")[1]


def test_profile_and_plan(folder: Path, common: list[str], call: Any) -> None:
    assert json.loads(call("profile", folder, "--json")[1])["rows"] == 150
    code, out, _ = call("plan", folder, *common, "--json")
    assert code == 0
    assert "toynet/small" in json.loads(out)["backbones"]
    refused = {r["name"]: r["reason"] for r in json.loads(out)["refusals"]}
    assert "class means are for up to 10 training rows a class" in refused["core/prototypes on toynet/small"]
    assert "class means are for up to 10 training rows a class" in call("plan", folder, *common)[1]


def test_check_passes_a_right_plugin_and_fails_a_wrong_one(toynet: str, call: Any, tmp_path: Path) -> None:
    assert call("check", toynet)[0] == 0
    (tmp_path / "odd.py").write_text("def autotransfer_backbone():\n    return []\n")
    code, out, err = call("check", tmp_path / "odd.py")
    assert code == 2
    assert "autotransfer_backbones" in out + err


def _bad(root: Path) -> dict[str, tuple[list[str], str]]:
    data = root / "data"
    for c in "ab":
        (data / c).mkdir(parents=True)
        for i in range(6):
            Image.fromarray(np.random.default_rng(i).integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(
                data / c / f"{i}.png"
            )
    (root / "empty").mkdir()
    (root / "r.yaml").write_text("bugdet: 5\n")
    (root / "t.csv").write_text("image,label\ndata/a/0.png,a\ndata/b/0.png,b\n")
    return {
        "missing folder": ([str(root / "nowhere")], "does not exist"),
        "empty folder": ([str(root / "empty")], "is empty"),
        "column": ([str(root / "t.csv"), "--target", "labl"], "did you mean label"),
        "budget": ([str(data), "--budget", "-5"], "budget"),
        "both": ([str(data), "--budget", "5m", "--trials", "3"], "give one"),
        "backbone": ([str(data), "--backbones", "packs/efficientnet-lte0"], "did you mean packs/efficientnet-lite0"),
        "strategy": ([str(data), "--strategies", "core/prob"], "did you mean core/probe"),
        "key": ([str(data), "--config", str(root / "r.yaml")], "did you mean budget"),
        "metric": ([str(data), "--metric", "acuracy"], "did you mean accuracy"),
        "plugin": ([str(data), "--plugin", str(root / "none.py")], "does not exist"),
        "range": ([str(data), "--space", "lr: {log: [1, 0.1]}"], "the space of 'lr': a range needs"),
        "flag": ([str(data), "--bugdet", "5"], "bugdet"),
    }


@pytest.mark.parametrize(
    "case",
    [
        "missing folder",
        "empty folder",
        "column",
        "budget",
        "both",
        "backbone",
        "strategy",
        "key",
        "metric",
        "plugin",
        "flag",
    ],
)
def test_what_a_user_can_mend_is_one_message_and_exit_code_2(case: str, call: Any, tmp_path: Path) -> None:
    arguments, wanted = _bad(tmp_path)[case]
    code, out, err = call("fit", *arguments, "--out", tmp_path / "run")
    assert code == 2
    assert out == ""
    assert wanted in " ".join(err.split())
    assert "Traceback" not in err
    assert not (tmp_path / "run" / "model").exists()


@pytest.mark.parametrize("below", ["", "run"])
def test_an_out_that_cannot_be_a_folder_is_refused(
    below: str, folder: Path, common: list[str], call: Any, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("mine")
    code, out, err = call("fit", folder, *common, "--trials", "1", "--out", tmp_path / "file" / below)
    assert (code, out) == (2, "")
    assert "cannot be a run folder: Not a directory; choose another --out" in err
    assert (tmp_path / "file").read_text() == "mine"


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys\nfrom autotransfer.cli import main\ntry:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "print([m for m in ('torch', 'ray', 'pandas', 'sklearn', 'timm') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("[]")
