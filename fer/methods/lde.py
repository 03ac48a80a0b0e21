"""LDE, label distribution estimation: the part of LA-Net that needs no landmarks.

Z. Wu, J. Cui, "LA-Net: Landmark-Aware Learning for Reliable Facial Expression Recognition under Label Noise", ICCV
2023, arXiv 2307.09023. Without its landmark branch the neighbours are those in expression space alone, and there is no
expression-landmark contrastive loss.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fer.batch import Batch
from fer.methods.base import Loss, Method, Setting


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
    """Cross-entropy plus ``weight`` times ``KL(target || p)``, with targets from a sample's neighbours in its batch.

    Of the ``neighbours`` nearest samples by cosine of the pooled features, the predictions are averaged with learnt
    weights. ``target = momentum * kept + (1 - momentum) * average``, which is then kept for the sample; at the start
    the one-hot given label is. The gradient goes through the average, by which the weights are learnt.

    Args:
        setting: what the experiment fixes.
        neighbours: 1 or more; of a smaller batch all others (paper: 8).
        momentum: in [0, 1) (released code: 0.9).
        weight: 0 or more (released code: 1).

    Raises:
        ValueError: a value outside its range.
    """

    targets: Tensor
    """Float (N, K)."""

    def __init__(self, setting: Setting, *, neighbours: int = 8, momentum: float = 0.9, weight: float = 1.0) -> None:
        if neighbours < 1:
            raise ValueError(f"method.neighbours is {neighbours}; it must be 1 or more")
        if not 0 <= momentum < 1:
            raise ValueError(f"method.momentum is {momentum}; it must lie in [0, 1)")
        if not weight >= 0:
            raise ValueError(f"method.weight is {weight}; it must be 0 or more")
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

    def loss(self, batch: Batch) -> Loss:
        feature_map, logits = self.network(batch.image)
        loss_cls = F.cross_entropy(logits, batch.label)
        with torch.autocast(logits.device.type, enabled=False):
            features = feature_map.to(logits.dtype).mean((2, 3))
            kept = self.targets[batch.index]
            target = self.momentum * kept + (1 - self.momentum) * self._average_of_neighbours(features, logits, kept)
        self.targets[batch.index] = target.detach().to(self.targets.dtype)
        # Written out, because a target of 0 has no logarithm but no weight either.
        entropy = torch.special.entr(target).sum(1)
        loss_kl = (-(target * logits.log_softmax(1)).sum(1) - entropy).mean()
        return Loss(loss_cls + self.weight * loss_kl, logits, {"loss_cls": loss_cls, "loss_kl": loss_kl})

    def _average_of_neighbours(self, features: Tensor, logits: Tensor, alone: Tensor) -> Tensor:
        """(B, K), probabilities; what a sample without any neighbour has is ``alone``."""
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
