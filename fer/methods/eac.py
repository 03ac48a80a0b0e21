"""EAC, erasing attention consistency.

Y. Zhang, C. Wang, X. Ling, W. Deng, "Learn From All: Erasing Attention Consistency for Noisy Label Facial
Expression Recognition", ECCV 2022, arXiv 2207.10299.
"""

from __future__ import annotations

from typing import Literal, TypedDict

import torch
from torch import Tensor
from torch.nn import functional as F

from fer.methods.core.imbalance import PriorCrossEntropy
from fer.methods.core.method import Loss, Setting
from fer.methods.core.one_view import OneViewMethod
from fer.models.batch_norm import keep_views_apart
from fer.models.cam import class_activation_maps
from fer.models.network import FaceNetwork
from fer.ranges import AtLeast0
from fer.views.augmentation import Augmentation, EraseRecipe
from fer.views.batch import ViewBatch
from fer.views.flip import mirror

Erase = Literal["shared", "independent", "none", "released"]
Forward = Literal["two_pass", "joint_per_view_statistics", "joint"]


def attention_consistency_loss(cam: Tensor, cam_of_mirrored: Tensor) -> Tensor:
    """Mean over B, K, h and w of ``(cam[n, k, i, j] - cam_of_mirrored[n, k, i, w - 1 - j]) ** 2``.

    Args:
        cam, cam_of_mirrored: CAMs (B, K, h, w) of the faces and of their mirror images. The classifier weights in
            them are detached by the caller: the loss trains the backbone only, through both views.
    """
    return F.mse_loss(cam, mirror(cam_of_mirrored))


class ConsistencyKeys(TypedDict, total=False):
    """Keys of a method to which EAC's consistency can be added; ``AttentionConsistency`` states their defaults."""

    lam: AtLeast0
    erase: EraseRecipe


class AttentionConsistency:
    """Term ``L_c`` of EAC with its weight and its views, for EAC and for any ``OneViewMethod``.

    Args:
        setting: what the experiment fixes.
        lam: weight of the term, 0 or more; 0 leaves it out.
        erase: how the second view is made, see ``EAC``. ``released`` becomes ``shared`` or ``independent`` here.
        pixel_noise_on_second_view: see ``EAC``.
    """

    def __init__(
        self,
        setting: Setting,
        *,
        lam: float = 0.0,
        erase: Erase = "shared",
        pixel_noise_on_second_view: bool | None = None,
    ) -> None:
        self.decided: dict[str, str] = {}
        if erase == "released":
            erase = "shared" if setting.labels_are_clean else "independent"
            self.decided["method.erase"] = erase
        self.lam = lam
        self.erase: EraseRecipe = erase
        self.pixel_noise_on_second_view = pixel_noise_on_second_view

    def make_views(self, augmentation: Augmentation, image: Tensor) -> tuple[Tensor, Tensor]:
        """Make the classified view and its mirrored partner of uint8 images (B, 3, h, w)."""
        return augmentation.two_views(
            image, erase=self.erase, pixel_noise_on_second_view=self.pixel_noise_on_second_view
        )

    def loss(self, features: Tensor, mirrored_features: Tensor, network: FaceNetwork) -> Tensor:
        """Compute ``L_c`` of the feature maps (B, C, h, w) of both views."""
        weight = network.classifier.weight.detach()
        return attention_consistency_loss(
            class_activation_maps(features, weight), class_activation_maps(mirrored_features, weight)
        )


class EAC(OneViewMethod):
    """Erasing Attention Consistency (Zhang et al., ECCV 2022, arXiv 2207.10299).

        M_j(h, w) = sum_c W[j, c] F_c(h, w)                           CAM of class j, W without gradient
        L_cls     = CE(z(x_1) + tau log pi, y)                        the first view alone is classified
        L_c       = mean (M(x_1) - flip M(x_2))^2                     over samples, classes, rows and columns
        L         = L_cls + lambda L_c

        symbol    argument            default
        lambda    lam                 5
        tau       logit_adjustment    0

    tau is no part of the method: with a strong lambda EAC forgets rare expressions, which logit adjustment (Menon et
    al., ICLR 2021) by the shares pi of the given labels counters. Tests are those of the plain logits z.

    With ``lam=0`` and ``forward=two_pass`` the gradients are those of plain cross-entropy; the pass of the second view
    still moves the running statistics of BatchNorm, and with them the evaluation.

    Differences from the released code: none in loss, gradient and statistics with ``erase="released"``, except how it
    is decided that labels are clean. The released code goes by the name of its label list: ``list_patition_label.txt``
    is clean and any other list is not. Here labels are clean if no label of the training samples is wrong, whatever
    ``noise`` is: with ``noise=none``, with a ratio of 0, and with ``noise=file`` of a list that changes no label, which
    the released code would take for a noisy one under another name.

    Args:
        setting: what the experiment fixes.
        lam: lambda, 0 or more.
        erase: ``shared``, the second view is the mirror image of the erased first view (the paper's text; the
            released code with the clean label list); ``independent``, it is made from the mirrored original and erased
            on its own (the released code with any other list); ``released``, shared if the labels are clean and
            independent if not, as the result's ``decided`` says; ``none``, nothing is erased in either.
        pixel_noise_on_second_view: ``None`` = as the released code has it, yes when shared and no when independent.
        forward: ``two_pass``, a pass per view as released; ``joint_per_view_statistics``, one pass with BatchNorm
            statistics per view, the same mathematics; ``joint``, one pass whose BatchNorm mixes the views, which is
            another algorithm.
        logit_adjustment: tau, 0 or more (0: EAC as published).
    """

    def __init__(
        self,
        setting: Setting,
        *,
        lam: AtLeast0 = 5.0,
        erase: Erase = "shared",
        pixel_noise_on_second_view: bool | None = None,
        forward: Forward = "two_pass",
        logit_adjustment: AtLeast0 = 0.0,
    ) -> None:
        super().__init__(setting)
        self.cross_entropy = PriorCrossEntropy(
            setting.given_labels, self.num_classes, logit_adjustment=logit_adjustment
        )
        term = AttentionConsistency(
            setting, lam=lam, erase=erase, pixel_noise_on_second_view=pixel_noise_on_second_view
        )
        self.add_consistency(term)
        self.consistency, self.views = term, 2  # with weight 0, too: the second view moves BatchNorm's statistics
        self.forward_mode = forward
        if forward == "joint_per_view_statistics":
            keep_views_apart(self.network)

    def classification(self, features: Tensor, logits: Tensor, batch: ViewBatch) -> Loss:
        loss_cls = self.cross_entropy(logits, batch.label)
        return Loss(loss_cls, logits, {"loss_cls": loss_cls})

    def features_of_both(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if self.forward_mode == "two_pass":
            return super().features_of_both(first, second)
        both, logits = self.network(torch.cat([first, second]))
        features, mirrored_features = both.chunk(2)
        return features, mirrored_features, logits[: len(first)]
