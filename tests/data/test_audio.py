"""Recordings: read rightly whatever their format, never whole where they are long, and refused in words."""

from __future__ import annotations

import io
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from autotransfer.data import audio, waves
from autotransfer.data.audio import Clip, as_clip, content_hash, from_array, heard, measured, open_clip, resampled
from autotransfer.data.modalities import modality
from autotransfer.errors import DataError
from autotransfer.spec import AudioInput

KIND = modality("audio")
SPEC = AudioInput(sample_rate=16_000, window=1.0)


def tone(seconds: float, rate: int, hertz: float = 440.0, gain: float = 0.5) -> np.ndarray[Any, Any]:
    return (gain * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def loudest(wave: np.ndarray[Any, Any], rate: int) -> float:
    """Return the frequency with most power."""
    return float(np.fft.rfftfreq(len(wave), 1 / rate)[np.abs(np.fft.rfft(wave)).argmax()])


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3", "aiff"])
def test_formats_are_read(tmp_path: Path, suffix: str) -> None:
    wave = tone(0.5, 16_000)
    soundfile.write(tmp_path / f"a.{suffix}", wave, 16_000)
    clip = open_clip(tmp_path / f"a.{suffix}")
    assert clip.rate == 16_000
    assert clip.seconds == pytest.approx(0.5, abs=0.1)  # lossy ones pad
    assert loudest(clip.read(0, clip.count), 16_000) == pytest.approx(440, abs=4)
    assert f".{suffix}" in KIND.suffixes


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 48_000, 96_000, 12_347])
def test_every_rate_becomes_the_one_that_is_wanted(rate: int) -> None:
    wave = heard(from_array(tone(0.8, rate), rate), 16_000, 16_000)
    assert len(wave) == pytest.approx(12_800, abs=2)
    assert wave.dtype == np.float32
    assert loudest(wave, 16_000) == pytest.approx(440, abs=2)
    assert float(np.abs(wave[1000:-1000]).max()) == pytest.approx(0.5, abs=0.02)


def test_what_a_lower_rate_cannot_hold_is_filtered_out() -> None:
    high = resampled(tone(1.0, 48_000, hertz=15_000), 48_000, 16_000)
    assert float(np.abs(high[500:-500]).max()) < 0.01


def test_channels_are_averaged(tmp_path: Path) -> None:
    left, right = tone(0.2, 8_000), np.zeros(1_600, np.float32)
    soundfile.write(tmp_path / "a.wav", np.stack([left, right], 1), 8_000, subtype="FLOAT")
    clip = open_clip(tmp_path / "a.wav")
    assert clip.channels == 2
    assert np.allclose(clip.read(0, clip.count), left / 2, atol=1e-6)
    for given in (np.stack([left, right], 1), np.stack([left, right])):
        assert np.allclose(from_array(given, 8_000).read(0, 1_600), left / 2)


@pytest.mark.parametrize(("kind", "low"), [(np.int16, -32_768), (np.int32, -(2**31)), (np.uint8, 0), (np.int8, -128)])
def test_whole_numbers_are_scaled_by_their_type(kind: Any, low: int) -> None:
    clip = from_array(np.array([low, np.iinfo(kind).max], kind), 8_000)
    assert clip.read(0, 2) == pytest.approx([-1.0, 1.0], abs=0.01)


@pytest.mark.parametrize(
    ("values", "rate", "message"),
    [
        (np.zeros(0, np.float32), 8_000, "holds no samples"),
        (np.zeros((2, 3, 4), np.float32), 8_000, r"shape \[2, 3, 4\]"),
        (np.array(["a"]), 8_000, "of type <U1"),
        (np.array([0.0, np.nan]), 8_000, "not finite"),
        (np.zeros(5), 0, "sample rate of a clip is 0"),
        (np.zeros(5), "fast", "sample rate of a clip is 'fast'"),
        (np.zeros(5), None, "sample rate of a clip is None"),
    ],
)
def test_waveforms_that_are_none_are_refused(values: Any, rate: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        from_array(values, rate)


def damaged(folder: Path) -> dict[str, Path]:
    paths = {n: folder / n for n in ("empty.wav", "text.wav", "header.wav", "short.flac", "nan.wav", "a.m4a")}
    paths["empty.wav"].touch()
    paths["text.wav"].write_text("this is no sound")
    soundfile.write(paths["header.wav"], np.zeros(0, np.float32), 8_000)
    soundfile.write(folder / "whole.flac", np.random.default_rng(0).normal(0, 0.1, 40_000), 8_000)
    paths["short.flac"].write_bytes((folder / "whole.flac").read_bytes()[:20_000])
    soundfile.write(paths["nan.wav"], np.array([0.0, np.nan], np.float32), 8_000, subtype="FLOAT")
    paths["a.m4a"].write_bytes(b"\0\0\0\x20ftypM4A " + bytes(100))
    return paths


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("empty.wav", "it is empty"),
        ("text.wav", "text.wav cannot be read as audio"),
        ("header.wav", "holds no samples"),
        ("short.flac", "short.flac (is damaged: it ends after|cannot be read)"),
        ("nan.wav", "not finite"),
        ("a.m4a", "convert it to wav, flac, ogg or mp3"),
        ("gone.wav", "gone.wav cannot be read as audio: No such file"),
    ],
)
def test_damaged_files_are_refused_by_name(tmp_path: Path, name: str, message: str) -> None:
    path = {**damaged(tmp_path), "gone.wav": tmp_path / "gone.wav"}[name]
    for read in (open_clip, lambda p: measured(p, p.name)):
        with pytest.raises(DataError, match=message):
            read(path)


