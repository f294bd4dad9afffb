"""Images behind the protocol of modalities; decoding itself is in :mod:`autotransfer.data.image`."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from autotransfer.codec import Scalar
from autotransfer.data.blocks import Blocks
from autotransfer.data.image import (
    SUFFIXES,
    VIEWS,
    as_image,
    content_hash,
    file_bytes,
    from_array,
    is_image,
    look,
    normalised,
    to_bytes,
    viewed,
    white_of,
    window,
)
from autotransfer.data.modalities import TABLES, Look, Preview
from autotransfer.data.pixels import Pixels
from autotransfer.errors import DataError
from autotransfer.spec import ImageInput

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from autotransfer.profiles import DataIssue
    from autotransfer.protocols import Dataset
    from autotransfer.registry import Registry
    from autotransfer.spec import BackboneSpec
    from autotransfer.store import Store

DRAFT = 64
"""A JPEG is decoded at no less than this many pixels to be looked at: damage shows all the same."""
THUMBNAIL = 96
"""Pixels of the longer side of an image in a report."""
Array = np.ndarray[Any, Any]
Measure = tuple[tuple[int, int], int]
"""Width and height, and planes (1 or 3)."""


class Scaled:
    """Images in one common scale, made ``uint8`` when asked for."""

    def __init__(self, values: Any, white: float) -> None:
        self.values = values
        self.white = white

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: int) -> Array:
        return to_bytes(self.values[index], self.white)


class Sizes:
    """A tally of widths, heights and planes."""

    def __init__(self) -> None:
        self.sizes: list[tuple[int, int]] = []
        self.planes: Counter[int] = Counter()

    def add(self, index: int, measure: Measure) -> None:
        """Take the size of one image."""
        self.sizes.append(measure[0])
        self.planes[measure[1]] += 1

    def facts(self) -> dict[str, Scalar]:
        """Return the sizes' medians and ends, and how many images are grey."""
        if not self.sizes:
            return {}
        width, height = np.asarray(self.sizes, dtype=np.int64).T
        return {
            "image.width_median": float(np.median(width)),
            "image.width_min": int(width.min()),
            "image.width_max": int(width.max()),
            "image.height_median": float(np.median(height)),
            "image.height_min": int(height.min()),
            "image.height_max": int(height.max()),
            "image.channels": max(self.planes),
            "image.grey": self.planes[1],
        }

    def numbers(self) -> Array:
        """Return width and height of each image, ``float64`` [N, 2]."""
        return np.asarray(self.sizes, dtype=np.float64).reshape(-1, 2)

    def issues(self, name: Callable[[int], str]) -> list[DataIssue]:
        """Return nothing: an image that can be read is as good as any."""
        return []


