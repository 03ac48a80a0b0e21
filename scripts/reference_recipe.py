"""Training of EAC as its released code does it, as the reference of ``bench_step.py``.

Written from a description of the recipe. Every sample is read, disturbed, resized, normalized and erased by itself on
the CPU; each view passes through the network on its own; the CAM is a broadcast product over (B, K, C, h, w), mirrored
by sampling a grid; float32, NCHW, plain Adam.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision import models, transforms

Views = tuple[Tensor, Tensor, Tensor]
"""First view (3, H, W), second view, label; with a leading B once collated."""


class ReferenceFaces(Dataset[Views]):
    """Pairs of views, one sample at a time.

    Args:
        paths, labels: image files and int labels, (N,).
        size: edge length of the views in pixels.
        erase: ``shared`` flips the finished first view; ``independent`` prepares the flipped original again.
    """

    def __init__(self, paths: Sequence[Path], labels: NDArray[np.int64], *, size: int, erase: str) -> None:
        self.paths = paths
        self.labels = labels
        self.erase = erase
        self.transform = transforms.Compose([
            transforms.ToPILImage(),
            transforms.Resize((size, size)),
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
            transforms.RandomErasing(scale=(0.02, 0.25)),
        ])  # fmt: skip

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Views:
        with Image.open(self.paths[index]) as file:
            original = np.asarray(file.convert("RGB"))
        image = original
        if random.random() < 0.5:
            noise = np.random.normal(0.0, 30.0**0.5, image.shape)  # noqa: NPY002, as the recipe draws it
            image = np.clip(image + noise, 0, 255).astype(np.uint8)
        first = self.transform(image)
        second = first.flip(-1) if self.erase == "shared" else self.transform(np.ascontiguousarray(original[:, ::-1]))
        return first, second, torch.tensor(self.labels[index])


class ReferenceNetwork(nn.Module):
    """torchvision's ResNet, pooled, one Linear: views (B, 3, H, W) -> logits (B, K) and CAMs (B, K, h, w)."""

    def __init__(self, depth: int, num_classes: int) -> None:
        super().__init__()
        resnet = getattr(models, f"resnet{depth}")()
        self.features = nn.Sequential(*list(resnet.children())[:-2])
        self.fc = nn.Linear(resnet.fc.in_features, num_classes)

    def forward(self, view: Tensor) -> tuple[Tensor, Tensor]:
        features = self.features(view)
        logits = self.fc(features.mean((2, 3)))
        weight = self.fc.weight.detach()
        cam = (features[:, None] * weight[None, :, :, None, None]).sum(2)
        return logits, cam


def reference_loss(
    network: nn.Module, first: Tensor, second: Tensor, label: Tensor, lam: float
) -> tuple[Tensor, Tensor]:
    """Compute the loss of a batch and the logits of its first view."""
    logits, cam = network(first)
    _, cam_of_second = network(second)
    consistency = F.mse_loss(cam, _mirrored_by_sampling(cam_of_second))
    return F.cross_entropy(logits, label) + lam * consistency, logits


def _mirrored_by_sampling(maps: Tensor) -> Tensor:
    rows = torch.linspace(-1, 1, maps.shape[-2], device=maps.device, dtype=maps.dtype)
    columns = torch.linspace(1, -1, maps.shape[-1], device=maps.device, dtype=maps.dtype)
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    grid = torch.stack([x, y], -1).expand(len(maps), -1, -1, -1)
    return F.grid_sample(maps, grid, mode="bilinear", padding_mode="border", align_corners=True)


class ReferenceTraining:
    """Network, optimizer and loader.

    Args:
        workers: processes of the loader, which every pass over it starts anew.
    """

    def __init__(
        self,
        faces: ReferenceFaces,
        *,
        depth: int,
        num_classes: int,
        batch_size: int,
        workers: int,
        device: torch.device,
        lr: float,
        lam: float,
    ) -> None:
        self.network = ReferenceNetwork(depth, num_classes).to(device).train()
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=lr, weight_decay=1e-4)
        self.loader = DataLoader(faces, batch_size, shuffle=True, num_workers=workers, pin_memory=device.type == "cuda")
        self.device = device
        self.lam = lam
        self.running_loss = torch.zeros((), device=device)
        self.correct = torch.zeros((), device=device)

    def step(self, views: Views) -> None:
        """Make one optimizer step on a batch of the loader."""
        first, second, label = (tensor.to(self.device) for tensor in views)
        loss, logits = reference_loss(self.network, first, second, label, self.lam)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.running_loss += loss.detach()
        self.correct += (logits.argmax(1) == label).sum()
