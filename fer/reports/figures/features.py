"""Pooled features in the plane, colored by given and by true labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from fer.data.loading.face_dataset import FaceDataset
from fer.errors import UserError
from fer.methods.core.explain import pooled_features
from fer.reports.figures.style import COLORS, MARKERS, wrap
from fer.runs.run_folder import RunFolder
from fer.training.finished_run import trained
from fer.training.kept_config import ReadingOptions

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_SAMPLES = 2000
_PERPLEXITY, _COMPONENTS = 30.0, 50
_BATCH = 128


class Embedding(NamedTuple):
    """Training samples of a finished run, some or all."""

    plane: NDArray[np.float32]
    """Positions in the plane, (n, 2)."""
    given: NDArray[np.int64]
    """Labels (n,)."""
    clean: NDArray[np.int64]
    """True labels (n,)."""


def embedding(folder: RunFolder, dataset: FaceDataset, options: ReadingOptions) -> Embedding:
    """Lay the pooled features of at most ``MOST_SAMPLES`` training samples, always the same ones, out in the plane.

    Raises:
        UserError: a file of the run is missing, or all samples have the same features.
    """
    chosen = np.sort(np.random.default_rng(0).permutation(len(dataset))[:MOST_SAMPLES])
    return Embedding(
        in_the_plane(_features(folder, dataset, chosen, options)), dataset.given[chosen], dataset.clean[chosen]
    )


def _features(
    folder: RunFolder, dataset: FaceDataset, positions: NDArray[np.int64], options: ReadingOptions
) -> NDArray[np.float32]:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    method = trained(folder, device, options)
    found = []
    for start in range(0, len(positions), _BATCH):
        image = dataset.__getitems__(positions[start : start + _BATCH].tolist()).image
        assert isinstance(image, torch.Tensor)
        found.append(pooled_features(method, method.augmentation.test_view(image.to(device))).cpu())
    features: NDArray[np.float32] = torch.cat(found).numpy()
    return features


def in_the_plane(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """t-SNE (van der Maaten and Hinton, JMLR 2008) of features (n, C), standardised and reduced by PCA before: (n, 2).

    Raises:
        UserError: all samples have the same features.
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE
    from sklearn.preprocessing import StandardScaler

    if not np.ptp(features, axis=0).any():
        raise UserError("all samples have the same features")
    scaled = StandardScaler().fit_transform(features)
    reduced = PCA(min(_COMPONENTS, *scaled.shape), random_state=0).fit_transform(scaled)
    perplexity = min(_PERPLEXITY, (len(reduced) - 1) / 3)
    plane: NDArray[np.float32] = TSNE(perplexity=perplexity, random_state=0).fit_transform(reduced)
    return plane


def features_figure(found: Embedding, class_names: Sequence[str], title: str) -> Figure:
    """The same points twice, colored by given and by true labels; ``title`` says what was trained."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.1), layout="constrained")
    panels = figure.subplots(1, 2, sharex=True, sharey=True)
    size = float(np.clip(9000 / len(found.plane), 4, 30))
    handles = {}
    for axes, labels, name in zip(panels, (found.given, found.clean), ("given labels", "true labels"), strict=True):
        for label in np.bincount(labels, minlength=len(class_names)).argsort()[::-1]:  # draw small classes last, on top
            # A class's color and marker together are its own, up to 49 classes.
            color, marker = COLORS[label % len(COLORS)], MARKERS[(label + label // len(COLORS)) % len(MARKERS)]
            points = found.plane[labels == label]
            handles[label] = axes.scatter(*points.T, s=size, c=color, marker=marker, linewidths=0, alpha=0.8)
        axes.set_title(name, fontsize=9)
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(True)
    facts = f"t-SNE of pooled features, n = {len(found.plane):,} training faces"
    if (found.given != found.clean).any():
        facts += f", {100 * (found.given != found.clean).mean():.1f} % of them with a wrong label"
    figure.suptitle(f"{wrap(title, 7, 8)}\n{facts}", fontsize=8, x=0.01, ha="left")
    figure.legend(
        [handles[label] for label in range(len(class_names))],
        class_names,
        loc="outside lower center",
        ncols=min(len(class_names), 7),
        frameon=False,
        markerscale=1.6,
        handletextpad=0.2,
    )
    return figure
