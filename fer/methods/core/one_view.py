"""Methods that classify one view of a face, to which a consistency of two views can be added."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from fer.methods.core.method import Loss, Method
from fer.models.network import FaceNetwork
from fer.views.augmentation import Augmentation
from fer.views.batch import ViewBatch


class Consistency(Protocol):
    """A term that compares two views; ``fer.methods.eac.AttentionConsistency`` is one."""

    lam: float
    """Weight of the term, 0 or more."""
    decided: dict[str, str]
    """Values that it chose by the data, see ``Method.decided``."""

    def make_views(self, augmentation: Augmentation, image: Tensor) -> tuple[Tensor, Tensor]:
        """Make both views (B, 3, H, W) of uint8 images (B, 3, h, w)."""
        ...

    def loss(self, features: Tensor, mirrored_features: Tensor, network: FaceNetwork) -> Tensor:
        """Compare the feature maps (B, C, h, w) of both views, a scalar."""
        ...


class OneViewMethod(Method):
    """A method whose loss is a function of one classified view.

    A subclass writes ``classification``. With ``add_consistency`` it gets a second view and the term's loss.
    """

    consistency: Consistency | None = None

    def add_consistency(self, term: Consistency) -> None:
        """Add a term. One of weight 0 changes nothing: the second view is neither made nor passed."""
        self.decided.update(term.decided)
        if term.lam:
            self.consistency = term
            self.views = 2

    def classification(self, features: Tensor, logits: Tensor, batch: ViewBatch) -> Loss:
        """Compute the loss of the classified view.

        Args:
            features: its feature map (B, C, h, w).
            logits: those of the network's linear classifier, (B, K).
            batch: as in ``loss``.
        """
        raise TypeError(f"{type(self).__name__} must define classification(features, logits, batch)")

    def make_views(self, image: Tensor) -> tuple[Tensor, ...]:
        if self.consistency is None:
            return super().make_views(image)
        return self.consistency.make_views(self.augmentation, image)

    def loss(self, batch: ViewBatch) -> Loss:
        if self.consistency is None:
            features, logits = self.network(batch.view)
            return self.classification(features, logits, batch)
        features, mirrored_features, logits = self.features_of_both(*batch.views)
        classified = self.classification(features, logits, batch)
        loss_consistency = self.consistency.loss(features, mirrored_features, self.network)
        weighted = self.consistency.lam * loss_consistency
        parts = {"loss_consistency": loss_consistency, "loss_consistency_weighted": weighted}
        return Loss(classified.total + weighted, classified.logits, classified.parts | parts)

    def features_of_both(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Pass both views: their feature maps (B, C, h, w) and the logits (B, K) of the first."""
        features, logits = self.network(first)
        mirrored_features, _ = self.network(second)
        return features, mirrored_features, logits
