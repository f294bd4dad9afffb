"""Audio: read rightly whatever its format, rate and channels, and never whole where it is long."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from scipy.signal import resample_poly

from autotransfer.errors import DataError

SUFFIXES = frozenset(
    {".wav", ".wave", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".aifc", ".au", ".snd", ".caf"}
    | {".w64", ".rf64", ".m4a", ".aac", ".wma"}
)
"""The last three are known as audio, but libsndfile cannot read them: such rows say so."""
LARGEST_RATE = 1_000_000
"""Hertz; a larger one is a mistake."""
WHOLE = 60.0
"""Seconds; a longer file is opened anew for each piece that is wanted of it."""
BLOCK = 1 << 18
"""Samples that are read at a time where only measurements are wanted."""
FINEST = 2000
"""Largest denominator of a resampling ratio; odder ratios are off by less than a millionth."""
SILENT, CLIPPED = 10 ** (-60 / 20), 0.999
"""Amplitude that a silent stretch stays below, and that clipped samples reach; full scale is 1."""
STRETCH = 0.02
"""Seconds of which it is said whether they are silent."""
PIECES = 5
"""A clip longer than a network's window is heard in at most so many pieces."""
SHORTEST_PIECE = 1.0
"""Seconds that a piece lasts at least, where there are several."""
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Measure:
    """What one clip measures."""

    seconds: float
    rate: int
    channels: int
    loudness: float
    """Root mean square in decibels of full scale."""
    silence: float
    """Share of its stretches of 20 ms that are silent."""
    clipped: int
    """Samples at full scale that follow another such."""


def is_clip(body: bytes) -> bool:
    """Return whether a file's content begins as that of a recording does."""
    try:
        return bool(soundfile.info(io.BytesIO(body)).frames > 0)
    except (soundfile.SoundFileError, RuntimeError, TypeError, ValueError):
        return False


@contextmanager
def _decoding(name: str) -> Iterator[None]:
    """Turn what soundfile raises into a DataError."""
    try:
        yield
    except (DataError, MemoryError):
        raise
    except Exception as error:  # decoders raise nearly anything on damaged bytes
        text = getattr(error, "strerror", None) or getattr(error, "error_string", None) or str(error)
        text = " ".join(str(text).split())[:160] or type(error).__name__
        if Path(name).suffix.lower() in (".m4a", ".aac", ".wma"):
            text = "this format is not read; convert it to wav, flac, ogg or mp3"
        raise DataError(f"{name} cannot be read as audio: {text}") from error


class Clip:
    """One recording: mono samples at its own rate, in memory, or in a file of which pieces are read.

    Args:
        samples: ``float32`` [S]; None: they are in ``source``.
        rate: samples a second.
        count: samples.
        channels: that the samples were mixed down from.
        source: path, or the bytes of a file.
        name: how errors call it.
    """

    def __init__(
        self,
        samples: Array | None,
        rate: int,
        count: int,
        channels: int = 1,
        source: Path | bytes | None = None,
        name: str = "a clip",
    ) -> None:
        self.samples = samples
        self.rate = rate
        self.count = count
        self.channels = channels
        self.source = source
        self.name = name

    @property
    def seconds(self) -> float:
        """How long it lasts."""
        return self.count / self.rate

    def read(self, start: int, count: int) -> Array:
        """Return ``float32`` samples from ``start`` on: fewer than ``count`` where it ends before.

        Raises:
            DataError: the file is damaged there.
        """
        if self.samples is not None:
            return self.samples[start : start + count]
        assert self.source is not None
        with _decoding(self.name), _opened(self.source) as file:
            file.seek(start)
            return _mono(file.read(count, dtype="float32", always_2d=True), self.name)


def open_clip(source: Path | bytes, name: str = "a clip") -> Clip:
    """Return a file as a clip; a short one is read here and now, of a long one beginning and end.

    Raises:
        DataError: the file is no audio, is damaged, or holds no samples.
    """
    name = source.name if isinstance(source, Path) else name
    with _decoding(name), _opened(source) as file:
        rate, channels, count = file.samplerate, file.channels, file.frames
        if count <= WHOLE * rate:
            samples = _mono(file.read(dtype="float32", always_2d=True), name)
            _whole(len(samples), count, name)
            return Clip(samples, rate, len(samples), channels, name=name)
        file.read(BLOCK)
        file.seek(count - rate)
        _whole(count - rate + len(file.read(rate)), count, name)
        return Clip(None, rate, count, channels, source, name)