def test_measures_are_those_of_the_samples(tmp_path: Path) -> None:
    rate = 8_000
    wave = np.concatenate([np.zeros(rate, np.float32), tone(1.0, rate, gain=1.5).clip(-1, 1), np.zeros(2 * rate)])
    soundfile.write(tmp_path / "a.wav", wave, rate, subtype="FLOAT")
    for found in (measured(tmp_path / "a.wav", "a"), KIND.measure(from_array(wave, rate))):
        assert found.seconds == 4.0
        assert found.rate == rate
        assert found.channels == 1
        assert found.silence == pytest.approx(0.75, abs=0.01)
        assert found.loudness == pytest.approx(10 * np.log10(np.mean(wave.astype(float) ** 2)), abs=0.01)
        assert found.clipped > 100


def long_file(folder: Path, minutes: float = 60.0) -> Path:
    """Write an hour whose pitch rises with each minute."""
    path, rate = folder / "hour.wav", 8_000
    with soundfile.SoundFile(path, "w", rate, 1, "PCM_16") as file:
        for minute in range(round(minutes)):
            file.write(tone(60.0, rate, hertz=200 + 20 * minute))
    return path


def test_an_hour_is_never_in_memory(tmp_path: Path) -> None:
    path = long_file(tmp_path)
    tracemalloc.start()
    try:
        clip = open_clip(path)
        wave = heard(clip, 16_000, 80_000)
        found = measured(path, "hour")
        digest = content_hash(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 20_000_000  # the hour is 115 MB as floats
    assert clip.seconds == 3600.0
    assert found.seconds == 3600.0
    assert len(digest) == 24
    assert len(wave) == 80_000
    pitches = [loudest(part, 16_000) for part in wave.reshape(5, -1)]
    assert pitches[0] == pytest.approx(200, abs=2)
    assert pitches[-1] == pytest.approx(200 + 20 * 59, abs=2)
    assert pitches == sorted(pitches)


def test_a_long_file_without_its_end_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "long.flac"
    soundfile.write(path, np.random.default_rng(0).normal(0, 0.1, 8_000 * 90), 8_000)
    path.write_bytes(path.read_bytes()[:-100_000])
    with pytest.raises(DataError, match="long.flac"):
        open_clip(path)


def test_pieces_are_no_shorter_than_a_second() -> None:
    wave = np.arange(16_000 * 3, dtype=np.float32) / 48_000
    first = heard(from_array(wave, 16_000), 16_000, 8_000)
    assert np.array_equal(first, wave[:8_000])  # a window of half a second is one piece: the beginning
    three = heard(from_array(wave, 16_000), 16_000, 32_000)
    assert three[0] == wave[0]
    assert three[-1] == pytest.approx(float(wave[-1]), abs=1e-3)
    assert len(three) == 32_000


def test_a_clip_that_fits_is_heard_whole() -> None:
    wave = tone(1.0, 16_000)
    assert np.array_equal(heard(from_array(wave, 16_000), 16_000, 16_000), wave)


def test_items_of_every_kind_are_clips(tmp_path: Path) -> None:
    wave = tone(0.1, 8_000)
    soundfile.write(tmp_path / "a.wav", wave, 8_000, subtype="FLOAT")
    body = (tmp_path / "a.wav").read_bytes()

    class Decoder:
        def get_all_samples(self) -> Any:
            return type("Samples", (), {"data": torch.from_numpy(wave)[None], "sample_rate": 8_000})()

    for item in (
        str(tmp_path / "a.wav"),
        tmp_path / "a.wav",
        body,
        (wave, 8_000),
        (wave.tolist(), 8_000.0),
        (torch.from_numpy(wave), 8_000),
        {"array": wave, "sampling_rate": 8_000, "path": None},
        {"bytes": body, "path": "elsewhere.wav"},
        {"bytes": None, "path": str(tmp_path / "a.wav")},
        Decoder(),
    ):
        clip = as_clip(item)
        assert clip.rate == 8_000
        assert np.allclose(clip.read(0, clip.count), wave, atol=1e-6)
    for odd in (3, wave, None, ("a", "b")):
        with pytest.raises(DataError, match="is no clip"):
            as_clip(odd)


def test_equal_content_has_one_hash(tmp_path: Path) -> None:
    wave = tone(0.1, 8_000)
    for name in ("a.wav", "b.wav"):
        soundfile.write(tmp_path / name, wave, 8_000)
    assert content_hash(tmp_path / "a.wav") == content_hash(tmp_path / "b.wav")
    assert content_hash(tmp_path / "a.wav") == content_hash((tmp_path / "a.wav").read_bytes())
    assert content_hash((wave, 8_000)) == content_hash({"array": wave, "sampling_rate": 8_000})
    assert content_hash((wave, 8_000)) != content_hash((wave, 16_000))
    with pytest.raises(DataError, match="gone.wav cannot be read: No such file"):
        content_hash(tmp_path / "gone.wav")


def test_a_batch_is_padded_and_masked() -> None:
    clips = [from_array(tone(s, 16_000), 16_000) for s in (0.25, 1.0, 3.0)]
    made: Any = KIND.stack(clips, SPEC, None, "none", None)
    assert made["waveform"].shape == made["attention_mask"].shape == (3, 16_000)
    assert made["waveform"].dtype == torch.float32
    assert made["attention_mask"].sum(1).tolist() == [4_000, 16_000, 16_000]
    assert not made["waveform"][0, 4_000:].any()
    assert np.allclose(made["waveform"][0, :4_000], tone(0.25, 16_000), atol=1e-4)
    alone: Any = KIND.stack(clips[:1], SPEC, None, "none", None)
    assert torch.equal(alone["waveform"][0], made["waveform"][0])


def test_a_network_may_take_the_waveform_alone() -> None:
    made = KIND.stack([from_array(tone(0.25, 16_000), 16_000)], AudioInput(window=1.0, mask=False), None, "none", None)
    assert isinstance(made, torch.Tensor)
    assert made.shape == (1, 16_000)


def test_quiet_clips_keep_their_shape_in_sixteen_bits() -> None:
    quiet = from_array(tone(0.5, 16_000, gain=1e-5), 16_000)
    arrays = {n: np.zeros(shape, kind) for n, (shape, kind) in waves.shapes(1, SPEC).items()}
    waves.put(arrays, 0, quiet, SPEC)
    made: Any = waves.inputs(arrays, SPEC)
    assert np.allclose(made["waveform"][0, :8_000], quiet.samples, atol=1e-9)


@pytest.mark.parametrize(
    ("most", "window"), [(0.01, 0.25), (0.5, 0.5), (1.101, 1.15), (10.0, 10.0), (300.0, 10.0), (None, 10.0)]
)
def test_a_window_is_no_longer_than_most_clips(most: Any, window: float) -> None:
    spec = AudioInput(window=10.0)
    assert KIND.adjusted(spec, {} if most is None else {"audio.seconds_most": most}).window == pytest.approx(window)


def test_the_tally_counts_what_is_odd() -> None:
    tally = KIND.tally()
    clips = [
        from_array(np.zeros(8_000), 8_000),
        from_array(np.ones(16_000), 16_000),
        from_array(tone(2.0, 16_000), 16_000),
    ]
    for i, clip in enumerate(clips):
        tally.add(i, KIND.measure(clip))
    facts = tally.facts()
    assert facts["audio.seconds_min"] == 1.0
    assert facts["audio.seconds_max"] == 2.0
    assert facts["audio.rates"] == "16000 Hz (2), 8000 Hz (1)"
    assert facts["audio.silent"] == 1
    assert facts["audio.clipped"] == 1
    assert {i.what: i.rows for i in tally.issues(str)} == {"silent_clips": ("0",), "clipped_clips": ("1",)}
    assert tally.numbers().shape == (3, 5)
    assert KIND.tally().facts() == {}
    assert KIND.tally().numbers().shape == (0, 5)


def test_odd_clips_of_the_kit_are_batches() -> None:
    for name, clip in KIND.odd().items():
        made: Any = KIND.stack([clip], SPEC, None, "none", None)
        assert made["waveform"].isfinite().all(), name
        assert made["attention_mask"].any(), name
    lengths = [c.count for c in KIND.samples(SPEC, 3)]
    assert lengths[0] == 16_000
    assert len(set(lengths)) == 3


def test_bytes_in_memory_are_read_too() -> None:
    body = io.BytesIO()
    soundfile.write(body, tone(90.0, 8_000), 8_000, format="WAV")
    clip = as_clip(body.getvalue())
    assert clip.samples is None
    assert isinstance(clip, Clip)
    assert len(heard(clip, 16_000, 80_000)) == 80_000
    assert audio.measured(body.getvalue(), "a clip").seconds == 90.0
