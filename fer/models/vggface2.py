"""ResNet-50 and SE-ResNet-50 of VGGFace2, as Caffe has them, for the face-recognition weights of that data set.

Sources: Cao et al., "VGGFace2: A dataset for recognising faces across pose and age", FG 2018; Hu et al.,
"Squeeze-and-excitation networks", CVPR 2018; names of the tensors as in github.com/cydonia999/VGGFace2-pytorch.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck

from fer.models.backbones import RESNETS, Backbone, ResNet, with_weights
from fer.models.weights.weight_file import SENET, VGGFACE2

_REDUCTION = 16


class StrideFirstBottleneck(Bottleneck):
    """The bottleneck of the first publication: a layer's stride lies on the 1x1 convolution before the 3x3."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.conv1.stride, self.conv2.stride = self.conv2.stride, self.conv1.stride


class VGGFace2ResNet(ResNet):
    """A residual network of 50 layers as in Caffe: besides its blocks, a max-pool that rounds up without padding."""

    def __init__(self, name: str, block: type[Bottleneck], stem: str, stages: int) -> None:
        super().__init__(name, block, RESNETS[50][1], stem, stages)
        if stem == "imagenet":
            self.maxpool = nn.MaxPool2d(3, stride=2, padding=0, ceil_mode=True)


class SEBottleneck(StrideFirstBottleneck):
    """Bottleneck whose channels are weighted, before the shortcut is added, by what ``conv4`` and ``conv5`` say."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        channels = self.conv3.out_channels
        self.conv4 = nn.Conv2d(channels, channels // _REDUCTION, 1)
        self.conv5 = nn.Conv2d(channels // _REDUCTION, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C', h / stride, w / stride)."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        weight = self.conv5(self.relu(self.conv4(y.mean((2, 3), keepdim=True)))).sigmoid()
        shortcut = x if self.downsample is None else self.downsample(x)
        out: Tensor = self.relu(y * weight + shortcut)
        return out


class SENet(VGGFace2ResNet):
    """SE-ResNet-50 up to its last feature map, which turns RGB views into the BGR that its weights are made for."""

    def __init__(self, stem: str, stages: int) -> None:
        super().__init__(SENET, SEBottleneck, stem, stages)

    def trunk(self, x: Tensor) -> Tensor:
        return super().trunk(x.flip(1))


def vggface2_resnet50(
    *,
    stem: str = "imagenet",
    stages: int = 4,
    weights: str | None = None,
    allow_partial_weights: bool = False,
    weights_sha256: str | None = None,
) -> Backbone:
    """The ResNet-50 that the VGGFace2 weights are made for (Cao et al., FG 2018), C = 2048.

    Names and shapes equal torchvision's, but the strides lie on the first 1x1 convolutions, and the max-pool has no
    padding and rounds up.

    Raises:
        ConfigError: another stem or number of stages.
        WeightsError: see ``load_backbone_weights``.
    """
    backbone = VGGFace2ResNet(VGGFACE2, StrideFirstBottleneck, stem, stages)
    return with_weights(backbone, weights, allow_partial_weights, weights_sha256)


def vggface2_senet50(
    *,
    stem: str = "imagenet",
    stages: int = 4,
    weights: str | None = None,
    allow_partial_weights: bool = False,
    weights_sha256: str | None = None,
) -> Backbone:
    """VGGFace2's SE-ResNet-50, C = 2048; strides and max-pool as in ``vggface2_resnet50``.

    Views are normalized as the network was trained: RGB minus (131.0912, 103.8827, 91.4953) on the scale 0..255, which
    is ``augment.mean`` and ``augment.std`` of ``conf/backbone/senet50_vggface2.yaml``.

    Args:
        stem, stages: see ``fer.models.backbones``.
        weights: a file such as ``senet50_ft_weight.pkl``, or a run folder.
        allow_partial_weights, weights_sha256: see ``load_backbone_weights``.

    Raises:
        ConfigError: another stem or number of stages.
        WeightsError: see ``load_backbone_weights``.
    """
    return with_weights(SENet(stem, stages), weights, allow_partial_weights, weights_sha256)
