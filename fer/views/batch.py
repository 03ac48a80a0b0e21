"""Batches of faces: images as the loader gives them, and the views that a method gets."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Batch(NamedTuple):
    """A batch of B faces as the loader gives it."""

    image: Tensor
    """uint8 (B, 3, h, w) in RGB."""
    label: Tensor
    """int64 (B,), the given label, 0..K-1, which may be wrong."""
    clean_label: Tensor
    """int64 (B,), the true label, 0..K-1, or -1 where it is not known."""
    index: Tensor  # type: ignore[assignment]  # tuples have a method of that name, which nobody needs here
    """int64 (B,), the position of the sample in its split of the sample table."""
    votes: Tensor | None = None
    """float32 (B, K), what share of several annotators chose each class, where these are asked for."""

    def seen_as(self, *views: Tensor) -> ViewBatch:
        """Replace the images by views (B, 3, H, W) of them."""
        return ViewBatch(views, self.label, self.clean_label, self.index, self.votes)


class ViewBatch(NamedTuple):
    """A batch of B faces as a method sees it in training; labels and index are those of the ``Batch``."""

    views: tuple[Tensor, ...]
    """One or more views of the same faces, float (B, 3, H, W) each."""
    label: Tensor
    clean_label: Tensor
    index: Tensor  # type: ignore[assignment]  # as above
    votes: Tensor | None = None

    @property
    def target(self) -> Tensor:
        """The given labels (B,), or with ``soft_labels=true`` the votes (B, K); cross-entropy takes both."""
        return self.label if self.votes is None else self.votes

    @property
    def view(self) -> Tensor:
        """The only view, or the first of several, (B, 3, H, W)."""
        return self.views[0]
