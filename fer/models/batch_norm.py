"""BatchNorm that keeps the views of a joint batch apart."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn

Module = TypeVar("Module", bound=nn.Module)


class PerViewBatchNorm2d(nn.BatchNorm2d):
    """In training, normalises each of ``views`` equal parts of the batch by its own statistics.

    One joint forward pass is then the same mathematics as a pass per view: running statistics too are updated once
    per view, in order. State-dict keys equal ``nn.BatchNorm2d``'s.
    """

    views = 2

    def forward(self, input: Tensor) -> Tensor:
        """Input (views * B, C, H, W), the views one after the other; any batch in evaluation."""
        if not self.training:
            return super().forward(input)
        parts = input.tensor_split(self.views)
        normalised = torch.cat([super(PerViewBatchNorm2d, self).forward(part) for part in parts])
        # Concatenation forgets the memory format of its parts.
        channels_last = input.is_contiguous(memory_format=torch.channels_last)
        return normalised.contiguous(memory_format=torch.channels_last) if channels_last else normalised


def keep_views_apart(module: Module) -> Module:
    """Turn every ``nn.BatchNorm2d`` inside ``module`` into a ``PerViewBatchNorm2d``, in place."""
    for child in module.modules():
        if type(child) is nn.BatchNorm2d:
            child.__class__ = PerViewBatchNorm2d
    return module
