"""Class activation maps (CAM, Zhou et al., CVPR 2016) of a linear classifier on averaged features."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def class_activation_maps(features: Tensor, weight: Tensor) -> Tensor:
    """CAM of every class: ``M[n, k, i, j] = sum_c weight[k, c] * features[n, c, i, j]``.

    No bias, no ReLU, no normalization, so that ``M.mean((2, 3)) + bias`` are the logits of a linear classifier on
    globally averaged features.

    Args:
        features: feature map (B, C, h, w).
        weight: classifier weight (K, C); pass it detached where no gradient may reach the classifier.

    Returns:
        (B, K, h, w) in the precision of ``weight``, also inside autocast.
    """
    # A 1x1 convolution is fast in both memory formats; a broadcast product would hold (B, K, C, h, w).
    with torch.autocast(features.device.type, enabled=False):
        return F.conv2d(features.to(weight.dtype), weight[:, :, None, None])
