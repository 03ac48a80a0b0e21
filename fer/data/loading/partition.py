"""Division of the training split: folds of a cross-validation, and samples that are held out."""

from __future__ import annotations

import numpy as np

from fer.data.table import IntArray


def fold_of_each(labels: IntArray, folds: int, *, seed: int, persons: IntArray | None = None) -> IntArray:
    """Deal samples to folds of about equal size and equal shares of every class.

    Args:
        labels: in force, (n,).
        folds: their number, 2 or more.
        seed: of the order in which samples are dealt.
        persons: who is on each image, (n,); all images of a person go to one fold. ``None`` = not known.

    Returns:
        int64 (n,) in 0..folds-1.

    Raises:
        ValueError: a class has fewer samples, or there are fewer persons, than folds.
    """
    fewest = int(np.bincount(labels)[np.unique(labels)].min())
    if fewest < folds:
        raise ValueError(f"folds={folds}: a class has only {fewest} training samples; choose fewer folds")
    if persons is not None and (count := len(np.unique(persons))) < folds:
        raise ValueError(f"folds={folds}: there are only {count} persons; choose fewer folds")
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    kind = StratifiedKFold if persons is None else StratifiedGroupKFold
    # Of NumPy's old generator, which takes 32 bits and keeps its numbers for ever.
    state = int(np.random.SeedSequence(seed).generate_state(1)[0])
    dealt = np.empty(len(labels), dtype=np.int64)
    parts = kind(folds, shuffle=True, random_state=state).split(labels, labels, persons)
    for number, (_, held) in enumerate(parts):
        dealt[held] = number
    return dealt


def held_out(labels: IntArray, share: float, *, seed: int, persons: IntArray | None = None) -> IntArray:
    """Choose a share of the samples of every class, or of whole persons, ascending positions (m,).

    Args:
        labels: in force, (n,).
        share: in (0, 0.5]; with ``persons`` it becomes one over a whole number.
        seed: of the choice.
        persons: who is on each image, (n,); nobody is then on both sides.

    Raises:
        ValueError: none is left to hold out, or there are too few persons.
    """
    if persons is not None:
        return np.flatnonzero(fold_of_each(labels, round(1 / share), seed=seed, persons=persons) == 0)
    generator = np.random.default_rng([seed, len(labels)])
    held = []
    for label in range(int(labels.max()) + 1):
        members = generator.permutation(np.flatnonzero(labels == label))
        held.append(members[: round(share * len(members))])
    chosen = np.sort(np.concatenate(held))
    if not len(chosen):
        raise ValueError(f"holdout_share={share} of {len(labels)} samples leaves none to hold out")
    return chosen