def measured(source: Path | bytes | Clip, name: str) -> Measure:
    """Return the measures of a file or clip, which is read through by blocks.

    Raises:
        DataError: as :func:`open_clip`.
    """
    if isinstance(source, Clip) and source.samples is not None:
        return _summed(iter([source.samples[:, None]]), source.rate, source.channels)
    assert not isinstance(source, Clip)
    with _decoding(name), _opened(source) as file:
        sums = _Sums(file.samplerate)
        for block in _blocks(file):
            if not np.isfinite(block).all():
                raise DataError(f"{name} holds samples that are not finite (NaN or infinity)")
            sums.add(block)
        _whole(sums.count, file.frames, name)
        return sums.measure(file.channels)


def _summed(blocks: Iterator[Array], rate: int, channels: int) -> Measure:
    sums = _Sums(rate)
    for block in blocks:
        sums.add(block)
    return sums.measure(channels)


def _blocks(file: Any) -> Iterator[Array]:
    while len(block := file.read(BLOCK, dtype="float32", always_2d=True)):
        yield block


class _Sums:
    """Running sums over blocks [S, channels]; a stretch that is cut by a block's end counts as two."""

    def __init__(self, rate: int) -> None:
        self.rate = rate
        self.stretch = max(1, round(STRETCH * rate))
        self.count = self.clipped = self.stretches = self.silent = 0
        self.power = 0.0

    def add(self, block: Array) -> None:
        mono = block.mean(1)
        self.count += len(mono)
        self.power += float(np.square(mono, dtype=np.float64).sum())
        full = np.abs(block).max(1) >= CLIPPED
        self.clipped += int((full[1:] & full[:-1]).sum())
        peaks = np.maximum.reduceat(np.abs(mono), np.arange(0, len(mono), self.stretch))
        self.stretches += len(peaks)
        self.silent += int((peaks < SILENT).sum())

    def measure(self, channels: int) -> Measure:
        mean = self.power / max(1, self.count)
        return Measure(
            seconds=self.count / self.rate,
            rate=self.rate,
            channels=channels,
            loudness=float(10 * np.log10(max(mean, 1e-12))),
            silence=self.silent / max(1, self.stretches),
            clipped=self.clipped,
        )


@contextmanager
def _opened(source: Path | bytes) -> Iterator[Any]:
    if isinstance(source, Path) and not source.exists():
        raise FileNotFoundError(2, os.strerror(2))
    if (source.stat().st_size if isinstance(source, Path) else len(source)) == 0:
        raise DataError(f"{source.name if isinstance(source, Path) else 'a clip'} cannot be read as audio: it is empty")
    with soundfile.SoundFile(source if isinstance(source, Path) else io.BytesIO(source)) as file:
        yield file


def _whole(read: int, told: int, name: str) -> None:
    """Refuse a file that ends before it says; compressed ones may be a little off."""
    if not read:
        raise DataError(f"{name} holds no samples")
    if read < 0.99 * told:
        raise DataError(f"{name} is damaged: it ends after {read:,} of {told:,} samples")


def _mono(samples: Array, name: str) -> Array:
    """Return the mean of the channels [S, channels] as ``float32`` [S]."""
    mono = samples[:, 0] if samples.shape[1] == 1 else samples.mean(1, dtype=np.float32)
    if not np.isfinite(mono).all():
        raise DataError(f"{name} holds samples that are not finite (NaN or infinity)")
    return np.ascontiguousarray(mono, dtype=np.float32)


def from_array(values: Any, rate: Any, name: str = "a clip") -> Clip:
    """Return a waveform in memory as a clip.

    Args:
        values: [S], [S, channels] or [channels, S]; whole numbers are scaled by the range of their type.
        rate: samples a second.
        name: how errors call it.

    Raises:
        DataError: another shape or type, no samples, values that are not finite, or a rate that is none.
    """
    if isinstance(rate, bool) or not isinstance(rate, (int, float, np.number)) or not 0 < rate <= LARGEST_RATE:
        raise DataError(f"the sample rate of {name} is {rate!r}; wanted samples a second, such as 16000")
    wave = np.asarray(values.detach().cpu() if hasattr(values, "detach") else values)
    if wave.dtype.kind not in "iuf" or wave.ndim not in (1, 2):
        raise DataError(
            f"{name} is of type {wave.dtype} and shape {list(wave.shape)}; wanted numbers [samples], "
            "[samples, channels] or [channels, samples]"
        )
    if not wave.size:
        raise DataError(f"{name} holds no samples")
    if wave.dtype.kind in "iu":
        half = 2.0 ** (8 * wave.dtype.itemsize - 1)
        wave = (wave.astype(np.float64) - (half if wave.dtype.kind == "u" else 0.0)) / half
    wave = wave[:, None] if wave.ndim == 1 else wave.T if wave.shape[0] < wave.shape[1] else wave
    samples = _mono(wave, name)
    return Clip(samples, round(float(rate)), len(samples), wave.shape[1], name=name)


