"""Plain cross-entropy, the control."""

from __future__ import annotations

from fer.methods.core.imbalance import ClassWeights, PriorCrossEntropy
from fer.methods.core.method import Loss, Method, Setting
from fer.ranges import AtLeast0, ShareBelow1
from fer.views.batch import ViewBatch


class CrossEntropy(Method):
    """Cross-entropy of the given labels, the control of every comparison.

        L = mean_i w_{y_i} CE(W f_i + tau log pi, y_i)          on the view that EAC classifies

        symbol    argument            default
        w         class_weights       1
        tau       logit_adjustment    0

    pi are the shares of the given labels. Training accuracy and tests are those of the plain logits W f_i. With votes q
    as soft labels, a sample's loss is - sum_j w_j q_j log p_j.

    Args:
        setting: what the experiment fixes.
        class_weights: ``balanced``, w_j = N / (K n_j); ``effective``, by the effective number of samples (Cui et al.,
            CVPR 2019); ``None``, 1.
        class_weight_beta: beta of the effective number, in [0, 1) (paper: 0.9 to 0.9999, by the data set).
        logit_adjustment: tau of Menon et al., ICLR 2021, 0 or more (paper: 1).
    """

    takes_soft_labels = True

    def __init__(
        self,
        setting: Setting,
        *,
        class_weights: ClassWeights | None = None,
        class_weight_beta: ShareBelow1 = 0.999,
        logit_adjustment: AtLeast0 = 0.0,
    ) -> None:
        super().__init__(setting)
        self.cross_entropy = PriorCrossEntropy(
            setting.given_labels,
            self.num_classes,
            class_weights=class_weights,
            beta=class_weight_beta,
            logit_adjustment=logit_adjustment,
        )

    def loss(self, batch: ViewBatch) -> Loss:
        _, logits = self.network(batch.view)
        return Loss(self.cross_entropy(logits, batch.target), logits, {})
