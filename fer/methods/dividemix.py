"""DivideMix: J. Li, R. Socher, S. Hoi, "DivideMix: Learning with Noisy Labels as Semi-supervised Learning", ICLR 2020,
arXiv 2002.07394.
"""

from __future__ import annotations

import warnings
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fer.errors import TrainingError
from fer.methods.core.method import Loss, Setting
from fer.methods.core.over_training_set import over_training_samples
from fer.methods.core.two_networks import Evaluated, TwoNetworks, mean_of
from fer.models.batch_norm import groups_apart, make_groupable
from fer.ranges import Above0, AtLeast0, CountFrom0, Share
from fer.views.batch import Batch, ViewBatch

Prior = Literal["uniform", "given", "none"]


def small_loss_probability(losses: Tensor, iterations: int = 10, least_variance: float = 5e-4) -> Tensor:
    """Compute the posterior (N,) of the component of small mean of two Gaussians of the losses scaled to 0..1.

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
    # Selection, since indexing with a tensor makes the host wait for the device.
    both = posterior()
    return torch.where(mean[0] <= mean[1], both[:, 0], both[:, 1])


def small_loss_probability_from_k_means(losses: Tensor, seed: int) -> Tensor:
    """Compute the same with scikit-learn's mixture as the released code sets it, which starts from k-means.

    Ten steps of EM at most, fewer where the mean log-likelihood rises by less than 0.01.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    x = losses.double().cpu()
    if not x.isfinite().all():
        raise TrainingError("losses of training samples are not finite: training has diverged; try a smaller optim.lr")
    x = ((x - x.min()) / (x.max() - x.min()).clamp(min=1e-12)).view(-1, 1)
    mixture = GaussianMixture(2, max_iter=10, tol=1e-2, reg_covar=5e-4, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        posterior = mixture.fit(x.numpy()).predict_proba(x.numpy())
    return torch.from_numpy(posterior[:, mixture.means_.argmin()]).to(losses.device)


def sharpen(p: Tensor, temperature: float) -> Tensor:
    """``p ** (1 / temperature)``, normalized."""
    powered: Tensor = p ** (1 / temperature)
    return powered / powered.sum(1, keepdim=True)


class DivideMix(TwoNetworks):
    """Two networks, each trained by MixMatch on a split of the samples that the other has made by its losses.

        warm-up  L = CE(z, y) + [confidence_penalty] * mean_i sum_k p_ik log p_ik
        later    L = CE(labeled) + lambda_u(t) * MSE(unlabeled) + KL(prior || mean prediction)
        w        probability of the Gaussian of small losses among two, fitted to all losses before every epoch; for
                 the OTHER network samples with w > tau are labeled
        targets  labeled: w * y + (1 - w) * own mean prediction of two augmentations; unlabeled: mean prediction of
                 both networks and augmentations; then q = p^(1/T), normalized
        mixing   both views of all samples with partners, by l = max(l', 1 - l'), l' ~ Beta(alpha, alpha)
        lambda_u(t) = lambda_u * clip((t - warm_up) / ramp, 0, 1), t the epoch and the part of it that is done

        symbol    argument            default
        tau       threshold           0.5
        T         temperature         0.5
        alpha     alpha               4
        lambda_u  unlabeled_weight   25
                  mixture             ``k_means`` (released code: scikit-learn's, seeded by the run's seed); ``fixed``:
                                      EM from components at 0 and 1
                  peer_evaluates      true (released code): the other network guesses in evaluation mode, and the own
                                      one passes labeled and unlabeled samples apart; false: both in training mode
                  ramp_within_epochs  true (released code): t counts steps; false: whole epochs
                  confidence_penalty  false; the released code has it under asymmetric noise
                  prior               ``given``; released code: ``uniform``

    Differences from the released code: it draws equal numbers of labeled and unlabeled samples; here a batch is drawn
    from the whole training set and split. It trains one network for an epoch and then the other; here both learn in
    every step, from guesses made before it. The average of five epochs' losses that it takes at 90 % noise is not
    made, and losses are computed on views without augmentation, as there.

    Args:
        setting: what the experiment fixes.
        warm_up: epochs (CIFAR-10: 10 of 300).
        threshold: tau, in [0, 1].
        temperature: T, above 0.
        alpha: above 0.
        unlabeled_weight: lambda_u, 0 or more, reached ``ramp`` epochs after the warm-up.
        ramp: epochs (released code: 16).
        prior: ``uniform`` (the paper, wrong for classes of unlike size), ``given``, the shares of the given labels, or
            ``none``, without the last term.
        mixture, peer_evaluates, ramp_within_epochs, confidence_penalty: see above.
        evaluated: see ``TwoNetworks`` (paper: both, ``mean``); ``train/*`` is the first network's.
    """

    views = 2
    clean: Tensor
    """Float (2, N): w by the first and by the second network."""

    def __init__(
        self,
        setting: Setting,
        *,
        warm_up: CountFrom0 = 10,
        threshold: Share = 0.5,
        temperature: Above0 = 0.5,
        alpha: Above0 = 4.0,
        unlabeled_weight: AtLeast0 = 25.0,
        ramp: CountFrom0 = 16,
        prior: Prior = "given",
        mixture: Literal["k_means", "fixed"] = "k_means",
        peer_evaluates: bool = True,
        ramp_within_epochs: bool = True,
        confidence_penalty: bool = False,
        evaluated: Evaluated = "mean",
    ) -> None:
        super().__init__(setting, evaluated=evaluated)
        self.mixture = mixture
        self.peer_evaluates = peer_evaluates
        self.ramp_within_epochs = ramp_within_epochs
        self.confidence_penalty = confidence_penalty
        self._epoch_done = 0.0
        if peer_evaluates:
            make_groupable(self)
        self.warm_up, self.ramp = warm_up, ramp
        self.threshold = threshold
        self.temperature = temperature
        self.alpha = alpha
        self.unlabeled_weight = unlabeled_weight
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
            losses = over_training_samples(self, self._losses).unbind(1)
            if self.mixture == "fixed":
                found = [small_loss_probability(row) for row in losses]
            else:
                found = [small_loss_probability_from_k_means(row, self._seed) for row in losses]
            self.clean.copy_(torch.stack(found))

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        self._epoch_done = batch_idx / self.trainer.num_training_batches if self.ramp_within_epochs else 0.0
        return super().training_step(batch, batch_idx)

    def weight_of_unlabeled(self, epoch: float) -> float:
        """Compute lambda_u at a time in epochs, from 0."""
        return self.unlabeled_weight * (min((epoch - self.warm_up) / self.ramp, 1.0) if self.ramp else 1.0)

    def loss(self, batch: ViewBatch) -> Loss:
        if self.current_epoch < self.warm_up:
            logits = self.logits_of_both(batch.view)
            loss_cls = F.cross_entropy(logits[0], batch.label) + F.cross_entropy(logits[1], batch.label)
            if not self.confidence_penalty:
                return Loss(loss_cls, logits[0], {"loss_cls": loss_cls})
            log_p = logits.log_softmax(2)
            penalty = (log_p.exp() * log_p).sum(2).mean(1).sum()
            return Loss(loss_cls + penalty, logits[0], {"loss_cls": loss_cls, "loss_confidence": penalty})
        clean = self.clean[:, batch.index].flip(0)  # (2, B), by the other network
        own, peers = self._guesses(batch, clean > self.threshold)
        terms = []
        for network, w, p, of_peer in zip((self.network, self.second_network), clean, own, peers.flip(0), strict=True):
            target = self.targets(w, batch.label, p, (p + of_peer) / 2)
            terms.append(self._mixmatch(network, batch, target, w > self.threshold))
        sums = [first + second for first, second in zip(*terms, strict=True)]
        loss_labeled, loss_unlabeled, loss_prior = sums
        weight = self.weight_of_unlabeled(self.current_epoch + self._epoch_done)
        total = loss_labeled + weight * loss_unlabeled + loss_prior
        parts = {"loss_labeled": loss_labeled, "loss_unlabeled": loss_unlabeled, "loss_prior": loss_prior}
        # The network's own predictions, since what it was trained on is mixed.
        return Loss(total, own[0].clamp(min=1e-12).log(), {**parts, "clean": self.clean[:, batch.index].mean()})

    @property
    def _seed(self) -> int:
        trainer: Any = self.trainer
        return int(trainer.datamodule.seed)

    def _losses(self, batch: ViewBatch) -> Tensor:
        """Cross-entropy of both networks, (B, 2)."""
        labels = self.given_labels[batch.index]
        logits = self.logits_of_both(batch.view)
        return torch.stack([F.cross_entropy(z, labels, reduction="none") for z in logits], 1)

    @torch.no_grad()
    def _guesses(self, batch: ViewBatch, labeled: Tensor) -> tuple[Tensor, Tensor]:
        """Predict by both networks, mean over the views: (2, B, K) for themselves and for their peers.

        Args:
            batch: with two views.
            labeled: bool (2, B), for the first and for the second network.
        """
        views = torch.cat(batch.views)
        if not self.peer_evaluates:
            p = torch.stack([self.logits_of_both(view).softmax(2) for view in batch.views]).mean(0)
            return p, p
        networks = (self.network, self.second_network)
        of_peers = torch.stack([_mean_prediction(_evaluating(network, views)) for network in networks])
        own = []
        for network, known in zip(networks, labeled, strict=True):
            # The order of the released code's passes: unlabeled, then labeled samples, view after view.
            place = torch.cat([2 * known.long(), 2 * known.long() + 1])
            members = (place[:, None] == torch.arange(4, device=place.device)).to(torch.get_default_dtype())
            with groups_apart(network, members, tracked=4):
                own.append(_mean_prediction(network(views)[1]))
        return torch.stack(own), of_peers

    def targets(self, clean: Tensor, labels: Tensor, own: Tensor, of_both: Tensor) -> Tensor:
        """Sharpened targets (B, K) from w (B,), labels (B,) and mean predictions (B, K)."""
        onehot = F.one_hot(labels, self.num_classes).to(own.dtype)
        w = clean[:, None].to(own.dtype)
        refined = torch.where(w > self.threshold, w * onehot + (1 - w) * own, of_both)
        return sharpen(refined, self.temperature)

    def _mixmatch(
        self, network: torch.nn.Module, batch: ViewBatch, target: Tensor, labeled: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        images, targets, labeled = torch.cat(batch.views), target.repeat(2, 1), labeled.repeat(2)
        share = torch.distributions.Beta(self.alpha, self.alpha).sample().item()
        share = max(share, 1 - share)
        partner = torch.randperm(len(images), device=images.device)
        _, logits = network(share * images + (1 - share) * images[partner])
        mixed = share * targets + (1 - share) * targets[partner]
        p = logits.softmax(1)
        loss_labeled = mean_of(-(mixed * logits.log_softmax(1)).sum(1), labeled)
        loss_unlabeled = mean_of((p - mixed).square().mean(1), ~labeled)
        if self.prior == "none":
            return loss_labeled, loss_unlabeled, loss_labeled * 0
        loss_prior = (torch.special.xlogy(self.shares, self.shares) - self.shares * p.mean(0).log()).sum()
        return loss_labeled, loss_unlabeled, loss_prior


def _mean_prediction(logits: Tensor) -> Tensor:
    """Mean probabilities (B, K) over two views (2 B, K)."""
    first, second = logits.softmax(1).chunk(2)
    return (first + second) / 2


def _evaluating(network: nn.Module, views: Tensor) -> Tensor:
    """Logits of a network in evaluation mode, which is put back into its mode."""
    training = network.training
    logits: Tensor = network.eval()(views)[1]
    network.train(training)
    return logits
