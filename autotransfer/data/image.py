"""Images: decoded rightly whatever their mode, and made into tensors."""

from __future__ import annotations

import hashlib
import io
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageOps, UnidentifiedImageError

from autotransfer.errors import DataError
from autotransfer.spec import ImageInput

SUFFIXES = frozenset(
    {".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".jp2", ".gif", ".bmp", ".dib"}
    | {".tif", ".tiff", ".webp", ".avif", ".tga", ".ppm", ".pgm", ".pbm", ".pnm"}
)
LARGEST = 150_000_000
"""Pixels; a larger image is taken for a decompression bomb."""
_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}
_WHITES = ((1.25, 1.0), (16.5, 16.0), (260.0, 255.0), (66_000.0, 65_535.0))
"""Largest value and what is white then; a little above white is rounding, or an interpolation's overshoot."""
LEAST = {"light": 0.6, "strong": 0.25}
"""Share of the area that a random window has at least, by kind of augmentation."""
JITTER = 0.4
"""Brightness, contrast and saturation are changed by a factor between 1 less this and 1 more."""
_CHANGES = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
VIEWS = ("as it is", "mirrored", "first window", "second window")
"""Fixed views of an image; the windows are those of ``light``, drawn once for each row."""
Array = np.ndarray[Any, Any]


class _Quiet:
    """Silences warnings while any thread is inside.

    ``warnings.catch_warnings`` alone is not for threads: two that overlap can leave the silence behind for good.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._caught: Any = None

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            if self._inside == 1:
                self._caught = warnings.catch_warnings()
                self._caught.__enter__()
                warnings.simplefilter("ignore")

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._caught.__exit__(None, None, None)


_quiet = _Quiet()


@contextmanager
def _decoding(name: str) -> Iterator[None]:
    """Turn whatever Pillow raises into a DataError; its warnings (bombs, odd tags) are decided here."""
    try:
        with _quiet:
            yield
    except (DataError, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise DataError(f"{name} cannot be read as an image: its content is of no known kind") from error
    except Exception as error:  # decoders raise nearly anything on damaged bytes
        text = getattr(error, "strerror", None) or " ".join(str(error).split())[:160] or type(error).__name__
        raise DataError(f"{name} cannot be read as an image: {text}") from error


def is_image(body: bytes) -> bool:
    """Return whether a file's content begins as that of an image does; nothing more of it is looked at."""
    try:
        with _quiet, Image.open(io.BytesIO(body)):
            return True
    except Exception:  # decoders raise nearly anything
        return False


def open_image(source: Path | bytes, draft: int | None = None, name: str = "an image") -> Image.Image:
    """Return a file's first frame as an upright RGB or grey (``L``) image.

    Args:
        source: a path, or the bytes of a file.
        draft: a JPEG may be decoded at a smaller scale, but no smaller than this many pixels.
        name: how errors call bytes.

    Raises:
        DataError: the file is no image, is damaged, or is larger than 150 megapixels.
    """
    name = source.name if isinstance(source, Path) else name
    with _decoding(name), Image.open(source if isinstance(source, Path) else io.BytesIO(source)) as image:
        _small_enough(image, name)
        if draft:
            image.draft("RGB", (draft, draft))
        image.load()
        return normal(ImageOps.exif_transpose(image))


def look(body: bytes, draft: int, name: str) -> tuple[int, int, int]:
    """Return width, height and planes (1 or 3) of a file's upright image, decoded only to see that it can be.

    Raises:
        DataError: as :func:`open_image`.
    """
    with _decoding(name), Image.open(io.BytesIO(body)) as image:
        width, height = image.size
        turned = image.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8)
    planes = len(open_image(body, draft, name).getbands())
    return (height, width, planes) if turned else (width, height, planes)


_ORIENTATION = 0x0112
"""Number of the EXIF tag; 5 to 8 lie on their side."""


def _small_enough(image: Image.Image, name: str) -> None:
    width, height = image.size
    if width * height > LARGEST:
        raise DataError(f"{name} has {width} x {height} pixels, more than {LARGEST:,}; make it smaller")


def normal(image: Image.Image) -> Image.Image:
    """Return the image in mode RGB or L: transparency over white, 16 bits scaled to 8, palettes resolved.

    Raises:
        DataError: pixels of mode I or F are in no known range.
    """
    if image.mode in ("RGB", "L") and "transparency" not in image.info:
        return image
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):
        return from_array(np.asarray(image), white=65_535.0)
    if image.mode in ("I", "F"):
        return from_array(np.asarray(image))
    if image.mode == "1":
        return image.convert("L")
    if image.mode in ("RGBA", "LA", "PA", "RGBa") or "transparency" in image.info:
        colour = image.convert("RGBA")
        white = Image.new("RGBA", colour.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, colour).convert("RGB")
    return image.convert("RGB")


