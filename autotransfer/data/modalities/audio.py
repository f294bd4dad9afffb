"""Audio behind the protocol of modalities; decoding itself is in :mod:`autotransfer.data.audio`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from autotransfer.codec import Scalar
from autotransfer.data import waves
from autotransfer.data.audio import (
    PIECES,
    SUFFIXES,
    Clip,
    Measure,
    as_clip,
    beginning,
    content_hash,
    from_array,
    is_clip,
    is_pair,
    measured,
    wav_bytes,
)
from autotransfer.data.blocks import Blocks
from autotransfer.data.modalities import TABLES, Look, Preview
from autotransfer.errors import DataError
from autotransfer.profiles import DataIssue
from autotransfer.spec import AudioInput

if TYPE_CHECKING:
    from torch import Tensor

    from autotransfer.protocols import Dataset
    from autotransfer.registry import Registry
    from autotransfer.spec import BackboneSpec
    from autotransfer.store import Store

RATE = 16_000
"""Hertz that arrays without a sample rate are taken to have; it is told."""
SILENT = 0.999
"""Share of silent stretches from which on a clip is silent."""
MOST = 0.95
"""Share of the clips that fit into the window of a run; the others are heard in pieces."""
SHORTEST = 0.25
"""Seconds that a window is not cut below."""
HEARD = 5
"""Seconds of a clip that a report plays."""
CHANNELS = 8
"""An array [samples, channels] has at most so many."""
Array = np.ndarray[Any, Any]


class Recordings:
    """A tally of durations, rates, channels and loudness."""

    def __init__(self) -> None:
        self.measures: list[Measure] = []
        self.silent: list[int] = []
        self.clipped: list[int] = []

    def add(self, index: int, measure: Measure) -> None:
        """Take the measure of one clip."""
        self.measures.append(measure)
        if measure.silence >= SILENT:
            self.silent.append(index)
        if measure.clipped:
            self.clipped.append(index)

    def facts(self) -> dict[str, Scalar]:
        """Return durations, sample rates, channels, loudness, silence, and how many clips are clipped."""
        if not self.measures:
            return {}
        seconds = [m.seconds for m in self.measures]
        rates = Counter(m.rate for m in self.measures)
        total = sum(seconds)
        return {
            "audio.seconds_median": round(float(np.median(seconds)), 3),
            "audio.seconds_min": round(min(seconds), 3),
            "audio.seconds_max": round(max(seconds), 3),
            "audio.seconds_most": round(float(np.quantile(seconds, MOST)), 3),
            "audio.hours": round(total / 3600, 3),
            "audio.rates": ", ".join(f"{rate} Hz ({count})" for rate, count in rates.most_common(5)),
            "audio.channels": max(m.channels for m in self.measures),
            "audio.loudness_median": round(float(np.median([m.loudness for m in self.measures])), 1),
            "audio.silence": round(sum(m.silence * m.seconds for m in self.measures) / max(total, 1e-9), 3),
            "audio.silent": len(self.silent),
            "audio.clipped": len(self.clipped),
        }

    def numbers(self) -> Array:
        """Return seconds, rate, channels, loudness and silence of each clip, ``float64`` [N, 5]."""
        rows = [(m.seconds, m.rate, m.channels, m.loudness, m.silence) for m in self.measures]
        return np.asarray(rows, dtype=np.float64).reshape(-1, 5)

    def issues(self, name: Callable[[int], str]) -> list[DataIssue]:
        """Return clips that are silent throughout, and clips with stretches at full scale."""
        told = (
            ("silent_clips", self.silent, "clips are silent (below -60 dB of full scale throughout); they were kept"),
            ("clipped_clips", self.clipped, "clips are clipped: neighbouring samples stand at full scale"),
        )
        return [
            DataIssue(what=what, count=len(rows), text=f"{len(rows)} {text}", rows=tuple(map(name, rows)))
            for what, rows, text in told
            if rows
        ]


class Rated:
    """Waveforms that share one sample rate, as pairs."""

    def __init__(self, values: Any, rate: float) -> None:
        self.values = values
        self.rate = rate

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: int) -> tuple[Any, float]:
        return self.values[index], self.rate


class AudioModality:
    """Implements :class:`autotransfer.data.modalities.Modality`. Items are what :func:`as_clip` takes."""

    name = "audio"
    many = "clips"
    suffixes = SUFFIXES
    names = (
        *("audio", "audio_path", "clip", "recording", "sound", "wav", "waveform", "speech", "utterance_path"),
        *("path", "file", "filename", "file_name"),
    )
    feature = "Audio"
    by_name = True
    ragged = False
    augmentations = ("light", "strong", "mixup")
    views: tuple[str, ...] = ()

    def owns(self, x: Any) -> bool:
        """Return whether X is (waveforms, sample rate), or a list of such pairs, of decoded or named audio files."""
        if _many_rated(x):
            return True
        values = x[:50] if isinstance(x, (list, tuple)) else []
        return bool(values) and all(_is_audio(v) for v in values)

    def listed(self, x: Any) -> tuple[Any, list[str]]:
        """Return X as an indexable of clips.

        X is a list of paths, of pairs (waveform, sample rate) or of bytes; a pair (waveforms, sample rate); or an array
        [N, samples], which is taken to be sampled at 16 kHz.
        """
        if _many_rated(x):
            return Rated(x[0], x[1]), []
        if hasattr(x, "detach"):
            x = x.detach().cpu().numpy()
        if isinstance(x, np.ndarray) and x.dtype.kind in "iuf" and x.ndim in (2, 3):
            if not x.size:
                raise DataError(f"X has shape {list(x.shape)}: there are no rows, or no samples in them")
            return Rated(x, RATE), [_assumed()]
        if not isinstance(x, (list, tuple)):
            raise DataError(
                f"X is {type(x).__name__}; wanted a list of paths or of pairs (waveform, sample rate), or one pair "
                "(array [N, samples], sample rate)"
            )
        if not len(x):
            raise DataError("X has no rows")
        if all(getattr(v, "ndim", 0) in (1, 2) for v in x):
            return Rated(list(x), RATE), [_assumed()]
        # Workers have another working folder.
        return [Path(v).absolute() if isinstance(v, (str, Path)) else v for v in x], []

    def columns(self, samples: Mapping[str, Sequence[Any]], asked: bool) -> list[str]:
        """Return the column most of whose values are paths of audio files, or clips."""
        fits = [c for c, values in samples.items() if sum(map(_is_audio, values)) > 0.5 * len(values)]
        fits = [c for c in fits if c.lower() in self.names] or fits
        if len(fits) > 1:
            raise DataError(f"several columns hold clips ({', '.join(fits)}); call the right one 'audio'")
        return fits

    def cell(self, values: Mapping[str, Any], root: Path | None) -> Any:
        """Return the value of the one column; a path is put under ``root``."""
        (value,) = values.values()
        if root is not None and isinstance(value, (str, Path)):
            return root / value
        if root is not None and isinstance(value, dict) and value.get("path") and not value.get("bytes"):
            return value if value.get("array") is not None else root / value["path"]
        return value

    def path_of(self, item: Any) -> Path | None:
        """Return the path that an item is or names."""
        found = item.get("path") if isinstance(item, dict) else item
        return Path(found) if isinstance(found, (str, Path)) else None

    def load(self, item: Any) -> Clip:
        """Return an item as a clip; of a long file no more than its ends are read here."""
        return as_clip(item)

    def look(self, item: Any, name: str) -> Look:
        """Return hash and measurements; files are read through, by blocks."""
        source = item.get("bytes") or item.get("path") if isinstance(item, dict) and "array" not in item else item
        if isinstance(source, (str, Path)):
            return Look(content_hash(source), measured(Path(source), name))
        if isinstance(source, (bytes, bytearray)):
            return Look(content_hash(source), measured(bytes(source), name))
        clip = as_clip(item)
        return Look(content_hash(clip), self.measure(clip))

    def measure(self, decoded: Any) -> Measure:
        """Return the measurements of a clip."""
        clip = as_clip(decoded)
        return measured(clip if clip.samples is not None or clip.source is None else clip.source, clip.name)

    def steps(self, spec: AudioInput, tools: Any) -> list[str]:
        """Return the steps from a clip to its input."""
        count = waves.samples_of(spec)
        told = [
            "average the channels; samples lie between -1 and 1",
            f"resample to {spec.sample_rate} Hz (scipy.signal.resample_poly)",
            f"follow a clip of fewer than {count} samples by zeros; of a longer one take up to {PIECES} equal pieces "
            "from its beginning to its end",
        ]
        return [*told, *(["attention_mask is 1 on the clip's samples, 0 on what follows"] if spec.mask else [])]

    def preview(self, decoded: Any) -> Preview:
        """Return the first 5 seconds of a clip as a WAV file: mono, 16 kHz, 16 bits."""
        return Preview("audio/wav", wav_bytes(beginning(as_clip(decoded), HEARD, RATE), RATE))

    def hash(self, item: Any) -> str:
        """Return a hash of a file's bytes, or of samples and their rate."""
        return content_hash(item)

    def tally(self) -> Recordings:
        """Return an empty tally."""
        return Recordings()

    def adjusted(self, spec: AudioInput, facts: Mapping[str, Scalar]) -> AudioInput:
        """Return the input with a window that takes most clips whole, and no longer: silence costs as much as sound."""
        most = facts.get("audio.seconds_most")
        if not isinstance(most, (int, float)):
            return spec
        window = max(SHORTEST, float(np.ceil(most * 20) / 20))
        return replace(spec, window=window) if window < spec.window else spec

    def tools(self, spec: BackboneSpec, registry: Registry, folder: Path | None) -> None:
        """Return None: the fields of the input say everything."""

    def stack(
        self, items: Sequence[Any], spec: AudioInput, tools: Any, augment: str, rng: np.random.Generator | None
    ) -> dict[str, Tensor] | Tensor:
        """Return ``waveform`` ``float32`` and ``attention_mask`` ``int64``, both [B, S]: a window's samples."""
        arrays = {n: np.zeros(shape, kind) for n, (shape, kind) in waves.shapes(len(items), spec).items()}
        for slot, item in enumerate(items):
            waves.put(arrays, slot, as_clip(item), spec)
        inputs = waves.inputs(arrays, spec)
        return inputs if augment == "none" or rng is None else self.altered(inputs, spec, tools, augment, rng)

    def altered(
        self, inputs: Any, spec: AudioInput, tools: Any, augment: str, rng: np.random.Generator
    ) -> dict[str, Tensor] | Tensor:
        """Return clips of another gain and place in time, and with masks in time and frequency where ``strong``."""
        return waves.altered(inputs, spec, augment, rng)

    def view(
        self, items: Sequence[Any], spec: AudioInput, tools: Any, numbers: Sequence[int], rows: Sequence[int]
    ) -> dict[str, Tensor] | Tensor:
        """Return the clips as they are: there are no other views."""
        return self.stack(items, spec, tools, "none", None)

    def keep(self, dataset: Dataset, contents: Array, splits: Sequence[Array], store: Store | None) -> Blocks | None:
        """Return where the windows of one rate and length are kept."""
        return Blocks(dataset, contents, splits, store, Windows()) if store is not None and len(contents) else None

    def one(self, x: Any) -> Any:
        """Return x where it is one clip: a path, the bytes of a file, a pair (waveform, sample rate), a decoded clip.

        Raises:
            DataError: a waveform without its sample rate, or a path that names nothing.
        """
        if isinstance(x, (str, Path)):
            return Path(x) if _is_clip_path(Path(x)) else None
        if isinstance(x, np.ndarray) and x.dtype.kind in "iuf" and x.ndim == 1:
            raise DataError("a waveform came without its sample rate; give the pair (waveform, sample rate)")
        plain = isinstance(x, (bytes, bytearray, Clip)) or hasattr(x, "get_all_samples")
        decoded = isinstance(x, dict) and (x.get("array") is not None or x.get("bytes") or x.get("path"))
        return x if plain or decoded or (is_pair(x) and not _many_rated(x)) else None

    def many_of(self, x: Sequence[Any]) -> Any:
        """Return a list of clips to predict, or (waveforms, sample rate) as pairs."""
        if _many_rated(x):
            return Rated(x[0], x[1])
        return [Path(i) if isinstance(i, str) else i for i in x]

    def samples(self, spec: AudioInput, count: int) -> list[Clip]:
        """Return clips of noise: the first fills the window, the others are shorter."""
        rng, whole = np.random.default_rng(0), waves.samples_of(spec)
        lengths = [max(1, whole - i * whole // (count + 1)) for i in range(count)]
        return [from_array(rng.normal(0, 0.1, n).astype(np.float32), spec.sample_rate) for n in lengths]

    def odd(self) -> Mapping[str, Clip]:
        """Return odd clips; one without any sample is refused when it is read."""
        rng = np.random.default_rng(0)
        return {
            "one sample": from_array(np.ones(1, np.float32), 16_000),
            "silence": from_array(np.zeros(16_000, np.float32), 16_000),
            "full scale": from_array(np.sign(np.sin(np.arange(16_000) / 9.0)), 16_000),
            "8 kHz": from_array(rng.normal(0, 0.1, 8_000), 8_000),
            "96 kHz": from_array(rng.normal(0, 0.1, 48_000), 96_000),
            "stereo": from_array(rng.normal(0, 0.1, (22_050, 2)), 44_100),
            "very long": from_array(rng.normal(0, 0.1, 8_000 * 300).astype(np.float32), 8_000),
        }


class Windows:
    """Implements :class:`autotransfer.data.blocks.Transform`."""

    name = "windows"
    lengths = "lengths"

    def key(self, spec: AudioInput) -> tuple[Any, ...]:
        """Return what a window depends on, beside the clip."""
        return waves.VERSION, spec.sample_rate, waves.samples_of(spec)

    def shapes(self, count: int, spec: AudioInput) -> dict[str, tuple[tuple[int, ...], Any]]:
        """Return shape and type of the arrays of so many clips."""
        return waves.shapes(count, spec)

    def put(self, to: dict[str, Array], slot: int, decoded: Any, spec: AudioInput) -> None:
        """Write one clip."""
        waves.put(to, slot, as_clip(decoded), spec)

    def inputs(self, rows: dict[str, Array], spec: AudioInput) -> dict[str, Tensor] | Tensor:
        """Return rows of such arrays as inputs."""
        return waves.inputs(rows, spec)


MODALITY = AudioModality()


def _assumed() -> str:
    return f"waveforms without a sample rate were taken to have {RATE} Hz; give (waveforms, rate) where that is wrong"


def _many_rated(x: Any) -> bool:
    """Return whether x is several waveforms and their one sample rate."""
    if not is_pair(x):
        return False
    values = x[0]
    if isinstance(values, (list, tuple)):
        return bool(values) and (hasattr(values[0], "ndim") or isinstance(values[0], (list, tuple)))
    # [samples, channels] is one clip; [clips, samples] are many
    return bool(values.ndim == 3 or values.dtype == object or (values.ndim == 2 and values.shape[1] > CHANNELS))


def _is_audio(value: Any) -> bool:
    if isinstance(value, (str, Path)):
        return Path(str(value)[-200:]).suffix.lower() in SUFFIXES
    if isinstance(value, (bytes, bytearray)):
        return is_clip(bytes(value))
    if isinstance(value, dict):
        named = value.get("path") or ""
        if value.get("array") is not None or Path(str(named)[-200:]).suffix.lower() in SUFFIXES:
            return True
        return bool(value.get("bytes")) and is_clip(value["bytes"])
    return is_pair(value) or isinstance(value, Clip) or hasattr(value, "get_all_samples")


def _is_clip_path(path: Path) -> bool:
    """Return whether a path is to be read as one clip; one that is missing, and named like audio, says so then.

    Raises:
        DataError: there is nothing, and its name is not that of an audio file.
    """
    if path.exists():
        return path.is_file() and path.suffix.lower() not in TABLES
    if path.suffix.lower() in SUFFIXES:
        return True
    raise DataError(f"{str(path)!r} does not exist; wanted an audio file, a folder of them, or a table of their paths")
