"""BatchNorm whose statistics are those of one view or group of a joint batch, of the batch over all ranks, or kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Self

import torch
from torch import Tensor, distributed, nn


class _SumOverRanks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        total = value.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return sum_over_ranks(gradients[0])


def sum_over_ranks(value: Tensor) -> Tensor:
    """Sum of every rank's tensor; its gradient is the sum of every rank's gradient."""
    total: Tensor = _SumOverRanks.apply(value)
    return total


class PerViewBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm that normalizes, in training, each of ``views`` equal parts of the batch by its own statistics.

    One joint forward pass is then the same mathematics as a pass per view: running statistics too are updated once
    per view, in order. State-dict keys equal ``nn.BatchNorm2d``'s.
    """

    views = 2

    def forward(self, input: Tensor) -> Tensor:
        """Input (views * B, C, H, W), the views one after the other; any batch in evaluation."""
        if not self.training:
            return super().forward(input)
        parts = input.tensor_split(self.views)
        normalized = torch.cat([super(PerViewBatchNorm2d, self).forward(part) for part in parts])
        # Concatenation forgets the memory format of its parts.
        channels_last = input.is_contiguous(memory_format=torch.channels_last)
        return normalized.contiguous(memory_format=torch.channels_last) if channels_last else normalized


class SyncedBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm that normalizes, in training, by the statistics of the batch over all ranks, as one device would.

    For the CPU, where torch's own does not work. State-dict keys equal ``nn.BatchNorm2d``'s.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Input (B, C, H, W); ranks may hold different B."""
        if not self.training:
            return super().forward(input)
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None and self.momentum is not None
        x = input.to(self.running_mean.dtype)  # bfloat16 is too coarse for sums
        sums = torch.cat([x.sum((0, 2, 3)), x.new_full((1,), x.numel() / x.shape[1])])
        sums, count = sum_over_ranks(sums).tensor_split([-1])
        mean = sums / count
        x = x - mean[:, None, None]
        variance = sum_over_ranks(x.square().sum((0, 2, 3))) / count
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)
        scale = torch.rsqrt(variance + self.eps)
        if not self.affine:
            return (x * scale[:, None, None]).to(input.dtype)
        scale = self.weight * scale
        return torch.addcmul(self.bias[:, None, None], x, scale[:, None, None]).to(input.dtype)


class SyncedPerViewBatchNorm2d(PerViewBatchNorm2d, SyncedBatchNorm2d):
    """BatchNorm that normalizes each view by its own statistics over all ranks."""


class GpuSyncedBatchNorm2d(nn.SyncBatchNorm):
    """BatchNorm of torch (``SyncBatchNorm``) over all ranks."""

    process_group = None


class GpuSyncedPerViewBatchNorm2d(PerViewBatchNorm2d, GpuSyncedBatchNorm2d):
    """BatchNorm that normalizes each view by its own statistics over all ranks, on GPUs."""


class GroupedBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm that normalizes each sample by its group's statistics, in training inside ``groups_apart``.

    One joint forward pass is then the same mathematics as a pass per group, and needs no group sizes on the CPU. A
    group of one sample is normalized over that sample's positions. State-dict keys equal ``nn.BatchNorm2d``'s.
    """

    members: Tensor | None = None
    """Float (B, G), 1 where a sample belongs to a group."""
    tracked: int = 0
    """Number of groups, from the first on, that update the running statistics, in order; empty groups do not."""

    def forward(self, input: Tensor) -> Tensor:
        """Input (B, C, H, W)."""
        if not self.training or self.members is None:
            return super().forward(input)
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None and self.momentum is not None
        x = input.to(self.running_mean.dtype)
        # Products and sums; autocast or TF32 would round matrix products.
        members = self.members.to(x.dtype)[:, :, None]  # (B, G, 1)
        ones = x.new_full((len(x), 1), x.shape[2] * x.shape[3])
        sums = (members * torch.cat([x.sum((2, 3)), ones], 1)[:, None]).sum(0)  # (G, C + 1)
        sums, count = self._over_ranks(sums).tensor_split([-1], 1)
        mean = sums / count.clamp(min=1)
        x = x - (members * mean).sum(1)[:, :, None, None]
        squares = (members * x.square().sum((2, 3))[:, None]).sum(0)
        variance = self._over_ranks(squares) / count.clamp(min=1)
        with torch.no_grad():
            unbiased = variance * (count / (count - 1).clamp(min=1))
            for group in range(self.tracked):
                filled = count[group] > 0
                self.num_batches_tracked += filled[0]
                self.running_mean.lerp_(mean[group].detach(), self.momentum * filled.to(mean.dtype))
                self.running_var.lerp_(unbiased[group], self.momentum * filled.to(mean.dtype))
        scale = (members * torch.rsqrt(variance + self.eps)).sum(1)
        if not self.affine:
            return (x * scale[:, :, None, None]).to(input.dtype)
        scale = self.weight * scale
        return torch.addcmul(self.bias[:, None, None], x, scale[:, :, None, None]).to(input.dtype)

    def _over_ranks(self, value: Tensor) -> Tensor:
        return value


class SyncedGroupedBatchNorm2d(GroupedBatchNorm2d):
    """BatchNorm of each group over all ranks; outside ``groups_apart``, all samples are one group."""

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or self.members is not None:
            return super().forward(input)
        with groups_apart(self, input.new_ones(len(input), 1), tracked=1):
            return super().forward(input)

    def _over_ranks(self, value: Tensor) -> Tensor:
        return sum_over_ranks(value)


class FrozenBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm that stays in evaluation mode: it normalizes by its running statistics, and keeps them.

    Views, groups and ranks make no difference to it. State-dict keys equal ``nn.BatchNorm2d``'s.
    """

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode, whatever ``mode`` says."""
        return super().train(False)


_Classes = dict[type[nn.Module], type[nn.Module]]
_SYNCED: _Classes = {
    nn.BatchNorm2d: SyncedBatchNorm2d,
    PerViewBatchNorm2d: SyncedPerViewBatchNorm2d,
    GroupedBatchNorm2d: SyncedGroupedBatchNorm2d,
}
_GPU_SYNCED: _Classes = {
    nn.BatchNorm2d: GpuSyncedBatchNorm2d,
    PerViewBatchNorm2d: GpuSyncedPerViewBatchNorm2d,
    GroupedBatchNorm2d: SyncedGroupedBatchNorm2d,
}


def keep_views_apart(module: nn.Module) -> None:
    """Turn every ``nn.BatchNorm2d`` inside ``module`` into a ``PerViewBatchNorm2d``, in place."""
    for child in module.modules():
        if type(child) is nn.BatchNorm2d:
            child.__class__ = PerViewBatchNorm2d


def freeze_statistics(module: nn.Module) -> None:
    """Turn every ``nn.BatchNorm2d`` inside ``module``, or ``module`` itself, into a ``FrozenBatchNorm2d``, in place.

    Raises:
        TypeError: a BatchNorm of another class.
    """
    for child in module.modules():
        if type(child) is nn.BatchNorm2d:
            child.__class__ = FrozenBatchNorm2d
            child.eval()
        elif isinstance(child, nn.modules.batchnorm._BatchNorm) and not isinstance(child, FrozenBatchNorm2d):
            raise TypeError(
                f"{type(child).__name__} cannot keep its statistics; use nn.BatchNorm2d, or leave out optim.frozen and "
                "optim.frozen_batch_norm"
            )


def make_groupable(module: nn.Module) -> None:
    """Turn every ``nn.BatchNorm2d`` inside ``module`` into a ``GroupedBatchNorm2d``, in place."""
    for child in module.modules():
        if type(child) is nn.BatchNorm2d:
            child.__class__ = GroupedBatchNorm2d


@contextmanager
def groups_apart(module: nn.Module, members: Tensor, *, tracked: int) -> Iterator[None]:
    """Make every ``GroupedBatchNorm2d`` inside ``module`` normalize groups apart.

    Args:
        module: made groupable before.
        members: float (B, G), each row with one 1.
        tracked: the first so many groups update the running statistics.
    """
    norms = [child for child in module.modules() if isinstance(child, GroupedBatchNorm2d)]
    for norm in norms:
        norm.members, norm.tracked = members, tracked
    try:
        yield
    finally:
        for norm in norms:
            norm.members = None


def synchronize_statistics(module: nn.Module, device: torch.device) -> None:
    """Make every BatchNorm inside ``module``, which will train on ``device``, normalize by the batch over all ranks.

    Raises:
        TypeError: a BatchNorm that is not two-dimensional.
    """
    synced = _SYNCED if device.type == "cpu" else _GPU_SYNCED
    for child in module.modules():
        if type(child) in synced:
            child.__class__ = synced[type(child)]
        elif isinstance(child, nn.modules.batchnorm._BatchNorm) and not isinstance(child, FrozenBatchNorm2d):
            raise TypeError(
                f"{type(child).__name__} cannot be synchronized; use nn.BatchNorm2d or sync_batchnorm=false"
            )


def reestimate_statistics(module: nn.Module, passes: Iterable[Callable[[], object]]) -> None:
    """Replace the running statistics of every BatchNorm inside ``module`` by their mean over forward passes.

    All other layers are in evaluation mode. A BatchNorm that is frozen, or that no pass reaches, keeps its
    statistics.

    Args:
        module: whose modes are as before afterwards.
        passes: each calls ``module`` with a batch of two or more samples.
    """
    norms = [
        child
        for child in module.modules()
        if isinstance(child, nn.modules.batchnorm._BatchNorm) and not isinstance(child, FrozenBatchNorm2d)
    ]
    momenta = [norm.momentum for norm in norms]
    counters = [None if norm.num_batches_tracked is None else norm.num_batches_tracked.clone() for norm in norms]
    was_training = {child: child.training for child in module.modules()}
    module.eval()
    try:
        for number, forward in enumerate(passes):
            for norm in norms:
                norm.training, norm.momentum = True, 1 / (number + 1)
                if isinstance(norm, PerViewBatchNorm2d):
                    norm.views = 1
            forward()
    finally:
        for norm, momentum, counter in zip(norms, momenta, counters, strict=True):
            norm.momentum = momentum
            if counter is not None:
                norm.num_batches_tracked = counter
            vars(norm).pop("views", None)
        for child, training in was_training.items():
            child.training = training


def share_statistics(module: nn.Module) -> None:
    """Give every rank the running statistics of rank 0, which differ where BatchNorm is not synchronized."""
    for child in module.modules():
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            for statistics in child.buffers(recurse=False):
                distributed.broadcast(statistics, src=0)