class ImageModality:
    """Implements :class:`autotransfer.data.modalities.Modality`."""

    name = "image"
    many = "images"
    suffixes = SUFFIXES
    names = ("image", "image_path", "img", "picture", "pixels", "path", "file", "filename", "file_name")
    feature = "Image"
    by_name = True
    ragged = False
    augmentations = ("light", "cutmix", "mixup", "strong", "views")
    altered = None
    views = VIEWS

    def owns(self, x: Any) -> bool:
        """Return whether X is an array of pictures, or a list of such, of PIL images or of paths named like images."""
        if isinstance(x, np.ndarray) and x.dtype.kind in "biuf":
            return x.ndim in (3, 4)
        if hasattr(x, "detach"):
            return bool(x.ndim in (3, 4))
        values = x[:50] if isinstance(x, (list, tuple)) else []
        return bool(values) and all(_is_picture(v) for v in values)

    def listed(self, x: Any) -> tuple[Any, list[str]]:
        """Return X as something whose items are images: an array, or a list of paths, PIL images and arrays."""
        items = images(x)
        scaled = isinstance(items, Scaled)
        return items, [f"pixels were taken to go from 0 (black) to {items.white:g} (white)"] if scaled else []

    def columns(self, samples: Mapping[str, Sequence[Any]], asked: bool) -> list[str]:
        """Return the column most of whose values are paths of images, or images."""
        fits = [c for c, values in samples.items() if _share(values) > 0.5]
        fits = [c for c in fits if c.lower() in self.names] or fits
        if len(fits) > 1:
            raise DataError(f"several columns hold images ({', '.join(fits)}); call the right one 'image'")
        return fits

    def cell(self, values: Mapping[str, Any], root: Path | None) -> Any:
        """Return the value of the one column; a path is put under ``root``."""
        (value,) = values.values()
        if root is not None and isinstance(value, (str, Path)):
            return root / value
        if root is not None and isinstance(value, dict) and not value.get("bytes") and value.get("path"):
            return root / value["path"]
        return value

    def path_of(self, item: Any) -> Path | None:
        """Return the path that an item is or names."""
        found = item.get("path") if isinstance(item, dict) else item
        return Path(found) if isinstance(found, (str, Path)) else None

    def load(self, item: Any) -> Array:
        """Return an item as ``uint8`` [H, W, 3], or [H, W] where it is grey."""
        return np.asarray(as_image(item))

    def look(self, item: Any, name: str) -> Look:
        """Return hash and size; a file is decoded only to see that it can be."""
        body = file_bytes(item)
        if body is not None:
            width, height, planes = look(body, DRAFT, name)
            return Look(content_hash(body), ((width, height), planes))
        image = as_image(item)
        return Look(content_hash(item if isinstance(item, np.ndarray) else image), self.measure(image))

    def measure(self, decoded: Any) -> Measure:
        """Return size and planes of an image."""
        image: Image.Image = as_image(decoded)
        return image.size, len(image.getbands())

    def steps(self, spec: ImageInput, tools: Any) -> list[str]:
        """Return the steps from an image to its input."""
        return [
            "turn the image upright (EXIF), put transparency over white, convert it to "
            + ("grey" if spec.channels == 1 else "RGB"),
            f"cut the middle square whose side is {spec.crop:g} of the shorter side, and resize it to {spec.size} x "
            f"{spec.size} pixels in one {spec.interpolation} resampling of that box (Pillow's Image.resize with box=)",
            "divide by 255, subtract mean and divide by std of each channel: float32 [channels, height, width]",
        ]

    def preview(self, decoded: Any) -> Preview:
        """Return an image as a JPEG of at most 96 x 96 pixels."""
        small: Image.Image = as_image(decoded).convert("RGB")
        small.thumbnail((THUMBNAIL, THUMBNAIL))
        body = io.BytesIO()
        small.save(body, "JPEG", quality=80)
        return Preview("image/jpeg", body.getvalue())

    def hash(self, item: Any) -> str:
        """Return a hash of a file's bytes, or of pixels."""
        body = file_bytes(item)
        return content_hash(body if body is not None else item if isinstance(item, np.ndarray) else as_image(item))

    def tally(self) -> Sizes:
        """Return an empty tally of sizes."""
        return Sizes()

    def adjusted(self, spec: ImageInput, facts: Mapping[str, Scalar]) -> ImageInput:
        """Return the input as it is."""
        return spec

    def tools(self, spec: BackboneSpec, registry: Registry, folder: Path | None) -> None:
        """Return None: the fields of the input say everything."""

    def stack(
        self, items: Sequence[Any], spec: ImageInput, tools: Any, augment: str, rng: np.random.Generator | None
    ) -> Tensor:
        """Return ``float32`` [B, channels, size, size]."""
        return normalised(np.stack([window(as_image(i), spec, augment, rng) for i in items]), spec)

    def view(
        self, items: Sequence[Any], spec: ImageInput, tools: Any, numbers: Sequence[int], rows: Sequence[int]
    ) -> Tensor:
        """Return ``float32`` [B, channels, size, size], each image in its fixed view."""
        seen = zip(items, numbers, rows, strict=True)
        return normalised(np.stack([viewed(as_image(i), spec, number, row) for i, number, row in seen]), spec)

    def keep(self, dataset: Dataset, contents: Array, splits: Sequence[Array], store: Store | None) -> Blocks | None:
        """Return where pixels of one geometric transform are kept."""
        return Blocks(dataset, contents, splits, store, Pixels()) if store is not None and len(contents) else None

    def one(self, x: Any) -> Any:
        """Return x where it is one image: a path of one, a PIL image, file bytes, an array [H, W] or [H, W, C]."""
        if isinstance(x, (str, Path)):
            return Path(x) if _is_image_path(Path(x)) else None
        if hasattr(x, "detach") and x.ndim == 3 and x.shape[0] in (3, 4):
            raise DataError(
                f"a tensor of shape {list(x.shape)} may be one image [C, H, W] or {x.shape[0]} grey ones; "
                "give x[None] for one, x[:, None] for several"
            )
        plain = hasattr(x, "getbands") or isinstance(x, (bytes, bytearray))
        return x if plain or (isinstance(x, np.ndarray) and _is_one(x)) else None

    def many_of(self, x: Sequence[Any]) -> Any:
        """Return arrays in one common scale where all are arrays, as in training; a faulty one leaves each its own."""
        items = [Path(i) if isinstance(i, str) else i for i in x]
        if all(isinstance(i, np.ndarray) for i in items):
            try:
                return images(items)
            except DataError:
                return items  # the row at fault says so itself when it is read
        return items

    def samples(self, spec: ImageInput, count: int) -> list[Any]:
        """Return images of random pixels, ``uint8`` [size, size, 3]."""
        rng = np.random.default_rng(0)
        return list(rng.integers(0, 256, (count, spec.size, spec.size, 3), dtype=np.uint8))

    def odd(self) -> Mapping[str, Any]:
        """Return odd images."""
        given: dict[str, Array] = {
            "one pixel": np.zeros((1, 1, 3), np.uint8),
            "grey": np.full((40, 30), 200, np.uint8),
            "transparent": np.zeros((20, 20, 4), np.uint8),
            "a long strip": np.zeros((4, 900, 3), np.uint8),
        }
        return {name: np.asarray(from_array(pixels)) for name, pixels in given.items()}