def white_of(values: Array) -> float:
    """Return the value that stands for white: the smallest of 1, 16, 255 and 65535 that no value exceeds.

    ``uint8`` is always 0 to 255. Of a batch it is one number for all images, so that a dark one stays dark.

    Raises:
        DataError: values that are not finite, below 0, or above 65535.
    """
    if values.dtype == np.uint8 or not values.size:
        return 255.0
    if values.dtype.kind not in "biuf":
        raise DataError(f"pixels are of type {values.dtype}; wanted whole numbers or floats")
    low, top = float(values.min()), float(values.max())
    if not (np.isfinite(low) and np.isfinite(top)):
        raise DataError("pixels hold values that are not finite")
    white = next((white for most, white in _WHITES if top <= most), None)
    if white is None or low < -0.1 * white:
        raise DataError(
            f"pixels lie between {low:g} and {top:g}; wanted 0..1, 0..255 or 0..65535 (give images as they are, "
            "before any normalisation)"
        )
    return white


def to_bytes(values: Array, white: float) -> Array:
    """Return pixels as ``uint8``, ``white`` becoming 255; what lies outside is clipped."""
    if values.dtype == np.uint8:
        return values
    scaled: Array = np.clip(values.astype(np.float32) * (255.0 / white) + 0.5, 0, 255).astype(np.uint8)
    return scaled


def from_array(values: Array, white: float | None = None) -> Image.Image:
    """Return an array [H, W], [H, W, 1], [H, W, 3] or [H, W, 4] as an image.

    Args:
        values: whole numbers, floats or bools.
        white: the value that stands for white; None: what :func:`white_of` says.

    Raises:
        DataError: another shape, or values in no known range.
    """
    pixels = np.asarray(values)
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] not in (3, 4)) or not pixels.size:
        raise DataError(
            f"an image array has shape {list(values.shape)}; wanted [H, W], [H, W, 1], [H, W, 3] or [H, W, 4]"
        )
    pixels = to_bytes(pixels, white_of(pixels) if white is None else white)
    return normal(Image.fromarray(np.ascontiguousarray(pixels)))


def prepare_image(
    image: Image.Image | Array, spec: ImageInput, augment: str = "none", rng: np.random.Generator | None = None
) -> torch.Tensor:
    """Return an image as a backbone takes it: ``float32`` [channels, size, size].

    Args:
        image: upright, RGB or L, or an array of such.
        spec: the backbone's input.
        augment: ``none``, ``light`` or ``strong``, see :func:`window`.
        rng: random numbers of the augmentation.

    Raises:
        ValueError: the augmentation is unknown, or has no random numbers.
    """
    return normalised(window(image, spec, augment, rng)[None], spec)[0].contiguous()


def window(
    image: Image.Image | Array, spec: ImageInput, augment: str = "none", rng: np.random.Generator | None = None
) -> Array:
    """Return the part of an image that a backbone sees, at its size: ``uint8`` [size, size, channels].

    Without augmentation the shorter side is resized to ``size / crop`` and the centre is cut out. ``light``
    cuts a random window (60 to 100 % of the area, ratio 3:4 to 4:3) and mirrors half of the images. ``strong`` cuts
    one of 25 % or more, mirrors as many, and changes brightness, contrast and saturation.

    Args:
        image: upright, RGB or L, or an array of such.
        spec: the backbone's input.
        augment: ``none``, ``light`` or ``strong``.
        rng: random numbers of the augmentation.

    Raises:
        ValueError: the augmentation is unknown, or has no random numbers.
    """
    if augment != "none" and (augment not in LEAST or rng is None):
        raise ValueError(f"augment is {augment!r}; wanted 'none', or with rng one of: {', '.join(LEAST)}")
    picture = from_array(image) if isinstance(image, np.ndarray) else normal(image)
    picture = picture.convert("L" if spec.channels == 1 else "RGB")
    resample = _FILTERS[spec.interpolation]
    if rng is not None and augment != "none":
        picture = picture.resize((spec.size, spec.size), resample, box=_window(picture.size, LEAST[augment], rng))
        if rng.random() < 0.5:
            picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if augment == "strong":
            picture = _jittered(picture, rng)
    else:
        picture = _centre(picture, spec, resample)
    return np.asarray(picture).reshape(spec.size, spec.size, spec.channels)


