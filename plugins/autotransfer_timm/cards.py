"""The curated cards: networks with stages, sizes and weights that were checked against what timm builds."""

from __future__ import annotations

from autotransfer.plugin import BackboneSpec, ImageInput, Scalar, WeightSource

_HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

_RESNET = tuple(f"layer{i}" for i in range(1, 5))
_SEVEN_BLOCKS = tuple(f"blocks.{i}" for i in range(7))
_TWELVE_BLOCKS = tuple(f"blocks.{i}" for i in range(12))

_ONE_THOUSAND = "ImageNet-1k"
_TWENTY_ONE_THOUSAND = "ImageNet-21k, then ImageNet-1k"


def _card(
    tagged: str,
    summary: str,
    *,
    stages: tuple[str, ...],
    width: int,
    params: int,
    macs: int,
    bytes: int,
    licence: str = "Apache-2.0",
    pretrained_on: str = _ONE_THOUSAND,
    size: int = 224,
    norm: tuple[tuple[float, ...], tuple[float, ...]] = _IMAGENET,
    interpolation: str = "bicubic",
    crop: float = 0.875,
    options: dict[str, Scalar] | None = None,
    fixed: bool = False,
) -> BackboneSpec:
    """Return the card of one of timm's pretrained models, named ``architecture.tag``.

    A ``fixed`` one is built for one input size; timm resamples its position tables where another one is asked for.
    """
    return BackboneSpec(
        id=f"timm/{tagged.partition('.')[0]}",
        factory="autotransfer_timm.build:build",
        options={"name": tagged, **(options or {})},
        size_option="img_size" if fixed else None,
        summary=summary,
        input=ImageInput(size=size, mean=norm[0], std=norm[1], interpolation=interpolation, crop=crop),
        stages=stages,
        width=width,
        params=params,
        macs=macs,
        weights=WeightSource(where="hub", name=f"timm/{tagged}", bytes=bytes),
        licence=licence,
        pretrained_on=pretrained_on,
    )


def _torchvision(
    tagged: str, summary: str, stages: tuple[str, ...], width: int, params: int, macs: int, bytes: int
) -> BackboneSpec:
    """Return the card of weights that torchvision trained.

    Of the many recipes the plain one is taken: what later ones add (label smoothing, mixing of images, other
    losses) raises accuracy on ImageNet and lowers that of the features elsewhere (Kornblith et al. 2021,
    arXiv:2010.16402).
    """
    return _card(
        tagged,
        summary,
        stages=stages,
        width=width,
        params=params,
        macs=macs,
        bytes=bytes,
        licence="BSD-3-Clause",
        interpolation="bilinear",
    )


_RESNETS = (
    _torchvision(
        "resnet18.tv_in1k", "ResNet-18: small, old and sturdy", _RESNET, 512, 11_176_512, 1_813_561_344, 46_796_608
    ),
    _torchvision("resnet34.tv_in1k", "ResNet-34", _RESNET, 512, 21_284_672, 3_663_249_408, 87_259_072),
    _torchvision("resnet50.tv_in1k", "ResNet-50: the yardstick", _RESNET, 2048, 23_508_032, 4_087_136_256, 102_441_032),
    _torchvision("resnet101.tv_in1k", "ResNet-101", _RESNET, 2048, 42_500_160, 7_799_357_440, 178_618_848),
    _torchvision("resnet152.tv_in1k", "ResNet-152", _RESNET, 2048, 58_143_808, 11_511_578_624, 241_378_168),
)

_VGGS = (
    _torchvision(
        "vgg16_bn.tv_in1k",
        "VGG-16 with batch norm: large and dear",
        ("features.6", "features.13", "features.23", "features.33", "features.43", "pre_logits"),
        4096,
        134_268_992,
        15_466_168_320,
        553_497_864,
    ),
    _torchvision(
        "vgg19_bn.tv_in1k",
        "VGG-19 with batch norm: large and dear",
        ("features.6", "features.13", "features.26", "features.39", "features.52", "pre_logits"),
        4096,
        139_581_248,
        19_627_966_464,
        574_757_152,
    ),
)

