"""Backbones: x (B, 3, H, W) -> feature map (B, C, h, w), each a function for ``conf/backbone/*.yaml`` to name.

``stem`` sets how much the first layers shrink the image, so that faces of any size give a map that can be compared:

- ``imagenet``: as published, 7x7 with stride 2 and a max-pool; 224 px give a 7x7 map.
- ``no_pool``: without the pool; 112 px give 7x7. Published weights fit.
- ``small``: 3x3 with stride 1 and no pool; 56 px give 7x7. Published weights fit but for the first convolution.

``stages=3`` ends a ResNet before its last stage, which halves its channels and doubles the edges of the map. Published
weights fit, without those of the stage left out.

``weights``, ``allow_partial_weights`` and ``weights_sha256`` are those of
``fer.models.weights.load.load_backbone_weights``; ``weights=None`` leaves torchvision's random initialization.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TypeVar

from torch import Tensor, nn
from torchvision.models import mobilenetv2
from torchvision.models import resnet as torchvision_resnet
from torchvision.models.resnet import BasicBlock, Bottleneck

from fer.errors import ConfigError
from fer.models.weights.load import LoadReport, load_backbone_weights

STEMS = ("imagenet", "no_pool", "small")
_MOBILE_TRUNK = 14  # Blocks before the last stride, as of a ResNet.
# Table 1 of He et al., CVPR 2016: block and blocks per layer.
RESNETS = {
    18: (BasicBlock, [2, 2, 2, 2]),
    34: (BasicBlock, [3, 4, 6, 3]),
    50: (Bottleneck, [3, 4, 6, 3]),
    101: (Bottleneck, [3, 4, 23, 3]),
    152: (Bottleneck, [3, 8, 36, 3]),
}


class Backbone(nn.Module, ABC):
    """Interface of backbones for the classifier and the methods."""

    name: str
    """The option ``backbone=name``."""
    num_features: int
    """Channels C of the feature map."""
    weights_report: LoadReport | None = None
    """Report of loaded weights; None after random initialization."""

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.last_stage(self.trunk(x))
        return features

    @property
    def last_stage(self) -> nn.Module:
        """The layers that make the feature map from what ``trunk`` returns, for methods with branches of them."""
        stage = self.layer4
        assert isinstance(stage, nn.Module)
        return stage

    @abstractmethod
    def trunk(self, x: Tensor) -> Tensor:
        """Layers before the last stage: (B, 3, H, W) -> (B, C', h', w')."""


AnyBackbone = TypeVar("AnyBackbone", bound=Backbone)


class StagedBackbone(Backbone):
    """Backbone of ``layer1`` to ``layer<stages>`` behind a stem, which may end before its architecture does."""

    stages: int

    @property
    def last_stage(self) -> nn.Module:
        stage: nn.Module = getattr(self, f"layer{self.stages}")
        return stage

    @abstractmethod
    def stem(self, x: Tensor) -> Tensor:
        """Layers before ``layer1``: (B, 3, H, W) -> (B, C', h', w')."""

    def trunk(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for stage in range(1, self.stages):
            x = getattr(self, f"layer{stage}")(x)
        return x

    def initialize(self) -> None:
        """Initialize all convolutions as torchvision does a ResNet's."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                _initialize(module)


class ResNet(Backbone, torchvision_resnet.ResNet):
    """torchvision's ResNet up to its last feature map; names of the tensors are torchvision's without ``fc``."""

    conv1: nn.Conv2d
    bn1: nn.BatchNorm2d
    relu: nn.ReLU
    maxpool: nn.Module
    layer1: nn.Sequential
    layer2: nn.Sequential
    layer3: nn.Sequential
    layer4: nn.Sequential
    fc: nn.Linear

    def __init__(
        self, name: str, block: type[BasicBlock | Bottleneck], layers: list[int], stem: str, stages: int
    ) -> None:
        if stages not in (3, 4):
            raise ConfigError(f"backbone.stages={stages}: choose 3 or 4")
        super().__init__(block, layers)
        self.name = name
        self.stages = stages
        self.num_features = self.fc.in_features
        del self.avgpool, self.fc
        if stages == 3:
            self.num_features //= 2
            del self.layer4
        if _checked(stem) != "imagenet":
            self.maxpool = nn.Identity()
        if stem == "small":
            self.conv1 = nn.Conv2d(3, self.conv1.out_channels, 3, padding=1, bias=False)
            _initialize(self.conv1)

    @property
    def last_stage(self) -> nn.Module:
        return self.layer4 if self.stages == 4 else self.layer3

    def trunk(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        features: Tensor = self.layer2(self.layer1(x))
        return self.layer3(features) if self.stages == 4 else features


class MobileNetV2(Backbone, mobilenetv2.MobileNetV2):
    """torchvision's MobileNetV2 up to its last feature map.

    It has no pool: ``no_pool`` undoes the second stride instead, that of the first strided bottleneck, and ``small``
    the first convolution's too. Map sizes are as with a ResNet, and published weights fit entirely.
    """

    features: nn.Sequential
    last_channel: int

    def __init__(self, stem: str) -> None:
        super().__init__()
        self.name = "mobilenet_v2"
        self.num_features = self.last_channel
        del self.classifier
        strided = [module for module in self.modules() if isinstance(module, nn.Conv2d) and module.stride == (2, 2)]
        undone = {"imagenet": [], "no_pool": strided[1:2], "small": strided[:2]}[_checked(stem)]
        for convolution in undone:
            convolution.stride = (1, 1)

    @property
    def last_stage(self) -> nn.Module:
        return self.features[_MOBILE_TRUNK:]

    def trunk(self, x: Tensor) -> Tensor:
        features: Tensor = self.features[:_MOBILE_TRUNK](x)
        return features


class TinyResNet(Backbone):
    """Four basic blocks of 1, 2, 4 and 6 times ``width`` channels behind a 3x3 stem; strides of 8 in all.

    Raises:
        ConfigError: fewer than 8 channels.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        # On processors with AVX2 only, oneDNN's gradient of a strided 1x1 convolution of 2 to 7 channels in
        # channels_last writes outside its memory (seen with torch 2.14).
        if width < 8:
            raise ConfigError(f"backbone.width={width}: give 8 or more")
        self.name = "tiny"
        self.num_features = 6 * width
        self.conv1 = nn.Conv2d(3, width, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = _basic_block(width, width, stride=1)
        self.layer2 = _basic_block(width, 2 * width, stride=2)
        self.layer3 = _basic_block(2 * width, 4 * width, stride=2)
        self.layer4 = _basic_block(4 * width, 6 * width, stride=1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                _initialize(module)

    def trunk(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        features: Tensor = self.layer3(self.layer2(self.layer1(x)))
        return features


def resnet(
    *,
    depth: int,
    stem: str = "imagenet",
    stages: int = 4,
    weights: str | None = None,
    allow_partial_weights: bool = False,
    weights_sha256: str | None = None,
) -> Backbone:
    """ResNet of 18, 34 (C = 512), 50, 101 or 152 layers (C = 2048; strides on the 3x3 as in torchvision).

    Raises:
        ConfigError: another depth, stem or number of stages.
        WeightsError: see ``load_backbone_weights``.
    """
    if depth not in RESNETS:
        raise ConfigError(f"backbone.depth={depth}: choose one of {', '.join(map(str, RESNETS))}")
    backbone = ResNet(f"resnet{depth}", *RESNETS[depth], stem, stages)
    return with_weights(backbone, weights, allow_partial_weights, weights_sha256)


def mobilenet_v2(
    *,
    stem: str = "imagenet",
    weights: str | None = None,
    allow_partial_weights: bool = False,
    weights_sha256: str | None = None,
) -> Backbone:
    """MobileNetV2 (Sandler et al., CVPR 2018), C = 1280.

    Raises:
        ConfigError: another stem.
        WeightsError: see ``load_backbone_weights``.
    """
    return with_weights(MobileNetV2(stem), weights, allow_partial_weights, weights_sha256)


def tiny(
    *,
    width: int = 16,
    weights: str | None = None,
    allow_partial_weights: bool = False,
    weights_sha256: str | None = None,
) -> Backbone:
    """A small ResNet for tests and demonstrations on a CPU, C = 6 * ``width``; 64 px give an 8x8 map.

    Raises:
        ConfigError: ``width`` below 8.
        WeightsError: see ``load_backbone_weights``.
    """
    return with_weights(TinyResNet(width), weights, allow_partial_weights, weights_sha256)


def with_weights(
    backbone: AnyBackbone,
    weights: str | None,
    allow_partial_weights: bool,
    weights_sha256: str | None,
    rename: Callable[[str], str] = str,
) -> AnyBackbone:
    if weights is not None:
        backbone.weights_report = load_backbone_weights(
            backbone,
            weights,
            name=backbone.name,
            allow_partial_weights=allow_partial_weights,
            weights_sha256=weights_sha256,
            rename=rename,
        )
    return backbone


def _basic_block(inputs: int, outputs: int, *, stride: int) -> BasicBlock:
    if inputs == outputs and stride == 1:
        return BasicBlock(inputs, outputs)
    shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
    return BasicBlock(inputs, outputs, stride, shortcut)


def _initialize(convolution: nn.Conv2d) -> None:
    """Initialize as torchvision does a ResNet."""
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")


def _checked(stem: str) -> str:
    if stem not in STEMS:
        raise ConfigError(f"backbone.stem={stem}: choose one of {', '.join(STEMS)}")
    return stem