def viewed(image: Image.Image | Array, spec: ImageInput, number: int, row: int) -> Array:
    """Return a fixed view of an image, ``uint8`` [size, size, channels]: always the same for a row and a number.

    Args:
        image: upright, RGB or L, or an array of such.
        spec: the backbone's input.
        number: of the view, see :data:`VIEWS`; 0 is what :func:`window` gives.
        row: number of the row; its windows are drawn from it and the number.
    """
    if number == 1:
        return np.ascontiguousarray(window(image, spec)[:, ::-1])
    return window(image, spec, "light" if number else "none", np.random.default_rng((number, row)))


def normalised(pixels: Array, spec: ImageInput) -> torch.Tensor:
    """Return windows ``uint8`` [B, size, size, channels] as a backbone takes them.

    Values in [0, 1] less the mean of each channel, divided by its standard deviation: ``float32``
    [B, channels, size, size], with the channels innermost in memory.
    """
    scaled = pixels.astype(np.float32)
    scaled /= 255.0
    scaled -= np.asarray(spec.mean[: spec.channels], np.float32)
    scaled /= np.asarray(spec.std[: spec.channels], np.float32)
    return torch.from_numpy(scaled).permute(0, 3, 1, 2)


def _centre(picture: Image.Image, spec: ImageInput, resample: Image.Resampling) -> Image.Image:
    width, height = picture.size
    side = min(width, height) * spec.crop
    # One resize of the wanted window: resizing all of a long strip first would need its length in memory.
    left, top = (width - side) / 2, (height - side) / 2
    return picture.resize((spec.size, spec.size), resample, box=(left, top, left + side, top + side))


def _jittered(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    for change in rng.permutation(len(_CHANGES)).tolist():
        picture = _CHANGES[change](picture).enhance(float(rng.uniform(1 - JITTER, 1 + JITTER)))
    return picture


def _window(size: tuple[int, int], least: float, rng: np.random.Generator) -> tuple[float, float, float, float]:
    width, height = size
    area, ratio = (
        rng.uniform(least, 1.0) * min(width, height) ** 2,
        float(np.exp(rng.uniform(np.log(0.75), np.log(4 / 3)))),
    )
    w, h = min(width, (area * ratio) ** 0.5), min(height, (area / ratio) ** 0.5)
    left, top = rng.uniform(0, width - w), rng.uniform(0, height - h)
    return left, top, left + w, top + h


def as_image(item: Any) -> Image.Image:
    """Return whatever a row may hold as an upright RGB or L image.

    Args:
        item: a path, file bytes, a PIL image, an array [H, W(, C)], a torch tensor [C, H, W] or [H, W], or the
            ``{"bytes": ..., "path": ...}`` of a Hugging Face dataset.

    Raises:
        DataError: it is none of these, or cannot be read.
    """
    if isinstance(item, (str, Path)):
        return open_image(Path(item))
    if isinstance(item, (bytes, bytearray)):
        return open_image(bytes(item))
    if isinstance(item, Image.Image):
        name = "an image"
        with _decoding(name):
            _small_enough(item, name)
            return normal(ImageOps.exif_transpose(item))
    if isinstance(item, torch.Tensor):
        planes = item.detach().cpu().numpy()
        item = planes.transpose(1, 2, 0) if planes.ndim == 3 and planes.shape[0] in (1, 3, 4) else planes
    if isinstance(item, np.ndarray):
        return from_array(item)
    if isinstance(item, dict) and (item.get("bytes") or item.get("path")):
        return as_image(item.get("bytes") or item["path"])
    raise DataError(f"{type(item).__name__} is no image; wanted a path, a PIL image or an array [H, W] or [H, W, C]")


def file_bytes(item: Any) -> bytes | None:
    """Return the bytes of the file that an item names or holds; None where it is no file.

    Raises:
        DataError: the file cannot be read.
    """
    if isinstance(item, dict):
        item = item.get("bytes") or item.get("path")
    if isinstance(item, (bytes, bytearray)):
        return bytes(item)
    if not isinstance(item, (str, Path)):
        return None
    try:
        return Path(item).read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a NUL in a path
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{Path(item).name} cannot be read: {reason}") from error


def content_hash(content: bytes | Array | Image.Image) -> str:
    """Return a hash that equal files, or equal pixels of equal shape and type, share."""
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest()[:24]
    pixels = np.asarray(content)
    body = repr((pixels.shape, str(pixels.dtype))).encode() + np.ascontiguousarray(pixels).tobytes()
    return hashlib.sha256(body).hexdigest()[:24]