def is_pair(item: Any) -> bool:
    """Return whether an item is a waveform and its sample rate."""
    return (
        isinstance(item, (tuple, list))
        and len(item) == 2
        and isinstance(item[1], (int, float, np.number))
        and (hasattr(item[0], "ndim") or isinstance(item[0], (list, tuple)))
    )


def as_clip(item: Any) -> Clip:
    """Return whatever a row may hold as a clip.

    Args:
        item: a path, file bytes, a pair (waveform, sample rate), a clip, or the ``{"array": ..., "sampling_rate":
            ...}`` or ``{"bytes": ..., "path": ...}`` of a Hugging Face dataset.

    Raises:
        DataError: it is none of these, or cannot be read.
    """
    if isinstance(item, Clip):
        return item
    if isinstance(item, (str, Path)):
        return open_clip(Path(item))
    if isinstance(item, (bytes, bytearray)):
        return open_clip(bytes(item))
    if isinstance(item, dict) and item.get("array") is not None:
        return from_array(item["array"], item.get("sampling_rate", item.get("sample_rate")))
    if isinstance(item, dict) and (item.get("bytes") or item.get("path")):
        return as_clip(item.get("bytes") or item["path"])
    if is_pair(item):
        return from_array(*item)
    if hasattr(item, "get_all_samples"):  # a decoder, as Hugging Face datasets give it
        whole = item.get_all_samples()
        return from_array(whole.data, whole.sample_rate)
    raise DataError(
        f"{type(item).__name__} is no clip; wanted a path, the bytes of a file, or a pair (waveform, sample rate)"
    )


def heard(clip: Clip, rate: int, count: int) -> Array:
    """Return what a network hears of a clip: ``float32`` at ``rate``, at most ``count`` samples.

    A clip that is longer is heard in equal pieces, the first from its beginning, the last to its end.

    Args:
        clip: the recording.
        rate: that the network wants.
        count: samples of its window.

    Raises:
        DataError: the clip is damaged.
    """
    window = count / rate
    if clip.seconds <= window:
        return resampled(clip.read(0, clip.count), clip.rate, rate)[:count]
    pieces = max(1, min(PIECES, int(np.ceil(clip.seconds / window)), int(window / SHORTEST_PIECE)))
    each = -(-count // pieces)
    own = int(np.ceil(each * clip.rate / rate)) + 1
    last = max(0, clip.count - own)
    parts = [resampled(clip.read(int(at), own), clip.rate, rate)[:each] for at in np.linspace(0, last, pieces)]
    return np.concatenate(parts)[:count]


def beginning(clip: Clip, seconds: float, rate: int) -> Array:
    """Return the first seconds of a clip, all of a shorter one, as ``float32`` samples at ``rate``."""
    return resampled(clip.read(0, round(seconds * clip.rate)), clip.rate, rate)


def wav_bytes(samples: Array, rate: int) -> bytes:
    """Return mono samples as a WAV file of 16 bits; what lies beyond full scale is cut."""
    body = io.BytesIO()
    soundfile.write(body, np.clip(samples, -1, 1), rate, format="WAV", subtype="PCM_16")
    return body.getvalue()


def resampled(samples: Array, rate: int, wanted: int) -> Array:
    """Return ``float32`` samples at another rate, by polyphase filtering (``scipy.signal.resample_poly``)."""
    if rate == wanted or not len(samples):
        return samples
    ratio = Fraction(wanted, rate).limit_denominator(FINEST)
    made: Array = resample_poly(samples, max(1, ratio.numerator), ratio.denominator).astype(np.float32)
    return made


def content_hash(item: Any) -> str:
    """Return a hash that equal files, or equal samples at an equal rate, share.

    Raises:
        DataError: a file cannot be read.
    """
    found = hashlib.sha256()
    source = item.get("bytes") or item.get("path") if isinstance(item, dict) and item.get("array") is None else item
    if isinstance(source, (bytes, bytearray)):
        found.update(source)
    elif isinstance(source, (str, Path)):
        try:
            with Path(source).open("rb") as file:
                while block := file.read(1 << 20):
                    found.update(block)
        except (OSError, ValueError) as error:  # ValueError: a NUL in a path
            raise DataError(
                f"{Path(source).name} cannot be read: {getattr(error, 'strerror', None) or error}"
            ) from error
    else:
        clip = as_clip(source)
        found.update(f"{clip.rate} {clip.count}".encode())
        found.update(clip.read(0, clip.count).tobytes())
    return found.hexdigest()[:24]
