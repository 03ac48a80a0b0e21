"""InsightFace's residual networks as backbones, whose weights many face-recognition models share.

Source: Deng et al., "ArcFace: Additive angular margin loss for deep face recognition", CVPR 2019; names of the
tensors as in github.com/deepinsight/insightface, ``arcface_torch``.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from fer.models.backbones import Backbone, StagedBackbone, with_weights

CHANNELS = (64, 128, 256, 512)
BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 14, 3), 100: (3, 13, 30, 3)}


class Block(nn.Module):
    """BatchNorm, 3x3 convolution, BatchNorm, PReLU, 3x3 convolution with the stride, BatchNorm, beside a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.prelu = nn.PReLU(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, stride, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.downsample: nn.Module | None = None
        if stride > 1 or inputs != outputs:
            shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C', h / stride, w / stride)."""
        y: Tensor = self.bn3(self.conv2(self.prelu(self.bn2(self.conv1(self.bn1(x))))))
        return y + (x if self.downsample is None else self.downsample(x))


class IResNet(StagedBackbone):
    """IResNet up to its last feature map, the one behind ``bn2``; its embedding is left out."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.name = f"iresnet{depth}"
        self.stages = len(CHANNELS)
        self.num_features = CHANNELS[-1]
        self.conv1 = nn.Conv2d(3, CHANNELS[0], 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(CHANNELS[0])
        self.prelu = nn.PReLU(CHANNELS[0])
        inputs = CHANNELS[0]
        for number, (outputs, blocks) in enumerate(zip(CHANNELS, BLOCKS[depth], strict=True), start=1):
            made = [Block(inputs, outputs, 2), *(Block(outputs, outputs, 1) for _ in range(blocks - 1))]
            setattr(self, f"layer{number}", nn.Sequential(*made))
            inputs = outputs
        self.bn2 = nn.BatchNorm2d(CHANNELS[-1])
        self.initialize()

    @property
    def last_stage(self) -> nn.Module:
        return nn.Sequential(super().last_stage, self.bn2)

    def stem(self, x: Tensor) -> Tensor:
        y: Tensor = self.prelu(self.bn1(self.conv1(x)))
        return y


def iresnet(
    *,
    depth: Literal[18, 34, 50, 100] = 50,
    weights: str | None = None,
    allow_partial_weights: bool = False,
    weights_sha256: str | None = None,
) -> Backbone:
    """IResNet of 18, 34, 50 or 100 layers, C = 512; 112 px give a 7x7 map.

    Views are normalized as the published weights were trained, to -1..1 (``conf/backbone/iresnet50.yaml``).

    Args:
        depth: number of layers.
        weights: a file, or a run folder.
        allow_partial_weights, weights_sha256: see ``load_backbone_weights``.

    Raises:
        WeightsError: see ``load_backbone_weights``.
    """
    return with_weights(IResNet(depth), weights, allow_partial_weights, weights_sha256)