MODALITY = ImageModality()


def images(x: Any) -> Any:
    """Return X as something whose items are images.

    Args:
        x: an array [N, H, W], [N, H, W, C] or [N, C, H, W] (C of 1, 3 or 4), or a list of PIL images, arrays or paths.
            What white is in pixels that are not ``uint8`` is said by :func:`autotransfer.data.image.white_of`, once
            for all of X.

    Raises:
        DataError: it is not.
    """
    x = x.detach().cpu().numpy() if hasattr(x, "detach") else x
    if isinstance(x, np.ndarray) and x.dtype.kind in "biuf":
        if x.ndim == 4 and x.shape[1] in (1, 3, 4) and x.shape[3] not in (1, 3, 4):
            x = x.transpose(0, 2, 3, 1)
        if x.ndim not in (3, 4) or (x.ndim == 4 and x.shape[3] not in (1, 3, 4)):
            raise DataError(
                f"X has shape {list(x.shape)}; wanted images [N, H, W], [N, H, W, C] or [N, C, H, W], a list of texts, "
                "or another modality= by name"
            )
        if not x.size:
            raise DataError(f"X has shape {list(x.shape)}: there are no rows, or no pixels in them")
        return x if x.dtype == np.uint8 else Scaled(x, white_of(x))
    if not hasattr(x, "__iter__"):
        raise DataError(f"X is {type(x).__name__}; wanted an array of images, or a list of PIL images, arrays or paths")
    return _listed(list(x.tolist()) if hasattr(x, "tolist") else list(x))


def _listed(items: list[Any]) -> Any:
    if not items:
        raise DataError("X has no rows")
    texts = [i for i in items if isinstance(i, str)]
    if len(texts) == len(items) and not any(Path(t[-200:]).suffix.lower() in SUFFIXES for t in texts):
        raise DataError(f"X holds texts ({texts[0][:40]!r} ...) and no paths of images (.png, .jpg ...)")
    # Workers have another working folder.
    items = [Path(i).absolute() if isinstance(i, (str, Path)) else i for i in items]
    odd = [i for i in items if isinstance(i, np.ndarray) and i.dtype != np.uint8 and i.dtype.kind in "biuf" and i.size]
    if odd and len(odd) == len(items):
        ends = np.array([end for i in odd for end in (i.min(), i.max())], dtype=np.float64)
        return Scaled(items, white_of(ends))
    return items


def _is_picture(value: Any) -> bool:
    if isinstance(value, (str, Path)):
        return Path(str(value)[-200:]).suffix.lower() in SUFFIXES
    array = getattr(value, "ndim", 0) in (2, 3) and not isinstance(value, (bytes, bytearray))
    return array or hasattr(value, "getbands")


def _share(values: Sequence[Any]) -> float:
    return sum(_looks_like_image(v) for v in values) / max(1, len(values))


def _looks_like_image(value: Any) -> bool:
    if isinstance(value, (str, Path)):
        return Path(str(value)[-200:]).suffix.lower() in SUFFIXES
    if isinstance(value, (bytes, bytearray)):
        return is_image(bytes(value))
    if isinstance(value, dict):
        named = Path(str(value.get("path") or "")[-200:]).suffix.lower()
        if value.get("bytes"):
            return named in SUFFIXES or is_image(value["bytes"])
        return "path" in value and named in ("", *SUFFIXES)
    return type(value).__module__.split(".")[0] == "PIL"


def _is_image_path(path: Path) -> bool:
    """Return whether a path is to be read as one image; one that is missing, and named like an image, says so then.

    Raises:
        DataError: there is nothing, and its name is not that of an image.
    """
    if path.exists():
        return path.is_file() and path.suffix.lower() not in TABLES
    if path.suffix.lower() in SUFFIXES:
        return True
    raise DataError(f"{str(path)!r} does not exist; wanted an image, a folder of images, or a table of their paths")


def _is_one(x: Array) -> bool:
    return x.dtype != object and (x.ndim == 2 or (x.ndim == 3 and x.shape[2] in (1, 3, 4) and x.shape[0] > 4))
