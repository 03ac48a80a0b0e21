"""IR-50 of face.evoLVe as a backbone, whose MS-Celeb-1M weights TransFER, APViT and POSTER start from.

Source: Deng et al., "ArcFace: Additive angular margin loss for deep face recognition", CVPR 2019, for the block; names
of the tensors as in github.com/ZhaoJ9014/face.evoLVe. Unlike ``iresnet``, no BatchNorm follows a block's first
convolution, and the first block has no convolution in its shortcut.
"""

from __future__ import annotations

import re
from bisect import bisect
from itertools import accumulate
from typing import Literal

from torch import Tensor, nn

from fer.models.backbones import Backbone, StagedBackbone, with_weights

CHANNELS = (64, 128, 256, 512)
BLOCKS = (3, 4, 14, 3)
_FIRST_BLOCKS = [0, *accumulate(BLOCKS[:-1])]


class Block(nn.Module):
    """BatchNorm, 3x3 convolution, PReLU, 3x3 convolution with the stride, BatchNorm, beside a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.shortcut_layer: nn.Module = nn.MaxPool2d(1, stride) if stride > 1 else nn.Identity()
        if inputs != outputs:
            shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.shortcut_layer = nn.Sequential(shortcut, nn.BatchNorm2d(outputs))
        self.res_layer = nn.Sequential(
            nn.BatchNorm2d(inputs),
            nn.Conv2d(inputs, outputs, 3, 1, 1, bias=False),
            nn.PReLU(outputs),
            nn.Conv2d(outputs, outputs, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C', h / stride, w / stride)."""
        y: Tensor = self.res_layer(x) + self.shortcut_layer(x)
        return y


class IR50(StagedBackbone):
    """IR-50 up to the end of stage 3 or 4; its embedding, ``output_layer`` of the files, is left out."""

    def __init__(self, stages: int) -> None:
        super().__init__()
        self.name = "ir50"
        self.stages = stages
        self.num_features = CHANNELS[stages - 1]
        inputs = CHANNELS[0]
        convolution = nn.Conv2d(3, inputs, 3, 1, 1, bias=False)
        self.input_layer = nn.Sequential(convolution, nn.BatchNorm2d(inputs), nn.PReLU(inputs))
        for stage in range(1, stages + 1):
            outputs, count = CHANNELS[stage - 1], BLOCKS[stage - 1]
            blocks = [Block(inputs, outputs, 2), *(Block(outputs, outputs, 1) for _ in range(count - 1))]
            setattr(self, f"layer{stage}", nn.Sequential(*blocks))
            inputs = outputs
        self.initialize()

    def stem(self, x: Tensor) -> Tensor:
        y: Tensor = self.input_layer(x)
        return y


def ir50(
    *,
    stages: Literal[3, 4] = 4,
    weights: str | None = None,
    allow_partial_weights: bool = False,
    weights_sha256: str | None = None,
) -> Backbone:
    """IR-50 up to stage 3 (C = 256; 112 px give 14x14, as in TransFER) or 4 (all of it, C = 512; 112 px give 7x7).

    Views are normalized as the published weights were trained, to -1..1 (``conf/backbone/ir50.yaml``).

    Args:
        stages: where the network ends.
        weights: a file such as ``backbone_ir50_ms1m_epoch120.pth``, also one cut after stage 3, or a run folder.
        allow_partial_weights, weights_sha256: see ``load_backbone_weights``.

    Raises:
        WeightsError: see ``load_backbone_weights``.
    """
    return with_weights(IR50(stages), weights, allow_partial_weights, weights_sha256, rename=own_name)


def own_name(name: str) -> str:
    """Turn ``body.7.…``, or ``body2.0.…`` of POSTER++, into ``layer2.0.…``, so that stages can be trained apart."""
    numbered = re.match(r"body\.([0-9]{1,3})\.", name)
    if numbered is None:
        return re.sub(r"^body(?=[1-4]\.)", "layer", name)
    block = int(numbered[1])
    stage = bisect(_FIRST_BLOCKS, block)
    return f"layer{stage}.{block - _FIRST_BLOCKS[stage - 1]}.{name[numbered.end() :]}"
