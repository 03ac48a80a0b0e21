"""MAN: mutual adaptation of two networks that split the training set by their agreement with the labels.

Pattern Recognition Letters 2022; formulas and defaults from the released code (GitHub zzzzzzyang/MAN).
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from fer.methods.core.method import Loss, Setting
from fer.methods.core.two_networks import Evaluated, TwoNetworks, mean_of
from fer.models.batch_norm import groups_apart, make_groupable
from fer.ranges import AtLeast0, CountFrom0
from fer.views.batch import ViewBatch
from fer.views.rand_augment import Level, RandAugment
from fer.views.resize import resize
from fer.views.warps import random_mirror, random_shift

NOISY, AMBIGUOUS, CLEAN = range(3)
_RELEASED_SIZE = 224
_BORDER, _TRANSLATION, _CUTOUT = 4, 10, 16
"""Pixels of a view of 224."""


class MAN(TwoNetworks):
    """Cross-entropy on clean samples, mutual learning on ambiguous ones, label-free consistency on noisy ones.

        L      = L_cls + omega * L_mut + gamma * L_usc         after ``warm_up`` epochs of cross-entropy alone
        L_cls  = r * sum_k CE(z_k, y)                          clean: both networks predict the label
        L_mut  = ((1 - l) * sum_k CE(z_k, y) + l * (KL(p_1 || p_2) + KL(p_2 || p_1))) / 2      ambiguous: one does
        L_usc  = r * sum_k MSE(p_k(weak), p_k(strong))         noisy: neither does
        l      = 0.9 * exp(-0.65 * (1 - e / (0.9 E))^2)        in epoch e = 1 .. E

    Each term is averaged over its group; the warm-up is ``r * sum_k CE``. Groups are made before each epoch with both
    networks in evaluation mode. The weak view is the experiment's augmentation. The strong one is moved by up to 4
    pixels, mirrored with probability 0.5, and then RandAugment's, see ``fer.views.rand_augment``, with translations of
    up to 10 pixels and a cutout of 16 (of 224, in proportion in other sizes); nothing is erased in it.

        symbol   argument            default
        omega    mutual_weight       0.6
        gamma    consistency_weight  1
        r        over_networks       1/2, ``mean`` (released code); ``sum``: 1
        l        schedule            ``released``; ``held``: e counts from 0 and stays at 0.9 E
                 split_views         ``augmented`` (released code): training views decide about groups; ``plain``
                 separate_groups     true (released code): each group passes the networks by itself; false: BatchNorm
                                     sees the batch, one view at a time

    Differences from the released code: the groups pass in one joint pass whose BatchNorm keeps them apart, which is the
    same mathematics; where a group of one sample meets maps of 1x1, which raises there, it is normalized to 0. Under
    DDP each rank averages a group over its part of the batch. The released strong view's module of crops is missing
    from the repository: that its padding reflects is an assumption. The strong view is resized as by
    Pillow, not OpenCV, and ``fer.views.rand_augment`` names how operations differ. The released weak view is
    ``augment=man``.

    Args:
        setting: what the experiment fixes.
        warm_up: epochs of cross-entropy (released code: 10 of 100).
        mutual_weight: omega, 0 or more.
        consistency_weight: gamma, 0 or more.
        over_networks: ``mean`` or ``sum``.
        schedule: ``released`` or ``held``.
        split_views: ``augmented`` or ``plain``.
        separate_groups: see above.
        strong_operations: of RandAugment.
        strong_level: of RandAugment, 0 to 10.
        evaluated: see ``TwoNetworks`` (released code: mean); ``train/*`` is the first network's on the weak view.
    """

    views = 2
    follows_total_epochs = True
    group: Tensor
    """int64 (N,): 0 noisy, 1 ambiguous, 2 clean."""

    def __init__(
        self,
        setting: Setting,
        *,
        warm_up: CountFrom0 = 10,
        mutual_weight: AtLeast0 = 0.6,
        consistency_weight: AtLeast0 = 1.0,
        over_networks: Literal["mean", "sum"] = "mean",
        schedule: Literal["released", "held"] = "released",
        split_views: Literal["augmented", "plain"] = "augmented",
        separate_groups: bool = True,
        strong_operations: CountFrom0 = 2,
        strong_level: Level = 10,
        evaluated: Evaluated = "mean",
    ) -> None:
        super().__init__(setting, evaluated=evaluated)
        self.warm_up = warm_up
        self.mutual_weight = mutual_weight
        self.consistency_weight = consistency_weight
        self.over_networks = 0.5 if over_networks == "mean" else 1.0
        self.schedule = schedule
        self.split_views = split_views
        self.separate_groups = separate_groups
        if separate_groups:
            make_groupable(self)
        scale = self.augmentation.size / _RELEASED_SIZE
        self.border = round(_BORDER * scale)
        self.strong = RandAugment(
            strong_operations, strong_level, translation=_TRANSLATION * scale, cutout=_CUTOUT * scale
        )
        self.register_buffer("group", torch.full_like(setting.given_labels, CLEAN))

    def make_views(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Make the weak and the strong view."""
        moved = random_mirror(random_shift(resize(image, self.augmentation.size), self.border))
        return self.augmentation.one_view(image), self.augmentation.test_view(self.strong(moved))

    def conclusions(self) -> dict[str, Tensor]:
        """Give how many of the two networks predict the given label: 0 noisy, 1 ambiguous, 2 clean."""
        return {"networks_that_agree": self.group}

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        if self.current_epoch >= self.warm_up:
            predicted = self.probabilities_of_training_samples(augmented=self.split_views == "augmented").argmax(2)
            self.group.copy_((predicted == self.given_labels).sum(0))

    def mutual_share(self, epoch: int, epochs: int) -> float:
        """Compute ``l`` in an epoch counted from 0."""
        progress = (epoch + 1) / (0.9 * epochs) if self.schedule == "released" else min(epoch / (0.9 * epochs), 1.0)
        return 0.9 * math.exp(-0.65 * (1 - progress) ** 2)

    def loss(self, batch: ViewBatch) -> Loss:
        weak, strong = batch.views
        if self.current_epoch < self.warm_up:
            logits = self.logits_of_both(weak)
            loss_cls = self.over_networks * self._cross_entropies(logits, batch.label).mean()
            return Loss(loss_cls, logits[0], {"loss_cls": loss_cls})
        share = self.mutual_share(self.current_epoch, self.total_epochs)
        group = self.group[batch.index]
        logits, of_strong = self._pass(weak, strong, group)
        losses = self._cross_entropies(logits, batch.label)
        log_p = logits.log_softmax(2)
        divergence = sum(
            F.kl_div(log_p[a], log_p[b], reduction="none", log_target=True).sum(1) for a, b in ((0, 1), (1, 0))
        )
        difference = (log_p.exp() - of_strong.softmax(2)).square().mean(2).sum(0)
        loss_cls = self.over_networks * mean_of(losses, group == CLEAN)
        loss_mutual = mean_of(0.5 * (1 - share) * losses + 0.5 * share * divergence, group == AMBIGUOUS)
        loss_consistency = self.over_networks * mean_of(difference, group == NOISY)
        total = loss_cls + self.mutual_weight * loss_mutual + self.consistency_weight * loss_consistency
        parts = {"loss_cls": loss_cls, "loss_mutual": loss_mutual, "loss_consistency": loss_consistency}
        return Loss(total, logits[0], {**parts, "clean": (group == CLEAN).float().mean()})

    def _cross_entropies(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Sum over both networks, (B,)."""
        return torch.stack([F.cross_entropy(z, labels, reduction="none") for z in logits]).sum(0)

    def _pass(self, weak: Tensor, strong: Tensor, group: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (2, B, K) of the weak and of the strong views."""
        if not self.separate_groups:
            return self.logits_of_both(weak), self.logits_of_both(strong)
        # Order of the released code's passes; strong views of other groups come last and are not used.
        of_weak = torch.where(group == CLEAN, 0, torch.where(group == NOISY, 1, 3))
        place = torch.cat([of_weak, torch.where(group == NOISY, 2, 4)])
        members = (place[:, None] == torch.arange(5, device=place.device)).to(torch.get_default_dtype())
        with groups_apart(self, members, tracked=4):
            joint = self.logits_of_both(torch.cat([weak, strong]))
        first, second = joint.chunk(2, 1)
        return first, second
