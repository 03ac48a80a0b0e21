"""The project's training against the recipe of EAC's released code, as ``scripts/reference_recipe.py`` rewrites it."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.project import PROJECT

from fer.methods.core.method import Setting
from fer.methods.eac import EAC
from fer.models.backbones import resnet
from fer.models.network import FaceNetwork
from fer.views.augmentation import Augmentation
from fer.views.batch import ViewBatch

sys.path.insert(0, str(PROJECT / "scripts"))

from reference_recipe import ReferenceFaces, ReferenceNetwork, reference_loss

CLASSES = 7


@pytest.mark.parametrize("depth", [18, 50])
@pytest.mark.parametrize("forward", ["two_pass", "joint_per_view_statistics"])
def test_loss_and_gradients_are_the_references(depth: int, forward: str) -> None:
    torch.manual_seed(0)
    setting = Setting(
        build_network=lambda: FaceNetwork(resnet(depth=depth), CLASSES, channels_last=True).double(),
        augmentation=Augmentation(size=64),
        optimizer=partial(torch.optim.Adam, lr=1e-4),
        scheduler=partial(torch.optim.lr_scheduler.ExponentialLR, gamma=0.9),
        class_names=tuple("abcdefg"),
        given_labels=torch.arange(4),
    )
    method = EAC(setting, forward=forward)  # type: ignore[arg-type]
    reference = ReferenceNetwork(depth, CLASSES).double()
    # The names differ, the order of the tensors does not.
    reference.load_state_dict(dict(zip(reference.state_dict(), method.network.state_dict().values(), strict=True)))
    views, label = torch.randn(2, 4, 3, 64, 64, dtype=torch.float64), torch.tensor([0, 3, 6, 3])

    expected, logits = reference_loss(reference, views[0], views[1], label, lam=5.0)
    found = method.loss(ViewBatch((views[0], views[1]), label, label, torch.arange(4)))
    torch.testing.assert_close(found.total, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(found.logits, logits, rtol=0, atol=1e-11)

    expected.backward()
    found.total.backward()
    for ours, theirs in zip(method.network.parameters(), reference.parameters(), strict=True):
        assert ours.grad is not None and theirs.grad is not None
        error = (ours.grad - theirs.grad).norm() / theirs.grad.norm()
        assert error < 1e-8
    for ours, theirs in zip(method.network.buffers(), reference.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)


@pytest.mark.parametrize("erase", ["shared", "independent"])
def test_without_noise_and_erasing_the_views_are_the_references(
    erase: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 20, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "face.png")
    faces = ReferenceFaces([tmp_path / "face.png"], np.array([4]), size=48, erase=erase)
    faces.transform.transforms[-1].p = 0.0
    monkeypatch.setattr("reference_recipe.random.random", lambda: 1.0)
    augmentation = Augmentation(size=48, pixel_noise_probability=0.0, erase_probability=0.0)

    first, second, label = faces[0]
    ours = augmentation.two_views(torch.from_numpy(pixels).permute(2, 0, 1)[None], erase=erase)  # type: ignore[arg-type]
    assert label == 4
    torch.testing.assert_close(ours[0][0], first, rtol=0, atol=1e-5)
    torch.testing.assert_close(ours[1][0], second, rtol=0, atol=1e-5)
