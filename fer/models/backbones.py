"""Backbones: x (B, 3, H, W) -> feature map (B, C, h, w), with attribute ``num_features`` = C.

Each is a function for ``conf/backbone/*.yaml`` to name. ``stem`` sets how much the first layers shrink the image:

- ``imagenet``: as published, 7x7 stride 2 and a max-pool; 224 px give a 7x7 map.
- ``no_pool``: the pool removed; 112 px give 7x7. Published weights still fit.
- ``small``: 3x3 stride 1 without a pool; 56 px give 7x7. The first convolution has another shape.

``weights`` are described in ``fer.models.weights``.
"""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor, nn
from torchvision.models import mobilenetv2
from torchvision.models import resnet as torchvision_resnet
from torchvision.models.resnet import BasicBlock, Bottleneck

from fer.errors import ConfigError
from fer.models.weights import load_weights

Stem = Literal["imagenet", "no_pool", "small"]
STEMS = ("imagenet", "no_pool", "small")

# Table 1 of He et al., CVPR 2016: block and blocks per stage.
RESNETS: dict[int, tuple[type[BasicBlock | Bottleneck], list[int]]] = {
    18: (BasicBlock, [2, 2, 2, 2]),
    34: (BasicBlock, [3, 4, 6, 3]),
    50: (Bottleneck, [3, 4, 6, 3]),
    101: (Bottleneck, [3, 4, 23, 3]),
    152: (Bottleneck, [3, 8, 36, 3]),
}


class ResNet(torchvision_resnet.ResNet):
    """torchvision's ResNet up to its last feature map; parameter names are torchvision's without ``fc``."""

    def __init__(self, block: type[BasicBlock | Bottleneck], layers: list[int], stem: Stem) -> None:
        super().__init__(block, layers)
        self.num_features: int = self.fc.in_features
        del self.avgpool, self.fc
        if stem != "imagenet":
            self.maxpool = nn.Identity()
        if stem == "small":
            self.conv1 = _small_convolution(self.conv1.out_channels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        features: Tensor = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return features


def resnet(*, depth: int, stem: Stem = "imagenet", **weights: Any) -> nn.Module:
    """ResNet-18, 34, 50, 101 or 152 (the bottlenecks with their stride on the 3x3, torchvision's "v1.5").

    Raises:
        ConfigError: another depth or stem.
        WeightsError: see ``load_weights``.
    """
    if depth not in RESNETS:
        raise ConfigError(f"backbone.depth is {depth}; choose one of {', '.join(map(str, RESNETS))}")
    backbone = ResNet(*RESNETS[depth], stem=_checked(stem))
    return load_weights(backbone, name=f"resnet{depth}", **weights)


def vggface2_resnet50(*, stem: Stem = "imagenet", **weights: Any) -> nn.Module:
    """The ResNet-50 that VGGFace2 weights are made for, which EAC is published with (methods of Cao et al., FG 2018).

    Names and shapes equal torchvision's, but the stride of a stage lies on its first 1x1 convolution and the max-pool
    has no padding and rounds up.
    """
    backbone = ResNet(*RESNETS[50], stem=_checked(stem))
    for stage in (backbone.layer2, backbone.layer3, backbone.layer4):
        first = stage[0]
        first.conv1.stride, first.conv2.stride = first.conv2.stride, first.conv1.stride
    if stem == "imagenet":
        backbone.maxpool = nn.MaxPool2d(3, stride=2, padding=0, ceil_mode=True)
    return load_weights(backbone, name="resnet50_vggface2", **weights)


class MobileNetV2(mobilenetv2.MobileNetV2):
    """torchvision's MobileNetV2 up to its last feature map.

    It has no pool: ``no_pool`` takes the stride of the first bottleneck stage instead, ``small`` that of the first
    convolution too. Shapes of the weights do not change.
    """

    def __init__(self, stem: Stem) -> None:
        super().__init__()
        self.num_features: int = self.last_channel
        del self.classifier
        strided = [m for m in self.features.modules() if isinstance(m, nn.Conv2d) and m.stride == (2, 2)]
        for convolution in strided[1:2] if stem == "no_pool" else strided[:2] if stem == "small" else []:
            convolution.stride = (1, 1)

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.features(x)
        return features


def mobilenet_v2(*, stem: Stem = "imagenet", **weights: Any) -> nn.Module:
    """MobileNetV2 (Sandler et al., CVPR 2018), 1,280 features."""
    return load_weights(MobileNetV2(_checked(stem)), name="mobilenet_v2", **weights)


class TinyResNet(nn.Module):
    """A ResNet of four stages with one basic block each, for tests and demonstrations on a CPU.

    Strides of 8 in all: 56 px give a 7x7 map, 64 px 8x8.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        widths = [width, 2 * width, 4 * width, 6 * width]
        self.conv1 = nn.Conv2d(3, width, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = _basic_block(width, widths[0], stride=1)
        self.layer2 = _basic_block(widths[0], widths[1], stride=2)
        self.layer3 = _basic_block(widths[1], widths[2], stride=2)
        self.layer4 = _basic_block(widths[2], widths[3], stride=1)
        self.num_features = widths[3]
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        features: Tensor = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return features


def tiny(*, width: int = 16, **weights: Any) -> nn.Module:
    """A small ResNet; ``width`` channels in its first stage."""
    return load_weights(TinyResNet(width), name="tiny", **weights)


def _basic_block(inputs: int, outputs: int, stride: int) -> BasicBlock:
    if stride == 1 and inputs == outputs:
        return BasicBlock(inputs, outputs)
    shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
    return BasicBlock(inputs, outputs, stride, shortcut)


def _small_convolution(outputs: int) -> nn.Conv2d:
    convolution = nn.Conv2d(3, outputs, 3, stride=1, padding=1, bias=False)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    return convolution


def _checked(stem: Stem) -> Stem:
    if stem not in STEMS:
        raise ConfigError(f"backbone.stem is {stem!r}; choose one of {', '.join(STEMS)}")
    return stem
