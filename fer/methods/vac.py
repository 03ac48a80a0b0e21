"""VAC, visual attention consistency.

H. Guo, K. Zheng, X. Fan, H. Yu, S. Wang, "Visual Attention Consistency under Image Transforms for Multi-Label Image
Classification", CVPR 2019.

EAC's ancestor, and the control for what EAC adds to it: here both views are classified, and nothing is erased.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from fer.methods.core.method import Loss, Method, Setting
from fer.methods.eac import attention_consistency_loss
from fer.models.cam import class_activation_maps
from fer.ranges import AtLeast0
from fer.views.batch import ViewBatch


class VAC(Method):
    """Visual Attention Consistency (Guo et al., CVPR 2019), for one label and one scale.

        L = 0.5 (CE(z(x), y) + CE(z(flip x), y)) + lambda mean (M(x) - flip M(flip x))^2

        symbol    argument    default
        lambda    lam         1

    The paper has several labels per image, and a second, smaller scale of both views; this is its form for one label
    and one scale.

    Args:
        setting: what the experiment fixes.
        lam: weight of the consistency loss, 0 or more (paper: 1).

    Raises:
        ValueError: a negative ``lam``.
    """

    views = 2

    def __init__(self, setting: Setting, *, lam: AtLeast0 = 1.0) -> None:
        super().__init__(setting)
        self.lam = lam

    def make_views(self, image: Tensor) -> tuple[Tensor, Tensor]:
        return self.augmentation.two_views(image, erase="none")

    def loss(self, batch: ViewBatch) -> Loss:
        first, second = batch.views
        features, logits = self.network(first)
        mirrored_features, mirrored_logits = self.network(second)
        loss_cls = 0.5 * (F.cross_entropy(logits, batch.label) + F.cross_entropy(mirrored_logits, batch.label))
        weight = self.network.classifier.weight.detach()
        loss_consistency = attention_consistency_loss(
            class_activation_maps(features, weight), class_activation_maps(mirrored_features, weight)
        )
        weighted = self.lam * loss_consistency
        parts = {"loss_cls": loss_cls, "loss_consistency": loss_consistency, "loss_consistency_weighted": weighted}
        return Loss(loss_cls + weighted, logits, parts)
