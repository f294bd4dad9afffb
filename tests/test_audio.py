"""Audio through the public face: every source, a fit, and a model that answers anywhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile

import autotransfer
from autotransfer.data.prepare import Prepared, prepare
from autotransfer.errors import DataError
from autotransfer.model import TransferModel, load
from autotransfer.testing import check_plugin

RATE = 8_000
SOUNDNET = str(Path(__file__).parent / "toys" / "soundnet.py")
PITCHES = {"low": 300.0, "middle": 900.0, "high": 2_500.0}


def sound(kind: str, seed: int, seconds: float = 0.0) -> np.ndarray[Any, Any]:
    """Return a noisy tone ``float32`` of its class's pitch, of 0.2 to 0.6 s."""
    rng = np.random.default_rng(seed)
    count = round((seconds or rng.uniform(0.2, 0.6)) * RATE)
    wave = 0.3 * np.sin(2 * np.pi * PITCHES[kind] * np.arange(count) / RATE + rng.uniform(0, 6))
    return (wave + rng.normal(0, 0.05, count)).astype(np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sounds")
    for i in range(60):
        kind = list(PITCHES)[i % 3]
        (root / kind).mkdir(exist_ok=True)
        rate = RATE if i % 4 else 2 * RATE
        wave = sound(kind, i)
        wave = wave if rate == RATE else np.repeat(wave, 2)
        soundfile.write(root / kind / f"{i:02d}.{('wav', 'flac')[i % 2]}", wave, rate)
    return root


@pytest.fixture(autouse=True)
def _own_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOTRANSFER_PLUGINS", "core=autotransfer_strategies,baselines=autotransfer_baselines")


def usual(data: Prepared, rows: int = 60) -> None:
    assert data.profile.modality == "audio"
    assert data.profile.rows == rows
    assert data.profile.classes == ("high", "low", "middle")
    assert 0.2 <= data.profile.facts["audio.seconds_min"] <= data.profile.facts["audio.seconds_median"] <= 0.6


def frame(folder: Path, relative: bool = False) -> pd.DataFrame:
    paths = sorted(folder.rglob("*.*"))
    paths = [p for p in paths if p.suffix in (".wav", ".flac")]
    named = [str(p.relative_to(folder)) if relative else str(p) for p in paths]
    return pd.DataFrame({"clip": named, "pitch": [p.parent.name for p in paths], "mic": [p.stem[-1] for p in paths]})


def test_class_folders(folder: Path) -> None:
    usual(prepare(str(folder)))


def test_class_folders_under_splits(tmp_path: Path) -> None:
    for part, count in (("train", 10), ("val", 4), ("test", 6)):
        for kind in PITCHES:
            (tmp_path / part / kind).mkdir(parents=True)
            for i in range(count):
                soundfile.write(tmp_path / part / kind / f"{i}.wav", sound(kind, hash((part, i)) % 10**6), RATE)
    data = prepare(str(tmp_path))
    assert (data.profile.train, data.profile.validation, data.profile.test) == (30, 12, 18)


def test_tables_of_files(folder: Path) -> None:
    frame(folder, relative=True).to_csv(folder / "sounds.csv", index=False)
    data = prepare(str(folder / "sounds.csv"), target="pitch")
    usual(data)
    assert data.profile.columns == ("clip",)
    usual(prepare(frame(folder), target="pitch", groups="mic"))


def test_waveforms_in_memory() -> None:
    kinds = [list(PITCHES)[i % 3] for i in range(60)]
    pairs = [(sound(k, i), RATE) for i, k in enumerate(kinds)]
    usual(prepare((pairs, kinds)))
    whole = np.stack([sound(k, i, 0.5) for i, k in enumerate(kinds)])
    usual(prepare(((whole, RATE), kinds)))
    told = prepare((whole, kinds), modality="audio").profile
    assert any("16000 Hz" in i.text for i in told.issues if i.what == "note")


def test_a_hugging_face_dataset_by_what_it_can_do() -> None:
    kinds = [list(PITCHES)[i % 3] for i in range(60)]

    class Audio:
        pass

    class Duck:
        column_names = ("audio", "label")

        def __init__(self) -> None:
            self.features = {"audio": Audio(), "label": None}

        def __len__(self) -> int:
            return 60

        def __getitem__(self, at: Any) -> Any:
            if at == "label":
                return kinds
            return {"audio": {"array": sound(kinds[at], at), "sampling_rate": RATE}, "label": kinds[at]}

    usual(prepare(Duck()))


def test_bad_files_are_counted_and_named(folder: Path, tmp_path: Path) -> None:
    import shutil

    root = shutil.copytree(folder, tmp_path / "sounds")
    (root / "low" / "empty.wav").touch()
    (root / "high" / "text.mp3").write_text("no sound")
    soundfile.write(root / "low" / "silence.wav", np.zeros(4_000), RATE)
    soundfile.write(root / "low" / "nothing.wav", np.zeros(0), RATE)
    data = prepare(str(root))
    found = {i.what: i for i in data.profile.issues}
    assert found["unreadable"].count == 3
    assert set(found["unreadable"].rows) == {"low/empty.wav", "high/text.mp3", "low/nothing.wav"}
    assert found["silent_clips"].rows == ("low/silence.wav",)
    assert data.profile.rows == 61


def test_sounds_and_pictures_together_must_be_said(folder: Path, tmp_path: Path) -> None:
    import shutil

    from PIL import Image

    root = shutil.copytree(folder, tmp_path / "both")
    for i in range(30):
        Image.fromarray(np.full((8, 8, 3), i, np.uint8)).save(root / "low" / f"p{i}.png")
    with pytest.raises(DataError, match="modality="):
        prepare(str(root))
    usual(prepare(str(root), modality="audio"))


@pytest.fixture(scope="module")
def model(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> TransferModel:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUTOTRANSFER_PLUGINS", "core=autotransfer_strategies,baselines=autotransfer_baselines")
        return autotransfer.fit(
            str(folder),
            plugins=[SOUNDNET],
            backbones="soundnet/masked",
            executor="serial",
            trials=6,
            space={"epochs": 3},
            out=tmp_path_factory.mktemp("runs") / "run",
        )


def test_a_fit_of_sounds(model: TransferModel) -> None:
    assert model.modality == "audio"
    assert model.run.test.value > 0.8
    assert {r.recipe.backbone for r in model.run.trials} >= {"soundnet/masked", "baselines/log-mel"}
    window = model.spec.input.window
    assert 0.4 < window < 0.7  # the clips', not the card's
    plain = {t.recipe.strategy for t in model.run.trials if t.status == "done"}
    assert len(plain) > 1


def test_answers_for_one_clip_and_for_many(model: TransferModel, folder: Path) -> None:
    paths = sorted((folder / "low").iterdir())[:3]
    one = model.predict(str(paths[0]))
    assert one in PITCHES
    assert model.predict(paths[0].read_bytes()) == one
    assert list(model.predict([str(p) for p in paths])) == [model.predict(p) for p in paths]
    wave, rate = soundfile.read(paths[0], dtype="float32")
    assert model.predict((wave, rate)) == one
    assert model.predict({"array": wave, "sampling_rate": rate}) == one
    stereo = np.stack([wave, wave], 1)
    assert model.predict((stereo, rate)) == one
    assert len(model.predict((np.stack([wave[:1_000]] * 4), rate))) == 4
    assert model.predict([(wave, rate), (wave[:800], rate)])[0] == one
    assert len(model.predict(folder)) >= 60
    assert len(model.predict([])) == 0
    with pytest.raises(DataError, match="without its sample rate"):
        model.predict(wave)
    with pytest.raises(DataError, match="does not exist"):
        model.predict("nowhere/at/all")


def test_answers_do_not_depend_on_the_batch(model: TransferModel) -> None:
    clips = [(sound(list(PITCHES)[i % 3], 500 + i, 0.1 + 0.05 * i), RATE) for i in range(40)]
    together = model.predict_proba(clips)
    alone = np.stack([model.predict_proba(c) for c in clips])
    assert np.abs(together - alone).max() < 1e-5
    backwards = model.predict_proba(clips[::-1])[::-1]
    assert np.abs(together - backwards).max() < 1e-5


def test_a_bad_item_is_reported_for_itself_alone(model: TransferModel, tmp_path: Path) -> None:
    good = (sound("high", 1), RATE)
    (tmp_path / "bad.wav").write_text("no sound")
    rows = model.predict_rows([good, str(tmp_path / "bad.wav"), good, (np.zeros(0), RATE), 3])
    assert ["error" in r for r in rows] == [False, True, False, True, True]
    assert rows[0]["prediction"] == rows[2]["prediction"]
    assert "bad.wav" in rows[1]["error"]
    assert "holds no samples" in rows[3]["error"]
    with pytest.raises(DataError, match="3 rows cannot be read"):
        model.predict([good, str(tmp_path / "bad.wav"), good, (np.zeros(0), RATE), 3])


def test_a_clip_of_an_hour_is_answered(model: TransferModel, tmp_path: Path) -> None:
    with soundfile.SoundFile(tmp_path / "hour.wav", "w", RATE, 1, "PCM_16") as file:
        for i in range(60):
            file.write(sound("high", i, 60.0))
    assert model.predict(tmp_path / "hour.wav") == "high"


def test_a_saved_model_answers_in_another_process_offline_with_an_empty_cache(
    model: TransferModel, folder: Path, tmp_path: Path
) -> None:
    place = model.save(tmp_path / "kept")
    paths = [str(p) for p in sorted(folder.rglob("*.wav"))]
    script = (
        "import json, sys, autotransfer\n"
        "model = autotransfer.load(sys.argv[1], plugins=[sys.argv[2]])\n"
        "print(json.dumps([list(model.predict(sys.argv[3:])), model.predict_proba(sys.argv[3:]).tolist()]))\n"
    )
    environment = {**os.environ, "AUTOTRANSFER_HOME": str(tmp_path / "nothing"), "AUTOTRANSFER_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", script, str(place), SOUNDNET, *paths],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
        cwd=tmp_path,
    )
    answers, chances = json.loads(done.stdout)
    assert answers == list(model.predict(paths))
    assert np.abs(np.asarray(chances) - model.predict_proba(paths)).max() < 1e-6
    assert load(place, [SOUNDNET]).spec.input == model.spec.input


def test_the_baseline_s_model_is_saved_whole_too(folder: Path, tmp_path: Path) -> None:
    fitted = autotransfer.fit(
        str(folder),
        plugins=[SOUNDNET],
        backbones="soundnet/alone",
        executor="serial",
        trials=2,
        strategies="core/probe",
        space={"epochs": 1, "lr": 1e-9},
        out=tmp_path / "run",
    )
    records = {r.recipe.backbone: r for r in fitted.run.trials}
    assert records["baselines/log-mel"].status == "done"
    if fitted.recipe.backbone == "baselines/log-mel":
        again = load(tmp_path / "run" / "model", [SOUNDNET])
        assert list(again.predict(folder)) == list(fitted.predict(folder))
    assert "baselines/majority-audio" in records


def test_an_estimator_of_waveforms() -> None:
    kinds = np.asarray([list(PITCHES)[i % 3] for i in range(60)])
    clips = [(sound(k, i), RATE) for i, k in enumerate(kinds)]
    estimator = autotransfer.TransferClassifier(
        trials=2, executor="serial", plugins=[SOUNDNET], backbones="soundnet/masked"
    )
    assert estimator.fit(clips, kinds).score(clips, kinds) > 0.6


def test_the_kit_passes_both_and_finds_a_network_that_ignores_its_mask(tmp_path: Path) -> None:
    assert [str(f) for f in check_plugin(SOUNDNET) if f.level == "error"] == []
    text = Path(SOUNDNET).read_text().replace("x * held[..., None]", "x * 1.0")
    careless = tmp_path / "soundnet.py"
    careless.write_text(text)
    found = [str(f) for f in check_plugin(str(careless)) if f.level == "error"]
    assert any("follows a row's end counts" in f and "soundnet/masked" in f for f in found)


def test_group_ids_one_a_row_keep_class_folders_whole(folder: Path) -> None:
    speakers = [f"s{i % 12}" for i in range(60)]
    data = prepare(str(folder), groups=speakers)
    parts = [{speakers[i] for i in part.tolist()} for part in (data.train, data.validation, data.test)]
    assert sum(map(len, parts)) == 12
    with pytest.raises(DataError, match="one value a row"):
        prepare(str(folder), groups="speaker")


def test_windows_are_decoded_once_and_kept(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from autotransfer.data import audio
    from autotransfer.spec import AudioInput
    from autotransfer.store import Store

    data, spec = prepare(str(folder)), AudioInput(sample_rate=RATE, window=0.4)
    plain = data.rows(data.train, spec).batch(range(20))
    data.keep(Store(tmp_path / "store", 50_000_000))
    rows = data.rows(data.train, spec)
    kept = rows.batch(range(20))
    assert all(torch.equal(kept[n], plain[n]) for n in plain)
    lengths = rows.lengths(range(20))
    assert lengths is not None
    assert lengths.tolist() == plain["attention_mask"].sum(1).tolist()
    assert rows.lengths() is None  # batches are a window long, whatever their rows

    def never(*_given: Any) -> Any:
        raise AssertionError("a clip was decoded again")

    monkeypatch.setattr(audio, "heard", never)
    monkeypatch.setattr("autotransfer.data.waves.heard", never)
    again = prepare(str(folder))
    again.keep(Store(tmp_path / "store", 50_000_000))  # another run
    assert torch.equal(again.rows(again.train, spec).batch([3, 1])["waveform"], plain["waveform"][[3, 1]])


def test_the_command_line_profiles_and_answers(model: TransferModel, folder: Path, tmp_path: Path) -> None:
    frame(folder).to_csv(tmp_path / "sounds.csv", index=False)
    place = model.save(tmp_path / "kept")

    def run(*arguments: str) -> Any:
        done = subprocess.run(
            [sys.executable, "-m", "autotransfer", *arguments, "--json"],
            capture_output=True,
            text=True,
            check=True,
            cwd=tmp_path,
        )
        return json.loads(done.stdout)

    profile = run("profile", "sounds.csv", "--target", "pitch", "--groups", "mic")
    assert profile["modality"] == "audio"
    assert profile["facts"]["audio.channels"] == 1
    path = str(next((folder / "low").iterdir()))
    answers = run("predict", str(place), path, "--plugin", SOUNDNET)
    assert [r["prediction"] for r in answers["predictions"]] == [model.predict(path)]
