"""Base class of methods that train two networks at once."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from fer.methods.core.method import Method, Setting
from fer.methods.core.over_training_set import over_training_samples
from fer.views.batch import ViewBatch

Evaluated = Literal["first", "second", "mean"]


class TwoNetworks(Method):
    """A method with ``network`` and ``second_network``, alike but for their initial values.

    One optimizer holds both: Adam and SGD treat every parameter by itself.

    Args:
        setting: what the experiment fixes.
        evaluated: whose logits are tested, ``first``, ``second``, or the ``mean`` of both.
    """

    def __init__(self, setting: Setting, *, evaluated: Evaluated) -> None:
        super().__init__(setting)
        self.second_network = setting.build_network()
        self.register_buffer("given_labels", setting.given_labels.clone(), persistent=False)
        self.given_labels: Tensor
        self.evaluated = evaluated

    def classify(self, view: Tensor) -> Tensor:
        if self.evaluated == "mean":
            return self.logits_of_both(view).mean(0)
        network = self.network if self.evaluated == "first" else self.second_network
        logits: Tensor = network(view)[1]
        return logits

    def logits_of_both(self, view: Tensor) -> Tensor:
        """Logits (2, B, K) of the first and of the second network."""
        return torch.stack([network(view)[1] for network in (self.network, self.second_network)])

    def probabilities_of_training_samples(self, *, augmented: bool = False) -> Tensor:
        """Predict every training sample with both networks in evaluation mode: (2, N, K)."""

        def probabilities(batch: ViewBatch) -> Tensor:
            return self.logits_of_both(batch.view).softmax(2).transpose(0, 1)

        return over_training_samples(self, probabilities, augmented=augmented).transpose(0, 1)


def mean_of(values: Tensor, chosen: Tensor) -> Tensor:
    """Mean of the values (B,) that a mask chooses; 0 where it chooses none."""
    return (values * chosen).sum() / chosen.sum().clamp(min=1)
