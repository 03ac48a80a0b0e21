"""MAN, mutual adaptation of two networks that split the training set by their agreement with the labels.

Pattern Recognition Letters 2022; formulas from the released code (GitHub zzzzzzyang/MAN).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms import v2

from fer.batch import Batch
from fer.methods.base import Loss, Setting
from fer.methods.two_networks import Evaluated, TwoNetworks, mean_of

NOISY, AMBIGUOUS, CLEAN = range(3)


class MAN(TwoNetworks):
    """Cross-entropy on clean samples, mutual learning on ambiguous ones, label-free consistency on noisy ones.

    Until epoch ``warm_up`` both networks learn by cross-entropy. Before every later epoch a sample is clean if both
    predict its label without augmentation, noisy if neither does, ambiguous otherwise. Of each group's terms the mean
    over its samples counts, summed over both networks:

        CE(clean) + mutual_weight * ((1 - l) * CE / 2 + l * symmetric KL / 2)(ambiguous) + MSE(p weak, p strong)(noisy)

    with ``l = 0.9 * exp(-0.65 * (1 - t / 0.9) ** 2)``, t the share of training that lies behind, at most 0.9. The weak
    view is the experiment's augmentation; the strong one is RandAugment of two operations before it, drawn for each
    image.

    Args:
        setting: what the experiment fixes.
        warm_up: epochs (released code: 10 of 100).
        mutual_weight: 0 or more (released code: 0.6).
        consistency_weight: 0 or more (released code: 1).
        evaluated: see ``TwoNetworks`` (released code: mean); ``train/*`` is the first network's on the weak view.

    Raises:
        ValueError: a value outside its range.
    """

    views = 2
    group: Tensor
    """int64 (N,): 0 noisy, 1 ambiguous, 2 clean."""

    def __init__(
        self,
        setting: Setting,
        *,
        warm_up: int = 10,
        mutual_weight: float = 0.6,
        consistency_weight: float = 1.0,
        evaluated: Evaluated = "mean",
    ) -> None:
        if warm_up < 0:
            raise ValueError(f"method.warm_up is {warm_up}; it must be 0 or more")
        for name, weight in (("mutual_weight", mutual_weight), ("consistency_weight", consistency_weight)):
            if not weight >= 0:
                raise ValueError(f"method.{name} is {weight}; it must be 0 or more")
        super().__init__(setting, evaluated=evaluated)
        self.warm_up = warm_up
        self.mutual_weight = mutual_weight
        self.consistency_weight = consistency_weight
        self.strong = v2.RandAugment(num_ops=2, magnitude=10)
        self.register_buffer("group", torch.full_like(setting.given_labels, CLEAN))

    def make_views(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """The weak and the strong view."""
        strong = torch.stack([self.strong(each) for each in image])
        return self.augmentation.one_view(image), self.augmentation.one_view(strong)

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        if self.current_epoch >= self.warm_up:
            predicted = self.probabilities_of_training_samples().argmax(2)
            self.group.copy_((predicted == self.given_labels).sum(0))

    def mutual_share(self, progress: float) -> float:
        """``l`` when the share ``progress`` of training lies behind."""
        return 0.9 * math.exp(-0.65 * (1 - min(progress / 0.9, 1.0)) ** 2)

    def loss(self, batch: Batch) -> Loss:
        weak, strong = batch.image
        logits = self.logits_of_both(weak)
        losses = sum(F.cross_entropy(z, batch.label, reduction="none") for z in logits)
        assert isinstance(losses, Tensor)
        if self.current_epoch < self.warm_up:
            loss_cls = losses.mean()
            return Loss(loss_cls, logits[0], {"loss_cls": loss_cls})
        assert self.trainer.max_epochs is not None
        share = self.mutual_share(self.current_epoch / self.trainer.max_epochs)
        group = self.group[batch.index]
        log_p = logits.log_softmax(2)
        divergence = sum(
            F.kl_div(log_p[a], log_p[b], reduction="none", log_target=True).sum(1) for a, b in ((0, 1), (1, 0))
        )
        of_strong = self.logits_of_both(strong).softmax(2)
        difference = (log_p.exp() - of_strong).square().mean(2).sum(0)
        loss_cls = mean_of(losses, group == CLEAN)
        loss_mutual = mean_of(0.5 * (1 - share) * losses + 0.5 * share * divergence, group == AMBIGUOUS)
        loss_consistency = mean_of(difference, group == NOISY)
        total = loss_cls + self.mutual_weight * loss_mutual + self.consistency_weight * loss_consistency
        parts = {"loss_cls": loss_cls, "loss_mutual": loss_mutual, "loss_consistency": loss_consistency}
        return Loss(total, logits[0], {**parts, "clean": (group == CLEAN).float().mean()})
