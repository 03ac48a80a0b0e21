"""Comparison of a method with a transcription of its authors' algorithm: loss and gradient in float64."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fer.methods.core.method import Method
from fer.views.batch import ViewBatch

TOLERANCE = 1e-9


def assert_equal_to(transcription: Callable[[Any, ViewBatch], Tensor], method: Method, batch: ViewBatch) -> Tensor:
    """Compare the loss of a batch and its gradient, and the buffers afterwards.

    Args:
        transcription: gets a copy of the method, whose weights it uses, and the batch, and returns the loss. Forward
            passes of the copy's backbone move its running statistics.
        method: in the mode that the comparison is about.
        batch: with finished views.

    Returns:
        The method's loss.
    """
    twin = copy.deepcopy(method)
    expected = transcription(twin, batch)
    found = method.loss(batch).total
    of_loss = float((found - expected).detach().abs() / expected.detach().abs())
    gradients = [torch.autograd.grad(value, [*m.parameters()], allow_unused=True, retain_graph=True)
                 for value, m in ((found, method), (expected, twin))]  # fmt: skip
    of_gradient = 0.0
    largest = max(float(g.abs().max()) for g in gradients[1] if g is not None)
    assert largest > 0
    for ours, theirs in zip(*gradients, strict=True):
        ours, theirs = (torch.zeros(()) if g is None else g for g in (ours, theirs))
        of_gradient = max(of_gradient, float((ours - theirs).abs().max()) / largest)
    print(f"{type(method).__name__}: loss {of_loss:.1e}, gradient {of_gradient:.1e}")
    assert of_loss < TOLERANCE and of_gradient < TOLERANCE, (of_loss, of_gradient)
    statistics = {name: value for name, value in method.network.named_buffers() if "running_" in name}
    for name, value in twin.network.named_buffers():
        if "running_" in name:
            torch.testing.assert_close(statistics[name], value, rtol=TOLERANCE, atol=TOLERANCE)
    return found.detach()
