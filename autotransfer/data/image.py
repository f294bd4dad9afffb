"""Images: decoded rightly whatever their mode, and made into tensors."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from autotransfer.errors import DataError
from autotransfer.spec import ImageInput

SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".jfif", ".gif", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".pbm"}
)
LARGEST = 200_000_000
"""Pixels; a larger image is taken for a decompression bomb."""
_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}
Array = np.ndarray[Any, Any]


def open_image(source: Path | bytes, draft: int | None = None) -> Image.Image:
    """Return a file's first frame as an upright RGB or grey (``L``) image.

    Args:
        source: a path, or the bytes of a file.
        draft: a JPEG may be decoded at a smaller scale, but no smaller than this many pixels.

    Raises:
        DataError: the file is no image, is damaged, or is larger than 200 megapixels.
    """
    name = source.name if isinstance(source, Path) else "an image"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of bombs and odd tags; both are decided here
            with Image.open(source if isinstance(source, Path) else io.BytesIO(source)) as image:
                if image.size[0] * image.size[1] > LARGEST:
                    raise DataError(f"{name} has {image.size[0]} x {image.size[1]} pixels, more than {LARGEST:,}")
                if draft:
                    image.draft("RGB", (draft, draft))
                image.load()
                return normal(ImageOps.exif_transpose(image))
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{name} cannot be read as an image: {' '.join(str(error).split())[:160]}") from error


def normal(image: Image.Image) -> Image.Image:
    """Return the image in mode RGB or L: transparency over white, 16 bits scaled to 8, palettes resolved."""
    if image.mode in ("RGB", "L"):
        return image
    if image.mode.startswith("I") or image.mode == "F":
        return from_array(np.asarray(image))
    if image.mode == "1":
        return image.convert("L")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        colour = image.convert("RGBA")
        white = Image.new("RGBA", colour.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, colour).convert("RGB")
    return image.convert("RGB")


def from_array(values: Array) -> Image.Image:
    """Return an array [H, W], [H, W, 1], [H, W, 3] or [H, W, 4] as an image.

    ``uint8`` is taken as it is, ``uint16`` (and wider whole numbers above 255) is divided by 257, floats are in
    [0, 1] where none is above 1, else in [0, 255].

    Raises:
        DataError: another shape, or values that are not finite.
    """
    pixels = np.asarray(values)
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] not in (3, 4)) or not pixels.size:
        raise DataError(
            f"an image array has shape {list(values.shape)}; wanted [H, W], [H, W, 1], [H, W, 3] or [H, W, 4]"
        )
    if pixels.dtype == bool:
        pixels = pixels.astype(np.uint8) * 255
    elif pixels.dtype.kind == "f":
        if not np.isfinite(pixels).all():
            raise DataError("an image array holds values that are not finite")
        unit = pixels.max() <= 1.0
        pixels = np.clip(pixels * (255.0 if unit else 1.0) + 0.5, 0, 255).astype(np.uint8)
    elif pixels.dtype != np.uint8:
        wide = pixels.dtype == np.uint16 or pixels.max() > 255
        pixels = np.clip(pixels // 257 if wide else pixels, 0, 255).astype(np.uint8)
    return normal(Image.fromarray(np.ascontiguousarray(pixels)))


def prepare_image(
    image: Image.Image | Array, spec: ImageInput, augment: str = "none", rng: np.random.Generator | None = None
) -> torch.Tensor:
    """Return an image as a backbone takes it: ``float32`` [channels, size, size].

    Without augmentation the shorter side is resized to ``size / crop`` and the centre is cut out. ``light``
    cuts a random window (60 to 100 % of the area, ratio 3:4 to 4:3) and mirrors half of the images.

    Args:
        image: upright, RGB or L, or an array of such.
        spec: the backbone's input.
        augment: ``none`` or ``light``.
        rng: random numbers of the augmentation.
    """
    picture = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    picture = picture.convert("L" if spec.channels == 1 else "RGB")
    resample = _FILTERS[spec.interpolation]
    if augment == "light":
        assert rng is not None
        picture = picture.resize((spec.size, spec.size), resample, box=_window(picture.size, rng))
        if rng.random() < 0.5:
            picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    else:
        picture = _centre(picture, spec, resample)
    pixels = np.asarray(picture, dtype=np.float32).reshape(spec.size, spec.size, spec.channels) / 255.0
    scaled = (pixels - np.asarray(spec.mean[: spec.channels], np.float32)) / np.asarray(
        spec.std[: spec.channels], np.float32
    )
    return torch.from_numpy(np.ascontiguousarray(scaled.transpose(2, 0, 1), dtype=np.float32))


def _centre(picture: Image.Image, spec: ImageInput, resample: Image.Resampling) -> Image.Image:
    width, height = picture.size
    side = min(width, height) * spec.crop
    # One resize of the wanted window: resizing all of a long strip first would need its length in memory.
    left, top = (width - side) / 2, (height - side) / 2
    return picture.resize((spec.size, spec.size), resample, box=(left, top, left + side, top + side))


def _window(size: tuple[int, int], rng: np.random.Generator) -> tuple[float, float, float, float]:
    width, height = size
    area, ratio = (
        rng.uniform(0.6, 1.0) * min(width, height) ** 2,
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
        return normal(ImageOps.exif_transpose(item))
    if isinstance(item, torch.Tensor):
        planes = item.detach().cpu().numpy()
        item = planes.transpose(1, 2, 0) if planes.ndim == 3 and planes.shape[0] in (1, 3, 4) else planes
    if isinstance(item, np.ndarray):
        return from_array(item)
    if isinstance(item, dict) and (item.get("bytes") or item.get("path")):
        return as_image(item.get("bytes") or item["path"])
    raise DataError(f"{type(item).__name__} is no image; wanted a path, a PIL image or an array [H, W] or [H, W, C]")


def raw_bytes(item: Any) -> bytes:
    """Return bytes that equal items share: a file's content, an array's shape and values."""
    if isinstance(item, (str, Path)):
        try:
            return Path(item).read_bytes()
        except OSError as error:
            raise DataError(f"{Path(item).name} cannot be read: {error.strerror}") from error
    if isinstance(item, (bytes, bytearray)):
        return bytes(item)
    if isinstance(item, dict) and (item.get("bytes") or item.get("path")):
        return raw_bytes(item.get("bytes") or item["path"])
    pixels = np.asarray(as_image(item) if not isinstance(item, np.ndarray) else item)
    return repr((pixels.shape, str(pixels.dtype))).encode() + np.ascontiguousarray(pixels).tobytes()
