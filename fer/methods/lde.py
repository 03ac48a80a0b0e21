"""LDE, label distribution estimation: the part of LA-Net that needs no landmarks.

Z. Wu, J. Cui, "LA-Net: Landmark-Aware Learning for Reliable Facial Expression Recognition under Label Noise", ICCV
2023, arXiv 2307.09023. Without its landmark branch the neighbours are those in expression space alone, and there is no
expression-landmark contrastive loss.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fer.methods.core.method import Loss, Method, Setting
from fer.ranges import AtLeast0, CountFrom1, ShareBelow1
from fer.views.batch import ViewBatch


class PairScore(nn.Module):
    """Weight in (0, 1) of sample j for sample i: an MLP on the first half of i's code and the second half of j's.

    Args:
        features: C, 4 or more.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.first = features // 2
        self.code = nn.Linear(features, features)
        self.mlp = nn.Sequential(
            nn.Linear(features, features // 2), nn.ReLU(),
            nn.Linear(features // 2, features // 4), nn.ReLU(),
            nn.Linear(features // 4, 2),
        )  # fmt: skip

    def forward(self, features: Tensor, neighbours: Tensor) -> Tensor:
        """Features (B, C) and row numbers of neighbours (B, k) -> weights (B, k)."""
        code = self.code(features)
        own = code[:, None, : self.first].expand(-1, neighbours.shape[1], -1)
        scores: Tensor = self.mlp(torch.cat([own, code[neighbours][:, :, self.first :]], 2))
        return scores.softmax(2)[:, :, 0]


class LDE(Method):
    """Label distribution estimation of LA-Net (Wu and Cui, ICCV 2023), in expression space.

        N_i     = the k samples of the batch nearest to i by cosine of the pooled features
        a_i     = sum_j w_ij p_j / sum_j w_ij,   j in N_i             w_ij from an MLP on both features
        t_i     = m kept_i + (1 - m) a_i,   kept_i <- t_i             kept_i starts as the one-hot given label
        L       = mean CE(z_i, y_i) + lambda mean KL(t_i || p_i)

        symbol    argument      default
        k         neighbours    8
        m         momentum      0.9 (released code)
        lambda    weight        1 (released code)

    The gradient goes through a_i, by which the weights are learned.

    The given label keeps at least half of what is learned: with lambda = 1 the loss of a sample is minimal in p at
    (onehot y + t) / 2, and at (onehot y + lambda t) / (1 + lambda) in general, whatever t has become. A network that
    is large enough therefore memorizes wrong labels nearly all (99.8 % were seen), in the released code as here.

    Differences from the released code: without its landmark branch the neighbors are those in expression space alone,
    and there is no expression-landmark contrastive loss. CE, KL and targets are equal for the same neighbors; under
    DDP neighbors come from the local part of the batch, in the released code from the batch of all ranks.

    Args:
        setting: what the experiment fixes.
        neighbours: k, 1 or more; of a smaller batch all others.
        momentum: m, in [0, 1).
        weight: lambda, 0 or more.
    """

    takes_soft_labels = True
    targets: Tensor
    """Float (N, K)."""

    def __init__(
        self, setting: Setting, *, neighbours: CountFrom1 = 8, momentum: ShareBelow1 = 0.9, weight: AtLeast0 = 1.0
    ) -> None:
        super().__init__(setting)
        self.neighbours = neighbours
        self.momentum = momentum
        self.weight = weight
        self.pair_score = PairScore(self.network.classifier.in_features)
        self.register_sample_state("targets", F.one_hot(setting.given_labels, self.num_classes).float())

    def conclusions(self) -> dict[str, Tensor]:
        """Give each sample's target: its class and that class's probability."""
        confidence, label = self.targets.max(1)
        return {"target_label": label, "target_confidence": confidence}

    def loss(self, batch: ViewBatch) -> Loss:
        feature_map, logits = self.network(batch.view)
        loss_cls = F.cross_entropy(logits, batch.target)
        with torch.autocast(logits.device.type, enabled=False):
            features = feature_map.to(logits.dtype).mean((2, 3))
            kept = self.targets[batch.index]
            target = self.momentum * kept + (1 - self.momentum) * self._average_of_neighbours(features, logits, kept)
        self.targets[batch.index] = target.detach().to(self.targets.dtype)
        # Written out, because a target of 0 has no logarithm, but also no weight.
        entropy = torch.special.entr(target).sum(1)
        loss_kl = (-(target * logits.log_softmax(1)).sum(1) - entropy).mean()
        return Loss(loss_cls + self.weight * loss_kl, logits, {"loss_cls": loss_cls, "loss_kl": loss_kl})

    def _average_of_neighbours(self, features: Tensor, logits: Tensor, alone: Tensor) -> Tensor:
        """Average the probabilities of the neighbors, (B, K); a sample without neighbors gets ``alone``."""
        count = min(self.neighbours, len(features) - 1)
        if count < 1:
            return alone
        unit = F.normalize(features, dim=1)
        likeness = (unit @ unit.T).detach().fill_diagonal_(-torch.inf)
        nearest = likeness.topk(count, dim=1).indices
        weights = self.pair_score(features, nearest)
        weights = weights / weights.sum(1, keepdim=True)
        average: Tensor = (weights[:, :, None] * logits.softmax(1)[nearest]).sum(1)
        return average