_INCEPTIONS = (
    _card(
        "inception_v3.tf_in1k",
        "Inception v3, at 299 pixels",
        stages=("Pool1", "Pool2", "Mixed_5d", "Mixed_6a", "Mixed_6c", "Mixed_6e", "Mixed_7a", "Mixed_7c"),
        width=2048,
        params=21_785_568,
        macs=5_711_168_096,
        bytes=95_476_752,
        size=299,
        norm=_HALF,
    ),
    _card(
        "inception_v4.tf_in1k",
        "Inception v4, at 299 pixels",
        stages=tuple(f"features.{i}" for i in (2, 5, 9, 10, 14, 17, 18, 21)),
        width=1536,
        params=41_142_816,
        macs=12_252_438_624,
        bytes=170_973_128,
        size=299,
        norm=_HALF,
    ),
)

_MOBILES = (
    _card(
        "efficientnet_b0.ra_in1k",
        "EfficientNet-B0",
        stages=_SEVEN_BLOCKS,
        width=1280,
        params=4_007_548,
        macs=384_534_752,
        bytes=21_322_648,
    ),
    _card(
        "efficientnet_lite0.ra_in1k",
        "EfficientNet-Lite0: no squeeze-and-excitation",
        stages=_SEVEN_BLOCKS,
        width=1280,
        params=3_371_008,
        macs=383_907_552,
        bytes=18_776_488,
    ),
    _card(
        "mobilenetv2_100.ra_in1k",
        "MobileNetV2 1.0",
        stages=_SEVEN_BLOCKS,
        width=1280,
        params=2_223_872,
        macs=299_494_272,
        bytes=14_156_352,
    ),
    _card(
        "mobilenetv3_large_100.ra_in1k",
        "MobileNetV3 large 1.0: the cheapest",
        stages=_SEVEN_BLOCKS,
        width=1280,
        params=4_202_032,
        macs=215_309_760,
        bytes=22_030_096,
    ),
)

_MODERN = (
    _card(
        "convnext_tiny.in12k_ft_in1k",
        "ConvNeXt tiny",
        stages=tuple(f"stages.{i}" for i in range(4)),
        width=768,
        params=27_820_128,
        macs=4_454_763_264,
        bytes=114_356_512,
        crop=0.95,
        pretrained_on="ImageNet-12k, then ImageNet-1k",
    ),
    _card(
        "vit_small_patch16_224.augreg_in21k_ft_in1k",
        "ViT small, patches of 16",
        stages=_TWELVE_BLOCKS,
        width=384,
        params=21_665_664,
        macs=4_598_498_304,
        bytes=88_202_656,
        fixed=True,
        norm=_HALF,
        crop=0.9,
        pretrained_on=_TWENTY_ONE_THOUSAND,
    ),
    _card(
        "vit_base_patch16_224.augreg2_in21k_ft_in1k",
        "ViT base, patches of 16",
        stages=_TWELVE_BLOCKS,
        width=768,
        params=85_798_656,
        macs=17_563_060_224,
        bytes=346_270_624,
        fixed=True,
        norm=_HALF,
        crop=0.9,
        pretrained_on=_TWENTY_ONE_THOUSAND,
    ),
    _card(
        "deit_small_patch16_224.fb_in1k",
        "DeiT small, patches of 16",
        stages=_TWELVE_BLOCKS,
        width=384,
        params=21_665_664,
        macs=4_598_498_304,
        bytes=88_202_656,
        fixed=True,
        crop=0.9,
    ),
    _card(
        "swin_tiny_patch4_window7_224.ms_in22k_ft_in1k",
        "Swin tiny",
        stages=tuple(f"layers.{i}" for i in range(4)),
        width=768,
        params=27_519_354,
        macs=4_489_798_656,
        bytes=113_153_416,
        fixed=True,
        crop=0.9,
        licence="MIT",
        pretrained_on=_TWENTY_ONE_THOUSAND,
    ),
    _card(
        "vit_small_patch14_dinov2.lvd142m",
        "DINOv2 ViT small, patches of 14, self-supervised; run at 224 pixels",
        stages=_TWELVE_BLOCKS,
        width=384,
        params=21_628_800,
        macs=6_123_561_984,
        bytes=88_224_768,
        fixed=True,
        crop=1.0,
        pretrained_on="LVD-142M",
        options={"img_size": 224},
    ),
)

CARDS = (*_RESNETS, *_VGGS, *_INCEPTIONS, *_MOBILES, *_MODERN)
