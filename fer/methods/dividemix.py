"""DivideMix: J. Li, R. Socher, S. Hoi, "DivideMix: Learning with Noisy Labels as Semi-supervised Learning", ICLR 2020,
arXiv 2002.07394.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from fer.batch import Batch
from fer.methods.base import Loss, Setting
from fer.methods.two_networks import Evaluated, TwoNetworks, mean_of

Prior = Literal["uniform", "given", "none"]


def small_loss_probability(losses: Tensor, iterations: int = 10, least_variance: float = 5e-4) -> Tensor:
    """Posterior (N,) of the component of small mean in a mixture of two Gaussians of the losses scaled to 0..1.

    EM from components at 0 and 1 with variance 0.1, ``iterations`` steps, ``least_variance`` added to variances.
    """
    x = losses.double()
    x = (x - x.min()) / (x.max() - x.min()).clamp(min=1e-12)
    mean, variance, share = x.new_tensor([0.0, 1.0]), x.new_full((2,), 0.1), x.new_full((2,), 0.5)

    def posterior() -> Tensor:
        density = share.log() - 0.5 * variance.log() - (x[:, None] - mean).square() / (2 * variance)
        return density.softmax(1)

    for _ in range(iterations):
        weight = posterior()
        total = weight.sum(0).clamp(min=1e-12)
        mean = (weight * x[:, None]).sum(0) / total
        variance = (weight * (x[:, None] - mean).square()).sum(0) / total + least_variance
        share = total / len(x)
    # By selection and not by indexing with a tensor, for which a device would have to be waited.
    both = posterior()
    return torch.where(mean[0] <= mean[1], both[:, 0], both[:, 1])


def sharpen(p: Tensor, temperature: float) -> Tensor:
    """``p ** (1 / temperature)``, normalised."""
    powered: Tensor = p ** (1 / temperature)
    return powered / powered.sum(1, keepdim=True)


class DivideMix(TwoNetworks):
    """Two networks, each trained by MixMatch on a split of the samples that the other has made by its losses.

    Until epoch ``warm_up`` both learn by cross-entropy. Before every later epoch each network's losses on the training
    set are modelled by two Gaussians; w is a sample's probability of the one of small losses, and for the OTHER network
    samples with ``w > threshold`` are labelled. Targets, from two augmentations: labelled, ``w * label + (1 - w) * own
    mean prediction``; unlabelled, the mean prediction of both networks; sharpened. Both views of all samples are mixed
    with partners by ``l = max(Beta, 1 - Beta)``, and

        CE(labelled) + unlabelled_weight(t) * MSE(unlabelled) + KL(prior || mean prediction).

    Unlike the released code, whose batches hold equally many of both kinds, a batch here is of the training set, and
    falls into as many of each as it holds.

    Args:
        setting: what the experiment fixes.
        warm_up: epochs (CIFAR-10: 10 of 300).
        threshold: in [0, 1] (paper: 0.5).
        temperature: above 0 (paper: 0.5).
        alpha: of Beta(alpha, alpha), above 0 (paper: 4).
        unlabelled_weight: 0 or more (released code: 25), reached ``ramp`` epochs after the warm-up.
        ramp: epochs (released code: 16).
        prior: ``uniform`` (the paper, wrong for classes of unlike size), ``given``, the shares of the given labels, or
            ``none``, without the last term.
        evaluated: see ``TwoNetworks`` (paper: both, ``mean``); ``train/*`` is the first network's.

    Raises:
        ValueError: a value outside its range.
    """

    views = 2
    clean: Tensor
    """Float (2, N): w by the first and by the second network."""

    def __init__(
        self,
        setting: Setting,
        *,
        warm_up: int = 10,
        threshold: float = 0.5,
        temperature: float = 0.5,
        alpha: float = 4.0,
        unlabelled_weight: float = 25.0,
        ramp: int = 16,
        prior: Prior = "given",
        evaluated: Evaluated = "mean",
    ) -> None:
        for name, number in (("warm_up", warm_up), ("ramp", ramp), ("unlabelled_weight", unlabelled_weight)):
            if not number >= 0:
                raise ValueError(f"method.{name} is {number}; it must be 0 or more")
        if not 0 <= threshold <= 1:
            raise ValueError(f"method.threshold is {threshold}; it must lie in 0..1")
        if not (temperature > 0 and alpha > 0):
            raise ValueError(f"method.temperature is {temperature} and method.alpha {alpha}; both must be above 0")
        if prior not in ("uniform", "given", "none"):
            raise ValueError(f"method.prior is {prior!r}; choose one of uniform, given, none")
        super().__init__(setting, evaluated=evaluated)
        self.warm_up, self.ramp = warm_up, ramp
        self.threshold = threshold
        self.temperature = temperature
        self.alpha = alpha
        self.unlabelled_weight = unlabelled_weight
        shares = torch.bincount(setting.given_labels, minlength=self.num_classes) / len(setting.given_labels)
        self.prior = prior
        self.register_buffer("shares", shares if prior == "given" else torch.full_like(shares, 1 / len(shares)))
        self.shares: Tensor
        self.register_buffer("clean", torch.ones(2, len(setting.given_labels)))

    def make_views(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Two draws of the augmentation; neither is mirrored."""
        return self.augmentation.one_view(image), self.augmentation.one_view(image)

    def conclusions(self) -> dict[str, Tensor]:
        """Give w of each network, 0..1."""
        return {"clean_by_first": self.clean[0], "clean_by_second": self.clean[1]}

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        if self.current_epoch >= self.warm_up:
            p = self.probabilities_of_training_samples()
            of_label = self.of_given_label(p)
            self.clean.copy_(torch.stack([small_loss_probability(-row.clamp(min=1e-12).log()) for row in of_label]))

    def weight_of_unlabelled(self, epoch: int) -> float:
        """Rises linearly over ``ramp`` epochs from the end of the warm-up."""
        return self.unlabelled_weight * (min((epoch - self.warm_up) / self.ramp, 1.0) if self.ramp else 1.0)

    def loss(self, batch: Batch) -> Loss:
        if self.current_epoch < self.warm_up:
            logits = self.logits_of_both(batch.image[0])
            loss_cls = F.cross_entropy(logits[0], batch.label) + F.cross_entropy(logits[1], batch.label)
            return Loss(loss_cls, logits[0], {"loss_cls": loss_cls})
        with torch.no_grad():
            p = torch.stack([self.logits_of_both(view).softmax(2) for view in batch.image]).mean(0)  # (2, B, K)
        terms = []
        for network, own, of_other in ((self.network, p[0], 1), (self.second_network, p[1], 0)):
            clean = self.clean[of_other, batch.index]
            target = self.targets(clean, batch.label, own, p.mean(0))
            terms.append(self._mixmatch(network, batch, target, clean > self.threshold))
        sums = [first + second for first, second in zip(*terms, strict=True)]
        loss_labelled, loss_unlabelled, loss_prior = sums
        total = loss_labelled + self.weight_of_unlabelled(self.current_epoch) * loss_unlabelled + loss_prior
        parts = {"loss_labelled": loss_labelled, "loss_unlabelled": loss_unlabelled, "loss_prior": loss_prior}
        # The network's own predictions, since what it was trained on is mixed.
        return Loss(total, p[0].clamp(min=1e-12).log(), {**parts, "clean": self.clean[:, batch.index].mean()})

    def targets(self, clean: Tensor, labels: Tensor, own: Tensor, of_both: Tensor) -> Tensor:
        """Sharpened targets (B, K) from w (B,), labels (B,) and mean predictions (B, K)."""
        onehot = F.one_hot(labels, self.num_classes).to(own.dtype)
        w = clean[:, None].to(own.dtype)
        refined = torch.where(w > self.threshold, w * onehot + (1 - w) * own, of_both)
        return sharpen(refined, self.temperature)

    def _mixmatch(
        self, network: torch.nn.Module, batch: Batch, target: Tensor, labelled: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        images, targets, labelled = torch.cat([*batch.image]), target.repeat(2, 1), labelled.repeat(2)
        share = torch.distributions.Beta(self.alpha, self.alpha).sample().item()
        share = max(share, 1 - share)
        partner = torch.randperm(len(images), device=images.device)
        _, logits = network(share * images + (1 - share) * images[partner])
        mixed = share * targets + (1 - share) * targets[partner]
        p = logits.softmax(1)
        loss_labelled = mean_of(-(mixed * logits.log_softmax(1)).sum(1), labelled)
        loss_unlabelled = mean_of((p - mixed).square().mean(1), ~labelled)
        if self.prior == "none":
            return loss_labelled, loss_unlabelled, loss_labelled * 0
        loss_prior = (torch.special.xlogy(self.shares, self.shares) - self.shares * p.mean(0).log()).sum()
        return loss_labelled, loss_unlabelled, loss_prior
